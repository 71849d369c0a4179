//! The parts that the guests of conformance cases have in common: the way from reset to Rust, the
//! other CPUs, exceptions, the console, and the run of the cases.
//!
//! A guest is a program for EL1 that tests its interrupt controller from inside, one named case for
//! each rule of the architecture. It cannot tell whether a hypervisor emulates the controller. On
//! an emulator's own controller it runs unchanged, as the oracle for its cases. The program
//! `conformance` is for a GICv3, `conformance-v2` for a GICv2.
//!
//! Options on the command line in the device tree: `filter=TEXT` selects the cases whose name or
//! rule contains the text, `list` only names them, and `alone` selects those that need one CPU.
//! `lost=N` says that case number N did not come to its end in an earlier run: it has failed, and
//! the run goes on behind it.
#![no_std]

pub mod bank;
pub mod board;
pub mod case;
pub mod console;
pub mod cpu;
pub mod cpus;
pub mod exception;
pub mod mmio;
pub mod psci;
pub mod run;
pub mod start;

#[panic_handler]
fn panicked(info: &core::panic::PanicInfo<'_>) -> ! {
    println!("Bail out! {info}");
    psci::system_off()
}
