//! The end of the run: every vCPU is put, the interrupt controllers are taken apart, and the
//! counters are printed.
#![expect(unsafe_code)]
// UNSAFETY: takes the controllers back from the references that all CPUs shared.

use alloc::boxed::Box;
use alloc::string::String;
use core::fmt::Write;
use core::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use aarch64_cpu::asm;
use smccc::Smc;
use smccc::psci;

use super::schedule::TIME_SLICE_US;
use super::{Controller, Vm, Vms};
use crate::cpu::percpu::{self, ExitReason, PerCpu};
use crate::memory::heap;
use crate::println;
use crate::vm;

/// Set when every CPU has to stop.
static STOPPING: AtomicBool = AtomicBool::new(false);

/// Calls that free the garbage of every CPU. Each frees several bags.
const FLUSHES: usize = 256;

/// Number of CPUs that have stopped.
static STOPPED: AtomicUsize = AtomicUsize::new(0);

/// Bytes of the heap in use before the first time slice.
static HEAP_BEFORE: AtomicUsize = AtomicUsize::new(0);
/// Most bytes of the heap seen in use.
static HEAP_MOST: AtomicUsize = AtomicUsize::new(0);

/// Samples the heap, on the first CPU, after a time slice. The first call precedes every time
/// slice.
pub(super) fn sample_heap(cpu: &PerCpu) {
    if cpu.index == 0 {
        let used = heap::used();
        // Relaxed, here and in `report`: one writer, and a reader that comes after all writes.
        HEAP_MOST.fetch_max(used, Ordering::Relaxed);
        let _ = HEAP_BEFORE.compare_exchange(0, used, Ordering::Relaxed, Ordering::Relaxed);
    }
}

/// Returns true if the calling CPU has to [`stop_cpu`].
pub(super) fn is_stopping() -> bool {
    // Acquire: pairs with the Release in `request_stop`.
    STOPPING.load(Ordering::Acquire)
}

/// Asks every CPU to stop.
pub(super) fn request_stop() {
    // Release: pairs with the Acquire in `is_stopping`.
    STOPPING.store(true, Ordering::Release);
}

/// Stops the calling CPU for good. Its data is `this`, and no vCPU is loaded. The first CPU prints
/// the report and powers the machine off.
pub(super) fn stop_cpu(this: &PerCpu, vms: &Vms) -> ! {
    for cpu in percpu::all().iter().filter(|cpu| cpu.index != this.index) {
        vms.gic.kick(cpu.index);
    }
    // Passes this CPU's garbage on, so that the first CPU can free it.
    this.vgic_cpu().pin().collect_garbage();
    // Release: pairs with the Acquire in the loop of the first CPU.
    STOPPED.fetch_add(1, Ordering::Release);
    if this.index != 0 {
        loop {
            asm::wfe();
        }
    }

    while STOPPED.load(Ordering::Acquire) < percpu::all().len() {
        core::hint::spin_loop();
    }
    println!(
        "\n@vms {}",
        report(this, vms).expect("a string takes what is written")
    );
    let error = psci::system_off::<Smc>();
    panic!("the firmware does not power the machine off: {error:?}");
}

/// Takes the controllers apart and returns the counters as an object.
fn report(this: &PerCpu, vms: &Vms) -> Result<String, core::fmt::Error> {
    let end = heap::used();
    let before = vms.domain.totals();
    let mut report = String::new();
    write!(report, "{{\"slice_us\":{TIME_SLICE_US},\"vms\":[")?;

    for vm in &vms.all {
        let comma = if vm.index == 0 { "" } else { "," };
        write!(report, "{comma}{{")?;
        write_vm(&mut report, this, vm)?;
        write!(report, "}}")?;
    }

    write!(report, "],")?;
    vm::shutdown::write_counts(&mut report, &before)?;
    // Frees the unreachable objects. Several rounds, because each may begin an epoch.
    (0..FLUSHES).for_each(|_| this.vgic_cpu().pin().collect_garbage());
    let mut result = Ok(());
    // Counted after the teardown, whose unmapping and unlinking belongs to the balance.
    vms.domain.totals().for_each(|name, count| {
        result = result.and_then(|()| write!(report, "\"{name}\":{count},"));
    });
    result?;

    write!(
        report,
        "\"heap\":{{\"before\":{},\"most\":{},\"end\":{end},\"after\":{}}}}}",
        HEAP_BEFORE.load(Ordering::Relaxed),
        HEAP_MOST.load(Ordering::Relaxed),
        heap::used()
    )?;
    Ok(report)
}

/// Takes the VM's controller apart and writes its counters, as members of an object.
fn write_vm(report: &mut String, this: &PerCpu, vm: &Vm) -> core::fmt::Result {
    let controller: *const Controller = vm.controller;
    // SAFETY: the controller was leaked from a box. Every other CPU has stopped, and this CPU does
    // not use the old reference any more.
    let controller = unsafe { Box::from_raw(controller.cast_mut()) };
    let remains = match controller.teardown(&this.vgic_cpu().pin()) {
        Ok(remains) => remains,
        Err(error) => panic!("{error}"),
    };
    write!(report, "\"refs_at_teardown\":{},", remains.references)?;
    vm::shutdown::write_kinds(report, "pending", &remains.pending)?;

    let longest = vm
        .vcpus
        .iter()
        .map(|vcpu| vcpu.longest_el2_time.nanoseconds());

    let nanoseconds = longest.max().unwrap_or(0);
    write!(report, "\"longest_el2_time_ns\":{nanoseconds},\"exits\":{{")?;
    for (place, reason) in ExitReason::ALL.into_iter().enumerate() {
        let comma = if place == 0 { "" } else { "," };
        let counts = vm
            .vcpus
            .iter()
            .map(|vcpu| vcpu.exits[reason as usize].get());
        write!(
            report,
            "{comma}\"{}\":{}",
            reason.name(),
            counts.sum::<u64>()
        )?;
    }
    write!(report, "}}")
}
