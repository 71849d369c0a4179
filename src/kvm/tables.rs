//! ITS tables in guest memory, in KVM's format of revision 0: entries of 8 bytes, little-endian.
//!
//! | entry | 63 | below |
//! |---|---|---|
//! | device | valid | 62:49 offset to the next DeviceID, 48:5 `ITT_addr`, 4:0 EventID bits less 1 |
//! | collection | valid | 51:16 processor number, 15:0 ICID |
//! | translation | | 63:48 offset to the next EventID, 47:16 INTID, 0 for none, 15:0 ICID |
//!
//! Devices and translations are at the places of their DeviceIDs and EventIDs. An offset is 0 in
//! the last entry, and at most what its field holds: the reader goes on from there, entry by entry.
//! Collections are listed, up to the first that is not valid.
//!
//! A save writes whole tables, zeros where nothing is mapped: nothing that an earlier save has left
//! comes back. A device is left out, with its events, if the guest has taken its tables away. An
//! event of a collection that is not mapped is kept by an entry of that collection without a
//! processor, as long as the table has room.
//!
//! A restore takes nothing from a table for granted. It reads each entry once, has a bound for the
//! entries, and refuses what a command would refuse. It changes the state as a whole, or not at
//! all.

use alloc::vec::Vec;

use super::gits::mapped;
use super::{Devices, Errno};
use crate::config::ItsConfig;
use crate::host::Host;
use crate::intid::IntId;
use crate::state::{CollectionState, DeviceState, EventState, InterruptState, LpiState, flags};
use crate::vm::irq::MAX_MAPPING_REFS;
use crate::vm::its::baser::{Baser, TableType};
use crate::vm::its::device::Itt;

/// Bytes of an entry.
const ENTRY: u64 = 8;

/// Bytes read at once: a part of one page.
const CHUNK: usize = 256;

/// Most entries of device tables that a save or a restore looks at: 64 MiB of tables.
const MOST_ENTRIES: u64 = 1 << 23;

const VALID: u64 = 1 << 63;

const NEXT_DEVICE_SHIFT: u32 = 49;

const MOST_NEXT_DEVICE: u64 = (1 << 14) - 1;

const ITT_SHIFT: u32 = 5;

const EVENT_BITS: u64 = 0x1f;

const PROCESSOR_SHIFT: u32 = 16;

/// Processor number of a collection that is not mapped.
const NO_PROCESSOR: u64 = 0xffff_ffff;

const NEXT_EVENT_SHIFT: u32 = 48;

const MOST_NEXT_EVENT: u64 = (1 << 16) - 1;

const INTID_SHIFT: u32 = 16;

const ICID: u64 = 0xffff;

/// Guest memory, a chunk at a time.
pub(super) struct Memory<'h, H: Host> {
    host: &'h H,
    chunk: [u8; CHUNK],
    /// Address of the chunk.
    at: Option<u64>,
}

impl<'h, H: Host> Memory<'h, H> {
    pub(super) fn new(host: &'h H) -> Self {
        Self {
            host,
            chunk: [0; CHUNK],
            at: None,
        }
    }

    /// Returns the bytes from `address` to the end of its chunk.
    fn read(&mut self, address: u64) -> Result<&[u8], Errno> {
        let place = address & (CHUNK as u64).wrapping_sub(1);
        let at = address.saturating_sub(place);
        if self.at != Some(at) {
            self.at = None;
            let read = self.host.read_memory(at, &mut self.chunk);
            read.map_err(|_| Errno::Fault)?;
            self.at = Some(at);
        }
        self.chunk.get(place as usize..).ok_or(Errno::Fault)
    }

    /// Reads a byte.
    pub(super) fn byte(&mut self, address: u64) -> Result<u8, Errno> {
        self.read(address)?.first().copied().ok_or(Errno::Fault)
    }

