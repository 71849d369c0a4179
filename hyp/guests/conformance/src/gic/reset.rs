//! The initial state of every case.
//!
//! Interrupts are disabled, inactive, not pending, in Group 1, of priority 0xa0, level-sensitive,
//! and routed to CPU 0. LPIs are off. Every CPU that is on takes Group 1 of every priority.

use core::sync::atomic::AtomicBool;
use core::sync::atomic::Ordering::Relaxed;

use super::{FREE_SPI, FREE_SPI_END, GROUP_1, bank, extended, gicd, gicr, interface, its};
use crate::cpu::Timer;
use crate::cpus;
use crate::harness::Outcome;
use crate::machine::Machine;
use crate::mmio::{read_32, write_32, write_64};

/// Priority of every interrupt.
const PRIORITIES: u32 = 0xa0a0_a0a0;

/// `GICR_WAKER.ChildrenAsleep`.
const ASLEEP: u32 = 1 << 2;

/// Interrupts of the extended ranges have been used since they were reset.
static EXTENDED: AtomicBool = AtomicBool::new(true);

/// Notes that a case uses an interrupt of the extended ranges: few do, and there are many.
pub(crate) fn extended_is_used() {
    EXTENDED.store(true, Relaxed);
}

/// Brings the GIC into the initial state. All CPUs that are on share the work.
pub(crate) fn reset(machine: &Machine) -> Outcome {
    its::turn_off(machine);
    if let Some(clock) = machine.clock {
        clock.lower();
    }
    machine.enable_groups(0);

    let words = machine.lines().div_ceil(32);
    let (extended_words, extended_ppis) = match EXTENDED.swap(false, Relaxed) {
        true => (machine.extended_spis() / 32, machine.extended_ppis()),
        false => (0, 0),
    };
    cpus::on_all(|_| {
        cpus::shared_out(1..words).for_each(|word| reset_shared(machine, word));
        cpus::shared_out(0..extended_words).for_each(|word| reset_extended(machine, word));
        for cpu in cpus::shared_out(0..machine.cpus) {
            reset_extended_private(machine, cpu, extended_ppis);
            if machine.gits.is_some() {
                its::disable_lpis(machine, cpu);
            }
            reset_private(machine, cpu);
        }
        Timer::ALL.iter().for_each(|timer| timer.stop());
        interface::reset();
        Ok(())
    })?;

    machine.wait_rwp();
    machine.enable_groups(GROUP_1);
    Ok(())
}

/// Brings 32 SPIs into the initial state. Those of devices keep priorities, triggers and routes.
fn reset_shared(machine: &Machine, word: u32) {
    let register = |bank| machine.gicd(bank + 4 * word as usize);
    for bank in [bank::ICENABLER, bank::ICPENDR, bank::ICACTIVER] {
        write_32(register(bank), u32::MAX);
    }
    write_32(register(bank::IGROUPR), u32::MAX);

    let (first, end) = (32 * word, 32 * word + 32);
    let free = first.max(FREE_SPI)..end.min(FREE_SPI_END);
    for intid in free.clone().step_by(4) {
        write_32(machine.gicd(bank::IPRIORITYR + intid as usize), PRIORITIES);
    }
    for intid in free.clone().step_by(16) {
        write_32(machine.gicd(bank::ICFGR + intid as usize / 4), 0);
    }
    for intid in free {
        let register = gicd::IROUTER + intid as usize * 8;
        write_64(machine.gicd(register), machine.affinity(0));
    }
}

/// Brings 32 extended SPIs into the initial state.
fn reset_extended(machine: &Machine, word: u32) {
    let bits = |bank: usize| extended::IGROUPR + (bank - bank::IGROUPR) * 4;
    let register = |bank| machine.gicd(bits(bank) + 4 * word as usize);
    for bank in [bank::ICENABLER, bank::ICPENDR, bank::ICACTIVER] {
        write_32(register(bank), u32::MAX);
    }
    write_32(register(bank::IGROUPR), u32::MAX);
    for number in (32 * word as usize..).take(32) {
        if number % 4 == 0 {
            write_32(machine.gicd(extended::IPRIORITYR + number), PRIORITIES);
        }
        if number % 16 == 0 {
            write_32(machine.gicd(extended::ICFGR + number / 4), 0);
        }
        let register = machine.gicd(extended::IROUTER + number * 8);
        write_64(register, machine.affinity(0));
    }
}

/// Brings so many extended PPIs of a CPU into the initial state.
fn reset_extended_private(machine: &Machine, cpu: usize, count: u32) {
    // The registers follow those of SGIs and PPIs.
    for number in (32..).take(count as usize) {
        let register = |bank| machine.sgi_base(cpu, bank);
        if number % 32 == 0 {
            for bank in [bank::ICENABLER, bank::ICPENDR, bank::ICACTIVER] {
                write_32(register(bank + number / 8), u32::MAX);
            }
            write_32(register(bank::IGROUPR + number / 8), u32::MAX);
        }
        if number % 16 == 0 {
            write_32(register(bank::ICFGR + number / 4), 0);
        }
        if number % 4 == 0 {
            write_32(register(bank::IPRIORITYR + number), PRIORITIES);
        }
    }
}

/// Brings a CPU's redistributor into the initial state.
fn reset_private(machine: &Machine, cpu: usize) {
    write_32(machine.gicr(cpu, gicr::WAKER), 0);
    while read_32(machine.gicr(cpu, gicr::WAKER)) & ASLEEP != 0 {}
    for register in [bank::ICENABLER, bank::ICPENDR, bank::ICACTIVER] {
        write_32(machine.sgi_base(cpu, register), u32::MAX);
    }
    write_32(machine.sgi_base(cpu, bank::IGROUPR), u32::MAX);
    write_32(machine.sgi_base(cpu, bank::ICFGR + 4), 0);
    for intid in (0..32).step_by(4) {
        write_32(machine.sgi_base(cpu, bank::IPRIORITYR + intid), PRIORITIES);
    }
    machine.wait_rwp_private(cpu);
}
