//! A lock-free virtual Arm GICv3.
#![cfg_attr(not(feature = "std"), no_std)]
extern crate alloc;

mod ap_list;
pub mod config;
pub mod cpu_interface;
pub mod epoch;
mod host;
pub mod intid;
mod irq;
mod its;
pub mod lr;
pub mod mmio;
pub mod radix;
pub mod sync;
pub mod sysreg;
mod topology;
pub mod trace;
mod vcpu;
mod vgic;

pub use config::Config;
pub use host::{BadAddress, Host};
pub use vcpu::{Blocked, Cpu, EntryError};
pub use vgic::{InjectError, Injected, Remains, Vgic};