    /// Reads an entry.
    fn entry(&mut self, address: u64) -> Result<u64, Errno> {
        let bytes = self.read(address)?.first_chunk().ok_or(Errno::Fault)?;
        Ok(u64::from_le_bytes(*bytes))
    }

    /// Writes a table of `count` entries, as far as it differs. `entry` is called once for each
    /// place, in order.
    fn write(
        &mut self,
        base: u64,
        count: u64,
        mut entry: impl FnMut(u64) -> u64,
    ) -> Result<(), Errno> {
        let per_chunk = CHUNK as u64 / ENTRY;

        for first in (0..count).step_by(per_chunk as usize) {
            let used = count.saturating_sub(first).min(per_chunk);
            let at = base.saturating_add(first.saturating_mul(ENTRY));
            let mut new = [0; CHUNK];
            let (words, _) = new.as_chunks_mut();
            for (word, place) in words.iter_mut().zip(first..first.saturating_add(used)) {
                *word = entry(place).to_le_bytes();
            }

            let bytes = used.saturating_mul(ENTRY) as usize;
            let new = new.get(..bytes).unwrap_or_default();
            if self.read(at)?.get(..bytes) != Some(new) {
                self.write_bytes(at, new)?;
            }
        }
        Ok(())
    }

    /// Writes bytes.
    pub(super) fn write_bytes(&mut self, address: u64, bytes: &[u8]) -> Result<(), Errno> {
        self.at = None;
        let written = self.host.write_memory(address, bytes);
        written.map_err(|_| Errno::Fault)
    }
}

/// The guest's device table.
struct DeviceTable {
    baser: Baser,
    /// DeviceIDs that the ITS has.
    devices: u64,
    /// Entries left to look at.
    left: u64,
}

impl DeviceTable {
    fn new(config: &ItsConfig, value: u64) -> Self {
        Self {
            baser: Baser::with(TableType::Devices, value),
            devices: 1 << config.device_bits,
            left: MOST_ENTRIES,
        }
    }

    /// Takes entries from the bound.
    fn charge(&mut self, entries: u64) -> Result<(), Errno> {
        self.left = self.left.checked_sub(entries).ok_or(Errno::Inval)?;
        Ok(())
    }

    /// Calls `visit` with the address, the first DeviceID and the number of entries of each flat
    /// piece of the table, until it returns false.
    fn pieces<H: Host>(
        &mut self,
        memory: &mut Memory<'_, H>,
        mut visit: impl FnMut(&mut Self, &mut Memory<'_, H>, u64, u64, u64) -> Result<bool, Errno>,
    ) -> Result<(), Errno> {
        let (base, places) = (self.baser.address(), self.baser.bytes() / ENTRY);
        if !self.baser.is_valid() {
            return Ok(());
        }

        if !self.baser.is_indirect() {
            let count = places.min(self.devices);
            return visit(self, memory, base, 0, count).map(|_| ());
        }

        let per_page = self.baser.page_entries();
        for place in 0..places.min(self.devices.div_ceil(per_page)) {
            self.charge(1)?;
            let entry = memory.entry(base.saturating_add(place.saturating_mul(ENTRY)))?;
            let first = place.saturating_mul(per_page);
            let count = per_page.min(self.devices.saturating_sub(first));
            if let Some(page) = self.baser.page(entry)
                && !visit(self, memory, page, first, count)?
            {
                break;
            }
        }
        Ok(())
    }
}

impl Devices {
    /// Writes the mappings of an ITS to the guest's tables.
    pub(super) fn save_tables(&self, index: usize, host: &impl Host) -> Result<(), Errno> {
        let its = self.its(index)?;
        let config = self.config.its.get(index).ok_or(Errno::Nxio)?;

        let mut memory = Memory::new(host);
        let listed = self.save_collections(index, &mut memory)?;

        let mut table = DeviceTable::new(config, its.device_table);
        let mut saved: Vec<&DeviceState> = Vec::new();
        for device in &its.devices {
            // The state may be anybody's.
            let has_room = (1..=config.event_bits).contains(&device.event_bits);
            let has_entry = has_room && table.baser.covers(device.device, host);
            if has_entry && self.save_events(device, &listed, &mut memory).is_ok() {
                saved.push(device);
            }
        }

        let mut next = saved
            .iter()
            .zip((saved.iter().skip(1)).map(Some).chain([None]))
            .peekable();
        table.pieces(&mut memory, |table, memory, base, first, count| {
            table.charge(count)?;
            memory.write(base, count, |place| {
                let id = first.saturating_add(place);
                let here = next.next_if(|(device, _)| u64::from(device.device) == id);
                here.map_or(0, |(device, next)| {
                    let next = next.map_or(0, |next| next.device.saturating_sub(device.device));
                    VALID
                        | u64::from(next).min(MOST_NEXT_DEVICE) << NEXT_DEVICE_SHIFT
                        | device.itt >> 8 << ITT_SHIFT
                        | u64::from(device.event_bits.saturating_sub(1))
                })
            })?;
            Ok(true)
        })
    }

