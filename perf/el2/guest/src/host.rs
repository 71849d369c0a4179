//! The outside of the guest: the console and PSCI.

use core::fmt;

use crate::boot::start_second;
use crate::cpu::{affinity, hypercall, relax};
use crate::mmio::write_8;

const UART: usize = 0x0900_0000;

const PSCI_VERSION: u32 = 0x8400_0000;
const CPU_ON: u32 = 0xc400_0003;
const CPU_OFF: u32 = 0x8400_0002;
const SYSTEM_OFF: u32 = 0x8400_0008;

/// The console.
pub(crate) struct Console;

impl fmt::Write for Console {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        text.bytes().for_each(|byte| write_8(UART, byte));
        Ok(())
    }
}

/// Makes the cheapest hypervisor call.
#[inline(always)]
pub(crate) fn psci_version() -> u64 {
    hypercall(PSCI_VERSION, 0, 0, 0)
}

/// Starts the vCPU of a number.
pub(crate) fn start_vcpu(number: u32) {
    assert!(try_start_vcpu(number), "vCPU {number} does not start");
}

/// Starts the vCPU of a number. Returns false if it is on.
pub(crate) fn try_start_vcpu(number: u32) -> bool {
    let entry = start_second as *const () as u64;
    hypercall(CPU_ON, affinity(number), entry, number.into()) == 0
}

/// Turns the calling vCPU off.
pub(crate) fn turn_off() -> ! {
    hypercall(CPU_OFF, 0, 0, 0);
    loop {
        relax();
    }
}

/// Turns the machine off.
pub(crate) fn power_off() -> ! {
    hypercall(SYSTEM_OFF, 0, 0, 0);
    loop {
        relax();
    }
}
