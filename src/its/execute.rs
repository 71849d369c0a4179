//! Checks and effects of each ITS command (IHI 0069, 5.3).
//!
//! The guest's numbers are checked in the order of the architecture's pseudocode: device, event,
//! collection, INTID. A command that fails has changed nothing. Errors are those of 5.5 (cases
//! `its.error_*` and `error.*`).

use core::cell::Cell;
use core::iter;

use crate::delivery::{change, inject, lpi_lifetime, lpi_tables, routing};
use crate::epoch::CpuPin;
use crate::error::CommandError;
use crate::host::Host;
use crate::intid::{DeviceId, EventId, Icid, IntId, VcpuId};
use crate::its::command::Command;
use crate::its::direct::{self, Event};
use crate::sync::{Mutant, mutant};
use crate::vm::Vm;
use crate::vm::irq::Irq;
use crate::vm::its::device::{Device, Itt};
use crate::vm::its::progress::Task;
use crate::vm::its::{Engine, Its};

/// Execution of commands by the holder of an ITS's command lock.
pub(crate) struct Execution<'a, H: Host> {
    pub(crate) vm: &'a Vm<H>,
    pub(crate) pin: &'a CpuPin<'a>,
    pub(crate) its: &'a Its,
    pub(crate) engine: &'a mut Engine,
    /// Number of waits for a physical ITS that no budget has been charged for.
    pub(crate) waits: Cell<u32>,
}

/// Result of a command that has not failed.
#[must_use]
pub(crate) enum Outcome {
    /// The whole command is done.
    Done,
    /// Nothing is done: the command leaves memory to the epoch, where too much waits, or direct
    /// events are to be settled first.
    Waits,
    /// The work is still to be done, in slices.
    Begun(Task),
}

/// A mapped event that a command names.
struct Found<'a> {
    device_id: DeviceId,
    device: &'a Device,
    event: EventId,
    irq: &'a Irq,
}

impl Found<'_> {
    /// Returns the event that was named.
    fn at(&self) -> Event {
        Event {
            device: self.device_id,
            event: self.event,
        }
    }
}

impl<'a, H: Host> Execution<'a, H> {
    /// Creates the execution of commands; `engine` is the content of the command lock.
    pub(crate) fn new(
        vm: &'a Vm<H>,
        pin: &'a CpuPin<'a>,
        its: &'a Its,
        engine: &'a mut Engine,
    ) -> Self {
        Self {
            vm,
            pin,
            its,
            engine,
            waits: Cell::new(0),
        }
    }

    /// Executes a command, or begins a command that takes steps.
    ///
    /// # Errors
    /// The [`CommandError`] that 5.5 lists for the command.
    pub(crate) fn execute(&mut self, command: Command) -> Result<Outcome, CommandError> {
        match command {
            Command::Mapd { .. } | Command::Discard { .. }
                if self.vm.is_full_of_garbage(self.pin) =>
            {
                return Ok(Outcome::Waits);
            }
            Command::Mapd { device, itt, valid } => return self.mapd(device, valid.then_some(itt)),
            Command::Mapc {
                icid,
                rdbase,
                valid,
            } => return self.mapc(icid, valid.then_some(rdbase)),
            Command::Mapti {
                device,
                event,
                intid,
                icid,
            } => return self.mapti(device, event, intid, icid),
            Command::Movi {
                device,
                event,
                icid,
            } => self.movi(device, event, icid)?,
            Command::Movall { from, to } => return self.movall(from, to),
            Command::Int { device, event } => self.int(device, event)?,
            Command::Clear { device, event } => self.clear(device, event)?,
            Command::Discard { device, event } => self.discard(device, event)?,
            Command::Inv { device, event } => self.inv(device, event)?,
            Command::Invall { icid } => return self.invall(icid),
            // The effects of a command are complete before the next command is begun.
            Command::Sync => {}
        }

        Ok(Outcome::Done)
    }

