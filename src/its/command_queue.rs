//! Slices of an ITS's command queue (IHI 0069, 5.3.1), and writes of `GITS_CBASER` and
//! `GITS_BASER<n>`.
//!
//! A slice executes commands from `GITS_CREADR` on until the queue is empty or [`SLICE`] steps are
//! spent. Cases `its.goes_on_by_itself`, `its.many_commands_at_once`, `worst.queue_of_invall` and
//! others of `worst.*`.

use crate::delivery::lpi_lifetime;
use crate::epoch::CpuPin;
use crate::error::CommandError;
use crate::host::Host;
use crate::intid::ItsId;
use crate::its::command::{COMMAND_SIZE, Packet};
use crate::its::execute::{Execution, Outcome};
use crate::sync::Ordering::{Relaxed, Release};
use crate::sync::{Mutant, mutant, weakened_by};
use crate::vm::Vm;
use crate::vm::its::Its;
use crate::vm::its::baser::TableType;
use crate::vm::its::progress::InProgress;
#[cfg(vgic_mutants)]
use crate::{intid::DeviceId, radix::Cursor};

/// Step budget of one trap or of one [`Vgic::advance`](crate::Vgic::advance) call. The last item
/// may overrun the budget. One step is one table slot.
pub(crate) const SLICE: u32 = 2048;

/// Steps of one event or device: a state change, and possibly a move to another ap_list.
pub(crate) const EVENT_STEPS: u32 = 12;

/// Steps of a wait for a physical ITS.
pub(crate) const PHYSICAL_STEPS: u32 = 64;

/// Steps of a short command: the read from guest memory, decoding, checks and effect.
pub(crate) const COMMAND_STEPS: u32 = 64;

impl<H: Host> Execution<'_, H> {
    /// Executes one slice. Returns true if a command or a table removal is left to do.
    ///
    /// Nothing that leaves memory to the epoch is begun or continued while too much waits there.
    fn run_slice(&mut self) -> bool {
        let mut budget = SLICE;
        if let Some(in_progress) = &self.engine.in_progress {
            let waits = in_progress.leaves_garbage() && self.vm.is_full_of_garbage(self.pin);
            if waits || !self.resume(&mut budget) {
                return true;
            }
        }

        if !self.settle_if_asked(&mut budget) {
            return true;
        }

        // Not more commands than the guest had written when the slice began, up to the end of the
        // queue's memory.
        for _ in 0..self.available() {
            if budget < COMMAND_STEPS {
                break;
            }
            budget = budget.saturating_sub(COMMAND_STEPS);
            if !self.settle_if_asked(&mut budget) {
                return true;
            }

            let packet = self.read();
            let number = packet.map_or(0, Packet::number);
            let outcome = packet
                .and_then(Packet::decode)
                .and_then(|command| self.execute(command));
            self.charge_physical(&mut budget);

            match outcome {
                Ok(Outcome::Done) => self.finish_command(number, Ok(())),
                Ok(Outcome::Begun(task)) => {
                    self.engine.in_progress = Some(InProgress::new(task, Some(number)));
                    if !self.resume(&mut budget) {
                        return true;
                    }
                }
                // `GITS_CREADR` stays: the command is read again.
                Ok(Outcome::Waits) => break,
                Err(error) => self.finish_command(number, Err(error)),
            }
        }

        // The first check saves 15 of the 204 instructions of mmio/GITS_CWRITER_write.
        self.its.is_behind() && self.available() > 0
    }

    /// Returns the number of commands that may be executed now, up to the end of the queue's
    /// memory.
    fn available(&self) -> usize {
        let (cwriter, creadr) = (self.its.cwriter(), self.its.creadr());
        let bytes = self.engine.queue.bytes();
        // A `GITS_CWRITER` outside the queue is UNPREDICTABLE: no command is executed.
        if !self.its.executes_commands() || cwriter >= bytes {
            return 0;
        }
        let end = if cwriter < creadr { bytes } else { cwriter };
        end.saturating_sub(creadr) as usize / COMMAND_SIZE
    }

    /// Reads the command at `GITS_CREADR` from guest memory.
    fn read(&self) -> Result<Packet, CommandError> {
        let queue = self.engine.queue;
        let address = queue.address().saturating_add(self.its.creadr());
        let mut bytes = [0; COMMAND_SIZE];
        self.vm
            .host
            .read_memory(address, &mut bytes)
            .map_err(|_| CommandError::Unreadable)?;
        Ok(Packet::new(&bytes))
    }

    /// Completes a command: counts the command, reports an error to the host, and moves
    /// `GITS_CREADR`.
    pub(crate) fn finish_command(&mut self, number: u8, result: Result<(), CommandError>) {
        let counters = self.pin.counters();
        counters.its_commands.add(1);
        if let Err(error) = result {
            counters.its_command_errors.add(1);
            let host = &self.vm.host;
            host.command_failed(self.its.id, number, error);
        }

        let next = self.its.creadr().saturating_add(COMMAND_SIZE as u64);
        let wrapped = if next < self.engine.queue.bytes() {
            next
        } else {
            0
        };

        // Release: pairs with the Acquire in `Its::creadr`. A CPU that sees `GITS_CREADR` move sees
        // the command's effects.
        let order = weakened_by(Mutant::CommandDoneRelaxed, Release);
        self.its.commands.creadr.store(wrapped as u32, order);
    }
}

