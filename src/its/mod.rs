//! ITS commands.
// What a guest says is a claim: nothing here may stop the hypervisor over it.
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
mod execute;
pub(crate) mod queue;
#[cfg(all(test, not(loom)))]
mod tests;
pub(crate) mod walks;
