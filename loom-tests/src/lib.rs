//! Scaffolding of the models: the exploration, and a VM small enough for it.
#![cfg(loom)]

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
use vgic::Cpu;
use vgic::cpu_interface::software::SoftwareInterface;
use vgic::intid::VcpuId;

pub use machine::{Machine, Quiet, clear, discard, mapd, mapti, movall, movi, take};
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

/// The SPI that models use: an edge.
pub const SPI: u32 = 40;
/// The PPI that models use: an edge.
pub const PPI: u32 = 20;
/// The PPI whose level models use.
pub const LEVEL: u32 = 21;
/// The SGI that models use.
pub const SGI: u32 = 3;

/// Words of a model's stack.
const STACK: usize = 1 << 14;

/// Executions that the running [`check`] has begun.
static EXECUTIONS: AtomicUsize = AtomicUsize::new(0);

/// Runs `model` under every interleaving with at most `preemptions` preemptions, and prints how many
/// there were. `LOOM_MAX_PREEMPTIONS` replaces the bound, `LOOM_DEEP` raises it by one and
/// `LOOM_MAX_DURATION` ends the exploration after so many seconds.
///
/// # Panics
/// When the model fails under one of them.
pub fn check(preemptions: usize, model: impl Fn() + Send + Sync + 'static) {
    #[cfg(vgic_mutants)]
    mutants::select();
    let mut builder = loom::model::Builder::new();
    let deep = usize::from(std::env::var_os("LOOM_DEEP").is_some());
    let bound = builder.preemption_bound.unwrap_or(preemptions + deep);
    builder.preemption_bound = Some(bound);
    builder.max_branches = 100_000;
    EXECUTIONS.store(0, Relaxed);
    tell_of_failures();
    let began = Instant::now();
    let model = std::sync::Arc::new(model);
    builder.check(move || {
        EXECUTIONS.fetch_add(1, Relaxed);
        let model = model.clone();
        // The first thread's stack is too small for a whole VM, and has no other size.
        let roomy = thread::Builder::new().stack_size(STACK);
        roomy.spawn(move || model()).unwrap().join().unwrap();
    });
    let complete = builder
        .max_duration
        .is_none_or(|most| began.elapsed() < most);
    let executions = EXECUTIONS.load(Relaxed);
    println!("loom: executions={executions} preemptions={bound} complete={complete}");
}

/// Prints why the model failed, and in which execution, in a line for the runner.
fn tell_of_failures() {
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

/// Another CPU, at work on the same VM. It has joined the epoch before it begins and leaves it once it
/// has been waited for, so that what is explored is the work.
#[must_use]
pub struct Other<R>(JoinHandle<(R, Cpu<SoftwareInterface>)>);

/// Lets another CPU do some work on the same VM.
pub fn spawn<R: 'static>(
    machine: &Arc<Machine>,
    cpu: u16,
    work: impl FnOnce(&Machine, &Cpu<SoftwareInterface>) -> R + 'static,
) -> Other<R> {
    let (machine, cpu) = (machine.clone(), machine.cpu(cpu));
    Other(thread::spawn(move || (work(&machine, &cpu), cpu)))
}

impl<R> Other<R> {
    /// Waits for the work to be done.
    ///
    /// # Panics
    /// If it panicked.
    pub fn join(self) -> R {
        self.0.join().unwrap().0
    }
}

/// The VM, once every other CPU has left it.
///
/// # Panics
/// While one has not.
#[must_use]
pub fn sole(machine: Arc<Machine>) -> Machine {
    Arc::try_unwrap(machine).ok().expect("no other CPU has it")
}
