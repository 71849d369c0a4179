//! `GICD_*` (IHI 0069, 12.9): the SPIs, their targets, and the forwarded groups.

use super::{
    Interrupt, Wired, read_bits, read_half, read_priorities, read_triggers, write_bits, write_half,
    write_priorities, write_triggers,
};

pub struct Distributor {
    /// `GICD_CTLR.EnableGrp0` (bit 0) and `EnableGrp1` (bit 1).
    pub groups: u64,
    /// SPIs, from INTID 32 on, and extended SPIs, from INTID 4096 on.
    pub spis: Vec<Interrupt>,
    pub extended: Vec<Interrupt>,
    routers: Vec<u64>,
    extended_routers: Vec<u64>,
    /// INTID after the last extended PPI, if there are any.
    last_ppi: Option<u64>,
    lpi_bits: u32,
}

impl Distributor {
    pub fn new(wired: Wired, lpi_bits: u32, first: u64) -> Self {
        let spi = Interrupt {
            level: true,
            ..Interrupt::default()
        };
        Self {
            groups: 0,
            spis: vec![spi; wired.spis as usize],
            extended: vec![spi; wired.extended_spis as usize],
            routers: vec![first; wired.spis as usize],
            extended_routers: vec![first; wired.extended_spis as usize],
            last_ppi: (wired.extended_ppis != 0).then(|| 1055 + u64::from(wired.extended_ppis)),
            lpi_bits,
        }
    }

    pub fn forwards(&self, group1: bool) -> bool {
        self.groups >> u32::from(group1) & 1 != 0
    }

    pub fn spi(&mut self, intid: u32) -> Option<&mut Interrupt> {
        match intid {
            4096.. => self.extended.get_mut(intid as usize - 4096),
            _ => self.spis.get_mut(intid.checked_sub(32)? as usize),
        }
    }

    /// Returns every SPI with its INTID.
    pub fn all(&self) -> impl Iterator<Item = (u32, &Interrupt)> {
        let extended = (4096..).zip(&self.extended);
        (32..).zip(&self.spis).chain(extended)
    }

    /// Returns `GICD_IROUTER<n>`, or `GICD_IROUTER<n>E`, of an INTID.
    pub fn router(&self, intid: u32) -> u64 {
        match intid {
            4096.. => self.extended_routers[intid as usize - 4096],
            _ => self.routers[intid as usize - 32],
        }
    }

    /// Returns the extended SPIs of the `n`th 32-bit register: the first one is theirs.
    fn extended_bank(&self, n: u64) -> &[Interrupt] {
        let spis = self.extended.get(n as usize * 32..).unwrap_or_default();
        &spis[..spis.len().min(32)]
    }

    fn extended_bank_mut(&mut self, n: u64) -> &mut [Interrupt] {
        let spis = self.extended.get_mut(n as usize * 32..).unwrap_or_default();
        let count = spis.len().min(32);
        &mut spis[..count]
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
        // 12.9: ESPI is bit 8. ESPI_range, bits 31:27: "Maximum Extended SPI INTID is
        // 32 * (ESPI_range + 1) + 4095."
        let extended = match self.extended.len() as u64 {
            0 => 0,
            count => 1 << 8 | (count / 32 - 1) << 27,
        };
        let lpis = match self.lpi_bits {
            0 => 0,
            bits => u64::from(bits - 1) << 11 | 1 << 17,
        };
        let last = match (self.lpi_bits, self.extended.len() as u64) {
            (0, 0) => self.last_ppi.unwrap_or(1023),
            (0, count) => 4095 + count,
            (bits, _) => 8191 + (1_u64 << bits),
        };
        let id_bits = u64::from(u64::BITS - last.leading_zeros());
        let common = lines | message_based | a3v | no_1_of_n | range_selector;
        common | extended | lpis | (id_bits - 1) << 19
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
            // 12.9: `GICD_<register><n>E`, with the fields of the register without E.
            (0x1000..0x1e00, 4) => {
                let block = 0x80 + (offset - 0x1000) / 0x200 * 0x80;
                read_bits(self.extended_bank(offset % 0x200 / 4), block)
            }
            (0x2000..0x2400, _) => {
                let n = offset - 0x2000;
                read_priorities(self.extended_bank(n / 32), n as usize % 32, bytes)
            }
            (0x3000..0x3100, 4) => {
                let n = (offset - 0x3000) / 4;
                let bank = self.extended_bank(n / 2);
                read_triggers(bank.get(n as usize % 2 * 16..).unwrap_or_default())
            }
            (0x8000..0xa000, 4 | 8) => {
                let router = self.extended_routers.get((offset - 0x8000) as usize / 8);
                read_half(router.copied().unwrap_or(0), offset, bytes)
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
            (0x1000..0x1e00, 4) => {
                let block = 0x80 + (offset - 0x1000) / 0x200 * 0x80;
                write_bits(self.extended_bank_mut(offset % 0x200 / 4), block, value);
            }
            (0x2000..0x2400, _) => {
                let n = offset - 0x2000;
                let bank = self.extended_bank_mut(n / 32);
                write_priorities(bank, n as usize % 32, bytes, value);
            }
            (0x3000..0x3100, 4) => {
                let n = (offset - 0x3000) / 4;
                let bank = self.extended_bank_mut(n / 2);
                write_triggers(
                    bank.get_mut(n as usize % 2 * 16..).unwrap_or_default(),
                    value,
                );
            }
            (0x8000..0xa000, 4 | 8) => {
                let n = (offset - 0x8000) as usize / 8;
                if let Some(router) = self.extended_routers.get_mut(n) {
                    write_half(router, offset, bytes, value);
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
