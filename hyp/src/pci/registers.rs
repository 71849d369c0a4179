//! Registers of configuration space, by offset, and their fields (PCI 6.1 and 6.2; PCIe 7.5.1).

/// Bytes of a function's configuration space.
pub(crate) const SPACE: u16 = 4096;

/// Vendor, in the lower half, and device.
pub(crate) const ID: u16 = 0x00;
/// Vendor of a function that is not there.
pub(crate) const NO_VENDOR: u32 = 0xffff;

/// Command, in the lower half, and status.
pub(crate) const COMMAND: u16 = 0x04;
pub(crate) const STATUS: u16 = 0x06;
/// Command: decode I/O space.
pub(crate) const IO_SPACE: u32 = 1 << 0;
/// Command: decode memory space.
pub(crate) const MEMORY_SPACE: u32 = 1 << 1;
/// Command: access memory, and send MSIs.
pub(crate) const BUS_MASTER: u32 = 1 << 2;
/// Command: do not raise an interrupt line.
pub(crate) const INTERRUPT_DISABLE: u32 = 1 << 10;
/// Status: there are capabilities.
pub(crate) const CAPABILITIES_LIST: u32 = 1 << 4;

/// Revision, in the lowest byte, and class.
pub(crate) const CLASS: u16 = 0x08;

/// Header type, a byte.
pub(crate) const HEADER_TYPE: u16 = 0x0e;
/// Header type: the device may have more functions.
pub(crate) const MULTI_FUNCTION: u32 = 1 << 7;

/// First base address register (BAR).
pub(crate) const BAR: u16 = 0x10;
/// End of the BARs of a function that is no bridge.
pub(crate) const BAR_END: u16 = 0x28;
/// Number of BARs.
pub(crate) const BARS: usize = 6;
/// BAR: I/O space.
pub(crate) const BAR_IO: u32 = 1 << 0;
/// BAR: 64 bits, of which the next BAR has the upper half.
pub(crate) const BAR_64: u32 = 2 << 1;
/// BAR: mask of the type of memory.
pub(crate) const BAR_TYPE: u32 = 3 << 1;
/// BAR of memory: bits that are no part of the address.
pub(crate) const BAR_FLAGS: u32 = 0xf;

/// Expansion ROM's base address register.
pub(crate) const EXPANSION_ROM: u16 = 0x30;
/// Offset of the first capability, a byte.
pub(crate) const CAPABILITIES: u16 = 0x34;
/// Interrupt line, a byte that only software uses.
pub(crate) const INTERRUPT_LINE: u16 = 0x3c;
/// Interrupt pin, in the double word of the interrupt line.
pub(crate) const INTERRUPT_PIN: u32 = 0xff << 8;

/// End of the header, and beginning of the capabilities.
pub(crate) const HEADER_END: u16 = 0x40;
/// Beginning of the extended capabilities.
pub(crate) const EXTENDED: u16 = 0x100;
