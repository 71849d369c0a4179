//! An ITS (IHI 0069, chapter 5).

use std::collections::BTreeMap;

use super::lpis::Lpis;

/// Size of an ITS: `GITS_TYPER`, and the implementation's limits.
#[derive(Clone, Copy, Debug)]
pub struct Size {
    pub device_bits: u32,
    pub event_bits: u64,
    pub collections: u64,
    /// Devices mapped at once.
    pub devices: usize,
    /// Events of all mapped devices together.
    pub events: u64,
    pub pes: usize,
}

/// Reason of a command's failure (5.5). A failed command has no effect.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fault {
    Unknown,
    DeviceOutOfRange,
    IttSizeOutOfRange,
    ProcessorOutOfRange,
    CollectionOutOfRange,
    UnmappedDevice,
    EventOutOfRange,
    IntidOutOfRange,
    UnmappedInterrupt,
    UnmappedCollection,
}

#[derive(Clone, Debug, Default)]
struct Device {
    /// Number of events.
    room: u64,
    /// INTID and collection, by EventID.
    events: BTreeMap<u64, (u32, u64)>,
}

/// One ITS.
pub struct Its {
    /// `GITS_CTLR.Enabled`.
    pub enabled: bool,
    size: Size,
    devices: BTreeMap<u64, Device>,
    /// The PE of each collection, by ICID.
    collections: BTreeMap<u64, usize>,
}

impl Its {
    pub fn new(size: Size) -> Self {
        Self {
            enabled: false,
            size,
            devices: BTreeMap::new(),
            collections: BTreeMap::new(),
        }
    }

    /// Returns the INTID and collection of a mapped event.
    pub fn event(&self, device: u64, event: u64) -> Option<(u32, u64)> {
        self.devices.get(&device)?.events.get(&event).copied()
    }

    /// Returns the events mapped to an INTID: device, event and collection.
    pub fn mappings(&self, intid: u32) -> impl Iterator<Item = (u64, u64, u64)> {
        self.events()
            .filter(move |(_, _, mapped, _)| *mapped == intid)
            .map(|(device, event, _, icid)| (device, event, icid))
    }

    /// Returns all mapped events: device, event, INTID and collection.
    pub fn events(&self) -> impl Iterator<Item = (u64, u64, u32, u64)> {
        self.devices.iter().flat_map(|(device, mapped)| {
            let events = mapped.events.iter();
            events.map(|(event, (intid, icid))| (*device, *event, *intid, *icid))
        })
    }

    pub fn collection(&self, icid: u64) -> Option<usize> {
        self.collections.get(&icid).copied()
    }

    /// Unmaps the collections of a PE that is removed. LPIs on the PE go to their collections' PEs.
    pub fn remove(&mut self, pe: usize, lpis: &mut Lpis) {
        self.collections.retain(|_, at| *at != pe);
        for (_, _, intid, icid) in self.events() {
            if lpis.mapped[&intid].at == Some(pe) {
                lpis.move_to(intid, self.collection(icid));
            }
        }
    }

    /// Applies a device's write of `GITS_TRANSLATER`. Returns whether the LPI is pending
    /// afterwards.
    pub fn translate(&self, device: u64, event: u64, lpis: &mut Lpis) -> bool {
        match self.event(device, event) {
            Some((intid, icid)) if self.enabled => self.pend(intid, icid, lpis).is_ok(),
            _ => false,
        }
    }

    fn pend(&self, intid: u32, icid: u64, lpis: &mut Lpis) -> Result<(), Fault> {
        let pe = self.collection(icid).ok_or(Fault::UnmappedCollection)?;
        lpis.pend(intid, pe);
        Ok(())
    }

