//! Registers of which each CPU has its own: those of SGIs and PPIs, and the CPU interface.

use conformance::bank;

use crate::gicc;
use crate::gicd::{FREE_PPI, ITARGETSR};
use crate::harness::{Case, Cpus, Outcome, equal, expect_none, expect_none_on, expect_on, holds};
use crate::machine::Machine;
use crate::{cpu, cpus};

/// The reason why QEMU fails cases about `GICD_ICPENDR0`.
const CLEARS_ALL: &str = "GICD_ICPENDR0 clears the PPI of every CPU";

pub(super) const CASES: &[Case] = &[
    Case::new("banked.itargetsr", "GICD_ITARGETSR0 to 7 (4.3.12)", |m| {
        cpus::on_all(|number| {
            for register in (ITARGETSR..ITARGETSR + 32).step_by(4) {
                equal("own CPU in each byte", m.read(register), own(number))?;
            }
            Ok(())
        })
    })
    .on(Cpus::All),
    Case::new(
        "banked.itargetsr_is_read_only",
        "GICD_ITARGETSR0 to 7 (4.3.12)",
        |m| {
            cpus::on_all(|number| {
                for register in (ITARGETSR..ITARGETSR + 32).step_by(4) {
                    m.write(register, !own(number));
                    equal("own CPU in each byte", m.read(register), own(number))?;
                }
                Ok(())
            })
        },
    )
    .on(Cpus::All),
    Case::new("banked.igroupr0", "GICD_IGROUPR0 (4.3.4)", |m| {
        own_word(m, bank::IGROUPR, |number| 0x1111_1111 << (number % 4))
    })
    .on(Cpus::All),
    Case::new("banked.ipriorityr", "GICD_IPRIORITYR0 to 7 (4.3.11)", |m| {
        own_word(m, bank::IPRIORITYR, |number| 0x1010_1010 * number)?;
        own_word(m, bank::IPRIORITYR + 28, |number| {
            0x1010_1010 * (number + 1)
        })
    })
    .on(Cpus::All),
    Case::new("banked.isenabler0", "GICD_ISENABLER0 (4.3.5)", |m| {
        // SGIs may be enabled for ever.
        let enabled = |number: usize| 1_u32 << (FREE_PPI as usize + number % 4);
        cpus::on_all(|number| {
            m.write(bank::ISENABLER, enabled(number));
            Ok(())
        })?;
        cpus::on_all(|number| {
            let read = m.read(bank::ISENABLER) >> 16;
            equal("PPIs", read, enabled(number) >> 16)?;
            equal("ICENABLER0", m.read(bank::ICENABLER) >> 16, read)
        })
    })
    .on(Cpus::All),
    Case::new("banked.icenabler0", "GICD_ICENABLER0 (4.3.6)", |m| {
        let ppi = m.irq(FREE_PPI);
        cpus::on_all(|_| {
            ppi.enable();
            Ok(())
        })?;
        cpus::on(1, || ppi.disable());
        cpus::on_all(|number| equal("enabled", ppi.is_enabled(), number != 1))
    })
    .on(Cpus::All),
    Case::new("banked.ispendr0", "GICD_ISPENDR0 (4.3.7)", |m| {
        let ppi = m.irq(FREE_PPI);
        cpus::on_all(|_| {
            ppi.enable();
            Ok(())
        })?;
        cpus::on(1, || ppi.set_pending());
        equal("pending on CPU 0", ppi.is_pending(), false)?;
        holds("on CPU 1", cpus::on(1, || ppi.is_pending()))?;
        expect_none()?;
        expect_on(1, FREE_PPI)
    })
    .on(Cpus::Two),
    Case::new("banked.icpendr0", "GICD_ICPENDR0 (4.3.8)", |m| {
        let ppi = m.irq(FREE_PPI);
        cpus::on_all(|_| {
            ppi.set_pending();
            Ok(())
        })?;
        ppi.clear_pending();
        equal("pending on CPU 0", ppi.is_pending(), false)?;
        holds("on CPU 1", cpus::on(1, || ppi.is_pending()))
    })
    .unlike_qemu(CLEARS_ALL)
    .on(Cpus::Two),
    Case::new(
        "banked.isactiver0",
        "GICD_ISACTIVER0 (4.3.9), GICD_ICACTIVER0 (4.3.10)",
        |m| {
            let ppi = m.irq(FREE_PPI);
            cpus::on(1, || {
                ppi.set_active();
                ppi.enable();
                ppi.set_pending();
            });
            equal("active on CPU 0", ppi.is_active(), false)?;
            holds("on CPU 1", cpus::on(1, || ppi.is_active()))?;
            expect_none_on(1)?;
            ppi.clear_active();
            holds("CPU 0 clears its own", cpus::on(1, || ppi.is_active()))?;
            cpus::on(1, || ppi.clear_active());
            expect_on(1, FREE_PPI)
        },
    )
    .on(Cpus::Two),
    Case::new("banked.spendsgir", "GICD_SPENDSGIR<n> (4.3.17)", |m| {
        // All four bytes have sources.
        own_word(m, crate::gicd::SPENDSGIR, |number| {
            0x0101_0101 << (number % 2)
        })
    })
    .on(Cpus::All),
    Case::new("banked.cpendsgir", "GICD_CPENDSGIR<n> (4.3.16)", |m| {
        let (sgi, source) = (5, 1 << 1);
        cpus::on_all(|_| {
            m.set_sources(sgi, source);
            Ok(())
        })?;
        m.clear_sources(sgi, source);
        equal("sources on CPU 0", m.sources(sgi), 0)?;
        equal("on CPU 1", cpus::on(1, || m.sources(sgi)), source)
    })
    .on(Cpus::Two),
    Case::new(
        "banked.interface",
        "GICC_CTLR, GICC_PMR, GICC_BPR, GICC_ABPR",
        |_| {
            let least = gicc::least_binary_point();
            let values = |number: u32| {
                [
                    (gicc::CTLR, gicc::GROUP_0 | (number % 2) << 1),
                    (gicc::PMR, 0x80 + 0x10 * (number % 8)),
                    (gicc::BPR, least + number % 4),
                    (gicc::ABPR, least + 1 + number % 4),
                ]
            };
            cpus::on_all(|number| {
                for (register, value) in values(number as u32) {
                    gicc::write(register, value);
                }
                Ok(())
            })?;
            cpus::on_all(|number| {
                for (register, value) in values(number as u32) {
                    equal("the CPU's own value", gicc::read(register), value)?;
                }
                Ok(())
            })
        },
    )
    .on(Cpus::All),
    Case::new("banked.running_priority", "GICC_RPR, GICC_APR<n>", |m| {
        let spi = m.edge(0).to(2);
        spi.set_pending();
        let taken = cpus::on(1, gicc::take);
        equal("taken", taken, spi.intid)?;
        equal("RPR of CPU 0", gicc::running_priority(), gicc::IDLE)?;
        equal("active priorities", gicc::has_active_priorities(), false)?;
        holds("CPU 0 has no IRQ", !cpu::irq())?;
        cpus::on(1, || gicc::end(spi.intid));
        Ok(())
    })
    .on(Cpus::Two),
];

/// Returns what the words of the calling CPU's targets read as.
fn own(number: usize) -> u32 {
    0x0101_0101 << number
}

/// Writes a word of its own on each CPU, and reads it again there when all have written.
fn own_word(m: &Machine, register: usize, value: fn(u32) -> u32) -> Outcome {
    cpus::on_all(|number| {
        m.write(register, value(number as u32));
        Ok(())
    })?;
    cpus::on_all(|number| equal("the CPU's own word", m.read(register), value(number as u32)))
}
