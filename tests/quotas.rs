//! Bounded memory: the library's heap stays below its quotas (SECURITY.md) under any guest.
#![expect(unsafe_code)]
// UNSAFETY: a global allocator is an unsafe trait. The allocator here forwards every call.
#![cfg(not(miri))]

mod common;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::mpsc;

use common::its::Driver;
use common::{GITS, Machine, TestHost, affinity, vcpu};
use vgic::config::ItsConfig;
use vgic::epoch::{Domain, Garbage};
use vgic::intid::{CpuId, VcpuId};
use vgic::{Config, TeardownError, Vgic};

struct Heap;

thread_local! {
    /// Bytes allocated and not freed by this thread, and their maximum.
    static LIVE: Cell<(isize, isize)> = const { Cell::new((0, 0)) };
}

fn count(bytes: isize) {
    let (live, most) = LIVE.get();
    LIVE.set((live + bytes, most.max(live + bytes)));
}

// SAFETY: the system's allocator does the work.
unsafe impl GlobalAlloc for Heap {
    // The default implementations of the other methods call `alloc` and `dealloc`.
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size() as isize);
        // SAFETY: the caller upholds the contract of `alloc`, and `layout` is passed on unchanged.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        count(-(layout.size() as isize));
        // SAFETY: the caller upholds the contract of `dealloc`: `block` came from `alloc`, hence
        // from `System`.
        unsafe { System.dealloc(block, layout) }
    }
}

#[global_allocator]
static HEAP: Heap = Heap;

/// Returns a VM with small quotas: memory outside the quotas shows.
fn machine() -> Machine {
    let machine = Machine::from_config(config());
    machine.set_up();
    machine
}

fn config() -> Config {
    Config {
        lpis: 1024,
        its: vec![ItsConfig {
            max_devices: 64,
            max_events: 2048,
            collections: 16,
            ..ItsConfig::at(GITS)
        }],
        ..Config::new((0..2).map(affinity).collect())
    }
}

/// Returns the bytes that the guest can make the library allocate: the formula of SECURITY.md for
/// the configuration above.
fn allowed(machine: &Machine) -> isize {
    const NODE: isize = 2048 + 64;
    let config = machine.vm.config();
    let its = &config.its[0];
    let device_levels = its.device_bits.div_ceil(8) as isize;
    let (devices, events) = (its.max_devices as isize, its.max_events as isize);
    let lpis = config.lpis as isize;
    devices * (256 + (device_levels - 1) * NODE) + events * 16 + lpis * 160 + lpis / 256 * NODE
}

/// Memory not yet freed by the epoch, and the tests' own: the guest's RAM and the recorded calls.
const SLACK: isize = 256 * 1024;

/// Returns the largest growth of the heap during `attack`.
fn growth(attack: impl FnOnce()) -> isize {
    let (live, _) = LIVE.get();
    LIVE.set((live, live));
    attack();
    LIVE.get().1 - live
}

#[test]
fn a_guest_cannot_take_more_than_its_quotas() {
    let machine = machine();
    let driver = Driver::new(&machine);
    let allowed = allowed(&machine);
    // Touch every page of the queue before the measurement.
    (0..4096).for_each(|_| driver.sync(0));
    machine.vm.host().take_calls();

    let first = growth(|| {
        // Devices as far apart as possible, with as many events as possible, all mapped.
        for n in 0..1000 {
            driver.mapd(n * 257 % 0x1_0000, 5);
            for event in 0..32 {
                driver.mapti(
                    n * 257 % 0x1_0000,
                    event,
                    8192 + (n * 32 + event) % 1100,
                    n % 20,
                );
            }
            machine.vm.host().take_calls();
        }
    });
    assert!(first <= allowed + SLACK, "{first} bytes, at most {allowed}");
    println!("mapping: {first} bytes of {allowed}");

    // Unmapping frees memory: repetition needs no more.
    for round in 0..20 {
        let more = growth(|| {
            for n in 0..200 {
                let device = (n * 257 + round) % 0x1_0000;
                driver.unmap_device(device);
                driver.mapd(device, 4);
                driver.mapti(device, 3, 8192 + n, 0);
                let _ = machine.inject_msi(device as u32, 3);
                driver.discard(device, 3);
                machine.vm.host().take_calls();
            }
            for n in 0..1000 {
                driver.unmap_device(n * 257 % 0x1_0000);
            }
        });
        assert!(more <= SLACK, "round {round}: {more} bytes more");
    }
    let commands = machine.domain.totals();
    assert!(
        commands.its_command_errors > 10_000,
        "the quotas were reached"
    );
    machine.finish();
}

