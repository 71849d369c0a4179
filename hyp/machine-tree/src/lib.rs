//! The machine's device tree, as [`hyp`] wants it, from what UEFI firmware tells.
//!
//! `hyp` reads one description of a machine: a device tree. Servers describe themselves by ACPI.
//! This library turns the one into the other, so that the hypervisor needs no second way to find
//! its devices. [`hyp-efi`], the UEFI application, calls it before it leaves the firmware.
//!
//! * [`config`]: the configuration, which names the guests.
//! * [`sections`]: the application's own sections, in which guests may be.
//! * [`machine`]: the machine, apart from how it is described.
//! * [`acpi`]: the machine of ACPI tables; [`gtdt`] and [`iort`] read those of them that the crate
//!   `acpi` does not know.
//! * [`tree`]: the machine as a device tree.
//! * [`boot`]: memory, kernels and command lines, added to a device tree of either origin.
//!
//! [`hyp`]: ../hyp/index.html
//! [`hyp-efi`]: ../hyp_efi/index.html
#![no_std]

extern crate alloc;

pub mod acpi;
pub mod boot;
pub mod config;
mod gtdt;
mod iort;
pub mod machine;
pub mod sections;
pub mod tree;
