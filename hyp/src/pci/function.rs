//! Functions: what configuration space says of them.

use alloc::vec::Vec;
use core::ops::Range;

use super::capability::{Capability, capabilities};
use super::registers::{
    BAR, BAR_64, BAR_FLAGS, BAR_IO, BAR_TYPE, BARS, BUS_MASTER, CLASS, COMMAND, EXPANSION_ROM,
    HEADER_TYPE, ID, IO_SPACE, MEMORY_SPACE, MULTI_FUNCTION, NO_VENDOR,
};
use super::{Access, Bdf, Width};

/// Function that is no bridge between buses.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Function {
    /// Address.
    pub(crate) bdf: Bdf,
    /// Vendor.
    pub(crate) vendor: u16,
    /// Device, as the vendor numbers it.
    pub(crate) device: u16,
    /// Base class, subclass and programming interface, a byte each from the highest.
    pub(crate) class: u32,
    /// BARs of memory, in order. The others are I/O, or not there.
    pub(crate) bars: Vec<Bar>,
    /// MSI-X capability.
    pub(crate) msi_x: Option<MsiX>,
}

/// Base address register of memory, or a pair of them.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Bar {
    /// Number of the register, of the lower one of a pair.
    pub(crate) index: usize,
    /// Bytes, a power of two.
    pub(crate) size: u64,
    /// Lowest four bits of the register: the type of memory.
    pub(crate) flags: u32,
    /// Bus address. 0 until [`super::window::assign`].
    pub(crate) address: u64,
    /// Address for CPUs.
    pub(crate) mmio: Range<usize>,
}

/// MSI-X capability (PCI 6.8.2).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct MsiX {
    /// Offset in configuration space.
    pub(crate) offset: u16,
    /// Number of vectors.
    pub(crate) vectors: u16,
    /// BAR with the table of vectors.
    pub(crate) bar: usize,
}

impl Bar {
    /// Returns true for a pair of registers.
    pub(crate) const fn is_64(&self) -> bool {
        self.flags & BAR_TYPE == BAR_64
    }

    /// Returns the values of the registers with this address. The second one is used by a pair.
    pub(crate) const fn registers(&self, address: u64) -> [u32; 2] {
        [
            address as u32 & !BAR_FLAGS | self.flags,
            (address >> 32) as u32,
        ]
    }

    /// Returns the values of the registers after all ones have been written.
    pub(crate) const fn size_mask(&self) -> [u32; 2] {
        self.registers(!(self.size - 1))
    }

    /// Returns the number of registers.
    pub(crate) const fn count(&self) -> usize {
        if self.is_64() { 2 } else { 1 }
    }
}

impl Function {
    /// Returns the function at an address, or `None` if there is none or it is a bridge. Its
    /// decoding of I/O, memory and expansion ROM, and its access to memory, are off from then on,
    /// a bridge's too.
    pub(crate) fn read(access: &impl Access, bdf: Bdf) -> Option<Self> {
        let id = access.read_word(bdf, ID);
        let header = access.read(bdf, HEADER_TYPE, Width::Byte);
        if id & 0xffff == NO_VENDOR {
            return None;
        }
        // A BAR is sized by overwriting it: no address may be decoded meanwhile. A bridge that
        // decodes its windows would answer for BARs that are placed there.
        disable(access, bdf);
        if header & !MULTI_FUNCTION != 0 {
            return None;
        }
        access.write_word(bdf, EXPANSION_ROM, 0);

        Some(Self {
            bdf,
            vendor: id as u16,
            device: (id >> 16) as u16,
            class: access.read_word(bdf, CLASS) >> 8,
            bars: bars(access, bdf),
            msi_x: msi_x(access, bdf),
        })
    }

    /// Writes the assigned addresses to the BARs. BARs without one keep 0.
    pub(crate) fn write_bars(&self, access: &impl Access) {
        for bar in &self.bars {
            let values = bar.registers(bar.address);
            for (register, value) in values.into_iter().enumerate().take(bar.count()) {
                access.write_word(self.bdf, bar_offset(bar.index + register), value);
            }
        }
    }

    /// Returns true if the BARs have the assigned addresses.
    pub(crate) fn has_bars(&self, access: &impl Access) -> bool {
        self.bars.iter().all(|bar| {
            let values = bar.registers(bar.address).into_iter().take(bar.count());
            (bar.index..)
                .zip(values)
                .all(|(register, value)| access.read_word(self.bdf, bar_offset(register)) == value)
        })
    }

