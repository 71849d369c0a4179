//! Many writes to registers of 32 interrupts, while as many interrupts as possible are pending. No
//! interrupt may be lost.

use super::thousand::{COUNT, Thousand, with_thousand};
use crate::cpus;
use crate::gic::interface::{EOI_MODE, NONE, OPEN, deactivate, end, send, set_ctlr, set_pmr};
use crate::gic::{GROUP_0, GROUP_1, bank};
use crate::harness::{Case, Cpus, Outcome, equal, expect_none};
use crate::machine::Machine;

/// Writes of each register.
const ROUNDS: u32 = 20;

pub(super) const CASES: &[Case] = &[
    Case::new("storm.igroupr", "GICD_IGROUPR<n>, 4.6", |m| {
        pending(m, |thousand| {
            thousand.clear_groups();
            thousand.write(bank::IGROUPR);
        })
    }),
    Case::new(
        "storm.isenabler",
        "GICD_ISENABLER<n>, GICD_ICENABLER<n>",
        |m| {
            pending(m, |thousand| {
                thousand.write(bank::ICENABLER);
                thousand.write(bank::ISENABLER);
            })
        },
    ),
    Case::new("storm.ispendr", "GICD_ISPENDR<n>, GICD_ICPENDR<n>", |m| {
        pending(m, |thousand| {
            thousand.write(bank::ICPENDR);
            thousand.write(bank::ISPENDR);
        })
    }),
    Case::new(
        "storm.isactiver",
        "GICD_ISACTIVER<n>, GICD_ICACTIVER<n>",
        |m| {
            pending(m, |thousand| {
                thousand.write(bank::ISACTIVER);
                thousand.write(bank::ICACTIVER);
            })
        },
    ),
    Case::new("storm.ipriorityr", "GICD_IPRIORITYR<n>, 4.8", |m| {
        pending(m, |thousand| {
            thousand.prioritize(|intid| (intid % 16 * 0x10) as u8);
            thousand.prioritize(|intid| 0xf0 - (intid % 16 * 0x10) as u8);
        })
    }),
    Case::new("storm.gicd_ctlr", "GICD_CTLR.EnableGrp<n> (12.9)", |m| {
        pending(m, |_| {
            m.enable_groups(GROUP_0);
            m.enable_groups(GROUP_1);
        })
    }),
    Case::new("storm.irouter", "GICD_IROUTER<n>, 3.2", |m| {
        cpus::on(1, || set_pmr(0));
        pending(m, |thousand| {
            thousand.route(1);
            thousand.route(0);
        })
    })
    .on(Cpus::Two),
    Case::new("storm.routed_while_active", "GICD_IROUTER<n>, 4.1", |m| {
        with_thousand(m, |thousand| {
            set_ctlr(EOI_MODE);
            thousand.raise();
            m.enable_groups(GROUP_1);
            let mut place = 0;
            thousand.take_each(|intid| {
                end(intid);
                place += 1;
                if place % 100 == 0 {
                    thousand.route(1);
                    thousand.route(0);
                }
                Ok(())
            })?;
            thousand.all("ISACTIVER", bank::ISACTIVER, true)?;
            thousand.each(|intid| {
                deactivate(intid);
                Ok(())
            })?;
            thousand.all("ISACTIVER once they are ended", bank::ISACTIVER, false)?;
            expect_none()
        })
    })
    .on(Cpus::Two),
    Case::new(
        "storm.sgis_to_all_others",
        "ICC_SGI1R_EL1.IRM (12.2)",
        |m| {
            const ALL_BUT_SELF: u64 = 1 << 40;
            cpus::on_all(|cpu| {
                (0..16).for_each(|intid| m.private(cpu, intid).enable());
                set_pmr(0);
                Ok(())
            })?;
            for _ in 0..ROUNDS {
                (0..16).for_each(|intid| send(ALL_BUT_SELF | intid << 24));
            }
            // The last SGIs may be on their way still. They are not once each CPU has had a turn.
            cpus::on_all(|_| Ok(()))?;
            cpus::on_all(|cpu| {
                set_pmr(OPEN);
                let count = if cpu == 0 { 0 } else { 16 };
                let taken = (0..count).fold(0u32, |taken, _| {
                    let intid = super::its::take_and_end();
                    taken | 1u32.checked_shl(intid).unwrap_or(0)
                });
                equal("each of them", taken, (1 << count) - 1)?;
                equal("and no more", crate::gic::interface::acknowledge(), NONE)
            })
        },
    )
    .on(Cpus::All),
];

/// Writes registers while all interrupts are pending and masked. Then each interrupt is taken once.
fn pending(m: &Machine, write: impl Fn(&Thousand<'_>)) -> Outcome {
    with_thousand(m, |thousand| {
        set_pmr(0);
        m.enable_groups(GROUP_1);
        thousand.raise();
        (0..ROUNDS).for_each(|_| write(thousand));
        set_pmr(OPEN);
        let mut taken = 0;
        thousand.take_each(|intid| {
            end(intid);
            taken += 1;
            Ok(())
        })?;
        equal("those that are taken", taken, COUNT)?;
        expect_none()
    })
}