    /// Begins `MOVALL`. Cases `its.movall_while_pending`, `error.movall_to_nobody`,
    /// `error.movall_to_itself`.
    fn movall(&self, from: u64, to: u64) -> Result<Outcome, CommandError> {
        let (from, to) = (self.processor(from)?, self.processor(to)?);
        if !direct::is_ready_to_move(self.vm, from) {
            return Ok(Outcome::Waits);
        }
        Ok(Outcome::Begun(Task::MoveAll { from, to }))
    }

    /// Executes `INT`. Cases `its.int`, `its.unmapped_collection`.
    fn int(&self, device: u32, event: u32) -> Result<(), CommandError> {
        let found = self.find(device, event)?;
        let irq = found.irq;
        // An ITS keeps no pending state for an unmapped collection: the command fails.
        let (_, target) = self.collection(irq.icid())?;
        target.ok_or(CommandError::UnmappedCollection)?;
        if !self.int_direct(found.at()) {
            let _ = inject::raised(self.vm, self.pin, irq, irq.raise());
        }
        Ok(())
    }

    /// Executes `CLEAR`. Case `its.clear`.
    fn clear(&self, device: u32, event: u32) -> Result<(), CommandError> {
        let found = self.find(device, event)?;
        self.clear_direct(found.at());
        change::clear_pending(self.vm, self.pin, found.irq);
        Ok(())
    }

    /// Executes `DISCARD`. Cases `its.discard`, `its.discard_while_pending`.
    fn discard(&self, device: u32, event: u32) -> Result<(), CommandError> {
        let found = self.find(device, event)?;
        self.unmap_event(found.device_id, found.device, found.event, found.irq);
        Ok(())
    }

    /// Executes `INV`. Cases `its.inv_enables`, `its.inv_changes_the_priority`.
    fn inv(&self, device: u32, event: u32) -> Result<(), CommandError> {
        let irq = self.find(device, event)?.irq;
        self.waited(lpi_tables::reload_one(self.vm, self.pin, irq));
        Ok(())
    }

    /// Begins `INVALL`. Case `its.invall`.
    fn invall(&self, icid: u16) -> Result<Outcome, CommandError> {
        let (icid, target) = self.collection(icid)?;
        target.ok_or(CommandError::UnmappedCollection)?;
        Ok(Outcome::Begun(Task::Invalidate(icid)))
    }

    /// Executes or begins `MAPD`; `itt` is `None` for V = 0. Cases
    /// `its.every_device_and_event`, `its.unmapped_device`, `table.last_device`,
    /// `error.mapd_beyond_the_table`.
    fn mapd(&mut self, device: u32, itt: Option<Itt>) -> Result<Outcome, CommandError> {
        let device = self.device_id(device)?;

        if let Some(itt) = itt {
            if itt.event_bits() > self.its.config.event_bits {
                return Err(CommandError::IttSizeOutOfRange);
            }
            if !self.engine.device_table.covers(device.0, &self.vm.host) {
                return Err(CommandError::DeviceOutOfRange);
            }
        }

        let mapped = self.its.devices.get(device, self.pin.guard());
        if let Some(itt) = itt {
            self.check_quotas(mapped, itt.event_bits())?;
        }

        if mapped.is_some() {
            self.engine.remap = itt;
            return Ok(Outcome::Begun(Task::UnmapDevice(device)));
        }

        if let Some(itt) = itt {
            self.map_device(device, itt, iter::empty());
        }

        Ok(Outcome::Done)
    }

    /// Checks that the quotas allow a device with EventIDs of `event_bits` bits in place of `old`.
    ///
    /// # Errors
    /// [`CommandError::DeviceOutOfRange`] beyond `max_devices`,
    /// [`CommandError::IttSizeOutOfRange`] beyond `max_events`.
    fn check_quotas(&self, old: Option<&Device>, event_bits: u8) -> Result<(), CommandError> {
        let config = &self.its.config;
        let mut others = self.engine.usage;
        if let Some(old) = old {
            others.remove(old.event_count());
        }

        if others.devices >= config.max_devices {
            return Err(CommandError::DeviceOutOfRange);
        }

        if 1 << event_bits > config.max_events.saturating_sub(others.events) {
            return Err(CommandError::IttSizeOutOfRange);
        }

        Ok(())
    }

