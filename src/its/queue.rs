//! The command queue: `GITS_CBASER`, `GITS_CWRITER`, `GITS_CREADR` (IHI 0069, 5.3.1), consumed in slices.

use crate::Vgic;
use crate::epoch::CpuPin;
use crate::host::{BadAddress, Host};
use crate::intid::ItsId;
use crate::sync::Ordering::{Acquire, Release};
#[cfg(vgic_mutants)]
use crate::sync::{Mutant, mutant};

use super::command::{COMMAND_SIZE, CommandError, Packet, Raw};
use super::execute::{Execution, Outcome};
use super::long::InProgress;
use super::tables::TableType;
use super::{ENABLED, Its};

/// Steps that one trap, or one call of [`Vgic::advance`], may take, but for what the last thing done takes
/// more than is left. One step passes one slot of a table.
pub(crate) const SLICE: u32 = 2048;

/// What an event counts for, or a device: its state changes, and it may move to another list.
pub(super) const EVENT_STEPS: u32 = 12;

/// What a short command counts for: it is read from guest memory, decoded, checked, and done.
pub(super) const COMMAND_STEPS: u32 = 64;

/// Commands read from guest memory at once: as many as fit into a slice.
const BATCH: usize = (SLICE / COMMAND_STEPS) as usize;

/// `GITS_CWRITER.Offset` and `GITS_CREADR.Offset`.
const OFFSET: u64 = 0xf_ffe0;

const VALID: u64 = 1 << 63;
/// 64 KiB aligned: bits 15:12 are `RES0`.
const ADDRESS: u64 = 0x000f_ffff_ffff_0000;
/// Cacheability and shareability: kept as written, without effect.
const ATTRIBUTES: u64 = 0x7 << 59 | 0x7 << 53 | 0x3 << 10;
const SIZE: u64 = 0xff;

/// Where the queue is: `GITS_CBASER`.
#[derive(Clone, Copy, Default)]
pub(super) struct Queue(u64);

impl Queue {
    fn bytes(self) -> u64 {
        if self.0 & VALID == 0 {
            0
        } else {
            (self.0 & SIZE).wrapping_add(1) << 12
        }
    }

    fn address(self) -> u64 {
        self.0 & ADDRESS
    }
}

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
                Ok(Outcome::Done) => self.retire(packet.number(), Ok(())),
                Ok(Outcome::Begun(work)) => {
                    self.engine.in_progress = Some(InProgress::command(packet.number(), work));
                    if !self.proceed(&mut budget) {
                        return true;
                    }
                }
                Err(error) => self.retire(packet.number(), Err(error)),
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
        self.vgic.host().read_memory(address, buffer)
    }

    /// A command is done: books it, and moves `GITS_CREADR` past it.
    pub(super) fn retire(&mut self, number: u8, result: Result<(), CommandError>) {
        let counters = self.pin.counters();
        counters.its_commands.add(1);
        if let Err(error) = result {
            counters.its_command_errors.add(1);
            let host = self.vgic.host();
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

impl Its {
    /// `GITS_CREADR`. Never stalled: a command that fails is skipped.
    pub(crate) fn creadr(&self) -> u64 {
        // Acquire: pairs with `Execution::retire`.
        u64::from(self.commands.creadr.load(Acquire))
    }

    /// Whether `GITS_CREADR` has still to move: a command waits, or is being executed.
    pub(crate) fn is_behind(&self) -> bool {
        self.creadr() != self.cwriter()
    }

    /// `GITS_CWRITER`.
    pub(crate) fn cwriter(&self) -> u64 {
        // Acquire: pairs with `set_cwriter`.
        u64::from(self.commands.cwriter.load(Acquire))
    }

    /// Writes `GITS_CWRITER`. The caller executes a slice.
    pub(crate) fn set_cwriter(&self, value: u64) {
        // Release: pairs with `cwriter`, in whichever CPU's slice.
        self.commands
            .cwriter
            .store((value & OFFSET) as u32, Release);
    }

    /// Writes `GITS_CTLR.Enabled`. The caller executes a slice.
    pub(crate) fn set_enabled(&self, on: bool) {
        self.set_control(ENABLED, on);
    }

    /// `GITS_CTLR.Quiescent`: disabled, and no command is being executed, nor anything unmapped.
    pub(crate) fn is_quiescent(&self, pin: &CpuPin<'_>) -> bool {
        !self.is_enabled()
            && self
                .commands
                .engine
                .try_lock(pin.ledger())
                .is_some_and(|engine| engine.in_progress.is_none())
    }

    /// `GITS_CBASER`.
    pub(crate) fn cbaser(&self, pin: &CpuPin<'_>) -> u64 {
        self.commands.engine.lock(pin.ledger()).queue.0
    }

    /// `GITS_BASER0` (devices) or `GITS_BASER1` (collections).
    pub(crate) fn baser(&self, pin: &CpuPin<'_>, table: TableType) -> u64 {
        let engine = self.commands.engine.lock(pin.ledger());
        match table {
            TableType::Devices => engine.device_table.get(),
            TableType::Collections => engine.collection_table.get(),
        }
    }
}

impl<H: Host> Vgic<H> {
    /// Executes one slice of an ITS's commands, unless another CPU is at it; what is left over is
    /// deferred.
    pub(crate) fn advance_its(&self, pin: &CpuPin<'_>, id: ItsId) {
        let Some(its) = self.its(id) else {
            return;
        };
        let more = match its.commands.engine.try_lock(pin.ledger()) {
            Some(mut engine) => Execution::new(self, pin, its, &mut engine).slice(),
            #[cfg(vgic_mutants)]
            None if mutant(Mutant::DrainedTwice) => {
                its.drain_beside_the_lock(self, pin);
                true
            }
            // Whoever is at it may have looked at GITS_CWRITER before our caller wrote it.
            None => true,
        };
        // Outside the command lock, which the match has let go.
        pin.collect();
        if more {
            self.defer(1 << id.0);
        }
    }

    /// Writes `GITS_CBASER`: `change` gives the new value from the old, if there is one. The queue is
    /// empty then. Ignored while the ITS is enabled or has not come to rest, where the architecture
    /// leaves it UNPREDICTABLE.
    pub(crate) fn set_cbaser(
        &self,
        pin: &CpuPin<'_>,
        its: &Its,
        change: impl FnOnce(u64) -> Option<u64>,
    ) {
        let mut engine = its.commands.engine.lock(pin.ledger());
        if its.is_enabled() || engine.in_command() {
            return;
        }
        let Some(new) = change(engine.queue.0) else {
            return;
        };
        engine.queue.0 = new & (VALID | ATTRIBUTES | ADDRESS | SIZE);
        // Release: as in `retire` and `set_cwriter`.
        its.commands.creadr.store(0, Release);
        its.commands.cwriter.store(0, Release);
    }

    /// Writes `GITS_BASER0` or `GITS_BASER1`, as [`Vgic::set_cbaser`]. What was mapped through a table
    /// that is moved or taken away is unmapped; the caller executes the first slice of that.
    pub(crate) fn set_baser(
        &self,
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
            Execution::new(self, pin, its, &mut engine).drop_table(table);
        }
    }
}
