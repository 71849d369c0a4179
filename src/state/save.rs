//! Reading the state: [`Vgic::save`](crate::Vgic::save).
#![expect(unsafe_code)]
// UNSAFETY: reads the shadows of vCPUs that are claimed.

use alloc::vec::Vec;

use crate::advance;
use crate::epoch::CpuPin;
use crate::error::TeardownError;
use crate::host::Host;
use crate::intid::IntId;
use crate::its;
use crate::radix::Cursor;
use crate::state::{
    CollectionState, DeviceState, EventState, ExtendedState, InterruptState, ItsState, LpiState,
    SpiState, VcpuState, VmState, flags, version_of,
};
use crate::sync::AtomicU64;
use crate::sync::Ordering::Relaxed;
use crate::teardown::{claim, release};
use crate::vm::Vm;
use crate::vm::distributor::NO_ACTIVE_SGIS;
use crate::vm::gicv2::{Interface, SGIS};
use crate::vm::irq::{ACTIVE, ENABLED, GROUP1, Irq, LEVEL, LINE, MESSAGE, PENDING, State};
use crate::vm::its::Its;
use crate::vm::its::baser::TableType;
use crate::vm::vcpu::Vcpu;

/// The flags that are saved: the bit in the state word, and in [`InterruptState::flags`].
const FLAGS: [(u64, u8); 7] = [
    (PENDING, flags::LATCH),
    (LINE, flags::LINE),
    (MESSAGE, flags::MESSAGE),
    (ACTIVE, flags::ACTIVE),
    (ENABLED, flags::ENABLED),
    (GROUP1, flags::GROUP1),
    (LEVEL, flags::LEVEL),
];

/// The flags of a state word that are saved.
pub(super) const SAVED: u64 = PENDING | LINE | MESSAGE | ACTIVE | ENABLED | GROUP1 | LEVEL;

// Tables, not a look at each flag: a restore of 65,536 LPIs translates the flags of each.
/// Flags of a state word, by the saved ones.
#[expect(clippy::indexing_slicing, reason = "evaluated by the compiler")]
static TO_WORD: [u16; 1 << FLAGS.len()] = {
    let mut table = [0; 1 << FLAGS.len()];
    let mut saved = 0;
    while saved < table.len() {
        let mut n = 0;
        while n < FLAGS.len() {
            if saved as u8 & FLAGS[n].1 != 0 {
                table[saved] |= FLAGS[n].0 as u16;
            }
            n += 1;
        }
        saved += 1;
    }
    table
};

/// Saved flags, by those of a state word.
#[expect(clippy::indexing_slicing, reason = "evaluated by the compiler")]
static FROM_WORD: [u8; (SAVED + 1).next_power_of_two() as usize] = {
    let mut table = [0; _];
    let mut saved = 0;
    while saved < TO_WORD.len() {
        table[TO_WORD[saved] as usize] = saved as u8;
        saved += 1;
    }
    table
};

/// Returns the flags of a state word, as they were saved. Ignores unknown flags.
pub(super) fn flags_of(saved: InterruptState) -> u64 {
    const KNOWN: u8 = (1 << FLAGS.len()) - 1;

    let known = usize::from(saved.flags & KNOWN);
    TO_WORD.get(known).copied().map_or(0, u64::from)
}

/// Saves a VM: [`Vgic::save`](crate::Vgic::save).
///
/// The vCPUs are claimed meanwhile, so that none is entered and no interrupt is in a list register.
/// Other CPUs may raise interrupts: a raise falls before the save or after it, for each interrupt
/// alone.
pub(crate) fn save<H: Host>(vm: &Vm<H>, pin: &CpuPin<'_>) -> Result<VmState, TeardownError> {
    vm.admit(pin)?;
    claim(vm, pin)?;
    its::direct::stop(vm, pin);
    let state = read(vm, pin, |irq| irq.state());
    its::direct::resume(vm, pin);
    release(&vm.vcpus);
    Ok(state)
}

/// Returns the state of a VM whose vCPUs are claimed. `take` returns the state of an interrupt.
pub(super) fn read<H: Host>(vm: &Vm<H>, pin: &CpuPin<'_>, take: impl Fn(&Irq) -> State) -> VmState {
    advance::settle(vm, pin);
    VmState {
        version: version_of(&vm.config),
        group_enables: vm.distributor.group_enables() & (3 | NO_ACTIVE_SGIS),
        // Relaxed: the claim has acquired what the vCPUs' last CPUs have seen of the guest's
        // writes.
        propbaser: vm.distributor.propbaser.load(Relaxed),
        spis: spis(vm, vm.distributor.routed(), &take),
        vcpus: (vm.added_vcpus().iter())
            .map(|vcpu| self::vcpu(vm, pin, vcpu, &take))
            .collect(),
        extended: ExtendedState {
            spis: spis(vm, vm.distributor.extended_routed(), &take),
            ppis: (vm.added_vcpus().iter())
                .flat_map(Vcpu::extended_ppis)
                .map(|irq| interrupt(take(irq)))
                .collect(),
            sgi_sources: (vm.gicv2.iter())
                .flat_map(|gicv2| gicv2.interfaces(vm.vcpu_count()))
                .map(Interface::all_sources)
                .collect(),
        },
        lpis: lpis(vm, pin, take),
        its: vm.its.iter().map(|its| self::its(pin, its)).collect(),
    }
}

