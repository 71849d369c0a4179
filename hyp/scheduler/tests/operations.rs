//! Each operation, on CPUs that a test drives by hand.

use scheduler::{Entity, Here, NORMAL_WEIGHT, Parameters, Phase, Scheduler, Time};

const MS: Time = 1000;
const PARAMETERS: Parameters = Parameters::for_frequency(1000 * MS);

fn scheduler(cpus: usize) -> &'static Scheduler {
    Box::leak(Box::new(Scheduler::new(cpus, PARAMETERS)))
}

/// Returns an entity that was last on CPU `cpu`.
fn entity(id: u32, cpu: usize) -> &'static Entity {
    Box::leak(Box::new(Entity::new(id, NORMAL_WEIGHT, cpu)))
}

/// Returns an entity that never leaves CPU `cpu`.
fn bound(id: u32, cpu: usize) -> &'static Entity {
    Box::leak(Box::new(Entity::bound(id, NORMAL_WEIGHT, cpu)))
}

/// Runs an entity on a CPU that has nothing else.
fn run(here: Here<'_>, entity: &'static Entity, now: Time) {
    assert_eq!(here.wake(entity, || now), None);
    assert_eq!(here.pick(now).map(Entity::id), Some(entity.id()));
}

/// Picks on a CPU, and returns the entity's number.
fn pick(here: Here<'_>, now: Time) -> Option<u32> {
    here.pick(now).map(Entity::id)
}

/// Blocks the entity that runs on a CPU.
fn block(here: Here<'_>, entity: &Entity, deadline: Option<Time>, now: Time) {
    entity.begin_wait();
    assert!(here.block(deadline, now));
    assert_eq!(entity.phase(), Phase::Idle);
}

#[test]
fn a_wake_up_goes_to_the_last_cpu_if_that_is_idle() {
    let all = scheduler(4);
    (1..4).for_each(|cpu| assert!(all.on(cpu).begin_idle(0)));
    assert_eq!(all.on(0).wake(entity(0, 2), || 0), Some(2));
    assert!(all.on(2).end_idle(0));
    assert_eq!(pick(all.on(2), 0), Some(0));
}

#[test]
fn a_wake_up_goes_to_an_idle_neighbour_of_a_busy_cpu() {
    let all = scheduler(8);
    run(all.on(2), entity(0, 2), 0);
    assert!(all.on(4).begin_idle(0));
    assert_eq!(all.on(0).wake(entity(1, 2), || 0), Some(4));
    // The flag is claimed: the next wake-up goes elsewhere, and ends the time of a lone vCPU.
    assert_eq!(all.on(0).wake(entity(2, 2), || 0), Some(2));
    assert!(all.on(2).needs_resched());
}

#[test]
fn far_idle_cpus_are_found_in_the_end() {
    let all = scheduler(64);
    assert!(all.on(40).begin_idle(0));
    let kicks = (0..20).map(|id| all.on(0).wake(entity(id, 0), || 0));
    assert_eq!(kicks.flatten().collect::<Vec<_>>(), [40]);
}

#[test]
fn a_cpu_does_not_kick_itself() {
    let all = scheduler(2);
    let (a, b, c) = (entity(0, 0), entity(1, 0), entity(2, 0));
    run(all.on(0), a, 0);
    assert!(!all.on(0).has_queued());
    assert_eq!(all.on(0).wake(b, || 0), None);
    // The first to wait ends no turn, but begins one.
    assert!(all.on(0).has_queued() && !all.on(0).needs_resched());
    assert_eq!(all.on(0).next_event(), Some(3 * MS));
    assert_eq!(all.on(0).wake(a, || 0), None);

    assert_eq!(all.on(0).wake(c, || 2 * MS), None);
    assert!(all.on(0).needs_resched(), "c is owed time");
}

