//! The console: a PL011 at the address of QEMU's `virt` board, written without polling.

use core::fmt::{self, Write};

use crate::memory;

/// `UARTDR`.
const DATA: u64 = 0x0900_0000;

/// Prints one line, in one piece as long as one vCPU writes at a time.
pub(crate) fn print(arguments: fmt::Arguments<'_>) {
    // The writer below does not fail.
    let _ = Uart.write_fmt(arguments);
}

struct Uart;

impl Write for Uart {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        text.bytes()
            .for_each(|byte| memory::write32(DATA, byte.into()));
        Ok(())
    }
}

/// Prints one line.
#[macro_export]
macro_rules! println {
    ($($arguments:tt)*) => {
        $crate::console::print(format_args!("{}\n", format_args!($($arguments)*)))
    };
}
