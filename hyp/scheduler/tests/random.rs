//! Random operations against a plain reference model: no entity is lost, or is in two places.

use proptest::prelude::*;
use proptest::sample::Index;
use scheduler::{Entity, NORMAL_WEIGHT, Parameters, Phase, Scheduler, Time};

/// CPUs: so few that a bounded number of looks reaches each.
const CPUS: usize = 4;
const ENTITIES: usize = 7;

const PARAMETERS: Parameters = Parameters {
    latency: 60,
    least_turn: 10,
    brief_turn: 2,
    granularity: 10,
};

/// An operation. Those that the machine's state does not allow do nothing.
#[derive(Clone, Copy, Debug)]
enum Operation {
    Wake(usize),
    Pick,
    /// The guest is entered, after the checks that an embedder does before.
    Enter,
    BeginWait,
    Block(Option<Time>),
    Preempt,
    Tick,
    BeginIdle,
    EndIdle,
}

/// Place of an entity in the model.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Place {
    /// Idle, with a deadline on the CPU that it was put on.
    Idle(Option<(usize, Time)>),
    Queued,
    Running {
        cpu: usize,
        woken: bool,
    },
}

/// A CPU in the model.
#[derive(Clone, Copy, Default)]
struct Cpu {
    running: Option<usize>,
    asleep: bool,
    kicked: bool,
    /// True if the CPU is in a guest, and calls no operation before it is kicked.
    in_guest: bool,
    /// Time that the CPU's timer is set to.
    event: Option<Time>,
    /// True if the CPU sleeps, or has not looked at its queue since.
    has_slept: bool,
}

/// The scheduler, and the model beside it.
struct Machine {
    scheduler: &'static Scheduler,
    entities: Vec<&'static Entity>,
    /// The only CPU of an entity, if it is bound.
    pins: Vec<Option<usize>>,
    places: [Place; ENTITIES],
    cpus: [Cpu; CPUS],
    now: Time,
}

