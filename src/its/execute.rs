//! What each command does.
//!
//! The guest's numbers are checked here, in the order of the architecture's pseudocode: device, event,
//! collection, INTID. A command that fails has changed nothing.

use crate::delivery::{inject, lpi_lifetime, lpi_tables, queue};
use crate::epoch::CpuPin;
use crate::error::CommandError;
use crate::host::Host;
use crate::intid::{DeviceId, EventId, Icid, IntId, VcpuId};
use crate::its::command::Command;
use crate::vm::Vm;
use crate::vm::irq::Irq;
use crate::vm::its::device::Device;
use crate::vm::its::progress::Work;
use crate::vm::its::{Engine, Its};

/// The holder of an ITS's command lock, at work.
pub(crate) struct Execution<'a, H: Host> {
    pub(crate) vm: &'a Vm<H>,
    pub(crate) pin: &'a CpuPin<'a>,
    pub(crate) its: &'a Its,
    pub(crate) engine: &'a mut Engine,
}

/// What is left of a command that has been begun.
#[must_use]
pub(crate) enum Outcome {
    /// Nothing: all of it is done.
    Done,
    /// This much.
    Begun(Work),
}

/// An event as a command names it, once it has been found.
struct Found<'a> {
    device_id: DeviceId,
    device: &'a Device,
    event: EventId,
    irq: &'a Irq,
}

