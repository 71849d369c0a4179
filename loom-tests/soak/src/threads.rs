//! Threads of the machine, or of shuttle, with a switch at every atomic access of the library.

#[cfg(shuttle)]
pub(crate) use shuttle::thread::{scope, yield_now};
#[cfg(not(shuttle))]
pub(crate) use std::thread::{scope, yield_now};
