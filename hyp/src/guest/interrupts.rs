//! Physical interrupts: whose they are, and how they become the guest's.

use aarch64_cpu::asm;
use vgic::epoch::Pin;
use vgic::intid::{DeviceId, EventId, IntId, ItsId, Kind, VcpuId};

use super::Guest;
use crate::cpu::percpu::{Exit, PerCpu};
use crate::gic::cpu_interface;

/// Takes the interrupt that is pending on the calling CPU, if one is, and makes it pending for the guest.
/// Another one makes the CPU exit again: asking for it each time would cost every exit a look in vain.
#[inline]
pub(crate) fn take(guest: &Guest, cpu: &PerCpu, pin: &Pin<'_>) {
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
                // Leaving the guest and entering it does what it asks for.
                cpu_interface::deactivate(intid);
                Exit::Maintenance
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
