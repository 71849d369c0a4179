//! A page of text about the state of a VM, for debugging ([`Vgic::dump`](crate::Vgic::dump)).
//!
//! The dump takes no lock and no reference, and writes no state. The epoch keeps what it reads
//! allocated. Each interrupt's line comes from one copy of the interrupt's state word, and is
//! consistent; another CPU may change the next interrupt meanwhile.
//!
//! The list registers of a vCPU belong to the CPU that has the vCPU. The dump shows what the state
//! words say of them: the state when it was last folded or filled.
#![cfg_attr(
    not(test),
    deny(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        clippy::indexing_slicing
    )
)]

use core::fmt;

use crate::epoch::CpuPin;
use crate::host::Host;
use crate::intid::{Affinity, IntId, Kind, VcpuId};
use crate::radix::Cursor;
use crate::vm::Vm;
use crate::vm::deferred::{
    DEFERRED_BROADCASTS, DEFERRED_CONFIG_RELOAD, DEFERRED_FREE, DEFERRED_GROUPS,
    DEFERRED_PENDING_TABLE,
};
use crate::vm::irq::{Irq, State};
use crate::vm::its::Its;
use crate::vm::residency::{NEW, RECALL, RECALL_LATER, RELEASE, RERAISED, ResidencyBits};
use crate::vm::vcpu::Vcpu;

/// Most interrupts that are listed of a vCPU, and most devices of an ITS.
const LINES: u32 = 64;

/// The state of a VM as text, made when it is formatted.
pub(crate) struct Dump<'a, H: Host> {
    pub(crate) vm: &'a Vm<H>,
    pub(crate) pin: &'a CpuPin<'a>,
}

impl<H: Host> fmt::Display for Dump<'_, H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Err(error) = self.vm.admit(self.pin) {
            return write!(f, "vGIC: {error}");
        }

        self.distributor(f)?;
        let places = self.places()?;
        for vcpu in self.vm.added_vcpus() {
            self.vcpu(f, vcpu)?;
            self.interrupts(f, Some(vcpu), places.contains(Some(vcpu.id)))?;
        }

        if places.contains(None) {
            writeln!(f, "routed to no vCPU:")?;
            self.interrupts(f, None, true)?;
        }
        self.vm.its.iter().try_for_each(|its| self.its(f, its))
    }
}

