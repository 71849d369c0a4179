//! A vCPU: its registers, its power, and its interrupts.

pub(crate) mod context;
pub(crate) mod deferred;
pub(crate) mod interrupts;
pub(crate) mod power;