    /// Writes the collections of an ITS. Returns the ICIDs of those that are in the table, in
    /// order.
    fn save_collections<H: Host>(
        &self,
        index: usize,
        memory: &mut Memory<'_, H>,
    ) -> Result<Vec<u16>, Errno> {
        let its = self.its(index)?;
        let config = self.config.its.get(index).ok_or(Errno::Nxio)?;
        let baser = Baser::with(TableType::Collections, its.collection_table);
        if !baser.is_valid() {
            return Ok(Vec::new());
        }

        let events = its.devices.iter().flat_map(|device| &device.events);
        let mut others: Vec<u16> = events
            .filter_map(|event| self.lpi(event.intid))
            .map(|lpi| lpi.icid)
            // An ICID of another ITS, which has mapped the LPI last, may be none of this one's.
            .filter(|&icid| u32::from(icid) < config.collections && its.vcpu(icid).is_none())
            .collect();
        others.sort_unstable();
        others.dedup();

        let processors = (its.collections.iter()).map(|c| (c.icid, u64::from(c.vcpu)));
        let others = others.into_iter().map(|icid| (icid, NO_PROCESSOR));
        let places = baser.bytes() / ENTRY;
        let listed: Vec<(u16, u64)> = processors.chain(others).take(places as usize).collect();
        let used = (listed.len() as u64).saturating_add(1).min(places);
        memory.write(baser.address(), used, |place| {
            let entry = listed.get(place as usize);
            entry.map_or(0, |&(icid, processor)| {
                VALID | processor << PROCESSOR_SHIFT | u64::from(icid)
            })
        })?;

        let mut icids: Vec<u16> = listed.into_iter().map(|(icid, _)| icid).collect();
        icids.sort_unstable();
        Ok(icids)
    }

    /// Writes the events of a device, those of the collections `listed`, to its translation table.
    fn save_events<H: Host>(
        &self,
        device: &DeviceState,
        listed: &[u16],
        memory: &mut Memory<'_, H>,
    ) -> Result<(), Errno> {
        let icid = |event: &EventState| {
            let icid = self.lpi(event.intid)?.icid;
            listed.binary_search(&icid).is_ok().then_some(icid)
        };
        let events: Vec<(&EventState, u16)> = (device.events.iter())
            .filter_map(|event| Some((event, icid(event)?)))
            .collect();

        let mut here = events.iter().peekable();
        memory.write(device.itt, 1 << device.event_bits, |place| {
            let Some(&(event, icid)) = here.next_if(|(event, _)| u64::from(event.event) == place)
            else {
                return 0;
            };
            let next = here
                .peek()
                .map_or(0, |(next, _)| next.event.saturating_sub(event.event));
            u64::from(next).min(MOST_NEXT_EVENT) << NEXT_EVENT_SHIFT
                | u64::from(event.intid) << INTID_SHIFT
                | u64::from(icid)
        })
    }

