//! Identification registers and reset values.

use super::kvm;
use super::{gits, reads};
use crate::cpus::MAX_CPUS;
use crate::gic::{gicd, gicr};
use crate::harness::{Case, Cpus, Outcome, equal, holds, skip_unless};
use crate::machine::Machine;
use crate::mmio::{read_32, read_64, write_32};

const PIDR2: usize = 0xffe8;
const CIDR: usize = 0xfff0;

/// `ArchRev` of GICv3.
const GICV3: u32 = 0x30;

pub(super) const CASES: &[Case] = &[
    reads!(
        "ident.gicd_pidr2",
        "GICD_PIDR2 (12.9)",
        gicd,
        PIDR2,
        0xf0,
        GICV3
    ),
    reads!(
        "ident.gicr_pidr2",
        "GICR_PIDR2 (12.11)",
        gicr_0,
        PIDR2,
        0xf0,
        GICV3
    ),
    Case::new("ident.gits_pidr2", "GITS_PIDR2 (12.19)", |m| {
        equal(
            "GITS_PIDR2.ArchRev",
            read_32(gits(m)? + PIDR2) & 0xf0,
            GICV3,
        )
    }),
    Case::new("ident.gicd_cidr", "12.1 component identification", |m| {
        check_component_id(m.gicd(CIDR))
    })
    .unlike_kvm(kvm::NO_COMPONENT_ID),
    Case::new("ident.gicr_cidr", "12.1 component identification", |m| {
        check_component_id(m.gicr_0(CIDR))
    })
    .unlike_kvm(kvm::NO_COMPONENT_ID),
    Case::new("ident.gits_cidr", "12.1 component identification", |m| {
        check_component_id(gits(m)? + CIDR)
    }),
    Case::new("ident.gicd_iidr_is_read_only", "GICD_IIDR (12.9)", |m| {
        check_read_only(m.gicd(gicd::IIDR))
    }),
    Case::new("ident.gicd_typer_is_read_only", "GICD_TYPER (12.9)", |m| {
        check_read_only(m.gicd(gicd::TYPER))
    }),
    Case::new("ident.gicr_iidr_is_read_only", "GICR_IIDR (12.11)", |m| {
        check_read_only(m.gicr_0(gicr::IIDR))
    }),
    Case::new("ident.gicr_typer_is_read_only", "GICR_TYPER (12.11)", |m| {
        check_read_only(m.gicr_0(gicr::TYPER))
    }),
    Case::new("ident.gits_typer_is_read_only", "GITS_TYPER (12.19)", |m| {
        check_read_only(gits(m)? + 8)
    }),
    Case::new("ident.gits_iidr_is_read_only", "GITS_IIDR (12.19)", |m| {
        check_read_only(gits(m)? + 4)
    }),
    Case::new("ident.typer_intid_bits", "GICD_TYPER.IDbits (12.9)", |m| {
        let typer = read_32(m.gicd(gicd::TYPER));
        let bits = (typer >> 19 & 0x1f) + 1;
        holds("at least the INTIDs of SPIs", 1 << bits > m.lines())?;
        skip_unless("there are no LPIs", typer & 1 << 17 != 0)?;
        holds(
            "LPIs begin at 8192: 14 bits at least",
            (14..=24).contains(&bits),
        )
    }),
    Case::new("ident.typer_num_lpis", "GICD_TYPER.num_LPIs (12.9)", |m| {
        let typer = read_32(m.gicd(gicd::TYPER));
        skip_unless("there are no LPIs", typer & 1 << 17 != 0)?;
        // As Linux asks: INTIDs of 16 bits are used, if there are more.
        let bits = ((typer >> 19 & 0x1f) + 1).min(16);
        let lpis = 1_u64 << ((typer >> 11 & 0x1f) + 1);
        let by_bits = typer >> 11 & 0x1f == 0;
        holds(
            "0, or no more LPIs than INTIDs of IDbits",
            by_bits || lpis <= (1 << bits) - 8192,
        )
    }),
    Case::new("ident.typer_lpis_agree", "GICR_TYPER.PLPIS (12.11)", |m| {
        let lpis = read_32(m.gicd(gicd::TYPER)) >> 17 & 1;
        equal("PLPIS", read_32(m.gicr_0(gicr::TYPER)) & 1, lpis)
    }),
    Case::new(
        "ident.icc_ctlr_agrees",
        "ICC_CTLR_EL1.IDbits, A3V (12.2)",
        |m| {
            let ctlr = crate::gic::interface::ctlr();
            holds("IDbits is 16 or 24 bits", ctlr >> 11 & 7 <= 1)?;
            holds("at least 5 bits of priority", ctlr >> 8 & 7 >= 4)?;
            let a3v = read_32(m.gicd(gicd::TYPER)) >> 24 & 1;
            equal("A3V is GICD_TYPER.A3V", ctlr >> 15 & 1, a3v)
        },
    )
    .unlike_kvm("it passes the A3V of the machine's ICH_VTR_EL2 on, and says 0 in GICD_TYPER"),
    Case::new(
        "ident.redistributors",
        "GICR_TYPER (12.11)",
        check_redistributors,
    ),
    Case::new("ident.system_registers", "ICC_SRE_EL1 (12.2)", |_| {
        holds("SRE", crate::gic::interface::sre() & 1 != 0)
    }),
    Case::new("ident.mpidr", "GICR_TYPER.Affinity_Value (12.11)", |m| {
        crate::cpus::on_all(|cpu| {
            let mpidr = crate::cpu::mpidr();
            let packed = mpidr & 0xff_ffff | mpidr >> 8 & 0xff00_0000;
            let affinity = read_64(m.gicr(cpu, gicr::TYPER)) >> 32;
            equal("Affinity_Value", affinity, packed)
        })
    })
    .on(Cpus::All),
    Case::new("reset.gicd_ctlr", "GICD_CTLR (12.9)", |m| {
        equal("groups are disabled", m.at_reset.gicd_ctlr & 3, 0)
    }),
    Case::new(
        "reset.gicd_ctlr_one_state",
        "GICD_CTLR.DS, ARE (12.9)",
        |m| {
            holds("DS", m.at_reset.gicd_ctlr & 1 << 6 != 0)?;
            holds(
                "ARE, once it has been set",
                read_32(m.gicd(gicd::CTLR)) & 1 << 4 != 0,
            )
        },
    ),
    Case::new("reset.gicd_isenabler", "GICD_ISENABLER<n> (12.9)", |m| {
        equal("SPIs are disabled", m.at_reset.isenabler, 0)
    }),
    Case::new("reset.gicd_icfgr", "GICD_ICFGR<n> (12.9)", |m| {
        // The reset value is UNKNOWN, but the low bit of each field is RES0.
        equal("RES0 bits", m.at_reset.icfgr & 0x5555_5555, 0)
    }),
    Case::new("reset.gicr_waker", "GICR_WAKER (12.11)", |m| {
        equal("the redistributor is asleep", m.at_reset.waker & 6, 6)
    })
    .unlike_kvm(kvm::ASLEEP),
    Case::new("reset.gicr_lpis_off", "GICR_CTLR.EnableLPIs (12.11)", |m| {
        equal("EnableLPIs", m.at_reset.gicr_ctlr & 1, 0)
    }),
    Case::new("reset.gicr_icfgr0", "GICR_ICFGR0 (12.11)", |m| {
        equal(
            "SGIs are edge-triggered",
            read_32(m.sgi_base(0, 0xc00)),
            0xaaaa_aaaa_u32,
        )
    }),
    Case::new("reset.gits_off", "GITS_CTLR (12.19)", |m| {
        gits(m)?;
        equal(
            "Quiescent and not Enabled",
            m.at_reset.gits_ctlr & 0x8000_0001,
            0x8000_0000_u32,
        )
    }),
    Case::new(
        "reset.gits_queue",
        "GITS_CREADR, GITS_BASER<n> (12.19)",
        |m| {
            let gits = gits(m)?;
            equal("GITS_CBASER.Valid", m.at_reset.gits_cbaser >> 63, 0)?;
            for n in 0..8 {
                let baser = read_64(gits + 0x100 + 8 * n);
                let kind = baser >> 56 & 7;
                holds(
                    "Type is none, devices, vPEs or collections",
                    matches!(kind, 0 | 1 | 2 | 4),
                )?;
            }
            Ok(())
        },
    ),
    Case::new(
        "reset.interface_closed",
        "ICC_IGRPEN1_EL1, ICC_PMR_EL1 (12.2)",
        |m| {
            equal("IGRPEN0", m.at_reset.igrpen_0, 0)?;
            equal("IGRPEN1", m.at_reset.igrpen_1, 0)?;
            equal("PMR", m.at_reset.pmr, 0)
        },
    ),
    Case::new("reset.secondary_interface", "ICC_IGRPEN1_EL1 (12.2)", |m| {
        // A CPU comes out of reset again when it is turned off and on.
        crate::cpus::on(1, || crate::gic::interface::set_igrpen_1(1));
        crate::cpus::turn_off(m, 1);
        crate::cpus::turn_on(m, 1);
        let enabled = crate::cpus::on(1, crate::gic::interface::igrpen_1);
        equal("IGRPEN1 after reset", enabled, 0)
    })
    .unlike_kvm(kvm::NO_RESET_BY_CPU_ON)
    .on(Cpus::Two),
];