/// Executes one slice of the commands of ITS `id`, unless another CPU holds the command lock.
/// Defers the work that is left. May allocate.
pub(crate) fn advance_its<H: Host>(vm: &Vm<H>, pin: &CpuPin<'_>, id: ItsId) {
    let Some(its) = vm.its(id) else {
        return;
    };

    let more = match its.commands.engine.try_lock(pin.locks()) {
        Some(mut engine) => Execution::new(vm, pin, its, &mut engine).run_slice(),
        #[cfg(vgic_mutants)]
        None if mutant(Mutant::DrainedTwice) => {
            drain_beside_the_lock(vm, pin, its);
            true
        }
        None if mutant(Mutant::LockedOutForgets) => false,
        // The holder of the lock may have read `GITS_CWRITER` before this CPU wrote `GITS_CWRITER`.
        None => true,
    };

    // The match has released the command lock: `collect` has to be called with no lock held.
    if more && vm.is_full_of_garbage(pin) {
        // The work may wait for it, and the guest's polling alone has to get on.
        lpi_lifetime::advance_free_list(vm, pin);
    }
    pin.collect();
    if more {
        vm.deferred.add(1 << id.0);
    }
}

/// Writes `GITS_CTLR.Enabled`. The caller then executes a slice, which settles the paths of the
/// events: those of a disabled ITS go through list registers, where their MSIs are refused.
pub(crate) fn set_enabled<H: Host>(vm: &Vm<H>, its: &Its, on: bool) {
    if its.set_enabled(on)
        && let Some(direct) = &vm.direct
    {
        direct.unsettle_one(its.id);
    }
}

/// Writes `GITS_CBASER` and empties the queue. `change` computes the new value from the old value;
/// `None` leaves the register alone. Case `table.size_of_the_queue`.
///
/// A write while the ITS is enabled or a command is in progress is UNPREDICTABLE, and ignored.
// Out of line: saves 3 of the 200 instructions of mmio/GITS_CWRITER_write.
#[inline(never)]
pub(crate) fn set_cbaser(pin: &CpuPin<'_>, its: &Its, change: impl FnOnce(u64) -> Option<u64>) {
    let mut engine = its.commands.engine.lock(pin.locks());
    if its.is_enabled() || engine.in_command() {
        return;
    }

    let Some(new) = change(engine.queue.get()) else {
        return;
    };

    engine.queue.set(new);
    // Relaxed, both: the command lock orders the stores for a CPU that executes commands, and
    // Enabled for a guest that reads the registers.
    its.commands.creadr.store(0, Relaxed);
    its.commands.cwriter.store(0, Relaxed);
}

/// Writes `GITS_BASER0` or `GITS_BASER1`. `change` computes the new value from the old value;
/// `None` leaves the register alone. Cases `keep.gits_baser_halves`,
/// `keep.gits_baser_fixed_fields`.
///
/// If more than the attributes change, the mappings made through the table are removed; the caller
/// then executes the first slice of the removal. A write while the ITS is enabled or a
/// command is in progress is UNPREDICTABLE, and ignored.
// Out of line, as `set_cbaser` is.
#[inline(never)]
pub(crate) fn set_baser<H: Host>(
    vm: &Vm<H>,
    pin: &CpuPin<'_>,
    its: &Its,
    table: TableType,
    change: impl FnOnce(u64) -> Option<u64>,
) {
    let mut engine = its.commands.engine.lock(pin.locks());
    if its.is_enabled() || engine.in_command() {
        return;
    }

    let baser = match table {
        TableType::Devices => &mut engine.device_table,
        TableType::Collections => &mut engine.collection_table,
    };

    if let Some(new) = change(baser.get())
        && baser.set(new)
    {
        Execution::new(vm, pin, its, &mut engine).drop_table(table);
    }
}

/// Ends the mappings of device 0 without the command lock: [`Mutant::DrainedTwice`].
#[cfg(vgic_mutants)]
fn drain_beside_the_lock<H: Host>(vm: &Vm<H>, pin: &CpuPin<'_>, its: &Its) {
    let (mut cursor, mut steps) = (Cursor::default(), u32::MAX);
    if let Some(device) = its.devices.get(DeviceId(0), pin.guard()) {
        device.walk(&mut cursor, &mut steps, pin.guard(), |event, irq, _| {
            lpi_lifetime::unmap(vm, pin, irq);
            device.unmap(event, irq, pin.guard(), &vm.garbage);
            true
        });
    }
}
