//! Synchronous exits: what the guest did that it may not do by itself.

use aarch64_cpu::registers::{ELR_EL2, ESR_EL2, FAR_EL2, HPFAR_EL2, Readable, Writeable};

use super::frame::Frame;
use super::inject;
use crate::cpu::percpu::PerCpu;
use crate::guest::psci;
use crate::println;

/// Bytes of an instruction.
const INSTRUCTION: u64 = 4;

/// Entered by the vectors.
pub(super) extern "C" fn synchronous(frame: &mut Frame) {
    let syndrome = ESR_EL2.extract();
    match syndrome.read_as_enum(ESR_EL2::EC) {
        Some(ESR_EL2::EC::Value::HVC64) => psci::call(frame),
        Some(ESR_EL2::EC::Value::SMC64) => {
            // A trapped SMC has not been executed yet; HVC has.
            skip();
            psci::call(frame);
        }
        Some(ESR_EL2::EC::Value::DataAbortLowerEL) => unmapped(Access::of(syndrome.get())),
        Some(ESR_EL2::EC::Value::InstrAbortLowerEL) => unmapped(Access::Fetch),
        _ => {
            println!(
                "hyp: vcpu {}: unexpected trap, ESR_EL2 {:#x}, at pc {:#x}: undefined instruction",
                PerCpu::current().index,
                syndrome.get(),
                ELR_EL2.get()
            );
            inject::undefined();
        }
    }
}

/// Goes on after the trapped instruction.
fn skip() {
    ELR_EL2.set(ELR_EL2.get() + INSTRUCTION);
}

/// A kind of access to memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Access {
    Read,
    Write,
    Fetch,
}

impl Access {
    /// What a data abort with this syndrome was (`ESR_EL2.WnR`).
    fn of(syndrome: u64) -> Self {
        if syndrome & (1 << 6) != 0 {
            Self::Write
        } else {
            Self::Read
        }
    }
}

/// The guest-physical address that the trapped access went to.
fn fault_address() -> u64 {
    HPFAR_EL2.read(HPFAR_EL2::FIPA) << 12 | FAR_EL2.get() & 0xfff
}

/// An access to an address where the guest has nothing.
fn unmapped(access: Access) {
    let name = match access {
        Access::Read => "read",
        Access::Write => "write",
        Access::Fetch => "instruction fetch",
    };
    println!(
        "hyp: vcpu {}: {name} at unmapped address {:#x}, at pc {:#x}: external abort",
        PerCpu::current().index,
        fault_address(),
        ELR_EL2.get()
    );
    inject::external_abort(access == Access::Fetch);
}
