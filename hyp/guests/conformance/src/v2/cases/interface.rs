//! The CPU interface: masks, priorities, preemption, running priority, active priorities.

use crate::gicc::{self, ABPR, BPR, EOI_MODE, IDLE, NONE, OPEN, PMR, has_active_priorities};
use crate::gicd::{BOTH, FREE_SPI};
use crate::harness::{
    Case, Outcome, equal, expect, expect_and_end, expect_none, holds, irq_comes, skip_unless,
};
use crate::machine::Machine;
use crate::{cpu, exception};

pub(super) const CASES: &[Case] = &[
    Case::new("gicc.spurious", "GICC_IAR, 3.2.5 INTID 1023", |_| {
        equal("IAR", gicc::acknowledge(), NONE)?;
        equal("HPPIR", gicc::highest_pending(), NONE)?;
        equal("RPR", gicc::running_priority(), IDLE)
    }),
    Case::new("gicc.as_an_irq", "GICC_CTLR.FIQEn (4.4.1)", |m| {
        let spi = m.edge(0);
        spi.set_pending();
        holds("an IRQ", irq_comes())?;
        equal("FIQ", cpu::fiq(), false)?;
        expect(spi.intid)?;
        equal("IRQ once taken", cpu::irq(), false)?;
        gicc::end(spi.intid);
        Ok(())
    }),
    Case::new("gicc.as_an_exception", "GICC_CTLR.FIQEn (4.4.1)", |m| {
        let spi = m.edge(0);
        spi.set_pending();
        cpu::unmasked(|| cpu::spin_until(1_000_000, || exception::taken(0) > 0));
        equal("exceptions", exception::taken(0), 1)?;
        equal("taken by an IRQ", exception::taken_at(0), spi.intid)
    }),
    Case::new("gicc.masked", "GICC_PMR (4.4.2), 3.3.2", |m| {
        let spi = m.edge(0).at(0x80);
        gicc::set_pmr(0x80);
        spi.set_pending();
        expect_none()?;
        gicc::set_pmr(0x88);
        expect_and_end(spi.intid)
    }),
    Case::new(
        "gicc.masked_while_pending",
        "GICC_PMR (4.4.2), 3.3.2",
        |m| {
            let spi = m.edge(0).at(0x80);
            spi.set_pending();
            holds("an IRQ", irq_comes())?;
            gicc::set_pmr(0x40);
            holds("no IRQ", cpu::spin_until(1_000_000, || !cpu::irq()))?;
            expect_none()?;
            gicc::set_pmr(OPEN);
            expect_and_end(spi.intid)
        },
    ),
    Case::new("gicc.mask_of_zero", "GICC_PMR (4.4.2)", |m| {
        let spi = m.edge(0).at(0);
        gicc::set_pmr(0);
        spi.set_pending();
        expect_none()?;
        gicc::set_pmr(OPEN);
        expect_and_end(spi.intid)
    }),
    Case::new(
        "gicc.bits_of_priorities",
        "3.3 priority bits, GICC_PMR (4.4.2)",
        |m| {
            gicc::set_pmr(0xff);
            let mask = gicc::read(PMR);
            let bits = mask.count_ones();
            holds("4 to 8 bits", (4..=8).contains(&bits))?;
            equal("the upper ones", mask, 0xff << (8 - bits) & 0xff)?;
            let spi = m.edge(0).at(0xff);
            equal("bits of IPRIORITYR", u32::from(spi.priority()), mask)?;
            gicc::set_pmr(0x100);
            equal("PMR has 8 bits", gicc::read(PMR), 0)
        },
    ),
    Case::new("gicc.by_priority", "3.3 prioritization", |m| {
        m.enable_groups(0);
        for number in 0..8 {
            // Priority order: 3, 6, 1, 4, 7, 2, 5, 0, unlike the order of INTIDs.
            m.edge(number)
                .at((number * 5 % 8 * 0x10 + 0x10) as u8)
                .set_pending();
        }
        m.enable_groups(BOTH);
        let mut order = [0, 1, 2, 3, 4, 5, 6, 7];
        order.sort_unstable_by_key(|number| number * 5 % 8);
        for number in order {
            equal("HPPIR", gicc::highest_pending(), FREE_SPI + number)?;
            expect_and_end(FREE_SPI + number)?;
        }
        expect_none()
    }),
    Case::new(
        "gicc.equal_priorities",
        "3.3 equal priorities, left open",
        |m| {
            m.enable_groups(0);
            (0..16).for_each(|number| m.edge(number).set_pending());
            m.enable_groups(BOTH);
            let mut left = 0xffff_u32;
            while left != 0 {
                let place = gicc::take().wrapping_sub(FREE_SPI);
                holds("one that is left", place < 16 && left & 1 << place != 0)?;
                left &= !(1 << place);
                gicc::end(FREE_SPI + place);
            }
            expect_none()
        },
    ),
    Case::new(
        "gicc.reprioritized_while_pending",
        "GICD_IPRIORITYR<n> (4.3.11)",
        |m| {
            gicc::set_pmr(0x60);
            let spi = m.edge(0).at(0x80);
            spi.set_pending();
            expect_none()?;
            spi.set_priority(0x20);
            expect_and_end(spi.intid)
        },
    ),
    Case::new("gicc.highest_pending", "GICC_HPPIR (4.4.7)", |m| {
        let (first, second) = (m.edge(0).at(0x80), m.edge(1).at(0x40));
        first.set_pending();
        equal("HPPIR", gicc::highest_pending(), first.intid)?;
        second.set_pending();
        equal("HPPIR of two", gicc::highest_pending(), second.intid)?;
        holds("pending yet", second.is_pending() && !second.is_active())?;
        expect_and_end(second.intid)?;
        expect_and_end(first.intid)
    }),
    Case::new("gicc.preempts", "3.3.1 preemption", |m| {
        let (low, high) = (m.edge(0).at(0x80), m.edge(1).at(0x40));
        low.set_pending();
        expect(low.intid)?;
        equal("RPR", gicc::running_priority(), 0x80)?;
        high.set_pending();
        expect(high.intid)?;
        equal("RPR of the second", gicc::running_priority(), 0x40)?;
        gicc::end(high.intid);
        equal("RPR of the first again", gicc::running_priority(), 0x80)?;
        gicc::end(low.intid);
        equal("RPR at the end", gicc::running_priority(), IDLE)
    }),
    Case::new("gicc.no_preemption_by_an_equal", "3.3.1 preemption", |m| {
        let (first, second, low) = (m.edge(0), m.edge(1), m.edge(2).at(0xc0));
        first.set_pending();
        expect(first.intid)?;
        second.set_pending();
        low.set_pending();
        expect_none()?;
        equal("IRQ", cpu::irq(), false)?;
        gicc::end(first.intid);
        expect_and_end(second.intid)?;
        expect_and_end(low.intid)
    }),
    Case::new("gicc.binary_point", "GICC_BPR (4.4.3), 3.3.3", |m| {
        // Bits 7:6 are the group priority.
        gicc::write(BPR, 5);
        let active = m.edge(0).at(0xb0);
        let (equal_group, other_group) = (m.edge(1).at(0x80), m.edge(2).at(0x70));
        active.set_pending();
        expect(active.intid)?;
        let running = gicc::running_priority();
        holds("RPR is in the group", running & 0xc0 == 0x80)?;
        equal_group.set_pending();
        expect_none()?;
        other_group.set_pending();
        expect_and_end(other_group.intid)?;
        gicc::end(active.intid);
        expect_and_end(equal_group.intid)
    }),
    Case::new("gicc.binary_point_of_7", "GICC_BPR (4.4.3), 3.3.3", |m| {
        gicc::write(BPR, 7);
        let (active, pending) = (m.edge(0).at(0xf0), m.edge(1).at(0));
        active.set_pending();
        expect(active.intid)?;
        pending.set_pending();
        expect_none()?;
        gicc::end(active.intid);
        expect_and_end(pending.intid)
    }),
    Case::new("gicc.subpriorities", "3.3.3 priority grouping", |m| {
        // The subpriority orders what is pending in a group.
        gicc::write(BPR, 7);
        gicc::set_pmr(0);
        for number in 0..8 {
            m.edge(number)
                .at((0xe0 - number * 0x10) as u8)
                .set_pending();
        }
        gicc::set_pmr(OPEN);
        for number in (0..8).rev() {
            expect_and_end(FREE_SPI + number)?;
        }
        expect_none()
    }),
    Case::new(
        "gicc.values_of_bpr",
        "GICC_BPR, least value (4.4.3)",
        |_| {
            let least = gicc::least_binary_point();
            for value in 0..8 {
                gicc::write(BPR, value);
                equal("BPR", gicc::read(BPR), value.max(least))?;
            }
            Ok(())
        },
    ),
    Case::new(
        "gicc.values_of_abpr",
        "GICC_ABPR, least value (4.4.8)",
        |_| {
            let least = gicc::least_binary_point() + 1;
            for value in 0..8 {
                gicc::write(ABPR, value);
                equal("ABPR", gicc::read(ABPR), value.max(least))?;
            }
            Ok(())
        },
    ),
    Case::new(
        "gicc.nested_to_the_full_depth",
        "3.3.1 preemption, GICC_APR<n>",
        |m| {
            let least = gicc::least_binary_point();
            let (levels, step) = (1 << (7 - least), 2 << least);
            skip_unless("there are fewer SPIs", FREE_SPI + levels <= m.free_end())?;
            // The least urgent level is beyond every mask.
            let levels = levels - 1;
            for level in (0..levels).rev() {
                let spi = m.edge(level).at((level * step) as u8);
                spi.set_pending();
                expect(spi.intid)?;
                equal("RPR", gicc::running_priority(), level * step)?;
            }
            holds("active priorities", has_active_priorities())?;
            for level in 0..levels {
                equal("RPR", gicc::running_priority(), level * step)?;
                gicc::end(FREE_SPI + level);
            }
            equal("RPR at the end", gicc::running_priority(), IDLE)?;
            equal("active priorities", has_active_priorities(), false)
        },
    ),
    Case::new(
        "gicc.active_priorities",
        "GICC_APR<n>, GICC_NSAPR<n> (4.4.12)",
        |m| {
            let spi = m.edge(0).at(0x40);
            spi.set_pending();
            expect(spi.intid)?;
            holds("active priorities", has_active_priorities())?;
            gicc::end(spi.intid);
            equal("active priorities", has_active_priorities(), false)
        },
    ),
    Case::new(
        "gicc.active_priorities_are_restored",
        "GICC_APR<n> (4.4.12)",
        |m| {
            let spi = m.edge(0).at(0x40);
            spi.set_pending();
            expect(spi.intid)?;
            let saved = gicc::active_priorities();
            gicc::set_active_priorities([0; 8]);
            equal("RPR without them", gicc::running_priority(), IDLE)?;
            let other = m.edge(1).at(0x80);
            other.set_pending();
            expect_and_end(other.intid)?;
            gicc::set_active_priorities(saved);
            equal("RPR with them", gicc::running_priority(), 0x40)?;
            other.set_pending();
            expect_none()?;
            gicc::end(spi.intid);
            expect_and_end(other.intid)
        },
    ),
    Case::new("gicc.disabled", "GICC_CTLR.EnableGrp0 (4.4.1)", |m| {
        let spi = m.edge(0);
        gicc::write(gicc::CTLR, 0);
        spi.set_pending();
        expect_none()?;
        equal("IRQ", cpu::irq(), false)?;
        holds("pending", spi.is_pending())?;
        gicc::set_ctlr(0);
        expect_and_end(spi.intid)
    }),
    Case::new(
        "gicc.disabled_while_active",
        "GICC_CTLR.EnableGrp0, GICC_EOIR",
        |m| {
            let spi = m.edge(0);
            spi.set_pending();
            expect(spi.intid)?;
            gicc::write(gicc::CTLR, 0);
            gicc::end(spi.intid);
            equal("active", spi.is_active(), false)?;
            gicc::set_ctlr(0);
            equal("RPR", gicc::running_priority(), IDLE)
        },
    ),
    Case::new(
        "gicc.nested_split_ends",
        "3.2.1, GICC_EOIR, GICC_DIR",
        |m| {
            gicc::set_ctlr(EOI_MODE);
            for number in 0..5 {
                m.edge(number)
                    .at((0xa0 - number * 0x20) as u8)
                    .set_pending();
                expect(FREE_SPI + number)?;
            }
            // Priorities drop in reverse, and interrupts are deactivated in any order.
            for number in (0..5).rev() {
                equal("RPR", gicc::running_priority(), 0xa0 - number * 0x20)?;
                gicc::end(FREE_SPI + number);
            }
            for number in [2, 0, 4, 1, 3] {
                holds("active", m.irq(FREE_SPI + number).is_active())?;
                gicc::deactivate(FREE_SPI + number);
                equal(
                    "active once ended",
                    m.irq(FREE_SPI + number).is_active(),
                    false,
                )?;
            }
            expect_none()
        },
    ),
    Case::new(
        "gicc.priority_of_an_active_one",
        "GICD_IPRIORITYR<n>, GICC_RPR",
        |m| {
            let spi = m.edge(0).at(0x40);
            spi.set_pending();
            expect(spi.intid)?;
            spi.set_priority(0x80);
            // It is left open which of the two priorities an active interrupt has.
            holds("RPR", matches!(gicc::running_priority(), 0x40 | 0x80))?;
            gicc::end(spi.intid);
            equal("RPR at the end", gicc::running_priority(), IDLE)?;
            equal("active priorities", has_active_priorities(), false)
        },
    ),
    Case::new(
        "gicc.mask_below_the_running_priority",
        "GICC_PMR, 3.3.1",
        |m| {
            let (low, high) = (m.edge(0).at(0x80), m.edge(1).at(0x40));
            low.set_pending();
            expect(low.intid)?;
            gicc::set_pmr(0x20);
            high.set_pending();
            expect_none()?;
            gicc::set_pmr(0x50);
            expect_and_end(high.intid)?;
            gicc::end(low.intid);
            ends_idle(m)
        },
    ),
];

/// Makes sure that nothing is active or pending any more among the first SPIs of a case.
fn ends_idle(m: &Machine) -> Outcome {
    for number in 0..8 {
        let spi = m.irq(FREE_SPI + number);
        equal("active", spi.is_active(), false)?;
        equal("pending", spi.is_pending(), false)?;
    }
    equal("RPR", gicc::running_priority(), IDLE)
}
