//! The extended ranges of GICv3.1: extended SPIs, INTIDs 4096-5119, and extended PPIs, INTIDs
//! 1056-1119. A machine without them skips the cases, but for those about registers that there are
//! not.

use super::its::take_and_end;
use crate::gic::interface::{
    self, EOI_MODE, NONE, acknowledge, deactivate, end, highest_pending, running_priority,
    set_ctlr, set_igrpen_0, set_pmr,
};
use crate::gic::irq::Irq;
use crate::gic::{
    FIRST_EXTENDED_PPI, FIRST_EXTENDED_SPI, GROUP_0, GROUP_1, bank, extended, gicd, gicr,
};
use crate::harness::{
    Case, Cpus, Outcome, equal, expect, expect_0, expect_and_end, expect_none, holds, skip_unless,
};
use crate::machine::Machine;
use crate::mmio::{read_8, read_32, read_64, write_8, write_16, write_32};
use crate::{cpu, cpus};

/// Registers with a bit for each interrupt, as SPIs have them.
const BITS: [usize; 7] = [
    bank::IGROUPR,
    bank::ISENABLER,
    bank::ICENABLER,
    bank::ISPENDR,
    bank::ICPENDR,
    bank::ISACTIVER,
    bank::ICACTIVER,
];

/// Most extended SPIs, and most extended PPIs.
const SPIS: u32 = 1024;
const PPIS: u32 = 64;

/// Levels of priority from 0xe8 to 0, with five bits.
const LEVELS: u32 = 30;

pub(super) const REGISTERS: &[Case] = &[
    Case::new("extended.typer", "GICD_TYPER.ESPI, IDbits (12.9)", |m| {
        needs_spis(m)?;
        let typer = read_32(m.gicd(gicd::TYPER));
        let bits = (typer >> 19 & 0x1f) + 1;
        holds("INTIDs of 13 bits at least", bits >= 13)
    }),
    Case::new("extended.ppi_num", "GICR_TYPER.PPInum (12.11)", |m| {
        let count = m.extended_ppis();
        holds("0, 32 or 64", count <= PPIS)?;
        for cpu in 0..m.cpus {
            let typer = read_32(m.gicr(cpu, gicr::TYPER));
            equal("that of every redistributor", 32 * (typer >> 27), count)?;
        }
        Ok(())
    }),
    Case::new(
        "extended.gicd_beyond",
        "GICD_<register><n>E beyond ESPI_range (12.9)",
        |m| {
            for number in (m.extended_spis()..SPIS).step_by(32) {
                spi_registers(m, number).try_for_each(expect_raz_wi)?;
            }
            Ok(())
        },
    ),
    Case::new(
        "extended.gicr_beyond",
        "GICR_<register><n>E beyond PPInum (12.11)",
        |m| {
            // Behind the last 32 that there may be, too.
            for number in (m.extended_ppis()..PPIS + 32).step_by(32) {
                ppi_registers(m, number).try_for_each(expect_raz_wi)?;
            }
            Ok(())
        },
    ),
    Case::new(
        "extended.gicd_bits",
        "GICD_ISENABLER<n>E to GICD_ICACTIVER<n>E (12.9)",
        |m| {
            for number in first_and_last(needs_spis(m)?) {
                check_bits(&m.extended_spi(number))?;
            }
            Ok(())
        },
    ),
    Case::new(
        "extended.gicr_bits",
        "GICR_ISENABLER<n>E to GICR_ICACTIVER<n>E (12.11)",
        |m| {
            for number in first_and_last(needs_ppis(m)?) {
                check_bits(&m.extended_ppi(0, number))?;
            }
            Ok(())
        },
    ),
    Case::new("extended.igroupr", "GICD_IGROUPR<n>E (12.9)", |m| {
        let words = needs_spis(m)? as usize / 32;
        m.extended_spi(0);
        for word in [0, words - 1] {
            let register = m.gicd(extended::IGROUPR + 4 * word);
            write_32(register, 0x1234_5678);
            equal("as it was written", read_32(register), 0x1234_5678)?;
        }
        Ok(())
    }),
    Case::new("extended.ipriorityr", "GICD_IPRIORITYR<n>E (12.9)", |m| {
        let count = needs_spis(m)? as usize;
        m.extended_spi(0);
        check_priorities(m.gicd(extended::IPRIORITYR))?;
        check_priorities(m.gicd(extended::IPRIORITYR + count - 4))
    }),
    Case::new(
        "extended.gicr_ipriorityr",
        "GICR_IPRIORITYR<n>E (12.11)",
        |m| {
            let count = needs_ppis(m)? as usize;
            m.extended_ppi(0, 0);
            let first = bank::IPRIORITYR + 32;
            check_priorities(m.sgi_0(first))?;
            check_priorities(m.sgi_0(first + count - 4))
        },
    ),
    Case::new("extended.icfgr", "GICD_ICFGR<n>E, GICR_ICFGR<n>E", |m| {
        needs_spis(m)?;
        needs_ppis(m)?;
        for irq in [m.extended_spi(17), m.extended_ppi(0, 17)] {
            irq.set_edge(true);
            holds("edge-triggered", irq.is_edge())?;
            irq.set_edge(false);
            equal("edge-triggered", irq.is_edge(), false)?;
        }
        Ok(())
    }),
    Case::new("extended.irouter", "GICD_IROUTER<n>E (12.9)", |m| {
        let count = needs_spis(m)?;
        for number in first_and_last(count) {
            let spi = m.extended_spi(number);
            let register = m.gicd(extended::IROUTER + 8 * number as usize);
            // Interrupt_Routing_Mode is RES0 without 1-of-N.
            spi.route_to(1 << 31 | 0x12_0034_5678);
            equal("the affinity", read_64(register), 0x12_0034_5678_u64)?;
            write_32(register + 4, 0x21);
            equal("a half", read_64(register), 0x21_0034_5678_u64)?;
            write_32(register, 0x56_789a);
            equal("the other half", read_64(register), 0x21_0056_789a_u64)?;
        }
        Ok(())
    }),
    Case::new(
        "extended.ppis_of_each_cpu",
        "GICR_ISPENDR<n>E, GICR_IPRIORITYR<n>E (12.11)",
        |m| {
            needs_ppis(m)?;
            let [own, other] = [0, 1].map(|cpu| m.extended_ppi(cpu, 3));
            other.set_pending();
            other.set_priority(0x40);
            holds("pending on CPU 1", other.is_pending())?;
            equal("pending on CPU 0", own.is_pending(), false)?;
            equal("the priority on CPU 0", own.priority(), 0xa0)
        },
    )
    .on(Cpus::Two),
];

