//! An ITS and its commands, and the LPIs of the redistributors.

use core::cell::Cell;

use super::gicr;
use super::tables::{
    ITS_TABLES, ItsTables, LARGEST_QUEUE, LARGEST_TABLES, LPI_TABLES, PAGE, clear_share, fill,
    pending_table, table,
};
use crate::cpu::{spin_until, synchronize};
use crate::cpus;
use crate::harness::{NotPassed, Outcome, holds};
use crate::machine::Machine;
use crate::mmio::{read_8, read_32, read_64, write_8, write_32, write_64};

/// Offsets in the control frame (12.19).
pub(crate) mod gits {
    pub(crate) const CTLR: usize = 0x0;
    pub(crate) const TYPER: usize = 0x8;
    pub(crate) const CBASER: usize = 0x80;
    pub(crate) const CWRITER: usize = 0x88;
    pub(crate) const CREADR: usize = 0x90;
    pub(crate) const BASER: usize = 0x100;
    /// `Quiescent` of `GITS_CTLR`.
    pub(crate) const QUIESCENT: u32 = 1 << 31;
}

/// The first LPI.
pub(crate) const FIRST_LPI: u32 = 8192;
/// First INTID behind the configuration table.
pub(crate) const LPI_END: u32 = 1 << LPI_BITS;
const LPI_BITS: u32 = 14;
/// Bytes of a pending table.
const PENDING_BYTES: usize = LPI_END as usize / 8;

/// Number of devices with a small translation table.
pub(crate) const DEVICES: u32 = 8;
/// EventID bits of a small translation table.
pub(crate) const EVENT_BITS: u32 = 5;
/// Device with room for thousands of events.
pub(crate) const BIG: u32 = DEVICES;
pub(crate) const BIG_EVENT_BITS: u32 = 12;

/// Enable bit in an LPI's configuration.
pub(crate) const ENABLED: u8 = 1;
/// Configuration of every LPI at first.
const CONFIGURED: u8 = 0xa0 | ENABLED;

const ENABLE_LPIS: u32 = 1;
const VALID: u64 = 1 << 63;
/// `GICR_PENDBASER.PTZ`: the pending table is zero.
const PTZ: u64 = 1 << 62;

/// Bytes of a command.
pub(crate) const COMMAND: usize = 32;
/// Microseconds that the ITS may take for its queue.
const PATIENCE: u64 = 5_000_000;

/// An ITS, and the position in its queue.
pub(crate) struct Its<'a> {
    machine: &'a Machine,
    base: usize,
    tables: &'static ItsTables,
    /// Address and bytes of the queue.
    queue: Cell<(usize, usize)>,
    next: Cell<usize>,
}

/// Turns the ITSes off, if there are any.
pub(crate) fn turn_off(machine: &Machine) {
    for base in [machine.gits, machine.second_gits].into_iter().flatten() {
        write_32(base + gits::CTLR, 0);
        spin_until(PATIENCE, || {
            read_32(base + gits::CTLR) & gits::QUIESCENT != 0
        });
    }
}

/// Turns a CPU's LPIs off.
pub(crate) fn disable_lpis(machine: &Machine, cpu: usize) {
    write_32(machine.gicr(cpu, gicr::CTLR), 0);
    machine.wait_rwp_private(cpu);
}

/// Gives a CPU its LPI tables and turns LPIs on. `zero` says that the pending table is zero.
fn enable_lpis(machine: &Machine, cpu: usize, zero: bool) {
    let configuration = table!(LPI_TABLES, configuration) as u64 | u64::from(LPI_BITS - 1);
    let pending = pending_table(cpu) as u64 | if zero { PTZ } else { 0 };
    write_64(machine.gicr(cpu, gicr::PROPBASER), configuration);
    write_64(machine.gicr(cpu, gicr::PENDBASER), pending);
    write_32(machine.gicr(cpu, gicr::CTLR), ENABLE_LPIS);
    machine.wait_rwp_private(cpu);
}

