//! Single steps over instructions that a hypervisor emulates (DDI 0487, D2.12): a debugger in the
//! guest stops behind each of them, and not one instruction later.
#![expect(unsafe_code)]
// UNSAFETY: an exception return to the instruction that is stepped.

use crate::cpu;
use crate::exception::take_fault;
use crate::gic::gicd;
use crate::harness::{Case, Outcome, equal};

/// Exception class of a single step at the same exception level.
const STEP: u64 = 0x33;

/// Returns the address of the next instruction, after a single step of `$instruction`, whose
/// operand is `x0`.
macro_rules! step {
    ($instruction:literal, $operand:expr) => {{
        let next: usize;
        // SAFETY: returns to the instruction, at this exception level, with SPSR_EL1.SS set. The
        // handler of the step turns stepping off. The instruction changes no memory.
        unsafe {
            core::arch::asm!(
                "msr    oslar_el1, xzr",
                "mov    {next}, #0x2001", // MDSCR_EL1.KDE and SS
                "msr    mdscr_el1, {next}",
                "mrs    {next}, daif",
                "bic    {next}, {next}, #0x200", // debug exceptions are taken
                "orr    {next}, {next}, #0x200000", // SPSR_EL1.SS
                "add    {next}, {next}, #5", // EL1h
                "msr    spsr_el1, {next}",
                "adr    {next}, 2f",
                "msr    elr_el1, {next}",
                "adr    {next}, 3f",
                "isb",
                "eret",
                "2:",
                $instruction,
                "3:",
                "nop",
                "nop",
                "msr    daifset, #8",
                next = out(reg) next,
                inout("x0") $operand => _,
                options(nostack)
            );
        }
        next
    }};
}

pub(super) const CASES: &[Case] = &[
    Case::new("step.over_a_read", "GICD_TYPER, D2.12 (DDI 0487)", |m| {
        stepped(step!("ldr w0, [x0]", m.gicd(gicd::TYPER)))
    }),
    Case::new(
        "step.over_an_sgi",
        "ICC_SGI1R_EL1, D2.12 (DDI 0487)",
        |_| {
            // An empty target list.
            stepped(step!("msr icc_sgi1r_el1, x0", 0_usize))
        },
    ),
];

/// Checks that one step has been taken, before the instruction at `next`.
fn stepped(next: usize) -> Outcome {
    cpu::write!("mdscr_el1", 0);
    let fault = take_fault(cpu::number());
    let class = fault.map_or(0, |fault| fault.syndrome >> 26 & 0x3f);
    equal("exception class", class, STEP)?;
    equal(
        "instruction after the step",
        fault.map_or(0, |fault| fault.pc),
        next as u64,
    )
}