    /// Maps `device`, which is not mapped and for which the quotas have room, with `events`.
    pub(crate) fn map_device<'i>(
        &mut self,
        device: DeviceId,
        itt: Itt,
        events: impl Iterator<Item = (EventId, &'i Irq)>,
    ) {
        self.engine.usage.add(1 << itt.event_bits());
        let host = &self.vm.host;
        host.device_mapped(self.its.id, device, itt.event_bits());

        let garbage = &self.vm.garbage;
        self.its
            .devices
            .map(device, itt, events, self.pin.guard(), garbage);
    }

    /// Unmaps `device`, whose events have been unmapped before.
    pub(crate) fn unmap_device(&mut self, id: DeviceId, device: &Device) {
        self.engine.usage.remove(device.event_count());
        let garbage = &self.vm.garbage;
        self.its
            .devices
            .unmap(id, device, self.pin.guard(), garbage);
        self.pin.leaves_garbage();
        self.vm.host.device_unmapped(self.its.id, id);
    }

    /// Executes or begins `MAPC`; `rdbase` is `None` for V = 0. Cases `its.mapc_elsewhere`,
    /// `its.mapc_after_mapti`, `its.unmapped_collection`.
    fn mapc(&mut self, icid: u16, rdbase: Option<u64>) -> Result<Outcome, CommandError> {
        let (icid, old) = self.collection(icid)?;
        let target = match rdbase {
            None => None,
            Some(rdbase) => {
                let host = &self.vm.host;
                if !self.engine.collection_table.covers(u32::from(icid.0), host) {
                    return Err(CommandError::CollectionOutOfRange);
                }
                Some(self.processor(rdbase)?)
            }
        };

        if let Some(collection) = self.engine.collections.get_mut(usize::from(icid.0)) {
            *collection = target;
        }

        Ok(if old == target {
            Outcome::Done
        } else {
            Outcome::Begun(Task::Retarget(Some(icid)))
        })
    }

    /// Executes `MAPTI`, and `MAPI` with the EventID as `intid`. Cases `its.mapi`,
    /// `its.every_device_and_event`, `its.mapc_after_mapti`.
    fn mapti(
        &mut self,
        device: u32,
        event: u32,
        intid: u32,
        icid: u16,
    ) -> Result<Outcome, CommandError> {
        let (device_id, device, event) = self.find_device(device, event)?;
        let (icid, target) = self.collection(icid)?;
        let intid = IntId::lpi(intid).ok_or(CommandError::IntidOutOfRange)?;
        let (vm, pin) = (self.vm, self.pin);

        // Mapping a mapped event is UNPREDICTABLE. The new mapping replaces the old one, as an
        // entry of a table in memory would. If both name one INTID, the interrupt and the pending
        // state stay.
        let old = device.irq(event, pin.guard());
        let same = old.filter(|old| old.intid() == intid);
        if same.is_none() && vm.is_full_of_garbage(pin) {
            return Ok(Outcome::Waits);
        }
        let irq = same
            .or_else(|| lpi_lifetime::map(vm, pin, intid, target))
            .ok_or(CommandError::IntidOutOfRange)?;

        irq.set_icid(icid.0);
        let _ = routing::retarget(self.vm, self.pin, irq, target);
        self.waited(lpi_tables::load_config(vm, pin, irq));

        // The interrupt is complete: module docs of `vm::its`, "Publication".
        if same.is_none() {
            if let Some(old) = old {
                self.unmap_event(device_id, device, event, old);
            }
            device.map(event, irq, pin.guard(), &vm.garbage);
        }

        // An LPI of two events has one pending state.
        direct::unsettle_if_shared(vm, irq);
        let at = Event {
            device: device_id,
            event,
        };
        self.place(at, irq, target, same.is_some());
        Ok(Outcome::Done)
    }

