//! The loads under which cache lines are counted, and the markers that enclose each load.
//!
//! A marker is `MOVZ XZR, #n`, which has no effect. One begins a load, and one ends it. The guest
//! prints the number of events in between. This file is part of the guest, of the client, of the
//! plugin and of the report.

/// Load: an event that vCPUs repeat.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
#[repr(u16)]
#[allow(dead_code, reason = "each program that includes this uses its part")]
pub(crate) enum Load {
    /// `PSCI_VERSION` by `HVC`, by all vCPUs at once.
    Nothing = 1,
    /// An SGI to the next vCPU, which runs, by each vCPU in turn.
    Ring,
    /// An SGI to all other vCPUs, which run, by vCPU 0.
    Broadcast,
    /// MSIs of as many devices as there are vCPUs, each for a vCPU of its own.
    Distinct,
    /// MSIs of as many devices, all for vCPU 0.
    One,
    /// An LPI to the next vCPU by the ITS's INT command, by each vCPU in turn.
    Command,
    /// An SPI of each vCPU, made pending by the vCPU before it.
    Spi,
    /// A `MOVI` by vCPU 0, and an MSI to the vCPU that the event has moved to.
    Move,
    /// The last vCPU turned off, and on by vCPU 0, while all others do hypercalls.
    Plug,
    /// A counter that each CPU in turn increments.
    SharedCounter,
    /// A counter of each CPU, incremented in turn.
    OwnCounters,
    /// A ticket lock that each CPU in turn takes and releases.
    TicketLock,
}

#[allow(dead_code, reason = "each program that includes this uses its part")]
impl Load {
    /// All loads, in the order of the report.
    pub(crate) const ALL: [Self; 12] = [
        Self::Nothing,
        Self::Ring,
        Self::Broadcast,
        Self::Distinct,
        Self::One,
        Self::Command,
        Self::Spi,
        Self::Move,
        Self::Plug,
        Self::SharedCounter,
        Self::OwnCounters,
        Self::TicketLock,
    ];

    /// One more than the largest number of a load.
    pub(crate) const END: usize = Self::ALL.len() + 1;

    /// Returns the load's name on the guest's console and in the table.
    pub(crate) const fn keyword(self) -> &'static str {
        match self {
            Self::Nothing => "nothing",
            Self::Ring => "sgi-ring",
            Self::Broadcast => "sgi-broadcast",
            Self::Distinct => "msi-distinct",
            Self::One => "msi-one",
            Self::Command => "int-ring",
            Self::Spi => "spi-distinct",
            Self::Move => "movi",
            Self::Plug => "hot-plug",
            Self::SharedCounter => "shared-counter",
            Self::OwnCounters => "own-counters",
            Self::TicketLock => "ticket-lock",
        }
    }

    /// Returns the immediate of the marker that begins the load.
    pub(crate) const fn begin(self) -> u16 {
        BEGIN | self as u16
    }

    /// Returns the immediate of the marker that ends any load.
    pub(crate) const fn end() -> u16 {
        BEGIN
    }
}

/// Immediate of a marker, with the number of the load in the low byte, or 0 at the end of a load.
const BEGIN: u16 = 0xe300;
