//! The walk along all paths of a program: no path leads from a write of a list register or of
//! `ICH_HCR_EL2` to a read of a status register that depends on it without synchronisation.
//!
//! An `ISB`, an `ERET`, and an exception that returns synchronise. The walk follows direct
//! branches, calls and returns. `BR` may lead to each of [`Program::arms`]. `BLR`, and a `BR` that
//! is not a jump table's, may call each function to which there is a pointer. An `ERET` leads to
//! the instruction behind it: that of the world switch continues there at the exit.

use std::collections::{BTreeMap, BTreeSet};

use super::instruction::{Instruction, Register};
use super::program::{INSTRUCTION, Program};
use super::{Fault, Outcome};

/// The last write that is not synchronised.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Write {
    /// Every write is synchronised.
    None,
    /// A caller of the function has one.
    OfCaller,
    /// The instruction at this address.
    At(u64),
}

/// Effect of a function on the writes of its callers, and its own.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Summary {
    /// Reads of a status register that a caller's write may reach.
    reads: BTreeSet<u64>,
    /// Writes at a return of a function that was called without one.
    after_none: BTreeSet<Write>,
    /// Writes at a return of a function that was called with one.
    after_write: BTreeSet<Write>,
}

/// Summaries of all functions that are called.
struct Summaries {
    by_address: BTreeMap<u64, Summary>,
    /// Summary of a call of any function to which there is a pointer.
    by_pointer: Summary,
}

/// Checks all paths from all starts of the program.
pub(super) fn check(program: &Program) -> Outcome {
    let summaries = summarize(program);
    let mut outcome = Outcome::default();
    let (mut reads, mut writes) = (0, 0);
    for (_, instruction) in program.instructions() {
        reads += usize::from(is_status_read(instruction));
        writes += usize::from(is_write(instruction));
    }
    if writes > 0 {
        outcome.sites = reads;
    }

    let mut found = BTreeSet::new();
    for start in program.starts() {
        found.extend(walk(program, &summaries, start, Write::None).pairs);
    }
    let fault = |(write, read): (u64, u64)| Fault {
        address: read,
        message: format!("no ISB or ERET on a way from the write at {write:#x}"),
    };
    outcome.faults = found.into_iter().map(fault).collect();
    outcome
}

/// Summarizes every function that is called.
fn summarize(program: &Program) -> Summaries {
    let calls = program.instructions().filter_map(|(address, at)| match at {
        Instruction::BranchLink(offset) => Some(address.wrapping_add_signed(offset)),
        _ => None,
    });
    let called: BTreeSet<u64> = calls.chain(program.pointed_at().iter().copied()).collect();
    let mut summaries = Summaries {
        by_address: called.iter().map(|&f| (f, Summary::default())).collect(),
        by_pointer: Summary::default(),
    };

    // Summaries only grow.
    loop {
        let mut changed = false;
        for &function in &called {
            let without = walk(program, &summaries, function, Write::None);
            let with = walk(program, &summaries, function, Write::OfCaller);
            let summary = Summary {
                reads: with.reads,
                after_none: without.returns,
                after_write: with.returns,
            };
            if program.pointed_at().contains(&function) {
                changed |= summaries.by_pointer.extend(&summary);
            }
            changed |= (summaries.by_address.get_mut(&function))
                .is_some_and(|known| known.extend(&summary));
        }
        if !changed {
            return summaries;
        }
    }
}

impl Summary {
    /// Adds another summary. Returns true if that changes this one.
    fn extend(&mut self, other: &Self) -> bool {
        let count = |summary: &Self| {
            summary.reads.len() + summary.after_none.len() + summary.after_write.len()
        };
        let before = count(self);
        self.reads.extend(&other.reads);
        self.after_none.extend(&other.after_none);
        self.after_write.extend(&other.after_write);
        count(self) != before
    }
}

/// Findings of a walk.
#[derive(Default)]
struct Found {
    /// Reads that the caller's write reaches.
    reads: BTreeSet<u64>,
    /// Writes, and the reads that they reach, by address.
    pairs: BTreeSet<(u64, u64)>,
    /// Writes at returns.
    returns: BTreeSet<Write>,
}

impl Found {
    /// Notes that `write` reaches the read at `read`.
    fn reaches(&mut self, write: Write, read: u64) {
        match write {
            Write::None => {}
            Write::OfCaller => _ = self.reads.insert(read),
            Write::At(write) => _ = self.pairs.insert((write, read)),
        }
    }

