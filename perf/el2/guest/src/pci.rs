//! A device that sends an MSI on command: QEMU's `edu`, on the first PCI bus.

use crate::its::GITS_TRANSLATER;
use crate::mmio::{read_8, read_32, write_32};

/// Configuration space of the first bus.
const CONFIGURATION: usize = 0x40_1000_0000;
/// Address for the first device's registers, in the window for 32-bit addresses.
const WINDOW: u32 = 0x1000_0000;
/// Bytes of a device's registers.
const REGISTERS: u32 = 1 << 20;

const EDU: u32 = 0x11e8_1234;
const COMMAND: usize = 0x04;
const MEMORY_AND_MASTER: u32 = 6;
const BASE_0: usize = 0x10;
const CAPABILITIES: usize = 0x34;
const MSI: u8 = 5;

/// Register that makes the device send its MSI.
const RAISE: usize = 0x60;
const ACKNOWLEDGE: usize = 0x64;

/// The device, ready to send.
pub(crate) struct Edu {
    /// DeviceID at the ITS.
    pub(crate) device: u32,
    registers: usize,
    capability: usize,
}

impl Edu {
    /// Finds the device of a number among those of the first bus, and enables its MSIs.
    pub(crate) fn find(number: u32) -> Option<Self> {
        let configuration = |device: u32| CONFIGURATION + ((device as usize) << 12);
        let is_edu = |device: &u32| read_32(configuration(*device)) == EDU;
        let device = (0..256).filter(is_edu).nth(number as usize)?;
        let registers = WINDOW + number * REGISTERS;
        let function = configuration(device);
        write_32(function + BASE_0, registers);
        write_32(function + COMMAND, MEMORY_AND_MASTER);

        let mut capability = usize::from(read_8(function + CAPABILITIES));
        while capability != 0 && read_8(function + capability) != MSI {
            capability = usize::from(read_8(function + capability + 1));
        }
        if capability == 0 {
            return None;
        }

        let edu = Self {
            device,
            registers: registers as usize,
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
        write_32(self.registers + RAISE, 1);
    }

    /// Makes the device of a number, which was found, send its MSI.
    pub(crate) fn raise_numbered(number: u32) {
        write_32((WINDOW + number * REGISTERS) as usize + RAISE, 1);
    }

    /// Clears the device's interrupt status.
    pub(crate) fn acknowledge(&self) {
        write_32(self.registers + ACKNOWLEDGE, 1);
    }
}
