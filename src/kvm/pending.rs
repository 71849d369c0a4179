//! Pending tables in guest memory: a bit for each LPI, at its INTID. The first KiB, of no LPIs, stays
//! as it is.

use super::tables::Memory;
use super::{Devices, Errno};
use crate::host::Host;
use crate::state::{LpiState, flags};
use crate::vm::redistributor::pending_address;

impl Devices {
    /// Writes the pending state of every LPI to the pending table of its redistributor.
    ///
    /// While LPIs are disabled in the redistributor, the table has pending states of its own, from
    /// when they were enabled last: bits are only set. A table that cannot be written is passed over
    /// if it has no pending state to take.
    ///
    /// # Errors
    /// [`Errno::Fault`] if a pending state could not be written. The others are.
    pub(super) fn save_pending(&self, host: &impl Host) -> Result<(), Errno> {
        let mut memory = Memory::new(host);
        let mut result = Ok(());
        for lpi in &self.state.lpis {
            if self.save_lpi(lpi, &mut memory).is_err() && lpi.interrupt.has(flags::LATCH) {
                result = Err(Errno::Fault);
            }
        }
        result
    }

    /// Writes the pending state of an LPI. An LPI without a redistributor has none.
    fn save_lpi<H: Host>(&self, lpi: &LpiState, memory: &mut Memory<'_, H>) -> Result<(), Errno> {
        let Some(target) = lpi.target else {
            return Ok(());
        };
        let vcpu = self.vcpu(target.into())?;
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