#[test]
fn a_running_entity_is_kicked_and_does_not_block() {
    let all = scheduler(2);
    let a = entity(0, 0);
    run(all.on(0), a, 0);
    a.begin_wait();
    assert_eq!(all.on(1).wake(a, || 0), Some(0));
    assert_eq!(all.on(1).wake(a, || 0), Some(0));
    assert!(!all.on(0).block(Some(5), 0));
    assert_eq!(a.phase(), Phase::Running);
    assert_eq!(all.on(0).next_event(), None);
    block(all.on(0), a, None, 0);
}

#[test]
fn a_queued_entity_is_not_woken_again() {
    let all = scheduler(2);
    let a = entity(0, 0);
    assert_eq!(all.on(0).wake(a, || 0), None);
    assert_eq!(all.on(1).wake(a, || 0), None);
    assert_eq!(pick(all.on(0), 0), Some(0));
    assert_eq!(pick(all.on(1), 0), None);
    // The wake-up before the pick is forgotten.
    assert!(all.on(0).block(None, 0));
}

#[test]
fn bound_entities_are_neither_placed_elsewhere_nor_stolen_nor_moved() {
    let all = scheduler(4);
    assert!(all.on(2).begin_idle(0));
    run(all.on(1), bound(0, 1), 0);
    assert_eq!(all.on(0).wake(bound(1, 1), || 0), Some(1));
    assert_eq!(pick(all.on(3), 0), None);

    assert!(all.on(1).tick(10 * MS));
    assert_eq!(all.on(1).preempt(10 * MS, false), None);
    assert_eq!(pick(all.on(3), 10 * MS), None);
    assert_eq!(pick(all.on(1), 10 * MS), Some(1));
}

#[test]
fn a_thief_passes_over_bound_entities() {
    let all = scheduler(4);
    for id in 0..3 {
        assert_eq!(all.on(1).wake(bound(id, 1), || 0), None);
    }
    assert_eq!(all.on(1).wake(entity(3, 1), || 0), None);
    assert_eq!(pick(all.on(0), 0), Some(3));
    assert_eq!(all.counts(0).steals, 1);
    assert_eq!(pick(all.on(2), 0), None);
    assert_eq!(pick(all.on(1), 0), Some(0));
}

#[test]
fn a_thief_looks_at_a_bounded_number_of_entities() {
    let all = scheduler(2);
    for id in 0..8 {
        assert_eq!(all.on(1).wake(bound(id, 1), || 0), None);
    }
    assert_eq!(all.on(1).wake(entity(8, 1), || 0), None);
    assert_eq!(pick(all.on(0), 0), Some(8));

    for id in 9..20 {
        assert_eq!(all.on(1).wake(bound(id, 1), || 0), None);
    }
    assert_eq!(all.on(1).wake(entity(20, 1), || 0), None);
    assert!(all.on(0).block(None, 0));
    assert_eq!(pick(all.on(0), 0), None);
}

#[test]
fn an_entity_that_is_owed_time_preempts() {
    let all = scheduler(2);
    let (a, b, c) = (entity(0, 0), bound(1, 0), entity(2, 0));
    run(all.on(0), a, 0);
    assert_eq!(all.on(1).wake(b, || 0), Some(0), "the first to wait");
    assert!(!all.on(0).tick(MS / 2));
    assert!(!all.on(0).needs_resched());

    // a has used no more than the granularity.
    assert_eq!(all.on(1).wake(c, || MS), None);
    assert!(!all.on(0).needs_resched());
    assert_eq!(pick(all.on(1), MS), Some(2));
    block(all.on(1), c, None, MS);

    assert_eq!(all.on(1).wake(c, || MS + 100), None, "stays on CPU 1");
    assert_eq!(pick(all.on(1), MS + 100), Some(2));
    assert_eq!(all.on(1).wake(entity(3, 0), || MS + 100), Some(0));
    assert!(all.on(0).needs_resched());
    assert!(all.on(0).tick(MS + 100));
    assert!(!all.on(0).needs_resched());
}

