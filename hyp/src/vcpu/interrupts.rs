//! Physical interrupts, and their delivery to the guests.

use aarch64_cpu::asm;
use vgic::intid::{DeviceId, EventId, IntId, ItsId, VcpuId};

use super::{ExitReason, context};
use crate::cpu::hyp_timer;
use crate::cpu::this_cpu::{Loaded, PinnedCpu, ThisCpu};
use crate::gic::lpi::MsiSource;
use crate::gic::{cpu_interface, lpi};
use crate::vm::choice::Note;
use crate::vm::controller::Controller;
use crate::vm::{self, Extent, Vm};
use crate::{schedule, terminal};

/// PPIs of the virtual and the physical timer of EL1, by Arm's Base System Architecture.
pub(crate) const TIMERS: [u32; 2] = [VIRTUAL_TIMER, 30];

/// PPI of the virtual timer.
pub(crate) const VIRTUAL_TIMER: u32 = 27;

/// Acknowledges the interrupt that is pending on the calling CPU, if any, and makes it pending for
/// its guest. The CPU, whose data is `cpu`, runs the vCPU `loaded`. A second pending interrupt
/// causes another exit: a loop here would cost every exit a second acknowledge.
// Saves 12 of the 453 instructions of a timer's interrupt.
#[inline(always)]
pub(crate) fn handle_physical(cpu: &ThisCpu, loaded: Option<Loaded>, pin: &PinnedCpu<'_>) {
    let Some(intid) = cpu_interface::acknowledge() else {
        return;
    };
    cpu_interface::drop_priority(intid);

    let reason = match intid {
        // A kick: the sender has published the reason.
        0..IntId::FIRST_PPI => {
            cpu_interface::deactivate(intid);
            ExitReason::Kick
        }
        lpi::FIRST.. => {
            inject_lpi(cpu, loaded, pin, intid);
            ExitReason::Lpi
        }
        _ if intid == cpu.gic.maintenance() => {
            // An exit and an entry handle the maintenance interrupt. Its line stays high until the
            // list registers are prepared.
            cpu_interface::deactivate(intid);
            ExitReason::Maintenance
        }
        IntId::FIRST_SPI.. => {
            take_spi(pin, intid);
            ExitReason::Spi
        }
        hyp_timer::PPI => {
            cpu.timer.set(None);
            cpu_interface::deactivate(intid);
            schedule::timer_has_fired(cpu);
            ExitReason::Ppi
        }
        _ => {
            forward_ppi(loaded, pin, intid);
            ExitReason::Ppi
        }
    };

    if let Some(loaded) = loaded {
        loaded.vcpu.count(reason);
    }
}

/// Forwards a physical SPI to the VM with the whole machine, which has every SPI. Without such a
/// VM, the only SPI that is enabled is the console's.
fn take_spi(pin: &PinnedCpu<'_>, intid: u32) {
    match vm::of_machine() {
        Some(vm) => {
            let Some(vgic) = vm.vgic().or_else(|| keep(vm, intid)) else {
                return;
            };
            let forwarded = IntId::spi(intid).map(|intid| vgic.forward_spi(pin, intid));
            debug_assert!(matches!(forwarded, Some(Ok(_))), "{intid}: {forwarded:?}");
        }
        None => {
            terminal::receive(pin);
            cpu_interface::deactivate(intid);
        }
    }
}

/// Forwards a physical PPI to the vCPU that the calling CPU runs.
///
/// A timer's interrupt may come after its vCPU has gone, because the fall of a line takes its time
/// to reach the GIC. It is nobody's then. Without a vCPU of the VM with the whole machine, its PPI
/// stays active until the vCPU starts
/// ([`deactivate_ppis`](crate::vm::host::VmHost::deactivate_ppis)).
#[inline]
fn forward_ppi(loaded: Option<Loaded>, pin: &PinnedCpu<'_>, intid: u32) {
    let is_late = match loaded {
        Some(loaded) => loaded.vcpu.vm.extent == Extent::Part && !context::is_timer_high(intid),
        None => vm::of_machine().is_none(),
    };
    if is_late {
        cpu_interface::deactivate(intid);
    } else if let Some(loaded) = loaded
        && let Some(intid) = loaded.vcpu.vm.wiring.ppi(intid)
    {
        let forwarded = loaded.vgic.forward_ppi(pin, loaded.vcpu.id, intid);
        debug_assert!(forwarded.is_ok(), "{intid:?}: {forwarded:?}");
    }
}

