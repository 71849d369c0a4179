//! Register frames.

pub(crate) mod gicd;
pub(crate) mod gicr;
