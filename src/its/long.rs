//! Commands whose work grows with what the guest has mapped, done in steps.
//!
//! Each step looks at one device, event or LPI, past at most the empty slots of the table nodes between
//! it and the one before. What is left over waits in [`Engine::in_progress`](super::Engine) as a cursor.
//! No other command is begun before, so what lies ahead of the cursor does not change, except that
//! another ITS may map or unmap LPIs that `MOVALL` walks.

use crate::host::Host;
use crate::intid::{DeviceId, EventId, Icid, IntId, VcpuId};
use crate::irq::Irq;

use super::command::CommandError;
use super::device::Device;
use super::execute::Execution;
use super::queue::SLICE;
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
    cursor: Cursor,
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

/// Where a walk goes on: at `event` of the first device from `key` on, or at the first LPI from `key` on;
/// past the last key if `None`.
struct Cursor {
    key: Option<u32>,
    event: u32,
}

/// One step of a walk over all events.
enum Visit<'a> {
    Event(DeviceId, EventId, &'a Irq),
    /// A device has no more events.
    Nothing,
    /// There are no more devices.
    End,
}

impl Work {
    fn new(task: Task) -> Self {
        Self {
            task,
            cursor: Cursor {
                key: Some(0),
                event: 0,
            },
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
    /// Goes on with what is in progress, for at most `budget` steps; true once nothing is.
    pub(super) fn proceed(&mut self, budget: &mut u32) -> bool {
        let Some(mut in_progress) = self.engine.in_progress.take() else {
            return true;
        };
        while *budget > 0 {
            *budget -= 1;
            if let Some(result) = self.step(&mut in_progress.work) {
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
    fn step(&mut self, work: &mut Work) -> Option<Result<(), CommandError>> {
        match work.task {
            Task::Retarget(icid) => match self.visit(&mut work.cursor) {
                Visit::Event(device, event, irq) => {
                    if icid.is_none_or(|icid| irq.icid() == icid.0) {
                        let collections = &self.engine.collections;
                        let target = collections.get(usize::from(irq.icid())).copied();
                        self.retarget_event(device, event, irq, target.flatten());
                    }
                    None
                }
                Visit::Nothing => None,
                Visit::End => Some(Ok(())),
            },
            Task::Invalidate(icid) => match self.visit(&mut work.cursor) {
                Visit::Event(_, _, irq) => {
                    if irq.icid() == icid.0 {
                        self.vgic.reload_lpi_config(self.pin, irq);
                    }
                    None
                }
                Visit::Nothing => None,
                Visit::End => Some(Ok(())),
            },
            Task::MoveAll { from, to } => self.step_move_all(&mut work.cursor, from, to),
            Task::UnmapDevice(id, remap) => {
                let device = self.its.devices.get(id, self.pin.guard());
                // Only commands unmap devices, and this one is not done.
                let emptied =
                    device.is_none_or(|device| self.step_unmap(&mut work.cursor, id, device));
                emptied.then(|| {
                    if let Some(event_bits) = remap {
                        self.map_device(id, event_bits);
                    }
                    Ok(())
                })
            }
            Task::UnmapDevices => {
                let Some((id, device)) = self.its.devices.next(0, self.pin.guard()) else {
                    return Some(Ok(()));
                };
                if self.step_unmap(&mut work.cursor, id, device) {
                    work.cursor.event = 0;
                }
                None
            }
        }
    }

    /// Moves on to the next event of any device.
    fn visit(&self, cursor: &mut Cursor) -> Visit<'a> {
        let guard = self.pin.guard();
        let Some((id, device)) = cursor
            .key
            .and_then(|from| self.its.devices.next(from, guard))
        else {
            return Visit::End;
        };
        match device.next(cursor.event, guard) {
            Some((event, irq)) => {
                cursor.event = event.0 + 1;
                Visit::Event(id, event, irq)
            }
            None => {
                *cursor = Cursor {
                    key: id.0.checked_add(1),
                    event: 0,
                };
                Visit::Nothing
            }
        }
    }

    /// The redistributor's part: what is pending there goes, whichever ITS mapped it; where the mappings
    /// lead does not change.
    fn step_move_all(
        &self,
        cursor: &mut Cursor,
        from: VcpuId,
        to: VcpuId,
    ) -> Option<Result<(), CommandError>> {
        let key = cursor.key.unwrap_or(u32::MAX);
        let Some((key, irq)) = self.vgic.lpis().next(key, self.pin.guard()) else {
            return Some(Ok(()));
        };
        cursor.key = Some(key + 1);
        debug_assert!(irq.intid().raw() == IntId::FIRST_LPI + key);
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

    /// Unmaps one event of a device, or the device once it has none: then true.
    fn step_unmap(&mut self, cursor: &mut Cursor, id: DeviceId, device: &Device) -> bool {
        match device.next(cursor.event, self.pin.guard()) {
            Some((event, irq)) => {
                cursor.event = event.0 + 1;
                self.unmap_event(id, device, event, irq);
                false
            }
            None => {
                self.unmap_device(id, device);
                true
            }
        }
    }
}
