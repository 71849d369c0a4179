//! What a VM's interrupt controller asks of the machine: to call a CPU, and to read memory.
#![expect(unsafe_code)]
// UNSAFETY: reads the VM's memory, which the VM writes.

use alloc::boxed::Box;
use core::ops::Range;
use core::sync::atomic::{AtomicBool, Ordering};

use vgic::intid::{CpuId, VcpuId};
use vgic::{BadAddress, Host};

use super::RAM;
use crate::gic::Gic;

/// The machine, as a VM's vGIC uses it.
pub(super) struct VmHost {
    gic: &'static Gic,
    /// The VM's RAM.
    memory: Range<usize>,
    /// By vCPU: it slept, and is to look again.
    woken: Box<[AtomicBool]>,
}

impl VmHost {
    pub(super) fn new(gic: &'static Gic, memory: Range<usize>, vcpus: usize) -> Self {
        Self {
            gic,
            memory,
            woken: (0..vcpus).map(|_| AtomicBool::new(false)).collect(),
        }
    }

    /// Whether the vCPU has been woken since this was last asked.
    pub(super) fn take_woken(&self, vcpu: VcpuId) -> bool {
        // Acquire: pairs with the Release in `wake`.
        self.woken[vcpu.index()].swap(false, Ordering::Acquire)
    }
}

impl Host for VmHost {
    fn kick(&self, cpu: CpuId, _vcpu: VcpuId) {
        self.gic.kick(usize::from(cpu.0));
    }

    /// The call matters to a CPU that is idle; one that runs another VM goes on when it has looked.
    fn wake(&self, vcpu: VcpuId) {
        self.woken[vcpu.index()].store(true, Ordering::Release);
        self.gic.kick(vcpu.index());
    }

    fn read_memory(&self, gpa: u64, buffer: &mut [u8]) -> Result<(), BadAddress> {
        let offset = gpa.checked_sub(RAM as u64).ok_or(BadAddress)? as usize;
        let end = offset.checked_add(buffer.len()).ok_or(BadAddress)?;
        if end > self.memory.len() {
            return Err(BadAddress);
        }
        for (address, byte) in (self.memory.start + offset..).zip(buffer) {
            // SAFETY: RAM that belongs to the VM alone and is mapped by identity; volatile, because
            // the VM may write it at the same time, and then any value will do.
            *byte = unsafe { (address as *const u8).read_volatile() };
        }
        Ok(())
    }

    /// Never asked for: no physical interrupt is forwarded to a VM.
    fn deactivate(&self, _vcpu: Option<VcpuId>, pintid: u16) {
        debug_assert!(false, "interrupt {pintid} is not a vm's");
    }
}