#[test]
fn a_preempted_entity_goes_to_an_idle_cpu() {
    let all = scheduler(4);
    run(all.on(0), entity(0, 0), 0);
    assert_eq!(all.on(0).wake(entity(1, 0), || 0), None);
    assert!(all.on(3).begin_idle(0));

    assert!(all.on(0).tick(3 * MS));
    assert_eq!(all.on(0).preempt(3 * MS, false), Some(3));
    assert_eq!(pick(all.on(0), 3 * MS), Some(1));
    assert!(all.on(3).end_idle(3 * MS));
    assert_eq!(pick(all.on(3), 3 * MS), Some(0));
    assert_eq!(all.counts(0).preemptions, 1);
    assert_eq!(all.counts(3).moves, 1);
}

#[test]
fn a_preempted_entity_does_not_go_to_a_cpu_with_more_to_do() {
    let all = scheduler(2);
    run(all.on(0), entity(0, 0), 0);
    assert_eq!(all.on(0).wake(bound(1, 0), || 0), None);
    run(all.on(1), bound(2, 1), 0);
    assert_eq!(all.on(1).wake(bound(3, 1), || 0), None);

    assert!(all.on(0).tick(3 * MS));
    assert_eq!(all.on(0).preempt(3 * MS, false), None);
    assert_eq!(pick(all.on(0), 3 * MS), Some(1));
    assert!(all.on(0).next_event().is_some(), "it waits here");
}

#[test]
fn a_turn_ends_only_if_another_waits() {
    let all = scheduler(1);
    run(all.on(0), entity(0, 0), 0);
    assert_eq!(all.on(0).next_event(), None);

    for (id, expected) in [(1, 3 * MS), (2, 2 * MS), (3, 3 * MS / 2)] {
        assert_eq!(all.on(0).wake(bound(id, 0), || 0), None);
        assert_eq!(all.on(0).next_event(), Some(expected));
    }
    (4..20).for_each(|id| assert_eq!(all.on(0).wake(bound(id, 0), || 0), None));
    assert_eq!(all.on(0).next_event(), Some(MS));
    assert!(!all.on(0).tick(MS - 1));
    assert!(all.on(0).tick(MS));
}

#[test]
fn deadlines_come_in_order() {
    let all = scheduler(1);
    for (id, deadline) in [(0, 30), (1, 10), (2, 20), (3, 10)] {
        let entity = entity(id, 0);
        run(all.on(0), entity, 0);
        block(all.on(0), entity, Some(deadline), 0);
    }
    assert_eq!(all.on(0).next_event(), Some(10));
    assert!(all.on(0).begin_idle(0));
    assert!(!all.on(0).end_idle(9));
    assert!(all.on(0).end_idle(10));
    assert_eq!(all.on(0).next_event(), Some(20));
    assert_eq!(pick(all.on(0), 10), Some(1));
}

#[test]
fn a_wake_up_removes_the_deadline_from_another_cpu() {
    let all = scheduler(2);
    let (a, b) = (entity(0, 0), entity(1, 0));
    for (entity, deadline) in [(a, 10), (b, 20)] {
        run(all.on(0), entity, 0);
        block(all.on(0), entity, Some(deadline), 0);
    }
    assert_eq!(all.on(1).wake(a, || 5), None);
    assert_eq!(all.on(0).next_event(), Some(20));
    assert_eq!(pick(all.on(1), 5), Some(0));
    block(all.on(1), a, Some(15), 5);

    assert_eq!(all.on(0).next_event(), Some(20));
    assert_eq!(all.on(1).next_event(), Some(15));
    assert!(all.on(1).end_idle(15));
    assert_eq!(a.phase(), Phase::Queued);
    assert_eq!(b.phase(), Phase::Idle);
}

