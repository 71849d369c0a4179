//! Shares of vCPUs that compete, in simulated time.

mod machine;

use machine::{MS, Machine, Program};
use scheduler::{Entity, NORMAL_WEIGHT};

/// Asserts that a share is what it should be, in parts of a thousand, within 5 %.
fn assert_share(share: u64, expected: u64) {
    let off = share.abs_diff(expected);
    assert!(off * 20 <= expected, "{share} of {expected}");
}

/// Returns a machine of one CPU with vCPUs of these weights that compute.
fn computing(weights: &[u32]) -> Machine {
    let mut machine = Machine::new(1);
    for (id, &weight) in (0..).zip(weights) {
        machine.add(Entity::new(id, weight, 0), Program::Computes);
    }
    machine
}

#[test]
fn time_is_shared_by_weight() {
    for weights in [
        &[1024, 1024][..],
        &[1024, 2048, 3072],
        &[64, 1024, 4096],
        &[512; 7],
    ] {
        let mut machine = computing(weights);
        machine.run(10_000 * MS);
        let all: u32 = weights.iter().sum();
        for (share, &weight) in machine.shares().into_iter().zip(weights) {
            assert_share(share, u64::from(weight) * 1000 / u64::from(all));
        }
    }
}

#[test]
fn a_lone_vcpu_has_no_tick() {
    let mut machine = computing(&[NORMAL_WEIGHT]);
    machine.run(1000 * MS);
    assert_eq!(machine.ticks(0), 0);
    assert!(machine.shares()[0] >= 999, "{:?}", machine.shares());

    machine.add(Entity::new(1, NORMAL_WEIGHT, 0), Program::Computes);
    machine.run(100 * MS);
    // A turn each 3 ms.
    assert!((30..40).contains(&machine.ticks(0)), "{}", machine.ticks(0));
}

/// Lets vCPUs that nap have what they ask for, and no more.
#[test]
fn sleepers_neither_starve_nor_are_starved() {
    let mut machine = computing(&[NORMAL_WEIGHT; 2]);
    for id in 2..5 {
        let naps = Program::Naps(MS / 2, 9 * MS);
        machine.add(Entity::new(id, NORMAL_WEIGHT, 0), naps);
    }
    machine.run(10_000 * MS);
    let shares = machine.shares();
    shares[2..]
        .iter()
        .for_each(|&share| assert!(share > 40, "{shares:?}"));
    shares[..2]
        .iter()
        .for_each(|&share| assert!(share > 400, "{shares:?}"));
    assert_share(shares[0], shares[1]);
}

/// Gives a vCPU that sleeps for a moment after each turn no more than its share.
#[test]
fn naps_are_no_way_to_more_than_a_share() {
    let mut machine = computing(&[NORMAL_WEIGHT; 3]);
    machine.add(
        Entity::new(3, NORMAL_WEIGHT, 0),
        Program::Naps(2 * MS, MS / 5),
    );
    machine.run(10_000 * MS);
    assert!(machine.shares()[3] <= 265, "{:?}", machine.shares());
}

/// Gives a vCPU that comes late no more than its credit ahead of the others.
#[test]
fn credit_is_bounded() {
    let mut machine = computing(&[NORMAL_WEIGHT]);
    machine.run(1000 * MS);
    machine.add(Entity::new(1, NORMAL_WEIGHT, 0), Program::Computes);
    machine.run(40 * MS);
    let used = machine.vcpus[1].used;
    assert!((20 * MS..25 * MS).contains(&used), "{used}");
}

/// Lets a vCPU that computes wait for one turn of each of many that wake up together, and not for
/// all that they did not use while they slept.
#[test]
fn a_crowd_that_wakes_up_has_a_turn_each() {
    let mut machine = computing(&[NORMAL_WEIGHT]);
    for id in 1..20 {
        let naps = Program::Naps(3 * MS, 200 * MS);
        machine.add(Entity::new(id, NORMAL_WEIGHT, 0), naps);
    }
    machine.run(3000 * MS);
    let longest = machine.scheduler.counts(0).longest_wait;
    assert!(longest <= 40 * MS, "{longest}");
}

