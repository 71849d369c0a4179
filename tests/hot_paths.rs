//! Injection, entry and exit allocate nothing: the test counts the allocations.
#![expect(unsafe_code)]
// UNSAFETY: a global allocator is an unsafe trait. The allocator here forwards every call.

mod common;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use common::its::Driver;
use common::{Machine, vcpu};
use vgic::intid::IntId;
use vgic::sysreg::SysReg;

struct Heap;

thread_local! {
    /// Allocations of this thread so far.
    static ALLOCATIONS: Cell<usize> = const { Cell::new(0) };
}

// SAFETY: the system's allocator does the work.
unsafe impl GlobalAlloc for Heap {
    // The default implementations of the other methods call `alloc` and `dealloc`.
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        // SAFETY: the caller upholds the contract of `alloc`, and `layout` is passed on unchanged.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: the caller upholds the contract of `dealloc`: `block` came from `alloc`, hence
        // from `System`.
        unsafe { System.dealloc(block, layout) }
    }
}

#[global_allocator]
static HEAP: Heap = Heap;

/// Runs `operation` and asserts the absence of allocations.
fn hot<R>(name: &str, operation: impl FnOnce() -> R) -> R {
    let before = ALLOCATIONS.get();
    let result = operation();
    let allocations = ALLOCATIONS.get() - before;
    assert_eq!(allocations, 0, "{name} allocates");
    result
}

const EVENTS: u64 = 256;

/// Returns a VM of three vCPUs with `EVENTS` LPIs for vCPU 0, SPI 40 for vCPU 1, and SGIs and PPIs
/// for all.
fn machine() -> Machine {
    let machine = Machine::new(3);
    let its = Driver::new(&machine);
    its.mapd(0, 8);
    for event in 0..EVENTS {
        its.map(0, event, 8192 + event, 0);
    }
    machine.edge_spi(40, 1);
    for n in 0..3 {
        let sgis = machine.gicr(n) + 0x1_0000;
        machine.write(n, sgis + 0xc04, 2 << 8); // PPI 20: edge
        machine.write(n, sgis + 0x100, u32::MAX);
    }
    machine
}

/// Reserves room for the host's record of calls: the host's allocations do not count.
fn make_room(machine: &Machine) {
    machine.vm.host().take_calls();
    machine.vm.host().calls.lock().unwrap().reserve(1000);
}

fn guest_takes_all(machine: &Machine, n: usize) -> usize {
    let mut taken = 0;
    loop {
        let intid = machine.guest(n).read_iar1();
        if intid == 1023 {
            return taken;
        }
        machine.guest(n).write_eoir1(intid);
        taken += 1;
    }
}

#[test]
fn the_test_sees_allocations() {
    let before = ALLOCATIONS.get();
    drop(Box::new(5));
    assert_eq!(ALLOCATIONS.get(), before + 1);
}

#[test]
fn inject_enter_and_exit_allocate_nothing() {
    let machine = machine();
    let (spi, ppi) = (IntId::spi(40).unwrap(), IntId::ppi(20).unwrap());

    // Often enough for the epoch to advance and to collect.
    for round in 0..100 {
        make_room(&machine);
        hot("inject_msi", || {
            for event in 0..EVENTS as u32 {
                machine.inject_msi(0, event).unwrap();
                machine.inject_msi(0, event).unwrap();
            }
        });
        hot("inject_spi", || machine.inject_spi(40));
        hot("inject_ppi", || {
            let _ = machine.vm.inject_ppi(&machine.pin(), vcpu(2), ppi).unwrap();
        });
        hot("SGI", || {
            let all_others = 1 << 40 | 5 << 24;
            machine.sysreg(0, SysReg::Sgi1r, all_others);
        });

        for n in 0..3 {
            let mut taken = 0;
            loop {
                hot("enter", || machine.enter(n));
                if taken == 0 {
                    // With the vCPU in the guest: a kick, and a recall.
                    hot("inject_msi into the guest", || {
                        machine.inject_msi(0, round).unwrap();
                    });
                }
                let now = guest_takes_all(&machine, n);
                hot("exit", || machine.exit(n));

                taken += now;
                let cpu = &machine.cpus[n];
                if !hot("has_pending", || {
                    machine.vm.has_pending(&cpu.pin(), vcpu(n)).unwrap()
                }) {
                    break;
                }
            }

            assert!(taken >= [256, 2, 2][n], "{taken} on vCPU {n}");

            if round % 3 == 0 {
                let cpu = &machine.cpus[n];
                hot("put", || machine.vm.vcpu_put(&cpu.pin(), vcpu(n)).unwrap());
            } else {
                let _ = hot("block", || machine.block(n));
            }
        }

        hot("a line", || {
            let pin = machine.pin();
            machine.vm.set_spi_line(&pin, spi, true).unwrap();
            machine.vm.set_spi_line(&pin, spi, false).unwrap();
        });
    }

    machine.finish();
}

/// Checks the fold of an LPI's last reference: the list holds the last reference of an LPI unmapped
/// by the guest, and the fold ends the LPI's life.
#[test]
fn ending_an_lpi_allocates_nothing() {
    let machine = machine();
    let its = Driver::new(&machine);
    machine.enter(0);
    for _ in 0..100 {
        make_room(&machine);
        for event in 0..4_u32 {
            machine.inject_msi(0, event).unwrap();
        }

        machine.bounce(0);
        for event in 0..4_u32 {
            its.discard(0, event.into());
        }

        hot("exit", || machine.exit(0));
        hot("enter", || machine.enter(0));

        for event in 0..4_u32 {
            its.map(0, event.into(), 8192 + u64::from(event), 0);
        }
    }
    machine.finish();
}
