//! The [`Host`] of a VM's vGIC: kicks CPUs and reads guest memory.
#![expect(unsafe_code)]
// UNSAFETY: reads the VM's memory, which the VM writes.

use alloc::boxed::Box;
use core::ops::Range;
use core::sync::atomic::{AtomicBool, Ordering};

use vgic::intid::{CpuId, VcpuId};
use vgic::{BadAddress, Host, PhysicalInterrupt};

use super::RAM;
use crate::gic::Gic;

/// The machine, as a VM's vGIC uses it.
pub(super) struct VmHost {
    gic: &'static Gic,
    /// The VM's RAM.
    memory: Range<usize>,
    /// Wake-up requests, by vCPU.
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

    /// Returns true if the vCPU has been woken since the last call.
    pub(super) fn take_woken(&self, vcpu: VcpuId) -> bool {
        // Acquire: pairs with the Release in `wake`.
        self.woken[vcpu.index()].swap(false, Ordering::Acquire)
    }
}

impl Host for VmHost {
    fn kick(&self, cpu: CpuId, _vcpu: VcpuId) {
        self.gic.kick(usize::from(cpu.0));
    }

    /// Wakes a blocked vCPU. The kick matters to an idle CPU; a CPU that runs another VM continues
    /// with that VM.
    fn wake(&self, vcpu: VcpuId) {
        // Release: pairs with the Acquire in `take_woken`.
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
            // SAFETY: the address is in the VM's own RAM, mapped by identity. The read is volatile
            // because the VM may write at the same time; then any value will do.
            *byte = unsafe { (address as *const u8).read_volatile() };
        }
        Ok(())
    }

    fn write_memory(&self, gpa: u64, bytes: &[u8]) -> Result<(), BadAddress> {
        let offset = gpa.checked_sub(RAM as u64).ok_or(BadAddress)? as usize;
        let end = offset.checked_add(bytes.len()).ok_or(BadAddress)?;
        if end > self.memory.len() {
            return Err(BadAddress);
        }
        for (address, byte) in (self.memory.start + offset..).zip(bytes) {
            // SAFETY: the address is in the VM's own RAM, mapped by identity. The write is volatile
            // because the VM may access it at the same time.
            unsafe { (address as *mut u8).write_volatile(*byte) };
        }
        Ok(())
    }

    /// Does nothing, and is never called: no physical interrupt is forwarded to a VM.
    fn deactivate(&self, physical: PhysicalInterrupt) {
        debug_assert!(false, "{physical:?} is not a vm's");
    }

    fn is_pending(&self, physical: PhysicalInterrupt) -> bool {
        debug_assert!(false, "{physical:?} is not a vm's");
        false
    }
}