impl<'a, H: Host> Execution<'a, H> {
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
        }
    }

    /// Executes a command, or begins it.
    pub(crate) fn execute(&mut self, command: Command) -> Result<Outcome, CommandError> {
        match command {
            Command::Mapd {
                device,
                event_bits,
                valid,
            } => return self.mapd(device, valid.then_some(event_bits)),
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
            } => self.mapti(device, event, intid, icid)?,
            Command::Movi {
                device,
                event,
                icid,
            } => self.movi(device, event, icid)?,
            Command::Movall { from, to } => {
                let (from, to) = (self.processor(from)?, self.processor(to)?);
                return Ok(Outcome::Begun(Work::move_all(from, to)));
            }
            Command::Int { device, event } => {
                let irq = self.find(device, event)?.irq;
                // As on hardware, nothing is kept for a collection that goes nowhere.
                self.collection(irq.icid())?
                    .1
                    .ok_or(CommandError::UnmappedCollection)?;
                let _ = inject::raised(self.vm, self.pin, irq, irq.raise());
            }
            Command::Clear { device, event } => {
                let irq = self.find(device, event)?.irq;
                // An LPI is never forwarded: there is no physical interrupt to deactivate.
                let (_, changed) = irq.clear_pending();
                queue::complete(self.vm, self.pin, irq, changed);
            }
            Command::Discard { device, event } => {
                let found = self.find(device, event)?;
                self.unmap_event(found.device_id, found.device, found.event, found.irq);
            }
            Command::Inv { device, event } => {
                let irq = self.find(device, event)?.irq;
                lpi_tables::reload_config(self.vm, self.pin, irq);
            }
            Command::Invall { icid } => {
                let (icid, target) = self.collection(icid)?;
                target.ok_or(CommandError::UnmappedCollection)?;
                return Ok(Outcome::Begun(Work::invalidate(icid)));
            }
            // Every command's effects are complete when the next one is begun.
            Command::Sync => {}
        }
        Ok(Outcome::Done)
    }

    fn mapd(&mut self, device: u32, event_bits: Option<u8>) -> Result<Outcome, CommandError> {
        let device = self.device_id(device)?;
        if let Some(event_bits) = event_bits {
            if event_bits > self.its.config.event_bits {
                return Err(CommandError::IttSizeOutOfRange);
            }
            if !self.engine.device_table.covers(device.0, &self.vm.host) {
                return Err(CommandError::DeviceOutOfRange);
            }
        }
        let mapped = self.its.devices.get(device, self.pin.guard());
        if let Some(event_bits) = event_bits {
            self.check_quotas(mapped, event_bits)?;
        }
        if mapped.is_some() {
            return Ok(Outcome::Begun(Work::unmap_device(device, event_bits)));
        }
        if let Some(event_bits) = event_bits {
            self.map_device(device, event_bits);
        }
        Ok(Outcome::Done)
    }

    /// Whether there is room for a device with so many events, in place of `old`.
    fn check_quotas(&self, old: Option<&Device>, event_bits: u8) -> Result<(), CommandError> {
        let config = &self.its.config;
        let mut others = self.engine.usage;
        if let Some(old) = old {
            others.remove(old.room());
        }
        if others.devices >= config.max_devices {
            return Err(CommandError::DeviceOutOfRange);
        }
        if 1 << event_bits > config.max_events.saturating_sub(others.events) {
            return Err(CommandError::IttSizeOutOfRange);
        }
        Ok(())
    }

    /// Maps a device that is not mapped and has been found room for.
    pub(crate) fn map_device(&mut self, device: DeviceId, event_bits: u8) {
        self.engine.usage.add(1 << event_bits);
        let host = &self.vm.host;
        host.device_mapped(self.its.id, device, event_bits);
        self.its.devices.map(device, event_bits, self.pin.guard());
    }

    /// Unmaps a device, whose events are unmapped already.
    pub(crate) fn unmap_device(&mut self, id: DeviceId, device: &Device) {
        self.engine.usage.remove(device.room());
        self.its.devices.unmap(id, device, self.pin.guard());
        self.pin.leaves_garbage();
        self.vm.host.device_unmapped(self.its.id, id);
    }

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
            Outcome::Begun(Work::retarget(Some(icid)))
        })
    }

    fn mapti(
        &mut self,
        device: u32,
        event: u32,
        intid: u32,
        icid: u16,
    ) -> Result<(), CommandError> {
        let (device_id, device, event) = self.event(device, event)?;
        let (icid, target) = self.collection(icid)?;
        let intid = IntId::lpi(intid).ok_or(CommandError::IntidOutOfRange)?;
        let (vm, pin) = (self.vm, self.pin);
        // Mapping a mapped event is UNPREDICTABLE; as in a table in memory, the new entry counts. With
        // the same INTID the interrupt is the same one, and stays pending if it is.
        let old = device.irq(event, pin.guard());
        let same = old.filter(|old| old.intid() == intid);
        let irq = same
            .or_else(|| lpi_lifetime::map(vm, pin, intid, target))
            .ok_or(CommandError::IntidOutOfRange)?;
        irq.set_icid(icid.0);
        self.retarget(irq, target);
        lpi_tables::reload_config(vm, pin, irq);
        if same.is_none() {
            if let Some(old) = old {
                self.unmap_event(device_id, device, event, old);
            }
            device.map(event, irq, pin.guard());
        }
        vm.host
            .event_mapped(self.its.id, device_id, event, intid, target);
        Ok(())
    }

    fn movi(&mut self, device: u32, event: u32, icid: u16) -> Result<(), CommandError> {
        let found = self.find(device, event)?;
        let (icid, target) = self.collection(icid)?;
        let target = target.ok_or(CommandError::UnmappedCollection)?;
        found.irq.set_icid(icid.0);
        self.retarget_event(found.device_id, found.event, found.irq, Some(target));
        Ok(())
    }

    /// Ends the mapping of an event: module docs of [`super`], "Publication".
    pub(crate) fn unmap_event(&self, id: DeviceId, device: &Device, event: EventId, irq: &Irq) {
        device.unmap(event, irq, self.pin.guard());
        self.pin.leaves_garbage();
        self.vm.host.event_unmapped(self.its.id, id, event);
        lpi_lifetime::unmap(self.vm, self.pin, irq);
    }

    /// Moves an event's interrupt, pending or not.
    pub(crate) fn retarget_event(
        &self,
        device: DeviceId,
        event: EventId,
        irq: &Irq,
        target: Option<VcpuId>,
    ) {
        self.retarget(irq, target);
        let host = &self.vm.host;
        host.event_mapped(self.its.id, device, event, irq.intid(), target);
    }

    fn retarget(&self, irq: &Irq, target: Option<VcpuId>) {
        let changed = irq.update(|state| state.with_target(target));
        queue::follow_up(self.vm, self.pin, irq, changed.follow_up);
    }

    // --- checking what the guest claims ----------------------------------------------------------
    fn device_id(&self, device: u32) -> Result<DeviceId, CommandError> {
        if u64::from(device) >> self.its.config.device_bits == 0 {
            Ok(DeviceId(device))
        } else {
            Err(CommandError::DeviceOutOfRange)
        }
    }

    /// The device, and an event that it has room for.
    fn event(
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
        if device.has(event) {
            Ok((id, device, EventId(event)))
        } else {
            Err(CommandError::EventOutOfRange)
        }
    }

    /// A mapped event.
    fn find(&self, device: u32, event: u32) -> Result<Found<'a>, CommandError> {
        let (device_id, device, event) = self.event(device, event)?;
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

    /// A collection, and where it is mapped to.
    fn collection(&self, icid: u16) -> Result<(Icid, Option<VcpuId>), CommandError> {
        self.engine
            .collections
            .get(usize::from(icid))
            .map(|target| (Icid(icid), *target))
            .ok_or(CommandError::CollectionOutOfRange)
    }

    /// The vCPU with this processor number, if it is present.
    fn processor(&self, rdbase: u64) -> Result<VcpuId, CommandError> {
        usize::try_from(rdbase)
            .ok()
            .and_then(VcpuId::new)
            .filter(|vcpu| self.vm.vcpu(*vcpu).is_some())
            .ok_or(CommandError::ProcessorOutOfRange)
    }
}