impl<H: Host> Dump<'_, H> {
    /// Writes the lines about the VM.
    fn distributor(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Vm { config, .. } = self.vm;
        write!(
            f,
            "vGIC{}: vCPUs {} of {}, SPIs {}",
            if self.vm.gicv2.is_some() { "v2" } else { "" },
            self.vm.vcpu_count(),
            config.max_vcpus,
            config.spis,
        )?;
        for (first, count, name) in [
            (IntId::FIRST_EXTENDED_SPI, config.extended_spis, "SPIs"),
            (IntId::FIRST_EXTENDED_PPI, config.extended_ppis, "PPIs"),
        ] {
            if count != 0 {
                write!(f, ", extended {name} {first}-{}", first + count - 1)?;
            }
        }
        if config.lpis != 0 {
            write!(f, ", LPIs {}-{}", IntId::FIRST_LPI, config.lpi_end() - 1)?;
        }

        let groups = self.vm.distributor.group_enables();
        writeln!(
            f,
            "\nGICD_CTLR: EnableGrp0 {}, EnableGrp1 {}",
            groups & 1,
            groups >> 1 & 1
        )?;

        let work = Deferred(self.vm.deferred.get());
        writeln!(f, "deferred work: {work}")
    }

    /// Writes the line about a vCPU.
    fn vcpu(&self, f: &mut fmt::Formatter<'_>, vcpu: &Vcpu) -> fmt::Result {
        write!(f, "vCPU {}", vcpu.id.index())?;
        if let Some(affinity) = self.vm.affinity(self.pin, vcpu.id) {
            write!(f, ", affinity {}", Levels(affinity))?;
        }

        let residency = vcpu.residency.get();
        if residency.is_absent() {
            return writeln!(f, ": removed");
        }
        let lpis = u32::from(vcpu.redistributor.lpis_enabled());
        writeln!(f, ": {}, EnableLPIs {lpis}", Place(residency))
    }

    /// Writes the interrupts of a vCPU, or of none: queued, or pending or active.
    fn interrupts(
        &self,
        f: &mut fmt::Formatter<'_>,
        vcpu: Option<&Vcpu>,
        has_shared: bool,
    ) -> fmt::Result {
        let place = vcpu.map(|vcpu| vcpu.id);
        let (mut queued, mut in_lrs, mut lines) = (0_u32, 0_u32, 0_u32);
        let mut visit = |irq: &Irq| {
            let state = irq.state();
            if !is_listed(state) || place_of(state) != place {
                return Ok(());
            }

            queued += u32::from(state.queued_on().is_some());
            in_lrs += u32::from(state.in_lr());
            lines += 1;
            if lines > LINES {
                return Ok(());
            }
            self.interrupt(f, vcpu, irq, state)
        };

        vcpu.into_iter()
            .flat_map(Vcpu::all_privates)
            .try_for_each(&mut visit)?;
        if has_shared {
            self.shared(&mut visit)?;
        }

        if lines > LINES {
            writeln!(f, "  and {} interrupts more", lines - LINES)?;
        }
        if queued != 0 {
            let waiting = queued - in_lrs;
            writeln!(
                f,
                "  ap_list: {queued}, {in_lrs} in list registers, {waiting} waiting"
            )?;
        }
        Ok(())
    }

    /// Writes the line about an interrupt.
    fn interrupt(
        &self,
        f: &mut fmt::Formatter<'_>,
        vcpu: Option<&Vcpu>,
        irq: &Irq,
        state: State,
    ) -> fmt::Result {
        let kind = match irq.kind() {
            Kind::Sgi => "SGI",
            Kind::Ppi => "PPI",
            Kind::Spi => "SPI",
            Kind::Lpi => "LPI",
        };
        write!(
            f,
            "  {kind} {}: priority {:#04x}, group {}",
            irq.intid().raw(),
            state.priority(),
            u32::from(state.group1()),
        )?;

        for (is_set, word) in [
            (state.latch(), "pending"),
            (state.level() && state.line(), "line high"),
            (state.active(), "active"),
            (state.hw(), "forwarded"),
        ] {
            if is_set {
                write!(f, ", {word}")?;
            }
        }

        if irq.kind() == Kind::Sgi
            && let Some(interface) = vcpu.and_then(|vcpu| self.vm.gicv2_interface(vcpu.id))
        {
            let sources = interface.sources(irq.intid().raw() as usize);
            write!(f, ", sources {sources:#04x}")?;
        }

        if state.in_lr() {
            writeln!(f, "; in a list register, last known {}", Lr(state))
        } else {
            writeln!(
                f,
                "; {}",
                Reason {
                    vm: self.vm,
                    vcpu,
                    irq,
                    state
                }
            )
        }
    }

    /// Writes the lines about an ITS.
    fn its(&self, f: &mut fmt::Formatter<'_>, its: &Its) -> fmt::Result {
        writeln!(
            f,
            "ITS {} at {:#x}: Enabled {}, GITS_CREADR {:#x}, GITS_CWRITER {:#x}{}",
            its.id.0,
            its.config.base,
            u32::from(its.is_enabled()),
            its.creadr(),
            its.cwriter(),
            if its.is_behind() {
                ", commands to execute"
            } else {
                ""
            },
        )?;

        let (mut devices, mut room, mut events) = (0_u32, 0_u64, 0_u64);
        let mut written = Ok(());
        let (mut cursor, mut steps) = (Cursor::default(), u32::MAX);
        let guard = self.pin.guard();
        its.devices
            .walk(&mut cursor, &mut steps, guard, |id, device, _| {
                let (mut cursor, mut steps, mut mapped) = (Cursor::default(), u32::MAX, 0_u32);
                device.walk(&mut cursor, &mut steps, guard, |_, _, _| {
                    mapped += 1;
                    true
                });

                devices += 1;
                room += u64::from(device.event_count());
                events += u64::from(mapped);
                if devices <= LINES {
                    let count = device.event_count();
                    written =
                        writeln!(f, "  device {:#x}: events {mapped} mapped of {count}", id.0);
                }
                written.is_ok()
            });
        written?;

        if devices > LINES {
            writeln!(f, "  and {} devices more", devices - LINES)?;
        }
        writeln!(
            f,
            "  devices {devices} of {}, events {events} mapped, with room for {room} of {}",
            its.config.max_devices, its.config.max_events
        )
    }

    /// Returns the vCPUs that SPIs or LPIs are to be listed of: one walk, so that idle vCPUs cost
    /// none.
    fn places(&self) -> Result<Places, fmt::Error> {
        let mut places = Places::new();
        self.shared(&mut |irq| {
            let state = irq.state();
            if is_listed(state) {
                places.add(place_of(state));
            }
            Ok(())
        })?;
        Ok(places)
    }

    /// Visits the SPIs, then the LPIs, in the order of their INTIDs, until `visit` fails.
    fn shared(&self, visit: &mut impl FnMut(&Irq) -> fmt::Result) -> fmt::Result {
        self.vm.distributor.all_spis().try_for_each(&mut *visit)?;

        let (mut cursor, mut steps, mut visited) = (Cursor::default(), u32::MAX, Ok(()));
        self.vm
            .lpis
            .walk(&mut cursor, &mut steps, self.pin.guard(), |_, irq, _| {
                visited = visit(irq);
                visited.is_ok()
            });
        visited
    }
}

