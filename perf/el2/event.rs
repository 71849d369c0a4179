//! The measured events, and the markers that enclose each event.
//!
//! A marker is `MOVZ XZR, #n`: it has no effect, does not trap, and only the plugin looks for it.
//! One marker begins an event and one ends it. Instructions that any CPU executes at EL2 in between
//! are counted for the event. This file is part of the guest, of the client, of the plugin, of the
//! report, and of hyp with the feature `pmu`.

/// Measured event.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
#[repr(u16)]
#[allow(dead_code, reason = "each program that includes this uses its part")]
pub(crate) enum Event {
    /// `PSCI_VERSION` by `HVC`, with no interrupt pending.
    Hypercall = 1,
    /// A read of `GICD_TYPER`.
    Read,
    /// A write of `GICD_ISENABLER<n>` that enables an SPI.
    Enable,
    /// An SGI to the vCPU that sends it, until it is handled.
    SgiSelf,
    /// An SGI to another vCPU, which runs, until it is handled.
    SgiRunning,
    /// An SPI made pending by `GICD_ISPENDR<n>`, routed to another vCPU, until it is handled.
    Spi,
    /// An LPI by the ITS's INT command, until it is handled by another vCPU.
    Lpi,
    /// An SGI to a vCPU that has just executed `WFI`, until it is handled.
    SgiWaiting,
    /// An SGI to a vCPU that executed `WFI` long ago, until it is handled.
    SgiAsleep,
    /// The virtual timer, from being set to 50 us ahead until it is handled.
    Timer,
    /// An MSI that the host injects for a vCPU that is not running.
    Msi,
    /// An MSI that the host injects for a vCPU that runs, until it is handled.
    MsiRunning,
    /// An MSI of a device, or of the host, to a vCPU that executed `WFI` long ago, until it is
    /// handled.
    MsiWaiting,
    /// An SGI to another vCPU of the CPU, followed by `WFI`, until the other vCPU has handled it.
    Switch,
}

#[allow(dead_code, reason = "each program that includes this uses its part")]
impl Event {
    /// All events, in the order of the report.
    pub(crate) const ALL: [Self; 14] = [
        Self::Hypercall,
        Self::Read,
        Self::Enable,
        Self::SgiSelf,
        Self::SgiRunning,
        Self::Spi,
        Self::Lpi,
        Self::SgiWaiting,
        Self::SgiAsleep,
        Self::Timer,
        Self::Msi,
        Self::MsiRunning,
        Self::MsiWaiting,
        Self::Switch,
    ];

    /// One more than the largest number of an event.
    pub(crate) const END: usize = Self::ALL.len() + 1;

    /// Returns the event's name on the command line of `cargo xtask perf`.
    pub(crate) const fn keyword(self) -> &'static str {
        match self {
            Self::Hypercall => "hypercall",
            Self::Read => "read",
            Self::Enable => "enable",
            Self::SgiSelf => "sgi-self",
            Self::SgiRunning => "sgi-running",
            Self::Spi => "spi",
            Self::Lpi => "lpi",
            Self::SgiWaiting => "sgi-waiting",
            Self::SgiAsleep => "sgi-asleep",
            Self::Timer => "timer",
            Self::Msi => "msi",
            Self::MsiRunning => "msi-running",
            Self::MsiWaiting => "msi-waiting",
            Self::Switch => "switch",
        }
    }

    /// Returns the immediate of the marker that begins the event.
    pub(crate) const fn begin(self) -> u16 {
        BEGIN | self as u16
    }

    /// Returns the immediate of the marker that ends any event.
    pub(crate) const fn end() -> u16 {
        BEGIN
    }
}

/// Immediate of a marker, with the number of the event in the low byte, or 0 at the end of an
/// event.
const BEGIN: u16 = 0xe200;
