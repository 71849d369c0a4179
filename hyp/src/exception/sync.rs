//! Synchronous exits: actions of the guest that trap.

use crate::cpu::percpu::PinnedCpu;
use aarch64_cpu::registers::{ELR_EL2, ESR_EL2, FAR_EL2, HPFAR_EL2, Readable, Writeable};
use vgic::mmio::{DataAbort, MmioOutcome};
use vgic::sysreg::SysReg;

use super::exit::TrapOutcome;
use super::frame::Frame;
use super::{inject, report};
use crate::cpu::id_registers::{self, Reader};
use crate::cpu::percpu::{ExitReason, PerCpu};
use crate::vm::guest::Guest;
use crate::vm::psci;

/// Exception classes (`ESR_EL2.EC`), as numbers: converting the field to the enumeration would cost
/// more than the comparisons.
mod exception_class {
    use aarch64_cpu::registers::ESR_EL2::EC::Value;

    pub(super) const DATA_ABORT: u64 = Value::DataAbortLowerEL as u64;
    pub(super) const SYSTEM_REGISTER: u64 = Value::TrappedMsrMrs as u64;
    pub(super) const WFX: u64 = Value::TrappedWFIorWFE as u64;
    pub(super) const HVC: u64 = Value::HVC64 as u64;
    pub(super) const SMC: u64 = Value::SMC64 as u64;
    pub(super) const INSTRUCTION_ABORT: u64 = Value::InstrAbortLowerEL as u64;
}

/// Bytes of an instruction.
const INSTRUCTION: u64 = 4;

/// Register number of `XZR`.
pub(crate) const XZR: usize = 31;

/// Handles the trap that `ESR_EL2` describes.
pub(super) fn handle_trap(
    guest: &Guest,
    cpu: &PerCpu,
    pin: &PinnedCpu<'_>,
    frame: &mut Frame,
) -> TrapOutcome {
    let syndrome = ESR_EL2.extract();
    match syndrome.read(ESR_EL2::EC) {
        exception_class::DATA_ABORT => {
            data_abort(guest, cpu, pin, frame, syndrome.get());
            TrapOutcome::Resume
        }
        exception_class::SYSTEM_REGISTER => {
            system_register(guest, cpu, pin, frame, SysRegTrap(syndrome.get()));
            TrapOutcome::Resume
        }
        exception_class::WFX => {
            // Only WFI traps.
            skip();
            TrapOutcome::Block
        }
        exception_class::HVC => {
            cpu.count(ExitReason::Hypercall);
            psci::handle_call(frame, guest)
        }
        exception_class::SMC => {
            cpu.count(ExitReason::Hypercall);
            // A trapped SMC has not been executed yet; HVC has.
            skip();
            psci::handle_call(frame, guest)
        }
        exception_class::INSTRUCTION_ABORT => {
            cpu.count(ExitReason::Other);
            report_unmapped("instruction fetch", cpu);
            inject::external_abort(true);
            TrapOutcome::Resume
        }
        _ => {
            cpu.count(ExitReason::Other);
            report::print(format_args!(
                "hyp: vcpu {}: unexpected trap, ESR_EL2 {:#x}, at pc {:#x}: undefined instruction",
                cpu.index,
                syndrome.get(),
                ELR_EL2.get()
            ));
            inject::undefined();
            TrapOutcome::Resume
        }
    }
}

/// Advances the guest past the trapped instruction.
pub(crate) fn skip() {
    ELR_EL2.set(ELR_EL2.get() + INSTRUCTION);
}

/// Returns the guest-physical address of the trapped access.
pub(crate) fn fault_address() -> u64 {
    HPFAR_EL2.read(HPFAR_EL2::FIPA) << 12 | FAR_EL2.get() & 0xfff
}

/// Emulates an access to a frame of the interrupt controller, or injects an external abort where
/// the guest has no device.
fn data_abort(guest: &Guest, cpu: &PerCpu, pin: &PinnedCpu<'_>, frame: &mut Frame, syndrome: u64) {
    cpu.count(ExitReason::Mmio);
    let Some(abort) = DataAbort::from_esr(syndrome) else {
        report_unmapped("access without a syndrome", cpu);
        return inject::external_abort(false);
    };

    let address = fault_address();
    let vgic = guest.vgic();
    let outcome = if abort.is_write() {
        let value = abort.register().map_or(0, |register| frame.x[register]);
        vgic.mmio_write(pin, address, abort.width(), value)
    } else {
        vgic.mmio_read(pin, cpu.vcpu, address, abort.width())
    };

    match outcome.expect("the vCPU is of this VM") {
        MmioOutcome::Done(value) => {
            if let Some(register) = abort.register().filter(|_| !abort.is_write()) {
                frame.x[register] = abort.load_result(value);
            }
            skip();
        }
        MmioOutcome::Retry => {}
        MmioOutcome::Unclaimed => {
            report_unmapped(if abort.is_write() { "write" } else { "read" }, cpu);
            inject::external_abort(false);
        }
    }
}

/// `ESR_EL2` of a trapped `MSR` or `MRS`.
#[derive(Clone, Copy)]
pub(crate) struct SysRegTrap(pub(crate) u64);

impl SysRegTrap {
    /// Returns the system register, if the vGIC emulates it.
    pub(crate) fn sysreg(self) -> Option<SysReg> {
        SysReg::from_syndrome(self.0 as u32)
    }

    /// Returns the number of the general register.
    pub(crate) fn register(self) -> usize {
        (self.0 >> 5) as usize & 0x1f
    }

    /// Returns true for a read.
    pub(crate) fn is_read(self) -> bool {
        self.0 & 1 != 0
    }
}

/// Emulates an access to a system register of the interrupt controller, or injects an Undefined
/// Instruction exception for any other register.
fn system_register(
    guest: &Guest,
    cpu: &PerCpu,
    pin: &PinnedCpu<'_>,
    frame: &mut Frame,
    trapped: SysRegTrap,
) {
    cpu.count(ExitReason::SystemRegister);
    let vgic = guest.vgic();
    let register = trapped.register();

    let done = match trapped.sysreg() {
        Some(target) if trapped.is_read() => {
            let value = vgic.sysreg_read(pin, cpu.vcpu, target);
            value.map(|value| {
                if register != XZR {
                    frame.x[register] = value;
                }
            })
        }
        Some(target) => {
            let value = frame.x.get(register).copied().unwrap_or(0);
            let written = vgic.sysreg_write(pin, cpu.vcpu, target, value);
            written.expect("the vCPU is of this VM");
            Some(())
        }
        None => id_registers::read(trapped.0 as u32, Reader::Machine).map(|value| {
            if register != XZR {
                frame.x[register] = value;
            }
        }),
    };

    match done {
        Some(()) => skip(),
        None => {
            report::print(format_args!(
                "hyp: vcpu {}: system register of ESR_EL2 {:#x} is not there, at pc {:#x}: \
                 undefined instruction",
                cpu.index,
                trapped.0,
                ELR_EL2.get()
            ));
            inject::undefined();
        }
    }
}

/// Prints an access to an address where the guest has no device.
fn report_unmapped(name: &str, cpu: &PerCpu) {
    report::print(format_args!(
        "hyp: vcpu {}: {name} at unmapped address {:#x}, at pc {:#x}: external abort",
        cpu.index,
        fault_address(),
        ELR_EL2.get()
    ));
}
