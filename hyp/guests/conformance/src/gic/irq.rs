//! One interrupt, by its registers: SGIs and PPIs in a redistributor, SPIs in the distributor, each
//! with the extended ones.

use super::{bank, extended, gicd};
use crate::cpu::spin_until;
use crate::machine::Machine;
use crate::mmio::{read_8, read_32, write_8, write_32, write_64};

/// Microseconds that an expected state may take.
const ARRIVAL: u64 = 3_000_000;

/// SGI or PPI of one CPU, or SPI.
#[derive(Clone, Copy)]
pub(crate) struct Irq<'a> {
    machine: &'a Machine,
    /// CPU of a private interrupt.
    cpu: Option<usize>,
    /// INTID.
    pub(crate) intid: u32,
    /// Frame with the interrupt's registers.
    base: usize,
    /// Number of the interrupt in its registers, the INTID unless it is an extended one.
    number: usize,
    /// True for an extended SPI, whose registers are blocks of their own.
    is_extended_spi: bool,
}

impl Machine {
    /// Returns an SGI or PPI of a CPU, unchanged.
    pub(crate) fn private(&self, cpu: usize, intid: u32) -> Irq<'_> {
        Irq {
            machine: self,
            cpu: Some(cpu),
            intid,
            base: self.sgi_base(cpu, 0),
            number: intid as usize,
            is_extended_spi: false,
        }
    }

    /// Returns the `number`th extended PPI of a CPU, unchanged. The next reset resets them all.
    pub(crate) fn extended_ppi(&self, cpu: usize, number: u32) -> Irq<'_> {
        super::reset::extended_is_used();
        let intid = super::FIRST_EXTENDED_PPI + number;
        Irq {
            // The registers follow those of SGIs and PPIs.
            number: 32 + number as usize,
            ..self.private(cpu, intid)
        }
    }

    /// Returns the `number`th extended SPI, unchanged. The next reset resets them all.
    pub(crate) fn extended_spi(&self, number: u32) -> Irq<'_> {
        super::reset::extended_is_used();
        Irq {
            number: number as usize,
            is_extended_spi: true,
            ..self.shared(super::FIRST_EXTENDED_SPI + number)
        }
    }

    /// Returns the `number`th extended SPI, edge-triggered, enabled, routed to CPU 0.
    pub(crate) fn extended_edge(&self, number: u32) -> Irq<'_> {
        let irq = self.extended_spi(number);
        irq.set_edge(true);
        irq.enabled()
    }

    /// Returns an SPI, unchanged.
    pub(crate) fn shared(&self, intid: u32) -> Irq<'_> {
        Irq {
            machine: self,
            cpu: None,
            intid,
            base: self.gicd,
            number: intid as usize,
            is_extended_spi: false,
        }
    }

    /// Returns an enabled SGI of a CPU.
    pub(crate) fn sgi(&self, cpu: usize, intid: u32) -> Irq<'_> {
        self.private(cpu, intid).enabled()
    }

    /// Returns the `number`th SPI that no device drives, edge-triggered, enabled, routed to CPU 0.
    pub(crate) fn edge(&self, number: u32) -> Irq<'_> {
        let irq = self.shared(super::FREE_SPI + number);
        irq.set_edge(true);
        irq.enabled()
    }

    /// Returns the `number`th SPI that no device drives, level-sensitive, enabled, routed to CPU 0.
    pub(crate) fn level(&self, number: u32) -> Irq<'_> {
        self.shared(super::FREE_SPI + number).enabled()
    }
}

