//! Memory that calls leave to the epoch is freed in the course of any VM's work.

mod common;

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use common::its::Driver;
use common::{GITS, Machine, TestHost, affinity, vcpu};
use vgic::epoch::Domain;
use vgic::state::VmState;
use vgic::{Config, Vgic};

/// Counts the bytes in use.
struct Heap;

static IN_USE: AtomicUsize = AtomicUsize::new(0);

// SAFETY: the system's allocator does the work.
#[expect(unsafe_code)]
unsafe impl GlobalAlloc for Heap {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // Relaxed: only counted.
        IN_USE.fetch_add(layout.size(), Relaxed);
        // SAFETY: as the caller promises.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // Relaxed: only counted.
        IN_USE.fetch_sub(layout.size(), Relaxed);
        // SAFETY: as the caller promises.
        unsafe { System.dealloc(pointer, layout) };
    }
}

#[global_allocator]
static HEAP: Heap = Heap;

fn config() -> Config {
    Config::new((0..2).map(affinity).collect()).with_its(GITS)
}

/// Returns a VM with an event on CPU 1, whose MSIs are the work of a domain that goes on.
fn busy(domain: &Arc<Domain>) -> Machine {
    let machine = Machine::on(domain.clone(), 0, config());
    machine.set_up();
    let its = Driver::new(&machine);
    its.mapd(7, 3);
    its.map(7, 5, 9000, 1);
    machine
}

/// Returns a machine, and its state with 8 devices of so many LPIs.
fn with_lpis(count: u64) -> (Machine, VmState) {
    let machine = Machine::new(2);
    let its = Driver::new(&machine);
    for device in 0..8 {
        its.mapd(device, 10);
        for event in 0..count {
            its.map(device, event, 8192 + device * count + event, 0);
        }
    }
    machine.put_all();
    let state = machine.save();
    (machine, state)
}

/// Does work of a VM: pins alone free what waits.
fn work(machine: &Machine) {
    for _ in 0..5_000 {
        machine.inject_msi(7, 5).unwrap();
    }
}

// One test: the heap is counted as a whole.
#[test]
fn what_a_call_leaves_is_freed_while_another_vm_works() {
    let domain = Arc::new(Domain::new());
    let stays = busy(&domain);
    let (source, state) = with_lpis(400);

    let mut in_use = Vec::new();
    for _ in 0..6 {
        let host = TestHost::default();
        host.copy_ram(source.vm.host());
        let vm = Vgic::new(&domain, config(), host).unwrap();
        vm.restore(&stays.pin(), &state).unwrap();
        vm.teardown(&stays.pin()).unwrap();
        drop(vm);
        work(&stays);
        // Relaxed: one thread allocates.
        in_use.push(IN_USE.load(Relaxed));
    }
    let (first, last) = (in_use[1], in_use[5]);
    assert!(
        last < first + 64 * 1024,
        "restored and torn down: {in_use:?}"
    );

    // A restore is refused while too much of what the one before has unmapped waits.
    for _ in 0..8 {
        source.vm.restore(&source.pin(), &state).unwrap();
        for _ in 0..5_000 {
            source.inject_msi(0, 5).unwrap();
        }
    }

    stays.put_all();
    stays.power_off(1);
    let before = IN_USE.load(Relaxed);
    for _ in 0..500 {
        stays.vm.remove_vcpu(&stays.pin(), vcpu(1)).unwrap();
        stays.vm.add_vcpu(&stays.pin(), affinity(1)).unwrap();
    }
    let after = IN_USE.load(Relaxed);
    assert!(
        after < before + 64 * 1024,
        "{before} bytes, and {after} after 500 vCPUs"
    );
}
