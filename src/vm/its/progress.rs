//! A command, or the removal of a table, that has been begun and is not done.
//!
//! [`crate::its::walks`] does the work in slices and keeps the cursors here between two slices.

use crate::intid::{DeviceId, Icid, VcpuId};
use crate::radix::Cursor;
use crate::vm::its::Engine;

/// Work that has been begun and is not done.
pub(crate) struct InProgress {
    pub(crate) work: Work,
    /// Number of the command that the work is for; `None` if the guest has taken a table away, or
    /// a vCPU has been removed.
    pub(crate) command: Option<u8>,
    /// A vCPU has been removed since the work was begun.
    pub(crate) vcpu_removed: bool,
    /// The paths of events have to be settled, since the work was begun.
    pub(crate) unsettled: bool,
}

impl InProgress {
    /// Begins `task`, with both cursors at the start.
    pub(crate) fn new(task: Task, command: Option<u8>) -> Self {
        let cursors = Cursors::default();
        Self {
            work: Work { task, cursors },
            command,
            vcpu_removed: false,
            unsettled: false,
        }
    }

    /// Returns whether the work unlinks memory, and leaves it to the epoch.
    pub(crate) fn leaves_garbage(&self) -> bool {
        matches!(self.work.task, Task::UnmapDevice(..) | Task::UnmapDevices)
    }
}

/// A task and its progress.
pub(crate) struct Work {
    pub(crate) task: Task,
    pub(crate) cursors: Cursors,
}

/// Kind of work that takes more than one slice.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Task {
    /// Retargeting of the collection's events, or of all events, to their collections' vCPUs:
    /// `MAPC`, or a collection table taken away.
    Retarget(Option<Icid>),
    /// Retargeting of the events whose vCPU has been removed.
    Departed,
    /// Reading of the configuration of the collection's interrupts: `INVALL`.
    Invalidate(Icid),
    /// Move of the pending LPIs of the vCPU `from` to the vCPU `to`: `MOVALL`.
    MoveAll { from: VcpuId, to: VcpuId },
    /// Change of every event to the path that the event is to take: `its::direct`.
    Settle,
    /// Unmapping of a device, then mapping of the device with the table [`Engine::remap`], if any:
    /// `MAPD`.
    UnmapDevice(DeviceId),
    /// Unmapping of every device: a device table taken away.
    UnmapDevices,
}

/// Positions at which the next slice continues a walk.
#[derive(Default)]
pub(crate) struct Cursors {
    /// Position in the table of devices; for `MOVALL`, in the table of LPIs.
    pub(crate) outer: Cursor,
    /// Position in the events of the device at `outer`.
    pub(crate) event: Cursor,
}

impl Engine {
    /// Begins to retarget the events whose vCPU has been removed, once the work in progress is
    /// done.
    pub(crate) fn vcpu_removed(&mut self) {
        match &mut self.in_progress {
            Some(now) => now.vcpu_removed = true,
            None => self.in_progress = Some(InProgress::new(Task::Departed, None)),
        }
    }

    /// Begins to settle the paths of all events, once the work in progress is done.
    pub(crate) fn settle(&mut self) {
        match &mut self.in_progress {
            Some(now) => now.unsettled = true,
            None => self.in_progress = Some(InProgress::new(Task::Settle, None)),
        }
    }

    /// Returns whether a command has been begun and is not done.
    pub(crate) fn in_command(&self) -> bool {
        self.in_progress
            .as_ref()
            .is_some_and(|now| now.command.is_some())
    }
}