    /// Sets the Function Mask of MSI-X, and returns what it was: the function keeps its MSIs while
    /// it is set. When the call returns, earlier MSIs have left the function (PCI 6.8.2.3). Returns
    /// true, and does nothing, without MSI-X.
    pub(crate) fn mask_msis(&self, access: &impl Access, on: bool) -> bool {
        const MASK: u32 = 1 << 14;
        let Some(msi_x) = self.msi_x else {
            return true;
        };
        let at = msi_x.offset + 2;
        let old = access.read(self.bdf, at, Width::Half);
        let new = if on { old | MASK } else { old & !MASK };
        access.write(self.bdf, at, Width::Half, new);
        // The completion of a read comes after the MSIs that were sent before.
        let _ = access.read(self.bdf, at, Width::Half);
        old & MASK != 0
    }

    /// Turns the function's decoding of I/O and memory off, and its access to memory.
    pub(crate) fn disable(&self, access: &impl Access) {
        disable(access, self.bdf);
    }
}

/// Turns the decoding of I/O and memory of a function or a bridge off, and its access to memory.
fn disable(access: &impl Access, bdf: Bdf) {
    let command = access.read(bdf, COMMAND, Width::Half);
    let off = command & !(IO_SPACE | MEMORY_SPACE | BUS_MASTER);
    access.write(bdf, COMMAND, Width::Half, off);
}

/// Returns the functions of a bus that are no bridges between buses. [`Function::read`] tells their
/// state.
pub(crate) fn enumerate(access: &impl Access, bus: u8) -> Vec<Function> {
    let addresses = addresses(access, bus);
    let functions = addresses.filter_map(|bdf| Function::read(access, bdf));
    functions.collect()
}

/// Returns the addresses of the functions of a bus, of bridges too. A device with one function may
/// answer at the addresses of others.
pub(crate) fn addresses(access: &impl Access, bus: u8) -> impl Iterator<Item = Bdf> {
    (0..Bdf::DEVICES).flat_map(move |device| {
        let first = Bdf::new(bus, device, 0);
        let header = access.read(first, HEADER_TYPE, Width::Byte);
        let is_there = access.read_word(first, ID) & 0xffff != NO_VENDOR;
        let count = match (is_there, header & MULTI_FUNCTION != 0) {
            (false, _) => 0,
            (true, false) => 1,
            (true, true) => Bdf::FUNCTIONS,
        };
        (0..count).map(move |function| Bdf::new(bus, device, function))
    })
}

/// Returns the offset of a BAR in configuration space.
pub(crate) const fn bar_offset(index: usize) -> u16 {
    BAR + 4 * index as u16
}

/// Returns the BARs of memory, and clears all BARs.
fn bars(access: &impl Access, bdf: Bdf) -> Vec<Bar> {
    let mut bars = Vec::new();
    let mut index = 0;
    while index < BARS {
        let bar = size(access, bdf, index);
        index += bar.as_ref().map_or(1, Bar::count);
        bars.extend(bar.filter(|bar| bar.size != 0));
    }
    bars
}

/// Returns the BAR at a register, sized by the value that the register has after all ones have been
/// written (PCI 6.2.5.1), and clears it. Returns `None` for one of I/O, and for the last register
/// that pretends to have an upper half.
fn size(access: &impl Access, bdf: Bdf, index: usize) -> Option<Bar> {
    let probe = |index: usize| {
        let offset = bar_offset(index);
        access.write_word(bdf, offset, u32::MAX);
        let value = access.read_word(bdf, offset);
        access.write_word(bdf, offset, 0);
        value
    };
    let low = probe(index);
    if low & BAR_IO != 0 {
        return None;
    }

    let flags = low & BAR_FLAGS;
    let high = if flags & BAR_TYPE != BAR_64 {
        u32::MAX
    } else if index + 1 < BARS {
        probe(index + 1)
    } else {
        return None;
    };
    let mask = u64::from(high) << 32 | u64::from(low & !BAR_FLAGS);
    // Without any address bit there is no BAR.
    let size = if low == 0 { 0 } else { mask.wrapping_neg() };
    Some(Bar {
        index,
        size: size & mask,
        flags,
        address: 0,
        mmio: 0..0,
    })
}

fn msi_x(access: &impl Access, bdf: Bdf) -> Option<MsiX> {
    /// Offset of the message control register in the capability.
    const CONTROL: u16 = 2;
    /// Offset of the register that says where the table is.
    const TABLE: u16 = 4;
    let mut list = capabilities(access, bdf);
    let Capability { offset, .. } = list.find(|found| found.id == Capability::MSI_X)?;
    let control = access.read(bdf, offset + CONTROL, Width::Half);
    let table = access.read_word(bdf, offset + TABLE);
    Some(MsiX {
        offset,
        vectors: (control as u16 & 0x7ff) + 1,
        bar: table as usize & 7,
    })
}
