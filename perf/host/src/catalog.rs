//! Every measured operation, by name, with its sizes.

use std::hint::black_box;
use std::rc::Rc;

use vgic::internals;
use vgic::mmio::Width;

use super::baselines::{self, Table};
use super::operation::{Entry, Operation, operation};
use super::runners;
use super::vm::{Command, FIRST_LPI, GICD, GITS, QUEUE_COMMANDS, SoftCpu, Vm};

/// Keys of a round of lookups, in an order that defeats prefetchers.
const KEYS: usize = 4096;
/// MSIs of a batch.
const MSIS: u32 = 256;
/// Commands and register accesses in a batch.
const FEW: u64 = 64;

/// Returns every operation.
pub fn all() -> Vec<Entry> {
    let mut entries = lookups();
    entries.extend(injections());
    entries.extend(runners::operations());
    entries.extend(sgis());
    entries.extend(commands());
    entries.extend(registers());
    // The cost of an allocation depends on earlier allocations. New groups come last: the counts of
    // all other groups stay unchanged.
    entries.extend(storms());
    entries
}

/// The state of a group's operations: a VM, and the physical CPUs of this thread.
pub(crate) struct Bench {
    pub(crate) vm: Vm,
    pub(crate) cpus: Vec<SoftCpu>,
}

impl Bench {
    pub(crate) fn new(vcpus: usize, cpus: u16) -> Self {
        let vm = Vm::new(vcpus);
        let cpus = (0..cpus).map(|n| vm.cpu(n + 1)).collect();
        Self { vm, cpus }
    }

    pub(crate) fn cpu(&self) -> &SoftCpu {
        &self.cpus[0]
    }
}

/// Returns `count` pseudo-random numbers below `limit`.
pub fn scattered(count: usize, limit: u32) -> Vec<u32> {
    let mut state = 0x9e37_79b9_u64;
    (0..count)
        .map(|_| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            ((state >> 33) as u32) % limit
        })
        .collect()
}

fn lookups() -> Vec<Entry> {
    let mut entries = Vec::new();
    for name in baselines::TABLES {
        for (size, lpis) in [("1", 1), ("1k", 1 << 10), ("64k", 1 << 16)] {
            for what in ["borrowed", "owned", "miss"] {
                // A walk of a long list takes long.
                let list = name == "spin_list";
                let looked_up = if list && lpis > 1 { 16 } else { KEYS };
                let needless = match what {
                    "owned" => name == "two_loads",
                    // A full table has no misses.
                    "miss" => lpis == 1 << 16,
                    _ => false,
                };
                if needless {
                    continue;
                }

                let entry = Entry::new(
                    format!("lpi_lookup/{size}/{what}/{name}"),
                    looked_up as u64,
                    move || lookup(name, lpis, what, looked_up),
                );
                entries.push(match name {
                    "radix" => entry,
                    _ => entry.baseline(),
                });
            }
        }
    }
    entries
}

fn lookup(name: &str, lpis: u32, what: &'static str, count: usize) -> Box<dyn Operation> {
    // Tables borrowed by readers live as long as the program. Each measurement makes one.
    let table: &'static dyn Table =
        Box::leak(baselines::table(name, &(0..lpis).collect::<Vec<_>>()));

    let mut keys = scattered(count, lpis);
    if what == "miss" {
        keys.iter_mut().for_each(|key| *key += lpis);
    }

    operation(
        (table.reader(), keys),
        |_| {},
        move |(reader, keys)| {
            for &key in keys.iter() {
                black_box(match what {
                    "owned" => reader.owned(key),
                    _ => reader.borrowed(key),
                });
            }
        },
    )
}

