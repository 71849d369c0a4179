//! Configuration space as one VM sees it.
//!
//! The VM's functions are at their physical addresses, and no others are there: reads return ones,
//! and writes are ignored. A device whose function 0 is not the VM's shows none of the others to a
//! VM that looks for functions as PCI 6.1 has it.
//!
//! | registers | reads | writes |
//! |---|---|---|
//! | command | the function's | only [`COMMANDS`]; other bits become 0 |
//! | status | the function's | the function's: a one clears a bit |
//! | BARs of memory | their place, or their size | only the sizing protocol |
//! | BARs of I/O, expansion ROM | 0 | ignored |
//! | interrupt line | the function's | the function's |
//! | rest of the header | the function's | ignored |
//! | capabilities, but for [`HIDDEN`] | the function's | the function's |
//! | [`HIDDEN`] capabilities | 0, and the link to the next one | ignored |
//!
//! A reset of a function, by one of its capabilities, clears its BARs. They are written anew when
//! the VM next enables memory space, before the function decodes an address. A reset that is under
//! way may end in between: memory space is off again at once if the BARs are found cleared.

use alloc::vec::Vec;
use core::ops::Range;

use super::capability::{Capability, extended};
use super::function::{Bar, Function};
use super::registers::{
    BAR, BAR_END, BAR_FLAGS, BARS, BUS_MASTER, COMMAND, EXPANSION_ROM, HEADER_END,
    INTERRUPT_DISABLE, INTERRUPT_LINE, INTERRUPT_PIN, MEMORY_SPACE, SPACE, STATUS,
};
use super::{Access, Bdf, Width};

/// Bits of the command register that are the VM's.
const COMMANDS: u32 = MEMORY_SPACE | BUS_MASTER | INTERRUPT_DISABLE;

/// Extended capabilities that a VM must not have, with the most bytes that they take: they move
/// BARs, make functions whose BARs the VM would place, or let a function translate addresses
/// itself.
const HIDDEN: [(u16, u16); 6] = [
    (Capability::ATS, 0x08),
    (Capability::PAGE_REQUEST, 0x10),
    (Capability::PASID, 0x08),
    (Capability::SR_IOV, 0x40),
    (Capability::RESIZABLE_BAR, 0x34),
    (Capability::VF_RESIZABLE_BAR, 0x34),
];

/// Last byte of the status register.
const STATUS_END: u16 = STATUS + 1;

/// Bits of an extended capability's header with the offset of the next one.
const NEXT: u32 = 0xfff0_0000;

/// Configuration space of one VM.
pub(crate) struct ConfigSpace {
    functions: Vec<Owned>,
}

/// Function of the VM.
struct Owned {
    function: Function,
    /// Values that the VM has written to the BARs.
    written: [u32; BARS],
    /// Registers of hidden capabilities, each from the capability's header on.
    hidden: Vec<Range<u16>>,
}

/// Register, or a part of one.
#[derive(Clone, Copy)]
struct Place {
    offset: u16,
    width: Width,
}

impl ConfigSpace {
    /// Returns the configuration space of a VM with these functions, whose BARs have been placed.
    pub(crate) fn new(functions: Vec<Function>, access: &impl Access) -> Self {
        let owned = |function| Owned::new(function, access);
        Self {
            functions: functions.into_iter().map(owned).collect(),
        }
    }

    /// Forgets what the VM has written to BARs. Capabilities are not looked at again: a function
    /// that is being reset has none.
    pub(crate) fn reset(&mut self) {
        for owned in &mut self.functions {
            owned.written = written_at_start(&owned.function);
        }
    }

    /// Reads `bytes` bytes at an offset of the VM's ECAM. Returns ones if the access is not aligned
    /// or no function of the VM is there.
    pub(crate) fn read(&self, access: &impl Access, at: u64, bytes: u64) -> u64 {
        let found = locate(at, bytes).and_then(|(bdf, place)| {
            let owned = self.functions.iter().find(|owned| owned.is_at(bdf))?;
            Some(place.part_of(owned.read_word(access, place.word())))
        });
        match (found, Width::from_bytes(bytes)) {
            (Some(value), _) => value.into(),
            (None, Some(width)) => width.ones().into(),
            (None, None) => u64::MAX,
        }
    }

    /// Writes `bytes` bytes at an offset of the VM's ECAM. Ignores the write if it is not aligned
    /// or no function of the VM is there.
    pub(crate) fn write(&mut self, access: &impl Access, at: u64, bytes: u64, value: u64) {
        let Some((bdf, place)) = locate(at, bytes) else {
            return;
        };
        if let Some(owned) = self.functions.iter_mut().find(|owned| owned.is_at(bdf)) {
            owned.write(access, place, value as u32 & place.width.ones());
        }
    }
}

/// Returns the function and the place at an offset of an ECAM (PCIe 7.2.2), or `None` if a
/// configuration request cannot express the access.
fn locate(at: u64, bytes: u64) -> Option<(Bdf, Place)> {
    let width = Width::from_bytes(bytes)?;
    let bdf = Bdf(u16::try_from(at / u64::from(SPACE)).ok()?);
    let offset = (at % u64::from(SPACE)) as u16;
    let is_aligned = offset.is_multiple_of(width.bytes());
    is_aligned.then_some((bdf, Place { offset, width }))
}

