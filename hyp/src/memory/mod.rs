//! Memory: the hypervisor's own, and the translation tables of the hypervisor and the guests.

pub(crate) mod cache;
pub(crate) mod dirty;
pub(crate) mod dma;
pub(crate) mod heap;
pub(crate) mod layout;
pub(crate) mod ranges;
pub(crate) mod reach;
mod small;
pub(crate) mod stage1;
pub(crate) mod stage2;
pub(crate) mod table;
pub(crate) mod tlb;