impl Irq<'_> {
    /// Returns the address of a block of registers, named by that of SPIs.
    fn block(&self, register: usize) -> usize {
        let offset = match register {
            register if !self.is_extended_spi => register,
            bank::IPRIORITYR => extended::IPRIORITYR,
            bank::ICFGR => extended::ICFGR,
            bits => extended::IGROUPR + (bits - bank::IGROUPR) * 4,
        };
        self.base + offset
    }

    fn word(&self, register: usize) -> usize {
        self.block(register) + self.number / 32 * 4
    }

    fn write(&self, register: usize) {
        write_32(self.word(register), 1 << (self.number % 32));
    }

    fn read(&self, register: usize) -> bool {
        read_32(self.word(register)) >> (self.number % 32) & 1 != 0
    }

    /// Waits until the last write has taken effect. Returns false on a timeout.
    pub(crate) fn wait_rwp(&self) -> bool {
        match self.cpu {
            Some(cpu) => self.machine.wait_rwp_private(cpu),
            None => self.machine.wait_rwp(),
        }
    }

    /// Enables the interrupt.
    pub(crate) fn enable(&self) {
        self.write(bank::ISENABLER);
    }

    /// Enables the interrupt, and returns it.
    pub(crate) fn enabled(self) -> Self {
        self.enable();
        self
    }

    /// Disables the interrupt, and waits until the write has taken effect.
    pub(crate) fn disable(&self) {
        self.write(bank::ICENABLER);
        self.wait_rwp();
    }

    pub(crate) fn is_enabled(&self) -> bool {
        self.read(bank::ISENABLER)
    }

    pub(crate) fn set_pending(&self) {
        self.write(bank::ISPENDR);
    }

    pub(crate) fn clear_pending(&self) {
        self.write(bank::ICPENDR);
    }

    pub(crate) fn is_pending(&self) -> bool {
        self.read(bank::ISPENDR)
    }

    /// Waits until the interrupt's pending state is `pending`. Returns false on a timeout.
    pub(crate) fn becomes_pending(&self, pending: bool) -> bool {
        spin_until(ARRIVAL, || self.is_pending() == pending)
    }

    pub(crate) fn set_active(&self) {
        self.write(bank::ISACTIVER);
    }

    pub(crate) fn clear_active(&self) {
        self.write(bank::ICACTIVER);
    }

    pub(crate) fn is_active(&self) -> bool {
        self.read(bank::ISACTIVER)
    }

    pub(crate) fn set_priority(&self, priority: u8) {
        write_8(self.block(bank::IPRIORITYR) + self.number, priority);
    }

    /// Sets the priority, and returns the interrupt.
    pub(crate) fn at(self, priority: u8) -> Self {
        self.set_priority(priority);
        self
    }

    pub(crate) fn priority(&self) -> u8 {
        read_8(self.block(bank::IPRIORITYR) + self.number)
    }

    /// Puts the interrupt into Group 0 or 1.
    pub(crate) fn set_group(&self, group: u32) {
        let (word, bit) = (self.word(bank::IGROUPR), 1 << (self.number % 32));
        let old = read_32(word);
        write_32(word, if group == 0 { old & !bit } else { old | bit });
    }

    /// Makes the interrupt edge-triggered or level-sensitive.
    pub(crate) fn set_edge(&self, edge: bool) {
        let word = self.block(bank::ICFGR) + self.number / 16 * 4;
        let bit = 2 << (self.number % 16 * 2);
        let old = read_32(word);
        write_32(word, if edge { old | bit } else { old & !bit });
    }

    pub(crate) fn is_edge(&self) -> bool {
        let word = read_32(self.block(bank::ICFGR) + self.number / 16 * 4);
        word >> (self.number % 16 * 2 + 1) & 1 != 0
    }

    /// Routes an SPI to a CPU.
    pub(crate) fn route(&self, cpu: usize) {
        self.route_to(self.machine.affinity(cpu));
    }

    /// Writes an SPI's `GICD_IROUTER<n>`, or `GICD_IROUTER<n>E`.
    pub(crate) fn route_to(&self, value: u64) {
        let block = if self.is_extended_spi {
            extended::IROUTER
        } else {
            gicd::IROUTER
        };
        write_64(self.machine.gicd(block + self.number * 8), value);
    }
}
