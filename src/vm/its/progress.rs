//! A command whose work has been begun.

use crate::intid::{DeviceId, Icid, VcpuId};
use crate::radix::Cursor;
use crate::vm::its::Engine;

/// Work that has been begun.
pub(crate) struct InProgress {
    pub(crate) work: Work,
    /// The number of the command it is for; none if the guest took a table away.
    pub(crate) command: Option<u8>,
}

impl InProgress {
    pub(crate) fn command(number: u8, work: Work) -> Self {
        Self {
            work,
            command: Some(number),
        }
    }

    fn is_command(&self) -> bool {
        self.command.is_some()
    }
}

/// A task, and how far it has come.
pub(crate) struct Work {
    pub(crate) task: Task,
    pub(crate) place: Cursors,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Task {
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
pub(crate) struct Cursors {
    /// In the table of devices; of LPIs for `MOVALL`.
    pub(crate) outer: Cursor,
    /// In the events of the device that `outer` is at.
    pub(crate) event: Cursor,
}

impl Work {
    pub(crate) fn new(task: Task) -> Self {
        Self {
            task,
            place: Cursors::default(),
        }
    }

    pub(crate) fn retarget(icid: Option<Icid>) -> Self {
        Self::new(Task::Retarget(icid))
    }

    pub(crate) fn invalidate(icid: Icid) -> Self {
        Self::new(Task::Invalidate(icid))
    }

    pub(crate) fn move_all(from: VcpuId, to: VcpuId) -> Self {
        Self::new(Task::MoveAll { from, to })
    }

    pub(crate) fn unmap_device(device: DeviceId, remap: Option<u8>) -> Self {
        Self::new(Task::UnmapDevice(device, remap))
    }
}

impl Engine {
    /// Whether a command has been begun and is not done.
    pub(crate) fn in_command(&self) -> bool {
        self.in_progress
            .as_ref()
            .is_some_and(InProgress::is_command)
    }
}
