//! Registers with fields of up to 32 interrupts, over a bank of 32 states.
//!
//! A register of set bits and its register of clear bits read the same, and a write leaves the
//! interrupts of clear bits alone. `ISPENDR` is the latch: it is read and written as a whole, and
//! `ICPENDR` is RAZ/WI.

use super::Devices;
use crate::intid::IntId;
use crate::mmio::bank::offset;
use crate::state::{InterruptState, flags};

/// Bits of a priority that are implemented.
pub(super) const PRIORITY: u8 = 0xf8;

/// The states of 32 interrupts, from a multiple of 32 on.
pub(super) type Bank = [InterruptState; 32];

/// A register with fields of interrupts.
#[derive(Clone, Copy)]
pub(super) struct Fields {
    /// One of [`offset`].
    register: u64,
    /// First interrupt, from the beginning of the frame's registers.
    first: usize,
}

impl Fields {
    /// Decodes an offset, a multiple of 4, from the base of `GICD` or of `GICR`'s `SGI_base`.
    pub(super) fn decode(at: u64) -> Option<Self> {
        let (register, first) = match at {
            0x080..0x400 => (at & !0x7f, (at & 0x7f).saturating_mul(8)),
            0x400..0x800 => (offset::IPRIORITYR, at & 0x3ff),
            0xc00..0xd00 => (offset::ICFGR, (at & 0xff).saturating_mul(4)),
            _ => return None,
        };
        Some(Self {
            register,
            first: first as usize,
        })
    }

    /// Returns the number of the bank of 32 interrupts.
    pub(super) fn bank(self) -> usize {
        self.first / 32
    }

    /// Returns the first interrupt in the bank.
    fn place(self) -> usize {
        self.first % 32
    }

    /// Returns the flag of a register with a bit for each interrupt; `None` for `ICPENDR`, and for
    /// registers with wider fields.
    fn flag(self) -> Option<u8> {
        Some(match self.register {
            offset::IGROUPR => flags::GROUP1,
            offset::ISENABLER | offset::ICENABLER => flags::ENABLED,
            offset::ISPENDR => flags::LATCH,
            offset::ISACTIVER | offset::ICACTIVER => flags::ACTIVE,
            _ => return None,
        })
    }

    /// Reads the register.
    pub(super) fn read(self, bank: &Bank) -> u32 {
        let here = bank.iter().skip(self.place());
        match (self.register, self.flag()) {
            (_, Some(flag)) => bits(bank, flag),
            (offset::IPRIORITYR, _) => {
                (here.take(4).rev()).fold(0, |word, irq| word << 8 | u32::from(irq.priority))
            }
            (offset::ICFGR, _) => (here.take(16).rev()).fold(0, |word, irq| {
                word << 2 | u32::from(!irq.has(flags::LEVEL)) << 1
            }),
            _ => 0,
        }
    }

    /// Writes the register.
    pub(super) fn write(self, bank: &mut Bank, value: u32) {
        let is_private = self.bank() == 0;
        let here = bank.iter_mut().skip(self.place());

        match (self.register, self.flag()) {
            (offset::IGROUPR | offset::ISPENDR, Some(flag)) => set_bits(bank, flag, value),
            (offset::ICENABLER | offset::ICACTIVER, Some(flag)) => {
                let kept = bits(bank, flag) & !value;
                set_bits(bank, flag, kept);
            }
            (_, Some(flag)) => {
                let all = bits(bank, flag) | value;
                set_bits(bank, flag, all);
            }
            (offset::IPRIORITYR, _) => {
                for (irq, byte) in here.zip(value.to_le_bytes()) {
                    irq.priority = byte & PRIORITY;
                }
            }
            // SGIs stay edge-triggered.
            (offset::ICFGR, _) if !is_private || self.place() != 0 => {
                for (place, irq) in here.take(16).enumerate() {
                    let is_edge = value >> (place << 1) & 0b10 != 0;
                    set(irq, flags::LEVEL, !is_edge);
                }
            }
            _ => {}
        }
    }
}

/// Returns a bit for each interrupt of a bank: whether it has the flag.
fn bits(bank: &Bank, flag: u8) -> u32 {
    (bank.iter().rev()).fold(0, |word, irq| word << 1 | u32::from(irq.has(flag)))
}

/// Sets or clears the flag of each interrupt of a bank.
fn set_bits(bank: &mut Bank, flag: u8, word: u32) {
    for (bit, irq) in bank.iter_mut().enumerate() {
        set(irq, flag, word >> bit & 1 != 0);
    }
}

/// Sets or clears a flag of an interrupt.
fn set(irq: &mut InterruptState, flag: u8, on: bool) {
    if on {
        irq.flags |= flag;
    } else {
        irq.flags &= !flag;
    }
}

impl Devices {
    /// Returns the states of 32 SPIs, of bank 1 and up: beyond the last SPI, of interrupts that
    /// there are not, whose fields are all 0.
    pub(super) fn spi_bank(&self, bank: usize) -> Bank {
        let absent = InterruptState {
            flags: flags::LEVEL,
            priority: 0,
        };
        let mut states = [absent; 32];
        for (state, spi) in states
            .iter_mut()
            .zip(self.state.spis.iter().skip(first_of(bank)))
        {
            *state = spi.interrupt;
            // A message counts as a latch, unless the interrupt has become edge-triggered since.
            if state.has(flags::MESSAGE | flags::LEVEL) {
                state.flags |= flags::LATCH;
            }
        }
        states
    }

    /// Replaces the states of 32 SPIs.
    pub(super) fn set_spi_bank(&mut self, bank: usize, states: &Bank) {
        let spis = self.state.spis.iter_mut().skip(first_of(bank));
        for (spi, state) in spis.zip(states) {
            spi.interrupt = InterruptState {
                flags: state.flags & !flags::MESSAGE,
                ..*state
            };
            if !state.has(flags::ACTIVE) {
                spi.active_on = None;
            }
        }
    }

    /// Returns the lines of a bank: a bit for each interrupt. SGIs have none.
    pub(super) fn lines(&self, vcpu: usize, bank: usize) -> u32 {
        if bank != 0 {
            return bits(&self.spi_bank(bank), flags::LINE);
        }
        self.vcpu(vcpu)
            .map_or(0, |vcpu| bits(&vcpu.private, flags::LINE))
    }

    /// Sets the lines of a bank. SGIs, and interrupts that there are not, have none.
    pub(super) fn set_lines(&mut self, vcpu: usize, bank: usize, lines: u32) {
        if bank != 0 {
            let mut states = self.spi_bank(bank);
            set_bits(&mut states, flags::LINE, lines);
            self.set_spi_bank(bank, &states);
        } else if let Ok(vcpu) = self.vcpu_mut(vcpu) {
            set_bits(&mut vcpu.private, flags::LINE, lines & !0xffff);
        }
    }
}

/// Returns the index of the first SPI of a bank.
fn first_of(bank: usize) -> usize {
    let first = bank.saturating_mul(32);
    first.saturating_sub(IntId::FIRST_SPI as usize)
}
