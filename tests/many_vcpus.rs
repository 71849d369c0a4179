//! VMs with thousands of vCPUs: identification, SGIs to one and to all others, waits for all.
#![cfg(not(miri))]

mod common;

use common::{GICD, Machine, affinity, vcpu};
use vgic::Config;
use vgic::intid::{Affinity, Kind, VcpuId};
use vgic::sysreg::SysReg;

const MOST: usize = VcpuId::MAX_COUNT;

/// Returns affinities that differ in every level: few vCPUs share a group of SGI targets.
fn sparse(n: usize) -> Affinity {
    let level = |shift: usize, factor: usize| (n >> shift & 7) as u8 * factor as u8;
    Affinity::new(level(9, 31), level(6, 17), level(3, 36), level(0, 33))
}

fn machine(count: usize, affinity: fn(usize) -> Affinity) -> Machine {
    let machine = Machine::from_config(Config::new((0..count).map(affinity).collect()));
    machine.set_up();
    machine
}

/// Writes `ICC_SGI1R_EL1` as vCPU `from`: the SGI `intid` to all others.
fn broadcast(machine: &Machine, from: usize, intid: u64) {
    machine.sysreg(from, SysReg::Sgi1r, 1 << 40 | intid << 24);
}

/// Returns the number of vCPUs on which the SGI `intid` is pending, and the first one on which the
/// SGI is not.
fn pending(machine: &Machine, intid: u64) -> (usize, Option<usize>) {
    let (those, others): (Vec<usize>, Vec<usize>) = (0..machine.vm.vcpu_count())
        .partition(|n| machine.read(0, machine.gicr(*n) + 0x1_0200) >> intid & 1 != 0);
    (those.len(), others.first().copied())
}

#[test]
fn every_vcpu_has_a_redistributor_and_is_found_by_its_affinity() {
    for affinity in [affinity, sparse] {
        let machine = machine(MOST, affinity);
        let pin = machine.pin();
        for n in 0..MOST {
            let typer = machine.read64(0, machine.gicr(n) + 8);
            assert_eq!(typer >> 32, u64::from(affinity(n).packed()), "vCPU {n}");
            assert_eq!(typer >> 8 & 0xffff, n as u64, "processor number");
            // The regions have room for 123 vCPUs and for the rest.
            assert_eq!(
                typer >> 4 & 1 != 0,
                n == 122 || n + 1 == MOST,
                "Last of {n}"
            );
            assert_eq!(machine.vm.find_vcpu(&pin, affinity(n)), Some(vcpu(n)));
        }
        assert_eq!(machine.vm.find_vcpu(&pin, affinity(MOST)), None);
        drop(pin);
        machine.finish();
    }
}

#[test]
fn an_sgi_to_one_reaches_that_one() {
    let machine = machine(MOST, sparse);
    for n in (0..MOST).step_by(97).chain([MOST - 1]) {
        let [aff3, aff2, aff1, aff0] = sparse(n).packed().to_be_bytes().map(u64::from);
        let value = aff3 << 48 | (aff0 >> 4) << 44 | aff2 << 32 | aff1 << 16 | 1 << (aff0 & 15);
        machine.sysreg(0, SysReg::Sgi1r, value | 3 << 24);
        assert_eq!(
            machine.read(0, machine.gicr(n) + 0x1_0200),
            1 << 3,
            "vCPU {n}"
        );
    }
    let sent = (0..MOST).step_by(97).count() + 1;
    assert_eq!(pending(&machine, 3).0, sent);
    machine.finish();
}

#[test]
fn an_sgi_to_all_others_reaches_each_once() {
    let machine = machine(MOST, sparse);
    broadcast(&machine, 600, 5);
    let at_once = pending(&machine, 5).0;
    assert_eq!(at_once, 512, "the first slice");
    assert_eq!(machine.advance(), 7, "slices that were deferred");
    assert_eq!(pending(&machine, 5), (MOST - 1, Some(600)));
    let totals = machine.domain.totals();
    assert_eq!(totals.injections[Kind::Sgi as usize], MOST as u64 - 1);
    assert_eq!(totals.coalesced[Kind::Sgi as usize], 0);
    machine.finish();
}

#[test]
fn a_sender_that_does_not_pause_reaches_all() {
    let machine = machine(MOST, affinity);
    // No deferred work is done: each write sends a slice of some SGI.
    for _ in 0..8 {
        broadcast(&machine, 0, 1);
        broadcast(&machine, 1, 2);
    }
    assert_eq!(pending(&machine, 1), (MOST - 1, Some(0)));
    assert_eq!(pending(&machine, 2), (MOST - 1, Some(1)));
    machine.finish();
}

#[test]
fn senders_of_one_sgi_reach_each_other() {
    let machine = machine(MOST, affinity);
    // The round of vCPU 0 has reached vCPU 100, and not vCPU 3000.
    for from in [0, 100, 3000] {
        broadcast(&machine, from, 7);
    }
    machine.advance();
    assert_eq!(pending(&machine, 7), (MOST, None));
    machine.finish();
}

/// Has RWP wait for the last vCPU alone, and counts the reads until RWP is 0.
#[test]
fn rwp_waits_for_the_last_vcpu() {
    let machine = machine(MOST, affinity);
    // The others are on no CPU. One that is out of the guest for an exit would be waited for.
    for n in 1..MOST - 1 {
        let cpu = &machine.cpus[n];
        machine.vm.vcpu_put(&cpu.pin(), vcpu(n)).unwrap();
    }
    for n in [0, MOST - 1] {
        machine.enter(n);
    }
    let rwp = || machine.read(0, GICD) >> 31 != 0;
    machine.write(0, GICD, 0x10);
    machine.advance();
    machine.bounce(0);
    for _ in 0..100 {
        assert!(rwp(), "the last vCPU has not left the guest");
    }
    machine.bounce(MOST - 1);
    assert!(!rwp());

    // Both wait again. The last one leaves the guest with an interrupt in a list register, and
    // shows its state: it is waited for no more, but for the reads' looks.
    machine.write(0, GICD, 0x13);
    machine.advance();
    machine.bounce(0);
    machine.edge_spi(40, MOST - 1);
    machine.inject_spi(40);
    machine.bounce(MOST - 1);
    machine.write(0, GICD, 0x10);
    machine.advance();
    machine.exit(MOST - 1);
    assert!(rwp(), "the first vCPU has not left the guest");
    machine.bounce(0);
    let reads = (0..100).take_while(|_| rwp()).count() + 1;
    assert_eq!(reads, MOST.div_ceil(64), "a read looks at 64 vCPUs");
    machine.finish();
}