    /// Executes a command of four doublewords (5.3).
    pub fn execute(&mut self, command: [u64; 4], lpis: &mut Lpis) -> Result<(), Fault> {
        let (device, event) = (command[0] >> 32, command[1] & 0xffff_ffff);
        let (icid, valid) = (command[2] & 0xffff, command[2] >> 63 != 0);
        let processor = |word: u64| {
            let number = (word >> 16 & 0xf_ffff_ffff) as usize;
            (number < self.size.pes)
                .then_some(number)
                .ok_or(Fault::ProcessorOutOfRange)
        };

        match command[0] & 0xff {
            0x08 => self.mapd(device, (command[1] & 0x1f) + 1, valid, lpis),
            0x09 => {
                self.check_icid(icid)?;
                if valid {
                    let pe = processor(command[2])?;
                    self.collections.insert(icid, pe);
                } else {
                    self.collections.remove(&icid);
                }
                let at = self.collection(icid);
                self.of_collection(icid)
                    .into_iter()
                    .for_each(|intid| lpis.move_to(intid, at));
                Ok(())
            }
            0x0a => self.mapti(device, event, command[1] >> 32, icid, lpis),
            0x0b => self.mapti(device, event, event, icid, lpis),
            0x01 => {
                let (intid, _) = self.find(device, event)?;
                self.check_icid(icid)?;
                let pe = self.collection(icid).ok_or(Fault::UnmappedCollection)?;
                let mapped = self.devices.get_mut(&device).expect("found");
                mapped.events.insert(event, (intid, icid));
                lpis.move_to(intid, Some(pe));
                Ok(())
            }
            0x03 => {
                let (intid, icid) = self.find(device, event)?;
                self.pend(intid, icid, lpis)
            }
            0x04 => {
                let (intid, _) = self.find(device, event)?;
                lpis.clear(intid);
                Ok(())
            }
            0x0f => {
                let (intid, _) = self.find(device, event)?;
                self.devices
                    .get_mut(&device)
                    .expect("found")
                    .events
                    .remove(&event);
                lpis.unmap(intid);
                Ok(())
            }
            0x0c => {
                let (intid, _) = self.find(device, event)?;
                lpis.invalidate(intid);
                Ok(())
            }
            0x0d => {
                self.check_icid(icid)?;
                self.collection(icid).ok_or(Fault::UnmappedCollection)?;
                self.of_collection(icid)
                    .into_iter()
                    .for_each(|intid| lpis.invalidate(intid));
                Ok(())
            }
            0x0e => {
                let (from, to) = (processor(command[2])?, processor(command[3])?);
                lpis.move_all(from, to);
                Ok(())
            }
            0x05 => Ok(()),
            _ => Err(Fault::Unknown),
        }
    }

    /// Returns the INTIDs of a collection's events.
    fn of_collection(&self, icid: u64) -> Vec<u32> {
        self.events()
            .filter(|(_, _, _, of)| *of == icid)
            .map(|(_, _, intid, _)| intid)
            .collect()
    }

    fn check_device(&self, device: u64) -> Result<(), Fault> {
        let exists = device >> self.size.device_bits == 0;
        exists.then_some(()).ok_or(Fault::DeviceOutOfRange)
    }

    fn check_icid(&self, icid: u64) -> Result<(), Fault> {
        let exists = icid < self.size.collections;
        exists.then_some(()).ok_or(Fault::CollectionOutOfRange)
    }

    /// Checks a DeviceID and an EventID.
    fn device(&self, device: u64, event: u64) -> Result<(), Fault> {
        self.check_device(device)?;
        let mapped = self.devices.get(&device).ok_or(Fault::UnmappedDevice)?;
        (event < mapped.room)
            .then_some(())
            .ok_or(Fault::EventOutOfRange)
    }

    /// Returns the INTID and collection of a command's event.
    fn find(&self, device: u64, event: u64) -> Result<(u32, u64), Fault> {
        self.device(device, event)?;
        self.event(device, event).ok_or(Fault::UnmappedInterrupt)
    }

    fn mapd(
        &mut self,
        device: u64,
        event_bits: u64,
        valid: bool,
        lpis: &mut Lpis,
    ) -> Result<(), Fault> {
        self.check_device(device)?;
        if valid {
            let others = self.devices.iter().filter(|(id, _)| **id != device);
            let (count, room) = others.fold((0, 0), |(n, room), (_, d)| (n + 1, room + d.room));
            if event_bits > self.size.event_bits {
                return Err(Fault::IttSizeOutOfRange);
            }
            if count >= self.size.devices {
                return Err(Fault::DeviceOutOfRange);
            }
            if room + (1 << event_bits) > self.size.events {
                return Err(Fault::IttSizeOutOfRange);
            }
        }

        // A new mapping and an unmapping both remove the device's old events.
        for (intid, _) in self
            .devices
            .remove(&device)
            .unwrap_or_default()
            .events
            .values()
        {
            lpis.unmap(*intid);
        }

        if valid {
            let room = 1 << event_bits;
            let events = BTreeMap::new();
            self.devices.insert(device, Device { room, events });
        }
        Ok(())
    }

    fn mapti(
        &mut self,
        device: u64,
        event: u64,
        intid: u64,
        icid: u64,
        lpis: &mut Lpis,
    ) -> Result<(), Fault> {
        self.device(device, event)?;
        self.check_icid(icid)?;
        if !lpis.exists(intid) {
            return Err(Fault::IntidOutOfRange);
        }

        let (intid, at) = (intid as u32, self.collection(icid));
        let mapped = self.devices.get_mut(&device).expect("checked");
        let old = mapped.events.insert(event, (intid, icid));
        match old {
            Some((old, _)) if old == intid => {
                lpis.move_to(intid, at);
                lpis.invalidate(intid);
            }
            old => {
                lpis.map(intid, at);
                if let Some((old, _)) = old {
                    lpis.unmap(old);
                }
            }
        }
        Ok(())
    }
}
