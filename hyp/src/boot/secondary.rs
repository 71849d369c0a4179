//! Secondary CPUs, started through the firmware.

use core::sync::atomic::{AtomicUsize, Ordering};

use aarch64_cpu::asm;
use smccc::{Smc, psci};

use super::head;
use crate::cpu::percpu::PerCpu;
use crate::cpu::this_cpu::ThisCpu;
use crate::memory::{cache, layout};
use crate::{schedule, start};

/// Number of CPUs that have arrived in Rust.
static ARRIVED: AtomicUsize = AtomicUsize::new(0);

/// Starts every CPU but the calling one, and waits until all have arrived.
///
/// # Panics
/// If the firmware refuses.
pub(crate) fn start_all(cpus: &'static [PerCpu], boot_cpu: &PerCpu) {
    // The CPUs begin with their caches off, and read the image and the tables' address from memory.
    let image = layout::image();
    cache::clean_and_invalidate(&(image.text.start..image.data.end));

    let entry = layout::physical((head::secondary_start as *const ()).addr()) as u64;
    let others = || cpus.iter().filter(|cpu| cpu.index != boot_cpu.index);
    for cpu in others() {
        let context = (&raw const *cpu).addr() as u64;
        if let Err(error) = psci::cpu_on::<Smc>(cpu.affinity, entry, context) {
            panic!("the firmware does not start CPU {}: {error}", cpu.index);
        }
    }

    // Acquire: pairs with the Release in `secondary`.
    while ARRIVED.load(Ordering::Acquire) < others().count() {
        core::hint::spin_loop();
    }
}

/// Brings the calling CPU up and runs vCPUs on it. Entered by assembly on every CPU but the boot
/// CPU.
pub(super) extern "C" fn secondary(cpu: &'static PerCpu) -> ! {
    start::bring_up_cpu(cpu);
    // Release: pairs with the Acquire in `start_all`.
    ARRIVED.fetch_add(1, Ordering::Release);
    asm::sev();
    schedule::run(ThisCpu::get())
}
