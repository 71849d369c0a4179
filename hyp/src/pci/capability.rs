//! Lists of capabilities (PCI 6.7; PCIe 7.6).

use super::registers::{CAPABILITIES, CAPABILITIES_LIST, COMMAND, EXTENDED, HEADER_END, SPACE};
use super::{Access, Bdf, Width};

/// Most entries of a list. A function with a list in a circle ends the search.
const MOST: usize = (SPACE as usize - EXTENDED as usize) / 4;

/// Capability.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Capability {
    /// Kind of capability, numbered apart in either list.
    pub(crate) id: u16,
    /// Offset in configuration space.
    pub(crate) offset: u16,
}

impl Capability {
    /// MSI-X, in the list of capabilities.
    pub(crate) const MSI_X: u16 = 0x11;
    /// Address translation services, in the list of extended capabilities.
    pub(crate) const ATS: u16 = 0x0f;
    /// Page requests, in the list of extended capabilities.
    pub(crate) const PAGE_REQUEST: u16 = 0x13;
    /// Process address spaces, in the list of extended capabilities.
    pub(crate) const PASID: u16 = 0x1b;
    /// Single root I/O virtualization, in the list of extended capabilities.
    pub(crate) const SR_IOV: u16 = 0x10;
    /// Resizable BAR, in the list of extended capabilities.
    pub(crate) const RESIZABLE_BAR: u16 = 0x15;
    /// Resizable BAR of virtual functions, in the list of extended capabilities.
    pub(crate) const VF_RESIZABLE_BAR: u16 = 0x24;
}

/// Returns the capabilities of a function.
pub(crate) fn capabilities(access: &impl Access, bdf: Bdf) -> impl Iterator<Item = Capability> {
    let has_list = access.read_word(bdf, COMMAND) >> 16 & CAPABILITIES_LIST != 0;
    let first = access.read(bdf, CAPABILITIES, Width::Byte);
    let first = if has_list { first } else { 0 };
    let entry = move |offset: u32| {
        // The lowest two bits are reserved.
        let offset = offset as u16 & 0xfc;
        (offset >= HEADER_END).then(|| {
            let header = access.read_word(bdf, offset);
            let id = header as u16 & 0xff;
            (Capability { id, offset }, header >> 8 & 0xff)
        })
    };

    let list = core::iter::successors(entry(first), move |(_, next)| entry(*next));
    list.map(|(capability, _)| capability).take(MOST)
}

/// Returns the extended capabilities of a function.
pub(crate) fn extended(access: &impl Access, bdf: Bdf) -> impl Iterator<Item = Capability> {
    let entry = move |offset: u16| {
        (offset >= EXTENDED).then(|| {
            let header = access.read_word(bdf, offset);
            let id = header as u16;
            (Capability { id, offset }, (header >> 20) as u16 & 0xffc)
        })
    };

    let list = core::iter::successors(entry(EXTENDED), move |(_, next)| entry(*next));
    // A function without extended capabilities has zeros there, or ones.
    let is_there = |capability: &Capability| !matches!(capability.id, 0xffff);
    list.map(|(capability, _)| capability)
        .take_while(is_there)
        .take(MOST)
}
