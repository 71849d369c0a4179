//! Virtual SGIs of GICv4.1: an SGI becomes pending in the target's virtual PE, by `GITS_SGIR`, and
//! reaches a running vCPU without an exit of its CPU (IHI 0069, chapter 6).
//!
//! Virtual SGIs have no active state. A guest asks for such SGIs by `GICD_CTLR.nASSGIreq`, which
//! exists in a VM with [`Config::nassgi_cap`](crate::Config::nassgi_cap).
//!
//! # Who changes them
//! The state words keep the configuration, and an SGI may be pending in the state word, in the
//! hardware, or in both: each is delivered once. The CPU that has the vCPU brings the configuration
//! to the hardware on the way into the guest ([`follow`]). A CPU that changes a state word says so
//! afterwards ([`is_to_follow`]) and recalls the vCPU. While a VM is saved or frozen, no vCPU is on
//! a CPU, and the pending states are taken out ([`take`]).

use crate::direct::of;
use crate::epoch::CpuPin;
use crate::gicv4::command::{Command, VsgiConfig};
use crate::gicv4::registers::sgir;
use crate::gicv4::{Gicv4, Gicv41, ItsFault, PhysicalIts};
use crate::host::Host;
use crate::intid::IntId;
use crate::sync::{Mutant, mutant};
use crate::vm::Vm;
use crate::vm::direct::{Direct, Slot, VirtualSgis, Vpe};
use crate::vm::vcpu::Vcpu;

/// Number of SGIs.
const SGIS: usize = 16;

/// ITS that takes the commands and registers for virtual SGIs. Each ITS has every virtual PE.
const ITS: PhysicalIts = PhysicalIts(0);

/// Returns true if SGIs to the vCPU of `slot` are to become pending in the hardware.
fn are_wanted<H: Host>(vm: &Vm<H>, direct: &Direct, v4_1: &dyn Gicv41, slot: &Slot) -> bool {
    let wanted = slot.is_wanted() && !direct.is_stopped();
    wanted && vm.distributor.no_active_sgis() && v4_1.has_virtual_sgis()
}

/// Returns the configuration of each SGI of a vCPU.
fn configurations(vcpu: &Vcpu) -> impl Iterator<Item = (u8, VsgiConfig)> {
    let sgis = vcpu.privates().iter().take(SGIS);
    sgis.zip(0..).map(|(irq, sgi)| {
        let state = irq.state();
        let config = VsgiConfig {
            enabled: state.enabled(),
            group1: state.group1(),
            priority: state.priority(),
        };
        (sgi, config)
    })
}

/// Brings the configuration of a vCPU's SGIs to its virtual PE, if it is to, and lets SGIs become
/// pending there, or ends that. The caller has the vCPU, which is not in the guest, and holds the
/// lock of the virtual PE. If the ITS does not answer, SGIs become pending in the state words.
pub(super) fn follow<H: Host>(
    vm: &Vm<H>,
    (direct, gic, v4_1): (&Direct, &dyn Gicv4, &dyn Gicv41),
    slot: &Slot,
    vpe: &mut Vpe,
    vcpu: &Vcpu,
) {
    let wanted = are_wanted(vm, direct, v4_1, slot);
    let starts = wanted && !vpe.sgis.on;
    if starts || vpe.sgis.used && vpe.sgis.stale {
        let number = vpe.id.number;
        let all = configurations(vcpu).map(|(sgi, config)| Command::vsgi(number, sgi, config));
        let done = execute(gic, number, all).is_ok();
        vpe.sgis.used |= done;
        vpe.sgis.stale = false;
        if !done {
            set_on(slot, vpe, vcpu, false);
            return;
        }
    }

    if wanted != vpe.sgis.on {
        set_on(slot, vpe, vcpu, wanted);
    }
}

/// Lets SGIs become pending in the virtual PE, or ends that.
fn set_on(slot: &Slot, vpe: &mut Vpe, vcpu: &Vcpu, on: bool) {
    vpe.sgis.on = on;
    slot.set_vpe_number(vpe.id.number);
    vcpu.set_virtual_sgis(on);
}

/// Makes an SGI pending in the virtual PE of `target`. Returns false if the SGI is to become
/// pending in the state word.
pub(crate) fn send<H: Host>(vm: &Vm<H>, pin: &CpuPin<'_>, target: &Vcpu, intid: IntId) -> bool {
    if !target.has_virtual_sgis() {
        return false;
    }

    let Some((slot, v4_1)) = slot_of(vm, target) else {
        return false;
    };
    v4_1.write_sgir(ITS, sgir(slot.vpe_number(), intid.raw() as u8));
    pin.counters().virtual_sgis.add(1);
    true
}

/// Returns the slot of a vCPU, and the embedder's GICv4.1.
fn slot_of<'a, H: Host>(vm: &'a Vm<H>, vcpu: &Vcpu) -> Option<(&'a Slot, &'a dyn Gicv41)> {
    let (direct, gic) = of(vm)?;
    Some((direct.slot(vcpu.id)?, gic.v4_1()?))
}

