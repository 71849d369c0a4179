//! A virtual PE on its CPU and off it, and its doorbell: module docs of [`crate::direct`].

use crate::direct::{of, sgi, vpe};
use crate::epoch::CpuPin;
use crate::gicv4::registers::{
    DIRTY, DOORBELL, IDAI, PENDING_LAST, VALID, resident, resident_of_v4_1, vpropbaser,
};
use crate::gicv4::{Gicv4, ItsFault};
use crate::host::Host;
use crate::intid::CpuId;
use crate::sync::{Mutant, mutant};
use crate::vm::Vm;
use crate::vm::ap_list::Class;
use crate::vm::direct::{Slot, VirtualSgis, Vpe};
use crate::vm::vcpu::Vcpu;

/// Most reads of `GICR_VPENDBASER` until a virtual PE has left. Linux polls for at most 500 us
/// (`its_wait_vpt_parse_complete`). How long the reads take depends on the machine.
const PATIENCE: u32 = 1 << 16;

/// Reason for which a virtual PE leaves its CPU.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Departure {
    /// The vCPU blocks: a later virtual interrupt is to ring the doorbell.
    Block,
    /// The vCPU goes on soon, on this CPU or another.
    Pause,
    /// The vCPU stays on this CPU. The caller asks whether a virtual interrupt is pending, or makes
    /// the virtual PE resident with other groups, or off.
    Look,
}

/// Returns the groups of which virtual interrupts of the vCPU may be signalled: bit 0 for Group 0,
/// bit 1 for Group 1, which LPIs are of. A virtual PE without any is not resident: one whose vCPU
/// has neither a direct event nor virtual SGIs costs no sleep and no switch anything.
///
/// `GICD_CTLR` and `GICR_CTLR` of the guest do not reach a virtual PE of GICv4.0, and of these two
/// `GICR_CTLR` does not reach one of GICv4.1.
fn open_groups<H: Host>(
    vm: &Vm<H>,
    vcpu: &Vcpu,
    gic: &dyn Gicv4,
    slot: &Slot,
    sgis: VirtualSgis,
) -> u32 {
    const LPIS: u32 = 1 << 1;
    let has_events = slot.events() != 0;
    let groups = if gic.v4_1().is_none() {
        let enabled = vcpu.enabled_classes(vm.distributor.enabled_groups());
        u32::from(enabled.contains(Class::Lpi)) * LPIS
    } else if has_events && !vcpu.redistributor.lpis_enabled() {
        0
    } else {
        vm.distributor.group_enables() & 3
    };

    if has_events || sgis.used { groups } else { 0 }
}

/// Makes the vCPU's virtual PE resident on the calling CPU, if the vCPU has one, and if virtual
/// LPIs may be signalled; otherwise makes it leave. The caller has the vCPU.
#[inline]
pub(crate) fn enter<H: Host>(vm: &Vm<H>, pin: &CpuPin<'_>, vcpu: &Vcpu) {
    if vm.direct.is_some() {
        enter_direct(vm, pin, vcpu);
    }
}

#[inline(never)]
fn enter_direct<H: Host>(vm: &Vm<H>, pin: &CpuPin<'_>, vcpu: &Vcpu) {
    let Some((direct, gic)) = of(vm) else {
        return;
    };
    let Some(slot) = direct.slot(vcpu.id) else {
        return;
    };

    let mut vpe = slot.vpe.lock(pin.locks());
    let Ok(vpe) = &mut *vpe else {
        return;
    };
    if let Some(v4_1) = gic.v4_1() {
        sgi::follow(vm, (direct, gic, v4_1), slot, vpe, vcpu);
    }

    let groups = open_groups(vm, vcpu, gic, slot, vpe.sgis);
    let resident = if vpe.resident { vpe.groups } else { 0 };
    if resident == groups {
        return;
    }

    if vpe.resident {
        let _ = leave_cpu(gic, vpe, Departure::Look);
    }

    // Without the move, the virtual PE stays off: its virtual interrupts wait in the table.
    if groups != 0 && make_resident(vm, gic, vpe, pin.cpu(), groups).is_ok() {
        vpe.pending = false;
        pin.counters().vpe_residencies.add(1);
    }
}

