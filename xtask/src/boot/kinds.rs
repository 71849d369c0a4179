//! Counts by kind of interrupt.

use serde_json::Value;

/// The kinds of interrupt, by their names in reports.
pub(crate) const KINDS: [&str; 4] = ["sgi", "ppi", "spi", "lpi"];

/// One count for each kind of interrupt.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct PerKind {
    pub(crate) sgi: u64,
    pub(crate) ppi: u64,
    pub(crate) spi: u64,
    pub(crate) lpi: u64,
}

object!(PerKind { sgi, ppi, spi, lpi });

impl PerKind {
    /// Reads an object with a count for each kind.
    pub(crate) fn read(value: &Value) -> Option<Self> {
        let count = |kind: &str| value.get(kind)?.as_u64();
        Some(Self {
            sgi: count("sgi")?,
            ppi: count("ppi")?,
            spi: count("spi")?,
            lpi: count("lpi")?,
        })
    }

    /// Returns the count of a kind.
    pub(crate) fn of(&self, kind: &str) -> u64 {
        match kind {
            "sgi" => self.sgi,
            "ppi" => self.ppi,
            "spi" => self.spi,
            "lpi" => self.lpi,
            _ => unreachable!("kinds are those of KINDS"),
        }
    }

    /// Returns the count of a kind, to be changed.
    pub(crate) fn of_mut(&mut self, kind: &str) -> &mut u64 {
        match kind {
            "sgi" => &mut self.sgi,
            "ppi" => &mut self.ppi,
            "spi" => &mut self.spi,
            "lpi" => &mut self.lpi,
            _ => unreachable!("kinds are those of KINDS"),
        }
    }
}
