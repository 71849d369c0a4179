#![no_std]
#![no_main]
//! EL2 hypervisor.
