//! A reference model of a GICv3, written from the specification (IHI 0069) alone: simple,
//! sequential, and slow. The model shares no code with the library.
//!
//! | file | concept |
//! |---|---|
//! | this file | an interrupt, and the whole GIC |
//! | [`distributor`] | `GICD_*` |
//! | [`redistributor`] | `GICR_*` |
//! | [`cpu_interface`] | `ICC_*`: acknowledgement, priorities, ends |
//! | [`its`] | translation and commands |
//! | [`lpis`] | LPIs, and their tables in memory |
//!
//! Every change takes effect at once, on every PE. An outcome left open by the architecture is a
//! *set* of allowed values ([`cpu_interface::Choice`]). The configuration is the library's: one
//! security state, affinity routing, no 1-of-N, five bits of priority.
#![allow(
    dead_code,
    unreachable_pub,
    missing_docs,
    reason = "a module shared by several test programs, each using a part"
)]

pub mod cpu_interface;
pub mod distributor;
pub mod its;
pub mod lpis;
pub mod redistributor;

use cpu_interface::Interface;
use distributor::Distributor;
use its::{Fault, Its, Size};
use lpis::Lpis;
use redistributor::Redistributor;

/// The value of `ICC_IAR<n>_EL1` without an interrupt to acknowledge.
pub const SPURIOUS: u32 = 1023;
pub const FIRST_LPI: u32 = 8192;

/// One SGI, PPI, SPI or LPI.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Interrupt {
    /// Pending by an edge, a message or a register write, until acknowledged or cleared.
    pub latch: bool,
    /// Level of the input line.
    pub line: bool,
    /// Asserted by a message (`GICD_SETSPI_NSR`) while level-sensitive; a source beside the line.
    pub message: bool,
    pub active: bool,
    pub enabled: bool,
    pub group1: bool,
    /// Level-sensitive.
    pub level: bool,
    pub priority: u8,
}

impl Interrupt {
    pub fn pending(&self) -> bool {
        self.latch || self.level && (self.line || self.message)
    }

    /// Sets the level of the input line. IHI 0069, 1.2.1 (interrupt types): a rising edge asserts
    /// an edge-triggered interrupt, which stays asserted until software acknowledges the interrupt,
    /// whatever the signal does. A level-sensitive interrupt is asserted while the signal is
    /// active.
    pub fn set_line(&mut self, high: bool) {
        let rises = high && !self.line;
        self.latch |= rises && !self.level;
        self.line = high;
    }
}

/// Numbers of wired interrupts beside SGIs 0-15 and PPIs 16-31.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Wired {
    /// SPIs, from INTID 32 on.
    pub spis: u32,
    /// Extended SPIs, from INTID 4096 on (2.2).
    pub extended_spis: u32,
    /// Extended PPIs, from INTID 1056 on (2.2).
    pub extended_ppis: u32,
}

/// Returns whether an INTID is private to a PE: an SGI, a PPI or an extended PPI (2.2).
pub fn is_private(intid: u32) -> bool {
    matches!(intid, 0..32 | 1056..1120)
}

/// The frame of a register.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Frame {
    Distributor,
    /// `RD_base` at 0, `SGI_base` at 64 KiB, of the given PE.
    Redistributor(usize),
}

/// The whole GIC.
pub struct Gic {
    pub distributor: Distributor,
    pub redistributors: Vec<Redistributor>,
    pub interfaces: Vec<Interface>,
    pub itses: Vec<Its>,
    pub lpis: Lpis,
}

impl Gic {
    /// Returns a GIC after reset, with a PE for each affinity (in the layout of `MPIDR_EL1`) and an
    /// ITS for each size.
    pub fn new(affinities: &[u64], wired: Wired, lpi_bits: u32, itses: &[Size]) -> Self {
        Self {
            distributor: Distributor::new(wired, lpi_bits, affinities[0]),
            redistributors: affinities
                .iter()
                .map(|affinity| Redistributor::new(*affinity, wired.extended_ppis, lpi_bits != 0))
                .collect(),
            interfaces: affinities.iter().map(|_| Interface::default()).collect(),
            itses: itses.iter().map(|size| Its::new(*size)).collect(),
            lpis: Lpis::new(lpi_bits, affinities.len()),
        }
    }

