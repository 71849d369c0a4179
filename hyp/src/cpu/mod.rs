//! A physical CPU: its data in the hypervisor, and its EL2 registers.

pub(crate) mod clock;
pub(crate) mod control;
pub(crate) mod el2_time;
pub(crate) mod hyp_timer;
pub(crate) mod id_registers;
pub(crate) mod patience;
pub(crate) mod percpu;
pub(crate) mod registers;
pub(crate) mod rendezvous;
pub(crate) mod this_cpu;
pub(crate) mod virtual_lines;
