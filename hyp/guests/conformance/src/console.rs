//! The console: a PL011 that the boot loader has set up.

use core::fmt;
use core::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use crate::mmio::{read_32, write_8};

const FLAGS: usize = 0x18;
const TRANSMIT_FULL: u32 = 1 << 5;

/// Address of the PL011. At first the address on QEMU's `virt` board, later the device tree's.
static UART: AtomicUsize = AtomicUsize::new(0x0900_0000);

/// Sets the address of the PL011.
pub fn use_uart(address: usize) {
    UART.store(address, Relaxed);
}

/// The console.
pub struct Console;

impl fmt::Write for Console {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let uart = UART.load(Relaxed);
        for byte in text.bytes() {
            while read_32(uart + FLAGS) & TRANSMIT_FULL != 0 {}
            write_8(uart, byte);
        }
        Ok(())
    }
}

/// Prints text.
#[macro_export]
macro_rules! print {
    ($($argument:tt)*) => {{
        // The console never fails.
        let _ = core::fmt::Write::write_fmt(
            &mut $crate::console::Console,
            format_args!($($argument)*),
        );
    }};
}

/// Prints a line.
#[macro_export]
macro_rules! println {
    ($($argument:tt)*) => {{
        $crate::console::print!($($argument)*);
        $crate::console::print!("\n");
    }};
}

pub use {print, println};