    /// Notes a call of a function, and returns the writes after it.
    fn call(&mut self, write: Write, callee: &Summary) -> Vec<Write> {
        if write == Write::None {
            return callee.after_none.iter().copied().collect();
        }
        for &read in &callee.reads {
            self.reaches(write, read);
        }
        let after = |after: &Write| match after {
            Write::OfCaller => write,
            other => *other,
        };
        callee.after_write.iter().map(after).collect()
    }
}

/// Walks all paths from `start`, which is reached with `write`. Of several writes that reach an
/// instruction, it follows the first one that it finds.
fn walk(program: &Program, summaries: &Summaries, start: u64, write: Write) -> Found {
    let mut found = Found::default();
    let mut seen = vec![0_u8; program.length()];
    let mut left = vec![(start, write)];
    while let Some((address, write)) = left.pop() {
        let Some(instruction) = program.at(address) else {
            continue;
        };
        let kind = match write {
            Write::None => 1,
            Write::OfCaller => 2,
            Write::At(_) => 4,
        };
        let seen = &mut seen[program.index(address)];
        if *seen & kind != 0 {
            continue;
        }
        *seen |= kind;

        let next = address + INSTRUCTION;
        let target = |offset: i64| address.wrapping_add_signed(offset);
        match instruction {
            Instruction::Isb | Instruction::Eret | Instruction::Call => {
                left.push((next, Write::None));
            }
            Instruction::Branch(offset) => left.push((target(offset), write)),
            Instruction::BranchIf(offset) => left.extend([(target(offset), write), (next, write)]),
            Instruction::BranchLink(offset) => {
                let after = found.call(write, &summaries.by_address[&target(offset)]);
                left.extend(after.into_iter().map(|write| (next, write)));
            }
            Instruction::BranchLinkRegister => {
                let after = found.call(write, &summaries.by_pointer);
                left.extend(after.into_iter().map(|write| (next, write)));
            }
            Instruction::BranchRegister(register) => {
                left.extend(program.arms(address).map(|arm| (arm, write)));
                if !program.is_jump_table(address, register) {
                    let after = found.call(write, &summaries.by_pointer);
                    found.returns.extend(after);
                }
            }
            Instruction::Return => _ = found.returns.insert(write),
            Instruction::End => {}
            _ if is_write(instruction) => left.push((next, Write::At(address))),
            _ => {
                if is_status_read(instruction) {
                    found.reaches(write, address);
                }
                left.push((next, write));
            }
        }
    }
    found
}

/// Returns true for a write that a status register shows.
fn is_write(instruction: Instruction) -> bool {
    match instruction {
        Instruction::Msr(register) => {
            register.is_list_register() || register == Register::ICH_HCR_EL2
        }
        _ => false,
    }
}

/// Returns true for a read of a status register.
fn is_status_read(instruction: Instruction) -> bool {
    let status = [
        Register::ICH_ELRSR_EL2,
        Register::ICH_EISR_EL2,
        Register::ICH_MISR_EL2,
    ];
    matches!(instruction, Instruction::Mrs(register) if status.contains(&register))
}

#[cfg(test)]
mod tests {
    use super::super::program::tests::program;
    use super::*;

    const MSR_LR0: u32 = 0xd51c_cc00;
    const MSR_HCR: u32 = 0xd51c_cb00;
    const MRS_LR0: u32 = 0xd53c_cc00;
    const MRS_ELRSR: u32 = 0xd53c_cba0;
    const MRS_EISR: u32 = 0xd53c_cb60;
    const MRS_MISR: u32 = 0xd53c_cb40;
    const ISB: u32 = 0xd503_3fdf;
    const ERET: u32 = 0xd69f_03e0;
    const NOP: u32 = 0xd503_201f;
    const RET: u32 = 0xd65f_03c0;
    const BRK: u32 = 0xd420_0020;
    const BR: u32 = 0xd61f_0000;
    const BLR: u32 = 0xd63f_0000;

    fn cbz(words: u32) -> u32 {
        0xb400_0000 | words << 5
    }

    fn bl(words: i32) -> u32 {
        0x9400_0000 | words.cast_unsigned() & 0x3ff_ffff
    }

    /// Returns the addresses of the reads that are reached, in words from the first instruction.
    fn faults(functions: &[(&str, &[u32])]) -> Vec<u64> {
        let outcome = check(&program(functions));
        let words = |fault: &Fault| (fault.address - 0x1000) / 4;
        outcome.faults.iter().map(words).collect()
    }

