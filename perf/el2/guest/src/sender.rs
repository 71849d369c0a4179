//! The sender of MSIs.

use crate::cpu::{mark, relax, spin};
use crate::event::Event;
use crate::mmio::write_64;
use crate::pci::Edu;

/// Register of the client of /dev/kvm. Holds the number of an event in the low byte, and above it
/// the address of a counter that goes up when the event's interrupt has been handled.
const DOORBELL: usize = 0x0b00_0000;

/// Sender of MSIs.
pub(crate) enum Sender {
    /// A device of the machine, whose interrupt the hypervisor takes and injects.
    Device(Edu),
    /// The hypervisor's user space, asked through [`DOORBELL`].
    UserSpace,
}

impl Sender {
    /// Returns the DeviceID of the sender.
    pub(crate) fn device(&self) -> u32 {
        match self {
            Self::Device(edu) => edu.device,
            Self::UserSpace => 8,
        }
    }

    /// Makes the sender send MSIs as `event` from now on, with the event's number as EventID.
    pub(crate) fn prepare(&self, event: Event) {
        if let Self::Device(edu) = self {
            edu.set_event(event as u32);
        }
    }

    /// Sends an MSI as the prepared event, between the event's markers. The event ends when
    /// `handled` returns true.
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
                    // Ample time for the other CPU, whose handling is not visible here.
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
