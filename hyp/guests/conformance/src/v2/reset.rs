//! The initial state of every case.
//!
//! Interrupts are disabled, inactive, not pending, in Group 0, of priority 0xa0, level-sensitive,
//! and for CPU 0. The distributor forwards both groups. Every CPU that is on takes Group 0 of every
//! priority.

use conformance::bank;

use crate::cpu::Timer;
use crate::gicd::{BOTH, CPENDSGIR, FREE_SPI, ITARGETSR};
use crate::harness::Outcome;
use crate::machine::Machine;
use crate::{cpus, gicc};

/// Priority of every interrupt.
const PRIORITY: u8 = 0xa0;

/// Priorities of four interrupts.
const PRIORITIES: u32 = u32::from_ne_bytes([PRIORITY; 4]);

/// CPU 0, as the target of every SPI.
const TARGETS: u32 = 0x0101_0101;

/// Brings the GIC into the initial state. All CPUs that are on share the work.
pub(crate) fn reset(machine: &Machine) -> Outcome {
    if let Some(clock) = machine.clock {
        clock.lower();
    }
    machine.enable_groups(0);

    let words = machine.lines().div_ceil(32);
    cpus::on_all(|_| {
        gicc::reset();
        Timer::ALL.iter().for_each(|timer| timer.stop());
        reset_private(machine);
        cpus::shared_out(1..words).for_each(|word| reset_shared(machine, word));
        cpus::shared_out(machine.messages()).for_each(|intid| {
            let spi = machine.irq(intid).at(PRIORITY).to(1);
            spi.set_edge(false);
        });
        Ok(())
    })?;
    machine.enable_groups(BOTH);
    Ok(())
}

/// Brings 32 SPIs into the initial state. Those of devices keep priorities, triggers and targets.
fn reset_shared(machine: &Machine, word: u32) {
    let register = |bank| bank + 4 * word as usize;
    for bank in [bank::ICENABLER, bank::ICPENDR, bank::ICACTIVER] {
        machine.write(register(bank), u32::MAX);
    }
    machine.write(register(bank::IGROUPR), 0);

    let (first, end) = (32 * word, 32 * word + 32);
    let free = first.max(FREE_SPI)..end.min(machine.free_end());
    for intid in free.clone().step_by(4) {
        machine.write(bank::IPRIORITYR + intid as usize, PRIORITIES);
        machine.write(ITARGETSR + intid as usize, TARGETS);
    }
    for intid in free.step_by(16) {
        machine.write(bank::ICFGR + intid as usize / 4, 0);
    }
}

/// Brings the calling CPU's SGIs and PPIs into the initial state.
fn reset_private(machine: &Machine) {
    for register in [bank::ICENABLER, bank::ICPENDR, bank::ICACTIVER] {
        machine.write(register, u32::MAX);
    }
    for sgi in (0..16).step_by(4) {
        machine.write(CPENDSGIR + sgi, u32::MAX);
    }
    machine.write(bank::IGROUPR, 0);
    machine.write(bank::ICFGR + 4, 0);
    for intid in (0..32).step_by(4) {
        machine.write(bank::IPRIORITYR + intid, PRIORITIES);
    }
}
