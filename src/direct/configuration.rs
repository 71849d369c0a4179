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
use crate::intid::{IntId, VcpuId};
use crate::sync::Ordering::SeqCst;
use crate::sync::fence;
use crate::vm::Vm;
use crate::vm::irq::{Irq, State};

/// Most virtual PEs whose configurations are read again in one wait for the ITS. GICv4.1 has a wait
/// for each of them, at its redistributor.
pub(crate) const AT_ONCE: usize = 8;

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

/// Returns the vCPU of an LPI, if the hardware may have cached the LPI's configuration: events are
/// direct to the vCPU. An event that becomes direct to a vCPU has its configuration read then.
pub(crate) fn reader<H: Host>(vm: &Vm<H>, irq: &Irq) -> Option<VcpuId> {
    let (direct, _) = of(vm)?;
    // SeqCst: pairs with the fence in `Execution::add_event`.
    fence(SeqCst);
    let vcpu = irq.state().target()?;
    (direct.slot(vcpu)?.events() > 0).then_some(vcpu)
}

/// Makes the hardware read the configurations of the virtual LPIs of at most [`AT_ONCE`] vCPUs
/// again: by one wait for the ITS with GICv4.0 (`VINVALL`), and by one wait for each virtual PE's
/// redistributor with GICv4.1 (`GICR_INVALLR`). Returns the number of waits. Hardware that does not
/// answer leaves the old configurations in force.
pub(crate) fn invalidate<H: Host>(
    vm: &Vm<H>,
    pin: &CpuPin<'_>,
    vcpus: impl Iterator<Item = VcpuId>,
) -> u32 {
    let Some((direct, gic)) = of(vm) else {
        return 0;
    };

    if let Some(v4_1) = gic.v4_1() {
        let mut waits = 0_u32;
        for slot in vcpus.filter_map(|vcpu| direct.slot(vcpu)) {
            // Under the lock, which keeps the virtual PE on its redistributor.
            if let Ok(vpe) = *slot.vpe.lock(pin.locks()) {
                let _ = v4_1.write_invallr(vpe.cpu, invallr(vpe.id.number));
                waits = waits.saturating_add(1);
            }
        }
        return waits;
    }

    let vpes = vcpus.filter_map(|vcpu| direct.slot(vcpu)?.vpe.lock(pin.locks()).ok());
    let mut commands = [Command::vsync(0); 2 * AT_ONCE];
    let mut count = 0_usize;
    for (pair, vpe) in commands.chunks_exact_mut(2).zip(vpes) {
        let number = vpe.id.number;
        pair.copy_from_slice(&[Command::vinvall(number), Command::vsync(number)]);
        count = count.saturating_add(2);
    }

    let Some(commands @ [_, ..]) = commands.get(..count) else {
        return 0;
    };
    let _ = gic.execute(PhysicalIts(0), commands);
    1
}
