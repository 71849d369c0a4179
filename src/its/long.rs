//! Commands whose work grows with what the guest has mapped, done in steps.
//!
//! Each step moves on to the next device, event or LPI and does what is to be done with it, and is paid for
//! from the slice's budget: so much for each table slot passed on the way, full or empty, and for each event.
//! What is left over waits in [`Engine::in_progress`](super::Engine) with its cursors. No other command is
//! begun before, so what lies ahead of a cursor does not change, except that another ITS may map or unmap
//! LPIs that `MOVALL` walks.

use crate::host::Host;
use crate::intid::{DeviceId, EventId, Icid, VcpuId};
use crate::irq::Irq;
use crate::radix::{Cursor, Search};

use super::command::CommandError;
use super::device::Device;
use super::execute::Execution;
use super::queue::{EVENT_STEPS, SLICE};
use super::tables::TableType;
use super::{DROPPING, Engine};

/// Work that has been begun.
pub(super) struct InProgress {
    work: Work,
    /// The number of the command it is for; none if the guest took a table away.
    command: Option<u8>,
}

impl InProgress {
    pub(super) fn command(number: u8, work: Work) -> Self {
        Self {
            work,
            command: Some(number),
        }
    }

    pub(super) fn is_command(&self) -> bool {
        self.command.is_some()
    }
}

/// A task, and how far it has come.
pub(super) struct Work {
    task: Task,
    place: Place,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Task {
    /// `MAPC`: the events of the collection, or of all, go where their collection is mapped to now.
    Retarget(Option<Icid>),
    /// `INVALL`: the configuration of the collection's interrupts is read again.
    Invalidate(Icid),
    /// `MOVALL`: what is pending on a vCPU goes to another.
    MoveAll { from: VcpuId, to: VcpuId },
    /// `MAPD`: the device is unmapped, and then mapped again with so many bits of EventID.
    UnmapDevice(DeviceId, Option<u8>),
    /// The device table is gone: every device is unmapped.
    UnmapDevices,
}

/// Where a walk goes on.
#[derive(Default)]
struct Place {
    /// In the table of devices; of LPIs for `MOVALL`.
    outer: Cursor,
    /// In the events of the device that `outer` is at.
    event: Cursor,
}

/// One step of a walk over the events of one device or of all.
enum Visit<'a> {
    Event(DeviceId, &'a Device, EventId, &'a Irq),
    /// The budget is used up on the way.
    Paused,
    /// The device has no more events.
    LastEvent(DeviceId, &'a Device),
    /// There are no more devices.
    End,
}

impl Work {
    fn new(task: Task) -> Self {
        Self {
            task,
            place: Place::default(),
        }
    }

    pub(super) fn retarget(icid: Option<Icid>) -> Self {
        Self::new(Task::Retarget(icid))
    }

    pub(super) fn invalidate(icid: Icid) -> Self {
        Self::new(Task::Invalidate(icid))
    }

    pub(super) fn move_all(from: VcpuId, to: VcpuId) -> Self {
        Self::new(Task::MoveAll { from, to })
    }

    pub(super) fn unmap_device(device: DeviceId, remap: Option<u8>) -> Self {
        Self::new(Task::UnmapDevice(device, remap))
    }
}

impl Engine {
    /// Whether a command has been begun and is not done.
    pub(super) fn in_command(&self) -> bool {
        self.in_progress
            .as_ref()
            .is_some_and(InProgress::is_command)
    }
}

impl<'a, H: Host> Execution<'a, H> {
    /// Goes on with what is in progress, as far as `budget` goes; true once nothing is.
    pub(super) fn proceed(&mut self, budget: &mut u32) -> bool {
        let Some(mut in_progress) = self.engine.in_progress.take() else {
            return true;
        };
        while *budget > 0 {
            if let Some(result) = self.step(&mut in_progress.work, budget) {
                match in_progress.command {
                    Some(number) => self.retire(number, result),
                    None => self.its.set_control(DROPPING, false),
                }
                return true;
            }
        }
        self.engine.in_progress = Some(in_progress);
        false
    }

    /// Begins to unmap what was mapped through a table that is no longer there. Nothing is translated
    /// until it is done.
    pub(super) fn drop_table(&mut self, table: TableType) {
        let task = match table {
            TableType::Devices => Task::UnmapDevices,
            TableType::Collections => {
                self.engine.collections.fill(None);
                Task::Retarget(None)
            }
        };
        let unmapping = self
            .engine
            .in_progress
            .as_ref()
            .is_some_and(|now| now.work.task == Task::UnmapDevices);
        if !unmapping {
            self.its.set_control(DROPPING, true);
            self.engine.in_progress = Some(InProgress {
                work: Work::new(task),
                command: None,
            });
        }
    }

