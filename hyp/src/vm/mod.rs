//! A virtual machine: its kernel, its device tree, its console, its power by PSCI, and the vGIC's
//! view of the machine.

pub(crate) mod console;
pub(crate) mod guest;
pub(crate) mod image;
pub(crate) mod passthrough_host;
pub(crate) mod psci;
pub(crate) mod shutdown;
pub(crate) mod tree;
