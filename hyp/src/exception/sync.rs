//! Synchronous exits: actions of the guest that trap.

use core::fmt;

use aarch64_cpu::registers::{
    ELR_EL2, ESR_EL2, FAR_EL2, HPFAR_EL2, PAR_EL1, ReadWriteable, Readable, SPSR_EL2, TPIDR_EL0,
    TPIDR_EL1, Writeable,
};
use tock_registers::LocalRegisterCopy;
use vgic::mmio::{DataAbort, MmioOutcome};
use vgic::sysreg::SysReg;

use super::exit::{TrapOutcome, Wait};
use super::frame::Frame;
use super::vectors::translate;
use super::{debug_registers, inject, report};
use crate::cpu::id_registers;
use crate::cpu::this_cpu::{Loaded, PinnedCpu};
use crate::println;
use crate::vcpu::ExitReason;
use crate::vm::{Extent, console, psci};

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

/// Handles the trap that `ESR_EL2` describes, of a guest with a GICv2 if `GICV2`.
pub(super) fn handle_trap<const GICV2: bool>(
    loaded: Loaded,
    pin: &PinnedCpu<'_>,
    frame: &mut Frame,
) -> TrapOutcome {
    let vcpu = loaded.vcpu;
    let syndrome = ESR_EL2.extract();
    match syndrome.read(ESR_EL2::EC) {
        exception_class::DATA_ABORT => {
            data_abort::<GICV2>(loaded, pin, frame, syndrome.get());
            TrapOutcome::Resume
        }
        exception_class::SYSTEM_REGISTER => {
            system_register::<GICV2>(loaded, pin, frame, SysRegTrap(syndrome.get()));
            TrapOutcome::Resume
        }
        exception_class::WFX => {
            // Only WFI traps. At EL0 of AArch32 it may have 16 bits.
            let length = if syndrome.is_set(ESR_EL2::IL) { 4 } else { 2 };
            advance(length);
            TrapOutcome::Wait(Wait::Standby)
        }
        class @ (exception_class::HVC | exception_class::SMC) => {
            vcpu.count(ExitReason::Hypercall);
            // A trapped SMC has not been executed yet; HVC has.
            if class == exception_class::SMC {
                skip();
            }
            psci::handle_call(frame, vcpu)
        }
        exception_class::INSTRUCTION_ABORT => {
            vcpu.count(ExitReason::Other);
            // The CPU writes access flags into tables of stage 1.
            if !is_denied(syndrome.get()) || !is_noted_write(loaded, syndrome.get()) {
                report_unmapped("instruction fetch", loaded);
                inject::external_abort(true);
            }
            TrapOutcome::Resume
        }
        _ => {
            vcpu.count(ExitReason::Other);
            report_mistake(
                loaded,
                format_args!("unexpected trap, ESR_EL2 {:#x}", syndrome.get()),
                "undefined instruction",
            );
            inject::undefined();
            TrapOutcome::Resume
        }
    }
}

/// Advances the guest past the trapped instruction.
pub(crate) fn skip() {
    advance(INSTRUCTION);
}

/// Advances the guest past an instruction of so many bytes, as if it had been executed: a single
/// step is done.
fn advance(bytes: u64) {
    // BTYPE stays: only a guarded page looks at it, where no instruction that traps is the target
    // of a branch.
    if SPSR_EL2.is_set(SPSR_EL2::SS) {
        end_step();
    }
    ELR_EL2.set(ELR_EL2.get().wrapping_add(bytes));
}

/// Ends the single step that the guest is in. Out of line: saves 3 of the 291 instructions of a
/// read of a GICD register.
#[cold]
fn end_step() {
    SPSR_EL2.modify(SPSR_EL2::SS.val(0));
}

/// Returns the guest-physical address of the trapped access.
pub(crate) fn fault_address() -> u64 {
    HPFAR_EL2.read(HPFAR_EL2::FIPA) << 12 | FAR_EL2.get() & 0xfff
}