/// Raises SGIs, lines, edges and MSIs without end. Interrupts coalesce and are not queued.
#[test]
fn storms_allocate_nothing() {
    let machine = machine();
    let driver = Driver::new(&machine);
    driver.mapd(0, 8);
    for event in 0..200 {
        driver.map(0, event, 8192 + event, event % 2);
    }

    machine.enter(0);
    machine.vm.host().take_calls();

    let grown = growth(|| {
        for n in 0..20_000_u32 {
            machine.inject_spi(32 + n % 900);
            let _ = machine.inject_msi(0, n % 200);
            machine.sysreg(
                0,
                vgic::sysreg::SysReg::Sgi1r,
                1 << 40 | u64::from(n % 16) << 24,
            );
            machine.write(1, common::GICD + 0x84, n);
            if n % 16 == 0 {
                machine.bounce(0);
                machine.vm.host().take_calls();
            }
        }
    });

    assert!(grown <= 64 * 1024, "{grown} bytes");
    machine.finish();
}

/// Unmaps devices from full queues. The epoch frees their memory as fast as devices are unmapped.
#[test]
fn what_is_unmapped_does_not_pile_up() {
    let machine = machine();
    let driver = Driver::new(&machine);
    // Each device needs a table node of its own.
    let command = |n: u64, valid: u64| [0x08 | (n << 8) << 32, 0, valid << 63 | 0x4000_0000, 0];
    let both = (0..16).flat_map(|n| [command(n, 1), command(n, 0)]);
    let commands: Vec<_> = both.collect();

    let round = || {
        driver.send_all(&commands);
        machine.vm.host().take_calls();
    };

    (0..300).for_each(|_| round());
    let grown = growth(|| (0..300).for_each(|_| round()));
    assert!(grown <= SLACK, "{grown} bytes");
    machine.finish();
}

/// Restores a state over and over, and unmaps some of its LPIs. The memory of a state that has been
/// replaced is freed.
#[test]
fn what_is_restored_does_not_pile_up() {
    let machine = machine();
    let driver = Driver::new(&machine);
    driver.mapd(0, 8);
    for event in 0..200 {
        driver.map(0, event, 8192 + event * 3, event % 2);
    }
    machine.put_all();
    let state = machine.vm.save(&machine.pin()).unwrap();

    let round = || {
        while machine.vm.restore(&machine.pin(), &state).is_err() {
            machine.pin().collect_garbage();
        }
        for event in 0..3 {
            driver.discard(0, event);
        }
        machine.advance();
        machine.vm.host().take_calls();
    };
    (0..100).for_each(|_| round());
    let grown = growth(|| (0..100).for_each(|_| round()));
    assert!(grown <= SLACK, "{grown} bytes");
    machine.finish();
}

/// Bytes of a VM that wait for the epoch at most, with the bookkeeping of the epoch.
const UNRECLAIMED: isize = (Garbage::LIMIT * Garbage::PIECE) as isize;

/// Runs `work` while another CPU of the domain stays in the epoch.
fn beside_a_stalled_cpu(domain: &Domain, work: impl FnOnce()) {
    let (stalled, is_stalled) = mpsc::channel();
    let (go_on, goes_on) = mpsc::channel::<()>();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            let cpu = domain.register(CpuId(1000)).unwrap();
            let pin = cpu.pin();
            let _ = vgic::internals::guard(&pin);
            stalled.send(()).unwrap();
            let _ = goes_on.recv();
        });
        is_stalled.recv().unwrap();
        work();
        drop(go_on);
    });
}

/// Returns `MAPTI` and `DISCARD` of one event, over and over: 2 KiB of garbage a round.
fn map_and_discard(rounds: usize) -> Vec<[u64; 4]> {
    let round = [[0x0a, 8192 << 32, 0, 0], [0x0f, 0, 0, 0]];
    std::iter::repeat_n(round, rounds).flatten().collect()
}

/// Maps all that it can and reboots, over and over, while a CPU stalls in the epoch. The reset,
/// and a restore, are refused until the CPU goes on.
#[test]
fn a_guest_that_reboots_beside_a_stalled_cpu_is_bounded() {
    let machine = machine();
    let life = || {
        let driver = Driver::new(&machine);
        for device in 0..4 {
            driver.mapd(device, 8);
            let events = (0..256).map(|event| {
                let lpi = 8192 + device * 256 + event;
                [0x0a | device << 32, event | lpi << 32, 0, 0]
            });
            driver.send_all(&events.collect::<Vec<_>>());
        }
    };
    let reset = || {
        let outcome = machine.vm.reset(&machine.pin());
        if outcome.is_ok() {
            machine.vm.power_on(vcpu(1));
            machine.set_up();
            machine.put_all();
        }
        outcome
    };
    machine.put_all();
    let state = machine.vm.save(&machine.pin()).unwrap();
    life();
    beside_a_stalled_cpu(&machine.domain, || {
        assert_eq!(reset(), Ok(()));
        for _ in 0..3 {
            assert_eq!(reset(), Err(TeardownError::Unreclaimed));
            let restored = machine.vm.restore(&machine.pin(), &state);
            assert_eq!(restored, Err(TeardownError::Unreclaimed.into()));
        }
    });
    let freed = (0..1000).any(|_| reset().is_ok());
    assert!(freed, "the CPU has gone on");
    machine.finish();
}