/// Checks the preamble of all Arm peripherals.
fn check_component_id(address: usize) -> Outcome {
    for (place, byte) in [0x0d_u32, 0xf0, 0x05, 0xb1].into_iter().enumerate() {
        equal("CIDR", read_32(address + 4 * place), byte)?;
    }
    Ok(())
}

/// Checks that a write does not change a register.
fn check_read_only(address: usize) -> Outcome {
    let before = read_32(address);
    write_32(address, !before);
    let after = read_32(address);
    write_32(address, before);
    equal("the value after a write", after, before)
}

/// Checks `GICR_TYPER` of every CPU.
fn check_redistributors(m: &Machine) -> Outcome {
    let mut numbers = [false; MAX_CPUS];
    for cpu in 0..m.cpus {
        let typer = read_64(m.gicr(cpu, gicr::TYPER));
        // The last one of each region of contiguous redistributors.
        let follows = m.redistributor(cpu) + gicr::STRIDE;
        let is_last = cpu + 1 == m.cpus || m.redistributor(cpu + 1) != follows;
        equal("Last", typer >> 4 & 1, is_last)?;
        let number = typer >> 8 & 0xffff;
        let is_used = numbers.get_mut(number as usize);
        let is_used = is_used.map(|is_used| core::mem::replace(is_used, true));
        holds("Processor_Number is below 1,024 here", is_used.is_some())?;
        equal(
            "Processor_Number is nobody else's",
            is_used == Some(true),
            false,
        )?;
    }
    Ok(())
}
