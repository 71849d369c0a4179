//! A machine, as far as the hypervisor and a guest with the whole machine need to know it.

use alloc::vec::Vec;
use core::ops::Range;

/// A machine.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Machine {
    /// CPUs that can be used.
    pub cpus: Vec<Cpu>,
    /// Address of the distributor.
    pub distributor: u64,
    /// Regions of redistributors.
    pub redistributors: Vec<Range<u64>>,
    /// ITSes.
    pub its: Vec<Its>,
    /// Maintenance interrupt, an INTID.
    pub maintenance: u32,
    /// Timers: secure and non-secure physical timer of EL1, virtual timer, timer of EL2.
    pub timers: [Interrupt; 4],
    /// Overflow interrupt of the performance monitors, an INTID.
    pub monitors: Option<u32>,
    /// Console.
    pub console: Option<Console>,
    /// Host bridges of PCI.
    pub bridges: Vec<Bridge>,
    /// SMMU, if there is one that the hypervisor can drive.
    pub smmu: Option<u64>,
}

/// A CPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cpu {
    /// Affinity, in the layout of `MPIDR_EL1`.
    pub affinity: u64,
}

/// An ITS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Its {
    /// Number by which other tables name it.
    pub id: u32,
    /// Address of its registers.
    pub address: u64,
}

/// An interrupt and its line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Interrupt {
    /// INTID, or 0 if there is none.
    pub intid: u32,
    /// True for an edge, false for a level.
    pub is_edge: bool,
    /// True if the line is active while it is low.
    pub is_low: bool,
}

/// A UART, which the firmware has set up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Console {
    /// Kind of the UART.
    pub kind: Uart,
    /// Address of its registers.
    pub address: u64,
    /// INTID of its interrupt, an SPI.
    pub interrupt: Option<u32>,
    /// Baud rate.
    pub baud: Option<u32>,
}

/// A kind of UART.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Uart {
    /// The part of a PL011 that Arm's Base System Architecture asks for, or all of it.
    Sbsa,
    /// A 16550.
    Ns16550 {
        /// Distance of two registers, as a power of two.
        shift: u32,
        /// Bytes of an access.
        width: u32,
        /// Clock in Hz.
        clock: u32,
    },
}

/// A host bridge of PCI with an enhanced configuration space.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bridge {
    /// PCI segment.
    pub segment: u16,
    /// Address of the configuration space of the first bus.
    pub ecam: u64,
    /// First and last bus.
    pub buses: (u8, u8),
    /// Memory of the bus that CPUs see.
    pub windows: Vec<Window>,
    /// Requester IDs as StreamIDs at the SMMU.
    pub streams: Vec<IdRange>,
    /// Requester IDs as DeviceIDs, each at the ITS of this id.
    pub devices: Vec<(u32, IdRange)>,
}

/// Memory of a bus.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// Address on the bus.
    pub bus: u64,
    /// Address for CPUs.
    pub cpu: u64,
    /// Bytes.
    pub size: u64,
}

/// A range of identifiers, and the identifiers that they become.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IdRange {
    /// First identifier.
    pub from: u32,
    /// The identifier that the first becomes.
    pub to: u32,
    /// Number of identifiers.
    pub count: u32,
}

impl IdRange {
    /// Returns the identifiers that go through this range and then `next`.
    pub(crate) fn then(self, next: Self) -> Option<Self> {
        let start = self.to.max(next.from);
        let end = (u64::from(self.to) + u64::from(self.count))
            .min(u64::from(next.from) + u64::from(next.count));
        let count = end.checked_sub(start.into()).filter(|&count| count > 0)?;
        Some(Self {
            from: self.from + (start - self.to),
            to: next.to + (start - next.from),
            count: count as u32,
        })
    }
}
