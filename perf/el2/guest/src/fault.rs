//! The end of a guest that has gone wrong: the reason on the console, and the machine off.

use core::fmt::Write;

use crate::host::{self, Console};

/// Reports an exception and turns the machine off. Entered by the vectors.
pub(crate) extern "C" fn fault(syndrome: u64, pc: u64, address: u64) -> ! {
    let _ = writeln!(
        Console,
        "guest: failed: ESR_EL1 {syndrome:#x}, ELR_EL1 {pc:#x}, FAR_EL1 {address:#x}"
    );
    host::power_off()
}

#[panic_handler]
fn panicked(info: &core::panic::PanicInfo<'_>) -> ! {
    let _ = writeln!(Console, "guest: failed: {info}");
    host::power_off()
}