/// Leaves most of the time to the vCPU that many others spin for, and lets each of them look.
#[test]
fn those_that_spin_leave_their_turns_to_others() {
    let mut machine = computing(&[NORMAL_WEIGHT]);
    for id in 1..11 {
        machine.add(Entity::new(id, NORMAL_WEIGHT, 0), Program::Spins);
    }
    machine.run(2000 * MS);
    let shares = machine.shares();
    assert!(shares[0] > 750, "{shares:?}");
    assert!(shares[1..].iter().all(|&share| share > 5), "{shares:?}");
    // The first turns are whole ones.
    let longest = machine.scheduler.counts(0).longest_wait;
    assert!(longest <= 12 * MS, "{longest}");
}

/// Bounds the longest wait by the turns of the others.
#[test]
fn every_vcpu_has_its_turn() {
    let mut machine = computing(&[NORMAL_WEIGHT; 20]);
    machine.run(2000 * MS);
    let longest = machine.scheduler.counts(0).longest_wait;
    assert!(longest <= 25 * MS, "{longest}");
}

/// Leaves no idle time on CPUs with many vCPUs, and gives each a like share.
#[test]
fn cpus_share_their_load() {
    let mut machine = Machine::new(4);
    for id in 0..16 {
        // All begin on one CPU.
        machine.add(Entity::new(id, NORMAL_WEIGHT, 0), Program::Computes);
    }
    machine.run(10_000 * MS);
    for cpu in 0..4 {
        assert!(machine.idle(cpu) < 1000, "CPU {cpu}: {}", machine.idle(cpu));
    }
    let shares = machine.shares();
    assert!(
        shares.iter().all(|share| (200..320).contains(share)),
        "{shares:?}"
    );
}

/// Lets three vCPUs on two CPUs take turns in having a CPU alone.
#[test]
fn uneven_loads_are_shared_in_turns() {
    for (cpus, vcpus) in [(2, 3), (3, 4), (4, 9)] {
        let mut machine = Machine::new(cpus);
        for id in 0..vcpus {
            machine.add(Entity::new(id, NORMAL_WEIGHT, 0), Program::Computes);
        }
        machine.run(10_000 * MS);
        for share in machine.shares() {
            let expected = 1000 * cpus as u64 / u64::from(vcpus);
            assert!(share * 20 >= expected * 19, "{:?}", machine.shares());
        }
    }
}

/// Finds far CPUs that sleep while others have too much to do.
#[test]
fn idle_cpus_anywhere_are_found() {
    let mut machine = Machine::new(64);
    for id in 0..64 {
        machine.add(Entity::new(id, NORMAL_WEIGHT, 0), Program::Computes);
    }
    machine.run(2000 * MS);
    machine.vcpus.iter_mut().for_each(|vcpu| vcpu.used = 0);
    let began = machine.now;
    machine.run(1000 * MS);
    let spent = machine.now - began;
    let least = machine
        .vcpus
        .iter()
        .map(|vcpu| vcpu.used * 100 / spent)
        .min();
    assert!(least > Some(90), "{least:?}");
}

#[test]
fn bound_vcpus_never_move() {
    let mut machine = Machine::new(3);
    for id in 0..9 {
        machine.add(
            Entity::bound(id, NORMAL_WEIGHT, 0),
            Program::Naps(5 * MS, 3 * MS),
        );
    }
    machine.run(2000 * MS);
    for vcpu in &machine.vcpus {
        assert!(!vcpu.ran_on.is_empty());
        assert!(vcpu.ran_on.iter().all(|&cpu| cpu == 0), "{:?}", vcpu.ran_on);
    }
    assert_eq!(machine.scheduler.counts(1).steals, 0);
}
