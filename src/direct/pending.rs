//! Taking the pending state of an event out of the hardware, for an event that ceases to be direct.
//!
//! No register and no command reads the pending state of a virtual LPI, and redistributors of
//! GICv4.0 may keep parts of a pending table to themselves. `VMOVI` moves the pending state, and
//! PendingLast tells whether a virtual PE has any. So the event moves to a virtual PE that has no
//! other: it is resident for a moment, and PendingLast is the event's pending state.

use crate::direct::residency::{self, Arrival, Departure};
use crate::direct::{of, vpe};
use crate::epoch::CpuPin;
use crate::gicv4::command::Command;
use crate::gicv4::registers::VALID;
use crate::gicv4::{Gicv4, ItsFault, PhysicalDevice, VpeId};
use crate::host::Host;
use crate::intid::{CpuId, EventId};
use crate::vm::Vm;
use crate::vm::direct::Vpe;

/// Unmaps an event that is direct to the virtual PE `from`, and returns true if it was pending. The
/// device's MSIs are held. Takes the lock of the VM's tables.
///
/// # Errors
/// [`ItsFault`] if the hardware does not answer. The event may still be mapped.
pub(crate) fn take<H: Host>(
    vm: &Vm<H>,
    pin: &CpuPin<'_>,
    device: PhysicalDevice,
    event: EventId,
    from: u16,
) -> Result<bool, ItsFault> {
    let (direct, gic) = of(vm).ok_or(ItsFault)?;
    let mut shared = direct.shared.lock(pin.locks());
    let parking = &mut shared.as_mut().ok_or(ItsFault)?.parking;
    vpe::move_to(gic, parking, pin.cpu())?;

    let number = parking.id.number;
    let there = Command::vmovi(device, event, number, VpeId::NO_DOORBELL);
    let syncs = [Command::vsync(from), Command::vsync(number)];
    gic.execute(device.its, &[there, syncs[0], syncs[1]])?;

    let pending = look(gic, pin.cpu(), vpe::id_bits(vm), parking)?;
    let discard = Command::discard(device, event);
    gic.execute(device.its, &[discard, Command::vsync(number)])?;
    Ok(pending)
}

/// Returns true if a virtual LPI of `vpe` is pending. Borrows `cpu`, the calling CPU, from the
/// virtual PE that is resident on it, if there is one.
fn look(gic: &dyn Gicv4, cpu: CpuId, id_bits: u32, vpe: &mut Vpe) -> Result<bool, ItsFault> {
    let vpendbaser = gic.vpendbaser(cpu);
    let owner = if vpendbaser & VALID == 0 {
        None
    } else {
        let vpropbaser = gic.v4_1().is_none().then(|| gic.vpropbaser(cpu));
        let (_, idai) = residency::depart(gic, cpu, Departure::Pause)?;
        Some(Arrival::again(vpendbaser, vpropbaser, idai))
    };

    residency::arrive(gic, cpu, Arrival::of(gic, vpe, id_bits));
    let (pending, idai) = residency::depart(gic, cpu, Departure::Look)?;
    vpe.idai = idai;

    if let Some(owner) = owner {
        residency::arrive(gic, cpu, owner);
    }
    Ok(pending)
}
