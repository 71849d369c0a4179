//! A physical CPU: what it is to the hypervisor, and how its EL2 registers are set.

pub(crate) mod alarm;
pub(crate) mod control;
pub(crate) mod percpu;
pub(crate) mod registers;
pub(crate) mod stay;
