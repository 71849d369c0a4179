//! Loads made by several threads at once, and the work of each thread per CPU time.
//!
//! Rates are relative to the threads' own CPU time. Waiting for a lock or a cache line counts.
//! Waiting for a CPU on a busy machine does not.

use std::hint::black_box;
use std::sync::Barrier;
use std::sync::atomic::Ordering::{AcqRel, Relaxed};
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::thread;
use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};
use vgic::mmio::Width;

use super::baselines::{self, Table};
use super::catalog::scattered;
use super::vm::{Command, FIRST_LPI, GITS, Vm};

/// MSIs between two checks of the stop flag.
const BATCH: u32 = 64;

/// Work of the threads of one kind.
#[derive(Clone, Copy, Default, Debug)]
pub struct Done {
    pub operations: u64,
    pub cpu: Duration,
    pub threads: u32,
    /// Sum of the threads' rates, in operations per second of their CPU time.
    pub rate: f64,
}

impl Sample {
    /// Returns whether every thread had a CPU nearly all the time: the threads really ran at once.
    pub fn undisturbed(&self) -> bool {
        let had = |done: &Done| {
            done.cpu.as_secs_f64() >= 0.8 * self.wall.as_secs_f64() * f64::from(done.threads)
        };
        [&self.accepted, &self.delivered, &self.commands]
            .into_iter()
            .all(had)
    }
}

impl Done {
    fn add(&mut self, operations: u64, cpu: Duration) {
        self.operations += operations;
        self.cpu += cpu;
        self.threads += 1;
        self.rate += operations as f64 / cpu.as_secs_f64().max(1e-9);
    }
}

/// Work of a load.
#[derive(Clone, Copy, Default, Debug)]
pub struct Sample {
    /// Injections or lookups.
    pub accepted: Done,
    /// Interrupts taken and ended by guests.
    pub delivered: Done,
    /// ITS commands in the meantime.
    pub commands: Done,
    pub wall: Duration,
}

/// Kind of a thread's work.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Role {
    Accept,
    Deliver,
    Command,
}

/// A thread: its role, and its work until `stop`. The work returns the number of operations.
pub type Worker<'a> = (Role, Box<dyn FnOnce(&AtomicBool) -> u64 + Send + 'a>);

fn cpu_time() -> Duration {
    let now = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(now.tv_sec as u64, now.tv_nsec as u32)
}

pub fn run(time: Duration, workers: Vec<Worker<'_>>) -> Sample {
    let stop = AtomicBool::new(false);
    let ready = Barrier::new(workers.len() + 1);
    let mut sample = Sample::default();

    thread::scope(|scope| {
        let threads: Vec<_> = workers
            .into_iter()
            .map(|(role, work)| {
                let (stop, ready) = (&stop, &ready);
                scope.spawn(move || {
                    ready.wait();
                    let start = cpu_time();
                    let operations = work(stop);
                    (role, operations, cpu_time() - start)
                })
            })
            .collect();

        ready.wait();
        let start = Instant::now();
        thread::sleep(time);
        stop.store(true, Relaxed);
        sample.wall = start.elapsed();

        for thread in threads {
            let (role, operations, cpu) = thread.join().expect("a worker");
            match role {
                Role::Accept => sample.accepted.add(operations, cpu),
                Role::Deliver => sample.delivered.add(operations, cpu),
                Role::Command => sample.commands.add(operations, cpu),
            }
        }
    });
    sample
}

/// Work made by threads at once.
pub struct Load {
    pub name: String,
    pub threads: usize,
    make: Box<dyn Fn() -> Box<dyn Fn(Duration) -> Sample>>,
}

impl Load {
    pub fn new(
        name: String,
        threads: usize,
        make: impl Fn() -> Box<dyn Fn(Duration) -> Sample> + 'static,
    ) -> Self {
        Self {
            name,
            threads,
            make: Box::new(make),
        }
    }

    /// Sets the load up. Each call of the result runs the load for the given time.
    pub fn make(&self) -> Box<dyn Fn(Duration) -> Sample> {
        (self.make)()
    }
}