#[test]
fn a_cpu_goes_idle_only_with_an_empty_queue() {
    let all = scheduler(2);
    let a = entity(0, 0);
    run(all.on(0), a, 0);
    assert_eq!(all.on(1).wake(entity(1, 0), || 0), Some(0));
    // a waits for an interrupt, loaded.
    assert!(!all.on(0).begin_idle(0));
    block(all.on(0), a, None, 0);
    assert_eq!(pick(all.on(0), 0), Some(1));
    assert!(all.on(0).begin_idle(0));
    assert_eq!(all.on(1).wake(a, || 0), Some(0));
    assert!(all.on(0).end_idle(0));
}

#[test]
fn the_sleep_of_a_cpu_is_not_charged() {
    let all = scheduler(2);
    run(all.on(0), entity(0, 0), 0);
    assert!(all.on(0).begin_idle(0));
    assert!(!all.on(0).end_idle(100 * MS));
    assert!(all.on(0).begin_idle(100 * MS));

    // One kick wakes the CPU.
    assert_eq!(all.on(1).wake(bound(1, 0), || 200 * MS), Some(0));
    assert_eq!(all.on(1).wake(bound(2, 0), || 200 * MS), None);
    assert!(all.on(0).end_idle(200 * MS));
    // The entity that was loaded has used half a millisecond.
    assert!(!all.on(0).tick(200 * MS + MS / 2));
    assert!(all.on(0).tick(202 * MS));
}

#[test]
fn a_deadline_earns_a_bounded_credit() {
    let all = scheduler(1);
    let a = entity(0, 0);
    run(all.on(0), a, 0);
    block(all.on(0), a, Some(1000 * MS), 0);
    run(all.on(0), entity(1, 0), 0);

    assert!(all.on(0).tick(1000 * MS));
    assert_eq!(all.on(0).preempt(1000 * MS, false), None);
    assert_eq!(pick(all.on(0), 1000 * MS), Some(0));
    assert!(all.on(0).tick(1005 * MS));
}

#[test]
fn waits_are_counted() {
    let all = scheduler(1);
    assert_eq!(all.on(0).wake(entity(0, 0), || 100), None);
    assert_eq!(pick(all.on(0), 170), Some(0));
    let counts = all.counts(0);
    assert_eq!((counts.wake_ups, counts.longest_wait), (1, 70));
    assert_eq!((counts.moves, counts.preemptions), (0, 0));
}

#[test]
#[should_panic(expected = "nothing runs here")]
fn nothing_can_be_blocked_on_a_cpu_that_runs_nothing() {
    let _ = scheduler(1).on(0).block(None, 0);
}

#[test]
fn an_entity_owes_for_what_was_done_for_it_and_not_for_what_was_before_or_after() {
    let all = scheduler(1);
    let here = all.on(0);
    // Alone and without a tick for long, but for 3 ms of service.
    run(here, entity(0, 0), 0);
    here.serve(1000 * MS);
    here.end_service(1003 * MS);

    let mut now = 2000 * MS;
    assert_eq!(here.wake(entity(1, 0), || now), None);
    while !here.tick(now) {
        now += MS;
    }
    assert_eq!(here.preempt(now, false), None);
    assert_eq!(pick(here, now), Some(1));
    let begun = now;
    while !here.tick(now) {
        now += MS;
    }
    let waited = now - begun;
    assert!(waited <= 20 * MS, "{waited}");
}

#[test]
fn an_entity_whose_cpu_was_not_there_owes_a_turn() {
    for (is_served, at_most) in [(false, 20 * MS), (true, 1020 * MS)] {
        let all = scheduler(1);
        let here = all.on(0);
        run(here, entity(0, 0), 0);
        assert_eq!(here.wake(entity(1, 0), || 0), None);

        // The CPU was not there for long, or worked for the entity.
        let mut now = 1000 * MS;
        if is_served {
            here.serve(0);
        }
        assert!(here.tick(now));
        assert_eq!(here.preempt(now, false), None);
        assert_eq!(pick(here, now), Some(1));
        while !here.tick(now) {
            now += MS;
        }
        let waited = now - 1000 * MS;
        assert!((at_most - 20 * MS..=at_most).contains(&waited), "{waited}");
    }
}