/// Injects the MSI whose physical LPI is `lpi` into the VM that has mapped it.
// Saves 15 of the 235 instructions of an MSI.
#[inline(always)]
fn inject_lpi(cpu: &ThisCpu, loaded: Option<Loaded>, pin: &PinnedCpu<'_>, lpi: u32) {
    if vm::is_any_choosing() {
        note_msi(cpu, pin, lpi);
    }
    let Some(source) = cpu.gic.lpis.source(lpi) else {
        return;
    };
    let vgic = vm::vgic_of(source.vm.into());
    let Some(vgic) = vgic.or_else(|| keep(vm::all().get(usize::from(source.vm))?, lpi)) else {
        return;
    };
    cpu.ledger.open(pin, vgic.host().vm());
    // An error means that the guest has unmapped the event since. The message is lost, as it would
    // be without a hypervisor.
    let injected = vgic.inject_msi(
        pin,
        ItsId(source.its),
        DeviceId(source.device),
        EventId(source.event),
    );
    if injected.is_err() {
        take_other(vgic, pin, source);
    }
    if let Some(loaded) = loaded {
        cpu.ledger.open(pin, loaded.vcpu.vm);
    }
}

/// Takes an LPI that is no event of a virtual ITS: a doorbell, or an MSI that makes an SPI pending.
#[cold]
#[inline(never)]
fn take_other(vgic: &Controller, pin: &PinnedCpu<'_>, source: MsiSource) {
    let is_taken = match source.its {
        MsiSource::DOORBELL => {
            VcpuId::new(source.device as usize).is_some_and(|vcpu| vgic.doorbell(pin, vcpu).is_ok())
        }
        MsiSource::SPI => {
            IntId::spi(source.event).is_some_and(|spi| vgic.inject_spi(pin, spi).is_ok())
        }
        _ => true,
    };
    debug_assert!(is_taken, "{source:?}");
}

/// Notes an MSI, for the choice of its vCPU between direct injection and list registers.
#[cold]
#[inline(never)]
fn note_msi(cpu: &ThisCpu, pin: &PinnedCpu<'_>, lpi: u32) {
    let lpis = &cpu.gic.lpis;
    if let Some(source) = lpis.source(lpi)
        && source.its != MsiSource::DOORBELL
        && let Some(vgic) = vm::vgic_of(source.vm.into())
        && let Some(target) = lpis.target(lpi)
        && let Some(vcpu) = vgic.host().vm().vcpus().get(target)
    {
        vcpu.note(vgic, pin, Note::Msi);
    }
}

/// Keeps a physical interrupt for a VM that has had no interrupt controller, if the VM is being
/// saved. Returns the controller if the VM has one by now.
#[cold]
fn keep(vm: &Vm, intid: u32) -> Option<&'static Controller> {
    if vm.held.keep(intid) {
        return None;
    }
    vm.vgic()
}

/// Makes an interrupt pending that was kept while its VM was being saved.
pub(crate) fn take_again(cpu: &ThisCpu, pin: &PinnedCpu<'_>, intid: u32) {
    if intid < lpi::FIRST {
        take_spi(pin, intid);
    } else {
        inject_lpi(cpu, None, pin, intid);
    }
}

/// Sleeps until an interrupt is pending on the calling CPU. Interrupts stay masked.
pub(crate) fn wait_for_interrupt() {
    #[cfg(feature = "pmu")]
    crate::measure::end();
    asm::wfi();
    #[cfg(feature = "pmu")]
    crate::measure::wake();
}
