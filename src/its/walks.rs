//! Commands whose work grows with what the guest has mapped, done in steps.
//!
//! A walk passes over devices, events or LPIs. Each table slot passed, full or empty, and each
//! event visited takes steps from the slice's budget. Unfinished work waits, with the cursors, in
//! [`Engine::in_progress`](crate::vm::its::Engine::in_progress). No other command is begun
//! meanwhile, so the slots ahead of a cursor do not change. Only the LPIs that `MOVALL` walks may
//! be mapped and unmapped meanwhile, by another ITS.

use core::iter;

use crate::delivery::stale::Stale;
use crate::delivery::{lpi_tables, queue};
use crate::epoch::CpuPin;
use crate::host::Host;
use crate::intid::{DeviceId, EventId};
use crate::its::command_queue::{EVENT_STEPS, SLICE};
use crate::its::direct::Event;
use crate::its::execute::Execution;
use crate::radix::Cursor;
use crate::vm::Vm;
use crate::vm::irq::Irq;
use crate::vm::its::baser::TableType;
use crate::vm::its::device::Device;
use crate::vm::its::progress::{Cursors, InProgress, Task, Work};
use crate::vm::its::{DROPPING, Its};

impl<'a, H: Host> Execution<'a, H> {
    /// Continues the work in progress as far as `budget` allows. Returns true if none is left.
    pub(crate) fn resume(&mut self, budget: &mut u32) -> bool {
        let Some(mut in_progress) = self.engine.in_progress.take() else {
            return true;
        };

        if !self.advance_work(&mut in_progress.work, budget) {
            self.engine.in_progress = Some(in_progress);
            return false;
        }

        match in_progress.command {
            Some(number) => self.finish_command(number, Ok(())),
            None => self.its.set_control(DROPPING, false),
        }

        if in_progress.vcpu_removed {
            self.engine.vcpu_removed();
        }
        if in_progress.unsettled {
            self.engine.settle();
        }
        self.engine.in_progress.is_none()
    }

    /// Begins to remove the mappings made through a table that the guest has taken away.
    /// Translation fails until the removal is done.
    pub(crate) fn drop_table(&mut self, table: TableType) {
        let task = match table {
            TableType::Devices => Task::UnmapDevices,
            TableType::Collections => {
                self.engine.collections.fill(None);
                Task::Retarget(None)
            }
        };

        // The removal of all devices in progress covers a collection table too.
        let unmapping = self
            .engine
            .in_progress
            .as_ref()
            .is_some_and(|now| now.work.task == Task::UnmapDevices);
        if !unmapping {
            self.its.set_control(DROPPING, true);
            self.engine.in_progress = Some(InProgress::new(task, None));
        }
    }

    /// Unmaps every device in this call, without a bound.
    pub(crate) fn unmap_everything(&mut self) {
        self.engine.in_progress = None;
        self.drop_table(TableType::Devices);
        self.complete();
    }

    /// Does all the work that is left, without a bound.
    fn complete(&mut self) {
        let mut budget = SLICE;
        while !self.resume(&mut budget) {
            budget = SLICE;
        }
    }

