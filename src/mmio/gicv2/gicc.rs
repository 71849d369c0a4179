//! The CPU interface of a GICv2 (IHI 0048, 4.4), 32 bits at a time. [`entry::gicc`] has what
//! acknowledges and ends interrupts.
//!
//! There are no Security Extensions: an access is like a Secure one of a GIC that has them.
//!
//! [`entry::gicc`]: crate::entry::gicc

use crate::cpu_interface::{CpuInterface, priority, vmcr};
use crate::entry::gicc::{Gicc, Register};
use crate::host::Host;
use crate::vm::gicv2::{CTLR_ACK_CTL, CTLR_FIQ_EN};

const CTLR: u64 = 0x0000;
const PMR: u64 = 0x0004;
const BPR: u64 = 0x0008;
const IAR: u64 = 0x000c;
const EOIR: u64 = 0x0010;
const RPR: u64 = 0x0014;
const HPPIR: u64 = 0x0018;
const ABPR: u64 = 0x001c;
const AIAR: u64 = 0x0020;
const AEOIR: u64 = 0x0024;
const AHPPIR: u64 = 0x0028;
const APR0: u64 = 0x00d0;
const APR3: u64 = 0x00dc;
const NSAPR0: u64 = 0x00e0;
const NSAPR3: u64 = 0x00ec;
const IIDR_OFFSET: u64 = 0x00fc;
const DIR: u64 = 0x1000;

/// `GICC_IIDR` (4.4.14): product 0x076, architecture version 2, revision 1, no JEP106 code.
const IIDR: u32 = 0x0762_1000;

/// The implemented bits of a priority.
const PRIORITY: u32 = 0xf8;

/// Fields of `GICC_CTLR` (4.4.1) that are where `ICH_VMCR_EL2` has them: EnableGrp0, EnableGrp1,
/// CBPR, EOImode.
const IN_VMCR: u64 = vmcr::VENG0 | vmcr::VENG1 | vmcr::VCBPR | vmcr::VEOIM;

/// Reads the register at an offset.
pub(super) fn read<H: Host, I: CpuInterface>(gicc: &Gicc<'_, H, I>, at: u64) -> u32 {
    let registers = gicc.registers();
    let field = |shift: u32, mask: u64| (registers.read_vmcr() >> shift & mask) as u32;
    match at {
        CTLR => (registers.read_vmcr() & IN_VMCR) as u32 | gicc.control(),
        PMR => vmcr::priority_mask(registers.read_vmcr()).into(),
        BPR => field(vmcr::VBPR0_SHIFT, 7),
        ABPR => field(vmcr::VBPR1_SHIFT, 7),
        IAR => gicc.acknowledge(Register::Common),
        AIAR => gicc.acknowledge(Register::Aliased),
        RPR => priority::running(registers).into(),
        HPPIR => gicc.highest_pending(Register::Common),
        AHPPIR => gicc.highest_pending(Register::Aliased),
        IIDR_OFFSET => IIDR,
        _ => match active_priorities(at, registers) {
            Some((group1, index)) => registers.read_apr(group1, index),
            None => 0,
        },
    }
}

/// Writes the register at an offset.
pub(super) fn write<H: Host, I: CpuInterface>(gicc: &Gicc<'_, H, I>, at: u64, value: u32) {
    let registers = gicc.registers();
    let set_field = |shift: u32, mask: u64, value: u32| {
        let vmcr = registers.read_vmcr();
        let field = u64::from(value) & mask;
        registers.write_vmcr(vmcr & !(mask << shift) | field << shift);
    };
    match at {
        CTLR => {
            let vmcr = registers.read_vmcr() & !IN_VMCR | u64::from(value) & IN_VMCR;
            gicc.set_control(value & (CTLR_ACK_CTL | CTLR_FIQ_EN), vmcr);
        }
        // As many bits as `GICD_IPRIORITYR<n>` has.
        PMR => set_field(vmcr::VPMR_SHIFT, 0xff, value & PRIORITY),
        // The hardware keeps the smallest binary point.
        BPR => set_field(vmcr::VBPR0_SHIFT, 7, value),
        ABPR => set_field(vmcr::VBPR1_SHIFT, 7, value),
        EOIR => gicc.end(Register::Common, value),
        AEOIR => gicc.end(Register::Aliased, value),
        DIR => gicc.deactivate_by_register(value),
        _ => {
            if let Some((group1, index)) = active_priorities(at, registers) {
                registers.write_apr(group1, index, value);
            }
        }
    }
}

/// Returns the active priorities register at an offset, `GICC_APR<n>` or `GICC_NSAPR<n>` (4.4.12
/// and 4.4.13): whether it is of Group 1, and n. `None` if it does not exist.
fn active_priorities(at: u64, registers: &impl CpuInterface) -> Option<(bool, usize)> {
    let (group1, first) = match at {
        APR0..=APR3 => (false, APR0),
        NSAPR0..=NSAPR3 => (true, NSAPR0),
        _ => return None,
    };
    let index = (at.wrapping_sub(first) / 4) as usize;
    (index < registers.vtr().apr_count()).then_some((group1, index))
}
