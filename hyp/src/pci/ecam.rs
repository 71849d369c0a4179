//! The enhanced configuration access mechanism: configuration space in memory (PCIe 7.2.2).
#![expect(unsafe_code)]
// UNSAFETY: accesses registers at the address that the device tree gives.

use core::ops::Range;

use super::registers::SPACE;
use super::{Access, Bdf, Width};

/// Configuration space of a segment's buses, from bus 0 on.
pub(crate) struct Ecam {
    registers: Range<usize>,
}

impl Ecam {
    /// Returns the configuration space at `registers`.
    ///
    /// # Safety
    /// The configuration space of a host bridge is there, mapped by identity for ever.
    pub(crate) unsafe fn new(registers: &Range<usize>) -> Self {
        Self {
            registers: registers.clone(),
        }
    }

    /// Returns the address of a register, or `None` if the bus is not there.
    ///
    /// # Panics
    /// If the access is not one of [`Access`].
    fn address(&self, bdf: Bdf, offset: u16, width: Width) -> Option<usize> {
        assert!(
            offset < SPACE && offset.is_multiple_of(width.bytes()),
            "no register of {width:?} at {offset:#x}"
        );
        let start = usize::from(bdf.0) * usize::from(SPACE);
        (start < self.registers.len()).then(|| self.registers.start + start + usize::from(offset))
    }
}

impl Access for Ecam {
    fn read(&self, bdf: Bdf, offset: u16, width: Width) -> u32 {
        let Some(address) = self.address(bdf, offset, width) else {
            return width.ones();
        };
        // SAFETY: by the promise to `new`, registers are there. The address is aligned.
        unsafe {
            match width {
                Width::Byte => (address as *const u8).read_volatile().into(),
                Width::Half => (address as *const u16).read_volatile().into(),
                Width::Word => (address as *const u32).read_volatile(),
            }
        }
    }

    fn write(&self, bdf: Bdf, offset: u16, width: Width, value: u32) {
        let Some(address) = self.address(bdf, offset, width) else {
            return;
        };
        // SAFETY: by the promise to `new`, registers are there. The address is aligned.
        unsafe {
            match width {
                Width::Byte => (address as *mut u8).write_volatile(value as u8),
                Width::Half => (address as *mut u16).write_volatile(value as u16),
                Width::Word => (address as *mut u32).write_volatile(value),
            }
        }
    }
}
