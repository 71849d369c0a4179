//! Execution of ITS commands (IHI 0069, 5.3). The state of an ITS is in [`crate::vm::its`].
//!
//! | file | content |
//! |---|---|
//! | [`command`] | encoding: a command's 32 bytes in guest memory |
//! | [`command_queue`] | slices of the command queue, writes of `GITS_CBASER` and `GITS_BASER<n>` |
//! | [`execute`] | checks and effects of each command |
//! | [`direct`] | direct events: which are, and the change between the two paths |
//! | [`walks`] | commands done in steps |
// The guest chooses every number in a command: no number may panic the hypervisor.
#![cfg_attr(
    not(test),
    deny(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        clippy::indexing_slicing,
        clippy::arithmetic_side_effects
    )
)]

pub(crate) mod command;
pub(crate) mod command_queue;
pub(crate) mod direct;
pub(crate) mod execute;
#[cfg(all(test, not(loom)))]
mod tests;
pub(crate) mod walks;
