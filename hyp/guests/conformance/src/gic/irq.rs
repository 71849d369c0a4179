//! One interrupt, by its registers: SGIs and PPIs in a redistributor, SPIs in the distributor, each
//! with the extended ones.

use core::ops::Deref;

use super::bank::{self, Interrupt};
use super::{FIRST_EXTENDED_SPI, extended, gicd};
use crate::machine::Machine;
use crate::mmio::write_64;

/// SGI or PPI of one CPU, or SPI.
#[derive(Clone, Copy)]
pub(crate) struct Irq<'a> {
    machine: &'a Machine,
    /// CPU of a private interrupt.
    cpu: Option<usize>,
    registers: Interrupt,
}

impl Machine {
    /// Returns an SGI or PPI of a CPU, unchanged.
    pub(crate) fn private(&self, cpu: usize, intid: u32) -> Irq<'_> {
        Irq {
            machine: self,
            cpu: Some(cpu),
            registers: Interrupt::new(self.sgi_base(cpu, 0), intid),
        }
    }

    /// Returns the `number`th extended PPI of a CPU, unchanged. The next reset resets them all.
    pub(crate) fn extended_ppi(&self, cpu: usize, number: u32) -> Irq<'_> {
        super::reset::extended_is_used();
        let mut irq = self.private(cpu, super::FIRST_EXTENDED_PPI + number);
        // The registers follow those of SGIs and PPIs.
        irq.registers.number = 32 + number as usize;
        irq
    }

    /// Returns the `number`th extended SPI, unchanged. The next reset resets them all.
    pub(crate) fn extended_spi(&self, number: u32) -> Irq<'_> {
        super::reset::extended_is_used();
        let mut irq = self.shared(FIRST_EXTENDED_SPI + number);
        irq.registers.number = number as usize;
        irq.registers.block = extended_block;
        irq
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
            registers: Interrupt::new(self.gicd, intid),
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

/// Returns the offset of a block of registers of extended SPIs, named by that of SPIs.
fn extended_block(register: usize) -> usize {
    match register {
        bank::IPRIORITYR => extended::IPRIORITYR,
        bank::ICFGR => extended::ICFGR,
        bits => extended::IGROUPR + (bits - bank::IGROUPR) * 4,
    }
}

impl Deref for Irq<'_> {
    type Target = Interrupt;

    fn deref(&self) -> &Interrupt {
        &self.registers
    }
}

impl Irq<'_> {
    /// Waits until the last write has taken effect. Returns false on a timeout.
    pub(crate) fn wait_rwp(&self) -> bool {
        match self.cpu {
            Some(cpu) => self.machine.wait_rwp_private(cpu),
            None => self.machine.wait_rwp(),
        }
    }

    /// Enables the interrupt, and returns it.
    pub(crate) fn enabled(self) -> Self {
        self.enable();
        self
    }

    /// Disables the interrupt, and waits until the write has taken effect.
    pub(crate) fn disable(&self) {
        self.begin_to_disable();
        self.wait_rwp();
    }

    /// Sets the priority, and returns the interrupt.
    pub(crate) fn at(self, priority: u8) -> Self {
        self.set_priority(priority);
        self
    }

    /// Routes an SPI to a CPU.
    pub(crate) fn route(&self, cpu: usize) {
        self.route_to(self.machine.affinity(cpu));
    }

    /// Writes an SPI's `GICD_IROUTER<n>`, or `GICD_IROUTER<n>E`.
    pub(crate) fn route_to(&self, value: u64) {
        let block = if self.intid >= FIRST_EXTENDED_SPI {
            extended::IROUTER
        } else {
            gicd::IROUTER
        };
        write_64(self.machine.gicd(block + self.number * 8), value);
    }
}
