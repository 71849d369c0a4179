//! `GICR_*` (IHI 0069, 12.11 and 12.11): one PE's SGIs and PPIs, and its part of LPIs.

use super::{
    Interrupt, read_bits, read_half, read_priorities, read_triggers, write_bits, write_priorities,
    write_triggers,
};

pub struct Redistributor {
    /// Affinity in the layout of `MPIDR_EL1`.
    pub affinity: u64,
    /// SGIs 0-15 and PPIs 16-31.
    pub private: [Interrupt; 32],
    /// Extended PPIs, from INTID 1056 on.
    pub extended: Vec<Interrupt>,
    /// `GICR_CTLR.EnableLPIs`.
    pub lpis_enabled: bool,
    /// `GICR_PENDBASER.PTZ`, as last written.
    pub table_is_zero: bool,
    has_lpis: bool,
    /// `GICR_WAKER.ProcessorSleep`.
    pub sleeps: bool,
    /// The PE has been removed. The redistributor identifies itself, and does nothing else.
    pub absent: bool,
}

impl Redistributor {
    pub fn new(affinity: u64, extended_ppis: u32, has_lpis: bool) -> Self {
        let ppi = Interrupt {
            level: true,
            ..Interrupt::default()
        };
        Self {
            affinity,
            private: std::array::from_fn(|n| Interrupt {
                level: n >= 16,
                ..Interrupt::default()
            }),
            extended: vec![ppi; extended_ppis as usize],
            lpis_enabled: false,
            table_is_zero: false,
            has_lpis,
            sleeps: true,
            absent: false,
        }
    }

    /// Makes the redistributor as after reset, with the PE there or removed.
    pub fn replug(&mut self, absent: bool) {
        *self = Self {
            absent,
            ..Self::new(self.affinity, self.extended.len() as u32, self.has_lpis)
        };
    }

    /// Returns every SGI and PPI with its INTID.
    pub fn all(&self) -> impl Iterator<Item = (u32, &Interrupt)> {
        let extended = (1056..).zip(&self.extended);
        (0..).zip(&self.private).chain(extended)
    }

    /// Returns the extended PPIs of the register number `n` of 32 interrupts: numbers 1 and 2.
    fn bank(&self, n: u64) -> &[Interrupt] {
        let ppis = self
            .extended
            .get((n as usize - 1) * 32..)
            .unwrap_or_default();
        &ppis[..ppis.len().min(32)]
    }

    fn bank_mut(&mut self, n: u64) -> &mut [Interrupt] {
        let ppis = self.extended.get_mut((n as usize - 1) * 32..);
        let ppis = ppis.unwrap_or_default();
        let count = ppis.len().min(32);
        &mut ppis[..count]
    }

    fn typer(&self, number: usize, last: bool) -> u64 {
        let packed = self.affinity >> 32 << 24 | self.affinity & 0xff_ffff;
        // 12.11: PPInum, bits 31:27: 0 for a maximum PPI INTID of 31, 1 for 1087, 2 for 1119.
        let ppi_num = self.extended.len() as u64 / 32;
        packed << 32
            | ppi_num << 27
            | (number as u64) << 8
            | u64::from(last) << 4
            | u64::from(self.has_lpis)
    }

    pub fn read(&self, offset: u64, bytes: u64, number: usize, last: bool) -> u64 {
        if self.absent && !matches!(offset, 0x8 | 0xc) {
            return 0;
        }
        if let Some(offset) = offset.checked_sub(0x1_0000) {
            return self.read_private(offset, bytes);
        }
        match (offset, bytes) {
            // CES and IR with LPIs. RWP is never set: every change takes effect at once.
            (0x0, 4) if self.has_lpis => u64::from(self.lpis_enabled) | 0b110,
            (0x8 | 0xc, 4 | 8) => read_half(self.typer(number, last), offset, bytes),
            // ProcessorSleep and ChildrenAsleep.
            (0x14, 4) if self.sleeps => 0b110,
            _ => 0,
        }
    }

    fn read_private(&self, offset: u64, bytes: u64) -> u64 {
        match (offset, bytes) {
            (0x400..0x420, _) => read_priorities(&self.private, (offset - 0x400) as usize, bytes),
            (0x80..0x400, 4) if offset.is_multiple_of(0x80) => read_bits(&self.private, offset),
            (0xc00, 4) => read_triggers(&self.private),
            (0xc04, 4) => read_triggers(&self.private[16..]),
            // 12.11: `GICR_<register><n>E` follows the register of SGIs and PPIs: n is 1 or 2, for
            // `IPRIORITYR` 8 to 23, for `ICFGR` 2 to 5.
            (0x80..0x400, 4) if matches!(offset % 0x80 / 4, 1 | 2) => {
                read_bits(self.bank(offset % 0x80 / 4), offset & !0x7f)
            }
            (0x420..0x460, _) => {
                let n = offset - 0x400;
                read_priorities(self.bank(n / 32), n as usize % 32, bytes)
            }
            (0xc08..0xc18, 4) => {
                let n = (offset - 0xc00) / 4;
                let bank = self.bank(n / 2);
                read_triggers(bank.get(n as usize % 2 * 16..).unwrap_or_default())
            }
            _ => 0,
        }
    }

    pub fn write(&mut self, offset: u64, bytes: u64, value: u64) {
        if self.absent {
            return;
        }
        match (offset, bytes) {
            (0x0, 4) => self.lpis_enabled = self.has_lpis && value & 1 != 0,
            (0x14, 4) => self.sleeps = value & 2 != 0,
            // Ignored while LPIs are enabled.
            (0x78, 8) if !self.lpis_enabled => self.table_is_zero = value >> 62 & 1 != 0,
            (0x1_0400..0x1_0420, _) => {
                write_priorities(
                    &mut self.private,
                    (offset - 0x1_0400) as usize,
                    bytes,
                    value,
                );
            }
            (0x1_0080..0x1_0400, 4) if offset.is_multiple_of(0x80) => {
                write_bits(&mut self.private, offset - 0x1_0000, value);
            }
            // SGIs are always edge-triggered.
            (0x1_0c04, 4) => write_triggers(&mut self.private[16..], value),
            (0x1_0080..0x1_0400, 4) if matches!(offset % 0x80 / 4, 1 | 2) => {
                let block = (offset - 0x1_0000) & !0x7f;
                write_bits(self.bank_mut(offset % 0x80 / 4), block, value);
            }
            (0x1_0420..0x1_0460, _) => {
                let n = offset - 0x1_0400;
                write_priorities(self.bank_mut(n / 32), n as usize % 32, bytes, value);
            }
            (0x1_0c08..0x1_0c18, 4) => {
                let n = (offset - 0x1_0c00) / 4;
                let bank = self.bank_mut(n / 2);
                write_triggers(
                    bank.get_mut(n as usize % 2 * 16..).unwrap_or_default(),
                    value,
                );
            }
            _ => {}
        }
    }
}
