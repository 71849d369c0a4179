//! What moves interrupts.

pub(crate) mod change;
pub(crate) mod count;
pub(crate) mod group_enables;
pub(crate) mod inject;
pub(crate) mod lpi_lifetime;
pub(crate) mod lpi_tables;
pub(crate) mod prune;
pub(crate) mod queue;
pub(crate) mod routing;
