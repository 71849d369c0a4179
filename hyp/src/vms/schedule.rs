//! The scheduler of a CPU that several vCPUs share, one of each VM.
//!
//! vCPUs run in turns of [`TIME_SLICE_US`]. A vCPU that waits for an interrupt gives up the rest of
//! its time slice. A vCPU that wakes up waits for its next time slice: if it could cut another's
//! short, a VM would do so all day.

use alloc::vec::Vec;

use aarch64_cpu::registers::{CNTFRQ_EL0, Readable};

use super::vcpu_run::{self, VcpuRun};
use super::{Vms, shutdown};
use crate::cpu::percpu::PerCpu;
use crate::cpu::{el2_time, hyp_timer};
use crate::vcpu::interrupts;

/// Length of a time slice, in microseconds.
pub(super) const TIME_SLICE_US: u64 = 2000;

/// Runs the vCPUs of the calling CPU, whose data is `cpu`, for ever.
pub(crate) fn run(cpu: &'static PerCpu, vms: &'static Vms) -> ! {
    let slice = CNTFRQ_EL0.get() * TIME_SLICE_US / 1_000_000;
    let vcpus = vms.all.iter();
    let mut vcpus: Vec<VcpuRun> = vcpus.map(|vm| VcpuRun::new(vm, cpu.index)).collect();
    shutdown::sample_heap(cpu);

    loop {
        let mut has_run = false;
        for index in 0..vcpus.len() {
            let now = el2_time::now();
            {
                let pin = cpu.vgic_cpu().pin();
                for vcpu in &mut vcpus {
                    vcpu.poll_runnable(&pin, now);
                }
            }

            if shutdown::is_stopping() {
                shutdown::stop_cpu(cpu, vms);
            }
            if vcpus[index].poll_runnable(&cpu.vgic_cpu().pin(), now) {
                vcpus[index].run_time_slice(vms, cpu, now + slice);
                shutdown::sample_heap(cpu);
                has_run = true;
            }
        }

        if !has_run {
            sleep(&vcpus);
        }
    }
}

/// Sleeps until an interrupt, or the first deadline of a blocked vCPU's timer.
fn sleep(vcpus: &[VcpuRun]) {
    if let Some(first) = vcpus.iter().filter_map(VcpuRun::deadline).min() {
        hyp_timer::set(first);
    }
    interrupts::wait_for_interrupt();
    hyp_timer::stop();
    vcpu_run::drop_physical_interrupts();
}
