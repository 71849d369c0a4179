//! Physical interrupts, and their delivery to the guest.

use crate::cpu::percpu::PinnedCpu;
use aarch64_cpu::asm;
use vgic::intid::{DeviceId, EventId, IntId, ItsId, VcpuId};

use crate::cpu::hyp_timer;
use crate::cpu::percpu::{ExitReason, PerCpu};
use crate::gic::{cpu_interface, lpi};
use crate::vm::guest::Guest;

/// The first PPI.
const FIRST_PPI: u32 = 16;

/// Acknowledges the interrupt that is pending on the calling CPU, if any, and makes it pending for
/// the guest. A second pending interrupt causes another exit: a loop here would cost every exit a
/// second acknowledge.
#[inline]
pub(crate) fn handle_physical(guest: &Guest, cpu: &PerCpu, pin: &PinnedCpu<'_>) {
    let Some(intid) = cpu_interface::acknowledge() else {
        return;
    };
    cpu_interface::drop_priority(intid);
    let vgic = guest.vgic();

    let reason = match intid {
        // A kick: the sender has published the reason.
        0..FIRST_PPI => {
            cpu_interface::deactivate(intid);
            ExitReason::Kick
        }
        lpi::FIRST.. => {
            inject_lpi(guest, pin, intid);
            ExitReason::Lpi
        }
        _ if intid == vgic.host().gic.maintenance() => {
            // An exit and an entry handle the maintenance interrupt. Its line stays high until the
            // list registers are prepared.
            cpu_interface::deactivate(intid);
            ExitReason::Maintenance
        }
        IntId::FIRST_SPI.. => {
            forward(IntId::spi(intid), |id| vgic.forward_spi(pin, id));
            ExitReason::Spi
        }
        hyp_timer::PPI => {
            hyp_timer::stop();
            cpu_interface::deactivate(intid);
            ExitReason::Ppi
        }
        _ => {
            // While the vCPU is off, the PPI stays active, until `start_vcpu` deactivates it.
            forward(IntId::ppi(intid), |id| vgic.forward_ppi(pin, cpu.vcpu, id));
            ExitReason::Ppi
        }
    };

    cpu.count(reason);
}

/// Forwards a physical SPI or PPI. The vGIC has every SPI and PPI of the machine.
#[inline]
fn forward(
    intid: Option<IntId>,
    forward: impl FnOnce(IntId) -> Result<vgic::Injected, vgic::InjectError>,
) {
    let forwarded = intid.map(forward);
    debug_assert!(matches!(
        forwarded,
        Some(Ok(_) | Err(vgic::InjectError::NotLoaded))
    ));
}

/// Injects the MSI whose physical LPI is `lpi`.
fn inject_lpi(guest: &Guest, pin: &PinnedCpu<'_>, lpi: u32) {
    let vgic = guest.vgic();
    if let Some(source) = vgic.host().gic.lpis.source(lpi) {
        // An error means that the guest has unmapped the event since. The message is lost, as it
        // would be without a hypervisor.
        let _ = vgic.inject_msi(
            pin,
            ItsId(source.its),
            DeviceId(source.device),
            EventId(source.event),
        );
    }
}

/// Sleeps until an interrupt is pending on the calling CPU. Interrupts stay masked.
pub(crate) fn wait_for_interrupt() {
    asm::wfi();
}

/// Returns the vCPU on CPU number `cpu`.
pub(crate) fn vcpu_of(cpu: usize) -> VcpuId {
    VcpuId::new(cpu).expect("the vGIC has been made for this many vCPUs")
}
