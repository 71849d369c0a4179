//! Bounded memory: the library's heap stays below its quotas (SECURITY.md) under any guest.
#![expect(unsafe_code)]
// UNSAFETY: a global allocator is an unsafe trait. The allocator here forwards every call.
#![cfg(not(miri))]

mod common;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use common::its::Driver;
use common::{GITS, Machine, affinity};
use vgic::Config;
use vgic::config::ItsConfig;

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
    let config = Config {
        lpi_bits: 10,
        its: vec![ItsConfig {
            max_devices: 64,
            max_events: 2048,
            collections: 16,
            ..ItsConfig::at(GITS)
        }],
        ..Config::new((0..2).map(affinity).collect())
    };
    let machine = Machine::from_config(config);
    machine.set_up();
    machine
}

/// Returns the bytes that the guest can make the library allocate: the formula of SECURITY.md for
/// the configuration above.
fn allowed(machine: &Machine) -> isize {
    const NODE: isize = 2048 + 64;
    let config = machine.vm.config();
    let its = &config.its[0];
    let device_levels = its.device_bits.div_ceil(8) as isize;
    let (devices, events) = (its.max_devices as isize, its.max_events as isize);
    let lpis = 1_isize << config.lpi_bits;
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
