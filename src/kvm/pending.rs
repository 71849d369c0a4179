//! LPIs' tables in guest memory. The configuration table has a byte for each LPI, and a pending
//! table a bit, at its INTID. The first KiB of a pending table, of no LPIs, stays as it is.

use super::interrupts::PRIORITY;
use super::tables::Memory;
use super::{Devices, Errno};
use crate::host::Host;
use crate::state::{LpiState, flags};
use crate::vm::redistributor::{configuration_address, pending_address};

impl Devices {
    /// Writes the pending state of every LPI to the pending table of its collection's vCPU, where a
    /// restore looks: `MOVALL` may have moved the LPI elsewhere.
    ///
    /// While LPIs are disabled in the redistributor, the table has pending states of its own, from
    /// when they were enabled last: bits are only set. A table that cannot be written is passed
    /// over if it has no pending state to take.
    ///
    /// # Errors
    /// [`Errno::Fault`] if a pending state could not be written. The others are.
    pub(super) fn save_pending(&self, host: &impl Host) -> Result<(), Errno> {
        let mut memory = Memory::new(host);
        let mut result = Ok(());
        for its in &self.state.its {
            for event in its.devices.iter().flat_map(|device| &device.events) {
                let Some(lpi) = self.lpi(event.intid) else {
                    continue;
                };
                // An LPI of a collection that is not mapped has no table.
                if let Some(vcpu) = its.vcpu(lpi.icid)
                    && self.save_lpi(lpi, vcpu, &mut memory).is_err()
                    && lpi.interrupt.has(flags::LATCH)
                {
                    result = Err(Errno::Fault);
                }
            }
        }
        result
    }

    /// Writes the pending state of an LPI to a vCPU's pending table.
    fn save_lpi<H: Host>(
        &self,
        lpi: &LpiState,
        vcpu: u16,
        memory: &mut Memory<'_, H>,
    ) -> Result<(), Errno> {
        let vcpu = self.vcpu(vcpu.into())?;
        let address = pending_address(self.state.propbaser, vcpu.pendbaser, lpi.intid);
        let address = address.ok_or(Errno::Fault)?;

        let (bit, byte) = (bit(lpi), memory.byte(address)?);
        let new = if lpi.interrupt.has(flags::LATCH) {
            byte | bit
        } else if vcpu.enable_lpis {
            byte & !bit
        } else {
            byte
        };

        if new == byte {
            return Ok(());
        }
        memory.write_bytes(address, &[new])
    }

    /// Reads an LPI's configuration, and its pending state if its redistributor has LPIs enabled.
    /// An LPI that the tables do not reach is disabled, and not pending.
    pub(super) fn read_lpi<H: Host>(&self, lpi: &mut LpiState, memory: &mut Memory<'_, H>) {
        let configuration = configuration_address(self.state.propbaser, lpi.intid)
            .and_then(|address| memory.byte(address).ok())
            .unwrap_or(0);
        lpi.interrupt.priority = configuration & PRIORITY;
        if configuration & 1 != 0 {
            lpi.interrupt.flags |= flags::ENABLED;
        }

        let pending = self
            .pending_byte(lpi)
            .and_then(|address| memory.byte(address).ok());
        if pending.is_some_and(|byte| byte & bit(lpi) != 0) {
            lpi.interrupt.flags |= flags::LATCH;
        }
    }

    /// Returns the address of the byte of the pending table with the bit of an LPI whose
    /// redistributor has LPIs enabled.
    fn pending_byte(&self, lpi: &LpiState) -> Option<u64> {
        let vcpu = self.vcpu(lpi.target?.into()).ok()?;
        let address = pending_address(self.state.propbaser, vcpu.pendbaser, lpi.intid);
        address.filter(|_| vcpu.enable_lpis)
    }

    /// Clears the bits of the pending LPIs in the pending tables. A table that cannot be written
    /// keeps them, and is not read again while LPIs are enabled.
    pub(super) fn clear_pending<H: Host>(&self, lpis: &[LpiState], memory: &mut Memory<'_, H>) {
        for lpi in lpis.iter().filter(|lpi| lpi.interrupt.has(flags::LATCH)) {
            if let Some(address) = self.pending_byte(lpi)
                && let Ok(byte) = memory.byte(address)
            {
                let _ = memory.write_bytes(address, &[byte & !bit(lpi)]);
            }
        }
    }
}

/// Returns the bit of an LPI in its byte of a pending table.
fn bit(lpi: &LpiState) -> u8 {
    1 << (lpi.intid % 8)
}
