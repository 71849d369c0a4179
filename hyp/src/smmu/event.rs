//! Events of the SMMU, and the event queue (IHI 0070, chapter 7).

use core::fmt;

use aarch64_cpu::registers::{Readable, Writeable};

use super::queue::Position;
use super::registers::{EventPointer, Registers};
use crate::memory::table::Table;

/// Largest size of the queue, as a power of two.
const MOST: u32 = 10;

/// Event: the record of a transaction that was aborted.
#[derive(Clone, Copy, Debug)]
pub(super) struct Event([u64; 4]);

impl Event {
    /// Returns the kind of event.
    const fn kind(self) -> u8 {
        self.0[0] as u8
    }

    /// Returns the name of the kind of event, if the hypervisor's configuration can cause it.
    const fn name(self) -> Option<&'static str> {
        Some(match self.kind() {
            0x01 => "F_UUT",
            0x02 => "C_BAD_STREAMID",
            0x03 => "F_STE_FETCH",
            0x04 => "C_BAD_STE",
            0x08 => "C_BAD_SUBSTREAMID",
            0x0b => "F_WALK_EABT",
            0x10 => "F_TRANSLATION",
            0x11 => "F_ADDR_SIZE",
            0x12 => "F_ACCESS",
            0x13 => "F_PERMISSION",
            _ => return None,
        })
    }

    /// Returns the StreamID.
    const fn stream(self) -> u32 {
        (self.0[0] >> 32) as u32
    }

    /// Returns true for a fault of a translation, which has an address and a direction.
    fn has_address(self) -> bool {
        (0x10..=0x13).contains(&self.kind())
    }

    /// Returns true for a read.
    const fn is_read(self) -> bool {
        self.0[1] & 1 << 35 != 0
    }

    /// Returns the device's address.
    const fn address(self) -> u64 {
        self.0[2]
    }
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => write!(f, "{name}")?,
            None => write!(f, "event {:#x}", self.kind())?,
        }
        write!(f, " of stream {:#x}", self.stream())?;
        if self.has_address() {
            let direction = if self.is_read() { "read" } else { "write" };
            write!(f, ", a {direction} at {:#x}", self.address())?;
        }
        Ok(())
    }
}

/// The event queue.
pub(super) struct EventQueue {
    memory: Table,
    /// Number of entries, as a power of two.
    log2: u32,
    /// Position of the next event.
    read: Position,
    /// Value of `SMMU_EVENTQ_PROD.OVFLG` at the last look.
    overflow: u32,
}

impl EventQueue {
    /// Returns an empty queue of at most 2^`most` entries.
    pub(super) fn new(most: u32) -> Self {
        let log2 = most.min(MOST);
        let bytes = size_of::<Event>() << log2;
        Self {
            memory: Table::new(bytes, bytes),
            log2,
            read: Position::START,
            overflow: 0,
        }
    }

    /// Returns the value of `SMMU_EVENTQ_BASE`.
    pub(super) fn base_register(&self) -> u64 {
        const WRITE_ALLOCATE: u64 = 1 << 62;
        WRITE_ALLOCATE | self.memory.physical() | u64::from(self.log2)
    }

    /// Returns the number of events that the queue holds.
    pub(super) fn capacity(&self) -> usize {
        1 << self.log2
    }

    /// Takes the oldest event.
    pub(super) fn take(&mut self, registers: &Registers) -> Option<Event> {
        let producer = registers.eventq_prod.read(EventPointer::INDEX);
        if self.read == Position::from_register(producer, self.log2) {
            return None;
        }
        let first = self.read.index(self.log2) * size_of::<Event>() / size_of::<u64>();
        let event = Event(core::array::from_fn(|word| {
            self.memory.read_word(first + word)
        }));
        self.read = self.read.next(self.log2);
        self.write_consumer(registers);
        Some(event)
    }

    /// Returns true if events have been lost since the last call.
    pub(super) fn has_overflowed(&mut self, registers: &Registers) -> bool {
        let overflow = registers.eventq_prod.read(EventPointer::OVERFLOW);
        let has_changed = overflow != self.overflow;
        self.overflow = overflow;
        self.write_consumer(registers);
        has_changed
    }

    fn write_consumer(&self, registers: &Registers) {
        registers.eventq_cons.write(
            EventPointer::OVERFLOW.val(self.overflow) + EventPointer::INDEX.val(self.read.value()),
        );
    }
}
