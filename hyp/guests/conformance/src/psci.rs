//! PSCI calls (Arm DEN 0022), by HVC or SMC as the device tree says.
#![expect(unsafe_code)]
// UNSAFETY: instructions that call.

use core::arch::asm;
use core::sync::atomic::{AtomicBool, Ordering::Relaxed};

use crate::start::secondary_start;

const CPU_OFF: u32 = 0x8400_0002;
const SYSTEM_OFF: u32 = 0x8400_0008;
const CPU_SUSPEND: u32 = 0xc400_0001;
const CPU_ON: u32 = 0xc400_0003;
const AFFINITY_INFO: u32 = 0xc400_0004;
const FEATURES: u32 = 0x8400_000a;
const SYSTEM_SUSPEND: u32 = 0xc400_000e;

/// `AFFINITY_INFO` of a CPU that is off.
pub const OFF: u64 = 1;

static BY_SMC: AtomicBool = AtomicBool::new(false);

/// Makes later calls by SMC.
pub fn use_smc() {
    BY_SMC.store(true, Relaxed);
}

/// Calls the firmware or hypervisor and returns `x0`.
fn call(function: u32, a: u64, b: u64, c: u64) -> u64 {
    let result;
    macro_rules! call {
        ($instruction:literal) => {
            // SAFETY: the calling convention (Arm DEN 0028): x0 to x17 may change.
            unsafe {
                asm!(
                    $instruction,
                    inout("x0") u64::from(function) => result,
                    inout("x1") a => _, inout("x2") b => _, inout("x3") c => _,
                    out("x4") _, out("x5") _, out("x6") _, out("x7") _, out("x8") _, out("x9") _,
                    out("x10") _, out("x11") _, out("x12") _, out("x13") _, out("x14") _,
                    out("x15") _, out("x16") _, out("x17") _,
                    options(nostack)
                )
            }
        };
    }

    if BY_SMC.load(Relaxed) {
        call!("smc #0");
    } else {
        call!("hvc #0");
    }
    result
}

/// Turns a CPU on, with its number in `x0`. Returns true on success.
pub fn cpu_on(affinity: u64, number: usize) -> bool {
    let entry = secondary_start as *const () as u64;
    call(CPU_ON, affinity, entry, number as u64) == 0
}

/// Turns the calling CPU off.
pub fn cpu_off() -> ! {
    call(CPU_OFF, 0, 0, 0);
    panic!("the CPU cannot be turned off");
}

/// Returns true if the firmware or hypervisor suspends CPUs and the machine. QEMU has
/// `CPU_SUSPEND`, from which no interrupt wakes a CPU.
pub fn can_suspend() -> bool {
    call(FEATURES, SYSTEM_SUSPEND.into(), 0, 0) == 0
}

/// Puts the calling CPU in standby until an interrupt wakes it.
pub fn stand_by() {
    call(CPU_SUSPEND, 0, 0, 0);
}

/// Returns the power state of a CPU: [`OFF`] if it is off.
pub fn affinity_info(affinity: u64) -> u64 {
    call(AFFINITY_INFO, affinity, 0, 0)
}

/// Turns the machine off.
pub fn system_off() -> ! {
    call(SYSTEM_OFF, 0, 0, 0);
    loop {
        crate::cpu::relax();
    }
}