/// Maps and discards while a CPU stalls in the epoch. The queue stands still at the limit, other
/// VMs' queues do not, and everything goes on, and is freed, after the stall.
#[test]
fn a_stalled_cpu_holds_back_a_queue_and_not_ever_more_memory() {
    let machine = machine();
    let driver = Driver::new(&machine);
    driver.mapd(0, 5);
    let other = Machine::on(machine.domain.clone(), 10, config());
    other.set_up();
    let others = Driver::new(&other);
    others.mapd(0, 5);
    driver.send_all(&map_and_discard(900));
    let before = LIVE.get().0;

    beside_a_stalled_cpu(&machine.domain, || {
        let grown = growth(|| {
            // One round at a time: each leaves a pile of its own.
            (0..2000).for_each(|_| driver.post(&map_and_discard(1)));
            for _ in 0..45 {
                if driver.is_done() {
                    driver.post(&map_and_discard(900));
                }
                // Slices by the guest's polling and by the embedder.
                for _ in 0..100 {
                    let _ = driver.is_done();
                    machine.vm.advance(&machine.pin()).unwrap();
                }
            }
        });
        println!("stalled: {grown} bytes of {UNRECLAIMED}");
        assert!(grown <= UNRECLAIMED, "{grown} bytes");
        assert!(machine.vm.has_deferred() && !driver.is_done());

        // It does not concern another VM's guest.
        let grown = growth(|| others.send_all(&map_and_discard(100)));
        assert!(grown <= UNRECLAIMED, "{grown} bytes");
    });

    driver.wait();
    driver.send_all(&map_and_discard(900));
    let left = LIVE.get().0 - before;
    assert!(left <= SLACK, "{left} bytes are not freed");
    other.finish();
    machine.finish();
}

/// Stalls on the very CPU that executes the commands: an older pin around its work.
#[test]
fn a_cpu_that_holds_itself_back_goes_on_later() {
    let machine = machine();
    let driver = Driver::new(&machine);
    driver.mapd(0, 5);
    let outer = machine.pin();
    let _ = vgic::internals::guard(&outer);

    let grown = growth(|| {
        driver.post(&map_and_discard(1000));
        for _ in 0..1000 {
            machine.vm.advance(&machine.pin()).unwrap();
        }
    });

    assert!(machine.vm.has_deferred() && !driver.is_done());
    assert!(grown <= UNRECLAIMED, "{grown} bytes");
    drop(outer);
    driver.wait();
    machine.finish();
}

/// Leaves garbage on CPUs that do nothing for the VM afterwards, and enter no epoch. No CPU holds
/// anything back, so the queue does not stand still.
#[test]
fn garbage_of_idle_cpus_does_not_hold_a_queue_back() {
    let machine = Machine::from_config(Config {
        lpis: 0x1_0000,
        its: config().its,
        ..Config::new((0..80).map(affinity).collect())
    });
    let driver = Driver::new(&machine);
    driver.mapd(0, 5);

    for n in 1..80 {
        (0..20).for_each(|_| driver.post_from(n, &map_and_discard(1)));
    }
    driver.send_all(&map_and_discard(500));
    machine.finish();
}

/// Drops VMs, full of mappings, while a CPU stalls in the epoch. Nobody refers to a dropped VM: its
/// memory does not wait.
#[test]
fn a_dropped_vm_is_freed_beside_a_stalled_cpu() {
    let mut machine = machine();
    let domain = machine.domain.clone();
    // Puts another VM, full of mappings, in place of the present one.
    let mut churn = || {
        machine.vm = Vgic::new(&machine.domain, config(), TestHost::default()).unwrap();
        let driver = Driver::new(&machine);
        driver.mapd(0, 8);
        (0..200).for_each(|event| driver.mapti(0, event, 8192 + event, 0));
    };

    churn();
    beside_a_stalled_cpu(&domain, || {
        let grown = growth(|| (0..50).for_each(|_| churn()));
        assert!(grown <= SLACK, "{grown} bytes");
    });
}

/// Measures a vCPU and its share of the VM's tables.
#[test]
fn a_vcpu_takes_less_than_a_page() {
    let bytes = |count: usize| {
        let domain = Domain::new();
        let config = Config::new((0..count).map(affinity).collect()).with_its(GITS);
        let (live, _) = LIVE.get();
        let vm = Vgic::new(&domain, config, TestHost::default()).unwrap();
        let taken = LIVE.get().0 - live;
        drop(vm);
        taken
    };

    let most = VcpuId::MAX_COUNT;
    let each = (bytes(most) - bytes(1)) / (most as isize - 1);
    println!("a vCPU takes {each} bytes, a VM of one vCPU {}", bytes(1));
    assert!(each < 4096, "{each} bytes");
}
