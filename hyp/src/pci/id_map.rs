//! Numbers of functions at controllers beside the bus: StreamIDs and DeviceIDs.

use alloc::vec::Vec;

use super::Bdf;

/// Map of requester IDs to a controller's IDs, as a device tree has it.
#[derive(Clone, Debug, Default)]
pub(crate) struct IdMap {
    /// Bits of a requester ID that count.
    mask: u32,
    /// First requester ID, its ID at the controller, and the number of IDs.
    entries: Vec<(u32, u32, u32)>,
}

impl IdMap {
    /// Returns a map of these entries: the first requester ID, its ID at the controller, and the
    /// number of IDs. Of a requester ID, the bits of `mask` are looked up.
    pub(crate) fn new(mask: u32, entries: Vec<(u32, u32, u32)>) -> Self {
        Self { mask, entries }
    }

    /// Returns the ID of a function at the controller, or `None` if it is not connected.
    pub(crate) fn id_of(&self, bdf: Bdf) -> Option<u32> {
        let requester = u32::from(bdf.0) & self.mask;
        self.entries.iter().find_map(|&(from, to, count)| {
            let distance = requester.checked_sub(from)?;
            (distance < count).then(|| to.wrapping_add(distance))
        })
    }
}
