//! Reserved addresses and bits, read-only and write-only registers, INTIDs that there are not.

use conformance::bank;

use crate::gicc::{self, ACK_CTL, EOI_MODE, NONE};
use crate::gicd::{BOTH, CTLR, ITARGETSR, NSACR, SGIR, TYPER};
use crate::harness::{Case, Outcome, equal, expect, expect_and_end, expect_none, holds};
use crate::machine::Machine;

/// First INTID that a distributor never has.
const NEVER: usize = 1020;

pub(super) const CASES: &[Case] = &[
    Case::new("raz2.gicd", "reserved addresses of GICD (4.1.2)", |m| {
        let reserved = [0xc..0x20, 0x40..0x80, 0xf04..0xf10, 0xf30..0xfd0];
        for offset in reserved.into_iter().flat_map(|range| range.step_by(4)) {
            m.write(offset, u32::MAX);
            equal("a reserved word", m.read(offset), 0)?;
        }
        equal("GICD_CTLR", m.read(CTLR), BOTH)
    }),
    Case::new("raz2.gicc", "reserved addresses of GICC (4.1.3)", |_| {
        let reserved = [0x2c..0x40, 0xf0..0xfc];
        for offset in reserved.into_iter().flat_map(|range| range.step_by(4)) {
            gicc::write(offset, u32::MAX);
            equal("a reserved word", gicc::read(offset), 0)?;
        }
        Ok(())
    }),
    Case::new(
        "raz2.beyond_the_lines",
        "GICD_TYPER.ITLinesNumber (4.3.2)",
        |m| {
            let lines = m.lines() as usize;
            let banks = [
                (bank::IGROUPR, 8),
                (bank::ISENABLER, 8),
                (bank::ISPENDR, 8),
                (bank::ISACTIVER, 8),
                (bank::IPRIORITYR, 1),
                (ITARGETSR, 1),
                (bank::ICFGR, 4),
            ];
            for (bank, per_byte) in banks {
                let first = lines.next_multiple_of(32);
                for intid in (first..1024).step_by(4 * per_byte) {
                    let register = bank + intid / per_byte;
                    m.write(register, u32::MAX);
                    equal("a register of no interrupt", m.read(register), 0)?;
                }
            }
            expect_none()
        },
    ),
    Case::new(
        "raz2.reserved_intids",
        "2.2.1 interrupt IDs 1020 to 1023",
        |m| {
            for bank in [bank::ISENABLER, bank::ISPENDR, bank::ISACTIVER] {
                let register = bank + NEVER / 32 * 4;
                m.write(register, 0xf << 28);
                equal("bits 31:28 of the last word", m.read(register) >> 28, 0)?;
            }
            for bank in [bank::IPRIORITYR, ITARGETSR] {
                m.write(bank + NEVER, u32::MAX);
                equal("the last word", m.read(bank + NEVER), 0)?;
            }
            expect_none()
        },
    ),
    Case::new("raz2.gicd_ctlr", "GICD_CTLR, bits 31:2 (4.3.1)", |m| {
        for (written, read) in [(u32::MAX, BOTH), (0, 0), (1, 1), (2, 2), (!BOTH, 0)] {
            m.enable_groups(written);
            equal("GICD_CTLR", m.read(CTLR), read)?;
        }
        Ok(())
    }),
    Case::new("raz2.gicc_ctlr", "GICC_CTLR, bits 31:11 (4.4.1)", |_| {
        // Bits 8:5 are for a bypass, which an implementation may have.
        gicc::write(gicc::CTLR, !(0xf << 5));
        let read = gicc::read(gicc::CTLR);
        gicc::set_ctlr(0);
        equal("bits 31:11", read >> 11, 0)?;
        equal("bits 4:0", read & 0x1f, 0x1f)?;
        holds("EOImode", read & EOI_MODE != 0)
    }),
    Case::new("raz2.gicd_nsacr", "GICD_NSACR<n>, optional (4.3.14)", |m| {
        // A GIC with one security state has no such register.
        for offset in (NSACR..NSACR + 0x100).step_by(4) {
            m.write(offset, u32::MAX);
            equal("GICD_NSACR<n>", m.read(offset), 0)?;
        }
        Ok(())
    }),
    Case::new("raz2.read_only", "GICD_TYPER, GICC_RPR, GICC_HPPIR", |m| {
        let typer = m.read(TYPER);
        m.write(TYPER, !typer);
        equal("GICD_TYPER", m.read(TYPER), typer)?;
        let spi = m.edge(0);
        spi.set_pending();
        for register in [gicc::IAR, gicc::RPR, gicc::HPPIR] {
            gicc::write(register, 0);
        }
        equal("HPPIR", gicc::highest_pending(), spi.intid)?;
        equal("RPR", gicc::running_priority(), gicc::IDLE)?;
        expect_and_end(spi.intid)
    }),
    Case::new("raz2.write_only", "GICD_SGIR, GICC_EOIR, GICC_DIR", |m| {
        let spi = m.edge(0);
        spi.set_pending();
        expect(spi.intid)?;
        // The values are left open.
        m.read(SGIR);
        for register in [gicc::EOIR, gicc::AEOIR, gicc::DIR] {
            gicc::read(register);
        }
        holds("still active", spi.is_active())?;
        gicc::end(spi.intid);
        expect_none()
    }),
    Case::new("raz2.special_ends", "GICC_EOIR of 1023 (4.4.5)", |m| {
        let spi = m.edge(0).at(0x40);
        spi.set_pending();
        expect(spi.intid)?;
        let running = gicc::running_priority();
        gicc::end(NONE);
        equal("RPR", gicc::running_priority(), running)?;
        holds("still active", spi.is_active())?;
        gicc::end(spi.intid);
        equal("RPR at the end", gicc::running_priority(), gicc::IDLE)
    }),
    Case::new("keep2.ipriorityr", "GICD_IPRIORITYR<n> (4.3.11)", |m| {
        keeps(m, bank::IPRIORITYR, |intid| (intid as u32 * 0x28) & 0xf0)
    }),
    Case::new("keep2.icfgr", "GICD_ICFGR<n> (4.3.13)", |m| {
        for number in 0..32 {
            m.irq(crate::gicd::FREE_SPI + number)
                .set_edge(number % 3 == 0);
        }
        for number in 0..32 {
            let is_edge = m.irq(crate::gicd::FREE_SPI + number).is_edge();
            equal("edge", is_edge, number % 3 == 0)?;
        }
        Ok(())
    }),
    Case::new("keep2.igroupr", "GICD_IGROUPR<n> (4.3.4)", |m| {
        let register = bank::IGROUPR + 4 * 3;
        for value in [0x5a5a_5a5a, 0xa5a5_a5a5, u32::MAX, 0] {
            m.write(register, value);
            equal("GICD_IGROUPR3", m.read(register), value)?;
        }
        Ok(())
    }),
    Case::new("keep2.gicc_ctlr", "GICC_CTLR (4.4.1)", |_| {
        for value in [0, 1, 2, ACK_CTL, gicc::FIQ_EN, gicc::CBPR, EOI_MODE, 3] {
            gicc::write(gicc::CTLR, value);
            equal("GICC_CTLR", gicc::read(gicc::CTLR), value)?;
        }
        Ok(())
    }),
];

/// Writes a byte of each SPI that no device drives, and reads all of them.
fn keeps(m: &Machine, register: usize, value: fn(usize) -> u32) -> Outcome {
    let spis = crate::gicd::FREE_SPI as usize..m.free_end() as usize;
    let word = |intid: usize| {
        let bytes = [0, 1, 2, 3].map(|place| value(intid + place) as u8);
        u32::from_le_bytes(bytes)
    };
    for intid in spis.clone().step_by(4) {
        m.write(register + intid, word(intid));
    }
    for intid in spis.step_by(4) {
        equal("the word", m.read(register + intid), word(intid))?;
    }
    Ok(())
}