fn injections() -> Vec<Entry> {
    fn bench() -> Bench {
        let bench = Bench::new(2, 1);
        bench
            .vm
            .map(bench.cpu(), 1, MSIS.into(), FIRST_LPI.into(), |_| 0);
        bench
    }
    fn inject(bench: &mut Bench, count: u32) {
        for event in 0..count {
            bench.vm.inject(bench.cpu(), 1, event);
        }
    }
    vec![
        Entry::new("inject_msi/new", MSIS.into(), || {
            let drain = |bench: &mut Bench| {
                bench.vm.drain(bench.cpu(), 0);
            };
            operation(bench(), drain, |bench| inject(bench, MSIS))
        }),
        Entry::new("inject_msi/pending", MSIS.into(), || {
            let mut bench = bench();
            inject(&mut bench, MSIS);
            operation(bench, |_| {}, |bench| inject(bench, MSIS))
        }),
        // Several injections under one pin, as on the work of one exit.
        Entry::new("inject_msi/pending_under_one_pin", MSIS.into(), || {
            let mut bench = bench();
            inject(&mut bench, MSIS);
            operation(
                bench,
                |_| {},
                |bench| {
                    let pin = bench.cpu().pin();
                    let _entered = internals::guard(&pin);
                    inject(bench, MSIS);
                },
            )
        }),
        // In a list register, acknowledged and ended by the guest: queued and not pending.
        Entry::new("inject_msi/in_list_register", 4, || {
            let mut inside = false;
            operation(
                bench(),
                move |bench| {
                    if inside {
                        bench.vm.exit(bench.cpu(), 0);
                    }
                    bench.vm.drain(bench.cpu(), 0);
                    inject(bench, 4);
                    bench.vm.enter(bench.cpu(), 0);
                    bench.vm.guest(bench.cpu(), |_| {});
                    inside = true;
                },
                |bench| inject(bench, 4),
            )
        }),
        Entry::new("inject_spi/new", 32, || {
            let bench = Bench::new(1, 1);
            (32..64).for_each(|spi| bench.vm.edge_spi(bench.cpu(), spi));
            let drain = |bench: &mut Bench| {
                bench.vm.drain(bench.cpu(), 0);
            };
            operation(bench, drain, |bench| {
                for spi in 32..64 {
                    let spi = vgic::intid::IntId::spi(spi).expect("an SPI");
                    let _ = bench.vm.vgic.inject_spi(&bench.cpu().pin(), spi);
                }
            })
        }),
    ]
}

/// Signals of an event by a device of `lpi_stress` for one acknowledgement by its guest.
const SIGNALS: u64 = 16;

/// Returns the work of `lpi_stress`'s devices alone: each event many times, pending for all but the
/// first.
fn storms() -> Vec<Entry> {
    [(1_u32, 1_u32, 1_u32), (16, 16, 16)]
        .map(|(vcpus, devices, events)| {
            let name = format!("lpi_stress/{vcpus}/{devices}/{events}/accepted");
            let each = u64::from(devices * events);
            Entry::new(name, SIGNALS * each, move || {
                let bench = Bench::new(vcpus as usize, 1);

                for device in 0..devices {
                    let first = u64::from(FIRST_LPI + device * events);
                    bench
                        .vm
                        .map(bench.cpu(), device.into(), events.into(), first, |event| {
                            event % u64::from(vcpus)
                        });
                }

                let drain = move |bench: &mut Bench| {
                    for n in 0..vcpus as usize {
                        bench.vm.drain(bench.cpu(), n);
                    }
                };

                operation(bench, drain, move |bench| {
                    for _ in 0..SIGNALS {
                        for device in 0..devices {
                            for event in 0..events {
                                bench.vm.inject(bench.cpu(), device, event);
                            }
                        }
                    }
                })
            })
        })
        .into()
}

/// Returns `ICC_SGI1R_EL1` for SGI `intid` to vCPU `n`.
fn to_one(n: usize, intid: u64) -> u64 {
    intid << 24 | (n as u64 / 16) << 16 | 1 << (n % 16)
}

/// `ICC_SGI1R_EL1` for SGI 1 to all vCPUs except the sender.
const TO_OTHERS: u64 = 1 << 40 | 1 << 24;

