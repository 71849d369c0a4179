//! Device trees of guests: the machine's, edited, for the VM with the whole machine, and a tree of
//! its own for each other VM.

pub(crate) mod edit;
pub(crate) mod gicv2;
pub(crate) mod idle_states;
pub(crate) mod part;
pub(crate) mod second_its;