/// Returns whether an interrupt is listed: it is queued, or pending or active.
fn is_listed(state: State) -> bool {
    state.refs() != 0
        && (state.queued_on().is_some() || !state.unmapped() && (state.pending() || state.active()))
}

/// Returns the vCPU of which an interrupt is listed: the one with the interrupt on its ap_list,
/// else the target.
fn place_of(state: State) -> Option<VcpuId> {
    state.queued_on().or(state.target())
}

/// A set of vCPUs, and of the absence of one.
struct Places {
    vcpus: [u64; VcpuId::MAX_COUNT.div_ceil(64)],
    none: bool,
}

impl Places {
    /// Makes an empty set.
    fn new() -> Self {
        Self {
            vcpus: [0; _],
            none: false,
        }
    }

    fn add(&mut self, place: Option<VcpuId>) {
        match place.map(VcpuId::index) {
            Some(n) => {
                if let Some(bits) = self.vcpus.get_mut(n / 64) {
                    *bits |= 1 << (n % 64);
                }
            }
            None => self.none = true,
        }
    }

    fn contains(&self, place: Option<VcpuId>) -> bool {
        place.map(VcpuId::index).map_or(self.none, |n| {
            let bits = self.vcpus.get(n / 64);
            bits.is_some_and(|bits| bits >> (n % 64) & 1 != 0)
        })
    }
}

/// The levels of an affinity, the highest first.
struct Levels(Affinity);

impl fmt::Display for Levels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [aff3, aff2, aff1, aff0] = self.0.packed().to_be_bytes();
        write!(f, "{aff3}.{aff2}.{aff1}.{aff0}")
    }
}

/// Power, place and work of a vCPU.
struct Place(ResidencyBits);

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(bits) = self;
        write!(f, "{}", if bits.is_on() { "on" } else { "off" })?;
        match bits.cpu() {
            Some(cpu) if bits.is_running() => write!(f, ", running on CPU {}", cpu.0),
            Some(cpu) => write!(f, ", on CPU {}", cpu.0),
            None if bits.is_torn_down() => write!(f, ", torn down"),
            None => write!(f, ", on no CPU"),
        }?;

        if bits.is_blocked() {
            write!(f, ", blocked")?;
        }
        for (work, name) in [
            (NEW, "NEW"),
            (RECALL, "RECALL"),
            (RECALL_LATER, "RECALL_LATER"),
            (RERAISED, "RERAISED"),
            (RELEASE, "RELEASE"),
        ] {
            if bits.has(work) {
                write!(f, ", {name}")?;
            }
        }
        Ok(())
    }
}