    /// Executes a command of ITS `its`.
    pub fn execute(&mut self, its: usize, command: [u64; 4]) -> Result<(), Fault> {
        self.itses[its].execute(command, &mut self.lpis)
    }

    /// Applies a device's write of an EventID to `GITS_TRANSLATER` of ITS `its`. Returns whether
    /// the LPI is pending afterwards.
    pub fn translate(&mut self, its: usize, device: u64, event: u64) -> bool {
        self.itses[its].translate(device, event, &mut self.lpis)
    }

    pub fn pes(&self) -> usize {
        self.redistributors.len()
    }

    /// Returns a register as read by the guest.
    pub fn read(&self, frame: Frame, offset: u64, bytes: u64) -> u64 {
        if !offset.is_multiple_of(bytes) {
            return 0;
        }
        match frame {
            Frame::Distributor => self.distributor.read(offset, bytes),
            Frame::Redistributor(pe) => {
                let last = pe + 1 == self.pes();
                self.redistributors[pe].read(offset, bytes, pe, last)
            }
        }
    }

    pub fn write(&mut self, frame: Frame, offset: u64, bytes: u64, value: u64) {
        if !offset.is_multiple_of(bytes) {
            return;
        }
        match frame {
            Frame::Distributor => self.distributor.write(offset, bytes, value),
            Frame::Redistributor(pe) => {
                let before = self.redistributors[pe].lpis_enabled;
                self.redistributors[pe].write(offset, bytes, value);
                let redistributor = &mut self.redistributors[pe];
                match (before, redistributor.lpis_enabled) {
                    (false, true) => {
                        // The claim of PTZ is about this moment.
                        let zero = std::mem::take(&mut redistributor.table_is_zero);
                        self.lpis.enable(pe, zero);
                    }
                    (true, false) => self.lpis.disable(pe),
                    _ => {}
                }
            }
        }
    }

    /// Returns the PE with the given affinity (`MPIDR_EL1` layout).
    pub fn find(&self, affinity: u64) -> Option<usize> {
        self.redistributors
            .iter()
            .position(|redistributor| redistributor.affinity == affinity && !redistributor.absent)
    }

    /// Removes PE `pe`. The library's rule: an interrupt routed to the PE stays pending, and
    /// collections mapped to the PE are unmapped.
    pub fn remove(&mut self, pe: usize) {
        self.redistributors[pe].replug(true);
        self.interfaces[pe] = Interface::default();
        for its in &mut self.itses {
            its.remove(pe, &mut self.lpis);
        }
    }

    /// Adds PE `pe`, which has been removed.
    pub fn add(&mut self, pe: usize) {
        self.redistributors[pe].replug(false);
    }

    /// Returns an SGI, PPI or SPI as seen by PE `pe`.
    pub fn interrupt(&mut self, pe: usize, intid: u32) -> Option<&mut Interrupt> {
        match intid {
            0..32 => self.redistributors[pe].private.get_mut(intid as usize),
            1056..1120 => self.redistributors[pe]
                .extended
                .get_mut(intid as usize - 1056),
            _ => self.distributor.spi(intid),
        }
    }

    /// Returns every interrupt with PE `pe` as target, with its INTID.
    pub fn routed_to(&self, pe: usize) -> impl Iterator<Item = (u32, &Interrupt)> {
        let redistributor = &self.redistributors[pe];
        let spis = self.distributor.all();
        let spis =
            spis.filter(move |(intid, _)| self.find(self.distributor.router(*intid)) == Some(pe));

        let lpis = self
            .lpis
            .mapped
            .iter()
            .filter(move |(_, lpi)| redistributor.lpis_enabled && lpi.at == Some(pe));

        redistributor
            .all()
            .chain(spis)
            .chain(lpis.map(|(intid, lpi)| (*intid, &lpi.interrupt)))
    }
}