impl<'a> Its<'a> {
    /// Returns the ITS with a collection for each CPU, of the CPU's number, and LPIs on.
    pub(crate) fn open(machine: &'a Machine) -> Result<Self, NotPassed> {
        let its = Self::prepare(machine)?;
        cpus::on_all(|_| {
            cpus::shared_out(0..machine.cpus).for_each(|cpu| enable_lpis(machine, cpu, true));
            Ok(())
        })?;
        its.start()?;
        Ok(its)
    }

    /// Returns the ITS before LPIs and the ITS are on.
    pub(crate) fn prepare(machine: &'a Machine) -> Result<Self, NotPassed> {
        let base = machine
            .gits
            .ok_or(NotPassed::Skipped("the machine has no ITS"))?;
        cpus::on_all(|_| {
            let pending = (0..machine.cpus).map(pending_table);
            cpus::shared_out(pending).for_each(|table| fill(table, PENDING_BYTES, 0));
            Ok(())
        })?;
        let lpis = (LPI_END - FIRST_LPI) as usize;
        fill(table!(LPI_TABLES, configuration), lpis, CONFIGURED);
        Self::new(machine, base, &ITS_TABLES[0])
    }

    /// Returns the second ITS, with a collection for each CPU. The first ITS has been opened.
    pub(crate) fn open_second(machine: &'a Machine) -> Result<Self, NotPassed> {
        let base = (machine.second_gits).ok_or(NotPassed::Skipped("the machine has one ITS"))?;
        let its = Self::new(machine, base, &ITS_TABLES[1])?;
        its.start()?;
        Ok(its)
    }

    fn new(
        machine: &'a Machine,
        base: usize,
        tables: &'static ItsTables,
    ) -> Result<Self, NotPassed> {
        cpus::on_all(|_| {
            clear_share(tables);
            synchronize();
            Ok(())
        })?;
        Ok(Self {
            machine,
            base,
            tables,
            queue: Cell::new((table!(tables, queue), PAGE)),
            next: Cell::new(0),
        })
    }

    /// Gives the ITS its tables, turns it on and maps the collections.
    pub(crate) fn start(&self) -> Outcome {
        const DEVICE: u64 = 1;
        const COLLECTION: u64 = 4;
        for register in (0..8).map(|n| self.base + gits::BASER + n * 8) {
            let table = match read_64(register) >> 56 & 7 {
                DEVICE => table!(self.tables, devices),
                COLLECTION => table!(self.tables, collections),
                _ => continue,
            };
            write_64(register, 0);
            // One page of 64 KiB.
            write_64(register, VALID | 2 << 8 | table as u64);
        }

        self.use_queue(table!(self.tables, queue), PAGE);
        for cpu in 0..self.machine.cpus {
            self.queue_command([0x9, 0, VALID | self.target(cpu) | cpu as u64, 0]);
        }
        self.finish()
    }

    /// Gives the ITS, which is quiescent, an empty queue of 1 MiB, and turns it on.
    pub(crate) fn use_largest_queue(&self) {
        self.use_queue(table!(LARGEST_TABLES, queue), LARGEST_QUEUE);
    }

    fn use_queue(&self, address: usize, bytes: usize) {
        self.queue.set((address, bytes));
        self.next.set(0);
        let register = VALID | address as u64 | (bytes / 4096 - 1) as u64;
        write_64(self.base + gits::CBASER, register);
        write_64(self.base + gits::CWRITER, 0);
        write_32(self.base + gits::CTLR, 1);
    }

    /// Turns the ITS off, and waits until it is quiescent. Returns false on a timeout.
    pub(crate) fn quiesce(&self) -> bool {
        write_32(self.base + gits::CTLR, 0);
        spin_until(PATIENCE, || {
            read_32(self.base + gits::CTLR) & gits::QUIESCENT != 0
        })
    }

    /// Returns the address of a register.
    pub(crate) fn register(&self, offset: usize) -> usize {
        self.base + offset
    }

