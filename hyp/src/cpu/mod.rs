//! A physical CPU: what it is to the hypervisor, and how its EL2 registers are set.

pub(crate) mod control;
pub(crate) mod el2_time;
pub(crate) mod hyp_timer;
pub(crate) mod percpu;
pub(crate) mod registers;
