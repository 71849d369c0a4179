//! Registers: RAZ/WI, reserved INTIDs, access widths, halves of 64-bit registers, values that read
//! back.

use super::gits;
use super::kvm;
use crate::gic::{bank, gicd, gicr};
use crate::harness::{Case, Cpus, Outcome, equal, holds};
use crate::machine::Machine;
use crate::mmio::{read_8, read_16, read_32, read_64, write_8, write_32, write_64};

/// Case that a register reads as zero and ignores writes.
macro_rules! raz_wi {
    ($name:literal, $rule:literal, $frame:ident, $offset:expr) => {
        Case::new($name, $rule, |m| expect_raz_wi(m.$frame($offset)))
    };
}

pub(super) const CASES: &[Case] = &[
    raz_wi!(
        "raz.gicd_igroupr0",
        "GICD_IGROUPR0 with ARE (12.9)",
        gicd,
        bank::IGROUPR
    ),
    raz_wi!(
        "raz.gicd_isenabler0",
        "GICD_ISENABLER0 with ARE (12.9)",
        gicd,
        bank::ISENABLER
    ),
    raz_wi!(
        "raz.gicd_icenabler0",
        "GICD_ICENABLER0 with ARE (12.9)",
        gicd,
        bank::ICENABLER
    ),
    raz_wi!(
        "raz.gicd_ispendr0",
        "GICD_ISPENDR0 with ARE (12.9)",
        gicd,
        bank::ISPENDR
    ),
    raz_wi!(
        "raz.gicd_icpendr0",
        "GICD_ICPENDR0 with ARE (12.9)",
        gicd,
        bank::ICPENDR
    ),
    raz_wi!(
        "raz.gicd_isactiver0",
        "GICD_ISACTIVER0 with ARE (12.9)",
        gicd,
        bank::ISACTIVER
    ),
    raz_wi!(
        "raz.gicd_icactiver0",
        "GICD_ICACTIVER0 with ARE (12.9)",
        gicd,
        bank::ICACTIVER
    ),
    raz_wi!(
        "raz.gicd_ipriorityr_private",
        "GICD_IPRIORITYR<0-7> with ARE (12.9)",
        gicd,
        bank::IPRIORITYR + 28
    ),
    raz_wi!(
        "raz.gicd_icfgr1",
        "GICD_ICFGR1 with ARE (12.9)",
        gicd,
        bank::ICFGR + 4
    ),
    raz_wi!(
        "raz.gicd_itargetsr_spi",
        "GICD_ITARGETSR<n> with ARE (12.9)",
        gicd,
        gicd::ITARGETSR + 128
    ),
    raz_wi!(
        "raz.gicd_itargetsr_private",
        "GICD_ITARGETSR<0-7> with ARE (12.9)",
        gicd,
        gicd::ITARGETSR
    ),
    raz_wi!(
        "raz.gicd_sgir",
        "GICD_SGIR with ARE (12.9)",
        gicd,
        gicd::SGIR
    ),
    raz_wi!(
        "raz.gicd_cpendsgir",
        "GICD_CPENDSGIR<n> with ARE (12.9)",
        gicd,
        gicd::CPENDSGIR
    ),
    raz_wi!(
        "raz.gicd_spendsgir",
        "GICD_SPENDSGIR<n> with ARE (12.9)",
        gicd,
        gicd::SPENDSGIR
    ),
    raz_wi!(
        "raz.gicd_igrpmodr",
        "GICD_IGRPMODR<n> with DS (12.9)",
        gicd,
        gicd::IGRPMODR + 8
    ),
    raz_wi!(
        "raz.gicd_irouter_private",
        "GICD_IROUTER<0-31> (12.9)",
        gicd,
        gicd::IROUTER + 8
    ),
    raz_wi!(
        "raz.gicr_igrpmodr0",
        "GICR_IGRPMODR0 with DS (12.11)",
        sgi_0,
        gicd::IGRPMODR
    ),
    Case::new(
        "raz.gicd_isenabler_beyond",
        "GICD_ISENABLER<n> beyond ITLinesNumber",
        |m| expect_raz_wi_beyond(m, bank::ISENABLER, 32),
    ),
    Case::new(
        "raz.gicd_ispendr_beyond",
        "GICD_ISPENDR<n> beyond ITLinesNumber",
        |m| expect_raz_wi_beyond(m, bank::ISPENDR, 32),
    ),
    Case::new(
        "raz.gicd_isactiver_beyond",
        "GICD_ISACTIVER<n> beyond ITLinesNumber",
        |m| expect_raz_wi_beyond(m, bank::ISACTIVER, 32),
    ),
    Case::new(
        "raz.gicd_igroupr_beyond",
        "GICD_IGROUPR<n> beyond ITLinesNumber",
        |m| expect_raz_wi_beyond(m, bank::IGROUPR, 32),
    ),
    Case::new(
        "raz.gicd_ipriorityr_beyond",
        "GICD_IPRIORITYR<n> beyond ITLinesNumber",
        |m| expect_raz_wi_beyond(m, bank::IPRIORITYR, 4),
    ),
    Case::new(
        "raz.gicd_icfgr_beyond",
        "GICD_ICFGR<n> beyond ITLinesNumber",
        |m| expect_raz_wi_beyond(m, bank::ICFGR, 16),
    ),
    Case::new("raz.special_intids", "2.2 INTIDs 1020 to 1023", |m| {
        let offset = bank::ISENABLER + 4 * 31;
        write_32(m.gicd(offset), 0xf000_0000_u32);
        equal("enables of 1020 to 1023", read_32(m.gicd(offset)) >> 28, 0)
    }),
    Case::new(
        "keep.isenabler_icenabler",
        "GICD_ISENABLER<n>, GICD_ICENABLER<n>",
        |m| check_set_and_clear(m, bank::ISENABLER, bank::ICENABLER),
    ),
    Case::new(
        "keep.ispendr_icpendr",
        "GICD_ISPENDR<n>, GICD_ICPENDR<n>",
        |m| check_set_and_clear(m, bank::ISPENDR, bank::ICPENDR),
    ),
    Case::new(
        "keep.isactiver_icactiver",
        "GICD_ISACTIVER<n>, GICD_ICACTIVER<n>",
        |m| check_set_and_clear(m, bank::ISACTIVER, bank::ICACTIVER),
    ),
    Case::new(
        "keep.private_isenabler",
        "GICR_ISENABLER0, GICR_ICENABLER0 (12.11)",
        |m| {
            write_32(m.sgi_0(bank::ISENABLER), 0x00ff_0f0f);
            write_32(m.sgi_0(bank::ISENABLER), 0);
            equal("set", read_32(m.sgi_0(bank::ICENABLER)) & 0xffff, 0x0f0f)?;
            write_32(m.sgi_0(bank::ICENABLER), 0x0003);
            m.wait_rwp_private(0);
            equal(
                "after a clear",
                read_32(m.sgi_0(bank::ISENABLER)) & 0xffff,
                0x0f0c,
            )
        },
    ),
    Case::new("keep.igroupr", "GICD_IGROUPR<n> (12.9)", |m| {
        let register = m.gicd(bank::IGROUPR + 4 * WORD);
        for value in [0, 0xa5a5_5a5a, u32::MAX] {
            write_32(register, value);
            equal("GICD_IGROUPR", read_32(register), value)?;
        }
        Ok(())
    }),
    Case::new("keep.gicr_igroupr0", "GICR_IGROUPR0 (12.11)", |m| {
        let register = m.sgi_0(bank::IGROUPR);
        for value in [0, 0xa5a5, 0xffff] {
            write_32(register, value);
            equal("GICR_IGROUPR0", read_32(register) & 0xffff, value)?;
        }
        Ok(())
    }),
    Case::new("keep.icfgr", "GICD_ICFGR<n> (12.9)", |m| {
        let register = m.gicd(bank::ICFGR + 8 * WORD);
        for value in [0xaaaa_aaaa, 0x2828_8282, 0] {
            write_32(register, value | 0x5555_5555);
            equal(
                "GICD_ICFGR",
                read_32(register) & 0xaaaa_aaaa,
                value & 0xaaaa_aaaa,
            )?;
        }
        Ok(())
    }),
    Case::new(
        "keep.gicr_icfgr0_is_read_only",
        "GICR_ICFGR0 (12.11)",
        |m| {
            write_32(m.sgi_0(bank::ICFGR), 0);
            equal(
                "SGIs stay edge-triggered",
                read_32(m.sgi_0(bank::ICFGR)),
                0xaaaa_aaaa_u32,
            )
        },
    ),
    Case::new("keep.ipriorityr_bits", "GICD_IPRIORITYR<n>, 4.8", |m| {
        let register = m.gicd(bank::IPRIORITYR + 32 * WORD);
        write_32(register, u32::MAX);
        let bits = read_8(register);
        holds("at least 16 levels", bits & 0xf0 == 0xf0)?;
        equal(
            "implemented bits are the high ones",
            bits.leading_ones(),
            bits.count_ones(),
        )?;
        write_32(register, 0);
        equal("GICD_IPRIORITYR", read_32(register), 0)
    }),
    Case::new(
        "keep.ipriorityr_bytes_and_words",
        "GICD_IPRIORITYR<n> (12.9)",
        |m| check_priority_bytes(m.gicd(bank::IPRIORITYR + 32 * WORD)),
    ),
    Case::new(
        "keep.gicr_ipriorityr_bytes",
        "GICR_IPRIORITYR<n> (12.11)",
        |m| check_priority_bytes(m.sgi_0(bank::IPRIORITYR + 8)),
    ),
    Case::new(
        "keep.gicr_ipriorityr_ppi",
        "GICR_IPRIORITYR<n> (12.11)",
        |m| check_priority_bytes(m.sgi_0(bank::IPRIORITYR + 24)),
    ),
    Case::new("keep.irouter", "GICD_IROUTER<n> (12.9)", |m| {
        let register = m.gicd(gicd::IROUTER + 8 * 32 * WORD);
        let mask = affinity_mask(m);
        for value in [0x0012_0034_5678, 0, m.affinity(0)] {
            write_64(register, value & mask);
            equal("GICD_IROUTER", read_64(register) & mask, value & mask)?;
        }
        Ok(())
    }),
    Case::new("keep.irouter_halves", "GICD_IROUTER<n> (12.9), 12.1", |m| {
        check_halves(m.gicd(gicd::IROUTER + 8 * 32 * WORD), affinity_mask(m))
    }),
    Case::new(
        "keep.irouter_mode",
        "GICD_IROUTER<n>.Interrupt_Routing_Mode, GICD_TYPER.No1N",
        |m| {
            let register = m.gicd(gicd::IROUTER + 8 * 32 * WORD);
            let no1n = read_32(m.gicd(gicd::TYPER)) >> 25 & 1;
            write_64(register, 1 << 31);
            equal(
                "Interrupt_Routing_Mode",
                read_64(register) >> 31 & 1,
                1 - no1n,
            )
        },
    )
    .unlike_kvm("the bit is RAZ/WI although GICD_TYPER.No1N is 0")
    .unlike_qemu("it keeps the bit although it reports No1N"),
    Case::new("keep.gicr_typer_halves", "GICR_TYPER (12.11), 12.1", |m| {
        check_halves_read(m.gicr_0(gicr::TYPER))
    }),
    Case::new("keep.gits_typer_halves", "GITS_TYPER (12.19), 12.1", |m| {
        check_halves_read(gits(m)? + 8)
    }),
    Case::new(
        "keep.propbaser_halves",
        "GICR_PROPBASER (12.11), 12.1",
        |m| check_halves(m.gicr_0(gicr::PROPBASER), 0x0000_ffff_f000),
    ),
    Case::new(
        "keep.pendbaser_halves",
        "GICR_PENDBASER (12.11), 12.1",
        |m| check_halves(m.gicr_0(gicr::PENDBASER), 0x0000_ffff_0000),
    ),
    Case::new(
        "keep.gits_cbaser_halves",
        "GITS_CBASER (12.19), 12.1",
        |m| check_halves(gits(m)? + 0x80, 0x8000_0000_ffff_00ff),
    ),
    Case::new(
        "keep.gits_baser_halves",
        "GITS_BASER<n> (12.19), 12.1",
        |m| check_halves(gits(m)? + 0x100, 0x8000_0000_ffff_00ff),
    ),
    Case::new(
        "keep.gits_baser_fixed_fields",
        "GITS_BASER<n>.Type, Entry_Size (12.19)",
        |m| {
            let register = gits(m)? + 0x100;
            let fixed = 7 << 56 | 0x1f << 48;
            let before = read_64(register);
            write_64(register, !before);
            let after = read_64(register);
            write_64(register, before);
            equal("Type and Entry_Size", after & fixed, before & fixed)
        },
    ),
    Case::new("keep.pendbaser_ptz", "GICR_PENDBASER.PTZ (12.11)", |m| {
        let register = m.gicr_0(gicr::PENDBASER);
        write_64(register, 1 << 62);
        let read = read_64(register);
        write_64(register, 0);
        equal("PTZ reads as zero", read >> 62 & 1, 0)
    })
    .unlike_qemu("it reads back what was written"),
    Case::new("keep.waker", "GICR_WAKER (12.11)", check_waker).unlike_kvm(kvm::ASLEEP),
    Case::new(
        "keep.from_any_cpu",
        "GICR_* accessed from another CPU, 12.1",
        |m| {
            // Each CPU writes the registers of the next one, and the owner reads them.
            crate::cpus::on_all(|cpu| {
                let sgi = m.private((cpu + 1) % m.cpus, 5);
                sgi.enable();
                sgi.set_priority(0x50);
                sgi.set_pending();
                sgi.set_group(0);
                Ok(())
            })?;
            crate::cpus::on_all(|cpu| {
                let sgi = m.private(cpu, 5);
                holds("enabled", sgi.is_enabled())?;
                equal("the priority", sgi.priority(), 0x50)?;
                holds("pending", sgi.is_pending())?;
                equal(
                    "another one is enabled",
                    m.private(cpu, 6).is_enabled(),
                    false,
                )
            })
        },
    )
    .on(Cpus::All),
    Case::new(
        "keep.ctlr_groups",
        "GICD_CTLR.EnableGrp0, EnableGrp1 (12.9)",
        |m| {
            for groups in [0, 1, 2, 3, 2] {
                m.enable_groups(groups);
                equal("the group enables", read_32(m.gicd(gicd::CTLR)) & 3, groups)?;
            }
            Ok(())
        },
    )
    .unlike_kvm("EnableGrp0 is RAZ/WI, which only a GIC without Group 0 may have"),
    Case::new("keep.unsupported_widths", "12.1 access sizes", |m| {
        // The result of such an access is left open, but it changes no state.
        let spi = m.edge(0);
        read_64(m.gicd(bank::ISENABLER));
        read_8(m.gicd(gicd::TYPER));
        read_16(m.gicd(bank::IGROUPR + 4 * WORD));
        read_64(m.sgi_0(bank::ISENABLER));
        let _ = crate::exception::take_fault(0);
        holds("still enabled", spi.is_enabled())
    }),
];

