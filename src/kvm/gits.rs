//! `ITS_REGS`: registers of an ITS (IHI 0069, 12.19), whole registers at a time. Reset of an ITS.

use alloc::vec::Vec;

use super::{Devices, Errno};
use crate::mmio::gits::{
    BASER0, CBASER, CREADR, CTLR, CTLR_ENABLED, CTLR_QUIESCENT, CWRITER, IIDR_OFFSET, TYPER, typer,
};
use crate::mmio::identification;
use crate::state::{DeviceState, ItsState};
use crate::vm::its::baser::{Baser, TableType};
use crate::vm::its::registers::{CommandQueue, OFFSET};

/// `GITS_BASER7`, the last.
const BASER7: u64 = 0x0138;

/// First identification register.
const IDENTIFICATION: u64 = 0xffd0;

/// `GITS_IIDR` of KVM: Arm, product `K`, and the revision of the table format, which is 0. A guest
/// sees the library's own.
const KVM_IIDR: u64 = 0x4b00_043b;

/// `GITS_IIDR.Revision`.
const REVISION: u64 = 0xf000;

impl Devices {
    /// Returns the state of an ITS.
    pub(super) fn its(&self, its: usize) -> Result<&ItsState, Errno> {
        self.state.its.get(its).ok_or(Errno::Nxio)
    }

    /// Returns the state of an ITS, to be changed.
    pub(super) fn its_mut(&mut self, its: usize) -> Result<&mut ItsState, Errno> {
        self.state.its.get_mut(its).ok_or(Errno::Nxio)
    }

    /// Reads the register of an ITS at an offset.
    pub(super) fn gits(&self, index: usize, offset: u64) -> Result<u64, Errno> {
        let is_word = matches!(offset, 0..TYPER | IDENTIFICATION..);
        if offset & if is_word { 3 } else { 7 } != 0 {
            return Err(Errno::Inval);
        }

        let its = self.its(index)?;
        let config = self.config.its.get(index).ok_or(Errno::Nxio)?;

        Ok(match offset {
            CTLR => {
                let is_quiescent = its.creadr == its.cwriter;
                u64::from(its.is_enabled) | if is_quiescent { CTLR_QUIESCENT } else { 0 }
            }
            IIDR_OFFSET => KVM_IIDR,
            TYPER => typer(config),
            CBASER => its.cbaser,
            CWRITER => its.cwriter,
            CREADR => its.creadr,
            BASER0..=BASER7 => match table(offset) {
                Some(TableType::Devices) => its.device_table,
                Some(TableType::Collections) => its.collection_table,
                None => 0,
            },
            0xffd0..=0xfffc => identification(offset).into(),
            _ => return Err(Errno::Nxio),
        })
    }

    /// Writes the register of an ITS at an offset. Commands wait for the VM.
    pub(super) fn set_gits(&mut self, index: usize, offset: u64, value: u64) -> Result<(), Errno> {
        let _ = self.gits(index, offset)?;
        let its = self.its_mut(index)?;
        match offset {
            // As the guest has left it: KVM's guests cannot enable an ITS without its tables.
            CTLR => its.is_enabled = value & CTLR_ENABLED != 0,
            IIDR_OFFSET if value & REVISION != 0 => return Err(Errno::Inval),
            CBASER if !its.is_enabled => {
                let cbaser = CommandQueue::with(value).get();
                (its.cbaser, its.creadr, its.cwriter) = (cbaser, 0, 0);
            }
            // An offset beyond the queue is kept: the ITS executes nothing, as in the saved VM.
            CWRITER => its.cwriter = value & OFFSET,
            CREADR if its.is_enabled => return Err(Errno::Busy),
            CREADR => {
                let creadr = value & OFFSET;
                if !CommandQueue::with(its.cbaser).has(creadr) {
                    return Err(Errno::Inval);
                }
                its.creadr = creadr;
            }
            BASER0..=BASER7 if !its.is_enabled => {
                if let Some(kind) = table(offset) {
                    self.set_table(index, kind, value)?;
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// Writes `GITS_BASER<n>`. A table that is not valid has no mappings.
    fn set_table(&mut self, index: usize, kind: TableType, value: u64) -> Result<(), Errno> {
        let its = self.its_mut(index)?;
        let is_gone = value >> 63 == 0;
        match kind {
            TableType::Devices => {
                its.device_table = Baser::with(kind, value).get();
                if is_gone {
                    its.devices.clear();
                    self.drop_unmapped();
                }
            }
            TableType::Collections => {
                its.collection_table = Baser::with(kind, value).get();
                if is_gone {
                    its.collections.clear();
                    let mapped = mapped(its.devices.iter());
                    for lpi in &mut self.state.lpis {
                        if mapped.binary_search(&lpi.intid).is_ok() {
                            lpi.target = None;
                        }
                    }
                }
            }
        }
        Ok(())
    }

    /// Resets an ITS.
    pub(super) fn reset_its(&mut self, index: usize) -> Result<(), Errno> {
        let its = self.its_mut(index)?;
        *its = ItsState::after_reset();
        self.drop_unmapped();
        Ok(())
    }

    /// Drops the LPIs that no event is mapped to any more.
    fn drop_unmapped(&mut self) {
        let mapped = mapped(self.state.its.iter().flat_map(|its| &its.devices));
        (self.state.lpis).retain(|lpi| mapped.binary_search(&lpi.intid).is_ok());
    }
}

/// Returns the INTIDs of the LPIs that the events of devices are mapped to, sorted: an LPI once for
/// each event.
pub(super) fn mapped<'a>(devices: impl Iterator<Item = &'a DeviceState>) -> Vec<u32> {
    let events = devices.flat_map(|device| &device.events);
    let mut mapped: Vec<u32> = events.map(|event| event.intid).collect();
    mapped.sort_unstable();
    mapped
}

/// Returns the kind of table of the `GITS_BASER<n>` at an offset; `None` for those without.
fn table(offset: u64) -> Option<TableType> {
    match offset.saturating_sub(BASER0) / 8 {
        0 => Some(TableType::Devices),
        1 => Some(TableType::Collections),
        _ => None,
    }
}
