//! The distributor: SPIs.
#![expect(unsafe_code)]
// UNSAFETY: accesses registers at the address that the device tree gives.

use core::ops::Range;

use aarch64_cpu::registers::{Readable, Writeable};
use tock_registers::registers::{ReadOnly, ReadWrite};
use tock_registers::{register_bitfields, register_structs};

use super::PRIORITIES;

/// The first SPI.
const FIRST_SPI: u32 = 32;

register_bitfields! {u32,
    /// `GICD_CTLR`, as seen by non-secure software or with a single security state.
    Control [
        RWP OFFSET(31) NUMBITS(1) [],
        ARE OFFSET(4) NUMBITS(1) [],
        ENABLE_GROUP_1 OFFSET(1) NUMBITS(1) [],
    ],
    /// `GICD_TYPER`.
    Type [
        /// Set if the controller has LPIs.
        LPIS OFFSET(17) NUMBITS(1) [],
        /// Number of SPIs, in units of 32. At most 988 SPIs are usable.
        IT_LINES_NUMBER OFFSET(0) NUMBITS(5) [],
    ],
}

register_structs! {
    Registers {
        (0x0000 => ctlr: ReadWrite<u32, Control::Register>),
        (0x0004 => typer: ReadOnly<u32, Type::Register>),
        (0x0008 => iidr: ReadOnly<u32>),
        (0x000c => _reserved0),
        (0x0080 => igroupr: [ReadWrite<u32>; 32]),
        (0x0100 => isenabler: [ReadWrite<u32>; 32]),
        (0x0180 => icenabler: [ReadWrite<u32>; 32]),
        (0x0200 => ispendr: [ReadWrite<u32>; 32]),
        (0x0280 => icpendr: [ReadWrite<u32>; 32]),
        (0x0300 => isactiver: [ReadWrite<u32>; 32]),
        (0x0380 => icactiver: [ReadWrite<u32>; 32]),
        (0x0400 => ipriorityr: [ReadWrite<u32>; 256]),
        (0x0800 => _reserved1),
        (0x0c00 => icfgr: [ReadWrite<u32>; 64]),
        (0x0d00 => _reserved2),
        (0x6000 => irouter: [ReadWrite<u64>; 1024]),
        (0x8000 => _reserved3),
        (0x1_0000 => @END),
    }
}

/// The distributor.
///
/// Different CPUs may write registers of different interrupts at the same time. Bits in a common
/// register are set and cleared by separate addresses, except for `GICD_ICFGR<n>`.
pub(crate) struct Distributor {
    registers: &'static Registers,
    /// Number of usable SPIs.
    spis: u32,
}

// SAFETY: the registers are device memory, and those of different interrupts are independent.
// `configure`, the exception, may be called by one CPU at a time.
unsafe impl Sync for Distributor {}
// SAFETY: the registers are device memory, which belongs to no CPU.
unsafe impl Send for Distributor {}

impl Distributor {
    /// Initializes the distributor at `frame`, with every SPI disabled, inactive and not pending,
    /// and Group 1 enabled.
    ///
    /// # Safety
    /// A distributor is there, mapped by identity for ever, and nobody else drives it.
    pub(crate) unsafe fn start(frame: &Range<usize>) -> Self {
        // SAFETY: by the caller's promise, a distributor is there for ever.
        let registers = unsafe { &*(frame.start as *const Registers) };
        let lines = registers.typer.read(Type::IT_LINES_NUMBER);
        let spis = (lines * 32).min(988);
        let distributor = Self { registers, spis };
        registers.ctlr.set(0);
        distributor.wait_rwp();
        registers.ctlr.write(Control::ARE.val(1));

        for word in 1..=lines as usize {
            registers.icenabler[word].set(u32::MAX);
            registers.icpendr[word].set(u32::MAX);
            registers.icactiver[word].set(u32::MAX);
            registers.igroupr[word].set(u32::MAX);
            registers.ipriorityr[word * 8..][..8]
                .iter()
                .for_each(|priority| priority.set(PRIORITIES));
        }
        distributor.wait_rwp();
        registers
            .ctlr
            .write(Control::ARE.val(1) + Control::ENABLE_GROUP_1.val(1));
        distributor.wait_rwp();
        distributor
    }

    /// Returns `GICD_TYPER` and `GICD_IIDR`, which identify the controller.
    #[cfg(feature = "pmu")]
    pub(crate) fn identity(&self) -> [u32; 2] {
        [self.registers.typer.get(), self.registers.iidr.get()]
    }

    /// Returns the INTIDs of the usable SPIs.
    #[inline]
    pub(crate) fn spis(&self) -> Range<u32> {
        FIRST_SPI..FIRST_SPI + self.spis
    }

    /// Returns true if there are LPIs.
    pub(crate) fn has_lpis(&self) -> bool {
        self.registers.typer.is_set(Type::LPIS)
    }

    /// Enables or disables SPI `intid`.
    pub(crate) fn enable(&self, intid: u32, on: bool) {
        let (word, bit) = word_and_bit(intid);
        if on {
            self.registers.isenabler[word].set(bit);
        } else {
            self.registers.icenabler[word].set(bit);
            self.wait_rwp();
        }
    }

    /// Routes SPI `intid` to the CPU with this affinity, in the layout of `MPIDR_EL1`.
    pub(crate) fn route(&self, intid: u32, affinity: u64) {
        self.registers.irouter[intid as usize].set(affinity);
    }

    /// Makes SPI `intid` edge-triggered or level-sensitive. The SPI must be disabled, and no other
    /// CPU may configure an SPI at the same time.
    pub(crate) fn configure(&self, intid: u32, edge: bool) {
        let register = &self.registers.icfgr[intid as usize / 16];
        let bit = 2 << (intid % 16 * 2);
        register.set(if edge {
            register.get() | bit
        } else {
            register.get() & !bit
        });
    }

    /// Returns true if SPI `intid` is pending, enabled or not.
    pub(crate) fn is_pending(&self, intid: u32) -> bool {
        let (word, bit) = word_and_bit(intid);
        self.registers.ispendr[word].get() & bit != 0
    }

    /// Deactivates SPI `intid`, on any CPU.
    pub(crate) fn deactivate(&self, intid: u32) {
        let (word, bit) = word_and_bit(intid);
        self.registers.icactiver[word].set(bit);
    }

    /// Waits until the effects of register writes are visible (`GICD_CTLR.RWP`).
    fn wait_rwp(&self) {
        while self.registers.ctlr.is_set(Control::RWP) {
            core::hint::spin_loop();
        }
    }
}

/// Returns the index of an interrupt's 32-bit register in a bank, and its bit there.
fn word_and_bit(intid: u32) -> (usize, u32) {
    (intid as usize / 32, 1 << (intid % 32))
}
