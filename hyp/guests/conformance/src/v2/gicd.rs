//! The distributor, `GICD` (IHI 0048 4.3), and the registers of one interrupt.

use conformance::bank::Interrupt;

use crate::cpu;
use crate::machine::Machine;
use crate::mmio::{read_8, read_32, write_8, write_32};

pub(crate) const CTLR: usize = 0x0;
pub(crate) const TYPER: usize = 0x4;
pub(crate) const IIDR: usize = 0x8;
pub(crate) const ITARGETSR: usize = 0x800;
pub(crate) const NSACR: usize = 0xe00;
pub(crate) const SGIR: usize = 0xf00;
pub(crate) const CPENDSGIR: usize = 0xf10;
pub(crate) const SPENDSGIR: usize = 0xf20;
/// The first of the identification registers.
pub(crate) const IDENTIFICATION: usize = 0xfd0;
pub(crate) const ICPIDR2: usize = 0xfe8;

/// `GICD_CTLR.EnableGrp0`.
pub(crate) const GROUP_0: u32 = 1 << 0;
/// `GICD_CTLR.EnableGrp1`.
pub(crate) const GROUP_1: u32 = 1 << 1;
/// Both groups.
pub(crate) const BOTH: u32 = GROUP_0 | GROUP_1;

/// The first SPI.
pub(crate) const FIRST_SPI: u32 = 32;
/// The first SPI that no device of the machine drives by a line.
pub(crate) const FREE_SPI: u32 = 80;
/// First INTID behind the SPIs that no device drives.
pub(crate) const FREE_SPI_END: u32 = 288;
/// PPI that no device drives.
pub(crate) const FREE_PPI: u32 = 20;

/// `GICD_SGIR.TargetListFilter`: to all other CPUs.
pub(crate) const TO_OTHERS: u32 = 1 << 24;
/// `GICD_SGIR.TargetListFilter`: to the calling CPU.
pub(crate) const TO_SELF: u32 = 2 << 24;

impl Machine {
    /// Returns the address of a register of the distributor.
    pub(crate) fn gicd(&self, offset: usize) -> usize {
        self.gicd + offset
    }

    /// Reads a register of the distributor.
    pub(crate) fn read(&self, offset: usize) -> u32 {
        read_32(self.gicd(offset))
    }

    /// Writes a register of the distributor.
    pub(crate) fn write(&self, offset: usize, value: u32) {
        write_32(self.gicd(offset), value);
    }

    /// Lets the distributor forward these groups.
    pub(crate) fn enable_groups(&self, groups: u32) {
        self.write(CTLR, groups);
    }

    /// Returns the number of the distributor's INTIDs, SGIs and PPIs included.
    pub(crate) fn lines(&self) -> u32 {
        (32 * ((self.read(TYPER) & 0x1f) + 1)).min(1020)
    }

    /// Returns the first INTID behind the SPIs that no device drives.
    pub(crate) fn free_end(&self) -> u32 {
        self.lines().min(FREE_SPI_END)
    }

    /// Returns an interrupt, unchanged. SGIs and PPIs are the calling CPU's.
    pub(crate) fn irq(&self, intid: u32) -> Irq {
        Irq(Interrupt::new(self.gicd, intid))
    }

    /// Returns the `number`th SPI that no device drives, edge-triggered, enabled, for CPU 0.
    pub(crate) fn edge(&self, number: u32) -> Irq {
        let irq = self.irq(FREE_SPI + number);
        irq.set_edge(true);
        irq.enabled()
    }

    /// Returns the `number`th SPI that no device drives, level-sensitive, enabled, for CPU 0.
    pub(crate) fn level(&self, number: u32) -> Irq {
        self.irq(FREE_SPI + number).enabled()
    }

    /// Writes `GICD_SGIR`.
    pub(crate) fn send(&self, value: u32) {
        cpu::synchronize();
        self.write(SGIR, value);
    }

    /// Sends an SGI to the CPUs of a mask.
    pub(crate) fn send_to(&self, targets: u32, sgi: u32) {
        self.send(targets << 16 | sgi);
    }

    /// Makes an SGI pending on the calling CPU from the sources of a mask (`GICD_SPENDSGIR<n>`).
    pub(crate) fn set_sources(&self, sgi: u32, sources: u8) {
        write_8(self.gicd(SPENDSGIR + sgi as usize), sources);
    }

    /// Ends the pending state of an SGI on the calling CPU from the sources of a mask
    /// (`GICD_CPENDSGIR<n>`).
    pub(crate) fn clear_sources(&self, sgi: u32, sources: u8) {
        write_8(self.gicd(CPENDSGIR + sgi as usize), sources);
    }

    /// Returns the sources from which an SGI is pending on the calling CPU.
    pub(crate) fn sources(&self, sgi: u32) -> u8 {
        read_8(self.gicd(SPENDSGIR + sgi as usize))
    }

    /// Returns the mask of all CPUs.
    pub(crate) fn everyone(&self) -> u32 {
        (1 << self.cpus) - 1
    }
}

/// One interrupt.
#[derive(Clone, Copy)]
pub(crate) struct Irq(Interrupt);

impl core::ops::Deref for Irq {
    type Target = Interrupt;

    fn deref(&self) -> &Interrupt {
        &self.0
    }
}

impl Irq {
    /// Enables the interrupt, and returns it.
    pub(crate) fn enabled(self) -> Self {
        self.enable();
        self
    }

    /// Disables the interrupt. The distributor has nothing to wait for: a GICv2 has no `RWP`.
    pub(crate) fn disable(&self) {
        self.begin_to_disable();
    }

    /// Sets the priority, and returns the interrupt.
    pub(crate) fn at(self, priority: u8) -> Self {
        self.set_priority(priority);
        self
    }

    /// Puts the interrupt into a group, and returns it.
    pub(crate) fn in_group(self, group: u32) -> Self {
        self.set_group(group);
        self
    }

    /// Sets the targets of an SPI to the CPUs of a mask, and returns it.
    pub(crate) fn to(self, mask: u32) -> Self {
        self.set_targets(mask);
        self
    }

    /// Sets the targets of an SPI to the CPUs of a mask.
    pub(crate) fn set_targets(&self, mask: u32) {
        write_8(self.base + ITARGETSR + self.intid as usize, mask as u8);
    }

    /// Returns the mask of the CPUs that are targets.
    pub(crate) fn targets(&self) -> u32 {
        read_8(self.base + ITARGETSR + self.intid as usize).into()
    }
}
