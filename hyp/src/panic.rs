//! The report of a fault of the hypervisor: prints the place and the state, and powers the machine
//! off.
//!
//! The first line begins with `@hyp-panic`, which tells a watcher that the run has failed.

use core::fmt;
use core::panic::PanicInfo;
use core::sync::atomic::{AtomicBool, Ordering};

use aarch64_cpu::registers::{
    ELR_EL1, ELR_EL2, ESR_EL1, ESR_EL2, FAR_EL1, FAR_EL2, HCR_EL2, HPFAR_EL2, Readable, SCTLR_EL1,
    SCTLR_EL2, SPSR_EL1, SPSR_EL2, TTBR0_EL2, VTTBR_EL2,
};
use smccc::{Smc, psci};

use crate::backtrace;
use crate::console;
use crate::cpu::percpu::PerCpu;
use crate::exception::frame::Frame;

/// Hypervisor state at the time of an exception.
pub(crate) struct Interrupted<'a> {
    /// General registers.
    pub(crate) frame: &'a Frame,
    /// Stack pointer.
    pub(crate) stack: usize,
    /// Address of the interrupted instruction.
    pub(crate) pc: u64,
}

macro_rules! say {
    ($($arguments:tt)*) => {
        console::print_at_any_cost(format_args!("{}\n", format_args!($($arguments)*)))
    };
}

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    match info.location() {
        Some(location) => report(format_args!("{location}: {}", info.message()), None),
        None => report(format_args!("{}", info.message()), None),
    }
}

/// Prints `message` and the state of the CPU, and powers the machine off. Only the first panic of
/// the machine is reported.
pub(crate) fn report(message: fmt::Arguments<'_>, interrupted: Option<&Interrupted<'_>>) -> ! {
    static PANICKING: AtomicBool = AtomicBool::new(false);
    if !PANICKING.swap(true, Ordering::Relaxed) {
        match PerCpu::try_current() {
            Some(cpu) => say!("\n@hyp-panic cpu {}: {message}", cpu.index),
            None => say!("\n@hyp-panic boot: {message}"),
        }
        registers(interrupted);
        say!("return addresses on the stack, perhaps with those of calls that have ended:");
        backtrace::addresses(interrupted, |address| say!("  {address:#x}"));
    }
    let _ = psci::system_off::<Smc>();
    loop {
        aarch64_cpu::asm::wfe();
    }
}

/// Prints the interrupted general registers and the system registers.
fn registers(interrupted: Option<&Interrupted<'_>>) {
    if let Some(Interrupted { frame, stack, pc }) = interrupted {
        for (row, values) in frame.x.chunks(4).enumerate() {
            for (column, value) in values.iter().enumerate() {
                let number = row * 4 + column;
                console::print_at_any_cost(format_args!("  x{number:<2} {value:016x}"));
            }
            say!("");
        }
        say!("  sp  {stack:016x}  pc  {pc:016x}");
    }

    let system: [[(&str, u64); 3]; 5] = [
        [
            ("ESR_EL2", ESR_EL2.get()),
            ("ELR_EL2", ELR_EL2.get()),
            ("SPSR_EL2", SPSR_EL2.get()),
        ],
        [
            ("FAR_EL2", FAR_EL2.get()),
            ("HPFAR_EL2", HPFAR_EL2.get()),
            ("HCR_EL2", HCR_EL2.get()),
        ],
        [
            ("TTBR0_EL2", TTBR0_EL2.get()),
            ("VTTBR_EL2", VTTBR_EL2.get()),
            ("SCTLR_EL2", SCTLR_EL2.get()),
        ],
        [
            ("ESR_EL1", ESR_EL1.get()),
            ("ELR_EL1", ELR_EL1.get()),
            ("SPSR_EL1", SPSR_EL1.get()),
        ],
        [
            ("FAR_EL1", FAR_EL1.get()),
            ("SCTLR_EL1", SCTLR_EL1.get()),
            ("", 0),
        ],
    ];

    for row in system {
        for (name, value) in row.into_iter().filter(|(name, _)| !name.is_empty()) {
            console::print_at_any_cost(format_args!("  {name:<9} {value:016x}"));
        }
        say!("");
    }
}
