//! PCI functions, to be given to VMs one by one.
//!
//! [`function`] finds the functions of the root bus, [`window`] places their BARs, and
//! [`config_space`] is the configuration space as one VM sees it. [`id_map`] has the functions'
//! numbers at the SMMU and the ITS. All of them reach the hardware by [`Access`] only, and [`ecam`]
//! is the hardware.
//!
//! References are to the PCI Local Bus Specification 3.0 (PCI) and the PCI Express Base
//! Specification (PCIe).

pub(crate) mod capability;
pub(crate) mod config_space;
pub(crate) mod ecam;
pub(crate) mod function;
pub(crate) mod id_map;
pub(crate) mod registers;
pub(crate) mod window;

use core::fmt;

/// Address of a function: its bus, device and function number, packed as in a requester ID.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct Bdf(pub(crate) u16);

impl Bdf {
    /// Devices of a bus.
    pub(crate) const DEVICES: u8 = 32;
    /// Functions of a device.
    pub(crate) const FUNCTIONS: u8 = 8;

    /// Returns the address of a function. The device number is below 32, the function number below
    /// 8.
    pub(crate) const fn new(bus: u8, device: u8, function: u8) -> Self {
        Self((bus as u16) << 8 | (device as u16) << 3 | function as u16)
    }

    const fn bus(self) -> u16 {
        self.0 >> 8
    }

    const fn device(self) -> u16 {
        self.0 >> 3 & 0x1f
    }

    const fn function(self) -> u16 {
        self.0 & 7
    }
}

impl fmt::Display for Bdf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:02x}:{:02x}.{}",
            self.bus(),
            self.device(),
            self.function()
        )
    }
}

/// Width of an access to configuration space.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Width {
    /// 8 bits.
    Byte,
    /// 16 bits.
    Half,
    /// 32 bits.
    Word,
}

impl Width {
    /// Converts a size in bytes. Returns `None` if configuration space has no such access.
    pub(crate) const fn from_bytes(bytes: u64) -> Option<Self> {
        match bytes {
            1 => Some(Self::Byte),
            2 => Some(Self::Half),
            4 => Some(Self::Word),
            _ => None,
        }
    }

    /// Returns the size in bytes.
    pub(crate) const fn bytes(self) -> u16 {
        match self {
            Self::Byte => 1,
            Self::Half => 2,
            Self::Word => 4,
        }
    }

    /// Returns a value of this width with all bits set.
    pub(crate) const fn ones(self) -> u32 {
        u32::MAX >> (32 - 8 * self.bytes() as u32)
    }
}

/// Access to the configuration space of functions. The offset is a multiple of the width, below
/// 4096.
pub(crate) trait Access {
    /// Reads a register. Returns ones if there is no such function.
    fn read(&self, bdf: Bdf, offset: u16, width: Width) -> u32;

    /// Writes a register.
    fn write(&self, bdf: Bdf, offset: u16, width: Width, value: u32);

    /// Reads a double word.
    fn read_word(&self, bdf: Bdf, offset: u16) -> u32 {
        self.read(bdf, offset, Width::Word)
    }

    /// Writes a double word.
    fn write_word(&self, bdf: Bdf, offset: u16, value: u32) {
        self.write(bdf, offset, Width::Word, value);
    }
}
