//! The ITS: tables and commands (IHI 0069, 5.3).

use crate::gic::GITS;
use crate::memory::{self, read32, read64, write32, write64};

/// `GITS_CTLR`; the other registers follow.
pub(crate) const CTLR: u64 = GITS;
pub(crate) const CBASER: u64 = GITS + 0x80;
pub(crate) const CWRITER: u64 = GITS + 0x88;
pub(crate) const CREADR: u64 = GITS + 0x90;
pub(crate) const BASER0: u64 = GITS + 0x100;
pub(crate) const BASER1: u64 = GITS + 0x108;

/// Memory of the device table. The collection table, the translation table and the queue follow.
pub(crate) const DEVICES: u64 = memory::SPARE + 0x10_0000;
pub(crate) const COLLECTIONS: u64 = DEVICES + 0x1_0000;
pub(crate) const TRANSLATIONS: u64 = COLLECTIONS + 0x1_0000;
pub(crate) const QUEUE: u64 = memory::SPARE + 0x20_0000;

/// Bytes of the largest possible queue: 256 pages of 4 KiB.
pub(crate) const QUEUE_SIZE: u64 = 1 << 20;

/// Bytes of a command.
pub(crate) const COMMAND: u64 = 32;

const VALID: u64 = 1 << 63;
/// `GITS_BASER<n>`: one page of 64 KiB.
const PAGES_OF_64K: u64 = 2 << 8;
/// `GITS_CBASER`: pages of 4 KiB, less one.
const QUEUE_PAGES: u64 = QUEUE_SIZE / 4096 - 1;

/// Command, as the ITS reads it.
pub(crate) type Command = [u64; 4];

/// Returns a MAPD, for a device with `2^bits` events. Without `valid`, the device is unmapped.
pub(crate) fn mapd(device: u64, bits: u64, valid: bool) -> Command {
    let valid = if valid { VALID } else { 0 };
    [
        0x08 | device << 32,
        (bits - 1) & 0x1f,
        valid | TRANSLATIONS,
        0,
    ]
}

/// Returns a MAPC, to a vCPU. Without `valid`, the collection is unmapped.
pub(crate) fn mapc(collection: u64, target: u64, valid: bool) -> Command {
    let valid = if valid { VALID } else { 0 };
    [0x09, 0, valid | target << 16 | collection, 0]
}

/// Returns a MAPTI.
pub(crate) fn mapti(device: u64, event: u64, lpi: u64, collection: u64) -> Command {
    [0x0a | device << 32, event | lpi << 32, collection, 0]
}

/// Returns a MOVI.
pub(crate) fn movi(device: u64, event: u64, collection: u64) -> Command {
    [0x01 | device << 32, event, collection, 0]
}

/// Returns an INT.
pub(crate) fn int(device: u64, event: u64) -> Command {
    [0x03 | device << 32, event, 0, 0]
}

/// Returns a SYNC, for a vCPU.
pub(crate) fn sync(target: u64) -> Command {
    [0x05, 0, target << 16, 0]
}

/// Gives the ITS its tables and an empty queue, and turns it on.
pub(crate) fn start() {
    write32(CTLR, 0);
    // The ITS must be quiescent before its tables change.
    while read32(CTLR) & 1 << 31 == 0 {}
    write64(BASER0, VALID | DEVICES | PAGES_OF_64K);
    write64(BASER1, VALID | COLLECTIONS | PAGES_OF_64K);
    while read32(CTLR) & 1 << 31 == 0 {}
    write64(CBASER, VALID | QUEUE | QUEUE_PAGES);
    write64(CWRITER, 0);
    write32(CTLR, 1);
}

/// Puts a command into the queue at `offset`, and returns the offset behind it.
pub(crate) fn put(offset: u64, command: Command) -> u64 {
    for (place, word) in (0..).zip(command) {
        write64(QUEUE + offset + place * 8, word);
    }
    (offset + COMMAND) % QUEUE_SIZE
}

/// Executes commands, and waits until the ITS has read them. Called by one vCPU at a time.
pub(crate) fn execute(commands: &[Command]) {
    let begin = read64(CWRITER);
    let end = commands.iter().fold(begin, |at, command| put(at, *command));
    crate::cpu::publish();
    write64(CWRITER, end);
    while read64(CREADR) != end {}
}
