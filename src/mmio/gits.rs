//! GITS frame.
use super::Width;
use crate::Vgic;
use crate::epoch::Pin;
use crate::host::Host;
use crate::intid::ItsId;

impl<H: Host> Vgic<H> {
    /// Reads.
    pub(crate) fn gits_read(&self, pin: &Pin<'_>, its: ItsId, at: u64, width: Width) -> u64 {
        let _ = (pin, its, at, width);
        0
    }
    /// Writes.
    pub(crate) fn gits_write(&self, pin: &Pin<'_>, its: ItsId, at: u64, width: Width, value: u64) {
        let _ = (pin, its, at, width, value);
    }
}
