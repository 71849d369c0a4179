//! Calls of the firmware (Arm DEN 0022).
#![expect(unsafe_code)]
// UNSAFETY: HVC.

use core::arch::asm;

const CPU_OFF: u64 = 0x8400_0002;
const CPU_ON: u64 = 0xc400_0003;
const SYSTEM_OFF: u64 = 0x8400_0008;

/// Calls the firmware by HVC.
pub(crate) fn call(function: u64, arguments: [u64; 3]) -> u64 {
    let [a, b, c] = arguments;
    let result;
    // SAFETY: a call changes no memory of the guest, and no registers but these.
    unsafe {
        asm!(
            "hvc #0",
            inout("x0") function => result,
            inout("x1") a => _,
            inout("x2") b => _,
            inout("x3") c => _,
            options(nostack)
        );
    }
    result
}

/// Turns the vCPU with this affinity on. Does nothing if the vCPU is on.
pub(crate) fn cpu_on(affinity: u64, entry: u64) -> u64 {
    call(CPU_ON, [affinity, entry, 0])
}

/// Turns the calling vCPU off.
pub(crate) fn cpu_off() {
    call(CPU_OFF, [0; 3]);
}

/// Switches the machine off.
pub(crate) fn system_off() -> ! {
    loop {
        call(SYSTEM_OFF, [0; 3]);
    }
}
