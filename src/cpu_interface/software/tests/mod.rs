//! Tests of the model: `hypervisor` for the `ICH_*` side, `guest` for the `ICC_*` side,
//! `preemption` for the invariants of long sequences.

mod guest;
mod hypervisor;
mod preemption;

use super::{NEOVERSE, SoftwareInterface};
use crate::{
    cpu_interface::{CpuInterface, Vtr, hcr},
    lr::ListRegister,
};

const P: u64 = ListRegister::PENDING;
const A: u64 = ListRegister::ACTIVE;
const G1: u64 = ListRegister::GROUP1;

/// Returns a list register with the given state and flag bits.
fn lr(bits: u64, intid: u32, priority: u8) -> ListRegister {
    ListRegister(bits | u64::from(priority) << ListRegister::PRIORITY_SHIFT | u64::from(intid))
}

/// Returns a list register backed by the physical interrupt `pintid`.
fn hw(bits: u64, intid: u32, priority: u8, pintid: u64) -> ListRegister {
    lr(
        bits | ListRegister::HW | pintid << ListRegister::PINTID_SHIFT,
        intid,
        priority,
    )
}

/// Creates an enabled interface whose guest takes both groups at any priority.
fn open(vtr: Vtr) -> SoftwareInterface {
    let cpu = SoftwareInterface::new(vtr);
    cpu.write_igrpen0(true);
    cpu.write_igrpen1(true);
    cpu.write_pmr(0xff).unwrap();
    cpu.write_hcr(hcr::EN);
    cpu
}

fn with_list_registers(registers: &[ListRegister]) -> SoftwareInterface {
    let cpu = open(NEOVERSE);
    for (index, &register) in registers.iter().enumerate() {
        cpu.write_lr(index, register);
    }
    cpu
}

fn eoi_count(cpu: &SoftwareInterface) -> u64 {
    cpu.read_hcr() >> hcr::EOI_COUNT_SHIFT
}
