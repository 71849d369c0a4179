//! An ITS and its LPIs (IHI 0069, chapter 5).

use std::collections::BTreeMap;

use super::{FIRST_LPI, Interrupt};

/// What an ITS has room for: `GITS_TYPER`, and the implementation's limits.
#[derive(Clone, Copy, Debug)]
pub struct Size {
    pub lpi_bits: u32,
    pub device_bits: u32,
    pub event_bits: u64,
    pub collections: u64,
    /// Devices mapped at once.
    pub devices: usize,
    /// Events that the mapped devices have room for, together.
    pub events: u64,
    pub pes: usize,
}

/// Why a command fails (5.5); it has no effect then.
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

/// An LPI that is mapped.
#[derive(Clone, Debug)]
pub struct Lpi {
    /// Its pending state and configuration; never active.
    pub interrupt: Interrupt,
    /// The PE on whose redistributor it is pending, or was last.
    pub at: Option<usize>,
}

#[derive(Clone, Debug, Default)]
struct Device {
    /// Events it has room for.
    room: u64,
    /// INTID and collection, by EventID.
    events: BTreeMap<u64, (u32, u64)>,
}

/// One ITS.
pub struct Its {
    /// By INTID.
    pub lpis: BTreeMap<u32, Lpi>,
    /// The LPI configuration table in memory, a byte for each, from INTID 8192 on.
    pub table: Vec<u8>,
    size: Size,
    devices: BTreeMap<u64, Device>,
    /// The PE of each, by ICID.
    collections: BTreeMap<u64, usize>,
}

impl Its {
    pub fn new(size: Size) -> Self {
        Self {
            lpis: BTreeMap::new(),
            table: vec![
                0;
                if size.lpi_bits == 0 {
                    0
                } else {
                    1 << size.lpi_bits
                }
            ],
            size,
            devices: BTreeMap::new(),
            collections: BTreeMap::new(),
        }
    }

    pub fn lpi_bits(&self) -> u32 {
        self.size.lpi_bits
    }

    /// INTID and collection of a mapped event.
    pub fn event(&self, device: u64, event: u64) -> Option<(u32, u64)> {
        self.devices.get(&device)?.events.get(&event).copied()
    }

    /// The event that an INTID is mapped to: device, event and collection.
    pub fn mapping(&self, intid: u32) -> Option<(u64, u64, u64)> {
        self.devices.iter().find_map(|(device, mapped)| {
            let mut events = mapped.events.iter();
            let (event, (_, icid)) = events.find(|(_, (mapped, _))| *mapped == intid)?;
            Some((*device, *event, *icid))
        })
    }

    pub fn collection(&self, icid: u64) -> Option<usize> {
        self.collections.get(&icid).copied()
    }

    /// Where interrupts of the collection are pending.
    pub fn pending(&self, icid: u64) -> impl Iterator<Item = Option<usize>> {
        let pending = self.lpis.iter().filter(|(_, lpi)| lpi.interrupt.latch);
        pending
            .filter(move |(intid, _)| self.mapping(**intid).is_some_and(|(_, _, of)| of == icid))
            .map(|(_, lpi)| lpi.at)
    }

    /// A device writes `GITS_TRANSLATER`: whether that makes, or keeps, an interrupt pending.
    pub fn translate(&mut self, device: u64, event: u64) -> bool {
        let found = self.event(device, event);
        let Some((intid, icid)) = found else {
            return false;
        };
        self.pend(intid, icid).is_ok()
    }

    fn pend(&mut self, intid: u32, icid: u64) -> Result<(), Fault> {
        let pe = self.collection(icid).ok_or(Fault::UnmappedCollection)?;
        let lpi = self.lpis.get_mut(&intid).expect("mapped");
        if !lpi.interrupt.latch {
            lpi.at = Some(pe);
        }
        lpi.interrupt.latch = true;
        Ok(())
    }

    /// Reads the configuration of an LPI from memory, if it is mapped.
    pub fn invalidate(&mut self, intid: u32) {
        if let Some(lpi) = self.lpis.get_mut(&intid) {
            let byte = self.table[(intid - FIRST_LPI) as usize];
            lpi.interrupt.priority = byte & 0xf8;
            lpi.interrupt.enabled = byte & 1 != 0;
        }
    }

