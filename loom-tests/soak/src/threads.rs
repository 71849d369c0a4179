//! Threads: the machine's, or shuttle's, which takes a turn at every atomic access of the library.

#[cfg(shuttle)]
pub(crate) use shuttle::thread::{scope, yield_now};
#[cfg(not(shuttle))]
pub(crate) use std::thread::{scope, yield_now};
