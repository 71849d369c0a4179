//! The command queue: `GITS_CBASER`, `GITS_CWRITER`, `GITS_CREADR` (IHI 0069, 5.3.1), consumed in slices.

use crate::epoch::CpuPin;
use crate::error::CommandError;
use crate::host::{BadAddress, Host};
use crate::intid::ItsId;
use crate::its::command::{COMMAND_SIZE, Packet, Raw};
use crate::its::execute::{Execution, Outcome};
use crate::sync::Ordering::Release;
use crate::vm::Vm;
use crate::vm::its::Its;
use crate::vm::its::baser::TableType;
use crate::vm::its::progress::InProgress;
#[cfg(vgic_mutants)]
use crate::{
    delivery::lpi_lifetime,
    intid::DeviceId,
    radix::Cursor,
    sync::{Mutant, mutant},
};

/// Steps that one trap, or one call of [`Vgic::advance`], may take, but for what the last thing done takes
/// more than is left. One step passes one slot of a table.
pub(crate) const SLICE: u32 = 2048;

/// What an event counts for, or a device: its state changes, and it may move to another list.
pub(crate) const EVENT_STEPS: u32 = 12;

/// What a short command counts for: it is read from guest memory, decoded, checked, and done.
pub(crate) const COMMAND_STEPS: u32 = 64;

/// Commands read from guest memory at once: as many as fit into a slice.
const BATCH: usize = (SLICE / COMMAND_STEPS) as usize;

impl<H: Host> Execution<'_, H> {
    /// Executes one slice; true if there is more to do.
    fn slice(&mut self) -> bool {
        let mut budget = SLICE;
        if self.engine.in_progress.is_some() && !self.proceed(&mut budget) {
            return true;
        }
        let count = self.available().min((budget / COMMAND_STEPS) as usize);
        match count {
            0 => self.available() > 0,
            // Most guests wait for each command.
            1 => self.run(&mut Raw::<1>::new(), 1, budget),
            _ => self.run_batch(count, budget),
        }
    }

    /// Room for a whole slice is cleared only where it is needed.
    #[inline(never)]
    fn run_batch(&mut self, count: usize, budget: u32) -> bool {
        self.run(&mut Raw::<BATCH>::new(), count, budget)
    }

    /// Reads `count` commands and executes them; true if there is more to do.
    #[inline]
    fn run<const ROOM: usize>(
        &mut self,
        raw: &mut Raw<ROOM>,
        count: usize,
        mut budget: u32,
    ) -> bool {
        let commands = raw.0.get_mut(..count).unwrap_or_default();
        let whole = self.read(commands.as_flattened_mut()).is_ok();
        for command in commands {
            if budget < COMMAND_STEPS {
                break;
            }
            budget = budget.saturating_sub(COMMAND_STEPS);
            // What could not be read in one piece may be readable here and there.
            let readable = whole || self.read(command).is_ok();
            let packet = Packet::new(command);
            let outcome = if readable {
                packet.decode().and_then(|command| self.execute(command))
            } else {
                Err(CommandError::Unreadable)
            };
            match outcome {
                Ok(Outcome::Done) => self.complete(packet.number(), Ok(())),
                Ok(Outcome::Begun(work)) => {
                    self.engine.in_progress = Some(InProgress::command(packet.number(), work));
                    if !self.proceed(&mut budget) {
                        return true;
                    }
                }
                Err(error) => self.complete(packet.number(), Err(error)),
            }
        }
        self.its.is_behind() && self.available() > 0
    }

    /// Commands that may be executed now and lie in one piece in the queue.
    fn available(&self) -> usize {
        let (cwriter, creadr) = (self.its.cwriter(), self.its.creadr());
        let bytes = self.engine.queue.bytes();
        // A GITS_CWRITER outside the queue is UNPREDICTABLE: nothing is done until it is inside.
        if !self.its.is_enabled() || cwriter >= bytes {
            return 0;
        }
        let end = if cwriter < creadr { bytes } else { cwriter };
        end.saturating_sub(creadr) as usize / COMMAND_SIZE
    }

    /// Reads guest memory from `GITS_CREADR` on.
    fn read(&self, buffer: &mut [u8]) -> Result<(), BadAddress> {
        let queue = self.engine.queue;
        let address = queue.address().saturating_add(self.its.creadr());
        self.vm.host.read_memory(address, buffer)
    }

    /// A command is done: books it, and moves `GITS_CREADR` past it.
    pub(crate) fn complete(&mut self, number: u8, result: Result<(), CommandError>) {
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
        // Release: whoever sees it move sees the command's effects.
        self.its.commands.creadr.store(wrapped as u32, Release);
    }
}

/// Executes one slice of an ITS's commands, unless another CPU is at it; what is left over is
/// deferred.
pub(crate) fn advance_its<H: Host>(vm: &Vm<H>, pin: &CpuPin<'_>, id: ItsId) {
    let Some(its) = vm.its(id) else {
        return;
    };
    let more = match its.commands.engine.try_lock(pin.ledger()) {
        Some(mut engine) => Execution::new(vm, pin, its, &mut engine).slice(),
        #[cfg(vgic_mutants)]
        None if mutant(Mutant::DrainedTwice) => {
            drain_beside_the_lock(vm, pin, its);
            true
        }
        // Whoever is at it may have looked at GITS_CWRITER before our caller wrote it.
        None => true,
    };
    // Outside the command lock, which the match has let go.
    pin.collect();
    if more {
        vm.defer(1 << id.0);
    }
}

/// Writes `GITS_CBASER`: `change` gives the new value from the old, if there is one. The queue is
/// empty then. Ignored while the ITS is enabled or has not come to rest, where the architecture
/// leaves it UNPREDICTABLE.
pub(crate) fn set_cbaser<H: Host>(
    _vm: &Vm<H>,
    pin: &CpuPin<'_>,
    its: &Its,
    change: impl FnOnce(u64) -> Option<u64>,
) {
    let mut engine = its.commands.engine.lock(pin.ledger());
    if its.is_enabled() || engine.in_command() {
        return;
    }
    let Some(new) = change(engine.queue.get()) else {
        return;
    };
    engine.queue.set(new);
    // Release: as in `complete` and `set_cwriter`.
    its.commands.creadr.store(0, Release);
    its.commands.cwriter.store(0, Release);
}

/// Writes `GITS_BASER0` or `GITS_BASER1`, as [`Vgic::set_cbaser`]. What was mapped through a table
/// that is moved or taken away is unmapped; the caller executes the first slice of that.
pub(crate) fn set_baser<H: Host>(
    vm: &Vm<H>,
    pin: &CpuPin<'_>,
    its: &Its,
    table: TableType,
    change: impl FnOnce(u64) -> Option<u64>,
) {
    let mut engine = its.commands.engine.lock(pin.ledger());
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

/// Ends device 0's mappings without the command lock: [`Mutant::DrainedTwice`].
#[cfg(vgic_mutants)]
fn drain_beside_the_lock<H: Host>(vm: &Vm<H>, pin: &CpuPin<'_>, its: &Its) {
    let (mut cursor, mut steps) = (Cursor::default(), u32::MAX);
    if let Some(device) = its.devices.get(DeviceId(0), pin.guard()) {
        device.walk(&mut cursor, &mut steps, pin.guard(), |event, irq, _| {
            lpi_lifetime::unmap(vm, pin, irq);
            device.unmap(event, irq, pin.guard());
            true
        });
    }
}
