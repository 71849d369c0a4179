//! The end of the run: the counters are printed as one line that begins with `@vgic`, and the
//! machine is powered off or reset.

use alloc::string::String;
use core::fmt::{self, Write};

use scheduler::Counts;
use smccc::Smc;
use smccc::psci;
use vgic::intid::Kind;

use crate::cpu::clock;
use crate::cpu::percpu;
use crate::cpu::rendezvous::free_garbage;
use crate::cpu::this_cpu::ThisCpu;
use crate::exception::report;
use crate::gic;
use crate::memory::heap;
use crate::println;
use crate::schedule;
use crate::smmu;
use crate::vcpu::{ExitReason, Vcpu};
use crate::vm::changes::Changes;
use crate::vm::lifetime::{End, Remains};
use crate::vm::saved::Moments;
use crate::vm::{self, Vm};

/// Prints the report and ends the machine's run. Every VM is dead.
pub(crate) fn finish(this: &ThisCpu, end: End) -> ! {
    report::finish();
    #[cfg(feature = "pmu")]
    crate::measure::report::print();
    let heap_at_end = heap::used();
    free_garbage(this);
    this.ledger.settle(&this.vgic_cpu.pin());
    let heap_after = heap::used();

    let mut report = String::new();
    let written = write_report(&mut report, [heap_at_end, heap_after]);
    debug_assert!(written.is_ok(), "a string takes what is written");
    println!("\n@vgic {report}");
    let error = match end {
        End::Reset => psci::system_reset::<Smc>(),
        End::Off | End::Killed => psci::system_off::<Smc>(),
    };
    panic!("the firmware does not carry out {end:?}: {error:?}");
}

/// Writes the report as an object. `heap` has the bytes of the heap in use before and after the
/// garbage was freed.
fn write_report(report: &mut String, heap: [usize; 2]) -> fmt::Result {
    let mut remains = Remains::default();
    vm::all()
        .iter()
        .for_each(|vm| remains.add(&vm.lifetime.remains()));
    let totals = vm::domain().totals();
    let mut withdrawn = totals.withdrawn;
    // The pending states that a teardown withdraws are counted as pending.
    for (count, by_teardown) in withdrawn.iter_mut().zip(&remains.withdrawn) {
        *count -= by_teardown;
    }

    write!(report, "{{")?;
    write_kinds(report, "injections", &totals.injections)?;
    write_kinds(report, "coalesced", &totals.coalesced)?;
    write_kinds(report, "deliveries", &totals.deliveries)?;
    write_kinds(report, "withdrawn", &withdrawn)?;
    write_kinds(report, "pending", &remains.pending)?;
    let mut result = Ok(());
    totals.for_each(|name, count| {
        result = result.and_then(|()| write!(report, "\"{name}\":{count},"));
    });
    result?;
    if let Some(smmu) = smmu::get() {
        write!(report, "\"dma_faults\":{},", smmu.faults())?;
    }

    let changes = vm::all().iter().filter_map(|vm| vm.changes.as_ref());
    let changes: u64 = changes.map(Changes::count).sum();
    write!(report, "\"direct_changes\":{changes},")?;
    if gic::get().has_virtual_lpis() {
        let vcpus: usize = vm::all().iter().map(|vm| vm.direct_vcpus()).sum();
        write!(report, "\"direct_vcpus\":{vcpus},")?;
    }

    write!(report, "\"vms\":[")?;
    for (place, vm) in vm::all().iter().enumerate() {
        write!(report, "{}", comma(place))?;
        write_vm(report, vm)?;
    }
    write!(report, "],\"scheduler\":")?;
    write_scheduler(report)?;
    write!(
        report,
        ",\"heap\":{{\"before\":{},\"most\":{},\"end\":{},\"after\":{}}},",
        heap::used_at_start(),
        heap::most_used(),
        heap[0],
        heap[1]
    )?;

    let all = || vm::all().iter().flat_map(|vm| vm.vcpus());
    #[cfg(feature = "el2-time")]
    crate::cpu::el2_time::recorded::write_json(report, all())?;
    write_exits(report, all)?;
    write!(report, ",\"refs_at_teardown\":{}}}", remains.references)
}

/// Writes what is known of one VM, as an object.
fn write_vm(report: &mut String, vm: &'static Vm) -> fmt::Result {
    let remains = vm.lifetime.remains();
    write!(
        report,
        "{{\"name\":\"{}\",\"deaths\":{},\"resets\":{},\"saves\":{},",
        vm.name,
        remains.deaths,
        remains.resets,
        vm.moments.as_ref().map_or(0, Moments::saves)
    )?;
    write_kinds(report, "injections", &vm.counts.injections())?;
    write_kinds(report, "deliveries", &vm.counts.deliveries())?;
    write_kinds(report, "pending", &remains.pending)?;
    #[cfg(feature = "el2-time")]
    crate::cpu::el2_time::recorded::write_json(report, vm.vcpus().iter())?;
    write_exits(report, || vm.vcpus().iter())?;
    let delays = vm.vcpus().iter().map(|vcpu| vcpu.delay.longest());
    write!(
        report,
        ",\"longest_delay_us\":{}",
        clock::microseconds(delays.max().unwrap_or(0))
    )?;
    write!(report, ",\"refs_at_teardown\":{}}}", remains.references)
}

/// Writes the scheduler's counts of all CPUs, as an object.
fn write_scheduler(report: &mut String) -> fmt::Result {
    let mut sum = Counts::default();
    for cpu in 0..percpu::all().len() {
        let counts = schedule::counts(cpu);
        sum.steals += counts.steals;
        sum.moves += counts.moves;
        sum.wake_ups += counts.wake_ups;
        sum.preemptions += counts.preemptions;
        sum.longest_wait = sum.longest_wait.max(counts.longest_wait);
    }
    write!(
        report,
        "{{\"wait_bound_us\":{},\"steals\":{},\"moves\":{},\"wake_ups\":{},\
         \"preemptions\":{},\
         \"longest_wait_us\":{}}}",
        schedule::wait_bound_us(),
        sum.steals,
        sum.moves,
        sum.wake_ups,
        sum.preemptions,
        clock::microseconds(sum.longest_wait)
    )
}

/// Writes the exits of vCPUs by reason, as a member of an object.
fn write_exits<'v, I>(report: &mut String, vcpus: impl Fn() -> I) -> fmt::Result
where
    I: Iterator<Item = &'v Vcpu>,
{
    write!(report, "\"exits\":{{")?;
    for (place, reason) in ExitReason::ALL.into_iter().enumerate() {
        let count: u64 = vcpus().map(|vcpu| vcpu.exits(reason)).sum();
        write!(report, "{}\"{}\":{count}", comma(place), reason.name())?;
    }
    write!(report, "}}")
}

/// Writes one count by kind of interrupt, as a member of an object with a comma after it.
fn write_kinds(report: &mut String, name: &str, counts: &[u64; Kind::COUNT]) -> fmt::Result {
    write!(report, "\"{name}\":{{")?;
    for (place, kind) in Kind::ALL.into_iter().enumerate() {
        let count = counts[kind as usize];
        write!(report, "{}\"{}\":{count}", comma(place), kind.name())?;
    }
    write!(report, "}},")
}

/// Returns the separator before a member.
fn comma(place: usize) -> &'static str {
    if place == 0 { "" } else { "," }
}