    /// Continues `work` as far as `budget` allows. Returns true once the work is done.
    fn advance_work(&mut self, work: &mut Work, budget: &mut u32) -> bool {
        let (its, vm, pin) = (self.its, self.vm, self.pin);
        let cursors = &mut work.cursors;
        match work.task {
            Task::Retarget(icid) => self.visit_events(cursors, budget, |device, event, irq| {
                if icid.is_none_or(|icid| irq.icid() == icid.0) {
                    let collections = &self.engine.collections;
                    let target = collections.get(usize::from(irq.icid())).copied();
                    self.retarget_event(device, event, irq, target.flatten());
                }
            }),
            // A collection that is mapped has its vCPU, and LPIs that `MOVALL` has moved to a vCPU
            // that the VM has stay there.
            Task::Departed => self.visit_events(cursors, budget, |device, event, irq| {
                let mapped = self.engine.collections.get(usize::from(irq.icid()));
                let (now, mapped) = (irq.state().target(), mapped.copied().flatten());
                let departed = now.is_some_and(|now| vm.vcpu(now).is_none());
                if now != mapped && (departed || mapped.is_none()) {
                    self.retarget_event(device, event, irq, mapped);
                }
            }),
            Task::Invalidate(icid) => {
                let mut stale = Stale::default();
                let all = self.visit_events(cursors, budget, |_, _, irq| {
                    if irq.icid() == icid.0 {
                        lpi_tables::reload_config(vm, pin, irq, &mut stale);
                        self.waited(stale.take_waits());
                    }
                });
                self.waited(stale.finish(vm, pin));
                self.charge_physical(budget);
                all
            }
            // `MOVALL` moves the pending LPIs of a redistributor, whichever ITS has mapped the
            // LPIs. The collections' targets do not change.
            Task::MoveAll { to, .. } if vm.vcpu(to).is_none() => true,
            Task::Settle => self.visit_events(cursors, budget, |device, event, irq| {
                self.settle_event(Event { device, event }, irq);
            }),
            Task::MoveAll { from, to } => {
                let lpis = &vm.lpis;
                lpis.walk(&mut cursors.outer, budget, pin.guard(), |_, irq, budget| {
                    charge_event(budget);
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
            Task::UnmapDevice(id) => {
                // Every slice finds the device: no other work unmaps devices before the `MAPD` is
                // done.
                if let Some(device) = its.devices.get(id, pin.guard())
                    && !self.unmap_device_and_events(&mut cursors.event, budget, id, device)
                {
                    return false;
                }
                if let Some(itt) = self.engine.remap.take() {
                    self.map_device(id, itt, iter::empty());
                }
                true
            }
            Task::UnmapDevices => {
                let Cursors { outer, event } = cursors;
                its.devices
                    .walk(outer, budget, pin.guard(), |id, device, budget| {
                        self.unmap_device_and_events(event, budget, id, device)
                    })
            }
        }
    }

    /// Visits the events of all devices from `cursors` on, as far as `budget` allows. Returns true
    /// once the last event has been visited.
    fn visit_events(
        &self,
        cursors: &mut Cursors,
        budget: &mut u32,
        mut visit: impl FnMut(DeviceId, EventId, &'a Irq),
    ) -> bool {
        let guard = self.pin.guard();
        let Cursors { outer, event } = cursors;
        let devices = &self.its.devices;
        devices.walk(outer, budget, guard, |id, device, budget| {
            let all = device.walk(event, budget, guard, |event, irq, budget| {
                charge_event(budget);
                visit(id, event, irq);
                self.charge_physical(budget);
                true
            });
            if all {
                *event = Cursor::default();
            }
            all
        })
    }

    /// Unmaps the events of `device` from `cursor` on, as far as `budget` allows, and then the
    /// device. Returns true once the device is unmapped.
    fn unmap_device_and_events(
        &mut self,
        cursor: &mut Cursor,
        budget: &mut u32,
        id: DeviceId,
        device: &Device,
    ) -> bool {
        let all = device.walk(cursor, budget, self.pin.guard(), |event, irq, budget| {
            charge_event(budget);
            self.unmap_event(id, device, event, irq);
            self.charge_physical(budget);
            true
        });

        if all {
            charge_event(budget);
            self.unmap_device(id, device);
            *cursor = Cursor::default();
        }

        all
    }
}

/// Takes the steps of one event or device from `budget`.
fn charge_event(budget: &mut u32) {
    *budget = budget.saturating_sub(EVENT_STEPS);
}

/// Completes the command of `its` that has been begun, without a bound, for a VM that is saved.
/// Takes the command lock.
pub(crate) fn finish<H: Host>(vm: &Vm<H>, pin: &CpuPin<'_>, its: &Its) {
    let mut engine = its.commands.engine.lock(pin.locks());
    Execution::new(vm, pin, its, &mut engine).complete();
}

/// Ends every mapping of `its`, without a bound, for a VM that is being torn down.
pub(crate) fn unmap_all<H: Host>(vm: &Vm<H>, pin: &CpuPin<'_>, its: &Its) {
    let mut engine = its.commands.engine.lock(pin.locks());
    Execution::new(vm, pin, its, &mut engine).unmap_everything();
}