/// Emulates an access to a frame of the interrupt controller or to another emulated device, or
/// injects an external abort where the guest has no device.
fn data_abort<const GICV2: bool>(
    loaded: Loaded,
    pin: &PinnedCpu<'_>,
    frame: &mut Frame,
    syndrome: u64,
) {
    let Loaded { vcpu, vgic } = loaded;
    vcpu.count(ExitReason::Mmio);
    // First: the address of a device is known after other faults only.
    if is_denied(syndrome) && is_noted_write(loaded, syndrome) {
        return;
    }
    let Some(abort) = DataAbort::from_esr(syndrome) else {
        report_unmapped("access without a syndrome", loaded);
        return inject::external_abort(false);
    };

    let address = fault_address();
    let outcome = if abort.is_write() && GICV2 {
        vgic.mmio_write_of(pin, vcpu.id, address, abort.width(), written(frame, &abort))
    } else if abort.is_write() {
        vgic.mmio_write(pin, address, abort.width(), written(frame, &abort))
    } else {
        vgic.mmio_read(pin, vcpu.id, address, abort.width())
    };

    match outcome.expect("the vCPU is of this VM") {
        MmioOutcome::Done(value) => complete(frame, &abort, value),
        MmioOutcome::Retry => {}
        MmioOutcome::Unclaimed => other_device(loaded, pin, frame, &abort, address),
    }
}

/// Returns true if the syndrome of an abort tells of a permission fault.
fn is_denied(syndrome: u64) -> bool {
    /// `ESR_EL2.DFSC` and `IFSC`, without the level.
    const STATUS: u64 = 0b11_1100;
    const PERMISSION: u64 = 0b00_1100;
    syndrome & STATUS == PERMISSION
}

/// Notes the page of a write that stage 2 has denied for the note, and allows the write, which the
/// guest tries again. Returns false if the access is another.
#[cold]
#[inline(never)]
fn is_noted_write(loaded: Loaded, syndrome: u64) -> bool {
    /// `ESR_EL2.S1PTW`: the access was one of a stage 1 table.
    const OF_TABLE: u64 = 1 << 7;
    // After a permission fault `HPFAR_EL2` is UNKNOWN, but for an access of a table.
    let gpa = if syndrome & OF_TABLE != 0 {
        Some(fault_address())
    } else {
        translate_and_keep(FAR_EL2.get())
    };
    let vm = loaded.vcpu.vm;
    let dirty = vm.memory.dirty.as_ref().zip(gpa);
    dirty.is_some_and(|(dirty, gpa)| dirty.allow(&vm.stage2, gpa as usize))
}

/// Translates an address by stage 1 of the guest, which goes on where it was. Returns `None` if the
/// guest has nothing there.
fn translate_and_keep(address: u64) -> Option<u64> {
    let kept = (
        TPIDR_EL0.get(),
        TPIDR_EL1.get(),
        ELR_EL2.get(),
        SPSR_EL2.get(),
        PAR_EL1.get(),
    );
    let translated = LocalRegisterCopy::<u64, PAR_EL1::Register>::new(translate(address));
    TPIDR_EL0.set(kept.0);
    TPIDR_EL1.set(kept.1);
    ELR_EL2.set(kept.2);
    SPSR_EL2.set(kept.3);
    PAR_EL1.set(kept.4);
    let page = translated.read(PAR_EL1::PA) << 12;
    (!translated.is_set(PAR_EL1::F)).then_some(page | address & 0xfff)
}

/// Returns the value that a store writes.
fn written(frame: &Frame, abort: &DataAbort) -> u64 {
    abort.register().map_or(0, |register| frame.x[register])
}

/// Completes an access that has read `value`.
fn complete(frame: &mut Frame, abort: &DataAbort, value: u64) {
    if let Some(register) = abort.register().filter(|_| !abort.is_write()) {
        frame.x[register] = abort.load_result(value);
    }
    skip();
}

