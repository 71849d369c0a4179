//! Description of the interrupt controller for the guest, by a [`Config`](crate::Config).
//!
//! | file | description |
//! |---|---|
//! | [`device_tree`] | the node of the controller, and of its ITSes or GICv2m frames |
//! | [`acpi`] | the MADT, and an ITS group of the IORT, as bytes |
//!
//! The functions return plain data. The embedder adds the data to the tree, or to the tables, of
//! its VM. A configuration that `Vgic::new` refuses has a description without meaning.

pub mod acpi;
pub mod device_tree;