    /// Returns the state of an LPI.
    pub(super) fn lpi(&self, intid: u32) -> Option<&LpiState> {
        let place = self
            .state
            .lpis
            .binary_search_by_key(&intid, |lpi| lpi.intid);
        place.ok().and_then(|place| self.state.lpis.get(place))
    }

    /// Reads the mappings of an ITS, which has none, from the guest's tables; and the
    /// configuration and the pending state of each LPI. Clears the pending bits that it has read.
    pub(super) fn restore_tables(&mut self, index: usize, host: &impl Host) -> Result<(), Errno> {
        let its = self.its(index)?;
        let config = *self.config.its.get(index).ok_or(Errno::Nxio)?;
        if !its.collections.is_empty() || !its.devices.is_empty() {
            return Err(Errno::Exist);
        }

        let mut memory = Memory::new(host);
        let collections = self.read_collections(&config, its.collection_table, &mut memory)?;
        let table = DeviceTable::new(&config, its.device_table);
        let (devices, mut lpis) = self.read_devices(&config, table, &collections, &mut memory)?;

        let others = self.state.its.iter().flat_map(|its| &its.devices);
        let mapped = mapped(others.chain(&devices));
        let is_crowd = |same: &[u32]| same.len() > usize::from(MAX_MAPPING_REFS);
        if mapped.chunk_by(|a, b| a == b).any(is_crowd) {
            return Err(Errno::Inval);
        }

        // LPIs that another ITS has mapped to a vCPU stay as they are.
        lpis.retain(|lpi| {
            self.lpi(lpi.intid)
                .is_none_or(|other| other.target.is_none() && lpi.target.is_some())
        });
        for lpi in &mut lpis {
            self.read_lpi(lpi, &mut memory);
        }

        self.clear_pending(&lpis, &mut memory);
        let its = self.its_mut(index)?;
        its.devices = devices;

        let mapped = collections
            .into_iter()
            .filter_map(|(icid, vcpu)| Some(CollectionState { icid, vcpu: vcpu? }));
        its.collections = mapped.collect();
        let is_new = |intid| lpis.binary_search_by_key(&intid, |lpi| lpi.intid).is_ok();
        self.state.lpis.retain(|lpi| !is_new(lpi.intid));
        self.state.lpis.extend(lpis);
        self.state.lpis.sort_unstable_by_key(|lpi| lpi.intid);
        Ok(())
    }

    /// Reads the collections, by rising ICID, with their vCPUs.
    fn read_collections<H: Host>(
        &self,
        config: &ItsConfig,
        value: u64,
        memory: &mut Memory<'_, H>,
    ) -> Result<Vec<(u16, Option<u16>)>, Errno> {
        let baser = Baser::with(TableType::Collections, value);
        let mut collections = Vec::new();
        if !baser.is_valid() {
            return Ok(collections);
        }

        // Each ICID once: the list ends.
        let mut seen = alloc::vec![false; config.collections as usize];

        for place in 0..baser.bytes() / ENTRY {
            let entry =
                memory.entry(baser.address().saturating_add(place.saturating_mul(ENTRY)))?;
            if entry & VALID == 0 {
                break;
            }

            let icid = (entry & ICID) as u16;
            let seen = seen.get_mut(usize::from(icid)).ok_or(Errno::Inval)?;
            if core::mem::replace(seen, true) {
                return Err(Errno::Exist);
            }

            let processor = entry >> PROCESSOR_SHIFT & NO_PROCESSOR;
            let vcpu = if processor == NO_PROCESSOR {
                None
            } else {
                let vcpu = self.vcpu(processor as usize)?;
                vcpu.affinity.ok_or(Errno::Inval)?;
                Some(processor as u16)
            };
            collections.push((icid, vcpu));
        }
        collections.sort_unstable_by_key(|&(icid, _)| icid);
        Ok(collections)
    }

