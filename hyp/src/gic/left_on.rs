//! LPIs that firmware, or a kernel that ran before, has left enabled.
//!
//! While `GICR_CTLR.EnableLPIs` is 1, the redistributor uses the tables that it was given, and its
//! table registers must not be written (IHI 0069, 12.11). Once set, the bit may stay set until the
//! reset. `GICR_CTLR.CES` promises that it does not, but redistributors that are older than `CES`
//! clear the bit without the promise. The bit therefore is written in any case, and read back.

use core::fmt;

/// `GICR_CTLR.EnableLPIs`.
const ENABLE_LPIS: u32 = 1 << 0;

/// `GICR_CTLR.RWP`.
const WRITE_PENDING: u32 = 1 << 3;

/// `GICR_CTLR` of a redistributor.
pub(crate) trait Control {
    /// Reads the register.
    fn read(&self) -> u32;

    /// Writes the register. The write is visible to a later read.
    fn write(&self, value: u32);

    /// Reads the register until `done` is true of it. Returns false if it is not in time.
    fn wait(&self, done: impl Fn(u32) -> bool) -> bool;
}

/// LPIs of a redistributor, after the attempt to disable them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use]
pub(crate) enum Lpis {
    /// They were disabled.
    Off,
    /// They have been disabled.
    TurnedOff,
    /// The bit stays set. `control` is the register.
    Stuck { control: u32 },
    /// The register's last write takes effect too late. `control` is the register.
    Late { control: u32 },
}

impl Lpis {
    /// Returns true if the redistributor can be given tables.
    pub(crate) fn are_off(self) -> bool {
        matches!(self, Self::Off | Self::TurnedOff)
    }
}

impl fmt::Display for Lpis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Off => write!(f, "LPIs were disabled"),
            Self::TurnedOff => write!(f, "LPIs were left enabled, and have been disabled"),
            Self::Stuck { control } => write!(
                f,
                "LPIs were left enabled, and cannot be disabled (GICR_CTLR {control:#x})"
            ),
            Self::Late { control } => write!(
                f,
                "LPIs were left enabled, and are not disabled in time (GICR_CTLR {control:#x})"
            ),
        }
    }
}

/// Disables the LPIs of a redistributor, which no ITS sends any. When they have been disabled, the
/// redistributor uses its tables no more.
pub(crate) fn turn_off(register: &impl Control) -> Lpis {
    let found = register.read();
    if found & ENABLE_LPIS == 0 {
        return Lpis::Off;
    }

    register.write(found & !ENABLE_LPIS);
    let is_in_time = register.wait(|control| control & WRITE_PENDING == 0);
    let control = register.read();
    match (control & ENABLE_LPIS, is_in_time) {
        (0, true) => Lpis::TurnedOff,
        (0, false) => Lpis::Late { control },
        _ => Lpis::Stuck { control },
    }
}
