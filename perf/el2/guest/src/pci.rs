//! A device that sends an MSI on command: QEMU's `edu`, on the first PCI bus.

use crate::its::GITS_TRANSLATER;
use crate::mmio::{read_8, read_32, write_32};

/// Configuration space of the first bus.
const CONFIGURATION: usize = 0x40_1000_0000;
/// Address for the device's registers, in the window for 32-bit addresses.
const WINDOW: u32 = 0x1000_0000;

const EDU: u32 = 0x11e8_1234;
const COMMAND: usize = 0x04;
const MEMORY_AND_MASTER: u32 = 6;
const BASE_0: usize = 0x10;
const CAPABILITIES: usize = 0x34;
const MSI: u8 = 5;

/// Register that makes the device send its MSI.
const RAISE: usize = WINDOW as usize + 0x60;
const ACKNOWLEDGE: usize = WINDOW as usize + 0x64;

/// The device, ready to send.
pub(crate) struct Edu {
    /// DeviceID at the ITS.
    pub(crate) device: u32,
    capability: usize,
}

impl Edu {
    /// Finds the device and enables its MSIs.
    pub(crate) fn find() -> Option<Self> {
        let function = |slot: usize| CONFIGURATION + (slot << 15);
        let slot = (0..32).find(|&slot| read_32(function(slot)) == EDU)?;
        let function = function(slot);
        write_32(function + BASE_0, WINDOW);
        write_32(function + COMMAND, MEMORY_AND_MASTER);

        let mut capability = usize::from(read_8(function + CAPABILITIES));
        while capability != 0 && read_8(function + capability) != MSI {
            capability = usize::from(read_8(function + capability + 1));
        }
        if capability == 0 {
            return None;
        }

        let edu = Self {
            device: (slot as u32) << 3,
            capability: function + capability,
        };
        edu.set_event(0);
        Some(edu)
    }

    /// Sets the EventID of the MSI.
    pub(crate) fn set_event(&self, event: u32) {
        const ENABLE: u32 = 1 << 16;
        write_32(self.capability + 4, GITS_TRANSLATER as u32);
        write_32(self.capability + 8, 0);
        write_32(self.capability + 12, event);
        write_32(self.capability, read_32(self.capability) | ENABLE);
    }

    /// Makes the device send its MSI.
    #[inline(always)]
    pub(crate) fn raise(&self) {
        write_32(RAISE, 1);
    }

    /// Clears the device's interrupt status.
    pub(crate) fn acknowledge(&self) {
        write_32(ACKNOWLEDGE, 1);
    }
}