/// State of the list register of an interrupt, as last known.
struct Lr(State);

impl fmt::Display for Lr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(state) = self;
        f.write_str(match (state.lr_pending(), state.lr_active()) {
            (false, false) => "not pending, not active",
            (true, false) => "pending",
            (false, true) => "active",
            (true, true) => "pending and active",
        })?;

        for (is_set, word) in [
            (state.lr_hw(), ", with a physical interrupt"),
            (state.cancel_pending(), ", the pending state cancelled"),
            (state.cancel_active(), ", the active state cancelled"),
        ] {
            if is_set {
                f.write_str(word)?;
            }
        }
        Ok(())
    }
}

/// The reason why an interrupt is in no list register.
struct Reason<'a, H: Host> {
    vm: &'a Vm<H>,
    /// The vCPU with the interrupt on its ap_list, else the target.
    vcpu: Option<&'a Vcpu>,
    irq: &'a Irq,
    state: State,
}

impl<H: Host> fmt::Display for Reason<'_, H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { vm, irq, state, .. } = *self;
        let Some(vcpu) = self.vcpu else {
            return f.write_str(if state.enabled() {
                "no target"
            } else {
                "no target, disabled"
            });
        };

        let is_queued = state.queued_on().is_some();
        let is_open = state.is_in(vm.groups_enabled_for(vcpu, irq));
        let residency = vcpu.residency.get();
        f.write_str(if !state.wants_list() {
            if is_queued {
                "leaves the ap_list at the next entry or exit"
            } else {
                "disabled"
            }
        } else if !is_queued {
            "about to be queued"
        } else if state.target() != Some(vcpu.id) {
            "moves to another vCPU at the next entry or exit"
        } else if !state.active() && !is_open {
            self.closed()
        } else if !residency.is_on() {
            "waits: the vCPU is off"
        } else if residency.is_running() && residency.has(NEW | RECALL) {
            "waits: the vCPU has been kicked"
        } else if residency.is_running() {
            "waits: the list registers are full"
        } else if residency.is_blocked() && !residency.has(NEW) {
            "waits: masked by the vCPU's CPU interface when it was blocked"
        } else if residency.is_blocked() {
            "waits: the vCPU has been woken"
        } else {
            "waits for the next entry"
        })
    }
}

impl<H: Host> Reason<'_, H> {
    /// Returns the register that holds the interrupt back.
    fn closed(&self) -> &'static str {
        match self.state.group1() {
            _ if self.state.is_in(self.vm.distributor.group_enables()) => {
                "held back: GICR_CTLR.EnableLPIs is 0"
            }
            false => "held back: GICD_CTLR.EnableGrp0 is 0",
            true => "held back: GICD_CTLR.EnableGrp1 is 0",
        }
    }
}

/// Deferred work, by name.
struct Deferred(u32);

impl fmt::Display for Deferred {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 == 0 {
            return f.write_str("none");
        }

        let mut separator = "";
        for its in (0..16).filter(|its| self.0 >> its & 1 != 0) {
            write!(f, "{separator}commands of ITS {its}")?;
            separator = ", ";
        }
        for (work, name) in [
            (DEFERRED_GROUPS, "vCPUs to notify of GICD_CTLR"),
            (DEFERRED_PENDING_TABLE, "pending tables to read"),
            (DEFERRED_CONFIG_RELOAD, "LPI configurations to read"),
            (DEFERRED_FREE, "LPIs to free"),
            (DEFERRED_BROADCASTS, "SGIs to all other vCPUs"),
        ] {
            if self.0 & work != 0 {
                write!(f, "{separator}{name}")?;
                separator = ", ";
            }
        }
        Ok(())
    }
}