    /// Executes a command of four doublewords (5.3).
    pub fn execute(&mut self, command: [u64; 4]) -> Result<(), Fault> {
        let (device, event) = (command[0] >> 32, command[1] & 0xffff_ffff);
        let (icid, valid) = (command[2] & 0xffff, command[2] >> 63 != 0);
        let processor = |word: u64| {
            let number = (word >> 16 & 0xf_ffff_ffff) as usize;
            (number < self.size.pes)
                .then_some(number)
                .ok_or(Fault::ProcessorOutOfRange)
        };
        match command[0] & 0xff {
            0x08 => self.mapd(device, (command[1] & 0x1f) + 1, valid),
            0x09 => {
                self.check_icid(icid)?;
                if valid {
                    let pe = processor(command[2])?;
                    self.collections.insert(icid, pe);
                } else {
                    self.collections.remove(&icid);
                }
                Ok(())
            }
            0x0a => self.mapti(device, event, command[1] >> 32, icid),
            0x0b => self.mapti(device, event, event, icid),
            0x01 => {
                let (intid, _) = self.find(device, event)?;
                self.check_icid(icid)?;
                let pe = self.collection(icid).ok_or(Fault::UnmappedCollection)?;
                let mapped = self.devices.get_mut(&device).expect("found");
                mapped.events.insert(event, (intid, icid));
                self.lpis.get_mut(&intid).expect("mapped").at = Some(pe);
                Ok(())
            }
            0x03 => {
                let (intid, icid) = self.find(device, event)?;
                self.pend(intid, icid)
            }
            0x04 => {
                let (intid, _) = self.find(device, event)?;
                self.lpis.get_mut(&intid).expect("mapped").interrupt.latch = false;
                Ok(())
            }
            0x0f => {
                let (intid, _) = self.find(device, event)?;
                self.devices
                    .get_mut(&device)
                    .expect("found")
                    .events
                    .remove(&event);
                self.lpis.remove(&intid);
                Ok(())
            }
            0x0c => {
                let (intid, _) = self.find(device, event)?;
                self.invalidate(intid);
                Ok(())
            }
            0x0d => {
                self.check_icid(icid)?;
                self.collection(icid).ok_or(Fault::UnmappedCollection)?;
                let devices = self
                    .devices
                    .values()
                    .flat_map(|device| device.events.values());
                let these: Vec<u32> = devices
                    .filter(|(_, of)| *of == icid)
                    .map(|(n, _)| *n)
                    .collect();
                these.into_iter().for_each(|intid| self.invalidate(intid));
                Ok(())
            }
            0x0e => {
                let (from, to) = (processor(command[2])?, processor(command[3])?);
                for lpi in self.lpis.values_mut() {
                    if lpi.interrupt.latch && lpi.at == Some(from) {
                        lpi.at = Some(to);
                    }
                }
                Ok(())
            }
            0x05 => Ok(()),
            _ => Err(Fault::Unknown),
        }
    }

    fn check_device(&self, device: u64) -> Result<(), Fault> {
        let exists = device >> self.size.device_bits == 0;
        exists.then_some(()).ok_or(Fault::DeviceOutOfRange)
    }

    fn check_icid(&self, icid: u64) -> Result<(), Fault> {
        let exists = icid < self.size.collections;
        exists.then_some(()).ok_or(Fault::CollectionOutOfRange)
    }

    /// Checks device and EventID.
    fn device(&self, device: u64, event: u64) -> Result<(), Fault> {
        self.check_device(device)?;
        let mapped = self.devices.get(&device).ok_or(Fault::UnmappedDevice)?;
        (event < mapped.room)
            .then_some(())
            .ok_or(Fault::EventOutOfRange)
    }

    /// INTID and collection of the event that a command names.
    fn find(&self, device: u64, event: u64) -> Result<(u32, u64), Fault> {
        self.device(device, event)?;
        self.event(device, event).ok_or(Fault::UnmappedInterrupt)
    }

    fn mapd(&mut self, device: u64, event_bits: u64, valid: bool) -> Result<(), Fault> {
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
        // Mapped anew or not at all, its old events are gone.
        for (intid, _) in self
            .devices
            .remove(&device)
            .unwrap_or_default()
            .events
            .values()
        {
            self.lpis.remove(intid);
        }
        if valid {
            let room = 1 << event_bits;
            let events = BTreeMap::new();
            self.devices.insert(device, Device { room, events });
        }
        Ok(())
    }

    fn mapti(&mut self, device: u64, event: u64, intid: u64, icid: u64) -> Result<(), Fault> {
        self.device(device, event)?;
        self.check_icid(icid)?;
        let last = u64::from(FIRST_LPI) + (1 << self.size.lpi_bits);
        if !(u64::from(FIRST_LPI)..last).contains(&intid) {
            return Err(Fault::IntidOutOfRange);
        }
        let (intid, at) = (intid as u32, self.collection(icid));
        let mapped = self.devices.get_mut(&device).expect("checked");
        let old = mapped.events.insert(event, (intid, icid));
        if let Some((old, _)) = old.filter(|(old, _)| *old != intid) {
            self.lpis.remove(&old);
        }
        let interrupt = Interrupt {
            group1: true,
            ..Interrupt::default()
        };
        let lpi = self.lpis.entry(intid).or_insert(Lpi { interrupt, at });
        lpi.at = at;
        self.invalidate(intid);
        Ok(())
    }
}