    /// Executes `MOVI`. Cases `its.movi`, `its.movi_while_pending`, `its.movi_back_and_forth`.
    fn movi(&mut self, device: u32, event: u32, icid: u16) -> Result<(), CommandError> {
        let found = self.find(device, event)?;
        let (icid, target) = self.collection(icid)?;
        let target = target.ok_or(CommandError::UnmappedCollection)?;
        found.irq.set_icid(icid.0);
        self.retarget_event(found.device_id, found.event, found.irq, Some(target));
        Ok(())
    }

    /// Ends the mapping of an event, in the order of [`crate::vm::its`], "Publication".
    pub(crate) fn unmap_event(&self, id: DeviceId, device: &Device, event: EventId, irq: &Irq) {
        if mutant(Mutant::PutBeforeUnmapped) {
            lpi_lifetime::unmap(self.vm, self.pin, irq);
        }
        device.unmap(event, irq, self.pin.guard(), &self.vm.garbage);
        self.pin.leaves_garbage();
        self.displace(Event { device: id, event });
        if !mutant(Mutant::PutBeforeUnmapped) {
            lpi_lifetime::unmap(self.vm, self.pin, irq);
        }
    }

    /// Moves an event's interrupt, pending or not, to `target`, and reports the move to the host.
    pub(crate) fn retarget_event(
        &self,
        device: DeviceId,
        event: EventId,
        irq: &Irq,
        target: Option<VcpuId>,
    ) {
        let _ = routing::retarget(self.vm, self.pin, irq, target);
        self.place(Event { device, event }, irq, target, true);
    }

    // --- checks of the guest's claims ------------------------------------------------------------

    /// Checks that `device` has at most `device_bits` bits.
    fn device_id(&self, device: u32) -> Result<DeviceId, CommandError> {
        if u64::from(device) >> self.its.config.device_bits == 0 {
            Ok(DeviceId(device))
        } else {
            Err(CommandError::DeviceOutOfRange)
        }
    }

    /// Finds the mapped device `device` and checks that the device has room for `event`.
    fn find_device(
        &self,
        device: u32,
        event: u32,
    ) -> Result<(DeviceId, &'a Device, EventId), CommandError> {
        let id = self.device_id(device)?;
        let (its, pin) = (self.its, self.pin);
        let device = its
            .devices
            .get(id, pin.guard())
            .ok_or(CommandError::UnmappedDevice)?;
        if device.has_room_for(event) {
            Ok((id, device, EventId(event)))
        } else {
            Err(CommandError::EventOutOfRange)
        }
    }

    /// Finds a mapped event.
    fn find(&self, device: u32, event: u32) -> Result<Found<'a>, CommandError> {
        let (device_id, device, event) = self.find_device(device, event)?;
        let irq = device
            .irq(event, self.pin.guard())
            .ok_or(CommandError::UnmappedInterrupt)?;
        Ok(Found {
            device_id,
            device,
            event,
            irq,
        })
    }

    /// Checks `icid`, and returns the collection with the vCPU that the collection is mapped to.
    fn collection(&self, icid: u16) -> Result<(Icid, Option<VcpuId>), CommandError> {
        self.engine
            .collections
            .get(usize::from(icid))
            .map(|target| (Icid(icid), *target))
            .ok_or(CommandError::CollectionOutOfRange)
    }

    /// Returns the present vCPU whose processor number is `rdbase`.
    fn processor(&self, rdbase: u64) -> Result<VcpuId, CommandError> {
        usize::try_from(rdbase)
            .ok()
            .and_then(VcpuId::new)
            .filter(|vcpu| self.vm.vcpu(*vcpu).is_some())
            .ok_or(CommandError::ProcessorOutOfRange)
    }
}