/// Returns the word with `what` of interrupt n in bit n.
fn bits(interrupts: &[Interrupt], what: impl Fn(&Interrupt) -> bool) -> u64 {
    (0..).zip(interrupts).fold(0, |word, (n, interrupt)| {
        word | u64::from(what(interrupt)) << n
    })
}

/// Reads a register with a bit for each of 32 interrupts. `block` is the first register of its
/// kind.
fn read_bits(interrupts: &[Interrupt], block: u64) -> u64 {
    match block {
        0x080 => bits(interrupts, |interrupt| interrupt.group1),
        0x100 | 0x180 => bits(interrupts, |interrupt| interrupt.enabled),
        0x200 | 0x280 => bits(interrupts, Interrupt::pending),
        0x300 | 0x380 => bits(interrupts, |interrupt| interrupt.active),
        _ => 0,
    }
}

fn write_bits(interrupts: &mut [Interrupt], block: u64, word: u64) {
    for (n, interrupt) in (0..).zip(interrupts) {
        let bit = word >> n & 1 != 0;
        match block {
            0x080 => interrupt.group1 = bit,
            0x100 => interrupt.enabled |= bit,
            0x180 => interrupt.enabled &= !bit,
            0x200 => interrupt.latch |= bit,
            0x280 => interrupt.latch &= !bit,
            0x300 => interrupt.active |= bit,
            0x380 => interrupt.active &= !bit,
            _ => {}
        }
    }
}

/// Reads `IPRIORITYR` by byte and word accesses.
fn read_priorities(interrupts: &[Interrupt], first: usize, bytes: u64) -> u64 {
    if !matches!(bytes, 1 | 4) {
        return 0;
    }
    let named = interrupts.iter().skip(first).take(bytes as usize);
    (0..).zip(named).fold(0, |word, (byte, interrupt)| {
        word | u64::from(interrupt.priority) << (8 * byte)
    })
}

fn write_priorities(interrupts: &mut [Interrupt], first: usize, bytes: u64, value: u64) {
    if matches!(bytes, 1 | 4) {
        let named = interrupts.iter_mut().skip(first).take(bytes as usize);
        for (byte, interrupt) in (0..).zip(named) {
            // Five bits are implemented.
            interrupt.priority = (value >> (8 * byte)) as u8 & 0xf8;
        }
    }
}

/// Reads `ICFGR`: 0b10 is edge-triggered.
fn read_triggers(interrupts: &[Interrupt]) -> u64 {
    let edges = |n: u64, interrupt: &Interrupt| u64::from(!interrupt.level) << (2 * n + 1);
    (0..)
        .zip(interrupts.iter().take(16))
        .fold(0, |word, (n, interrupt)| word | edges(n, interrupt))
}

/// Writes `ICFGR`, and keeps the latch and the line. IHI 0069 (12.9, `GICD_ICFGR<n>`) makes a
/// change of an enabled interrupt UNPREDICTABLE, and leaves a pending one in an UNKNOWN pending
/// state: the test changes enabled interrupts, and no pending ones. A line that is high already is
/// no edge, by the rising edge of 1.2.1.
fn write_triggers(interrupts: &mut [Interrupt], word: u64) {
    for (n, interrupt) in (0..).zip(interrupts.iter_mut().take(16)) {
        interrupt.level = word >> (2 * n + 1) & 1 == 0;
    }
}

/// Returns the accessed part of a 64-bit register, for an access of 4 or 8 bytes.
fn read_half(register: u64, offset: u64, bytes: u64) -> u64 {
    match (bytes, offset % 8) {
        (8, 0) => register,
        (4, 0) => register & 0xffff_ffff,
        (4, 4) => register >> 32,
        _ => 0,
    }
}

fn write_half(register: &mut u64, offset: u64, bytes: u64, value: u64) {
    match (bytes, offset % 8) {
        (8, 0) => *register = value,
        (4, 0) => *register = *register >> 32 << 32 | value & 0xffff_ffff,
        (4, 4) => *register = value << 32 | *register & 0xffff_ffff,
        _ => {}
    }
}