/// Returns the loads of a group, with up to `threads` threads of a kind.
pub fn loads(group: &str, threads: usize) -> Vec<Load> {
    let counts = || counts(threads).into_iter();
    match group {
        "lpi_lookup" => (baselines::TABLES.iter())
            .filter(|name| **name != "spin_list")
            .flat_map(|name| counts().map(move |n| lookup(name, n)))
            .collect(),
        "inject_msi" => [
            "to_one_vcpu",
            "to_distinct_vcpus",
            "while_moving",
            "while_remapping",
        ]
        .iter()
        .flat_map(|target| counts().map(move |n| injection(target, n)))
        .collect(),
        "lpi_stress" => {
            let at_once = (threads / 2).max(1);
            let each = SHAPES.into_iter().flat_map(|shape| {
                TARGETS.map(|target| {
                    let name = format!("{}/{}/{}/{target}", shape.0, shape.1, shape.2);
                    stress(name, shape, target, at_once)
                })
            });

            let (shape, target) = (SHAPES[4], TARGETS[1]);
            let wide = counts().map(|n| {
                let name = format!("{}/{}/{}/{target}/{n}_threads", shape.0, shape.1, shape.2);
                stress(name, shape, target, n)
            });

            each.chain(wide)
                .chain([true, false].map(one_word))
                .collect()
        }
        "contended" => [2, CROWD].map(contended).into(),
        _ => Vec::new(),
    }
}

/// Threads at one lock, more than the CPUs of most machines.
const CROWD: usize = 32;

/// vCPUs, devices, and events of each device.
const SHAPES: [(usize, u32, u32); 5] = [
    (1, 1, 1),
    (16, 16, 16),
    (16, 16, 17),
    (32, 32, 1),
    (256, 256, 16),
];

/// Targets of the LPIs.
const TARGETS: [&str; 3] = ["all_to_one", "spread", "spread_and_movi"];

/// Returns the numbers of threads to measure: the powers of two below `most`, and `most`.
pub fn counts(most: usize) -> Vec<usize> {
    let powers = (0..).map(|bit| 1 << bit).take_while(|&n| n < most);
    powers.chain([most]).collect()
}

/// Returns a load of lookups among 64k LPIs.
fn lookup(table: &'static str, threads: usize) -> Load {
    Load::new(
        format!("64k/borrowed/{table}/{threads}_threads"),
        threads,
        move || {
            let table: &'static dyn Table =
                Box::leak(baselines::table(table, &(0..1 << 16).collect::<Vec<_>>()));
            Box::new(move |time| {
                let workers = (0..threads).map(|_| -> Worker<'_> {
                    let work = |stop: &AtomicBool| {
                        let reader = table.reader();
                        let keys = scattered(4096, 1 << 16);
                        let mut done = 0;
                        while !stop.load(Relaxed) {
                            for &key in &keys {
                                black_box(reader.borrowed(key));
                            }
                            done += keys.len() as u64;
                        }
                        done
                    };
                    (Role::Accept, Box::new(work))
                });
                run(time, workers.collect())
            })
        },
    )
}

/// Returns the events of the devices in turn, repeated to fill a batch: the cost of the loop around
/// an injection does not depend on the number of events.
pub fn events(devices: std::ops::Range<u32>, events: u32) -> Vec<(u32, u32)> {
    let all: Vec<_> = devices
        .flat_map(|device| (0..events).map(move |event| (device, event)))
        .collect();
    let times = (BATCH as usize).div_ceil(all.len().max(1));
    all.repeat(times)
}

/// Injects the events of the devices in turn, over and over.
fn injector<'a>(vm: &'a Vm, cpu: u16, devices: std::ops::Range<u32>, count: u32) -> Worker<'a> {
    let work = move |stop: &AtomicBool| {
        let cpu = vm.cpu(cpu);
        let events = events(devices, count);
        let mut done = 0;

        let mut pin = cpu.pin();
        while !stop.load(Relaxed) {
            for &(device, event) in &events {
                // Renew the pin: an unmapping waits for one MSI at most.
                pin.renew();
                vm.inject_by(&pin, device, event);
            }
            done += events.len() as u64;
        }
        done
    };
    (Role::Accept, Box::new(work))
}

/// CPU of the one thread of a load that sends commands.
const COMMANDER: u16 = 60_000;

