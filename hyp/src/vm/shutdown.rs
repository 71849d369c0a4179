//! Shutdown and reset of the guest's machine: every vCPU is put, the interrupt controller is taken
//! apart, and the counters are printed.

use alloc::string::String;
use core::fmt::Write;
use core::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use aarch64_cpu::asm;
use smccc::Smc;
use smccc::psci;
use vgic::intid::Kind;
use vgic::trace::Totals;

use super::guest::get;
use crate::cpu::percpu::{self, ExitReason, PerCpu};
use crate::exception::report;
use crate::println;
use crate::smmu;

/// Set when the guest's machine goes down: every CPU puts its vCPU and stops.
static STOPPING: AtomicBool = AtomicBool::new(false);

/// Number of CPUs that have stopped.
static STOPPED: AtomicUsize = AtomicUsize::new(0);

/// Kind of shutdown.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum SystemEvent {
    /// `SYSTEM_OFF`.
    Off,
    /// `SYSTEM_RESET`.
    Reset,
}

/// Returns true if the calling CPU has to [`stop_cpu`].
#[inline]
pub(crate) fn is_stopping() -> bool {
    // Acquire: pairs with the swap in `shut_down`.
    STOPPING.load(Ordering::Acquire)
}

/// Puts the calling CPU's vCPU, and stops for good.
pub(crate) fn stop_cpu() -> ! {
    put_vcpu(PerCpu::current());
    // Release: pairs with the Acquire in `shut_down`.
    STOPPED.fetch_add(1, Ordering::Release);
    loop {
        asm::wfe();
    }
}

/// Puts the vCPU of the calling CPU, whose data is `cpu`.
fn put_vcpu(cpu: &PerCpu) {
    let local = cpu.vgic_cpu();
    // A vCPU that is off is not loaded.
    let _ = get().vgic().vcpu_put(&local.pin(), cpu.vcpu);
}

/// Executes the guest's `SYSTEM_OFF` or `SYSTEM_RESET`.
pub(crate) fn shut_down(how: SystemEvent) -> ! {
    // AcqRel: pairs with `is_stopping`. If two vCPUs ask at once, the first one is served.
    if STOPPING.swap(true, Ordering::AcqRel) {
        stop_cpu();
    }

    let this = PerCpu::current();
    put_vcpu(this);
    let others = || percpu::all().iter().filter(|cpu| cpu.index != this.index);
    for cpu in others() {
        get().vgic().host().gic.kick(cpu.index);
    }

    // Acquire: pairs with the Release in `stop_cpu`.
    while STOPPED.load(Ordering::Acquire) < others().count() {
        core::hint::spin_loop();
    }

    report::finish();
    tear_down_and_report(this);
    let error = match how {
        SystemEvent::Off => psci::system_off::<Smc>(),
        SystemEvent::Reset => psci::system_reset::<Smc>(),
    };
    panic!("the firmware does not carry out {how:?}: {error:?}");
}

/// Takes the controller apart and prints the counters as one line that begins with `@vgic`.
fn tear_down_and_report(this: &PerCpu) {
    let guest = get();
    let lists = guest.domain.totals();
    let remains = match guest.vgic().teardown(&this.vgic_cpu().pin()) {
        Ok(remains) => remains,
        Err(error) => panic!("{error}"),
    };

    let after = guest.domain.totals();
    let mut report = String::new();
    let written = write_report(&mut report, &lists, &after, &remains);
    debug_assert!(written.is_ok(), "a string takes what is written");
    println!("\n@vgic {report}");
}

/// Writes the report as an object.
fn write_report(
    report: &mut String,
    before: &Totals,
    after: &Totals,
    remains: &vgic::TeardownReport,
) -> core::fmt::Result {
    write!(report, "{{")?;
    write_counts(report, before)?;
    write_kinds(report, "pending", &remains.pending)?;
    if let Some(smmu) = smmu::get() {
        write!(report, "\"dma_faults\":{},", smmu.faults())?;
    }

    // Taken after the teardown, whose unmapping and unlinking belongs to the balance.
    let mut result = Ok(());
    after.for_each(|name, count| {
        result = result.and_then(|()| write!(report, "\"{name}\":{count},"));
    });
    result?;
    #[cfg(feature = "el2-time")]
    crate::cpu::el2_time::recorded::write_json(report)?;

    write!(report, "\"exits\":{{")?;
    for (place, reason) in ExitReason::ALL.into_iter().enumerate() {
        let comma = if place == 0 { "" } else { "," };
        let count: u64 = percpu::all().iter().map(|cpu| cpu.exits(reason)).sum();
        write!(report, "{comma}\"{}\":{count}", reason.name())?;
    }
    write!(report, "}},\"refs_at_teardown\":{}}}", remains.references)
}

/// Writes the counts by kind of interrupt, as members of an object, each with a comma after it.
pub(crate) fn write_counts(report: &mut String, totals: &Totals) -> core::fmt::Result {
    write_kinds(report, "injections", &totals.injections)?;
    write_kinds(report, "coalesced", &totals.coalesced)?;
    write_kinds(report, "deliveries", &totals.deliveries)?;
    write_kinds(report, "withdrawn", &totals.withdrawn)
}

/// Writes one count by kind of interrupt, as a member of an object with a comma after it.
pub(crate) fn write_kinds(
    report: &mut String,
    name: &str,
    counts: &[u64; Kind::COUNT],
) -> core::fmt::Result {
    write!(report, "\"{name}\":{{")?;
    for (place, kind) in Kind::ALL.into_iter().enumerate() {
        let comma = if place == 0 { "" } else { "," };
        let count = counts[kind as usize];
        write!(report, "{comma}\"{}\":{count}", kind.name())?;
    }
    write!(report, "}},")
}