/// Makes a virtual PE resident on `here`, the calling CPU, with these `groups`.
fn make_resident<H: Host>(
    vm: &Vm<H>,
    gic: &dyn Gicv4,
    vpe: &mut Vpe,
    here: CpuId,
    groups: u32,
) -> Result<(), ItsFault> {
    // A dropped VM may have left its virtual PE resident.
    if gic.vpendbaser(here) & VALID != 0 {
        depart(gic, here, Departure::Pause)?;
    }
    vpe::move_to(gic, vpe, here)?;
    vpe.groups = groups;
    arrive(gic, here, Arrival::of(gic, vpe, vpe::id_bits(vm)));
    vpe.resident = true;
    Ok(())
}

/// Makes the vCPU's virtual PE leave the calling CPU, if it is resident. Returns true if a virtual
/// interrupt may be pending. The caller has the vCPU.
#[inline]
pub(crate) fn leave<H: Host>(
    vm: &Vm<H>,
    pin: &CpuPin<'_>,
    vcpu: &Vcpu,
    departure: Departure,
) -> bool {
    vm.direct.is_some() && leave_direct(vm, pin, vcpu, departure)
}

#[inline(never)]
fn leave_direct<H: Host>(vm: &Vm<H>, pin: &CpuPin<'_>, vcpu: &Vcpu, departure: Departure) -> bool {
    let Some((direct, gic)) = of(vm) else {
        return false;
    };
    let Some(slot) = direct.slot(vcpu.id) else {
        return false;
    };

    let mut vpe = slot.vpe.lock(pin.locks());
    let Ok(vpe) = &mut *vpe else {
        return false;
    };
    let groups = open_groups(vm, vcpu, gic, slot, vpe.sgis);
    let pending = if vpe.resident {
        leave_cpu(gic, vpe, departure)
    } else {
        vpe.pending
    };

    // A virtual PE of GICv4.1 has asked for its doorbell as it left.
    if departure == Departure::Block && !vpe.doorbell_on && gic.v4_1().is_none() {
        vpe.doorbell_on = true;
        gic.set_doorbell(vpe.id, vpe.cpu, true);
    }
    pending && groups != 0
}

/// Makes a resident virtual PE leave its CPU, the calling one. Returns true if a virtual interrupt
/// may be pending.
fn leave_cpu(gic: &dyn Gicv4, vpe: &mut Vpe, departure: Departure) -> bool {
    // A virtual PE that does not leave in time may have pending virtual interrupts.
    let (pending, idai) = depart(gic, vpe.cpu, departure).unwrap_or((true, true));
    let pending = pending && !mutant(Mutant::PendingLastUnread);

    vpe.resident = false;
    vpe.idai = idai;
    // Nothing rings for a virtual PE of GICv4.1 that has not asked for it.
    let asked = gic.v4_1().is_none() || departure == Departure::Block;
    vpe.pending = pending || !asked;
    pending
}

/// Values of the registers with which a virtual PE arrives at its CPU.
#[derive(Clone, Copy)]
pub(super) struct Arrival {
    /// `GICR_VPENDBASER`.
    vpendbaser: u64,
    /// `GICR_VPROPBASER`; `None` with GICv4.1, where the embedder has set it up.
    vpropbaser: Option<u64>,
}

impl Arrival {
    /// Returns the values for a virtual PE that comes back to a CPU that it has left for a moment,
    /// from the registers before it left, and its IDAI since.
    pub(super) fn again(vpendbaser: u64, vpropbaser: Option<u64>, idai: bool) -> Self {
        let vpendbaser = match vpropbaser {
            // GICv4.0: as `resident`, of the same table.
            Some(_) => resident(vpendbaser, idai),
            None => vpendbaser & !(DOORBELL | PENDING_LAST | DIRTY),
        };
        Self {
            vpendbaser,
            vpropbaser,
        }
    }

    /// Returns the values for a virtual PE, for INTIDs of `id_bits` bits.
    pub(super) fn of(gic: &dyn Gicv4, vpe: &Vpe, id_bits: u32) -> Self {
        if gic.v4_1().is_some() {
            Self {
                vpendbaser: resident_of_v4_1(vpe.id.number, vpe.groups),
                vpropbaser: None,
            }
        } else {
            Self {
                vpendbaser: resident(vpe.table, vpe.idai),
                vpropbaser: Some(vpropbaser(vpe.configuration, id_bits)),
            }
        }
    }
}

