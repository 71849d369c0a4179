//! Numbers of functions at controllers beside the bus: StreamIDs and DeviceIDs.

use alloc::vec::Vec;

use super::Bdf;

/// Map of requester IDs to a controller's IDs, as a device tree has it.
#[derive(Clone, Debug, Default)]
pub(crate) struct IdMap {
    /// First requester ID, its ID at the controller, and the number of IDs.
    entries: Vec<(u32, u32, u32)>,
}

impl IdMap {
    /// Returns a map of these entries: the first requester ID, its ID at the controller, and the
    /// number of IDs.
    pub(crate) fn new(entries: Vec<(u32, u32, u32)>) -> Self {
        Self { entries }
    }

    /// Returns the ID of a function at the controller, or `None` if it is not connected.
    pub(crate) fn id_of(&self, bdf: Bdf) -> Option<u32> {
        self.entries.iter().find_map(|&(from, to, count)| {
            let distance = u32::from(bdf.0).checked_sub(from)?;
            (distance < count).then(|| to.wrapping_add(distance))
        })
    }
}
