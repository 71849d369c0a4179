//! Tests of nesting to the architectural depth, and of invariants in random sequences.

extern crate std;

use std::vec::Vec;

use super::*;
use crate::cpu_interface::{priority::IDLE, software::SPURIOUS};

/// Checks that interrupts nest once for each group priority that passes the mask, with a single
/// list register: the hypervisor takes active interrupts out, and `EOIcount` counts the ends of
/// interrupt.
#[test]
fn nesting_reaches_the_architectural_depth() {
    for (priority_bits, preemption_bits, depth) in
        // With as many priority bits as preemption bits, the largest mask hides the last level.
        [
            (5, 5, 31),
            (8, 5, 32),
            (6, 6, 63),
            (8, 6, 64),
            (7, 7, 127),
            (8, 7, 128),
        ]
    {
        let step = 1 << (8 - preemption_bits);
        let cpu = open(Vtr {
            list_registers: 1,
            priority_bits,
            preemption_bits,
            ..NEOVERSE
        });

        let levels: Vec<(u32, u8)> = (0..depth)
            .map(|level| (100 + level, (level as u8).wrapping_mul(step)))
            .collect();

        for &(intid, priority) in levels.iter().rev() {
            cpu.write_lr(0, lr(P | G1, intid, priority));
            assert_eq!(cpu.read_iar1(), intid, "{priority:#x}");
            assert_eq!(cpu.read_rpr(), Ok(priority));
            // A second interrupt of the priority does not nest.
            cpu.write_lr(0, lr(P | G1, 32, priority));
            assert!(!cpu.virq(), "{priority:#x}");
        }

        cpu.write_lr(0, ListRegister::EMPTY);
        for (ended, &(intid, priority)) in (1_u64..).zip(&levels) {
            assert_eq!(cpu.read_rpr(), Ok(priority));
            cpu.write_eoir1(intid);
            assert_eq!(eoi_count(&cpu), ended % 32);
        }
        assert_eq!(cpu.read_rpr(), Ok(IDLE));
    }
}

/// Xorshift generator, for reproducible failures.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 16) % bound
    }
}

/// Expected state of an acknowledged interrupt.
#[derive(Clone, Copy)]
struct Running {
    intid: u32,
    group1: bool,
    group_priority: u8,
}

/// Checks random register contents, acknowledges and ends of interrupt against a second, plain
/// statement of the rules.
#[test]
fn random_sequences_keep_the_rules() {
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    for round in 0..300 {
        let preemption_bits = 5 + random.below(3) as u8;
        let vtr = Vtr {
            list_registers: 1 + random.below(16) as u8,
            priority_bits: (preemption_bits + random.below(3) as u8).min(8),
            preemption_bits,
            ..NEOVERSE
        };
        let cpu = open(vtr);

        cpu.write_bpr0(random.below(8) as u8);
        cpu.write_bpr1(random.below(8) as u8);
        let (bpr0, bpr1) = (u32::from(cpu.read_bpr0()), u32::from(cpu.read_bpr1()));
        let group_priority = |priority: u8, group1: bool| {
            let dropped_bits = if group1 { bpr1 } else { bpr0 + 1 };
            (u32::from(priority) >> dropped_bits << dropped_bits) as u8
        };

        let mut running: Vec<Running> = Vec::new();
        let mut missed = 0;
        for step in 0..400 {
            let at = std::format!("round {round} step {step} {vtr:?}");
            match random.below(8) {
                // The hypervisor fills a register without an active interrupt, or takes an active
                // interrupt out.
                0..3 => {
                    let index = random.below(u64::from(vtr.list_registers)) as usize;
                    let fresh = 32 + random.below(900) as u32;
                    let group = if random.below(2) == 0 { 0 } else { G1 };
                    let in_use = |intid| {
                        cpu.list_registers()
                            .any(|lr| !lr.is_empty() && lr.vintid() == intid)
                            || running.iter().any(|it| it.intid == intid)
                    };
                    if cpu.read_lr(index).is_active() {
                        if random.below(4) == 0 {
                            cpu.write_lr(index, ListRegister::EMPTY);
                        }
                    } else if !in_use(fresh) {
                        cpu.write_lr(index, lr(P | group, fresh, random.below(256) as u8));
                    }
                }
                3 => cpu.write_pmr(random.below(256) as u8).unwrap(),
                4..6 => {
                    let Some(ended) = running.pop() else { continue };
                    let held = cpu
                        .list_registers()
                        .any(|lr| !lr.is_empty() && lr.vintid() == ended.intid);
                    missed += u64::from(!held);
                    if ended.group1 {
                        cpu.write_eoir1(ended.intid);
                    } else {
                        cpu.write_eoir0(ended.intid);
                    }
                    assert!(
                        !cpu.list_registers()
                            .any(|lr| lr.vintid() == ended.intid && lr.is_active()),
                        "{at}"
                    );
                }
                _ => {
                    let group1 = cpu.virq();
                    if !group1 && !cpu.vfiq() {
                        assert_eq!(
                            (cpu.read_iar0(), cpu.read_iar1()),
                            (SPURIOUS, SPURIOUS),
                            "{at}"
                        );
                        continue;
                    }
                    let intid = if group1 {
                        cpu.read_iar1()
                    } else {
                        cpu.read_iar0()
                    };

                    let taken = cpu
                        .list_registers()
                        .find(|lr| lr.vintid() == intid && lr.is_active());
                    let taken = taken.expect(&at);
                    assert_eq!(taken.is_group1(), group1, "{at}");
                    let group_priority = group_priority(taken.priority(), group1);
                    assert!(taken.priority() < cpu.read_pmr().unwrap(), "{at}");
                    assert!(
                        running
                            .last()
                            .is_none_or(|top| group_priority < top.group_priority),
                        "{at}"
                    );
                    // No remaining pending interrupt is more urgent.
                    assert!(
                        cpu.list_registers()
                            .filter(|lr| lr.is_pending())
                            .all(|lr| lr.priority() >= taken.priority()),
                        "{at}"
                    );
                    running.push(Running {
                        intid,
                        group1,
                        group_priority,
                    });
                }
            }

            // The running priority is the most urgent active group priority.
            let top = running
                .iter()
                .map(|it| it.group_priority)
                .min()
                .unwrap_or(IDLE);
            assert_eq!(cpu.read_rpr(), Ok(top), "{at}");
            assert_eq!(eoi_count(&cpu), missed % 32, "{at}");

            // The registers have a bit for each active interrupt.
            let bits: u32 = (0..vtr.apr_count())
                .map(|n| cpu.read_ap0r(n).count_ones() + cpu.read_ap1r(n).count_ones())
                .sum();
            assert_eq!(bits as usize, running.len(), "{at}");

            // Only the most urgent pending interrupt is signalled.
            let pmr = cpu.read_pmr().unwrap();
            let due = cpu
                .list_registers()
                .filter(|lr| lr.is_pending() && lr.priority() != 0xff)
                .min_by_key(|lr| lr.priority())
                .filter(|lr| {
                    lr.priority() < pmr
                        && running.last().is_none_or(|top| {
                            let of = |priority| group_priority(priority, lr.is_group1());
                            of(lr.priority()) < of(top.group_priority)
                        })
                });
            assert_eq!(cpu.virq(), due.is_some_and(ListRegister::is_group1), "{at}");
            assert_eq!(cpu.vfiq(), due.is_some_and(|lr| !lr.is_group1()), "{at}");
        }
    }
}
