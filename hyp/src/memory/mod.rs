//! Memory: where the hypervisor lives, what it maps for itself and what for the guest.

pub(crate) mod cache;
pub(crate) mod heap;
pub(crate) mod layout;
pub(crate) mod ranges;
mod small;
pub(crate) mod stage1;
pub(crate) mod stage2;