/// Returns the states of SPIs with their routers.
fn spis<'a, H: Host>(
    vm: &Vm<H>,
    routed: impl Iterator<Item = (&'a Irq, &'a AtomicU64)>,
    take: impl Fn(&Irq) -> State,
) -> Vec<SpiState> {
    let saved = routed.map(|(irq, router)| {
        let state = take(irq);
        SpiState {
            interrupt: interrupt(state),
            // Relaxed: as `propbaser` in `read`.
            router: router.load(Relaxed),
            active_on: active_on(vm, state),
        }
    });
    saved.collect()
}

/// Returns the state of an interrupt in no list register. A level that is pending by a physical
/// line is not latched: the line makes it pending again.
pub(super) fn interrupt(state: State) -> InterruptState {
    let by_line = if state.awaits_line_outside() {
        PENDING
    } else {
        0
    };
    let word = state.with(0, by_line).0;
    let flags = FROM_WORD.get((word & SAVED) as usize);
    let flags = flags.copied().unwrap_or_default();
    InterruptState {
        flags,
        priority: state.priority(),
    }
}

/// Returns the vCPU with the active SPI on its list, if the VM still has the vCPU: the one that has
/// taken the SPI.
fn active_on<H: Host>(vm: &Vm<H>, state: State) -> Option<u16> {
    (state.queued_on())
        .filter(|vcpu| state.active() && vm.vcpu(*vcpu).is_some())
        .map(|vcpu| vcpu.0)
}

/// Returns the state of a vCPU that is claimed, or absent.
fn vcpu<H: Host>(
    vm: &Vm<H>,
    pin: &CpuPin<'_>,
    vcpu: &Vcpu,
    take: impl Fn(&Irq) -> State,
) -> VcpuState {
    let redistributor = &vcpu.redistributor;
    let mut private = [InterruptState::default(); IntId::PRIVATE as usize];
    for (saved, irq) in private.iter_mut().zip(vcpu.privates()) {
        *saved = interrupt(take(irq));
    }

    // SAFETY: no CPU has the vCPU: it is claimed, or absent under the claim of the others.
    let (mut vmcr, active_priorities) = unsafe { vcpu.saved_interface() };
    if let Some(interface) = vm.gicv2_interface(vcpu.id) {
        vmcr = interface.with_control(vmcr);
        for (sgi, saved) in private.iter_mut().take(SGIS).enumerate() {
            // A sender may have added its source, and not raised the SGI yet.
            let pending = interface.sources(sgi) != 0;
            saved.flags = saved.flags & !flags::LATCH | if pending { flags::LATCH } else { 0 };
        }
    }
    VcpuState {
        affinity: vm.affinity(pin, vcpu.id).map(|affinity| affinity.mpidr()),
        is_on: vcpu.residency.get().is_on(),
        processor_sleep: redistributor.is_asleep(),
        enable_lpis: redistributor.lpis_enabled(),
        // Relaxed: as `propbaser` in `read`.
        pendbaser: redistributor.pendbaser.load(Relaxed),
        private,
        vmcr,
        active_priorities,
    }
}

/// Returns the states of the mapped LPIs.
fn lpis<H: Host>(vm: &Vm<H>, pin: &CpuPin<'_>, take: impl Fn(&Irq) -> State) -> Vec<LpiState> {
    let mut lpis = Vec::new();
    let mut from = 0;

    while let Some((key, irq)) = vm.lpis.next(from, pin.guard()) {
        from = key.saturating_add(1);
        let state = irq.state();
        if !state.unmapped() {
            let state = take(irq);
            lpis.push(LpiState {
                intid: irq.intid().raw(),
                interrupt: interrupt(state),
                icid: irq.icid(),
                target: state.target().map(|vcpu| vcpu.0),
            });
        }
    }
    lpis
}

/// Returns the state of an ITS. Takes the command lock.
fn its(pin: &CpuPin<'_>, its: &Its) -> ItsState {
    let (device_table, collection_table) = (
        its.baser(pin, TableType::Devices),
        its.baser(pin, TableType::Collections),
    );
    let engine = its.commands.engine.lock(pin.locks());

    let collections = engine.collections.iter().zip(0..);
    let collections = collections
        .filter_map(|(vcpu, icid)| vcpu.map(|vcpu| CollectionState { icid, vcpu: vcpu.0 }));

    ItsState {
        is_enabled: its.is_enabled(),
        cbaser: engine.queue.get(),
        cwriter: its.cwriter(),
        creadr: its.creadr(),
        device_table,
        collection_table,
        collections: collections.collect(),
        devices: devices(pin, its),
    }
}

/// Returns the mapped devices of an ITS. Under its command lock.
fn devices(pin: &CpuPin<'_>, its: &Its) -> Vec<DeviceState> {
    let mut devices = Vec::new();
    let guard = pin.guard();

    // More than enough: a walk takes a step for each slot of the nodes, which the quotas bound.
    let (mut cursor, mut steps) = (Cursor::default(), u32::MAX);
    let all = (its.devices).walk(&mut cursor, &mut steps, guard, |id, device, steps| {
        let mut events = Vec::new();
        let all = device.walk(&mut Cursor::default(), steps, guard, |event, irq, _| {
            events.push(EventState {
                event: event.0,
                intid: irq.intid().raw(),
            });
            true
        });
        debug_assert!(all, "the quotas bound the events");
        devices.push(DeviceState {
            device: id.0,
            itt: device.itt().address(),
            event_bits: device.itt().event_bits(),
            events,
        });
        true
    });
    debug_assert!(all, "the quotas bound the devices");

    devices
}
