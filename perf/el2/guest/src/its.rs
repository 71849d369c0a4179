//! The interrupt translation service.

use core::sync::atomic::{AtomicU8, AtomicUsize, Ordering::Relaxed};

use crate::cpu::synchronize;
use crate::gic::{LPI_BITS, PRIORITY, enable_lpis};
use crate::mmio::{read_64, write_8, write_32, write_64};
use crate::{MOST_DEVICES, MOST_VCPUS};

const GITS: usize = 0x0808_0000;
const GITS_CTLR: usize = GITS;
const GITS_CBASER: usize = GITS + 0x80;
const GITS_CWRITER: usize = GITS + 0x88;
const GITS_CREADR: usize = GITS + 0x90;
const GITS_BASER: usize = GITS + 0x100;

/// Register that devices write MSIs to.
pub(crate) const GITS_TRANSLATER: u64 = GITS as u64 + 0x1_0040;

const PAGE: usize = 0x1_0000;
/// Bits of a device's EventIDs: enough for an event of each vCPU.
const EVENT_BITS: u64 = 7;
/// Bytes of an interrupt translation table: ample for so many events.
const TRANSLATIONS: usize = 0x1000;
const VALID: u64 = 1 << 63;
/// Bytes of a command.
const COMMAND: usize = 32;

/// Memory that is accessed by address.
type Memory<const BYTES: usize> = [AtomicU8; BYTES];

/// Tables of the interrupt controller, zero at first.
#[repr(C, align(65536))]
struct Tables {
    queue: Memory<PAGE>,
    devices: Memory<PAGE>,
    collections: Memory<PAGE>,
    pending: [Memory<PAGE>; MOST_VCPUS],
    translations: [Memory<TRANSLATIONS>; MOST_DEVICES],
    configuration: Memory<{ (1 << LPI_BITS) - FIRST_LPI as usize }>,
}

/// The first LPI.
pub(crate) const FIRST_LPI: u32 = 8192;

static TABLES: Tables = Tables {
    queue: [const { AtomicU8::new(0) }; PAGE],
    devices: [const { AtomicU8::new(0) }; PAGE],
    collections: [const { AtomicU8::new(0) }; PAGE],
    pending: [const { [const { AtomicU8::new(0) }; PAGE] }; MOST_VCPUS],
    translations: [const { [const { AtomicU8::new(0) }; TRANSLATIONS] }; MOST_DEVICES],
    configuration: [const { AtomicU8::new(0) }; (1 << LPI_BITS) - FIRST_LPI as usize],
};

/// The address of a table.
macro_rules! table {
    ($($field:tt)*) => { (&raw const TABLES.$($field)*).addr() };
}

/// The ITS. One vCPU at a time uses it.
pub(crate) struct Its {
    /// Offset of the next command in the queue.
    next: AtomicUsize,
    /// Number of devices that are mapped.
    devices: AtomicUsize,
}

impl Its {
    /// Returns the ITS, which is off.
    pub(crate) const fn new() -> Self {
        Self {
            next: AtomicUsize::new(0),
            devices: AtomicUsize::new(0),
        }
    }

    /// Turns the ITS on, and LPIs on `vcpus` vCPUs, each with the collection of its number.
    pub(crate) fn open(&self, vcpus: usize) {
        const DEVICE: u64 = 1;
        const COLLECTION: u64 = 4;
        for vcpu in 0..vcpus {
            enable_lpis(vcpu, table!(configuration), table!(pending[vcpu]));
        }

        for register in (0..8).map(|n| GITS_BASER + n * 8) {
            let table = match read_64(register) >> 56 & 7 {
                DEVICE => table!(devices),
                COLLECTION => table!(collections),
                _ => continue,
            };
            // One page of 64 KiB.
            write_64(register, VALID | 2 << 8 | table as u64);
        }
        write_64(
            GITS_CBASER,
            VALID | table!(queue) as u64 | (PAGE / 4096 - 1) as u64,
        );
        write_64(GITS_CWRITER, 0);
        write_32(GITS_CTLR, 1);

        for vcpu in 0..vcpus as u64 {
            self.command([0x9, 0, VALID | vcpu << 16 | vcpu, 0]);
        }
    }

    /// Maps a device with [`EVENT_BITS`] bits of events.
    pub(crate) fn map_device(&self, device: u32) {
        let number = self.devices.load(Relaxed);
        self.devices.store(number + 1, Relaxed);
        let table = table!(translations[number]) as u64;
        self.command([
            0x8 | u64::from(device) << 32,
            EVENT_BITS - 1,
            VALID | table,
            0,
        ]);
    }

    /// Maps an event of a device to an LPI of the vCPU `target`, and enables the LPI.
    pub(crate) fn map_event(&self, device: u32, event: u32, lpi: u32, target: u64) {
        write_8(
            table!(configuration) + (lpi - FIRST_LPI) as usize,
            PRIORITY | 1,
        );
        let words = [0xa, 0, target, 0];
        self.command(Self::with_event(words, device, event, lpi));
        self.command(Self::with_event([0xc, 0, 0, 0], device, event, 0));
        self.command([0x5, 0, target << 16, 0]);
    }

    /// Makes an event's LPI pending (INT). Returns once the command has been executed.
    #[inline(always)]
    pub(crate) fn raise(&self, device: u32, event: u32) {
        self.command(Self::with_event([0x3, 0, 0, 0], device, event, 0));
    }

    /// Moves an event to the vCPU `target` (MOVI). Returns once the command has been executed.
    #[inline(always)]
    pub(crate) fn move_event(&self, device: u32, event: u32, target: u64) {
        self.command(Self::with_event([0x1, 0, target, 0], device, event, 0));
    }

    /// Clears the pending state of an event's LPI (CLEAR).
    pub(crate) fn clear(&self, device: u32, event: u32) {
        self.command(Self::with_event([0x4, 0, 0, 0], device, event, 0));
    }

    /// Adds an event's fields to a command.
    #[inline(always)]
    fn with_event(mut words: [u64; 4], device: u32, event: u32, lpi: u32) -> [u64; 4] {
        words[0] |= u64::from(device) << 32;
        words[1] = u64::from(event) | u64::from(lpi) << 32;
        words
    }

    /// Executes a command: queues it, tells the ITS, and waits until the ITS has read it.
    #[inline(always)]
    fn command(&self, words: [u64; 4]) {
        let at = self.next.load(Relaxed);
        for (place, word) in words.into_iter().enumerate() {
            write_64(table!(queue) + at + place * 8, word);
        }
        let next = (at + COMMAND) % PAGE;
        self.next.store(next, Relaxed);
        synchronize();
        write_64(GITS_CWRITER, next as u64);
        // The interrupt that the command makes pending may have had another vCPU queue commands.
        while read_64(GITS_CREADR) == at as u64 {}
    }
}
