//! The device tree of the guest with the whole machine.

pub(crate) mod edit;
pub(crate) mod idle_states;
pub(crate) mod second_its;
