//! Registers with a bit, a byte or two bits for each interrupt, which the distributors of GICv2 and
//! GICv3 and the redistributors have at the same offsets (IHI 0048 4.3, IHI 0069 12.9 and 12.11).

use crate::cpu::spin_until;
use crate::mmio::{read_8, read_32, write_8, write_32};

/// Offset of `IGROUPR<n>`.
pub const IGROUPR: usize = 0x80;
/// Offset of `ISENABLER<n>`.
pub const ISENABLER: usize = 0x100;
/// Offset of `ICENABLER<n>`.
pub const ICENABLER: usize = 0x180;
/// Offset of `ISPENDR<n>`.
pub const ISPENDR: usize = 0x200;
/// Offset of `ICPENDR<n>`.
pub const ICPENDR: usize = 0x280;
/// Offset of `ISACTIVER<n>`.
pub const ISACTIVER: usize = 0x300;
/// Offset of `ICACTIVER<n>`.
pub const ICACTIVER: usize = 0x380;
/// Offset of `IPRIORITYR<n>`.
pub const IPRIORITYR: usize = 0x400;
/// Offset of `ICFGR<n>`.
pub const ICFGR: usize = 0xc00;

/// Microseconds that an expected state may take.
const ARRIVAL: u64 = 3_000_000;

/// The registers of one interrupt in a frame.
#[derive(Clone, Copy, Debug)]
pub struct Interrupt {
    /// Base of the frame.
    pub base: usize,
    /// INTID.
    pub intid: u32,
    /// Number of the interrupt in its registers, the INTID unless it is an extended one.
    pub number: usize,
    /// Returns the offset of the interrupt's block of registers, named by that of SPIs.
    pub block: fn(usize) -> usize,
}

impl Interrupt {
    /// Returns an interrupt whose registers are at the offsets of this module.
    pub fn new(base: usize, intid: u32) -> Self {
        Self {
            base,
            intid,
            number: intid as usize,
            block: |register| register,
        }
    }

    fn address(&self, register: usize) -> usize {
        self.base + (self.block)(register)
    }

    fn word(&self, register: usize) -> usize {
        self.address(register) + self.number / 32 * 4
    }

    fn write(&self, register: usize) {
        write_32(self.word(register), 1 << (self.number % 32));
    }

    fn read(&self, register: usize) -> bool {
        read_32(self.word(register)) >> (self.number % 32) & 1 != 0
    }

    /// Enables the interrupt.
    pub fn enable(&self) {
        self.write(ISENABLER);
    }

    /// Writes `ICENABLER<n>`, which may take effect later.
    pub fn begin_to_disable(&self) {
        self.write(ICENABLER);
    }

    /// Returns true if the interrupt is enabled.
    pub fn is_enabled(&self) -> bool {
        self.read(ISENABLER)
    }

    /// Makes the interrupt pending.
    pub fn set_pending(&self) {
        self.write(ISPENDR);
    }

    /// Ends the pending state.
    pub fn clear_pending(&self) {
        self.write(ICPENDR);
    }

    /// Returns true if the interrupt is pending.
    pub fn is_pending(&self) -> bool {
        self.read(ISPENDR)
    }

    /// Waits until the interrupt's pending state is `pending`. Returns false on a timeout.
    pub fn becomes_pending(&self, pending: bool) -> bool {
        spin_until(ARRIVAL, || self.is_pending() == pending)
    }

    /// Makes the interrupt active.
    pub fn set_active(&self) {
        self.write(ISACTIVER);
    }

    /// Ends the active state.
    pub fn clear_active(&self) {
        self.write(ICACTIVER);
    }

    /// Returns true if the interrupt is active.
    pub fn is_active(&self) -> bool {
        self.read(ISACTIVER)
    }

    /// Sets the priority.
    pub fn set_priority(&self, priority: u8) {
        write_8(self.address(IPRIORITYR) + self.number, priority);
    }

    /// Returns the priority.
    pub fn priority(&self) -> u8 {
        read_8(self.address(IPRIORITYR) + self.number)
    }

    /// Puts the interrupt into Group 0 or 1.
    pub fn set_group(&self, group: u32) {
        let (word, bit) = (self.word(IGROUPR), 1 << (self.number % 32));
        let old = read_32(word);
        write_32(word, if group == 0 { old & !bit } else { old | bit });
    }

    /// Makes the interrupt edge-triggered or level-sensitive.
    pub fn set_edge(&self, edge: bool) {
        let word = self.address(ICFGR) + self.number / 16 * 4;
        let bit = 2 << (self.number % 16 * 2);
        let old = read_32(word);
        write_32(word, if edge { old | bit } else { old & !bit });
    }

    /// Returns true if the interrupt is edge-triggered.
    pub fn is_edge(&self) -> bool {
        let word = read_32(self.address(ICFGR) + self.number / 16 * 4);
        word >> (self.number % 16 * 2 + 1) & 1 != 0
    }
}
