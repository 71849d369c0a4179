//! Exceptions that end the run.

use aarch64_cpu::registers::{ELR_EL2, Readable};

use super::frame::Frame;
use crate::panic::{self, Interrupted};

/// Names of the four kinds of exceptions, by number in the vectors.
const KINDS: [&str; 4] = ["synchronous exception", "IRQ", "FIQ", "system error"];

/// Reports a fault of the hypervisor. Entered by the vectors on the emergency stack.
pub(super) extern "C" fn fault(kind: usize, frame: &Frame, stack: usize) -> ! {
    let kind = KINDS[kind];
    let interrupted = Interrupted {
        frame,
        stack,
        pc: ELR_EL2.get(),
    };
    panic::report(format_args!("{kind} at EL2"), Some(&interrupted))
}