    /// Unmaps all devices at once, without a bound.
    pub(super) fn unmap_everything(&mut self) {
        self.engine.in_progress = None;
        self.drop_table(TableType::Devices);
        let mut budget = SLICE;
        while !self.proceed(&mut budget) {
            budget = SLICE;
        }
    }

    /// One step; the command's result with the last one.
    fn step(&mut self, work: &mut Work, budget: &mut u32) -> Option<Result<(), CommandError>> {
        match work.task {
            Task::Retarget(icid) => {
                let (device, event, irq) = match self.visit(&mut work.place, budget) {
                    Visit::Event(device, _, event, irq) => (device, event, irq),
                    Visit::End => return Some(Ok(())),
                    Visit::Paused | Visit::LastEvent(..) => return None,
                };
                if icid.is_none_or(|icid| irq.icid() == icid.0) {
                    let collections = &self.engine.collections;
                    let target = collections.get(usize::from(irq.icid())).copied();
                    self.retarget_event(device, event, irq, target.flatten());
                }
                None
            }
            Task::Invalidate(icid) => {
                let irq = match self.visit(&mut work.place, budget) {
                    Visit::Event(_, _, _, irq) => irq,
                    Visit::End => return Some(Ok(())),
                    Visit::Paused | Visit::LastEvent(..) => return None,
                };
                if irq.icid() == icid.0 {
                    self.vgic.reload_lpi_config(self.pin, irq);
                }
                None
            }
            Task::MoveAll { from, to } => self.step_move_all(&mut work.place, budget, from, to),
            Task::UnmapDevice(id, remap) => {
                // Only commands unmap devices, and this one is not done.
                if let Some(device) = self.its.devices.get(id, self.pin.guard()) {
                    let visit = self.visit_device(&mut work.place, budget, id, device);
                    if !self.unmap_visited(visit) {
                        return None;
                    }
                }
                if let Some(event_bits) = remap {
                    self.map_device(id, event_bits);
                }
                Some(Ok(()))
            }
            Task::UnmapDevices => match self.visit(&mut work.place, budget) {
                Visit::End => Some(Ok(())),
                visit => {
                    self.unmap_visited(visit);
                    None
                }
            },
        }
    }

    /// Moves on to the next event of any device.
    fn visit(&self, place: &mut Place, budget: &mut u32) -> Visit<'a> {
        let devices = &self.its.devices;
        match devices.search(&mut place.outer, budget, self.pin.guard()) {
            Search::Found(id, device) => self.visit_device(place, budget, DeviceId(id), device),
            Search::Paused => Visit::Paused,
            Search::Exhausted => Visit::End,
        }
    }

    /// Moves on to the next event of this device, and past the device once it has none.
    fn visit_device(
        &self,
        place: &mut Place,
        budget: &mut u32,
        id: DeviceId,
        device: &'a Device,
    ) -> Visit<'a> {
        if *budget == 0 {
            return Visit::Paused;
        }
        let found = device.search(&mut place.event, budget, self.pin.guard());
        if let Search::Paused = found {
            return Visit::Paused;
        }
        *budget = budget.saturating_sub(EVENT_STEPS);
        if let Search::Found(event, irq) = found {
            place.event.pass(event);
            return Visit::Event(id, device, EventId(event), irq);
        }
        place.outer.pass(id.0);
        place.event = Cursor::default();
        Visit::LastEvent(id, device)
    }

    /// The redistributor's part: what is pending there goes, whichever ITS mapped it; where the mappings
    /// lead does not change.
    fn step_move_all(
        &self,
        place: &mut Place,
        budget: &mut u32,
        from: VcpuId,
        to: VcpuId,
    ) -> Option<Result<(), CommandError>> {
        let lpis = self.vgic.lpis();
        let irq = match lpis.search(&mut place.outer, budget, self.pin.guard()) {
            Search::Found(key, irq) => {
                place.outer.pass(key);
                irq
            }
            Search::Paused => return None,
            Search::Exhausted => return Some(Ok(())),
        };
        *budget = budget.saturating_sub(EVENT_STEPS);
        let changed = irq.update(|state| {
            if state.shows_pending() && state.target() == Some(from) {
                state.with_target(Some(to))
            } else {
                state
            }
        });
        self.vgic.pay(self.pin, irq, changed.owed);
        None
    }

    /// Unmaps the event that a walk has come to, or the device if that was its last one: then true.
    fn unmap_visited(&mut self, visit: Visit<'_>) -> bool {
        match visit {
            Visit::Event(id, device, event, irq) => {
                self.unmap_event(id, device, event, irq);
                false
            }
            Visit::LastEvent(id, device) => {
                self.unmap_device(id, device);
                true
            }
            Visit::Paused | Visit::End => false,
        }
    }
}
