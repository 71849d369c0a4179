//! The kinds of mutants.

/// A kind of mutant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    /// The ordering of an atomic access, one step weaker.
    Order,
    /// A fence, gone.
    Fence,
    /// An epoch guard, not taken.
    Guard,
    /// A check after a lock was taken or after something was published, gone: no early return or
    /// other way out, or what depends on the check done always.
    Recheck,
    /// A notification, not sent.
    Notify,
}

impl Kind {
    /// Lists all kinds.
    pub(crate) const ALL: [Self; 5] = [
        Self::Order,
        Self::Fence,
        Self::Guard,
        Self::Recheck,
        Self::Notify,
    ];

    /// Returns the kind's name in the names of mutants.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Order => "order",
            Self::Fence => "fence",
            Self::Guard => "guard",
            Self::Recheck => "recheck",
            Self::Notify => "notify",
        }
    }

    /// Describes the kind's mutants in the table.
    pub(crate) fn what(self) -> &'static str {
        match self {
            Self::Order => "an ordering one step weaker",
            Self::Fence => "a fence gone",
            Self::Guard => "an epoch guard not taken",
            Self::Recheck => "a check gone, under a lock or after a publication",
            Self::Notify => "a notification not sent",
        }
    }

    /// Tells whether only a weak memory model shows the mutant.
    pub(crate) fn is_of_memory(self) -> bool {
        matches!(self, Self::Order | Self::Fence)
    }
}
