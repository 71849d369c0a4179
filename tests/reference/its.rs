//! An ITS and its LPIs (IHI 0069, chapter 5).

use std::collections::BTreeMap;

use super::Interrupt;

/// An LPI that is mapped.
#[derive(Clone, Debug)]
pub struct Lpi {
    /// Its pending state and configuration; never active.
    pub interrupt: Interrupt,
    /// The PE on whose redistributor it is, or goes to when it becomes pending.
    pub at: Option<usize>,
}

/// One ITS.
pub struct Its {
    /// By INTID.
    pub lpis: BTreeMap<u32, Lpi>,
    lpi_bits: u32,
}

impl Its {
    pub fn new(lpi_bits: u32) -> Self {
        Self {
            lpis: BTreeMap::new(),
            lpi_bits,
        }
    }

    pub fn read(&self, _offset: u64, _bytes: u64) -> u64 {
        0
    }
}
