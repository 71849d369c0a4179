//! Pending tables in guest memory: a bit for each LPI, at its INTID. The first KiB, of no LPIs,
//! stays as it is.

use super::tables::Memory;
use super::{Devices, Errno};
use crate::host::Host;
use crate::state::{LpiState, flags};
use crate::vm::redistributor::pending_address;

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

        let (bit, byte) = (1 << (lpi.intid % 8), memory.byte(address)?);
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
}