    #[test]
    fn a_write_is_synchronised_before_a_status_is_read() {
        for read in [MRS_ELRSR, MRS_EISR, MRS_MISR] {
            for write in [MSR_LR0, MSR_HCR] {
                assert_eq!(faults(&[("f", &[write, NOP, read, RET])]), [2]);
                assert!(faults(&[("f", &[write, ISB, read, RET])]).is_empty());
                assert!(faults(&[("f", &[write, ERET, read, RET])]).is_empty());
                assert!(faults(&[("f", &[read, write, RET])]).is_empty());
            }
        }
        assert!(faults(&[("f", &[MSR_LR0, MRS_LR0, RET])]).is_empty());
    }

    #[test]
    fn one_way_around_the_isb_is_enough() {
        assert_eq!(
            faults(&[("f", &[MSR_LR0, cbz(2), ISB, MRS_ELRSR, RET])]),
            [3]
        );
        // The branch leaves the function before the read.
        assert!(faults(&[("f", &[MSR_LR0, cbz(3), ISB, MRS_ELRSR, RET])]).is_empty());
        // A loop: the write comes after the read, and before the next read.
        assert_eq!(
            faults(&[("f", &[MRS_ELRSR, MSR_LR0, cbz(0x7_fffe), RET])]),
            [0]
        );
    }

    #[test]
    fn writes_pass_through_calls_and_returns() {
        let writes: (&str, &[u32]) = ("writes", &[MSR_LR0, RET]);
        let reads: (&str, &[u32]) = ("reads", &[MRS_ELRSR, RET]);
        let both = [writes, reads, ("f", &[bl(-4), bl(-3), RET])];
        assert_eq!(faults(&both), [2]);
        let apart = [writes, reads, ("f", &[bl(-4), ISB, bl(-4), RET])];
        assert!(faults(&apart).is_empty());
        let other_order = [writes, reads, ("f", &[bl(-2), bl(-5), RET])];
        assert!(faults(&other_order).is_empty());
        // A callee that synchronises on every way.
        let synchronises: (&str, &[u32]) = ("synchronises", &[NOP, ISB, RET]);
        let between = [synchronises, reads, ("f", &[MSR_LR0, bl(-6), bl(-4), RET])];
        assert!(faults(&between).is_empty());
        // A callee that does not return: what follows the call is not its return.
        let ends: (&str, &[u32]) = ("ends", &[NOP, BRK]);
        let not_reached = [ends, reads, ("f", &[MSR_LR0, bl(-5), bl(-4), RET])];
        assert!(faults(&not_reached).is_empty());
    }

    #[test]
    fn a_recursive_function_is_summarised() {
        let f: &[u32] = &[cbz(3), bl(-1), MSR_LR0, RET];
        assert_eq!(faults(&[("f", f), ("g", &[bl(-4), MRS_ELRSR, RET])]), [5]);
    }

    #[test]
    fn jump_tables_and_pointers_are_followed() {
        // The arms write; what follows both reads.
        let arms: &[u32] = &[BR, MSR_LR0, 0x1400_0002, MSR_HCR, MRS_ELRSR, RET];
        assert_eq!(faults(&[("f", arms)]), [4, 4]);
        // A write before the table, and an arm that reads.
        let reads: &[u32] = &[MSR_LR0, BR, NOP, RET, MRS_ELRSR, RET];
        assert_eq!(faults(&[("f", reads)]), [4]);
        // adrp x0, 0x1000; add x0, x0, #0x14; blr x0
        let calls: &[u32] = &[MSR_LR0, 0x9000_0000, 0x9100_5000, BLR, RET];
        assert_eq!(faults(&[("f", calls), ("g", &[MRS_ELRSR, RET])]), [5]);
        // add x0, x0, x1 before it: a jump table does not call.
        let table: &[u32] = &[MSR_LR0, 0x9000_0000, 0x9100_6000, 0x8b01_0000, BR, RET];
        assert!(faults(&[("f", table), ("g", &[MRS_ELRSR, RET])]).is_empty());
    }

    #[test]
    fn a_program_without_writes_or_reads_proves_nothing() {
        assert!(!check(&program(&[("f", &[RET])])).holds());
        assert!(!check(&program(&[("f", &[MRS_ELRSR, RET])])).holds());
        assert!(check(&program(&[("f", &[MRS_ELRSR, MSR_LR0, RET])])).holds());
    }
}
