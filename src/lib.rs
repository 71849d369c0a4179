//! A lock-free virtual Arm GICv3.
#![cfg_attr(not(feature = "std"), no_std)]
extern crate alloc;

pub mod cpu_interface;
pub mod epoch;
pub mod intid;
pub mod lr;
pub mod radix;
pub mod sync;
pub mod trace;
