//! `scheduler`: hyp's scheduler: wake-ups, deadlines and steals against the CPUs that pick, block
//! and go idle.

use loom::sync::atomic::{AtomicBool, Ordering::Relaxed};
use loom::thread::{self, JoinHandle};
use loom_tests::check;
use scheduler::{Entity, NORMAL_WEIGHT, Parameters, Phase, Scheduler};

const PARAMETERS: Parameters = Parameters {
    latency: 60,
    least_turn: 10,
    brief_turn: 2,
    granularity: 10,
};

/// Time at which a model begins.
const NOW: u64 = 100;

/// Three CPUs, of which none is idle.
#[derive(Clone, Copy)]
struct Cpus(&'static Scheduler);

impl Cpus {
    /// Returns three CPUs for one execution. Entities refer to nothing that ends.
    fn new() -> Self {
        Self(Box::leak(Box::new(Scheduler::new(3, PARAMETERS))))
    }

    /// Runs `work` on another CPU.
    fn spawn<R: 'static>(self, work: impl FnOnce(Self) -> R + 'static) -> JoinHandle<R> {
        thread::spawn(move || work(self))
    }

    /// Wakes an entity on CPU `cpu`, and returns the CPU to kick.
    fn wake(self, cpu: usize, entity: &'static Entity) -> Option<usize> {
        self.0.on(cpu).wake(entity, || NOW)
    }

    /// Picks an entity on CPU `cpu`.
    fn pick(self, cpu: usize) -> Option<&'static Entity> {
        self.0.on(cpu).pick(NOW)
    }

    /// Picks an entity on CPU `cpu`, or goes idle. Returns true if the CPU sleeps.
    fn pick_or_sleep(self, cpu: usize) -> bool {
        self.pick(cpu).is_none() && self.0.on(cpu).begin_idle(NOW)
    }

    /// Returns an entity that runs on CPU `cpu`.
    fn run(self, cpu: usize, id: u32) -> &'static Entity {
        let entity = entity(id, cpu);
        assert_eq!(self.wake(cpu, entity), None);
        assert_eq!(self.pick(cpu).map(Entity::id), Some(id));
        entity
    }

    /// Asserts that these entities are queued on the CPUs, each once. No entity runs on CPU 2.
    fn assert_queued<const N: usize>(self, expected: [u32; N]) {
        let mut found = Vec::new();
        while let Some(entity) = self.pick(2) {
            found.push(entity.id());
            entity.begin_wait();
            assert!(self.0.on(2).block(None, NOW));
        }
        found.sort_unstable();
        assert_eq!(found, expected);
    }
}

/// Returns an idle entity that was last on CPU `cpu`.
fn entity(id: u32, cpu: usize) -> &'static Entity {
    Box::leak(Box::new(Entity::new(id, NORMAL_WEIGHT, cpu)))
}

/// Races a CPU that finds nothing to run and goes idle against two wake-ups of entities that were
/// last there. A CPU that sleeps while an entity waits there is kicked.
#[test]
fn wakes_against_idle() {
    check(3, || {
        let cpus = Cpus::new();
        let (a, b) = (entity(0, 0), entity(1, 0));

        let waker = cpus.spawn(move |cpus| cpus.wake(1, a));
        let sleeper = cpus.spawn(|cpus| cpus.pick_or_sleep(0));
        let kicks = [cpus.wake(2, b), waker.join().unwrap()];
        let sleeps = sleeper.join().unwrap();

        let waits = [a, b].iter().any(|one| one.phase() == Phase::Queued);
        assert!(!(sleeps && waits) || kicks.contains(&Some(0)), "lost");
        assert!(sleeps || waits, "two entities run on a CPU");
    });
}

/// Races two wake-ups against an idle CPU, which is next to the CPU that the entities were on. One
/// of the wakers claims it.
#[test]
fn wakes_elsewhere_against_idle() {
    check(3, || {
        let cpus = Cpus::new();
        let (a, b) = (entity(0, 0), entity(1, 0));

        let waker = cpus.spawn(move |cpus| cpus.wake(0, a));
        let sleeper = cpus.spawn(|cpus| cpus.pick_or_sleep(1));
        let kicks = [cpus.wake(2, b), waker.join().unwrap()];
        if sleeper.join().unwrap() && cpus.0.on(1).end_idle(NOW) {
            assert!(kicks.contains(&Some(1)), "lost");
        }
    });
}

