//! CPUs that are threads: tokens go from vCPU to vCPU by wake-ups, and none gets lost.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::sync::{Condvar, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use scheduler::{Entity, Here, NORMAL_WEIGHT, Parameters, Scheduler, Time};

const CPUS: usize = 3;
const VCPUS: usize = 12;
const TOKENS: usize = 5;

/// Hops of all tokens together.
const HOPS: usize = if cfg!(miri) { 200 } else { 100_000 };

/// Time after which a token is taken for lost.
const LIMIT: Duration = Duration::from_secs(60);

/// An interrupt that stays pending until it is taken.
#[derive(Default)]
struct Interrupt {
    pending: Mutex<bool>,
    came: Condvar,
}

impl Interrupt {
    fn send(&self) {
        *self.pending.lock().unwrap() = true;
        self.came.notify_one();
    }

    /// Takes the interrupt, and waits for it for some time.
    fn wait(&self, most: Duration) {
        let pending = self.pending.lock().unwrap();
        let waited = self
            .came
            .wait_timeout_while(pending, most, |pending| !*pending);
        *waited.unwrap().0 = false;
    }
}

struct Machine {
    scheduler: Scheduler,
    entities: Vec<&'static Entity>,
    /// Tokens of each vCPU that it has not seen.
    mail: [AtomicUsize; VCPUS],
    interrupts: [Interrupt; CPUS],
    hops: AtomicUsize,
    done: AtomicBool,
    began: Instant,
}

impl Machine {
    fn now(&self) -> Time {
        self.began.elapsed().as_nanos() as Time
    }

    fn kick(&self, kick: Option<usize>) {
        if let Some(cpu) = kick {
            self.interrupts[cpu].send();
        }
    }

    /// Runs a CPU until all hops are done.
    fn run(&self, cpu: usize) {
        let here = self.scheduler.on(cpu);
        let mut random = cpu as u64 + 1;
        while !self.done.load(Relaxed) {
            assert!(self.began.elapsed() < LIMIT, "a token is lost");
            if let Some(entity) = here.pick(self.now()) {
                self.compute(here, entity, &mut random);
            } else if here.begin_idle(self.now()) {
                let event = here.next_event().unwrap_or(Time::MAX);
                let most = Duration::from_nanos(event.saturating_sub(self.now()));
                self.interrupts[cpu].wait(most.min(LIMIT));
                here.end_idle(self.now());
            }
        }
    }

    /// Runs a vCPU until it blocks or is preempted.
    fn compute(&self, here: Here<'_>, entity: &Entity, random: &mut u64) {
        loop {
            if here.needs_resched() && here.tick(self.now()) {
                self.kick(here.preempt(self.now(), *random & 2 != 0));
                return;
            }
            entity.begin_wait();
            // Relaxed: a wake-up publishes a token.
            let tokens = self.mail[entity.id() as usize].swap(0, Relaxed);
            for _ in 0..tokens {
                self.pass_on(here, random);
            }

            // Each other time with a deadline.
            let now = self.now();
            let deadline = random.is_multiple_of(2).then_some(now + 50_000);
            if tokens == 0 && here.block(deadline, now) {
                return;
            }
        }
    }

    /// Passes a token on to a vCPU at random.
    fn pass_on(&self, here: Here<'_>, random: &mut u64) {
        // Relaxed: the joins order the last hop.
        if self.hops.fetch_add(1, Relaxed) == HOPS {
            self.done.store(true, Relaxed);
            self.interrupts.iter().for_each(Interrupt::send);
        }
        *random ^= *random << 13;
        *random ^= *random >> 7;
        *random ^= *random << 17;
        let to = (*random >> 8) as usize % VCPUS;
        // Relaxed: the wake-up publishes the token.
        self.mail[to].fetch_add(1, Relaxed);
        self.kick(here.wake(self.entities[to], || self.now()));
    }
}

#[test]
fn no_token_is_lost() {
    let entity = |id: usize| -> &'static Entity {
        let (number, cpu) = (id as u32, id % CPUS);
        Box::leak(Box::new(match id % 4 {
            0 => Entity::bound(number, NORMAL_WEIGHT, cpu),
            _ => Entity::new(number, NORMAL_WEIGHT, cpu),
        }))
    };
    let machine = Machine {
        scheduler: Scheduler::new(CPUS, Parameters::for_frequency(10_000_000)),
        entities: (0..VCPUS).map(entity).collect(),
        mail: Default::default(),
        interrupts: Default::default(),
        hops: AtomicUsize::new(0),
        done: AtomicBool::new(false),
        began: Instant::now(),
    };

    for id in 0..TOKENS {
        machine.mail[id].store(1, Relaxed);
        let kick = machine.scheduler.on(0).wake(machine.entities[id], || 0);
        assert_eq!(kick, None);
    }
    thread::scope(|scope| {
        for cpu in 0..CPUS {
            let machine = &machine;
            scope.spawn(move || machine.run(cpu));
        }
    });

    let left: usize = machine.mail.iter().map(|mail| mail.load(Relaxed)).sum();
    assert!(machine.hops.into_inner() > HOPS);
    assert_eq!(left, TOKENS);
}
