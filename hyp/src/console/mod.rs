//! The console: a [`uart`] that the hypervisor shares with the guest.
//!
//! Output is polled, and the device's settings are left alone, so that the guest's driver notices
//! nothing. Input comes by interrupt, if no guest has the device.
#![expect(unsafe_code)]
// UNSAFETY: takes the device's registers at the address that the device tree gives.

mod ns16550;
pub(crate) mod uart;

use core::fmt::{self, Write};
use core::ptr::NonNull;
use core::sync::atomic::{AtomicUsize, Ordering};

use aarch64_cpu::asm;
use smccc::{Smc, psci};
use spin::Mutex;

use crate::cpu::registers::{ID_AA64ISAR0, id_field};
use uart::{Kind, Uart};

static CONSOLE: Mutex<Option<Uart>> = Mutex::new(None);

/// Attempts of a panicking CPU to take the lock before it breaks the lock.
const PATIENCE: usize = 1_000_000;

/// Starts using the UART of this kind at `address`.
///
/// # Safety
/// Such a UART is mapped at `address` for as long as the hypervisor runs, and only the guest uses
/// it too.
pub(crate) unsafe fn start(kind: Kind, address: NonNull<u8>) {
    // SAFETY: by the caller's promise.
    let mut uart = unsafe { Uart::new(kind, address) };
    require_atomics(&mut uart);
    *CONSOLE.lock() = Some(uart);
}

/// Powers the machine off if its CPUs lack FEAT_LSE, whose instructions this program is compiled
/// to. The check comes first, because every lock, the console's included, is made of these
/// instructions.
///
/// The line begins with `@hyp-stop`, which tells a watcher that the machine cannot run the
/// hypervisor, and why.
fn require_atomics(uart: &mut Uart) {
    const ATOMIC_SHIFT: u32 = 20;
    if id_field(ID_AA64ISAR0, ATOMIC_SHIFT) == 0 {
        let _ = uart.write_str("@hyp-stop this CPU has no FEAT_LSE (Armv8.1)\r\n");
        power_off();
    }
}

/// Prints why the hypervisor stops, and powers the machine off.
pub(crate) fn stop(why: fmt::Arguments<'_>) -> ! {
    print_at_any_cost(format_args!("\n@hyp-stop {why}\n"));
    power_off()
}

/// Powers the machine off.
fn power_off() -> ! {
    let _ = psci::system_off::<Smc>();
    loop {
        asm::wfe();
    }
}

/// Prints `arguments` if there is a console.
pub(crate) fn print(arguments: fmt::Arguments<'_>) {
    if let Some(uart) = CONSOLE.lock().as_mut() {
        let _ = Lines(uart).write_fmt(arguments);
    }
}

/// Number of the VM whose bytes are printed as they come, plus 1; 0 if there is none.
static ATTACHED: AtomicUsize = AtomicUsize::new(0);

/// Returns the VM that the console is attached to.
pub(crate) fn attached() -> Option<usize> {
    // Relaxed: a byte that is written at the same time may go either way.
    ATTACHED.load(Ordering::Relaxed).checked_sub(1)
}

/// Attaches the console to a VM, or to none.
pub(crate) fn attach(vm: Option<usize>) {
    ATTACHED.store(vm.map_or(0, |vm| vm + 1), Ordering::Relaxed);
}

/// Writes a byte as it is.
pub(crate) fn write(byte: u8) {
    if let Some(uart) = CONSOLE.lock().as_mut() {
        uart.write(byte);
    }
}

/// Makes the console interrupt when a byte has been typed.
pub(crate) fn listen() {
    if let Some(uart) = CONSOLE.lock().as_mut() {
        uart.listen();
    }
}

/// Takes a byte that has been typed, if there is one.
pub(crate) fn read() -> Option<u8> {
    let mut console = CONSOLE.lock();
    let uart = console.as_mut()?;
    uart.read()
}

/// Prints `arguments` even if a CPU has stopped while it held the console's lock.
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
    // SAFETY: the lock's holder has had ample time. The panic report matters more than its output.
    unsafe { CONSOLE.force_unlock() };
    if let Some(uart) = CONSOLE.lock().as_mut() {
        let _ = Lines(uart).write_fmt(arguments);
    }
}

/// Writer that ends lines with a carriage return and a line feed, as terminals expect.
struct Lines<'a>(&'a mut Uart);

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