/// Races a CPU that goes idle with a waiting vCPU loaded against a wake-up of that vCPU, and
/// against one of an entity that was last there.
#[test]
fn wakes_against_a_loaded_sleeper() {
    check(3, || {
        let cpus = Cpus::new();
        let a = cpus.run(0, 0);
        let b = entity(1, 0);
        let news: &AtomicBool = Box::leak(Box::new(AtomicBool::new(false)));

        let sleeper = cpus.spawn(move |cpus| {
            a.begin_wait();
            // Relaxed: ordered by the begin of the wait.
            !news.load(Relaxed) && cpus.0.on(0).begin_idle(NOW)
        });
        let waker = cpus.spawn(move |cpus| {
            // Relaxed: the wake-up publishes the news.
            news.store(true, Relaxed);
            cpus.wake(1, a)
        });
        let kicks = [cpus.wake(2, b), waker.join().unwrap()];
        let sleeps = sleeper.join().unwrap();
        assert!(!sleeps || kicks.contains(&Some(0)), "lost");
        assert_eq!(kicks[1], Some(0));
    });
}

/// Races a vCPU that finds no news and blocks against a wake-up with news.
#[test]
fn wake_against_block() {
    check(3, || {
        let cpus = Cpus::new();
        let a = cpus.run(0, 0);
        let news: &AtomicBool = Box::leak(Box::new(AtomicBool::new(false)));

        let waker = cpus.spawn(move |cpus| {
            // Relaxed: the wake-up publishes the news.
            news.store(true, Relaxed);
            cpus.wake(1, a)
        });
        a.begin_wait();
        // Relaxed: ordered by the begin of the wait.
        let finds = news.load(Relaxed);
        let blocked = !finds && cpus.0.on(0).block(None, NOW);
        let kick = waker.join().unwrap();

        let expected = if blocked {
            Phase::Queued
        } else {
            Phase::Running
        };
        assert_eq!(a.phase(), expected, "lost");
        assert_eq!(kick, (!blocked).then_some(0));
    });
}

/// Races a vCPU that blocks against a wake-up that places it on an idle CPU, which runs it.
#[test]
fn block_against_run_elsewhere() {
    check(3, || {
        let cpus = Cpus::new();
        let a = cpus.run(0, 0);
        a.begin_wait();
        assert!(cpus.0.on(1).begin_idle(NOW));

        let waker = cpus.spawn(move |cpus| {
            let kick = cpus.wake(2, a);
            let runs = kick == Some(1) && cpus.0.on(1).end_idle(NOW) && cpus.pick(1).is_some();
            (kick, runs)
        });
        let blocked = cpus.0.on(0).block(None, NOW + 5);
        let (kick, runs) = waker.join().unwrap();

        assert_eq!(kick, Some(usize::from(blocked)));
        assert_eq!(runs, blocked);
        assert_eq!(a.phase(), Phase::Running);
    });
}

/// Races a CPU that picks an entity against a wake-up with news. A wake-up that does not kick is
/// followed by the news.
#[test]
fn wake_against_pick() {
    check(3, || {
        let cpus = Cpus::new();
        let a = entity(0, 0);
        assert_eq!(cpus.wake(0, a), None);
        let news: &AtomicBool = Box::leak(Box::new(AtomicBool::new(false)));

        let waker = cpus.spawn(move |cpus| {
            // Relaxed: the wake-up publishes the news.
            news.store(true, Relaxed);
            cpus.wake(1, a)
        });
        assert!(cpus.pick(0).is_some());
        // Relaxed: ordered by the pick.
        let finds = news.load(Relaxed);
        let kick = waker.join().unwrap();
        assert!(finds || kick == Some(0), "lost");
    });
}

/// Races a vCPU that is put with a deadline against a wake-up. The deadline is in the timer queue
/// exactly while the vCPU is blocked.
#[test]
fn wake_against_deadline() {
    check(3, || {
        let cpus = Cpus::new();
        let a = cpus.run(0, 0);
        a.begin_wait();

        let waker = cpus.spawn(move |cpus| cpus.wake(1, a));
        let blocked = cpus.0.on(0).block(Some(NOW + 50), NOW);
        let kick = waker.join().unwrap();

        let expected = if blocked {
            Phase::Queued
        } else {
            Phase::Running
        };
        assert_eq!(a.phase(), expected, "lost");
        assert_eq!(kick, (!blocked).then_some(0));
        assert_eq!(
            cpus.0.on(0).next_event(),
            None,
            "a deadline without a sleeper"
        );
    });
}

/// Races a vCPU that is put with a deadline against a CPU that wakes it, steals it, and puts it
/// with a deadline as well.
#[test]
fn deadline_against_deadline_elsewhere() {
    check(3, || {
        let cpus = Cpus::new();
        let a = cpus.run(0, 0);
        a.begin_wait();

        let thief = cpus.spawn(move |cpus| {
            let _ = cpus.wake(1, a);
            let Some(stolen) = cpus.pick(1) else {
                return false;
            };
            stolen.begin_wait();
            cpus.0.on(1).block(Some(NOW + 20), NOW)
        });
        let blocked = cpus.0.on(0).block(Some(NOW + 50), NOW);
        let there = thief.join().unwrap();

        assert_eq!(there, blocked);
        assert_eq!(cpus.0.on(0).next_event(), None);
        assert_eq!(cpus.0.on(1).next_event(), there.then_some(NOW + 20));
    });
}

