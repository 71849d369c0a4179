//! The library on this machine: the cost of its operations, alone and by several threads, and
//! beside other designs.
//!
//! * [`figures`]: times and rates, held against the targets;
//! * [`counters`], [`perf_stat`]: the CPU's own counters, where there are any.

pub(crate) mod counters;
pub(crate) mod figures;
mod perf_stat;
