//! Exceptions that end the run.

use aarch64_cpu::registers::{ELR_EL2, Readable};

use super::frame::Frame;
use crate::panic::{self, Interrupted};

/// What the vectors call the four kinds of exceptions.
const KINDS: [&str; 4] = ["synchronous exception", "IRQ", "FIQ", "system error"];

/// A fault of the hypervisor itself; entered by the vectors on the emergency stack.
pub(super) extern "C" fn fault(kind: usize, frame: &Frame, stack: usize) -> ! {
    let kind = KINDS[kind];
    let interrupted = Interrupted {
        frame,
        stack,
        pc: ELR_EL2.get(),
    };
    panic::report(format_args!("{kind} at EL2"), Some(&interrupted))
}

/// A system error while the guest ran that the guest does not get itself.
pub(super) extern "C" fn system_error(frame: &mut Frame) -> ! {
    panic!(
        "system error, guest at pc {:#x}, {frame:#x?}",
        ELR_EL2.get()
    );
}