fn sgis() -> Vec<Entry> {
    /// Sends each of the 16 SGIs to one of 4,095 vCPUs.
    fn unicast(target: usize) -> Box<dyn Operation> {
        operation(
            Bench::new(4095, 1),
            move |bench| {
                bench.vm.drain(bench.cpu(), target);
            },
            move |bench| {
                for intid in 0..16 {
                    bench.vm.sgi(bench.cpu(), 0, to_one(target, intid));
                }
            },
        )
    }

    let mut entries = vec![
        Entry::new("sgi_unicast/first_of_4095", 16, || unicast(1)),
        Entry::new("sgi_unicast/last_of_4095", 16, || unicast(4094)),
        // One write for each of the 511 others: the writes saved by a broadcast.
        Entry::new("sgi/unicast/each_of_512", 511, || {
            operation(
                Bench::new(512, 1),
                |bench| {
                    for target in 1..512 {
                        bench.vm.drain(bench.cpu(), target);
                    }
                },
                |bench| {
                    for target in 1..512 {
                        bench.vm.sgi(bench.cpu(), 0, to_one(target, 1));
                    }
                },
            )
        }),
    ];
    /// Sends an SGI to all other vCPUs by `send`.
    fn broadcast(vcpus: usize, send: fn(&mut Bench)) -> Entry {
        let name = format!("sgi/broadcast/{vcpus}");
        Entry::new(name, vcpus as u64 - 1, move || {
            operation(
                Bench::new(vcpus, 1),
                move |bench| {
                    for target in 1..vcpus {
                        bench.vm.drain(bench.cpu(), target);
                    }
                },
                send,
            )
        })
    }

    for vcpus in [8, 64, 512] {
        let send = |bench: &mut Bench| bench.vm.sgi(bench.cpu(), 0, TO_OTHERS);
        entries.push(broadcast(vcpus, send));
    }
    // With the slices that are deferred.
    entries.push(broadcast(4095, |bench| {
        bench.vm.sgi(bench.cpu(), 0, TO_OTHERS);
        bench.vm.advance(bench.cpu());
    }));
    entries
}

fn commands() -> Vec<Entry> {
    const DEVICE: u64 = 1;
    type Commands = fn(u64) -> Command;
    /// Sends `run` for each of a device's events, in one batch, after `prepare` for each.
    fn each(prepare: Option<Commands>, run: Commands) -> Box<dyn Operation> {
        let bench = Bench::new(4, 1);
        bench
            .vm
            .map(bench.cpu(), DEVICE, FEW, FIRST_LPI.into(), |_| 0);
        operation(
            bench,
            move |bench| {
                if let Some(prepare) = prepare {
                    (0..FEW).for_each(|n| bench.vm.send(bench.cpu(), prepare(n)));
                }
                bench.vm.drain(bench.cpu(), 0);
            },
            move |bench| {
                (0..FEW).for_each(|n| bench.vm.queue(run(n)));
                bench.vm.run_queue(bench.cpu());
            },
        )
    }
    fn lpi(n: u64) -> u64 {
        u64::from(FIRST_LPI) + n
    }

    let map: Commands = |n| Command::mapti(DEVICE, n, lpi(n), 0);
    let discard: Commands = |n| Command::discard(DEVICE, n);
    let map_device: Commands = |n| Command::mapd(100 + n, 5);
    let unmap_device: Commands = |n| Command::unmap_device(100 + n);

    let single: [(&str, Option<Commands>, Commands); 14] = [
        ("mapd", Some(unmap_device), map_device),
        ("mapd_unmap", Some(map_device), unmap_device),
        ("mapc", None, |n| Command::mapc(3, n % 4)),
        ("mapti", Some(discard), map),
        ("mapi", None, |_| Command::mapi(DEVICE, 0, 0)),
        ("movi", None, |n| Command::movi(DEVICE, n, n % 2)),
        ("movall", None, |_| Command::movall(2, 3)),
        ("int", None, |n| Command::int(DEVICE, n)),
        ("clear", None, |n| Command::clear(DEVICE, n)),
        ("discard", Some(map), discard),
        ("inv", None, |n| Command::inv(DEVICE, n)),
        ("invall", None, |_| Command::invall(0)),
        ("sync", None, |_| Command::sync(0)),
        ("unmapped", None, |n| Command::int(DEVICE + 1, n)),
    ];

    let mut entries: Vec<Entry> = single
        .into_iter()
        .map(|(name, prepare, run)| {
            Entry::new(format!("its_commands/{name}"), FEW, move || {
                each(prepare, run)
            })
        })
        .collect();

    entries.push(Entry::new(
        "its_commands/full_queue",
        QUEUE_COMMANDS - 1,
        || {
            let bench = Bench::new(4, 1);
            bench
                .vm
                .map(bench.cpu(), DEVICE, FEW, FIRST_LPI.into(), |_| 0);
            operation(
                bench,
                |_| {},
                |bench| {
                    for n in 1..QUEUE_COMMANDS {
                        bench.vm.queue(Command::movi(DEVICE, n % FEW, n % 3));
                    }
                    bench.vm.run_queue(bench.cpu());
                },
            )
        },
    ));
    entries
}