    /// Gives a CPU its LPI tables and turns LPIs on. `zero` says that the pending table is zero.
    pub(crate) fn enable_lpis(&self, cpu: usize, zero: bool) {
        enable_lpis(self.machine, cpu, zero);
    }

    /// Turns a CPU's LPIs off.
    pub(crate) fn disable_lpis(&self, cpu: usize) {
        disable_lpis(self.machine, cpu);
    }

    /// Sets an LPI's bit in a CPU's pending table.
    pub(crate) fn set_in_pending_table(&self, cpu: usize, lpi: u32) {
        let byte = pending_table(cpu) + lpi as usize / 8;
        write_8(byte, read_8(byte) | 1 << (lpi % 8));
        synchronize();
    }

    /// Returns whether an LPI's bit in a CPU's pending table is set.
    pub(crate) fn is_in_pending_table(&self, cpu: usize, lpi: u32) -> bool {
        synchronize();
        let byte = pending_table(cpu) + lpi as usize / 8;
        read_8(byte) >> (lpi % 8) & 1 != 0
    }

    /// Fills a CPU's pending table, from the first LPI on, with zeros.
    pub(crate) fn clear_pending_table(&self, cpu: usize) {
        let first = FIRST_LPI as usize / 8;
        fill(pending_table(cpu) + first, PENDING_BYTES - first, 0);
        synchronize();
    }

    /// Writes an LPI's configuration, without a command to the ITS.
    pub(crate) fn configure(&self, lpi: u32, byte: u8) {
        write_8(configuration(lpi), byte);
        synchronize();
    }

    /// Returns the name of a CPU in commands.
    pub(crate) fn target(&self, cpu: usize) -> u64 {
        u64::from(self.machine.number(cpu)) << 16
    }

    /// Maps a collection to a CPU (MAPC).
    pub(crate) fn map_collection(&self, icid: u64, cpu: usize) -> Outcome {
        self.command([0x9, 0, VALID | self.target(cpu) | icid, 0])
    }

    /// Unmaps a collection (MAPC).
    pub(crate) fn unmap_collection(&self, icid: u64) -> Outcome {
        self.command([0x9, 0, icid, 0])
    }

    /// Maps a device with a small translation table, or [`BIG`] (MAPD).
    pub(crate) fn map_device(&self, device: u32) -> Outcome {
        let (table, bits) = if device == BIG {
            (table!(self.tables, big_translations), BIG_EVENT_BITS)
        } else {
            (
                table!(self.tables, translations) + device as usize * 4096,
                EVENT_BITS,
            )
        };
        let word = 0x8 | u64::from(device) << 32;
        self.command([word, u64::from(bits - 1), VALID | table as u64, 0])
    }

    /// Maps a device with as many events as the ITS supports (MAPD).
    pub(crate) fn map_largest_device(&self, device: u32) -> Outcome {
        let bits = read_64(self.base + gits::TYPER) >> 8 & 0x1f;
        let table = table!(LARGEST_TABLES, translations) as u64;
        self.command([0x8 | u64::from(device) << 32, bits, VALID | table, 0])
    }

    /// Unmaps a device (MAPD).
    pub(crate) fn unmap_device(&self, device: u32) -> Outcome {
        self.command([0x8 | u64::from(device) << 32, 0, 0, 0])
    }

    /// Maps an event to an LPI and a collection (MAPTI).
    pub(crate) fn map_event(&self, device: u32, event: u32, lpi: u32, icid: u64) -> Outcome {
        self.queue_map_event(device, event, lpi, icid);
        self.finish()
    }

    /// Executes a command that names an event.
    pub(crate) fn event_command(&self, number: u64, device: u32, event: u32, icid: u64) -> Outcome {
        self.queue_event_command(number, device, event, icid);
        self.finish()
    }

    /// Queues a command that names an event.
    pub(crate) fn queue_event_command(&self, number: u64, device: u32, event: u32, icid: u64) {
        let word = number | u64::from(device) << 32;
        self.queue_command([word, u64::from(event), icid, 0]);
    }

