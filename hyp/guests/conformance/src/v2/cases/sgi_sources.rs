//! SGIs of one INTID from several CPUs, and their pending states in registers.

use conformance::bank;

use super::sgi::expect_no_sgi;
use crate::cpus;
use crate::gicc::{self, NONE};
use crate::gicd::{CPENDSGIR, SPENDSGIR};
use crate::harness::{
    Case, Cpus, Outcome, equal, expect, expect_and_end, expect_none, from, holds,
};
use crate::machine::Machine;

/// The SGI of most cases.
const SGI: u32 = 6;

pub(super) const CASES: &[Case] = &[
    Case::new("source.two", "2.2.1 SGIs from different CPUs", |m| {
        gicc::set_pmr(0);
        m.irq(SGI).enable();
        m.send_to(1, SGI);
        cpus::on(1, || m.send_to(1, SGI));
        equal("sources", m.sources(SGI), 3)?;
        gicc::set_pmr(gicc::OPEN);
        expect_each_source(m, SGI, 3)
    })
    .on(Cpus::Two),
    Case::new("source.all", "2.2.1 SGIs from different CPUs", |m| {
        for target in 0..m.cpus {
            cpus::on_all(|_| {
                gicc::set_pmr(0);
                m.irq(SGI).enable();
                Ok(())
            })?;
            cpus::on_all(|_| {
                m.send_to(1 << target, SGI);
                Ok(())
            })?;
            cpus::on_all(|number| {
                gicc::set_pmr(gicc::OPEN);
                match number == target {
                    true => expect_each_source(m, SGI, m.everyone() as u8),
                    false => expect_none(),
                }
            })?;
        }
        Ok(())
    })
    .on(Cpus::All),
    Case::new("source.all_others", "2.2.1 SGIs from different CPUs", |m| {
        m.irq(SGI).enable();
        gicc::set_pmr(0);
        let sources = m.everyone() & !1;
        cpus::on_all(|number| {
            if number != 0 {
                m.send_to(1, SGI);
                m.send_to(1, SGI);
            }
            Ok(())
        })?;
        equal("sources", m.sources(SGI), sources)?;
        gicc::set_pmr(gicc::OPEN);
        expect_each_source(m, SGI, sources as u8)
    })
    .on(Cpus::All),
    Case::new("source.every_sgi_from_all", "2.2.1 SGIs, 3.3", |m| {
        gicc::set_pmr(0);
        cpus::on_all(|_| {
            (0..16).for_each(|sgi| m.send_to(1, sgi));
            Ok(())
        })?;
        for sgi in 0..16 {
            m.irq(sgi).at((sgi * 0x10) as u8).enable();
        }
        gicc::set_pmr(0xf8);
        for sgi in 0..16 {
            take_each_source(sgi, m.everyone() as u8)?;
        }
        expect_none()
    })
    .on(Cpus::All),
    Case::new(
        "source.another_while_active",
        "2.2.1 SGIs, 3.2.4 active and pending",
        |m| {
            m.irq(SGI).enable();
            m.send_to(1, SGI);
            expect(SGI)?;
            cpus::on(1, || m.send_to(1, SGI));
            // Of equal priority: it does not preempt.
            expect_none()?;
            holds("pending", m.irq(SGI).is_pending())?;
            gicc::end(SGI);
            expect_and_end(from(1, SGI))?;
            expect_none()
        },
    )
    .on(Cpus::Two),
    Case::new("source.set", "GICD_SPENDSGIR<n> (4.3.17)", |m| {
        m.irq(SGI).enable();
        m.set_sources(SGI, 1);
        equal("sources", m.sources(SGI), 1)?;
        holds("pending", m.irq(SGI).is_pending())?;
        expect_and_end(SGI)?;
        equal("sources once taken", m.sources(SGI), 0)?;
        expect_none()
    }),
    Case::new("source.set_every_sgi", "GICD_SPENDSGIR<n> (4.3.17)", |m| {
        for sgi in 0..16 {
            m.irq(sgi).enable();
            m.set_sources(sgi, 1);
            expect_and_end(sgi)?;
        }
        expect_none()
    }),
    Case::new("source.set_of_others", "GICD_SPENDSGIR<n> (4.3.17)", |m| {
        let sources = m.everyone() as u8;
        gicc::set_pmr(0);
        m.irq(SGI).enable();
        m.set_sources(SGI, sources);
        equal("sources", m.sources(SGI), sources)?;
        gicc::set_pmr(gicc::OPEN);
        expect_each_source(m, SGI, sources)
    })
    .on(Cpus::Two),
    Case::new(
        "source.set_is_own",
        "GICD_SPENDSGIR<n>, banked (4.3.17)",
        |m| {
            m.irq(SGI).enable();
            cpus::on(1, || m.set_sources(SGI, 1));
            expect_none()?;
            expect_no_sgi(m)?;
            cpus::on(1, || {
                m.irq(SGI).enable();
                expect_and_end(SGI)
            })
        },
    )
    .on(Cpus::Two),
    Case::new("source.cleared", "GICD_CPENDSGIR<n> (4.3.16)", |m| {
        gicc::set_pmr(0);
        m.irq(SGI).enable();
        m.send_to(1, SGI);
        m.clear_sources(SGI, 1);
        equal("sources", m.sources(SGI), 0)?;
        expect_no_sgi(m)?;
        gicc::set_pmr(gicc::OPEN);
        expect_none()
    }),
    Case::new("source.one_cleared", "GICD_CPENDSGIR<n> (4.3.16)", |m| {
        gicc::set_pmr(0);
        m.irq(SGI).enable();
        m.send_to(1, SGI);
        cpus::on(1, || m.send_to(1, SGI));
        m.clear_sources(SGI, 1);
        equal("sources", m.sources(SGI), 2)?;
        holds("pending", m.irq(SGI).is_pending())?;
        gicc::set_pmr(gicc::OPEN);
        expect_and_end(from(1, SGI))?;
        expect_none()
    })
    .on(Cpus::Two),
    Case::new(
        "source.cleared_is_own",
        "GICD_CPENDSGIR<n>, banked (4.3.16)",
        |m| {
            cpus::on(1, || gicc::set_pmr(0));
            m.send_to(2, SGI);
            m.clear_sources(SGI, 0xff);
            cpus::on(1, || {
                equal("sources", m.sources(SGI), 1)?;
                gicc::set_pmr(gicc::OPEN);
                m.irq(SGI).enable();
                expect_and_end(SGI)
            })
        },
    )
    .on(Cpus::Two),
    Case::new(
        "source.cleared_while_active",
        "GICD_CPENDSGIR<n>, 3.2.4",
        |m| {
            m.irq(SGI).enable();
            m.send_to(1, SGI);
            expect(SGI)?;
            m.send_to(1, SGI);
            m.clear_sources(SGI, 1);
            holds("still active", m.irq(SGI).is_active())?;
            gicc::end(SGI);
            expect_none()
        },
    ),
    Case::new("source.zeros", "GICD_SPENDSGIR<n>, zeros (4.3.17)", |m| {
        gicc::set_pmr(0);
        m.set_sources(SGI, 0);
        let pending = m.irq(SGI).is_pending();
        // QEMU aborts at an acknowledge of an SGI without a source.
        m.clear_sources(SGI, 0xff);
        equal("pending", pending, false)?;

        m.set_sources(SGI, 1);
        m.clear_sources(SGI, 0);
        equal("sources", m.sources(SGI), 1)?;
        m.irq(SGI).enable();
        gicc::set_pmr(gicc::OPEN);
        expect_and_end(SGI)
    })
    .unlike_qemu("a write of zeros makes the SGI pending, without a source"),
    Case::new("source.set_while_active", "GICD_SPENDSGIR<n>, 3.2.4", |m| {
        m.irq(SGI).enable();
        m.set_sources(SGI, 1);
        expect(SGI)?;
        m.set_sources(SGI, 1);
        expect_none()?;
        gicc::end(SGI);
        expect_and_end(SGI)?;
        expect_none()
    }),
    Case::new(
        "source.words",
        "GICD_SPENDSGIR<n>, GICD_CPENDSGIR<n>",
        |m| {
            gicc::set_pmr(0);
            for word in (0..16).step_by(4) {
                m.write(SPENDSGIR + word, 0x0101_0101);
            }
            equal("pending", m.read(bank::ISPENDR) & 0xffff, 0xffff)?;
            for word in (0..16).step_by(4) {
                equal("the word", m.read(CPENDSGIR + word), 0x0101_0101)?;
                m.write(CPENDSGIR + word, u32::MAX);
            }
            expect_no_sgi(m)?;
            gicc::set_pmr(gicc::OPEN);
            expect_none()
        },
    ),
    Case::new("source.of_the_highest", "GICC_HPPIR.CPUID (4.4.7)", |m| {
        m.irq(SGI).enable();
        cpus::on(1, || m.send_to(1, SGI));
        let highest = gicc::highest_pending();
        expect_and_end(from(1, SGI))?;
        equal("HPPIR", highest, from(1, SGI))
    })
    .unlike_qemu("GICC_HPPIR has no source CPU")
    .on(Cpus::Two),
];

/// Takes and ends an SGI once from each of its sources, in any order.
fn take_each_source(sgi: u32, sources: u8) -> Outcome {
    let mut left = sources;
    while left != 0 {
        let read = gicc::take();
        holds("an interrupt", read != NONE)?;
        equal("the SGI", read & 0x3ff, sgi)?;
        let source = read >> 10;
        let is_left = source < 8 && left & 1 << source != 0;
        holds("a source that is left", is_left)?;
        left &= !(1 << source);
        gicc::end(read);
    }
    Ok(())
}

/// Takes an SGI once from each of its sources, and nothing else.
fn expect_each_source(m: &Machine, sgi: u32, sources: u8) -> Outcome {
    take_each_source(sgi, sources)?;
    expect_no_sgi(m)?;
    expect_none()
}
