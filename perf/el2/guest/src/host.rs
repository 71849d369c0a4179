//! What is outside the guest: the console, PSCI, and whoever injects MSIs from there.

use core::fmt;

use crate::boot::start_second;
use crate::cpu::{hypercall, mark, relax, spin};
use crate::event::Event;
use crate::mmio::{write_8, write_64};
use crate::pci::Edu;

const UART: usize = 0x0900_0000;

const PSCI_VERSION: u32 = 0x8400_0000;
const CPU_ON: u32 = 0xc400_0003;
const SYSTEM_OFF: u32 = 0x8400_0008;

/// Register of the client of /dev/kvm: the number of an event in the low byte, and above it the
/// address of a counter that goes up when the event's interrupt has been handled.
const DOORBELL: usize = 0x0b00_0000;

/// The console.
pub(crate) struct Console;

impl fmt::Write for Console {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        text.bytes().for_each(|byte| write_8(UART, byte));
        Ok(())
    }
}

/// The cheapest call there is.
#[inline(always)]
pub(crate) fn psci_version() -> u64 {
    hypercall(PSCI_VERSION, 0, 0, 0)
}

/// Starts vCPU 1.
pub(crate) fn start_vcpu_1() {
    let entry = start_second as *const () as u64;
    assert!(hypercall(CPU_ON, 1, entry, 0) == 0, "vCPU 1 does not start");
}

/// Turns the machine off.
pub(crate) fn power_off() -> ! {
    hypercall(SYSTEM_OFF, 0, 0, 0);
    loop {
        relax();
    }
}

/// Who sends MSIs from outside.
pub(crate) enum Sender {
    /// A device of the machine: the hypervisor takes its interrupt and injects it.
    Device(Edu),
    /// The hypervisor's user space, asked through [`DOORBELL`].
    UserSpace,
}

impl Sender {
    /// The DeviceID that it sends with.
    pub(crate) fn device(&self) -> u32 {
        match self {
            Self::Device(edu) => edu.device,
            Self::UserSpace => 8,
        }
    }

    /// Has it send MSIs as `event` from now on, by the EventID of that number.
    pub(crate) fn prepare(&self, event: Event) {
        if let Self::Device(edu) = self {
            edu.set_event(event as u32);
        }
    }

    /// Sends an MSI as the event that was prepared for, and marks the event. `handled` is called to
    /// see whether it is over; without it, it is over once the MSI is injected.
    #[inline(always)]
    pub(crate) fn send<const EVENT: u16>(
        &self,
        event: Event,
        counter: usize,
        handled: impl Fn() -> bool,
    ) {
        match self {
            Self::Device(edu) => {
                mark::<EVENT>();
                edu.raise();
                if event == Event::Msi {
                    // Ample for the other CPU, which nobody tells us about.
                    spin(20);
                }
                while !handled() {
                    relax();
                }
                mark::<{ Event::end() }>();
                edu.acknowledge();
            }
            Self::UserSpace => write_64(DOORBELL, (counter as u64) << 8 | event as u64),
        }
    }
}