/// Emulates an access to a device other than the interrupt controller, or injects an external abort
/// where there is none.
#[cold]
#[inline(never)]
fn other_device(
    loaded: Loaded,
    pin: &PinnedCpu<'_>,
    frame: &mut Frame,
    abort: &DataAbort,
    address: u64,
) {
    let vm = loaded.vcpu.vm;
    let value = written(frame, abort);
    let set_line = |high| console::set_line(loaded.vgic, pin, high);
    let devices = vm.devices.as_ref().filter(|it| it.claims(address));
    let entropy = vm.entropy.as_ref().filter(|it| it.claims(address));
    let console = vm.console.as_ref().filter(|it| it.claims(address));
    let bytes = abort.width().bytes();
    let hop = vm.hop.as_ref().filter(|it| it.claims(address));
    if let Some(hop) = hop.filter(|_| abort.is_write())
        && hop.write(loaded.vcpu, loaded.vgic, pin, address, value)
    {
        // The access is repeated until the VM is saved.
        return;
    }

    let done = match (devices, entropy, console) {
        (Some(devices), ..) if abort.is_write() => {
            devices.write(address, bytes, value);
            Some(0)
        }
        (Some(devices), ..) => Some(devices.read(address, bytes)),
        (_, Some(entropy), _) if abort.is_write() => {
            entropy.write(vm, loaded.vgic, pin, address, bytes, value);
            Some(0)
        }
        (_, Some(entropy), _) => Some(entropy.read(address, bytes)),
        (.., Some(console)) if abort.is_write() => {
            console.write(address, value, set_line);
            Some(0)
        }
        (.., Some(console)) => Some(console.read(address, set_line)),
        (None, None, None) => hop.map(|_| 0),
    };
    match done {
        Some(value) => complete(frame, abort, value),
        None => {
            report_unmapped(if abort.is_write() { "write" } else { "read" }, loaded);
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
/// Instruction exception for any other register. A GICv2 has no system registers.
fn system_register<const GICV2: bool>(
    loaded: Loaded,
    pin: &PinnedCpu<'_>,
    frame: &mut Frame,
    trapped: SysRegTrap,
) {
    let Loaded { vcpu, vgic } = loaded;
    vcpu.count(ExitReason::SystemRegister);
    let register = trapped.register();

    let done = match trapped.sysreg().filter(|_| !GICV2) {
        Some(target) if trapped.is_read() => {
            let value = vgic.sysreg_read(pin, vcpu.id, target);
            value.map(|value| {
                if register != XZR {
                    frame.x[register] = value;
                }
            })
        }
        Some(target) => {
            let value = frame.x.get(register).copied().unwrap_or(0);
            let written = vgic.sysreg_write(pin, vcpu.id, target, value);
            written.expect("the vCPU is of this VM");
            Some(())
        }
        None => other_register(loaded, frame, trapped),
    };

    match done {
        Some(()) => skip(),
        None => {
            report_mistake(
                loaded,
                format_args!("system register of ESR_EL2 {:#x} is not there", trapped.0),
                "undefined instruction",
            );
            inject::undefined();
        }
    }
}

/// Emulates an access to a system register other than the interrupt controller's. Returns `None` if
/// the guest does not have the register.
#[cold]
#[inline(never)]
fn other_register(loaded: Loaded, frame: &mut Frame, trapped: SysRegTrap) -> Option<()> {
    let (register, iss) = (trapped.register(), trapped.0 as u32);
    if !trapped.is_read() {
        return debug_registers::write(iss, frame.x.get(register).copied().unwrap_or(0));
    }
    let value = id_registers::read(iss, loaded.vcpu.vm.reader());
    let value = value.or_else(|| debug_registers::read(iss))?;
    if register != XZR {
        frame.x[register] = value;
    }
    Some(())
}

/// Reports a system error that was taken to EL2 while the guest ran.
///
/// # Panics
/// If the VM has the whole machine: the machine is broken.
#[cold]
pub(super) fn report_system_error(loaded: Loaded, frame: &Frame) {
    let pc = ELR_EL2.get();
    let vm = loaded.vcpu.vm;
    assert!(
        vm.extent == Extent::Part,
        "system error, guest at pc {pc:#x}, {frame:#x?}"
    );
    println!("hyp: {}: system error at pc {pc:#x}: killed", vm.name);
}

/// Reports an access to an address where the guest has no device.
fn report_unmapped(name: &str, loaded: Loaded) {
    let address = fault_address();
    report_mistake(
        loaded,
        format_args!("{name} at unmapped address {address:#x}"),
        "external abort",
    );
}

/// Prints a mistake of the guest, and the exception that it gets. Nothing is printed for a VM with
/// a part of the machine: it may make mistakes all day, and printing takes time of every VM.
#[cold]
fn report_mistake(loaded: Loaded, mistake: fmt::Arguments<'_>, exception: &str) {
    if loaded.vcpu.vm.extent == Extent::Whole {
        report::print(format_args!(
            "hyp: vcpu {}: {mistake}, at pc {:#x}: {exception}",
            loaded.vcpu.id.index(),
            ELR_EL2.get()
        ));
    }
}
