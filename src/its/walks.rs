//! Commands whose work grows with what the guest has mapped, done in steps.
//!
//! They walk over devices, events or LPIs, and pay from the slice's budget: for each table slot that they pass,
//! full or empty, and for each event. What is left over waits in [`Engine::in_progress`](super::Engine) with
//! its cursors. No other command is begun before, so what lies ahead of a cursor does not change, except that
//! another ITS may map or unmap LPIs that `MOVALL` walks.

use crate::delivery::{lpi_tables, queue};
use crate::epoch::CpuPin;
use crate::host::Host;
use crate::intid::{DeviceId, EventId};
use crate::its::execute::Execution;
use crate::its::queue::{EVENT_STEPS, SLICE};
use crate::radix::Cursor;
use crate::vm::Vm;
use crate::vm::irq::Irq;
use crate::vm::its::baser::TableType;
use crate::vm::its::device::Device;
use crate::vm::its::progress::{Cursors, InProgress, Task, Work};
use crate::vm::its::{DROPPING, Its};

impl<'a, H: Host> Execution<'a, H> {
    /// Goes on with what is in progress, as far as `budget` goes; true once nothing is.
    pub(crate) fn proceed(&mut self, budget: &mut u32) -> bool {
        let Some(mut in_progress) = self.engine.in_progress.take() else {
            return true;
        };
        let done = self.work(&mut in_progress.work, budget);
        if done {
            match in_progress.command {
                Some(number) => self.complete(number, Ok(())),
                None => self.its.set_control(DROPPING, false),
            }
        } else {
            self.engine.in_progress = Some(in_progress);
        }
        done
    }

    /// Begins to unmap what was mapped through a table that is no longer there. Nothing is translated
    /// until it is done.
    pub(crate) fn drop_table(&mut self, table: TableType) {
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
    fn unmap_everything(&mut self) {
        self.engine.in_progress = None;
        self.drop_table(TableType::Devices);
        let mut budget = SLICE;
        while !self.proceed(&mut budget) {
            budget = SLICE;
        }
    }

    /// Goes on as far as `budget` goes; true once all is done.
    fn work(&mut self, work: &mut Work, budget: &mut u32) -> bool {
        let (its, vm, pin) = (self.its, self.vm, self.pin);
        let place = &mut work.place;
        match work.task {
            Task::Retarget(icid) => self.visit_events(place, budget, |device, event, irq| {
                if icid.is_none_or(|icid| irq.icid() == icid.0) {
                    let collections = &self.engine.collections;
                    let target = collections.get(usize::from(irq.icid())).copied();
                    self.retarget_event(device, event, irq, target.flatten());
                }
            }),
            Task::Invalidate(icid) => self.visit_events(place, budget, |_, _, irq| {
                if irq.icid() == icid.0 {
                    lpi_tables::reload_config(vm, pin, irq);
                }
            }),
            // The redistributor's part: what is pending there goes, whichever ITS mapped it; where the
            // mappings lead does not change.
            Task::MoveAll { from, to } => {
                let lpis = &vm.lpis;
                lpis.walk(&mut place.outer, budget, pin.guard(), |_, irq, budget| {
                    spend_on_event(budget);
                    let changed = irq.update(|state| {
                        if state.shows_pending() && state.target() == Some(from) {
                            state.with_target(Some(to))
                        } else {
                            state
                        }
                    });
                    queue::follow_up(vm, pin, irq, changed.follow_up);
                    true
                })
            }
            Task::UnmapDevice(id, remap) => {
                // Only commands unmap devices, and this one is not done.
                if let Some(device) = its.devices.get(id, pin.guard())
                    && !self.unmap_device_and_events(&mut place.event, budget, id, device)
                {
                    return false;
                }
                if let Some(event_bits) = remap {
                    self.map_device(id, event_bits);
                }
                true
            }
            Task::UnmapDevices => {
                let Cursors { outer, event } = place;
                its.devices
                    .walk(outer, budget, pin.guard(), |id, device, budget| {
                        self.unmap_device_and_events(event, budget, id, device)
                    })
            }
        }
    }

    /// Visits the events of all devices; true once those were all.
    fn visit_events(
        &self,
        place: &mut Cursors,
        budget: &mut u32,
        mut visit: impl FnMut(DeviceId, EventId, &'a Irq),
    ) -> bool {
        let guard = self.pin.guard();
        let Cursors { outer, event } = place;
        let devices = &self.its.devices;
        devices.walk(outer, budget, guard, |id, device, budget| {
            let all = device.walk(event, budget, guard, |event, irq, budget| {
                spend_on_event(budget);
                visit(id, event, irq);
                true
            });
            if all {
                *event = Cursor::default();
            }
            all
        })
    }

    /// Unmaps the events of a device, and then the device; true once it is.
    fn unmap_device_and_events(
        &mut self,
        place: &mut Cursor,
        budget: &mut u32,
        id: DeviceId,
        device: &Device,
    ) -> bool {
        let all = device.walk(place, budget, self.pin.guard(), |event, irq, budget| {
            spend_on_event(budget);
            self.unmap_event(id, device, event, irq);
            true
        });
        if all {
            spend_on_event(budget);
            self.unmap_device(id, device);
            *place = Cursor::default();
        }
        all
    }
}

fn spend_on_event(budget: &mut u32) {
    *budget = budget.saturating_sub(EVENT_STEPS);
}

/// Ends every mapping of an ITS, without a bound: the VM is being torn down.
pub(crate) fn dismantle<H: Host>(vm: &Vm<H>, pin: &CpuPin<'_>, its: &Its) {
    let mut engine = its.commands.engine.lock(pin.ledger());
    Execution::new(vm, pin, its, &mut engine).unmap_everything();
}