pub(super) const CASES: &[Case] = &[
    Case::new(
        "extended.spi_pending_by_register",
        "GICD_ISPENDR<n>E, 4.1",
        |m| {
            needs_spis(m)?;
            life(&m.extended_edge(0))
        },
    ),
    Case::new(
        "extended.ppi_pending_by_register",
        "GICR_ISPENDR<n>E, 4.1",
        |m| {
            needs_ppis(m)?;
            life(&edge(m.extended_ppi(0, 0)))
        },
    ),
    Case::new("extended.spi_across_the_range", "2.2 INTIDs", |m| {
        let count = needs_spis(m)?;
        // A step without a common factor with 32: every bit of a register is used.
        for number in (0..count).step_by(31).chain([count - 1]) {
            m.extended_edge(number).set_pending();
            expect_and_end(FIRST_EXTENDED_SPI + number)?;
        }
        expect_none()
    }),
    Case::new("extended.ppi_every_one", "2.2 INTIDs", |m| {
        for number in 0..needs_ppis(m)? {
            edge(m.extended_ppi(0, number)).set_pending();
            expect_and_end(FIRST_EXTENDED_PPI + number)?;
        }
        expect_none()
    }),
    Case::new("extended.spi_level", "GICD_ISPENDR<n>E, 4.1", |m| {
        needs_spis(m)?;
        let spi = m.extended_spi(1).enabled();
        spi.set_pending();
        expect_and_end(spi.intid)?;
        equal("pending", spi.is_pending(), false)?;
        expect_none()
    }),
    Case::new("extended.spi_cleared", "GICD_ICPENDR<n>E (12.9)", |m| {
        needs_spis(m)?;
        cleared(&m.extended_edge(0))
    }),
    Case::new("extended.ppi_cleared", "GICR_ICPENDR<n>E (12.11)", |m| {
        needs_ppis(m)?;
        cleared(&edge(m.extended_ppi(0, 2)))
    }),
    Case::new(
        "extended.spi_disabled_while_pending",
        "GICD_ICENABLER<n>E, GICD_CTLR.RWP",
        |m| {
            needs_spis(m)?;
            disabled_while_pending(&m.extended_edge(0))
        },
    ),
    Case::new(
        "extended.ppi_disabled_while_pending",
        "GICR_ICENABLER<n>E, GICR_CTLR.RWP",
        |m| {
            needs_ppis(m)?;
            disabled_while_pending(&edge(m.extended_ppi(0, 4)))
        },
    ),
    Case::new(
        "extended.active_by_register",
        "GICD_ISACTIVER<n>E, GICR_ISACTIVER<n>E, 4.1",
        |m| {
            needs_spis(m)?;
            needs_ppis(m)?;
            for irq in [m.extended_edge(5), edge(m.extended_ppi(0, 5))] {
                irq.set_active();
                irq.set_pending();
                expect_none()?;
                irq.clear_active();
                expect_and_end(irq.intid)?;
            }
            Ok(())
        },
    ),
    Case::new("extended.by_priority", "4.8 priorities", |m| {
        needs_spis(m)?;
        needs_ppis(m)?;
        let all = [
            m.extended_edge(0).at(0x80),
            m.edge(0).at(0x40),
            edge(m.extended_ppi(0, 0)).at(0x60),
            m.sgi(0, 3).at(0x90),
            m.extended_edge(40).at(0x20),
        ];
        set_pmr(0);
        all.iter().for_each(|irq| irq.set_pending());
        set_pmr(interface::OPEN);
        for place in [4, 1, 2, 0, 3] {
            expect_and_end(all[place].intid)?;
        }
        expect_none()
    }),
    Case::new("extended.preemption", "4.8 preemption", |m| {
        needs_spis(m)?;
        needs_ppis(m)?;
        let outer = m.extended_edge(0).at(0x80);
        let inner = edge(m.extended_ppi(0, 0)).at(0x40);
        outer.set_pending();
        expect(outer.intid)?;
        inner.set_pending();
        expect(inner.intid)?;
        equal("RPR", running_priority(), 0x40)?;
        end(inner.intid);
        equal("RPR", running_priority(), 0x80)?;
        end(outer.intid);
        expect_none()
    }),
    Case::new("extended.group_0", "GICD_IGROUPR<n>E, 4.6", |m| {
        needs_spis(m)?;
        m.enable_groups(GROUP_0 | GROUP_1);
        set_igrpen_0(1);
        let spi = m.extended_edge(0);
        spi.set_group(0);
        spi.set_pending();
        expect_0(spi.intid)?;
        interface::end_0(spi.intid);
        expect_none()
    }),
    Case::new("extended.setspi", "GICD_SETSPI_NSR (12.9)", |m| {
        needs_spis(m)?;
        let typer = read_32(m.gicd(gicd::TYPER));
        skip_unless("GICD_TYPER.MBIS is 0", typer & 1 << 16 != 0)?;
        let spi = m.extended_edge(9);
        write_32(m.gicd(gicd::SETSPI_NSR), spi.intid);
        expect_and_end(spi.intid)?;
        write_16(m.gicd(gicd::SETSPI_NSR), spi.intid as u16);
        expect_and_end(spi.intid)?;
        set_pmr(0);
        write_32(m.gicd(gicd::SETSPI_NSR), spi.intid);
        write_32(m.gicd(gicd::CLRSPI_NSR), spi.intid);
        set_pmr(interface::OPEN);
        expect_none()
    }),
    Case::new(
        "extended.split_end",
        "ICC_DIR_EL1 of INTIDs 1056-1119 and 4096-5119 (12.2)",
        |m| {
            needs_spis(m)?;
            needs_ppis(m)?;
            set_ctlr(EOI_MODE);
            for irq in [m.extended_edge(6), edge(m.extended_ppi(0, 6))] {
                irq.set_pending();
                expect(irq.intid)?;
                end(irq.intid);
                holds("active", irq.is_active())?;
                irq.set_pending();
                expect_none()?;
                deactivate(irq.intid);
                expect(irq.intid)?;
                end(irq.intid);
                deactivate(irq.intid);
                equal("active", irq.is_active(), false)?;
            }
            expect_none()
        },
    ),
    Case::new(
        "extended.deactivated_elsewhere",
        "ICC_DIR_EL1 from another CPU (12.2)",
        |m| {
            needs_spis(m)?;
            set_ctlr(EOI_MODE);
            cpus::on(1, || set_ctlr(EOI_MODE));
            let spi = m.extended_edge(7);
            spi.set_pending();
            expect(spi.intid)?;
            end(spi.intid);
            cpus::on(1, || deactivate(spi.intid));
            equal("active", spi.is_active(), false)
        },
    )
    .on(Cpus::Two),
    Case::new(
        "extended.routed_to_each",
        "GICD_IROUTER<n>E (12.9), 3.2",
        |m| {
            needs_spis(m)?;
            let spi = m.extended_edge(8);
            for cpu in 0..m.cpus {
                spi.route(cpu);
                spi.set_pending();
                let taken = cpus::on(cpu, take_and_end);
                equal("what the target takes", taken, spi.intid)?;
            }
            Ok(())
        },
    )
    .on(Cpus::All),
    Case::new(
        "extended.retargeted_while_pending",
        "GICD_IROUTER<n>E (12.9)",
        |m| {
            needs_spis(m)?;
            let spi = m.extended_edge(0);
            set_pmr(0);
            spi.set_pending();
            holds(
                "pending on CPU 0",
                cpu::spin_until(1_000_000, || highest_pending() == spi.intid),
            )?;
            spi.route(1);
            equal("what CPU 1 takes", cpus::on(1, take_and_end), spi.intid)?;
            set_pmr(interface::OPEN);
            expect_none()
        },
    )
    .on(Cpus::Two),
    Case::new(
        "extended.ppi_on_each_cpu",
        "2.2 a PPI of each CPU, GICR_ISPENDR<n>E",
        |m| {
            needs_ppis(m)?;
            cpus::on_all(|cpu| {
                let ppi = edge(m.extended_ppi(cpu, 9));
                ppi.set_pending();
                equal("what each takes", take_and_end(), ppi.intid)
            })?;
            cpus::on_all(|_| equal("what is left", acknowledge(), NONE))
        },
    )
    .on(Cpus::All),
    Case::new("extended.overflow_pending", "4.1, 4.8", |m| {
        let count = needs_spis(m)?.min(LEVELS);
        set_pmr(0);
        for number in 0..count {
            let priority = 0xe8 - number as u8 * 8;
            m.extended_edge(number).at(priority).set_pending();
        }
        set_pmr(interface::OPEN);
        // The later ones are the more urgent.
        for number in (0..count).rev() {
            expect_and_end(FIRST_EXTENDED_SPI + number)?;
        }
        expect_none()
    }),
    Case::new("extended.overflow_active", "ICC_DIR_EL1, 4.1", |m| {
        let ppis = needs_ppis(m)?.min(20);
        needs_spis(m)?;
        set_ctlr(EOI_MODE);
        // SPIs and PPIs by turns, all active at the same time.
        let nth = |n: u32| match n % 2 {
            0 => m.extended_edge(n),
            _ => edge(m.extended_ppi(0, n)),
        };
        for n in 0..ppis {
            let irq = nth(n);
            irq.set_pending();
            expect(irq.intid)?;
            end(irq.intid);
        }
        for n in (0..ppis).map(|n| (n * 7 + 3) % ppis) {
            let irq = nth(n);
            holds("active", irq.is_active())?;
            deactivate(irq.intid);
            equal("active", irq.is_active(), false)?;
        }
        expect_none()
    }),
];