/// Moves the events of `device` between vCPU 0 and vCPU `last` without a pause, as irqbalance does.
fn mover(vm: &Vm, device: u64, events: u64, last: u64) -> Worker<'_> {
    let work = move |stop: &AtomicBool| {
        let cpu = vm.cpu(COMMANDER);
        let mut done = 0;
        while !stop.load(Relaxed) {
            for event in 0..events {
                vm.queue(Command::movi(device, event, last * (done & 1)));
            }
            vm.run_queue(&cpu);
            done += 1;
        }
        done * events
    };
    (Role::Command, Box::new(work))
}

/// Discards the events of `device` and maps them again to the LPIs from `first` on, without a
/// pause.
fn remapper(vm: &Vm, device: u64, events: u64, first: u64) -> Worker<'_> {
    let work = move |stop: &AtomicBool| {
        let cpu = vm.cpu(COMMANDER);
        let mut done = 0;
        while !stop.load(Relaxed) {
            for event in 0..events {
                vm.queue(Command::discard(device, event));
                vm.queue(Command::mapti(device, event, first + event, 0));
            }
            vm.run_queue(&cpu);
            done += 2 * events;
        }
        done
    };
    (Role::Command, Box::new(work))
}

/// Returns a load of reads of `GITS_CBASER`, each under the ITS's command lock.
fn contended(threads: usize) -> Load {
    let name = format!("GITS_CBASER_read/{threads}_threads");
    Load::new(name, threads, move || {
        let vm = Vm::new(1);
        Box::new(move |time| {
            let workers = (0..threads as u16).map(|n| -> Worker<'_> {
                let vm = &vm;
                let work = move |stop: &AtomicBool| {
                    let cpu = vm.cpu(n + 1);
                    let mut done = 0;
                    while !stop.load(Relaxed) {
                        black_box(vm.read(&cpu, 0, GITS + 0x80, Width::Double));
                        done += 1;
                    }
                    done
                };
                (Role::Accept, Box::new(work))
            });
            run(time, workers.collect())
        })
    })
}

/// Returns a load of MSIs of pending interrupts: a device faster than its guest.
fn injection(target: &'static str, threads: usize) -> Load {
    let name = format!("pending/{target}/{threads}_threads");
    Load::new(name, threads, move || {
        let vm = Vm::new(threads.max(2));
        let cpu = vm.cpu(0);

        // A device for each thread, and a further device for moves and remappings.
        for device in 0..=threads as u64 {
            let first = u64::from(FIRST_LPI) + device * u64::from(BATCH);
            let vcpu = if target == "to_one_vcpu" {
                0
            } else {
                device % threads as u64
            };
            vm.map(&cpu, device, BATCH.into(), first, |_| vcpu);
        }

        drop(cpu);
        Box::new(move |time| {
            let mut workers: Vec<Worker<'_>> = (0..threads as u32)
                .map(|n| injector(&vm, n as u16 + 1, n..n + 1, BATCH))
                .collect();

            let (other, events) = (threads as u64, u64::from(BATCH));
            match target {
                "while_moving" => workers.push(mover(&vm, other, events, 1)),
                "while_remapping" => {
                    let first = u64::from(FIRST_LPI) + other * events;
                    workers.push(remapper(&vm, other, events, first));
                }
                _ => {}
            }

            run(time, workers)
        })
    })
}

/// Runs the guests of `vcpus` without a pause. The work returns the number of interrupts taken.
fn guests(vm: &Vm, first_cpu: u16, vcpus: std::ops::Range<usize>) -> Worker<'_> {
    let work = move |stop: &AtomicBool| {
        let cpus: Vec<_> = vcpus
            .clone()
            .map(|n| (vm.cpu(first_cpu + n as u16), n))
            .collect();

        let mut taken = 0;
        // Enter each vCPU at least once: with many threads the time may be over before.
        loop {
            let before = taken;
            for (cpu, n) in &cpus {
                vm.enter(cpu, *n);
                vm.guest(cpu, |_| taken += 1);
                vm.exit(cpu, *n);
            }
            if stop.load(Relaxed) {
                break;
            }
            if taken == before {
                thread::yield_now();
            }
        }

        cpus.iter().for_each(|(cpu, n)| vm.put(cpu, *n));
        taken
    };
    (Role::Deliver, Box::new(work))
}

