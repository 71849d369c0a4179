//! Into the guest and out of it, onto a CPU and off it.

pub(crate) mod block;
pub(crate) mod enter;
pub(crate) mod exit;
pub(crate) mod flush;
pub(crate) mod fold;
pub(crate) mod load;
#[cfg(all(test, not(loom)))]
mod tests;
