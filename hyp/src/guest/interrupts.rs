//! Physical interrupts: whose they are, and how they become the guest's.

use aarch64_cpu::asm;
use vgic::epoch::Pin;
use vgic::intid::{DeviceId, EventId, IntId, ItsId, Kind, VcpuId};

use super::Guest;
use crate::cpu::alarm;
use crate::cpu::percpu::{Exit, PerCpu};
use crate::gic::cpu_interface;

/// Most interrupts that are taken at once; what is still pending then makes the CPU exit again.
const BATCH: usize = 8;

/// Takes what is pending on the calling CPU, and makes it pending for the guest.
pub(crate) fn take(guest: &Guest, cpu: &PerCpu, pin: &Pin<'_>) {
    for _ in 0..BATCH {
        let Some(intid) = cpu_interface::acknowledge() else {
            return;
        };
        cpu_interface::drop_priority(intid);
        let vgic = guest.vgic();
        let vcpu = cpu.vcpu;
        let reason = match IntId::new(intid) {
            Some(id) => match id.kind() {
                // A call: whoever made it has left word of what it is about.
                Kind::Sgi => {
                    cpu_interface::deactivate(intid);
                    Exit::Call
                }
                Kind::Ppi if intid == vgic.host().gic.maintenance() => {
                    // Leaving the guest and entering it does what it asks for. Its line stays high until the
                    // list registers are prepared for that; what else is pending makes the CPU exit again.
                    cpu_interface::deactivate(intid);
                    cpu.count(Exit::Maintenance);
                    return;
                }
                Kind::Ppi if intid == alarm::INTERRUPT => {
                    alarm::stop();
                    cpu_interface::deactivate(intid);
                    Exit::Ppi
                }
                Kind::Ppi => {
                    forward(vgic.forward_ppi(pin, vcpu, id));
                    Exit::Ppi
                }
                Kind::Spi => {
                    forward(vgic.forward_spi(pin, id));
                    Exit::Spi
                }
                Kind::Lpi => {
                    message(guest, pin, intid);
                    Exit::Lpi
                }
            },
            None => Exit::Other,
        };
        cpu.count(reason);
    }
}

/// The vGIC has every SPI and PPI of the machine.
fn forward(result: Result<vgic::Injected, vgic::InjectError>) {
    debug_assert!(result.is_ok());
}

/// A device's message, under the LPI that we have given it.
fn message(guest: &Guest, pin: &Pin<'_>, lpi: u32) {
    let vgic = guest.vgic();
    if let Some(source) = vgic.host().gic.lpis.source(lpi) {
        // An error means that the guest has unmapped the event since: as without a hypervisor, the
        // message is lost.
        let _ = vgic.inject_msi(
            pin,
            ItsId(source.its),
            DeviceId(source.device),
            EventId(source.event),
        );
    }
}

/// Sleeps until an interrupt is pending on the calling CPU. Interrupts stay masked.
pub(crate) fn wait() {
    asm::wfi();
}

/// The vCPU that lives on CPU number `cpu`.
pub(crate) fn vcpu_of(cpu: usize) -> VcpuId {
    VcpuId::new(cpu).expect("the vGIC has been made for this many vCPUs")
}
