//! LPIs: the tables that the redistributors read, and the event that each LPI stands for.
//!
//! The life of an LPI: [`Lpis::allocate`] for an event that a guest maps, [`Lpis::source`] on
//! every interrupt, [`Lpis::release`] when the guest unmaps the event.

use alloc::boxed::Box;
use alloc::collections::VecDeque;
use core::sync::atomic::{AtomicU16, AtomicU64, Ordering};

use spin::Mutex;

use super::{PRIORITY, TABLE_ALIGNMENT};
use crate::memory::table::Table;

/// The first LPI.
pub(crate) const FIRST: u32 = 8192;

/// INTID bits of the tables.
const ID_BITS: u32 = 16;

/// Number of LPIs: 57,344.
pub(crate) const COUNT: usize = (1 << ID_BITS) - FIRST as usize;

/// Enable bit in an LPI's configuration.
const ENABLED: u8 = 1;

/// Inner shareable, inner write-back cacheable (`GICR_PROPBASER` and `GICR_PENDBASER`).
/// `GITS_CBASER` has these fields at other bits.
const SHARED_WRITE_BACK: u64 = 1 << 10 | 7 << 7;

/// Table of one CPU's pending LPIs. Belongs to the redistributor once it is handed over.
pub(crate) struct PendingTable(Table);

impl PendingTable {
    /// Returns a table without a pending LPI.
    pub(crate) fn new() -> Self {
        Self(Table::new(1 << (ID_BITS - 3), TABLE_ALIGNMENT))
    }

    /// Returns the value of `GICR_PENDBASER`.
    pub(super) fn base_register(&self) -> u64 {
        /// The table is all zeros.
        const PTZ: u64 = 1 << 62;
        self.0.physical() | SHARED_WRITE_BACK | PTZ
    }
}

/// Event of a device, as an ITS numbers it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct MsiSource {
    /// Index of the VM that has mapped the event.
    pub(crate) vm: u16,
    /// Index of the ITS in the device tree, or [`MsiSource::DOORBELL`] or [`MsiSource::SPI`].
    pub(crate) its: u8,
    /// DeviceID, below 2^24 so that it fits a packed source; the vCPU of a doorbell.
    pub(crate) device: u32,
    /// EventID, below 2^16 so that it fits a packed source; the INTID of an SPI.
    pub(crate) event: u32,
}

impl MsiSource {
    /// VM of a free LPI: there is none of this index.
    pub(crate) const NO_VM: u16 = u16::MAX;

    /// In place of an ITS: the LPI is the doorbell of a vCPU's virtual PE.
    pub(crate) const DOORBELL: u8 = u8::MAX;

    /// In place of an ITS: the LPI is an MSI that makes an SPI pending, of a VM with a GICv2.
    pub(crate) const SPI: u8 = u8::MAX - 1;

    /// Packed value of a free LPI.
    const NONE: u64 = u64::MAX;

    const fn pack(self) -> u64 {
        (self.vm as u64) << 48
            | (self.its as u64) << 40
            | (self.device as u64 & 0xff_ffff) << 16
            | self.event as u64 & 0xffff
    }

    const fn unpack(value: u64) -> Self {
        Self {
            vm: (value >> 48) as u16,
            its: (value >> 40) as u8,
            device: (value >> 16) as u32 & 0xff_ffff,
            event: value as u32 & 0xffff,
        }
    }
}

/// In place of a vCPU: the event of an LPI goes to none.
const NO_TARGET: u16 = u16::MAX;

/// All LPIs of the machine.
pub(crate) struct Lpis {
    /// One byte for each LPI: its priority and its enable bit.
    configuration: Table,
    sources: Box<[AtomicU64]>,
    /// vCPU that each LPI's event goes to, to count MSIs by vCPU.
    targets: Box<[AtomicU16]>,
    /// The longest free first: another CPU may have acknowledged an LPI that is released, and then
    /// looks for its source.
    free: Mutex<VecDeque<u32>>,
}

impl Lpis {
    /// Returns all LPIs, free and disabled.
    pub(crate) fn new() -> Self {
        let configuration = Table::new(COUNT, TABLE_ALIGNMENT);
        Self {
            configuration,
            sources: (0..COUNT)
                .map(|_| AtomicU64::new(MsiSource::NONE))
                .collect(),
            targets: (0..COUNT).map(|_| AtomicU16::new(NO_TARGET)).collect(),
            free: Mutex::new((FIRST..FIRST + COUNT as u32).collect()),
        }
    }

    /// Returns the value of every `GICR_PROPBASER`.
    pub(crate) fn base_register(&self) -> u64 {
        self.configuration.physical() | SHARED_WRITE_BACK | u64::from(ID_BITS - 1)
    }

    /// Allocates and enables an LPI for `source`. The caller tells the ITS by a MAPTI. Returns
    /// `None` if no LPI is free.
    pub(crate) fn allocate(&self, source: MsiSource) -> Option<u32> {
        let lpi = self.free.lock().pop_front()?;
        let index = (lpi - FIRST) as usize;
        // Release: pairs with the Acquire in `source`, on a CPU that takes the LPI.
        self.sources[index].store(source.pack(), Ordering::Release);
        self.configure(lpi, true, false);
        Some(lpi)
    }

    /// Notes the number of the vCPU that the event of `lpi` goes to.
    pub(crate) fn set_target(&self, lpi: u32, vcpu: Option<usize>) {
        let vcpu = vcpu.map_or(NO_TARGET, |vcpu| vcpu as u16);
        // Relaxed: counted by the old target, an MSI is lost to the new one's count.
        self.targets[(lpi - FIRST) as usize].store(vcpu, Ordering::Relaxed);
    }

    /// Returns the number of the vCPU that the event of `lpi` goes to.
    pub(crate) fn target(&self, lpi: u32) -> Option<usize> {
        let target = self.targets.get(lpi.checked_sub(FIRST)? as usize)?;
        let vcpu = target.load(Ordering::Relaxed);
        (vcpu != NO_TARGET).then_some(vcpu.into())
    }

    /// Enables or disables `lpi`, at the usual priority or as the most urgent interrupt of all. The
    /// caller makes the redistributor read the configuration again.
    pub(crate) fn configure(&self, lpi: u32, enabled: bool, urgent: bool) {
        let priority = if urgent { 0 } else { PRIORITY };
        let index = (lpi - FIRST) as usize;
        self.configuration
            .write(index, &[priority | if enabled { ENABLED } else { 0 }]);
    }

    /// Disables and frees `lpi`. The caller has told the ITS by a DISCARD.
    pub(crate) fn release(&self, lpi: u32) {
        let index = (lpi - FIRST) as usize;
        self.sources[index].store(MsiSource::NONE, Ordering::Release);
        self.retire(lpi);
    }

    /// Disables and frees `lpi`, whose event remains. The caller has told the ITS by a DISCARD.
    /// Until the LPI is allocated again, it stands for the event: another CPU may have acknowledged
    /// it, and must not lose the MSI.
    pub(crate) fn retire(&self, lpi: u32) {
        self.configure(lpi, false, false);
        self.free.lock().push_back(lpi);
    }

    /// Returns the event that `lpi` stands for. If the LPI has been released while pending, the
    /// event's VM is [`MsiSource::NO_VM`]. Returns `None` for an LPI out of range.
    #[inline]
    pub(crate) fn source(&self, lpi: u32) -> Option<MsiSource> {
        let slot = self.sources.get(lpi.checked_sub(FIRST)? as usize)?;
        // Acquire: pairs with the Release in `allocate`.
        Some(MsiSource::unpack(slot.load(Ordering::Acquire)))
    }
}