/// Races two wake-ups of an entity. One of them queues it.
#[test]
fn two_wakers_of_one() {
    check(3, || {
        let cpus = Cpus::new();
        let a = entity(0, 0);

        let waker = cpus.spawn(move |cpus| cpus.wake(1, a));
        let kicks = [cpus.wake(2, a), waker.join().unwrap()];
        assert_eq!(kicks, [None; 2]);
        cpus.assert_queued([0]);
    });
}

/// Races a deadline that has come against a wake-up, which finds an idle CPU for the entity.
#[test]
fn expire_against_wake() {
    check(3, || {
        let cpus = Cpus::new();
        let a = cpus.run(0, 0);
        a.begin_wait();
        assert!(cpus.0.on(0).block(Some(NOW), NOW));
        assert!(cpus.0.on(1).begin_idle(NOW));

        let waker = cpus.spawn(move |cpus| cpus.wake(2, a));
        let _ = cpus.0.on(0).tick(NOW);
        let kick = waker.join().unwrap();

        let moved = cpus.0.on(1).end_idle(NOW);
        assert_eq!(kick, moved.then_some(1));
        assert_eq!(
            cpus.0.on(0).next_event(),
            None,
            "a deadline without a sleeper"
        );
        if moved {
            // The entity is left to the CPU that was woken for it.
            assert_eq!(cpus.pick(1).map(Entity::id), Some(0));
            cpus.assert_queued([]);
        } else {
            cpus.assert_queued([0]);
        }
    });
}

/// Races a thief against the CPU that an entity waits on, and against a wake-up there.
#[test]
fn steal_against_pick() {
    check(3, || {
        let cpus = Cpus::new();
        let (a, b) = (entity(0, 0), entity(1, 0));
        assert_eq!(cpus.wake(0, a), None);

        let thief = cpus.spawn(|cpus| cpus.pick(1));
        let waker = cpus.spawn(move |cpus| cpus.wake(2, b));
        let own = cpus.pick(0);
        let stolen = thief.join().unwrap();
        waker.join().unwrap();

        let id = |one: Option<&'static Entity>| one.map(Entity::id);
        assert!(own.is_some() || stolen.is_some());
        assert!(id(own) != id(stolen), "an entity runs on two CPUs");
        match (id(own), id(stolen)) {
            (Some(_), Some(_)) => cpus.assert_queued([]),
            (Some(0), None) | (None, Some(0)) => cpus.assert_queued([1]),
            _ => cpus.assert_queued([0]),
        }
    });
}

/// Races a CPU that asks when its next tick is due against the first entity that waits there. The
/// CPU either sees that entity, or is kicked.
#[test]
fn wake_against_a_cpu_without_tick() {
    check(3, || {
        let cpus = Cpus::new();
        let a = entity(0, 0);
        let b = entity(1, 0);
        assert_eq!(cpus.wake(0, a), None);

        let waker = cpus.spawn(move |cpus| cpus.wake(1, b));
        assert!(cpus.pick(0).is_some());
        let event = cpus.0.on(0).next_event();
        let kick = waker.join().unwrap();

        assert!(event.is_some() || kick == Some(0), "no end of the turn");
        assert_eq!(cpus.0.on(0).needs_resched(), kick == Some(0));
    });
}

/// Races two wake-ups of entities that wait for a CPU that runs another. One of them kicks.
#[test]
fn one_kick_for_two() {
    check(3, || {
        let cpus = Cpus::new();
        let _a = cpus.run(0, 0);
        let (b, c) = (entity(1, 0), entity(2, 0));

        let waker = cpus.spawn(move |cpus| cpus.wake(1, b));
        let kicks = [cpus.wake(2, c), waker.join().unwrap()];
        assert_eq!(kicks.iter().flatten().count(), 1, "{kicks:?}");
    });
}

/// Races a CPU that preempts an entity, and looks for an idle CPU, against a CPU that goes idle.
#[test]
fn preempt_against_idle() {
    check(3, || {
        let cpus = Cpus::new();
        let a = cpus.run(0, 0);
        let b = entity(1, 0);
        assert_eq!(cpus.wake(0, b), None);

        let sleeper = cpus.spawn(|cpus| cpus.pick_or_sleep(1));
        let kick = cpus.0.on(0).preempt(NOW + 20, false);
        let sleeps = sleeper.join().unwrap();

        let moved = sleeps && cpus.0.on(1).end_idle(NOW + 20);
        let noticed = moved || cpus.0.on(1).needs_resched();
        assert_eq!(kick, noticed.then_some(1));
        assert!([a, b].iter().all(|one| one.phase() != Phase::Idle));
    });
}