/// Returns the number of extended SPIs, or skips the case if there are none.
fn needs_spis(m: &Machine) -> Result<u32, crate::harness::NotPassed> {
    let count = m.extended_spis();
    skip_unless("GICD_TYPER.ESPI is 0", count != 0)?;
    Ok(count)
}

/// Returns the number of extended PPIs, or skips the case if there are none.
fn needs_ppis(m: &Machine) -> Result<u32, crate::harness::NotPassed> {
    let count = m.extended_ppis();
    skip_unless("GICR_TYPER.PPInum is 0", count != 0)?;
    Ok(count)
}

fn first_and_last(count: u32) -> [u32; 2] {
    [0, count - 1]
}

/// Returns the interrupt, edge-triggered and enabled.
fn edge(irq: Irq<'_>) -> Irq<'_> {
    irq.set_edge(true);
    irq.enabled()
}

/// Returns the addresses of the registers of 32 extended SPIs, from a multiple of 32 on.
fn spi_registers(m: &Machine, first: u32) -> impl Iterator<Item = usize> {
    let first = first as usize;
    let bits = (extended::IGROUPR..extended::BITS_END).step_by(0x200);
    let bits = bits.map(move |block| block + first / 8);
    let others = [
        extended::IPRIORITYR + first,
        extended::IPRIORITYR + first + 28,
        extended::ICFGR + first / 4,
        extended::ICFGR + first / 4 + 4,
        extended::IROUTER + first * 8,
        extended::IROUTER + first * 8 + 31 * 8 + 4,
    ];
    bits.chain(others).map(|offset| m.gicd(offset))
}

/// Returns the addresses of the registers of 32 extended PPIs of CPU 0, from a multiple of 32 on.
fn ppi_registers(m: &Machine, first: u32) -> impl Iterator<Item = usize> {
    let number = 32 + first as usize;
    let bits = BITS.into_iter().map(move |block| block + number / 8);
    let others = [
        bank::IPRIORITYR + number,
        bank::IPRIORITYR + number + 28,
        bank::ICFGR + number / 4,
        bank::ICFGR + number / 4 + 4,
    ];
    bits.chain(others).map(|offset| m.sgi_0(offset))
}

/// Checks that a register reads as zero and ignores writes.
fn expect_raz_wi(register: usize) -> Outcome {
    write_32(register, u32::MAX);
    equal("reads as zero", read_32(register), 0)
}

/// Checks the registers of set and clear bits of an interrupt that is disabled.
fn check_bits(irq: &Irq<'_>) -> Outcome {
    irq.enable();
    holds("enabled", irq.is_enabled())?;
    irq.disable();
    equal("enabled", irq.is_enabled(), false)?;
    irq.set_pending();
    holds("pending", irq.is_pending())?;
    irq.clear_pending();
    equal("pending", irq.is_pending(), false)?;
    irq.set_active();
    holds("active", irq.is_active())?;
    irq.clear_active();
    equal("active", irq.is_active(), false)
}

/// Checks four priorities, by bytes and by the word.
fn check_priorities(register: usize) -> Outcome {
    write_32(register, 0x2040_60a0);
    equal("the word", read_32(register), 0x2040_60a0)?;
    write_8(register + 1, 0x80);
    equal("a byte", read_8(register + 1), 0x80)?;
    equal("the others", read_32(register), 0x2040_80a0)
}

/// Takes an edge from its pending state to its end.
fn life(irq: &Irq<'_>) -> Outcome {
    irq.set_pending();
    holds("pending", irq.is_pending())?;
    expect(irq.intid)?;
    equal("pending once taken", irq.is_pending(), false)?;
    holds("active once taken", irq.is_active())?;
    irq.set_pending();
    holds("active and pending", irq.is_active() && irq.is_pending())?;
    end(irq.intid);
    expect_and_end(irq.intid)?;
    equal("active once ended", irq.is_active(), false)?;
    expect_none()
}

/// Clears an interrupt that is pending behind the mask.
fn cleared(irq: &Irq<'_>) -> Outcome {
    set_pmr(0);
    irq.set_pending();
    equal("HPPIR1", highest_pending(), irq.intid)?;
    irq.clear_pending();
    equal("pending", irq.is_pending(), false)?;
    set_pmr(interface::OPEN);
    expect_none()
}

/// Disables an interrupt that is signalled.
fn disabled_while_pending(irq: &Irq<'_>) -> Outcome {
    irq.set_pending();
    holds("an IRQ", cpu::spin_until(1_000_000, cpu::irq))?;
    irq.disable();
    equal("what there is once RWP is clear", acknowledge(), NONE)?;
    holds("still pending", irq.is_pending())?;
    irq.enable();
    expect_and_end(irq.intid)
}