/// Returns a load like KVM's selftest vgic_lpi_stress: devices signalling all their events over and
/// over, and vCPUs taking and ending LPIs. At most `threads` threads share the devices, and at most
/// `threads` the vCPUs.
fn stress(
    name: String,
    (vcpus, devices, events): (usize, u32, u32),
    target: &'static str,
    threads: usize,
) -> Load {
    Load::new(name, threads, move || {
        let vm = Vm::new(vcpus);
        let cpu = vm.cpu(0);
        for device in 0..devices {
            let first = u64::from(FIRST_LPI) + u64::from(device * events);
            vm.map(&cpu, device.into(), events.into(), first, |event| {
                if target == "all_to_one" {
                    0
                } else {
                    (u64::from(device * events) + event) % vcpus as u64
                }
            });
        }

        let storm = target == "spread_and_movi";
        if storm {
            let first = u64::from(FIRST_LPI) + u64::from(devices * events);
            vm.map(&cpu, devices.into(), BATCH.into(), first, |_| 0);
        }

        drop(cpu);
        Box::new(move |time| {
            let mut workers: Vec<Worker<'_>> = shares(devices as usize, threads)
                .map(|share| {
                    let devices = share.start as u32..share.end as u32;
                    injector(&vm, 1000 + share.start as u16, devices, events)
                })
                .collect();
            workers.extend(shares(vcpus, threads).map(|share| guests(&vm, 1, share)));
            if storm {
                workers.push(mover(&vm, devices.into(), BATCH.into(), vcpus as u64 - 1));
            }
            run(time, workers)
        })
    })
}

/// A cache line of its own, also on machines fetching lines in pairs.
#[repr(align(128))]
struct Line(AtomicU64);

/// Returns the yardstick of lpi_stress 1/1/1: a device sets a bit of one word, and a guest now and
/// then clears the bit in two steps, as entry and exit do. A visit of the guest counts as a
/// delivery: its core may keep the line from one visit to the next and find no bit. Without
/// `shared`, the device runs alone.
fn one_word(shared: bool) -> Load {
    /// Approximate length of a guest's visit, in turns of an empty loop.
    const VISIT: u32 = 400;

    let name = if shared { "shared" } else { "alone" };
    Load::new(format!("one_word/{name}"), 1, move || {
        let word = Line(AtomicU64::new(0));
        Box::new(move |time| {
            let device = |stop: &AtomicBool| {
                let mut done = 0;
                while !stop.load(Relaxed) {
                    for _ in 0..BATCH {
                        black_box(word.0.fetch_or(1, AcqRel));
                    }
                    done += u64::from(BATCH);
                }
                done
            };

            let guest = |stop: &AtomicBool| {
                let mut visits = 0;
                while !stop.load(Relaxed) {
                    black_box(word.0.fetch_xor(2, AcqRel));
                    (0..VISIT).for_each(|turn| {
                        black_box(turn);
                    });
                    word.0.fetch_and(!3, AcqRel);
                    visits += 1;
                }
                visits
            };

            let mut workers: Vec<Worker<'_>> = vec![(Role::Accept, Box::new(device))];
            if shared {
                workers.push((Role::Deliver, Box::new(guest)));
            }
            run(time, workers)
        })
    })
}

/// Splits `total` items into at most `parts` shares.
fn shares(total: usize, parts: usize) -> impl Iterator<Item = std::ops::Range<usize>> {
    let parts = parts.min(total);
    (0..parts).map(move |part| total * part / parts..total * (part + 1) / parts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_threads_are_powers_of_two_and_the_last_one() {
        assert_eq!(counts(1), [1]);
        assert_eq!(counts(6), [1, 2, 4, 6]);
        assert_eq!(counts(64).last(), Some(&64));
        assert_eq!(counts(64).len(), 7);
    }

    #[test]
    fn a_batch_is_whole_rounds_of_all_events() {
        assert_eq!(events(0..1, 1), [(0, 0); BATCH as usize]);
        assert_eq!(
            events(3..5, 2)[..5],
            [(3, 0), (3, 1), (4, 0), (4, 1), (3, 0)]
        );
        assert_eq!(events(0..16, 16).len(), 256);
    }

    #[test]
    fn a_load_that_is_over_before_it_began_ends_all_the_same() {
        let load = stress("x".to_owned(), (16, 16, 1), "spread", 8);
        let sample = load.make()(Duration::ZERO);
        assert_eq!((sample.accepted.threads, sample.delivered.threads), (8, 8));
    }
}
