//! Priorities and enables of virtual LPIs: the configuration table that a VM's virtual PEs share.
//!
//! The guest's own table is in guest-physical memory, which need not be contiguous. The VM's table
//! has what the state words have: the bytes that the guest has had read, by `MAPTI` or an
//! invalidation.

use crate::direct::of;
use crate::epoch::CpuPin;
use crate::gicv4::PhysicalIts;
use crate::gicv4::command::Command;
use crate::gicv4::registers::invallr;
use crate::host::Host;
use crate::intid::IntId;
use crate::vm::Vm;
use crate::vm::irq::{Changed, Irq, State};

/// Returns the byte of an LPI in a configuration table (IHI 0069, 5.1.1).
fn byte(state: State) -> u8 {
    /// Bit 1 is RES1.
    const RES1: u8 = 1 << 1;
    state.priority() & 0xfc | RES1 | u8::from(state.enabled())
}

/// Copies the configuration of an LPI to the VM's table, if the VM has one.
#[inline]
pub(crate) fn store<H: Host>(vm: &Vm<H>, pin: &CpuPin<'_>, irq: &Irq) {
    if vm.direct.is_some() {
        store_direct(vm, pin, irq);
    }
}

#[inline(never)]
fn store_direct<H: Host>(vm: &Vm<H>, pin: &CpuPin<'_>, irq: &Irq) {
    let Some((direct, gic)) = of(vm) else {
        return;
    };
    let Some(shared) = *direct.shared.lock(pin.locks()) else {
        return;
    };

    let Some(key) = irq.intid().raw().checked_sub(IntId::FIRST_LPI) else {
        return;
    };

    // The last of several CPUs finds the state word as it has stored it.
    let mut now = byte(irq.state());
    loop {
        let stored = now;
        gic.fill_table(shared.configuration, key as usize, 1, stored);
        now = byte(irq.state());
        if now == stored {
            return;
        }
    }
}

/// Copies a configuration, if it has changed, and makes the hardware read it again.
#[inline]
pub(crate) fn follow<H: Host>(vm: &Vm<H>, pin: &CpuPin<'_>, irq: &Irq, changed: Changed) {
    if vm.direct.is_some() && changed.old != changed.new {
        store_direct(vm, pin, irq);
        invalidate(vm, pin, irq);
    }
}

/// Makes the hardware read the configuration of the virtual LPIs of an LPI's vCPU again, if events
/// are direct to the vCPU. An ITS that does not answer leaves the old configuration in force.
#[inline(never)]
fn invalidate<H: Host>(vm: &Vm<H>, pin: &CpuPin<'_>, irq: &Irq) {
    if let Some((direct, gic)) = of(vm)
        && let Some(slot) = direct.slots.get(irq.state().target_index())
        && slot.events() > 0
        && let Ok(vpe) = *slot.vpe.lock(pin.locks())
    {
        let number = vpe.id.number;
        let _ = match gic.v4_1() {
            Some(v4_1) => v4_1.write_invallr(vpe.cpu, invallr(number)),
            None => {
                let commands = [Command::vinvall(number), Command::vsync(number)];
                gic.execute(PhysicalIts(0), &commands)
            }
        };
    }
}
