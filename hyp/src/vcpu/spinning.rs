//! vCPUs that spin: they wait in a loop for what another vCPU does, for a lock as a rule.
//!
//! Such loops have a WFE, which an emulator may not trap (`HCR_EL2.TWE`), or the hint YIELD. A vCPU
//! whose turn ends beside one of them is taken for one that spins.

use aarch64_cpu::registers::{ELR_EL2, PAR_EL1, Readable, SPSR_EL2};
use tock_registers::LocalRegisterCopy;

use crate::exception::translate;
use crate::memory::layout::PAGE;
use crate::vm::Vm;

/// Instructions of loops that wait: WFE and YIELD.
const HINTS: [u32; 2] = [0xd503_205f, 0xd503_203f];

/// Bytes of such a loop, on either side of the hint.
const LOOP: u64 = 32;

/// Bytes of an instruction.
const INSTRUCTION: u64 = 4;

/// Returns true if the vCPU that has just left the calling CPU spins. Its registers were saved, and
/// no other vCPU's have been loaded. Overwrites some of them ([`translate`]).
pub(crate) fn is_spinning(vm: &Vm) -> bool {
    if !SPSR_EL2.matches_all(SPSR_EL2::M::EL1h) {
        return false;
    }
    let pc = ELR_EL2.get();
    let translated = LocalRegisterCopy::<u64, PAR_EL1::Register>::new(translate(pc));
    if translated.is_set(PAR_EL1::F) {
        return false;
    }

    let page = PAGE as u64;
    let gpa = translated.read(PAR_EL1::PA) * page + pc % page;
    // The rest of a loop on the next page is left out.
    let first = gpa.saturating_sub(LOOP).max(gpa / page * page);
    let end = (gpa + LOOP).min((gpa / page + 1) * page);
    (first..end).step_by(INSTRUCTION as usize).any(|address| {
        let mut instruction = [0; INSTRUCTION as usize];
        vm.memory.read(address, &mut instruction).is_some()
            && HINTS.contains(&u32::from_le_bytes(instruction))
    })
}
