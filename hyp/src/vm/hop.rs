//! The device of a guest that moves between hypervisors. By it the guest asks to be saved, and
//! drives lines of its SPIs. A VM has it if its option `hyp.kvm` names a file.
//!
//! The access by which the guest asks is completed by the save: until then the vCPU repeats it, and
//! does nothing else.

use alloc::ffi::CString;
use core::sync::atomic::{AtomicUsize, Ordering};

use vgic::epoch::CpuPin;
use vgic::intid::IntId;

use super::controller::Controller;
use super::lifetime::Wish;
use crate::vcpu::Vcpu;

/// Address of the registers.
const BASE: u64 = 0x0b00_0000;
const SIZE: u64 = 0x1000;

/// Offsets of the registers: asks for a hop, raises and lowers the line of the SPI whose INTID is
/// written.
const ASK: u64 = 0x0;
const RAISE: u64 = 0x8;
const LOWER: u64 = 0x10;

/// Number of a vCPU that does not exist.
const NOBODY: usize = usize::MAX;

/// The device.
pub(crate) struct Hop {
    /// The file that the VM moves in.
    pub(super) file: CString,
    /// Number of the vCPU that asks.
    asking: AtomicUsize,
}

impl Hop {
    /// Returns the device of a VM that moves in `file`.
    pub(crate) fn new(file: CString) -> Self {
        Self {
            file,
            asking: AtomicUsize::new(NOBODY),
        }
    }

    /// Returns true if a register is at this guest-physical address.
    pub(crate) fn claims(&self, address: u64) -> bool {
        (BASE..BASE + SIZE).contains(&address)
    }

    /// Returns true if a vCPU is at the access by which it asks.
    pub(super) fn is_asking(&self, vcpu: &Vcpu) -> bool {
        // Relaxed: the VM is stopped.
        self.asking.load(Ordering::Relaxed) == vcpu.id.index()
    }

    /// Writes a register. Returns true if the guest asks: the access is not completed. The wish
    /// makes the CPU give the vCPU up at its next interrupt, which comes at once.
    pub(crate) fn write(
        &self,
        vcpu: &Vcpu,
        vgic: &Controller,
        pin: &CpuPin<'_>,
        address: u64,
        value: u64,
    ) -> bool {
        let spi = u32::try_from(value).ok().and_then(IntId::spi);
        match (address - BASE, spi) {
            (ASK, _) => {
                // Relaxed: read when the VM is stopped.
                self.asking.store(vcpu.id.index(), Ordering::Relaxed);
                vcpu.vm.lifetime.wish(Wish::Snapshot);
                return true;
            }
            (offset @ (RAISE | LOWER), Some(spi)) => {
                // An SPI that the VM does not have has no line.
                let _ = vgic.set_spi_line(pin, spi, offset == RAISE);
            }
            _ => {}
        }
        false
    }
}
