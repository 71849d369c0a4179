//! Traps of VMs. Nothing is printed: a VM may trap all day.

use crate::cpu::percpu::PinnedCpu;
use aarch64_cpu::registers::{ESR_EL2, Readable};
use vgic::mmio::{DataAbort, MmioOutcome};

use super::vcpu_run::VcpuRun;
use super::{VmPsci, Vms};
use crate::cpu::id_registers::{self, Reader};
use crate::cpu::percpu::ExitReason;
use crate::exception::exit::TrapOutcome;
use crate::exception::inject;
use crate::exception::sync::{SysRegTrap, XZR, fault_address, skip};
use crate::vm::psci;

/// Handles the trap that `ESR_EL2` describes.
pub(super) fn handle_trap(vms: &Vms, vcpu: &mut VcpuRun, pin: &PinnedCpu<'_>) -> TrapOutcome {
    let syndrome = ESR_EL2.extract();
    let (reason, next) = match syndrome.read_as_enum(ESR_EL2::EC) {
        Some(ESR_EL2::EC::Value::DataAbortLowerEL) => {
            data_abort(vcpu, pin, syndrome.get());
            (ExitReason::Mmio, TrapOutcome::Resume)
        }
        Some(ESR_EL2::EC::Value::TrappedMsrMrs) => {
            system_register(vcpu, pin, SysRegTrap(syndrome.get()));
            (ExitReason::SystemRegister, TrapOutcome::Resume)
        }
        Some(ESR_EL2::EC::Value::TrappedWFIorWFE) => {
            // Only WFI traps.
            skip();
            (ExitReason::Wfi, TrapOutcome::Block)
        }
        Some(ESR_EL2::EC::Value::HVC64) => {
            let psci_vcpus = VmPsci(vms, vcpu.vm);
            (
                ExitReason::Hypercall,
                psci::handle_call(vcpu.frame(), &psci_vcpus),
            )
        }
        Some(ESR_EL2::EC::Value::SMC64) => {
            // A trapped SMC has not been executed yet; HVC has.
            skip();
            let psci_vcpus = VmPsci(vms, vcpu.vm);
            (
                ExitReason::Hypercall,
                psci::handle_call(vcpu.frame(), &psci_vcpus),
            )
        }
        Some(ESR_EL2::EC::Value::InstrAbortLowerEL) => {
            inject::external_abort(true);
            (ExitReason::Other, TrapOutcome::Resume)
        }
        _ => {
            inject::undefined();
            (ExitReason::Other, TrapOutcome::Resume)
        }
    };

    vcpu.count(reason);
    next
}

/// Emulates an access to a frame of the interrupt controller or to the console, or injects an
/// external abort where the VM has no device.
fn data_abort(vcpu: &mut VcpuRun, pin: &PinnedCpu<'_>, syndrome: u64) {
    let Some(abort) = DataAbort::from_esr(syndrome) else {
        return inject::external_abort(false);
    };

    let address = fault_address();
    let (register, width) = (abort.register(), abort.width());
    let vgic = vcpu.vm.controller;
    let console = &vcpu.vm.console;
    let value = register.map_or(0, |register| vcpu.frame().x[register]);

    let outcome = match abort.is_write() {
        true if console.claims(address) => {
            console.write(address, value);
            Ok(MmioOutcome::Done(0))
        }
        false if console.claims(address) => Ok(MmioOutcome::Done(console.read(address))),
        true => vgic.mmio_write(pin, address, width, value),
        false => vgic.mmio_read(pin, vcpu.id, address, width),
    };

    match outcome.expect("the vCPU is of this VM") {
        MmioOutcome::Done(value) => {
            if let Some(register) = register.filter(|_| !abort.is_write()) {
                vcpu.frame().x[register] = abort.load_result(value);
            }
            skip();
        }
        MmioOutcome::Retry => {}
        MmioOutcome::Unclaimed => inject::external_abort(false),
    }
}

/// Emulates an access to a system register of the interrupt controller, or injects an Undefined
/// Instruction exception for any other register.
fn system_register(vcpu: &mut VcpuRun, pin: &PinnedCpu<'_>, trapped: SysRegTrap) {
    let vgic = vcpu.vm.controller;
    let register = trapped.register();
    let value = vcpu.frame().x.get(register).copied().unwrap_or(0);
    match trapped.sysreg() {
        Some(target) if trapped.is_read() => match vgic.sysreg_read(pin, vcpu.id, target) {
            Some(_) if register == XZR => {}
            Some(value) => vcpu.frame().x[register] = value,
            None => return inject::undefined(),
        },
        Some(target) => {
            let written = vgic.sysreg_write(pin, vcpu.id, target, value);
            written.expect("the vCPU is of this VM");
        }
        None => match id_registers::read(trapped.0 as u32, Reader::Vm) {
            Some(_) if register == XZR => {}
            Some(value) => vcpu.frame().x[register] = value,
            None => return inject::undefined(),
        },
    }
    skip();
}