/// Number of a word of SPIs that no device drives.
const WORD: usize = 5;

/// Fails unless the register reads as zero and ignores writes.
fn expect_raz_wi(address: usize) -> Outcome {
    equal("the value at first", read_32(address), 0)?;
    write_32(address, u32::MAX);
    let after = read_32(address);
    write_32(address, 0);
    equal("the value after a write of ones", after, 0)
}

/// Fails unless the fields of unimplemented lines are RAZ/WI, in the first register with such
/// fields. Each 32-bit register has `fields` fields.
fn expect_raz_wi_beyond(m: &Machine, register: usize, fields: u32) -> Outcome {
    let lines = m.lines();
    let address = m.gicd(register + (lines / fields * 4) as usize);
    let missing = u32::MAX << (lines % fields * (32 / fields));
    equal("fields beyond", read_32(address) & missing, 0)?;
    write_32(address, read_32(address) | missing);
    equal("what was written to them", read_32(address) & missing, 0)
}

/// Checks a pair of registers that set and clear bits.
fn check_set_and_clear(m: &Machine, set: usize, clear: usize) -> Outcome {
    let (set, clear) = (m.gicd(set + 4 * WORD), m.gicd(clear + 4 * WORD));
    // Nothing is delivered meanwhile.
    m.enable_groups(0);
    for word in 0..m.lines() as usize / 16 {
        write_32(m.gicd(bank::ICFGR + 4 * word), 0xaaaa_aaaa_u32);
    }

    write_32(set, 0xffff_0000_u32);
    equal("what was set", read_32(set), 0xffff_0000_u32)?;
    equal(
        "the same in the other register",
        read_32(clear),
        0xffff_0000_u32,
    )?;
    write_32(set, 0x0000_0001);
    equal("zeros have no effect", read_32(set), 0xffff_0001_u32)?;

    write_32(clear, 0xff00_0000_u32);
    m.wait_rwp();
    equal("what is left", read_32(clear), 0x00ff_0001)?;
    write_32(clear, 0);
    equal("zeros have no effect", read_32(set), 0x00ff_0001)
}