    /// Reads the devices, with their events, and the LPIs, by rising INTID.
    fn read_devices<H: Host>(
        &self,
        config: &ItsConfig,
        mut table: DeviceTable,
        collections: &[(u16, Option<u16>)],
        memory: &mut Memory<'_, H>,
    ) -> Result<(Vec<DeviceState>, Vec<LpiState>), Errno> {
        let (mut devices, mut lpis) = (Vec::new(), Vec::new());
        let mut room = config.max_events;
        table.pieces(memory, |table, memory, base, first, count| {
            let mut tables = Memory::new(memory.host);
            scan(memory, base, count, |place, entry| {
                table.charge(1)?;
                if entry & VALID == 0 {
                    return Ok(1);
                }
                let event_bits = ((entry & EVENT_BITS) as u8).saturating_add(1);
                if event_bits > config.event_bits {
                    return Err(Errno::Inval);
                }
                room = room.checked_sub(1 << event_bits).ok_or(Errno::NoMem)?;
                if devices.len() >= config.max_devices as usize {
                    return Err(Errno::NoMem);
                }

                let itt = Itt::new(entry >> ITT_SHIFT << 8, event_bits);
                devices.push(DeviceState {
                    device: first.saturating_add(place) as u32,
                    itt: itt.address(),
                    event_bits,
                    events: self.read_events(itt, collections, &mut lpis, &mut tables)?,
                });
                Ok(entry >> NEXT_DEVICE_SHIFT & MOST_NEXT_DEVICE)
            })
        })?;

        // An LPI of several events goes to a vCPU if one of their collections does.
        lpis.sort_unstable_by_key(|lpi| (lpi.intid, lpi.target.is_none(), lpi.icid));
        lpis.dedup_by_key(|lpi| lpi.intid);
        Ok((devices, lpis))
    }

    /// Reads the events of a device, and appends their LPIs.
    fn read_events<H: Host>(
        &self,
        itt: Itt,
        collections: &[(u16, Option<u16>)],
        lpis: &mut Vec<LpiState>,
        memory: &mut Memory<'_, H>,
    ) -> Result<Vec<EventState>, Errno> {
        let mut events = Vec::new();
        let count = 1 << itt.event_bits();
        scan(memory, itt.address(), count, |event, entry| {
            let intid = (entry >> INTID_SHIFT) as u32;
            if intid == 0 {
                return Ok(1);
            }
            let next = entry >> NEXT_EVENT_SHIFT;
            let is_lpi = (IntId::FIRST_LPI..self.config.lpi_end()).contains(&intid);
            if !is_lpi || event.saturating_add(next) >= count {
                return Err(Errno::Inval);
            }

            let icid = (entry & ICID) as u16;
            let collection = collections.binary_search_by_key(&icid, |&(icid, _)| icid);
            let collection = collection.ok().and_then(|place| collections.get(place));
            let &(icid, target) = collection.ok_or(Errno::Inval)?;
            events.push(EventState {
                event: event as u32,
                intid,
            });
            lpis.push(LpiState {
                intid,
                interrupt: InterruptState {
                    flags: flags::GROUP1,
                    priority: 0,
                },
                icid,
                target,
            });
            Ok(next)
        })?;
        Ok(events)
    }
}

/// Calls `visit` with the entries of a table that are chained by offsets, from the first on. The
/// offset that `visit` returns leads to the next entry; 0 ends the chain. Returns true if the table
/// has ended before the chain.
fn scan<H: Host>(
    memory: &mut Memory<'_, H>,
    base: u64,
    count: u64,
    mut visit: impl FnMut(u64, u64) -> Result<u64, Errno>,
) -> Result<bool, Errno> {
    let mut place = 0_u64;
    while place < count {
        let entry = memory.entry(base.saturating_add(place.saturating_mul(ENTRY)))?;
        match visit(place, entry)? {
            0 => return Ok(false),
            next => place = place.saturating_add(next),
        }
    }
    Ok(true)
}