    /// Makes an event's LPI pending (INT).
    pub(crate) fn raise(&self, device: u32, event: u32) -> Outcome {
        self.event_command(0x3, device, event, 0)
    }

    /// Clears the pending state of an event's LPI (CLEAR).
    pub(crate) fn clear(&self, device: u32, event: u32) -> Outcome {
        self.event_command(0x4, device, event, 0)
    }

    /// Makes the ITS read an LPI's configuration again (INV).
    pub(crate) fn invalidate(&self, device: u32, event: u32) -> Outcome {
        self.event_command(0xc, device, event, 0)
    }

    /// Makes the ITS read the configuration of a collection's LPIs again (INVALL).
    pub(crate) fn invalidate_all(&self, icid: u64) -> Outcome {
        self.command([0xd, 0, icid, 0])
    }

    /// Moves an event to another collection (MOVI).
    pub(crate) fn move_event(&self, device: u32, event: u32, icid: u64) -> Outcome {
        self.event_command(0x1, device, event, icid)
    }

    /// Moves pending LPIs from one CPU to another (MOVALL).
    pub(crate) fn move_all(&self, from: usize, to: usize) -> Outcome {
        self.queue_move_all(from, to);
        self.finish()
    }

    /// Queues a `MOVALL`.
    pub(crate) fn queue_move_all(&self, from: usize, to: usize) {
        self.queue_command([0xe, 0, self.target(from), self.target(to)]);
    }

    /// Unmaps an event (DISCARD).
    pub(crate) fn discard(&self, device: u32, event: u32) -> Outcome {
        self.event_command(0xf, device, event, 0)
    }

    /// Queues a command and a `SYNC`, and waits until the ITS has read both.
    #[track_caller]
    pub(crate) fn command(&self, words: [u64; 4]) -> Outcome {
        self.queue_command(words);
        self.finish()
    }

    /// Queues a `SYNC`, and waits until the ITS has read all commands.
    #[track_caller]
    pub(crate) fn finish(&self) -> Outcome {
        self.queue_command([0x5, 0, self.target(0), 0]);
        self.submit();
        holds("the queue is read to its end", self.wait_until_read())
    }

    /// Writes a command into the queue, without telling the ITS.
    pub(crate) fn queue_command(&self, words: [u64; 4]) {
        let (queue, bytes) = self.queue.get();
        let at = queue + self.next.get();
        for (place, word) in words.into_iter().enumerate() {
            write_64(at + place * 8, word);
        }
        self.next.set((self.next.get() + COMMAND) % bytes);
    }

    /// Queues a `MAPTI`.
    pub(crate) fn queue_map_event(&self, device: u32, event: u32, lpi: u32, icid: u64) {
        let events = u64::from(event) | u64::from(lpi) << 32;
        self.queue_command([0xa | u64::from(device) << 32, events, icid, 0]);
    }

    /// Queues an `INT`.
    pub(crate) fn queue_raise(&self, device: u32, event: u32) {
        self.queue_command([0x3 | u64::from(device) << 32, event.into(), 0, 0]);
    }

    /// Tells the ITS of the queued commands.
    pub(crate) fn submit(&self) {
        synchronize();
        write_64(self.base + gits::CWRITER, self.next.get() as u64);
    }

    /// Waits until the ITS has read its queue. Returns false on a timeout.
    pub(crate) fn wait_until_read(&self) -> bool {
        spin_until(PATIENCE, || self.is_read())
    }

    /// Returns true if the ITS has read its queue.
    pub(crate) fn is_read(&self) -> bool {
        read_64(self.base + gits::CREADR) == self.next.get() as u64
    }
}

/// Returns the translation table of [`BIG`] in the first ITS.
pub(crate) fn big_table() -> u64 {
    table!(ITS_TABLES[0], big_translations) as u64
}

/// Returns the address of an LPI's configuration byte.
fn configuration(lpi: u32) -> usize {
    table!(LPI_TABLES, configuration) + (lpi - FIRST_LPI) as usize
}
