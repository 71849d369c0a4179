//! Positions in a queue that the SMMU shares (IHI 0070, 3.5).

/// Position in a queue: an index, and above it a bit that changes with every round.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Position(u32);

impl Position {
    /// Start of every queue.
    pub(super) const START: Self = Self(0);

    /// Returns the position in a register's value, in a queue of 2^`log2` entries.
    pub(super) const fn from_register(value: u32, log2: u32) -> Self {
        Self(value & ((2 << log2) - 1))
    }

    /// Returns the index of the entry, in a queue of 2^`log2` entries.
    pub(super) const fn index(self, log2: u32) -> usize {
        (self.0 & ((1 << log2) - 1)) as usize
    }

    /// Returns the next position, in a queue of 2^`log2` entries.
    pub(super) const fn next(self, log2: u32) -> Self {
        Self::from_register(self.0 + 1, log2)
    }

    /// Returns the value for a register.
    pub(super) const fn value(self) -> u32 {
        self.0
    }
}