impl Machine {
    fn new() -> Self {
        let pins: Vec<_> = (0..ENTITIES)
            .map(|id| (id % 3 == 0).then_some(id % CPUS))
            .collect();
        let entity = |id: usize| -> &'static Entity {
            let weight = NORMAL_WEIGHT << (id % 3);
            Box::leak(Box::new(match pins[id] {
                Some(cpu) => Entity::bound(id as u32, weight, cpu),
                None => Entity::new(id as u32, weight, id % CPUS),
            }))
        };
        Self {
            scheduler: Box::leak(Box::new(Scheduler::new(CPUS, PARAMETERS))),
            entities: (0..ENTITIES).map(entity).collect(),
            pins,
            places: [Place::Idle(None); ENTITIES],
            cpus: [Cpu::default(); CPUS],
            now: 0,
        }
    }

    /// Notes a kick.
    fn kick(&mut self, from: usize, kick: Option<usize>) {
        if let Some(cpu) = kick {
            assert_ne!(cpu, from, "a CPU kicks itself");
            self.cpus[cpu].kicked = true;
        }
    }

    /// Makes the entities runnable whose deadline on `cpu` has come.
    fn expire(&mut self, cpu: usize) {
        for place in &mut self.places {
            if matches!(*place, Place::Idle(Some((on, at))) if on == cpu && at <= self.now) {
                *place = Place::Queued;
            }
        }
    }

    /// Returns true if a queued entity is alone on a CPU that it was woken for: the CPU picks it,
    /// and no thief does.
    fn is_reserved(&self, id: usize) -> bool {
        let cpu = self.entities[id].cpu();
        let beside = (0..ENTITIES).any(|other| {
            let is_queued = other != id && self.places[other] == Place::Queued;
            is_queued && self.entities[other].cpu() == cpu
        });
        self.cpus[cpu].has_slept && !beside
    }

    /// Executes an operation on a CPU.
    fn execute(&mut self, cpu: usize, operation: Operation) {
        let (here, now) = (self.scheduler.on(cpu), self.now);
        let Cpu {
            running, asleep, ..
        } = self.cpus[cpu];
        if asleep != matches!(operation, Operation::EndIdle) {
            return;
        }

        self.cpus[cpu].in_guest = false;
        match (operation, running) {
            (Operation::Wake(id), _) => {
                let kick = here.wake(self.entities[id], || now);
                match &mut self.places[id] {
                    Place::Running { cpu: on, woken } => {
                        *woken = true;
                        assert_eq!(kick, (*on != cpu).then_some(*on));
                    }
                    Place::Queued => assert_eq!(kick, None),
                    idle => *idle = Place::Queued,
                }
                self.kick(cpu, kick);
                if here.has_queued() {
                    self.cpus[cpu].event = here.next_event();
                }
            }
            (Operation::Pick, None) => {
                let picked = here.pick(now).map(|entity| entity.id() as usize);
                match picked {
                    Some(id) => {
                        assert_eq!(self.places[id], Place::Queued);
                        assert!(self.pins[id].is_none_or(|pin| pin == cpu));
                        let woken = false;
                        self.places[id] = Place::Running { cpu, woken };
                    }
                    None => {
                        let left = (0..ENTITIES).find(|&id| {
                            let mine = self.pins[id].is_none_or(|pin| pin == cpu);
                            mine && self.places[id] == Place::Queued && !self.is_reserved(id)
                        });
                        assert_eq!(left, None, "not found by CPU {cpu}");
                    }
                }
                self.cpus[cpu].running = picked;
                self.cpus[cpu].has_slept = false;
                self.cpus[cpu].event = here.next_event();
            }
            (Operation::Enter, Some(_)) => {
                let is_due = self.cpus[cpu].event.is_some_and(|event| event <= now);
                if here.needs_resched() || is_due {
                    self.execute(cpu, Operation::Tick);
                }
                self.cpus[cpu].in_guest = true;
                self.cpus[cpu].kicked = false;
            }
            (Operation::BeginWait, Some(id)) => {
                self.entities[id].begin_wait();
                let woken = false;
                self.places[id] = Place::Running { cpu, woken };
            }
            (Operation::Block(after), Some(id)) => {
                let woken = self.places[id] == Place::Running { cpu, woken: true };
                let deadline = after.map(|after| now + after);
                assert_eq!(here.block(deadline, now), !woken);
                if !woken {
                    self.places[id] = Place::Idle(deadline.map(|at| (cpu, at)));
                    self.cpus[cpu].running = None;
                }
            }
            (Operation::Preempt, Some(id)) => {
                let kick = here.preempt(now, now % 3 == 0);
                self.kick(cpu, kick);
                self.places[id] = Place::Queued;
                self.cpus[cpu].running = None;
            }
            (Operation::Tick, _) => {
                self.cpus[cpu].has_slept = false;
                let switches = here.tick(now);
                assert!(!switches || running.is_some());
                self.expire(cpu);
                self.cpus[cpu].event = here.next_event();
                assert!(!here.needs_resched());
            }
            (Operation::BeginIdle, _) => {
                self.cpus[cpu].asleep = here.begin_idle(now);
                self.cpus[cpu].kicked = false;
                let asleep = self.cpus[cpu].asleep;
                self.cpus[cpu].has_slept |= asleep;
                let queued = (0..ENTITIES)
                    .any(|id| self.pins[id] == Some(cpu) && self.places[id] == Place::Queued);
                assert!(!(asleep && queued), "an entity of CPU {cpu} waits");
            }
            (Operation::EndIdle, _) => {
                let waits = here.end_idle(now);
                let due = self.places.iter().any(|place| {
                    matches!(place, Place::Idle(Some((on, at))) if *on == cpu && *at <= now)
                });
                assert!(
                    !waits || due || self.cpus[cpu].kicked,
                    "CPU {cpu} is not kicked"
                );
                self.cpus[cpu].asleep = false;
                self.cpus[cpu].event = here.next_event();
                self.expire(cpu);
            }
            _ => {}
        }
    }

    /// Compares the scheduler with the model.
    fn check(&self) {
        for (entity, place) in self.entities.iter().zip(self.places) {
            let expected = match place {
                Place::Idle(_) => Phase::Idle,
                Place::Queued => Phase::Queued,
                Place::Running { .. } => Phase::Running,
            };
            assert_eq!(entity.phase(), expected, "{entity:?}");
        }

        for (index, cpu) in self.cpus.iter().enumerate() {
            let deadlines = self.places.iter().filter_map(|place| match place {
                Place::Idle(Some((on, at))) if *on == index => Some(*at),
                _ => None,
            });
            let first = deadlines.min();
            let event = self.scheduler.on(index).next_event();
            match cpu.running {
                None => assert_eq!(event, first),
                Some(_) => assert!(event.is_some() || first.is_none()),
            }
            assert!(first.is_none_or(|first| event <= Some(first)));
            let waits = (0..ENTITIES)
                .any(|id| self.pins[id] == Some(index) && self.places[id] == Place::Queued);
            let has_tick = !cpu.in_guest || cpu.kicked || cpu.event.is_some();
            assert!(!waits || has_tick, "the guest of CPU {index} has no tick");
        }
    }

    /// Blocks each entity in turn, until none waits.
    fn drain(&mut self) {
        for cpu in 0..CPUS {
            self.execute(cpu, Operation::EndIdle);
        }
        for cpu in 0..CPUS {
            loop {
                self.execute(cpu, Operation::BeginWait);
                self.execute(cpu, Operation::Block(None));
                self.execute(cpu, Operation::Pick);
                self.check();
                if self.cpus[cpu].running.is_none() {
                    break;
                }
            }
        }
        let queued = self.places.iter().find(|place| **place == Place::Queued);
        assert_eq!(queued, None);
    }
}

fn operation() -> impl Strategy<Value = Operation> {
    let id = any::<Index>().prop_map(|index| index.index(ENTITIES));
    prop_oneof![
        6 => id.prop_map(Operation::Wake),
        5 => Just(Operation::Pick),
        4 => Just(Operation::Enter),
        3 => Just(Operation::BeginWait),
        3 => proptest::option::of(0..40_u64).prop_map(Operation::Block),
        1 => Just(Operation::Preempt),
        1 => Just(Operation::Tick),
        2 => Just(Operation::BeginIdle),
        3 => Just(Operation::EndIdle),
    ]
}

proptest! {
    #[test]
    fn no_entity_is_lost_or_in_two_places(
        operations in proptest::collection::vec((0..CPUS, operation(), 0..8_u64), 1..200)
    ) {
        let mut machine = Machine::new();
        for (cpu, operation, passes) in operations {
            machine.now += passes;
            machine.execute(cpu, operation);
            machine.check();
        }
        machine.drain();
    }
}
