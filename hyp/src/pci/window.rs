//! Windows of the host bridge, and the places of BARs in them.
//!
//! Stage 2 gives MMIO to VMs by pages. So each BAR has pages of its own: no VM reaches another
//! one's registers beside its own.

use alloc::vec::Vec;
use core::ops::Range;

use super::function::{Bar, Function};

/// Bytes of a page of stage 2.
const PAGE: u64 = 4096;

/// First bus address that a BAR with 32 bits does not reach.
const END_32: u64 = 1 << 32;

/// Window of a host bridge: memory of the bus that CPUs see.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Window {
    /// First bus address.
    pub(crate) bus: u64,
    /// First address for CPUs.
    pub(crate) cpu: u64,
    /// Bytes.
    pub(crate) size: u64,
}

/// BAR for which no window has room.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct NoRoom {
    /// Bytes of the BAR.
    pub(crate) size: u64,
}

/// Places all BARs of the functions in the windows, the largest first. BARs with 64 bits are placed
/// from the window with the highest bus addresses down, and leave the lower ones to the others. The
/// functions' registers are written later, by [`Function::write_bars`].
///
/// # Errors
/// [`NoRoom`] if the windows are too small. Some BARs may have been placed.
pub(crate) fn assign(functions: &mut [Function], windows: &[Window]) -> Result<(), NoRoom> {
    let mut rest: Vec<Rest> = windows.iter().map(Rest::of).collect();
    rest.sort_by_key(|rest| core::cmp::Reverse(rest.bus.start));
    let mut bars: Vec<&mut Bar> = functions
        .iter_mut()
        .flat_map(|function| &mut function.bars)
        .collect();
    bars.sort_by_key(|bar| core::cmp::Reverse(bar.size));

    for bar in bars {
        let (size, end) = (bar.size, if bar.is_64() { u64::MAX } else { END_32 });
        let taken = rest.iter_mut().find_map(|rest| rest.take(size, end));
        let (address, cpu) = taken.ok_or(NoRoom { size })?;
        bar.address = address;
        bar.mmio = cpu as usize..(cpu + size.next_multiple_of(PAGE)) as usize;
    }
    Ok(())
}

/// Free rest of a window.
struct Rest {
    /// Bus addresses.
    bus: Range<u64>,
    /// Address for CPUs less bus address.
    offset: u64,
}

impl Rest {
    fn of(window: &Window) -> Self {
        // Bus address 0 in a BAR means that it has none.
        let start = window.bus.max(PAGE);
        Self {
            bus: start..window.bus.saturating_add(window.size),
            offset: window.cpu.wrapping_sub(window.bus),
        }
    }

    /// Takes `size` bytes, a power of two, below bus address `end`, at a multiple of the size.
    /// Returns the bus address, and the address for CPUs.
    fn take(&mut self, size: u64, end: u64) -> Option<(u64, u64)> {
        let size = size.next_multiple_of(PAGE);
        let address = self.bus.start.checked_next_multiple_of(size)?;
        let next = address.checked_add(size)?;
        if next > self.bus.end.min(end) {
            return None;
        }
        self.bus.start = next;
        Some((address, address.wrapping_add(self.offset)))
    }
}
