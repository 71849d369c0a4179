//! The models, a module for each protocol. One program: almost all models build on the same VM.
#![cfg(loom)]

mod clear_pending;
mod deferred;
mod direct;
mod enable_lpis;
mod epoch;
mod fold_prune;
mod freeze;
mod guest_memory;
mod hotplug;
mod inject;
mod its_pair;
mod its_registers;
mod kick;
mod level;
mod lpi_lifetime;
mod physical;
mod publication;
mod radix;
mod retarget;
mod rwp;
mod scheduler;
mod sgi;
mod sgi_sources;
mod slices;
mod snapshot;
mod targets;
mod teardown;
mod tickets;
