//! Groups: FIQ and IRQ, the aliased registers of Group 1, enables, binary points of each group.

use conformance::bank;

use crate::exception::{self, BY_FIQ};
use crate::gicc::{
    self, ABPR, ACK_CTL, AEOIR, AHPPIR, BPR, CBPR, CTLR, EOI_MODE, FIQ_EN, IDLE, NONE, OF_GROUP_1,
    acknowledge_aliased, take_both_groups,
};
use crate::gicd::{BOTH, FREE_PPI, FREE_SPI, GROUP_0, GROUP_1, TO_SELF};
use crate::harness::{
    Case, Cpus, Outcome, equal, expect, expect_and_end, expect_none, holds, irq_comes,
};
use crate::machine::Machine;
use crate::{cpu, cpus};

/// The reasons why QEMU fails a case.
const NO_ALIASES: &str = "GICC_AIAR, GICC_AEOIR and GICC_AHPPIR are not there";
const HIDES: &str = "it chooses the highest pending before it looks at the enables of the groups";
const TAKES: &str = "GICC_IAR acknowledges an interrupt whose group is disabled";

pub(super) const CASES: &[Case] = &[
    Case::new(
        "group.1_is_not_acknowledged",
        "GICC_IAR of 1022, AckCtl 0 (4.4.4)",
        |m| {
            gicc::write(CTLR, gicc::GROUP_0 | gicc::GROUP_1);
            let spi = m.edge(0).in_group(1);
            spi.set_pending();
            holds("an IRQ", irq_comes())?;
            equal("IAR", gicc::acknowledge(), OF_GROUP_1)?;
            equal("HPPIR", gicc::highest_pending(), OF_GROUP_1)?;
            holds("pending", spi.is_pending() && !spi.is_active())?;
            // An end of 1022 has no effect.
            gicc::end(OF_GROUP_1);
            equal("RPR", gicc::running_priority(), IDLE)
        },
    ),
    Case::new("group.1_by_ack_ctl", "GICC_CTLR.AckCtl (4.4.1)", |m| {
        take_both_groups(0);
        let spi = m.edge(0).in_group(1);
        spi.set_pending();
        holds("an IRQ", irq_comes())?;
        equal("HPPIR", gicc::highest_pending(), spi.intid)?;
        expect(spi.intid)?;
        holds("active", spi.is_active())?;
        gicc::end(spi.intid);
        equal("active once ended", spi.is_active(), false)
    }),
    Case::new("group.0_as_fiq", "GICC_CTLR.FIQEn (4.4.1), 3.5", |m| {
        gicc::set_ctlr(FIQ_EN);
        let spi = m.edge(0);
        spi.set_pending();
        holds("an FIQ", cpu::spin_until(1_000_000, cpu::fiq))?;
        equal("IRQ", cpu::irq(), false)?;
        expect_and_end(spi.intid)?;
        equal("FIQ once ended", cpu::fiq(), false)
    }),
    Case::new(
        "group.1_as_irq_beside_fiq",
        "GICC_CTLR.FIQEn (4.4.1), 3.5",
        |m| {
            take_both_groups(FIQ_EN);
            let spi = m.edge(0).in_group(1);
            spi.set_pending();
            holds("an IRQ", irq_comes())?;
            equal("FIQ", cpu::fiq(), false)?;
            expect_and_end(spi.intid)
        },
    ),
    Case::new("group.exceptions", "GICC_CTLR.FIQEn, IRQ and FIQ", |m| {
        take_both_groups(FIQ_EN);
        m.enable_groups(0);
        let (first, second) = (m.edge(0).at(0x40), m.edge(1).at(0x80).in_group(1));
        second.set_pending();
        first.set_pending();
        m.enable_groups(BOTH);
        cpu::unmasked(|| cpu::spin_until(1_000_000, || exception::taken(0) > 1));
        equal("exceptions", exception::taken(0), 2)?;
        equal("the first", exception::taken_at(0), first.intid | BY_FIQ)?;
        equal("the second", exception::taken_at(1), second.intid)
    }),
    Case::new(
        "group.fiq_enabled_while_pending",
        "GICC_CTLR.FIQEn (4.4.1)",
        |m| {
            let spi = m.edge(0);
            spi.set_pending();
            holds("an IRQ", irq_comes())?;
            gicc::set_ctlr(FIQ_EN);
            holds("an FIQ", cpu::spin_until(1_000_000, cpu::fiq))?;
            equal("IRQ", cpu::irq(), false)?;
            gicc::set_ctlr(0);
            holds("an IRQ again", irq_comes())?;
            equal("FIQ", cpu::fiq(), false)?;
            expect_and_end(spi.intid)
        },
    ),
    Case::new(
        "group.changed_while_pending",
        "GICD_IGROUPR<n> (4.3.4)",
        |m| {
            take_both_groups(FIQ_EN);
            let spi = m.edge(0);
            spi.set_pending();
            holds("an FIQ", cpu::spin_until(1_000_000, cpu::fiq))?;
            spi.set_group(1);
            holds("an IRQ", irq_comes())?;
            equal("FIQ", cpu::fiq(), false)?;
            spi.set_group(0);
            holds("an FIQ again", cpu::spin_until(1_000_000, cpu::fiq))?;
            expect_and_end(spi.intid)
        },
    ),
    Case::new(
        "group.aliased_acknowledge",
        "GICC_AIAR (4.4.9), GICC_AEOIR (4.4.10)",
        |m| {
            gicc::write(CTLR, gicc::GROUP_0 | gicc::GROUP_1);
            let spi = m.edge(0).in_group(1).at(0x40);
            spi.set_pending();
            holds("an IRQ", irq_comes())?;
            equal("AIAR", acknowledge_aliased(), spi.intid)?;
            holds("active", spi.is_active())?;
            equal("RPR", gicc::running_priority(), 0x40)?;
            gicc::write(AEOIR, spi.intid);
            equal("active once ended", spi.is_active(), false)?;
            equal("RPR once ended", gicc::running_priority(), IDLE)
        },
    )
    .unlike_qemu(NO_ALIASES),
    Case::new(
        "group.aliased_acknowledge_of_0",
        "GICC_AIAR of 1023 (4.4.9)",
        |m| {
            gicc::write(CTLR, gicc::GROUP_0 | gicc::GROUP_1);
            let spi = m.edge(0);
            equal("AIAR of nothing", acknowledge_aliased(), NONE)?;
            spi.set_pending();
            holds("an IRQ", irq_comes())?;
            equal("AIAR", acknowledge_aliased(), NONE)?;
            equal("AHPPIR", gicc::read(AHPPIR), NONE)?;
            expect_and_end(spi.intid)
        },
    )
    .unlike_qemu(NO_ALIASES),
    Case::new(
        "group.aliased_highest_pending",
        "GICC_AHPPIR (4.4.11)",
        |m| {
            gicc::write(CTLR, gicc::GROUP_0 | gicc::GROUP_1);
            let spi = m.edge(0).in_group(1);
            equal("AHPPIR of nothing", gicc::read(AHPPIR), NONE)?;
            spi.set_pending();
            equal("AHPPIR", gicc::read(AHPPIR), spi.intid)?;
            holds("pending", spi.is_pending())
        },
    )
    .unlike_qemu(NO_ALIASES),
    Case::new(
        "group.aliased_split_end",
        "GICC_AEOIR, GICC_CTLR.EOImode, GICC_DIR",
        |m| {
            gicc::write(CTLR, gicc::GROUP_0 | gicc::GROUP_1 | EOI_MODE);
            let spi = m.edge(0).in_group(1);
            spi.set_pending();
            holds("an IRQ", irq_comes())?;
            equal("AIAR", acknowledge_aliased(), spi.intid)?;
            gicc::write(AEOIR, spi.intid);
            holds("active", spi.is_active())?;
            equal("RPR", gicc::running_priority(), IDLE)?;
            gicc::deactivate(spi.intid);
            equal("active once ended", spi.is_active(), false)
        },
    )
    .unlike_qemu(NO_ALIASES),
    Case::new(
        "group.split_end_of_1",
        "GICC_CTLR.EOImode of both groups (4.4.1)",
        |m| {
            take_both_groups(EOI_MODE);
            let spi = m.edge(0).in_group(1);
            spi.set_pending();
            expect(spi.intid)?;
            gicc::end(spi.intid);
            holds("active", spi.is_active())?;
            gicc::deactivate(spi.intid);
            equal("active once ended", spi.is_active(), false)
        },
    ),
    Case::new(
        "group.0_forwarded_alone",
        "GICD_CTLR.EnableGrp1 (4.3.1)",
        |m| {
            take_both_groups(0);
            let (first, second) = (m.edge(0).in_group(1), m.edge(1));
            m.enable_groups(GROUP_0);
            first.set_pending();
            expect_none()?;
            equal("IRQ", cpu::irq(), false)?;
            second.at(0x40).set_pending();
            expect_and_end(second.intid)?;
            m.enable_groups(BOTH);
            expect_and_end(first.intid)
        },
    )
    .unlike_qemu(TAKES),
    Case::new(
        "group.1_forwarded_alone",
        "GICD_CTLR.EnableGrp0 (4.3.1)",
        |m| {
            take_both_groups(0);
            let (first, second) = (m.edge(0), m.edge(1).in_group(1));
            m.enable_groups(GROUP_1);
            first.set_pending();
            expect_none()?;
            second.at(0x40).set_pending();
            expect_and_end(second.intid)?;
            m.enable_groups(BOTH);
            expect_and_end(first.intid)
        },
    )
    .unlike_qemu(TAKES),
    Case::new(
        "group.0_disabled_hides_nothing",
        "GICC_CTLR.EnableGrp0 (4.4.1)",
        |m| {
            gicc::write(CTLR, gicc::GROUP_1 | ACK_CTL);
            let (first, second) = (m.edge(0).at(0x20), m.edge(1).at(0x80).in_group(1));
            first.set_pending();
            second.set_pending();
            holds("an IRQ", irq_comes())?;
            expect_and_end(second.intid)?;
            expect_none()?;
            take_both_groups(0);
            expect_and_end(first.intid)
        },
    )
    .unlike_qemu(HIDES),
    Case::new(
        "group.1_not_forwarded_hides_nothing",
        "GICD_CTLR.EnableGrp1 (4.3.1)",
        |m| {
            take_both_groups(0);
            let (first, second) = (m.edge(0).at(0x20).in_group(1), m.edge(1).at(0x80));
            m.enable_groups(GROUP_0);
            first.set_pending();
            second.set_pending();
            holds("an IRQ", irq_comes())?;
            expect_and_end(second.intid)?;
            m.enable_groups(BOTH);
            expect_and_end(first.intid)
        },
    )
    .unlike_qemu(HIDES),
    Case::new("group.by_priority", "3.3 prioritization, 3.5", |m| {
        take_both_groups(0);
        m.enable_groups(0);
        for number in 0..8 {
            let priority = (0xe0 - number * 0x10) as u8;
            m.edge(number)
                .at(priority)
                .in_group(number % 2)
                .set_pending();
        }
        m.enable_groups(BOTH);
        for number in (0..8).rev() {
            expect_and_end(FREE_SPI + number)?;
        }
        expect_none()
    }),
    Case::new(
        "group.preempted_by_the_other",
        "3.3.1 preemption, 3.5",
        |m| {
            take_both_groups(0);
            let priorities = [0xc0, 0x90, 0x60, 0x30];
            for (number, priority) in (0..).zip(priorities) {
                m.edge(number)
                    .at(priority)
                    .in_group(number % 2)
                    .set_pending();
                expect(FREE_SPI + number)?;
                equal("RPR", gicc::running_priority(), priority)?;
            }
            for (number, priority) in (0..4).zip(priorities).rev() {
                equal("RPR", gicc::running_priority(), priority)?;
                gicc::end(FREE_SPI + number);
            }
            equal("RPR at the end", gicc::running_priority(), IDLE)
        },
    ),
    Case::new(
        "group.active_priorities_of_1",
        "GICC_NSAPR<n> (4.4.13)",
        |m| {
            take_both_groups(0);
            let spi = m.edge(0).at(0x40).in_group(1);
            spi.set_pending();
            expect(spi.intid)?;
            let saved = gicc::active_priorities();
            holds("active priorities", gicc::has_active_priorities())?;
            gicc::set_active_priorities([0; 8]);
            equal("RPR without them", gicc::running_priority(), IDLE)?;
            gicc::set_active_priorities(saved);
            equal("RPR with them", gicc::running_priority(), 0x40)?;
            gicc::end(spi.intid);
            equal("RPR at the end", gicc::running_priority(), IDLE)
        },
    ),
    Case::new("group.binary_point_of_1", "GICC_ABPR (4.4.8), 3.3.3", |m| {
        // ABPR of 6: bits 7:6 are the group priority of Group 1.
        take_both_groups(0);
        gicc::write(ABPR, 6);
        preempts(m, 1, 0x80, 0x70)
    }),
    Case::new(
        "group.binary_point_of_0_beside_1",
        "GICC_BPR (4.4.3), CBPR 0",
        |m| {
            take_both_groups(0);
            gicc::write(BPR, 5);
            gicc::write(ABPR, 7);
            preempts(m, 0, 0x80, 0x70)
        },
    ),
    Case::new(
        "group.common_binary_point",
        "GICC_CTLR.CBPR (4.4.1), 3.3.3",
        |m| {
            take_both_groups(CBPR);
            gicc::write(BPR, 5);
            gicc::write(ABPR, 0);
            preempts(m, 1, 0x80, 0x70)
        },
    ),
    Case::new("group.sgis", "GICD_IGROUPR0 (4.3.4), GICD_SGIR", |m| {
        take_both_groups(FIQ_EN);
        for sgi in 0..16 {
            let group = sgi % 2;
            m.irq(sgi).in_group(group).enable();
            m.send(TO_SELF | sgi);
            let signal = if group == 0 { cpu::fiq } else { cpu::irq };
            holds("the group's signal", cpu::spin_until(1_000_000, signal))?;
            expect_and_end(sgi)?;
        }
        expect_none()
    }),
    Case::new("group.of_each_cpu", "GICD_IGROUPR0, banked (4.3.4)", |m| {
        cpus::on_all(|number| {
            take_both_groups(FIQ_EN);
            m.irq(FREE_PPI).in_group(number as u32 % 2).enable();
            m.irq(FREE_PPI).set_pending();
            let signal = if number % 2 == 0 { cpu::fiq } else { cpu::irq };
            holds("the group's signal", cpu::spin_until(1_000_000, signal))?;
            expect_and_end(FREE_PPI)
        })
    })
    .on(Cpus::All),
    Case::new("group.wholesale", "GICD_IGROUPR<n>, as after a boot", |m| {
        // Software that knows one group may put every interrupt into Group 1.
        for word in 0..m.lines().div_ceil(32) as usize {
            m.write(bank::IGROUPR + 4 * word, u32::MAX);
        }
        take_both_groups(0);
        for number in 0..32 {
            m.edge(number).set_pending();
            expect_and_end(FREE_SPI + number)?;
        }
        m.irq(1).enable();
        m.send(TO_SELF | 1);
        expect_and_end(1)
    }),
];

/// Checks that the group priority of a group is bits 7:6: an SPI of the same one does not preempt,
/// one of another does.
fn preempts(m: &Machine, group: u32, same: u8, other: u8) -> Outcome {
    let active = m.edge(0).at(0xb0).in_group(group);
    let same = m.edge(1).at(same).in_group(group);
    let other = m.edge(2).at(other).in_group(group);
    active.set_pending();
    expect(active.intid)?;
    same.set_pending();
    expect_none()?;
    other.set_pending();
    expect_and_end(other.intid)?;
    gicc::end(active.intid);
    expect_and_end(same.intid)?;
    equal("RPR at the end", gicc::running_priority(), IDLE)
}
