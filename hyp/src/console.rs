//! The console: a PL011 that the hypervisor shares with the guest.
//!
//! Writing is by polling and leaves the device's settings alone, so the guest's driver does not notice.
#![expect(unsafe_code)]
// UNSAFETY: takes the device's registers at the address that the device tree gives.

use core::fmt::{self, Write};
use core::ptr::NonNull;

use aarch64_cpu::asm;
use arm_pl011_uart::{DataBits, LineConfig, PL011Registers, Parity, StopBits, Uart};
use safe_mmio::UniqueMmioPointer;
use spin::Mutex;

use crate::cpu::registers::{ID_AA64ISAR0, id_field};

static CONSOLE: Mutex<Option<Uart<'static>>> = Mutex::new(None);

/// How often a panicking CPU tries the lock before it takes the console by force.
const PATIENCE: usize = 1_000_000;

/// Baud rate and clock that the device is enabled with, until the guest's driver chooses.
const LINE: (u32, u32) = (115_200, 24_000_000);

/// Starts using the PL011 at `address`.
///
/// # Safety
/// There is one, it is mapped at this address for as long as the hypervisor runs, and only the guest
/// uses it too.
pub(crate) unsafe fn start(address: NonNull<PL011Registers>) {
    // SAFETY: forwarded to the caller; the guest's accesses are another bus master's.
    let mut uart = Uart::new(unsafe { UniqueMmioPointer::new(address) });
    let line = LineConfig {
        data_bits: DataBits::Bits8,
        parity: Parity::None,
        stop_bits: StopBits::One,
    };
    // The line settings are valid constants.
    let _ = uart.enable(line, LINE.0, LINE.1);
    require_atomics(&mut uart);
    *CONSOLE.lock() = Some(uart);
}

/// Stops where the CPU lacks the atomic instructions that this program is compiled with: here, because
/// any lock, the console's first of all, is made of them.
fn require_atomics(uart: &mut Uart<'_>) {
    const ATOMIC_SHIFT: u32 = 20;
    if id_field(ID_AA64ISAR0, ATOMIC_SHIFT) == 0 {
        let _ = uart.write_str("hyp: this CPU has no FEAT_LSE (Armv8.1), which hyp needs\r\n");
        loop {
            asm::wfe();
        }
    }
}

/// Prints, if there is a console.
pub(crate) fn print(arguments: fmt::Arguments<'_>) {
    if let Some(uart) = CONSOLE.lock().as_mut() {
        let _ = Lines(uart).write_fmt(arguments);
    }
}

/// Prints even if a CPU has stopped in the middle of printing.
pub(crate) fn print_at_any_cost(arguments: fmt::Arguments<'_>) {
    for _ in 0..PATIENCE {
        if let Some(mut console) = CONSOLE.try_lock() {
            if let Some(uart) = console.as_mut() {
                let _ = Lines(uart).write_fmt(arguments);
            }
            return;
        }
        core::hint::spin_loop();
    }
    // SAFETY: the holder has had ample time; what remains is to say why we panic.
    unsafe { CONSOLE.force_unlock() };
    if let Some(uart) = CONSOLE.lock().as_mut() {
        let _ = Lines(uart).write_fmt(arguments);
    }
}

/// Ends lines as a terminal expects it.
struct Lines<'a>(&'a mut Uart<'static>);

impl Write for Lines<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for line in text.split_inclusive('\n') {
            match line.strip_suffix('\n') {
                Some(line) => {
                    self.0.write_str(line)?;
                    self.0.write_str("\r\n")?;
                }
                None => self.0.write_str(line)?,
            }
        }
        Ok(())
    }
}

/// Prints one line on the console.
#[macro_export]
macro_rules! println {
    ($($arguments:tt)*) => {
        $crate::console::print(format_args!("{}\n", format_args!($($arguments)*)))
    };
}
