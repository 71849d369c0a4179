//! Exceptions taken to EL2: exits from the guest, and faults of the hypervisor.

pub(crate) mod debug_registers;
pub(crate) mod exit;
mod fatal;
pub(crate) mod frame;
pub(crate) mod inject;
mod message_limit;
pub(crate) mod report;
pub(crate) mod sync;
mod vectors;

pub(crate) use vectors::{enter_guest, translate, use_vectors};