fn registers() -> Vec<Entry> {
    /// The register's name, its address, its width, and the value of a write or `None` for a read.
    /// A redistributor's address is an offset from its base.
    type Access = (&'static str, u64, Width, Option<u64>);
    const REDISTRIBUTOR: u64 = 0;
    let accesses: [Access; 13] = [
        ("GICD_CTLR_read", GICD, Width::Word, None),
        ("GICD_TYPER_read", GICD + 0x4, Width::Word, None),
        ("GICD_ISENABLER_read", GICD + 0x104, Width::Word, None),
        (
            "GICD_ISENABLER_write",
            GICD + 0x104,
            Width::Word,
            Some(1 << 8),
        ),
        ("GICD_ISPENDR_read", GICD + 0x204, Width::Word, None),
        (
            "GICD_ICACTIVER_write",
            GICD + 0x384,
            Width::Word,
            Some(1 << 8),
        ),
        (
            "GICD_IPRIORITYR_write",
            GICD + 0x428,
            Width::Byte,
            Some(0xa0),
        ),
        ("GICD_IROUTER_write", GICD + 0x6140, Width::Double, Some(1)),
        ("GICR_TYPER_read", REDISTRIBUTOR + 0x8, Width::Double, None),
        (
            "GICR_ISENABLER0_write",
            REDISTRIBUTOR + 0x1_0100,
            Width::Word,
            Some(1 << 20),
        ),
        ("GICR_SYNCR_read", REDISTRIBUTOR + 0xc0, Width::Word, None),
        ("GITS_CREADR_read", GITS + 0x90, Width::Double, None),
        ("GITS_CWRITER_write", GITS + 0x88, Width::Double, Some(0)),
    ];

    accesses
        .into_iter()
        .map(|(name, address, width, value)| {
            Entry::new(format!("mmio/{name}"), FEW, move || {
                let bench = Rc::new(Bench::new(2, 1));
                // A write of GITS_CWRITER keeps the value.
                let value = match name {
                    "GITS_CWRITER_write" => Some(bench.vm.read(bench.cpu(), 0, address, width)),
                    _ => value,
                };

                let address = match address {
                    0..0x2_0000 => bench.vm.gicr(1) + address,
                    _ => address,
                };

                operation(
                    bench,
                    |_| {},
                    move |bench| {
                        for _ in 0..FEW {
                            match value {
                                None => {
                                    black_box(bench.vm.read(bench.cpu(), 0, address, width));
                                }
                                Some(value) => bench.vm.write(bench.cpu(), address, width, value),
                            }
                        }
                    },
                )
            })
        })
        .collect()
}