/// Checks accesses to priorities by words and by bytes.
fn check_priority_bytes(register: usize) -> Outcome {
    write_32(register, 0xe0c0_a080_u32);
    for (place, priority) in [0x80u8, 0xa0, 0xc0, 0xe0].into_iter().enumerate() {
        equal("a byte", read_8(register + place), priority)?;
    }
    write_8(register + 2, 0x40);
    equal("the word", read_32(register), 0xe040_a080_u32)
}

/// Returns the bits of an affinity in `GICD_IROUTER<n>`. `GICD_TYPER.A3V` tells of `Aff3`.
fn affinity_mask(m: &Machine) -> u64 {
    match read_32(m.gicd(gicd::TYPER)) >> 24 & 1 {
        0 => 0xff_ffff,
        _ => 0xff_00ff_ffff,
    }
}

/// Writes a 64-bit register by halves and as a whole, and reads it both ways.
fn check_halves(register: usize, mask: u64) -> Outcome {
    let before = read_64(register);
    let pattern = 0x8055_aa55_5aa5_0a55 & mask;
    write_64(register, 0);
    write_32(register, pattern as u32);
    write_32(register + 4, (pattern >> 32) as u32);
    let whole = read_64(register) & mask;
    let (low, high) = (read_32(register), read_32(register + 4));
    write_32(register, 0);
    let upper = read_64(register) & mask;
    write_64(register, before);
    equal("the whole", whole, pattern)?;
    equal("the low half", u64::from(low) & mask, pattern & 0xffff_ffff)?;
    equal("the high half", u64::from(high) & mask >> 32, pattern >> 32)?;
    equal("the high half alone", upper, pattern & !0xffff_ffff)
}

/// Checks reads of a 64-bit register by halves.
fn check_halves_read(register: usize) -> Outcome {
    let whole = read_64(register);
    equal("the low half", read_32(register), whole as u32)?;
    equal("the high half", read_32(register + 4), (whole >> 32) as u32)
}

/// Checks that `GICR_WAKER.ChildrenAsleep` follows `ProcessorSleep`.
fn check_waker(m: &Machine) -> Outcome {
    const PROCESSOR_SLEEP: u32 = 2;
    const CHILDREN_ASLEEP: u32 = 4;
    let register = m.gicr_0(gicr::WAKER);
    let follows = |value: u32| {
        crate::cpu::spin_until(1_000_000, || {
            let asleep = read_32(register) & CHILDREN_ASLEEP != 0;
            asleep == (value != 0)
        })
    };
    equal("ProcessorSleep", read_32(register) & PROCESSOR_SLEEP, 0)?;
    crate::gic::interface::set_igrpen_1(0);
    write_32(register, PROCESSOR_SLEEP);
    let slept = follows(PROCESSOR_SLEEP);
    write_32(register, 0);
    holds("ChildrenAsleep follows ProcessorSleep", slept)?;
    holds("and wakes", follows(0))
}
