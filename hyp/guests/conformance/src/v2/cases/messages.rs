//! The GICv2m frame: messages that make an SPI pending (Arm DEN 0029, Server Base System
//! Architecture, GICv2m).

use crate::cpus;
use crate::gicc::{self, EOI_MODE};
use crate::gicd::{FIRST_SPI, FREE_SPI};
use crate::harness::{
    Case, Cpus, Outcome, equal, expect, expect_and_end, expect_none, expect_on, holds,
};
use crate::machine::{Machine, V2m};
use crate::mmio::write_32;

pub(super) const CASES: &[Case] = &[
    Case::new("v2m.typer", "MSI_TYPER (DEN 0029)", |m| {
        let v2m = m.v2m()?;
        let typer = v2m.read(V2m::TYPER);
        holds("the first is an SPI", v2m.first() >= FIRST_SPI)?;
        holds("there are some", v2m.count() > 0)?;
        holds("all exist", v2m.first() + v2m.count() <= m.lines())?;
        equal("reserved bits", typer & 0xfc00_fc00, 0)?;
        write_32(v2m.base + V2m::TYPER, !typer);
        equal("once it is written", v2m.read(V2m::TYPER), typer)
    }),
    Case::new("v2m.iidr", "MSI_IIDR (DEN 0029)", |m| {
        let v2m = m.v2m()?;
        let iidr = v2m.read(V2m::IIDR);
        equal("bit 7", iidr >> 7 & 1, 0)?;
        write_32(v2m.base + V2m::IIDR, !iidr);
        equal("once it is written", v2m.read(V2m::IIDR), iidr)
    }),
    Case::new("v2m.reserved", "reserved addresses (DEN 0029)", |m| {
        let v2m = m.v2m()?;
        all_edges(m);
        for offset in [0, 4, 0xc, 0x44, 0x48, 0x100, 0xfc8] {
            write_32(v2m.base + offset, v2m.first());
            equal("a reserved word", v2m.read(offset), 0)?;
        }
        nothing_pending(m)
    }),
    Case::new("v2m.message", "MSI_SETSPI_NS (DEN 0029)", |m| {
        let v2m = m.v2m()?;
        all_edges(m);
        let spi = message(m, v2m, 0);
        holds("pending", spi.is_pending())?;
        expect(spi.intid)?;
        gicc::end(spi.intid);
        nothing_pending(m)?;
        expect_none()
    }),
    Case::new(
        "v2m.every_spi",
        "MSI_SETSPI_NS, MSI_TYPER (DEN 0029)",
        |m| {
            let v2m = m.v2m()?;
            for number in 0..v2m.count() {
                let spi = message(m, v2m, number);
                expect_and_end(spi.intid)?;
            }
            expect_none()
        },
    ),
    Case::new("v2m.all_at_once", "MSI_SETSPI_NS, 3.3", |m| {
        let v2m = m.v2m()?;
        gicc::set_pmr(0);
        for number in 0..v2m.count() {
            message(m, v2m, number);
        }
        gicc::set_pmr(gicc::OPEN);
        for _ in 0..v2m.count() {
            let read = gicc::take();
            let spi = m.irq(read);
            holds(
                "one of the frame's",
                (v2m.first()..v2m.first() + v2m.count()).contains(&read),
            )?;
            equal("pending once taken", spi.is_pending(), false)?;
            gicc::end(read);
        }
        expect_none()?;
        nothing_pending(m)
    }),
    Case::new(
        "v2m.out_of_range",
        "MSI_SETSPI_NS, other SPIs (DEN 0029)",
        |m| {
            let v2m = m.v2m()?;
            all_edges(m);
            let end = v2m.first() + v2m.count();
            for intid in [
                0,
                1,
                16,
                31,
                FIRST_SPI,
                v2m.first() - 1,
                end,
                end + 1,
                1019,
                1023,
            ] {
                set(v2m, intid);
            }
            nothing_pending(m)?;
            expect_none()
        },
    ),
    Case::new(
        "v2m.while_disabled",
        "MSI_SETSPI_NS, GICD_ISENABLER<n>",
        |m| {
            let v2m = m.v2m()?;
            let spi = m.irq(v2m.first() + 3);
            spi.set_edge(true);
            set(v2m, spi.intid);
            expect_none()?;
            holds("pending", spi.is_pending())?;
            spi.enable();
            expect_and_end(spi.intid)
        },
    ),
    Case::new(
        "v2m.while_active",
        "MSI_SETSPI_NS, 3.2.4 active and pending",
        |m| {
            let v2m = m.v2m()?;
            let spi = message(m, v2m, 5);
            expect(spi.intid)?;
            set(v2m, spi.intid);
            set(v2m, spi.intid);
            expect_none()?;
            holds("active and pending", spi.is_active() && spi.is_pending())?;
            gicc::end(spi.intid);
            expect_and_end(spi.intid)?;
            expect_none()
        },
    ),
    Case::new("v2m.split_end", "MSI_SETSPI_NS, GICC_DIR (4.4.15)", |m| {
        let v2m = m.v2m()?;
        gicc::set_ctlr(EOI_MODE);
        let spi = message(m, v2m, 6);
        expect(spi.intid)?;
        gicc::end(spi.intid);
        set(v2m, spi.intid);
        expect_none()?;
        gicc::deactivate(spi.intid);
        expect(spi.intid)?;
        gicc::end(spi.intid);
        gicc::deactivate(spi.intid);
        expect_none()
    }),
    Case::new(
        "v2m.to_another_cpu",
        "MSI_SETSPI_NS, GICD_ITARGETSR<n>",
        |m| {
            let v2m = m.v2m()?;
            let spi = m.irq(v2m.first() + 7).to(2);
            spi.set_edge(true);
            spi.enable();
            set(v2m, spi.intid);
            expect_on(1, spi.intid)?;
            expect_none()
        },
    )
    .on(Cpus::Two),
    Case::new("v2m.from_every_cpu", "MSI_SETSPI_NS (DEN 0029)", |m| {
        let v2m = m.v2m()?;
        let first = v2m.first();
        for number in 0..m.cpus as u32 {
            let spi = m.irq(first + number);
            spi.set_edge(true);
            spi.enable();
        }
        cpus::on_all(|number| {
            set(v2m, first + number as u32);
            Ok(())
        })?;
        let mut left = m.everyone();
        while left != 0 {
            let place = gicc::take().wrapping_sub(first);
            holds("one that is left", place < 8 && left & 1 << place != 0)?;
            left &= !(1 << place);
            gicc::end(first + place);
        }
        expect_none()
    })
    .on(Cpus::All),
];

/// Writes `MSI_SETSPI_NS`.
fn set(v2m: V2m, intid: u32) {
    write_32(v2m.base + V2m::SETSPI_NS, intid);
}

/// Prepares the `number`th SPI of the frame, edge-triggered and enabled, and sends its message.
fn message(m: &Machine, v2m: V2m, number: u32) -> crate::gicd::Irq {
    let spi = m.irq(v2m.first() + number);
    spi.set_edge(true);
    spi.enable();
    set(v2m, spi.intid);
    spi
}

/// Makes every SPI that no device drives edge-triggered: a message is an edge, which leaves nothing
/// behind at a level.
fn all_edges(m: &Machine) {
    (FREE_SPI..m.lines()).for_each(|intid| m.irq(intid).set_edge(true));
}

/// Makes sure that no interrupt is pending.
fn nothing_pending(m: &Machine) -> Outcome {
    for intid in 0..m.lines() {
        equal("pending", m.irq(intid).is_pending(), false)?;
    }
    Ok(())
}