/// Begins a residency on `cpu`, the calling CPU, on which no virtual PE is resident.
pub(super) fn arrive(gic: &dyn Gicv4, cpu: CpuId, arrival: Arrival) {
    if let Some(vpropbaser) = arrival.vpropbaser {
        gic.set_vpropbaser(cpu, vpropbaser);
    }
    gic.set_vpendbaser(cpu, arrival.vpendbaser);
}

/// Ends the residency on `cpu`, the calling CPU. Returns PendingLast and IDAI. With GICv4.1,
/// PendingLast says nothing after [`Departure::Pause`]: the redistributor is not asked.
///
/// # Errors
/// [`ItsFault`] if the redistributor is not done in time.
pub(super) fn depart(
    gic: &dyn Gicv4,
    cpu: CpuId,
    departure: Departure,
) -> Result<(bool, bool), ItsFault> {
    // While the table is still being read, Valid may not change.
    let value = settled_vpendbaser(gic, cpu)? & !(VALID | PENDING_LAST);

    let v4_1 = gic.v4_1().is_some();
    let value = match departure {
        _ if !v4_1 => value,
        Departure::Block if !mutant(Mutant::NoDoorbellAsked) => value | DOORBELL,
        Departure::Block | Departure::Look => value & !DOORBELL,
        Departure::Pause => value & !DOORBELL | PENDING_LAST,
    };
    gic.set_vpendbaser(cpu, value);

    let left = settled_vpendbaser(gic, cpu)?;
    Ok((left & PENDING_LAST != 0, left & IDAI != 0))
}

/// Returns `GICR_VPENDBASER` of `cpu`, the calling CPU, when Dirty reads 0.
fn settled_vpendbaser(gic: &dyn Gicv4, cpu: CpuId) -> Result<u64, ItsFault> {
    for _ in 0..PATIENCE {
        let value = gic.vpendbaser(cpu);
        if value & DIRTY == 0 {
            return Ok(value);
        }
        core::hint::spin_loop();
    }
    Err(ItsFault)
}

/// Notes that a virtual interrupt of a vCPU may be pending: a virtual LPI has become enabled.
/// Returns true unless the virtual PE is resident, or the vCPU has none. The caller gives the vCPU
/// work afterwards.
pub(crate) fn may_be_pending<H: Host>(vm: &Vm<H>, pin: &CpuPin<'_>, vcpu: &Vcpu) -> bool {
    let mut off = false;
    with_vpe(vm, pin, vcpu, |_, vpe| {
        // The redistributor signals the virtual interrupts of a resident virtual PE.
        off = !vpe.resident;
        vpe.pending |= off;
    });
    off
}

/// Notes that the doorbell of a vCPU has rung, and disables the doorbell of a vCPU that is not
/// blocked. The caller gives the vCPU work afterwards.
pub(crate) fn doorbell_rang<H: Host>(vm: &Vm<H>, pin: &CpuPin<'_>, vcpu: &Vcpu) {
    with_vpe(vm, pin, vcpu, |gic, vpe| {
        // The redistributor signals the virtual interrupts of a resident virtual PE.
        vpe.pending |= !vpe.resident;

        if vpe.doorbell_on && !vcpu.residency.get().is_blocked() {
            vpe.doorbell_on = false;
            gic.set_doorbell(vpe.id, vpe.cpu, false);
        }
    });
}

/// Calls `change` with the vCPU's virtual PE, if it has one.
fn with_vpe<H: Host>(
    vm: &Vm<H>,
    pin: &CpuPin<'_>,
    vcpu: &Vcpu,
    change: impl FnOnce(&dyn Gicv4, &mut Vpe),
) {
    if let Some((direct, gic)) = of(vm)
        && let Some(slot) = direct.slot(vcpu.id)
        && let Ok(vpe) = &mut *slot.vpe.lock(pin.locks())
    {
        change(gic, vpe);
    }
}
