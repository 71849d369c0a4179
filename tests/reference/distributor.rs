//! `GICD_*` (IHI 0069, 12.9): the SPIs, their targets, and the forwarded groups.

use super::{
    Interrupt, read_bits, read_half, read_priorities, read_triggers, write_bits, write_half,
    write_priorities, write_triggers,
};

pub struct Distributor {
    /// `GICD_CTLR.EnableGrp0` (bit 0) and `EnableGrp1` (bit 1).
    pub groups: u64,
    pub spis: Vec<Interrupt>,
    routers: Vec<u64>,
    lpi_bits: u32,
}

impl Distributor {
    pub fn new(spis: u32, lpi_bits: u32, first: u64) -> Self {
        let spi = Interrupt {
            level: true,
            ..Interrupt::default()
        };
        Self {
            groups: 0,
            spis: vec![spi; spis as usize],
            routers: vec![first; spis as usize],
            lpi_bits,
        }
    }

    pub fn forwards(&self, group1: bool) -> bool {
        self.groups >> u32::from(group1) & 1 != 0
    }

    pub fn spi(&mut self, intid: u32) -> Option<&mut Interrupt> {
        self.spis.get_mut(intid.checked_sub(32)? as usize)
    }

    /// Returns `GICD_IROUTER<intid>`.
    pub fn router(&self, intid: u32) -> u64 {
        self.routers[intid as usize - 32]
    }

    /// Returns the SPIs of the `n`th 32-bit register. The first register's private interrupts are
    /// elsewhere.
    fn bank(&self, n: u64) -> &[Interrupt] {
        let first = (n as usize).checked_sub(1).map_or(usize::MAX, |n| n * 32);
        let spis = self.spis.get(first..).unwrap_or_default();
        &spis[..spis.len().min(32)]
    }

    fn bank_mut(&mut self, n: u64) -> &mut [Interrupt] {
        let first = (n as usize).checked_sub(1).map_or(usize::MAX, |n| n * 32);
        let spis = self.spis.get_mut(first..).unwrap_or_default();
        let count = spis.len().min(32);
        &mut spis[..count]
    }

    fn typer(&self) -> u64 {
        let lines = (self.spis.len() as u64 + 32).div_ceil(32) - 1;
        let (message_based, a3v, no_1_of_n, range_selector) = (1 << 16, 1 << 24, 1 << 25, 1 << 26);
        let common = lines | message_based | a3v | no_1_of_n | range_selector;
        match self.lpi_bits {
            0 => common | 9 << 19,
            bits => {
                let last = 8192 + (1_u64 << bits) - 1;
                let id_bits = u64::from(u64::BITS - last.leading_zeros());
                common | u64::from(bits - 1) << 11 | 1 << 17 | (id_bits - 1) << 19
            }
        }
    }

    pub fn read(&self, offset: u64, bytes: u64) -> u64 {
        match (offset, bytes) {
            (0x400..0x800, _) => {
                let intid = offset - 0x400;
                read_priorities(self.bank(intid / 32), intid as usize % 32, bytes)
            }
            (0x6100..0x8000, 4 | 8) => {
                let n = (offset - 0x6100) as usize / 8;
                read_half(self.routers.get(n).copied().unwrap_or(0), offset, bytes)
            }
            // ARE and DS are always set.
            (0x0, 4) => self.groups | 1 << 4 | 1 << 6,
            (0x4, 4) => self.typer(),
            (0x80..0x400, 4) => read_bits(self.bank(offset % 0x80 / 4), offset & !0x7f),
            (0xc00..0xd00, 4) => {
                let n = (offset - 0xc00) / 4;
                let bank = self.bank(n / 2);
                read_triggers(bank.get(n as usize % 2 * 16..).unwrap_or_default())
            }
            _ => 0,
        }
    }

    pub fn write(&mut self, offset: u64, bytes: u64, value: u64) {
        match (offset, bytes) {
            (0x400..0x800, _) => {
                let intid = offset - 0x400;
                write_priorities(self.bank_mut(intid / 32), intid as usize % 32, bytes, value);
            }
            (0x6100..0x8000, 4 | 8) => {
                if let Some(router) = self.routers.get_mut((offset - 0x6100) as usize / 8) {
                    write_half(router, offset, bytes, value);
                    // Affinities only: Interrupt_Routing_Mode is RAZ/WI without 1-of-N.
                    *router &= 0xff_00ff_ffff;
                }
            }
            (0x0, 4) => self.groups = value & 3,
            (0x40, 2 | 4) => self.message(value, true),
            (0x48, 2 | 4) => self.message(value, false),
            (0x80..0x400, 4) => {
                write_bits(self.bank_mut(offset % 0x80 / 4), offset & !0x7f, value);
            }
            (0xc00..0xd00, 4) => {
                let n = (offset - 0xc00) / 4;
                let bank = self.bank_mut(n / 2);
                write_triggers(
                    bank.get_mut(n as usize % 2 * 16..).unwrap_or_default(),
                    value,
                );
            }
            _ => {}
        }
    }

    /// Applies `GICD_SETSPI_NSR` (`set`) or `GICD_CLRSPI_NSR` (12.9).
    ///
    /// A level-sensitive SPI stays pending from the one write to the other, which takes the pending
    /// state away. `GICD_CLRSPI_NSR` says nothing of a wire: the signal is the device's, and
    /// asserts the SPI while active (1.2.1). `GICD_ICPENDR<n>` (12.9) spells out the case: a level
    /// whose signal continues to be asserted remains pending.
    fn message(&mut self, value: u64, set: bool) {
        if let Some(spi) = self.spi(value as u32 & 0x1fff) {
            match set {
                true if spi.level => spi.message = true,
                true => spi.latch = true,
                false => (spi.message, spi.latch) = (false, false),
            }
        }
    }
}