impl Place {
    /// Returns the offset of the double word.
    const fn word(self) -> u16 {
        self.offset & !3
    }

    /// Returns the first bit of the double word that belongs to the place.
    const fn shift(self) -> u32 {
        8 * (self.offset & 3) as u32
    }

    /// Returns the place's bits of its double word.
    const fn part_of(self, word: u32) -> u32 {
        word >> self.shift() & self.width.ones()
    }

    /// Returns its double word, `word`, with the place's bits replaced.
    const fn merge(self, word: u32, value: u32) -> u32 {
        let mask = self.width.ones() << self.shift();
        word & !mask | value << self.shift() & mask
    }
}

impl Owned {
    fn new(function: Function, access: &impl Access) -> Self {
        Self {
            hidden: hidden(access, function.bdf),
            written: written_at_start(&function),
            function,
        }
    }

    fn is_at(&self, bdf: Bdf) -> bool {
        self.function.bdf == bdf
    }

    /// Reads a double word as the VM sees it.
    fn read_word(&self, access: &impl Access, offset: u16) -> u32 {
        let read = || access.read_word(self.function.bdf, offset);
        if let Some(range) = self.hidden_at(offset) {
            return if offset == range.start {
                read() & NEXT
            } else {
                0
            };
        }
        match offset {
            BAR..BAR_END => self.read_bar(usize::from(offset - BAR) / 4),
            EXPANSION_ROM => 0,
            // The VM has no interrupt lines of PCI functions.
            INTERRUPT_LINE => read() & !INTERRUPT_PIN,
            _ => read(),
        }
    }

    fn write(&mut self, access: &impl Access, place: Place, value: u32) {
        let bdf = self.function.bdf;
        match place.offset {
            COMMAND..STATUS => {
                self.write_command(access, place, value);
                if place.width == Width::Word {
                    access.write(bdf, STATUS, Width::Half, value >> 16);
                }
            }
            BAR..BAR_END => {
                let written = &mut self.written[usize::from(place.word() - BAR) / 4];
                *written = place.merge(*written, value);
            }
            STATUS..=STATUS_END | INTERRUPT_LINE | HEADER_END..
                if self.hidden_at(place.offset).is_none() =>
            {
                access.write(bdf, place.offset, place.width, value);
            }
            _ => {}
        }
    }

    /// Writes the command register, or a byte of it.
    fn write_command(&self, access: &impl Access, place: Place, value: u32) {
        let bdf = self.function.bdf;
        let old = access.read(bdf, COMMAND, Width::Half);
        if old == Width::Half.ones() {
            // The function is being reset, and has no registers.
            return;
        }
        let new = place.merge(old, value) & COMMANDS;
        let decodes = new & MEMORY_SPACE != 0;
        if decodes && (old & MEMORY_SPACE == 0 || !self.function.has_bars(access)) {
            access.write(bdf, COMMAND, Width::Half, new & !MEMORY_SPACE);
            self.function.write_bars(access);
        }
        access.write(bdf, COMMAND, Width::Half, new);
        if decodes && !self.function.has_bars(access) {
            access.write(bdf, COMMAND, Width::Half, new & !MEMORY_SPACE);
        }
    }

    /// Reads a BAR: the size after all ones have been written (PCI 6.2.5.1), otherwise the address.
    fn read_bar(&self, index: usize) -> u32 {
        let covers = |bar: &&Bar| (bar.index..bar.index + bar.count()).contains(&index);
        let Some(bar) = self.function.bars.iter().find(covers) else {
            return 0;
        };
        // The flags of the lower register are not written.
        let fixed = if index == bar.index { BAR_FLAGS } else { 0 };
        let values = if self.written[index] | fixed == u32::MAX {
            bar.size_mask()
        } else {
            bar.registers(bar.address)
        };
        values[index - bar.index]
    }

    /// Returns the registers of the hidden capability at an offset.
    fn hidden_at(&self, offset: u16) -> Option<&Range<u16>> {
        self.hidden.iter().find(|range| range.contains(&offset))
    }
}

/// Returns the registers of a function's capabilities that VMs must not have.
fn hidden(access: &impl Access, bdf: Bdf) -> Vec<Range<u16>> {
    let all: Vec<_> = extended(access, bdf).collect();
    let range = |found: &Capability| {
        let (_, most) = HIDDEN.into_iter().find(|(id, _)| *id == found.id)?;
        let next = all.iter().map(|other| other.offset);
        let next = next.filter(|offset| *offset > found.offset).min();
        let end = (found.offset + most).min(next.unwrap_or(SPACE));
        Some(found.offset..end)
    };
    all.iter().filter_map(range).collect()
}

/// Returns the values of the BARs that a VM reads at its start: the addresses.
fn written_at_start(function: &Function) -> [u32; BARS] {
    let mut written = [0; BARS];
    for bar in &function.bars {
        debug_assert_ne!(bar.address, 0, "the BAR has been placed");
        let values = bar.registers(bar.address);
        written[bar.index..][..bar.count()].copy_from_slice(&values[..bar.count()]);
    }
    written
}
