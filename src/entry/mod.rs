//! Into the guest and out of it, onto a CPU and off it.
//!
//! | file | concern |
//! |---|---|
//! | [`enter`] | into the guest |
//! | [`flush`] | choosing the interrupts that fill the list registers |
//! | [`exit`] | out of the guest |
//! | [`fold`] | taking interrupts back from list registers |
//! | [`load_put`] | a vCPU onto a CPU and off it, on and off |
//! | [`block`] | WFI |
//! | [`gicc`] | the CPU interface of a GICv2, by traps |
//!
//! Most entries and exits touch no `ICH_*` register: the vCPU is on this CPU, and nothing has come
//! or gone.

pub(crate) mod block;
pub(crate) mod enter;
pub(crate) mod exit;
mod flush;
pub(crate) mod fold;
pub(crate) mod gicc;
pub(crate) mod load_put;
#[cfg(all(test, not(loom)))]
mod tests;
