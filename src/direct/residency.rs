//! A virtual PE on its CPU and off it, and its doorbell: module docs of [`crate::direct`].

use crate::direct::{of, vpe};
use crate::epoch::CpuPin;
use crate::gicv4::registers::{DIRTY, IDAI, PENDING_LAST, VALID, resident, vpropbaser};
use crate::gicv4::{Gicv4, ItsFault};
use crate::host::Host;
use crate::intid::CpuId;
use crate::sync::{Mutant, mutant};
use crate::vm::Vm;
use crate::vm::ap_list::Class;
use crate::vm::direct::Vpe;
use crate::vm::vcpu::Vcpu;

/// Reads of `GICR_VPENDBASER` until a virtual PE has left. Linux waits for half a millisecond.
const PATIENCE: u32 = 1 << 16;

/// Returns true if virtual LPIs of the vCPU may be signalled: the distributor enables Group 1, and
/// the redistributor LPIs. Neither reaches a virtual PE of GICv4.0, which is not resident
/// otherwise.
fn is_open<H: Host>(vm: &Vm<H>, vcpu: &Vcpu) -> bool {
    let open = vcpu.enabled_classes(vm.distributor.enabled_groups());
    open.contains(Class::Lpi)
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
    let open = is_open(vm, vcpu);
    if vpe.resident == open {
        return;
    }

    if !open {
        leave_cpu(gic, vpe);
        return;
    }

    let here = pin.cpu();
    // A dropped VM may have left its virtual PE resident.
    let occupied = gic.vpendbaser(here) & VALID != 0 && depart(gic, here).is_err();
    // Without the move, the virtual PE stays off: its virtual LPIs wait in the table.
    if occupied || vpe::move_to(gic, vpe, here).is_err() {
        return;
    }

    let properties = vpropbaser(vpe.configuration, vm.config.intid_bits());
    arrive(gic, here, properties, vpe.table, vpe.idai);
    vpe.resident = true;
    vpe.pending = false;
    pin.counters().vpe_residencies.add(1);
}

/// Makes the vCPU's virtual PE leave the calling CPU, if it is resident. Returns true if a virtual
/// LPI may be pending. The caller has the vCPU.
#[inline]
pub(crate) fn leave<H: Host>(vm: &Vm<H>, pin: &CpuPin<'_>, vcpu: &Vcpu) -> bool {
    vm.direct.is_some() && leave_direct(vm, pin, vcpu)
}

#[inline(never)]
fn leave_direct<H: Host>(vm: &Vm<H>, pin: &CpuPin<'_>, vcpu: &Vcpu) -> bool {
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
    if vpe.resident {
        leave_cpu(gic, vpe);
    }
    vpe.pending && is_open(vm, vcpu)
}

/// Makes a resident virtual PE leave its CPU, the calling one.
fn leave_cpu(gic: &dyn Gicv4, vpe: &mut Vpe) {
    // A virtual PE that does not leave in time may have pending virtual LPIs.
    let (pending, idai) = depart(gic, vpe.cpu).unwrap_or((true, true));
    vpe.resident = false;
    vpe.pending = pending && !mutant(Mutant::PendingLastUnread);
    vpe.idai = idai;
}

/// Begins the residency of the virtual PE with this pending table on `cpu`, the calling CPU, on
/// which none is resident. `properties` is the value of `GICR_VPROPBASER`, and `idai` the IDAI of
/// the virtual PE's last residency.
pub(super) fn arrive(gic: &dyn Gicv4, cpu: CpuId, properties: u64, table: u64, idai: bool) {
    let idai = if idai { IDAI } else { 0 };
    gic.set_vpropbaser(cpu, properties);
    // PendingLast as input: the redistributor has to look into the table.
    gic.set_vpendbaser(cpu, resident(table) | idai | PENDING_LAST);
}

/// Ends the residency on `cpu`, the calling CPU. Returns PendingLast and IDAI.
///
/// # Errors
/// [`ItsFault`] if the redistributor is not done in time.
pub(super) fn depart(gic: &dyn Gicv4, cpu: CpuId) -> Result<(bool, bool), ItsFault> {
    let value = gic.vpendbaser(cpu);
    gic.set_vpendbaser(cpu, value & !(VALID | PENDING_LAST));
    for _ in 0..PATIENCE {
        let value = gic.vpendbaser(cpu);
        if value & DIRTY == 0 {
            return Ok((value & PENDING_LAST != 0, value & IDAI != 0));
        }
        core::hint::spin_loop();
    }
    Err(ItsFault)
}

/// Enables the doorbell of a vCPU that has just been marked as blocked, if it has a virtual PE.
pub(crate) fn arm_doorbell<H: Host>(vm: &Vm<H>, pin: &CpuPin<'_>, vcpu: &Vcpu) {
    with_vpe(vm, pin, vcpu, |gic, vpe| {
        if !vpe.doorbell_on {
            vpe.doorbell_on = true;
            gic.set_doorbell(vpe.id, vpe.cpu, true);
        }
    });
}

/// Notes that the doorbell of a vCPU has rung. The caller gives the vCPU work afterwards.
pub(crate) fn doorbell_rang<H: Host>(vm: &Vm<H>, pin: &CpuPin<'_>, vcpu: &Vcpu) {
    // The redistributor signals the virtual LPIs of a resident virtual PE.
    with_vpe(vm, pin, vcpu, |_, vpe| vpe.pending |= !vpe.resident);
}

/// Disables the doorbell of a vCPU unless the vCPU is blocked. After it has rung.
pub(crate) fn disarm_doorbell<H: Host>(vm: &Vm<H>, pin: &CpuPin<'_>, vcpu: &Vcpu) {
    with_vpe(vm, pin, vcpu, |gic, vpe| {
        let blocked = vcpu.residency.get().is_blocked() && !mutant(Mutant::BlockedDoorbellDisabled);
        if vpe.doorbell_on && !blocked {
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
