//! The CPU interface: masks, priorities, preemption, running priority, ends of interrupts, groups.

use super::kvm;
use super::sgi::enable_both_groups;
use crate::exception::{self, BY_FIQ};
use crate::gic::interface::{
    self, CBPR, EOI_MODE, NONE, OPEN, acknowledge, acknowledge_0, deactivate, end, end_0,
    highest_pending, highest_pending_0, running_priority, set_bpr_0, set_bpr_1, set_ctlr,
    set_igrpen_1, set_pmr,
};
use crate::gic::{GROUP_0, GROUP_1};
use crate::harness::{
    Case, Cpus, Outcome, equal, expect, expect_0, expect_and_end, expect_none, holds,
};
use crate::machine::Machine;
use crate::{cpu, cpus};

/// Running priority without an active interrupt.
const IDLE: u64 = 0xff;

pub(super) const CASES: &[Case] = &[
    Case::new("cpu.spurious", "ICC_IAR1_EL1, 2.2 INTID 1023", |_| {
        equal("IAR1", acknowledge(), NONE)?;
        equal("IAR0", acknowledge_0(), NONE)?;
        equal("HPPIR1", highest_pending(), NONE)?;
        equal("HPPIR0", highest_pending_0(), NONE)?;
        equal("RPR", running_priority(), IDLE)
    }),
    Case::new("cpu.pmr_masks", "ICC_PMR_EL1 (12.2), 4.8", |m| {
        let spi = m.edge(0).at(0x80);
        set_pmr(0x80);
        spi.set_pending();
        expect_none()?;
        set_pmr(0x88);
        expect_and_end(spi.intid)
    }),
    Case::new("cpu.pmr_zero_masks_all", "ICC_PMR_EL1 (12.2)", |m| {
        let spi = m.edge(0).at(0);
        set_pmr(0);
        spi.set_pending();
        expect_none()?;
        equal(
            "HPPIR1 does not look at the mask",
            highest_pending(),
            spi.intid,
        )?;
        set_pmr(OPEN);
        expect_and_end(spi.intid)
    }),
    Case::new("cpu.pmr_bits", "ICC_PMR_EL1, ICC_CTLR_EL1.PRIbits", |_| {
        let bits = (interface::ctlr() >> 8 & 7) + 1;
        set_pmr(0xff);
        let read = interface::pmr();
        equal("implemented bits", read, 0xff << (8 - bits) & 0xff)
    }),
    Case::new("cpu.by_priority", "4.8 prioritization", |m| {
        m.enable_groups(0);
        for number in 0..8 {
            // Priority order: 3, 6, 1, 4, 7, 2, 5, 0, unlike the order of INTIDs.
            m.edge(number)
                .at((number * 3 % 8 * 0x20) as u8)
                .set_pending();
        }
        m.enable_groups(GROUP_1);
        holds("an IRQ", cpu::spin_until(1_000_000, cpu::irq))?;
        for rank in 0..8 {
            let number = rank * 3 % 8;
            expect_and_end(m.edge(number).intid)?;
        }
        expect_none()
    })
    .unlike_kvm(kvm::FORGOTTEN),
    Case::new("cpu.same_priority_each_once", "4.8 prioritization", |m| {
        let mut seen = 0u32;
        (0..8).for_each(|number| m.edge(number).set_pending());
        for _ in 0..8 {
            let intid = interface::take();
            holds(
                "one of the eight",
                (crate::gic::FREE_SPI..).take(8).any(|n| n == intid),
            )?;
            seen |= 1 << (intid - crate::gic::FREE_SPI);
            end(intid);
        }
        equal("each of them", seen, 0xff)?;
        expect_none()
    }),
    Case::new("cpu.running_priority", "ICC_RPR_EL1 (12.2)", |m| {
        let spi = m.edge(0).at(0x60);
        spi.set_pending();
        expect(spi.intid)?;
        let while_active = running_priority();
        end(spi.intid);
        equal("RPR while it is active", while_active, 0x60)?;
        equal("RPR once it is ended", running_priority(), IDLE)
    }),
    Case::new("cpu.active_priorities", "ICC_AP1R0_EL1 (12.2)", |m| {
        let spi = m.edge(0).at(0x20);
        spi.set_pending();
        expect(spi.intid)?;
        let bits = interface::ap_1();
        end(spi.intid);
        equal("one priority is active", bits.count_ones(), 1)?;
        equal("none once it is ended", interface::ap_1(), 0)
    }),
    Case::new("cpu.more_urgent_preempts", "4.8 preemption", |m| {
        let (low, high) = (m.edge(0).at(0x80), m.edge(1).at(0x40));
        low.set_pending();
        expect(low.intid)?;
        high.set_pending();
        expect(high.intid)?;
        equal("RPR of the inner one", running_priority(), 0x40)?;
        end(high.intid);
        equal("RPR of the outer one", running_priority(), 0x80)?;
        end(low.intid);
        equal("RPR at last", running_priority(), IDLE)
    }),
    Case::new("cpu.same_priority_waits", "4.8 preemption", |m| {
        let (first, second) = (m.edge(0).at(0x80), m.edge(1).at(0x80));
        first.set_pending();
        expect(first.intid)?;
        second.set_pending();
        expect_none()?;
        end(first.intid);
        expect_and_end(second.intid)
    }),
    Case::new("cpu.less_urgent_waits", "4.8 preemption", |m| {
        let (first, second) = (m.edge(0).at(0x40), m.edge(1).at(0x80));
        first.set_pending();
        expect(first.intid)?;
        second.set_pending();
        expect_none()?;
        equal("it is the highest pending", highest_pending(), second.intid)?;
        end(first.intid);
        expect_and_end(second.intid)
    }),
    Case::new(
        "cpu.nested_to_the_full_depth",
        "4.8 preemption, ICC_AP1R<n>_EL1",
        |m| {
            // The least urgent priority is never more urgent than the mask.
            let levels = 31;
            for level in 0..levels {
                let spi = m.edge(level).at((0xf0 - 8 * level) as u8);
                spi.set_pending();
                expect(spi.intid)?;
                equal("RPR", running_priority(), 0xf0 - 8 * level)?;
            }
            equal("active priorities", interface::ap_1().count_ones(), levels)?;
            for level in (0..levels).rev() {
                equal("RPR", running_priority(), 0xf0 - 8 * level)?;
                holds("active", m.shared(crate::gic::FREE_SPI + level).is_active())?;
                end(crate::gic::FREE_SPI + level);
            }
            equal("RPR at last", running_priority(), IDLE)?;
            expect_none()
        },
    )
    .unlike_kvm(kvm::STARVED),
    Case::new(
        "cpu.bpr_minimum",
        "ICC_BPR0_EL1, ICC_BPR1_EL1 (12.2)",
        |_| {
            set_bpr_0(0);
            set_bpr_1(0);
            let (zero, one) = (interface::bpr_0(), interface::bpr_1());
            holds("the minimum depends on the preemption bits", zero <= 3)?;
            equal("BPR1 is at least one more", one, zero + 1)?;
            set_bpr_1(7);
            equal("BPR1", interface::bpr_1(), 7)
        },
    ),
    Case::new(
        "cpu.bpr_groups_priorities",
        "ICC_BPR1_EL1, 4.8 priority grouping",
        |m| {
            // Groups of 32 priorities.
            set_bpr_1(5);
            let outer = m.edge(0).at(0xb0);
            let (same, other) = (m.edge(1).at(0xa0), m.edge(2).at(0x90));
            outer.set_pending();
            expect(outer.intid)?;
            same.set_pending();
            expect_none()?;
            other.set_pending();
            expect_and_end(other.intid)?;
            end(outer.intid);
            expect_and_end(same.intid)
        },
    ),
    Case::new(
        "cpu.bpr_7_is_one_group_each_half",
        "ICC_BPR1_EL1, 4.8 priority grouping",
        |m| {
            set_bpr_1(7);
            let (outer, same, other) = (m.edge(0).at(0xf0), m.edge(1).at(0x80), m.edge(2).at(0x78));
            outer.set_pending();
            expect(outer.intid)?;
            same.set_pending();
            expect_none()?;
            other.set_pending();
            expect_and_end(other.intid)?;
            end(outer.intid);
            expect_and_end(same.intid)
        },
    ),
    Case::new(
        "cpu.running_priority_is_the_group's",
        "ICC_RPR_EL1, 4.8 priority grouping",
        |m| {
            set_bpr_1(5);
            let spi = m.edge(0).at(0xb8);
            spi.set_pending();
            expect(spi.intid)?;
            let while_active = running_priority();
            end(spi.intid);
            equal("the group priority", while_active, 0xa0)
        },
    ),
    Case::new("cpu.subpriority_orders", "4.8 priority grouping", |m| {
        set_bpr_1(7);
        let (later, sooner) = (m.edge(0).at(0x78), m.edge(1).at(0x70));
        set_pmr(0);
        later.set_pending();
        sooner.set_pending();
        set_pmr(OPEN);
        expect_and_end(sooner.intid)?;
        expect_and_end(later.intid)
    }),
    Case::new("cpu.common_bpr", "ICC_CTLR_EL1.CBPR (12.2)", |m| {
        set_bpr_0(4);
        set_ctlr(CBPR);
        equal("CBPR", interface::ctlr() & CBPR, CBPR)?;
        equal("BPR1 reads as one more than BPR0", interface::bpr_1(), 5)?;
        set_bpr_1(7);
        equal("BPR1 ignores writes", interface::bpr_1(), 5)?;
        // BPR0 of 4 makes groups of 32 for both groups.
        let (outer, same) = (m.edge(0).at(0xb0), m.edge(1).at(0xa0));
        outer.set_pending();
        expect(outer.intid)?;
        same.set_pending();
        expect_none()?;
        end(outer.intid);
        expect_and_end(same.intid)
    }),
    Case::new(
        "cpu.highest_pending_has_no_effect",
        "ICC_HPPIR1_EL1 (12.2)",
        |m| {
            let spi = m.edge(0);
            spi.set_pending();
            holds("an IRQ", cpu::spin_until(1_000_000, cpu::irq))?;
            for _ in 0..3 {
                equal("HPPIR1", highest_pending(), spi.intid)?;
            }
            holds("still pending", spi.is_pending())?;
            expect_and_end(spi.intid)
        },
    ),
    Case::new("cpu.interface_disabled", "ICC_IGRPEN1_EL1 (12.2)", |m| {
        let spi = m.edge(0);
        set_igrpen_1(0);
        spi.set_pending();
        expect_none()?;
        equal("no IRQ", cpu::irq(), false)?;
        holds("pending", spi.is_pending())?;
        set_igrpen_1(1);
        expect_and_end(spi.intid)
    }),
    Case::new(
        "cpu.distributor_disabled",
        "GICD_CTLR.EnableGrp1 (12.9)",
        |m| {
            let spi = m.edge(0);
            m.enable_groups(0);
            spi.set_pending();
            expect_none()?;
            holds("pending", spi.is_pending())?;
            m.enable_groups(GROUP_1);
            expect_and_end(spi.intid)
        },
    )
    .unlike_kvm(kvm::FORGOTTEN),
    Case::new(
        "cpu.distributor_disabled_while_pending",
        "GICD_CTLR.RWP (12.9)",
        |m| {
            let spi = m.edge(0);
            spi.set_pending();
            holds("an IRQ", cpu::spin_until(1_000_000, cpu::irq))?;
            m.enable_groups(0);
            equal("no IRQ once RWP is clear", cpu::irq(), false)?;
            equal("nothing to take", acknowledge(), NONE)?;
            m.enable_groups(GROUP_1);
            expect_and_end(spi.intid)
        },
    )
    .unlike_kvm(kvm::FORGOTTEN),
    Case::new(
        "cpu.eoi_mode_0",
        "ICC_EOIR1_EL1, ICC_CTLR_EL1.EOImode",
        |m| {
            let spi = m.edge(0);
            spi.set_pending();
            expect(spi.intid)?;
            end(spi.intid);
            equal("RPR", running_priority(), IDLE)?;
            equal("active", spi.is_active(), false)
        },
    ),
    Case::new("cpu.eoi_mode_1", "ICC_EOIR1_EL1, ICC_DIR_EL1", |m| {
        set_ctlr(EOI_MODE);
        let spi = m.edge(0);
        spi.set_pending();
        expect(spi.intid)?;
        end(spi.intid);
        equal("RPR after the drop", running_priority(), IDLE)?;
        holds("still active", spi.is_active())?;
        spi.set_pending();
        expect_none()?;
        deactivate(spi.intid);
        expect(spi.intid)?;
        end(spi.intid);
        deactivate(spi.intid);
        equal("active at last", spi.is_active(), false)
    }),
    Case::new(
        "cpu.drop_lets_the_same_priority_in",
        "ICC_EOIR1_EL1 with EOImode",
        |m| {
            set_ctlr(EOI_MODE);
            let (first, second) = (m.edge(0), m.edge(1));
            first.set_pending();
            expect(first.intid)?;
            second.set_pending();
            expect_none()?;
            end(first.intid);
            expect(second.intid)?;
            end(second.intid);
            holds("both active", first.is_active() && second.is_active())?;
            // The order differs from that of the acknowledges.
            deactivate(first.intid);
            equal("the first", first.is_active(), false)?;
            holds("the second", second.is_active())?;
            deactivate(second.intid);
            equal("the second at last", second.is_active(), false)
        },
    ),
    Case::new(
        "cpu.deactivate_elsewhere",
        "ICC_DIR_EL1 from another CPU (12.2)",
        |m| {
            set_ctlr(EOI_MODE);
            let spi = m.edge(0);
            spi.set_pending();
            expect(spi.intid)?;
            end(spi.intid);
            cpus::on(1, || {
                set_ctlr(EOI_MODE);
                deactivate(spi.intid);
            });
            equal("active", spi.is_active(), false)?;
            spi.set_pending();
            expect(spi.intid)?;
            end(spi.intid);
            deactivate(spi.intid);
            expect_none()
        },
    )
    .unlike_kvm(kvm::DIR_IGNORED)
    .on(Cpus::Two),
    Case::new(
        "cpu.end_of_a_special_intid",
        "ICC_EOIR1_EL1, 2.2 INTIDs 1020 to 1023",
        |m| {
            let spi = m.edge(0).at(0x80);
            spi.set_pending();
            expect(spi.intid)?;
            for intid in 1020..1024 {
                end(intid);
            }
            equal("RPR", running_priority(), 0x80)?;
            end(spi.intid);
            equal("RPR at last", running_priority(), IDLE)
        },
    ),
    Case::new("cpu.group_0_is_an_fiq", "4.6 interrupt grouping", |m| {
        enable_both_groups(m);
        let spi = m.edge(0);
        spi.set_group(0);
        spi.set_pending();
        holds("an FIQ", cpu::spin_until(1_000_000, cpu::fiq))?;
        equal("no IRQ", cpu::irq(), false)?;
        equal("IAR1 has nothing", acknowledge(), NONE)?;
        expect_0(spi.intid)?;
        end_0(spi.intid);
        equal("RPR", running_priority(), IDLE)
    }),
    Case::new("cpu.group_1_is_an_irq", "4.6 interrupt grouping", |m| {
        enable_both_groups(m);
        let spi = m.edge(0);
        spi.set_pending();
        holds("an IRQ", cpu::spin_until(1_000_000, cpu::irq))?;
        equal("no FIQ", cpu::fiq(), false)?;
        equal("IAR0 has nothing", acknowledge_0(), NONE)?;
        expect_and_end(spi.intid)
    }),
    Case::new(
        "cpu.group_0_preempts_by_priority",
        "4.6, 4.8 preemption",
        |m| {
            enable_both_groups(m);
            let (one, zero) = (m.edge(0).at(0x80), m.edge(1).at(0x40));
            zero.set_group(0);
            one.set_pending();
            expect(one.intid)?;
            zero.set_pending();
            expect_0(zero.intid)?;
            equal("RPR", running_priority(), 0x40)?;
            end_0(zero.intid);
            equal("RPR of the outer one", running_priority(), 0x80)?;
            end(one.intid);
            equal("RPR at last", running_priority(), IDLE)
        },
    ),
    Case::new(
        "cpu.group_0_disabled_apart",
        "GICD_CTLR.EnableGrp0, ICC_IGRPEN0_EL1",
        |m| {
            m.enable_groups(GROUP_0 | GROUP_1);
            let (one, zero) = (m.edge(0).at(0x80), m.edge(1).at(0x40));
            zero.set_group(0);
            zero.set_pending();
            one.set_pending();
            // Group 0 is disabled at the interface, and does not block Group 1.
            expect_and_end(one.intid)?;
            equal("no FIQ", cpu::fiq(), false)?;
            interface::set_igrpen_0(1);
            expect_0(zero.intid)?;
            end_0(zero.intid);
            Ok(())
        },
    )
    .unlike_qemu("it chooses the highest pending before it looks at the enables of the interface"),
    Case::new(
        "cpu.regrouped_while_pending",
        "GICD_IGROUPR<n> (12.9)",
        |m| {
            enable_both_groups(m);
            let spi = m.edge(0);
            spi.set_pending();
            holds("an IRQ", cpu::spin_until(1_000_000, cpu::irq))?;
            spi.set_group(0);
            holds("an FIQ", cpu::spin_until(1_000_000, cpu::fiq))?;
            expect_0(spi.intid)?;
            end_0(spi.intid);
            expect_none()
        },
    ),
    Case::new(
        "cpu.reprioritized_while_pending",
        "GICD_IPRIORITYR<n> (12.9)",
        |m| {
            let (first, second) = (m.edge(0).at(0x80), m.edge(1).at(0xa0));
            set_pmr(0);
            first.set_pending();
            second.set_pending();
            equal("at first", highest_pending(), first.intid)?;
            second.set_priority(0x40);
            let changed = cpu::spin_until(1_000_000, || highest_pending() == second.intid);
            set_pmr(OPEN);
            holds("the more urgent one is the highest pending now", changed)?;
            expect_and_end(second.intid)?;
            expect_and_end(first.intid)
        },
    ),
    Case::new(
        "cpu.taken_as_exceptions",
        "4.6, IRQ and FIQ exceptions",
        taken_as_exceptions,
    ),
    Case::new("cpu.system_registers_stay", "ICC_SRE_EL1 (12.2)", |_| {
        interface::set_sre(0);
        let sre = interface::sre();
        interface::set_sre(7);
        equal("SRE, DFB, DIB are RAO/WI", sre, 7)
    }),
    Case::new(
        "cpu.active_set_by_register",
        "GICD_ISACTIVER<n> (12.9)",
        |m| {
            let spi = m.edge(0);
            spi.set_active();
            spi.set_pending();
            expect_none()?;
            equal("RPR is not changed by it", running_priority(), IDLE)?;
            spi.clear_active();
            expect_and_end(spi.intid)
        },
    ),
];

fn taken_as_exceptions(m: &Machine) -> Outcome {
    enable_both_groups(m);
    let (one, zero) = (m.edge(0), m.edge(1));
    zero.set_group(0);
    cpu::unmasked(|| {
        one.set_pending();
        cpu::spin_until(1_000_000, || exception::taken(0) == 1);
        zero.set_pending();
        cpu::spin_until(1_000_000, || exception::taken(0) == 2);
    });
    equal("exceptions", exception::taken(0), 2)?;
    equal("the IRQ", exception::taken_at(0), one.intid)?;
    equal("the FIQ", exception::taken_at(1), zero.intid | BY_FIQ)
}
