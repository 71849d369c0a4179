//! Scaffolding of the models: the exploration, and a VM small enough for it.
#![cfg(loom)]

mod gicv4;
mod machine;
#[cfg(vgic_mutants)]
mod mutants;
mod observation;

use std::sync::Once;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Instant;

use loom::sync::Arc;
use loom::thread::{self, JoinHandle};
use vgic::cpu_interface::software::SoftwareInterface;
use vgic::intid::VcpuId;
use vgic::{Cpu, PinnedCpu};

pub use machine::{
    Machine, Quiet, acknowledge, clear, config_byte, discard, int, inv, mapd, mapti, mapti_as,
    mapti_second, movall, movi, pending_byte, reclaim, take,
};
#[cfg(vgic_mutants)]
pub use mutants::list;
pub use observation::Observation;

/// vCPU 0.
pub const V0: VcpuId = match VcpuId::new(0) {
    Some(id) => id,
    None => unreachable!(),
};

/// vCPU 1.
pub const V1: VcpuId = match VcpuId::new(1) {
    Some(id) => id,
    None => unreachable!(),
};

/// vCPU 2.
pub const V2: VcpuId = match VcpuId::new(2) {
    Some(id) => id,
    None => unreachable!(),
};

/// The models' SPI: edge-triggered.
pub const SPI: u32 = 40;
/// The models' PPI: edge-triggered.
pub const PPI: u32 = 20;
/// The models' level-sensitive PPI.
pub const LEVEL: u32 = 21;
/// The models' SGI.
pub const SGI: u32 = 3;

/// Words of a model's stack.
const STACK: usize = 1 << 14;

/// Executions begun by the running exploration.
static EXECUTIONS: AtomicUsize = AtomicUsize::new(0);

/// Runs `model` under every interleaving with at most `preemptions` preemptions, and prints the
/// number of executions. `LOOM_MAX_PREEMPTIONS` replaces the bound. `LOOM_DEEP` raises the bound by
/// one, `LOOM_BRIEF` lowers it by one. `LOOM_MAX_DURATION` ends the exploration after the given
/// number of seconds.
///
/// # Panics
/// If the model fails under any interleaving.
pub fn check(preemptions: usize, model: impl Fn() + Send + Sync + 'static) {
    explore(preemptions, false, model);
}

/// Runs `model` as [`check`] does, with serial locks: loom's mutex around each spin lock saves the
/// executions that differ only in the looks of a CPU that waits.
///
/// # Panics
/// If the model fails under any interleaving.
pub fn check_serial(preemptions: usize, model: impl Fn() + Send + Sync + 'static) {
    explore(preemptions, true, model);
}

fn explore(preemptions: usize, serial: bool, model: impl Fn() + Send + Sync + 'static) {
    vgic::internals::make_locks_serial(serial);
    #[cfg(vgic_mutants)]
    mutants::select();

    let mut builder = loom::model::Builder::new();
    let asked = |name| usize::from(std::env::var_os(name).is_some());
    let own = preemptions + asked("LOOM_DEEP") - asked("LOOM_BRIEF");
    let bound = builder.preemption_bound.unwrap_or(own);
    builder.preemption_bound = Some(bound);
    builder.max_branches = 100_000;

    EXECUTIONS.store(0, Relaxed);
    report_failures();
    let began = Instant::now();

    let model = std::sync::Arc::new(model);
    builder.check(move || {
        EXECUTIONS.fetch_add(1, Relaxed);
        let model = model.clone();
        // The first thread's stack is too small for a whole VM, and its size is fixed.
        let roomy = thread::Builder::new().stack_size(STACK);
        roomy.spawn(move || model()).unwrap().join().unwrap();
    });

    let complete = builder
        .max_duration
        .is_none_or(|most| began.elapsed() < most);
    let executions = EXECUTIONS.load(Relaxed);
    println!("loom: executions={executions} preemptions={bound} complete={complete}");
}

/// Installs a panic hook: prints the reason and the number of the failed execution in a line for
/// the runner.
fn report_failures() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            let executions = EXECUTIONS.load(Relaxed);
            let payload = panic.payload();
            let text = payload.downcast_ref::<String>().map(String::as_str);
            let text = text.or_else(|| payload.downcast_ref::<&str>().copied());
            let why = text.unwrap_or("?").replace('\n', " ");
            let at = panic.location().map_or(String::new(), ToString::to_string);
            println!("loom: failed={executions} at={at} {why}");
            before(panic);
        }));
    });
}

/// Another CPU at work on the same VM. The CPU joins the epoch before the work and leaves it at
/// [`Other::join`]: loom explores only the work.
#[must_use]
pub struct Other<R>(JoinHandle<(R, Cpu<SoftwareInterface>)>);

/// Starts `work` on another CPU of the same VM.
pub fn spawn<R: 'static>(
    machine: &Arc<Machine>,
    cpu: u16,
    work: impl FnOnce(&Machine, &Cpu<SoftwareInterface>) -> R + 'static,
) -> Other<R> {
    spawn_on(machine, machine.cpu(cpu), work)
}

/// Starts `work` on a CPU that has been at work before.
pub fn spawn_on<R: 'static>(
    machine: &Arc<Machine>,
    cpu: Cpu<SoftwareInterface>,
    work: impl FnOnce(&Machine, &Cpu<SoftwareInterface>) -> R + 'static,
) -> Other<R> {
    let machine = machine.clone();
    Other(thread::spawn(move || (work(&machine, &cpu), cpu)))
}

impl<R> Other<R> {
    /// Waits for the end of the work.
    ///
    /// # Panics
    /// If the work panicked.
    pub fn join(self) -> R {
        self.join_with_cpu().0
    }

    /// Waits for the end of the work, and returns the CPU as well.
    ///
    /// # Panics
    /// If the work panicked.
    pub fn join_with_cpu(self) -> (R, Cpu<SoftwareInterface>) {
        self.0.join().unwrap()
    }
}

/// Returns a pin of a CPU that is in the epoch. The entry into the epoch is a fence, which would
/// order by itself what a model looks at.
pub fn in_the_epoch(cpu: &Cpu<SoftwareInterface>) -> PinnedCpu<'_, SoftwareInterface> {
    let pin = cpu.pin();
    let _ = vgic::internals::guard(&pin);
    pin
}

/// Returns the VM once every other CPU has left it.
///
/// # Panics
/// If another CPU still uses the VM.
#[must_use]
pub fn sole(machine: Arc<Machine>) -> Machine {
    Arc::try_unwrap(machine).ok().expect("no other CPU has it")
}
