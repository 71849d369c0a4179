//! A lock-free virtual Arm GICv3.
#![cfg_attr(not(feature = "std"), no_std)]
extern crate alloc;
