//! The initial state of every case.
//!
//! Interrupts are disabled, inactive, not pending, in Group 1, of priority 0xa0, level-sensitive,
//! and routed to CPU 0. LPIs are off. Every CPU that is on takes Group 1 of every priority.

use super::{FREE_SPI, FREE_SPI_END, GROUP_1, bank, gicd, gicr, interface, its};
use crate::cpu::Timer;
use crate::cpus;
use crate::machine::Machine;
use crate::mmio::{read_32, write_32, write_64};

/// Priority of every interrupt.
const PRIORITIES: u32 = 0xa0a0_a0a0;

/// `GICR_WAKER.ChildrenAsleep`.
const ASLEEP: u32 = 1 << 2;

/// Brings the GIC into the initial state. CPUs below `on` are on.
pub(crate) fn reset(machine: &Machine, on: usize) {
    its::turn_off(machine);
    if let Some(clock) = machine.clock {
        clock.lower();
    }
    for word in 1..machine.lines().div_ceil(32) as usize {
        for register in [bank::ICENABLER, bank::ICPENDR, bank::ICACTIVER] {
            write_32(machine.gicd(register + 4 * word), u32::MAX);
        }
        write_32(machine.gicd(bank::IGROUPR + 4 * word), u32::MAX);
    }

    machine.enable_groups(0);
    for cpu in 0..machine.cpus {
        reset_private(machine, cpu);
    }
    for cpu in 0..on {
        cpus::on(cpu, || {
            Timer::Virtual.stop();
            Timer::Physical.stop();
            interface::reset();
        });
    }

    for intid in (FREE_SPI..FREE_SPI_END).step_by(4) {
        write_32(machine.gicd(bank::IPRIORITYR + intid as usize), PRIORITIES);
    }
    for intid in (FREE_SPI..FREE_SPI_END).step_by(16) {
        write_32(machine.gicd(bank::ICFGR + intid as usize / 4), 0);
    }
    for intid in FREE_SPI..FREE_SPI_END {
        let register = gicd::IROUTER + intid as usize * 8;
        write_64(machine.gicd(register), machine.affinity(0));
    }

    machine.enable_groups(GROUP_1);
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
