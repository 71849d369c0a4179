//! Identification of the GIC, and values of registers out of reset.

use conformance::bank;

use crate::gicc;
use crate::gicd::{ICPIDR2, IDENTIFICATION, IIDR, TYPER};
use crate::harness::{Case, Cpus, equal, holds};
use crate::{cpu, cpus};

/// `ArchRev` of `GICD_ICPIDR2`, and the version of the architecture in `GICC_IIDR`, of a GICv2.
const GICV2: u32 = 2;

/// Case that a value of a register before its first write is this one.
macro_rules! reads {
    ($name:literal, $rule:literal, $field:ident, $value:expr) => {
        Case::new($name, $rule, |m| equal($rule, m.at_reset.$field, $value))
    };
}

pub(super) const CASES: &[Case] = &[
    Case::new("ident2.cpus", "GICD_TYPER.CPUNumber (4.3.2)", |m| {
        equal("CPUNumber", m.read(TYPER) >> 5 & 7, m.cpus - 1)
    }),
    Case::new("ident2.lines", "GICD_TYPER.ITLinesNumber (4.3.2)", |m| {
        let last = m.irq(m.lines() - 1);
        holds("a line of each device", m.lines() > 64)?;
        last.enable();
        holds("the last INTID can be enabled", last.is_enabled())?;
        last.disable();
        equal("and disabled", last.is_enabled(), false)
    }),
    Case::new(
        "ident2.one_security_state",
        "GICD_TYPER.SecurityExtn, LSPI (4.3.2)",
        |m| {
            let typer = m.read(TYPER);
            equal("SecurityExtn", typer >> 10 & 1, 0)?;
            equal("LSPI", typer >> 11 & 0x1f, 0)?;
            equal("bits 31:16 and 9:8", typer & 0xffff_0300, 0)
        },
    ),
    Case::new(
        "ident2.typer_from_every_cpu",
        "GICD_TYPER, common (4.3.2)",
        |m| {
            let typer = m.read(TYPER);
            cpus::on_all(|_| equal("GICD_TYPER", m.read(TYPER), typer))
        },
    )
    .on(Cpus::All),
    Case::new("ident2.gicd_iidr", "GICD_IIDR, JEP106 code (4.3.3)", |m| {
        let iidr = m.read(IIDR);
        equal("bit 7", iidr >> 7 & 1, 0)?;
        m.write(IIDR, !iidr);
        equal("once it is written", m.read(IIDR), iidr)
    }),
    Case::new(
        "ident2.architecture",
        "GICD_ICPIDR2.ArchRev (4.3.18)",
        |m| equal("ArchRev", m.read(ICPIDR2) >> 4 & 0xf, GICV2),
    ),
    Case::new(
        "ident2.identification_is_read_only",
        "GICD identification registers (4.3.18)",
        |m| {
            for offset in (IDENTIFICATION..0x1000).step_by(4) {
                let before = m.read(offset);
                equal("bits 31:8", before >> 8, 0)?;
                m.write(offset, !before);
                equal("once it is written", m.read(offset), before)?;
            }
            Ok(())
        },
    ),
    Case::new(
        "ident2.gicc_iidr",
        "GICC_IIDR.Architecture version (4.4.14)",
        |_| {
            let iidr = gicc::read(gicc::IIDR);
            equal("architecture version", iidr >> 16 & 0xf, GICV2)?;
            equal("bit 7", iidr >> 7 & 1, 0)?;
            gicc::write(gicc::IIDR, !iidr);
            equal("once it is written", gicc::read(gicc::IIDR), iidr)
        },
    ),
    Case::new(
        "ident2.gicc_iidr_of_every_cpu",
        "GICC_IIDR (4.4.14)",
        |_| {
            let iidr = gicc::read(gicc::IIDR);
            cpus::on_all(|_| equal("GICC_IIDR", gicc::read(gicc::IIDR), iidr))
        },
    )
    .on(Cpus::All),
    Case::new(
        "ident2.no_system_registers",
        "ID_AA64PFR0_EL1.GIC (DDI 0487)",
        |_| {
            let field = cpu::read!("id_aa64pfr0_el1") >> 24 & 0xf;
            equal("GIC", field, 0_u64)
        },
    ),
];

pub(super) const AT_RESET: &[Case] = &[
    reads!("reset2.gicd_ctlr", "GICD_CTLR (4.3.1)", gicd_ctlr, 0),
    reads!("reset2.igroupr", "GICD_IGROUPR<n> (4.3.4)", igroupr, 0),
    reads!(
        "reset2.isenabler",
        "GICD_ISENABLER<n> (4.3.5)",
        isenabler,
        0
    ),
    reads!("reset2.ispendr", "GICD_ISPENDR<n> (4.3.7)", ispendr, 0),
    reads!(
        "reset2.isactiver",
        "GICD_ISACTIVER<n> (4.3.9)",
        isactiver,
        0
    ),
    reads!(
        "reset2.ipriorityr",
        "GICD_IPRIORITYR<n> (4.3.11)",
        ipriorityr,
        0
    ),
    reads!(
        "reset2.itargetsr",
        "GICD_ITARGETSR<n> (4.3.12)",
        itargetsr,
        0
    ),
    Case::new(
        "reset2.icfgr_of_sgis",
        "GICD_ICFGR0, read-only (4.3.13)",
        |m| {
            // The other bit of each field is reserved in a GICv2.
            const EDGES: u32 = 0xaaaa_aaaa;
            equal("out of reset", m.at_reset.icfgr & EDGES, EDGES)?;
            m.write(bank::ICFGR, 0);
            equal("once it is written", m.read(bank::ICFGR) & EDGES, EDGES)
        },
    ),
    reads!(
        "reset2.spendsgir",
        "GICD_SPENDSGIR<n> (4.3.17)",
        spendsgir,
        0
    ),
    reads!("reset2.gicc_ctlr", "GICC_CTLR (4.4.1)", gicc_ctlr, 0),
    reads!("reset2.gicc_pmr", "GICC_PMR (4.4.2)", pmr, 0),
    Case::new(
        "reset2.binary_points",
        "GICC_BPR (4.4.3), GICC_ABPR (4.4.8)",
        |m| {
            equal("BPR", m.at_reset.bpr, gicc::least_binary_point())?;
            holds("the least BPR is at most 3", m.at_reset.bpr <= 3)?;
            equal("ABPR", m.at_reset.abpr, m.at_reset.bpr + 1)
        },
    ),
    Case::new(
        "reset2.nothing_pending",
        "GICC_IAR (4.4.4), GICC_HPPIR (4.4.7)",
        |m| {
            equal("IAR", m.at_reset.iar, gicc::NONE)?;
            equal("HPPIR", m.at_reset.hppir, gicc::NONE)
        },
    ),
    reads!("reset2.gicc_rpr", "GICC_RPR (4.4.6)", rpr, gicc::IDLE),
    reads!(
        "reset2.active_priorities",
        "GICC_APR<n>, GICC_NSAPR<n> (4.4.12)",
        active_priorities,
        0
    ),
];