/// Calls `then` with the virtual PE of a vCPU, if its virtual SGIs have been used.
fn with_used<H: Host, R>(
    vm: &Vm<H>,
    pin: &CpuPin<'_>,
    vcpu: &Vcpu,
    then: impl FnOnce(&dyn Gicv4, &dyn Gicv41, &mut Vpe) -> R,
) -> Option<R> {
    let (slot, v4_1) = slot_of(vm, vcpu)?;
    let (_, gic) = of(vm)?;
    let mut vpe = slot.vpe.lock(pin.locks());
    let vpe = vpe.as_mut().ok().filter(|vpe| vpe.sgis.used)?;
    Some(then(gic, v4_1, vpe))
}

/// Notes that the state words of a vCPU's SGIs have a new configuration. Returns true if the vCPU
/// is to be recalled, so that its CPU brings the configuration to the hardware.
pub(crate) fn is_to_follow<H: Host>(vm: &Vm<H>, pin: &CpuPin<'_>, vcpu: &Vcpu) -> bool {
    with_used(vm, pin, vcpu, |_, _, vpe| {
        vpe.sgis.stale = !mutant(Mutant::StaleSgisForgotten);
    })
    .is_some()
}

/// Returns true if SGIs may be pending in a vCPU's virtual PE: also those that have come before the
/// guest has asked for SGIs with an active state.
pub(crate) fn may_be_pending<H: Host>(vm: &Vm<H>, pin: &CpuPin<'_>, vcpu: &Vcpu) -> bool {
    with_used(vm, pin, vcpu, |_, _, _| ()).is_some()
}

/// Returns the SGIs that are pending in a vCPU's virtual PE, a bit each.
pub(crate) fn pending<H: Host>(vm: &Vm<H>, pin: &CpuPin<'_>, vcpu: &Vcpu) -> u32 {
    with_used(vm, pin, vcpu, |_, v4_1, vpe| read_pending(v4_1, vpe)).unwrap_or(0)
}

/// Returns the SGIs that are pending in a virtual PE. A redistributor that does not answer has
/// none.
fn read_pending(v4_1: &dyn Gicv41, vpe: &Vpe) -> u32 {
    let found = v4_1.read_vsgipendr(vpe.cpu, u32::from(vpe.id.number));
    found.unwrap_or(0) & ((1 << SGIS) - 1)
}

/// Clears the pending states of the SGIs in `word`, a bit each, in a vCPU's virtual PE.
pub(crate) fn clear<H: Host>(vm: &Vm<H>, pin: &CpuPin<'_>, vcpu: &Vcpu, word: u32) {
    with_used(vm, pin, vcpu, |gic, _, vpe| {
        let _ = clear_pending(gic, vpe, vcpu, word);
    });
}

fn clear_pending(gic: &dyn Gicv4, vpe: &Vpe, vcpu: &Vcpu, word: u32) -> Result<(), ItsFault> {
    let number = vpe.id.number;
    let named = configurations(vcpu).filter(|(sgi, _)| word >> sgi & 1 != 0);
    let clears = named.map(|(sgi, config)| Command::vsgi(number, sgi, config).clearing());
    execute(gic, number, clears)
}

/// Executes the `VSGI`s of the virtual PE with this number, at most [`SGIS`], and returns when they
/// are done. Does not wait for the ITS if there are none.
fn execute(
    gic: &dyn Gicv4,
    number: u16,
    vsgis: impl Iterator<Item = Command>,
) -> Result<(), ItsFault> {
    let mut commands = [Command::vsync(number); SGIS + 1];
    let mut count = 0_usize;
    for (command, vsgi) in commands.iter_mut().take(SGIS).zip(vsgis) {
        *command = vsgi;
        count = count.saturating_add(1);
    }

    match commands.get(..=count) {
        Some(commands) if count != 0 => gic.execute(ITS, commands),
        _ => Ok(()),
    }
}

/// Takes the pending states of a vCPU's SGIs out of its virtual PE, and lets SGIs become pending in
/// the state words, until [`follow`] is called again. The vCPU is on no CPU. Returns the SGIs that
/// were pending, a bit each, which the caller makes pending in the state words, or drops.
pub(crate) fn take<H: Host>(vm: &Vm<H>, pin: &CpuPin<'_>, vcpu: &Vcpu) -> u32 {
    let taken = with_used(vm, pin, vcpu, |gic, v4_1, vpe| {
        vcpu.set_virtual_sgis(false);
        vpe.sgis = VirtualSgis {
            used: true,
            on: false,
            stale: true,
        };

        let pending = read_pending(v4_1, vpe);
        // Those that come later stay, and reach the vCPU from there. An ITS that stops may have
        // cleared some: a guest stands an SGI too many.
        if pending != 0 {
            let _ = clear_pending(gic, vpe, vcpu, pending);
        }
        pending
    });
    taken.unwrap_or(0)
}
