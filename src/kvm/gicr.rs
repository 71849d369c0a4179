//! `REDIST_REGS`: registers of a redistributor (IHI 0069, 12.11), 32 bits at a time.

use super::interrupts::Fields;
use super::{Devices, Errno, read_half, write_half};
use crate::mmio::gicr::{
    CTLR, CTLR_CES, CTLR_IR, IIDR_OFFSET, INVALLR, INVLPIR, PENDBASER, PENDBASER_HIGH,
    PENDBASER_MASK, PROPBASER, PROPBASER_HIGH, PROPBASER_MASK, SGI_BASE, SYNCR, TYPER, TYPER_HIGH,
    WAKER, typer,
};
use crate::mmio::identification;
use crate::vm::redistributor::{CTLR_ENABLE_LPIS, PENDBASER_PTZ, WAKER_PROCESSOR_SLEEP};

const STATUSR: u64 = 0x0010;

/// `GICR_IIDR` of KVM: Arm, product `K`. A guest sees the library's own.
const KVM_IIDR: u32 = 0x4b00_043b;

const IGRPMODR0: u64 = SGI_BASE | 0x0d00;

const NSACR: u64 = SGI_BASE | 0x0e00;

impl Devices {
    /// Reads the register of a vCPU's redistributor at an offset.
    pub(super) fn gicr(&self, index: usize, offset: u64) -> Result<u32, Errno> {
        let vcpu = self.vcpu(index)?;
        if offset & 3 != 0 {
            return Err(Errno::Nxio);
        }

        if let Some(fields) = private(offset) {
            return Ok(fields.read(&vcpu.private));
        }

        let has_lpis = self.config.lpis != 0;
        Ok(match offset {
            CTLR if has_lpis => u32::from(vcpu.enable_lpis) | CTLR_CES | CTLR_IR,
            CTLR | STATUSR | INVLPIR | INVALLR | SYNCR | IGRPMODR0 | NSACR => 0,
            IIDR_OFFSET => KVM_IIDR,
            TYPER | TYPER_HIGH => {
                let count = || self.state.vcpus.len();
                read_half(typer(&self.config, index, vcpu.affinity(), count), offset)
            }
            // ChildrenAsleep is the bit above ProcessorSleep.
            WAKER if vcpu.processor_sleep => WAKER_PROCESSOR_SLEEP | WAKER_PROCESSOR_SLEEP << 1,
            WAKER => 0,
            PROPBASER | PROPBASER_HIGH => read_half(self.state.propbaser, offset),
            PENDBASER | PENDBASER_HIGH => read_half(vcpu.pendbaser & !PENDBASER_PTZ, offset),
            0xffd0..=0xfffc => identification(offset),
            _ => return Err(Errno::Nxio),
        })
    }

    /// Writes the register of a vCPU's redistributor at an offset.
    pub(super) fn set_gicr(&mut self, index: usize, offset: u64, value: u32) -> Result<(), Errno> {
        if self.gicr(index, offset).is_err() {
            return Ok(());
        }
        let (has_lpis, propbaser) = (self.config.lpis != 0, self.state.propbaser);
        let vcpu = self.vcpu_mut(index)?;

        if let Some(fields) = private(offset) {
            fields.write(&mut vcpu.private, value);
            return Ok(());
        }

        match offset {
            CTLR if has_lpis => vcpu.enable_lpis = value & CTLR_ENABLE_LPIS != 0,
            WAKER => vcpu.processor_sleep = value & WAKER_PROCESSOR_SLEEP != 0,
            // As for the guest: read-only while EnableLPIs is 1.
            PROPBASER | PROPBASER_HIGH if !vcpu.enable_lpis => {
                self.state.propbaser = write_half(propbaser, offset, value) & PROPBASER_MASK;
            }
            PENDBASER | PENDBASER_HIGH if !vcpu.enable_lpis => {
                let mask = PENDBASER_MASK | PENDBASER_PTZ;
                vcpu.pendbaser = write_half(vcpu.pendbaser, offset, value) & mask;
            }
            _ => {}
        }
        Ok(())
    }
}

/// Decodes the offset of a register with fields of SGIs and PPIs.
fn private(offset: u64) -> Option<Fields> {
    let at = offset.checked_sub(SGI_BASE)?;
    Fields::decode(at).filter(|fields| fields.bank() == 0)
}
