//! Commands of the SMMU, and the command queue (IHI 0070, chapter 4).

use aarch64_cpu::registers::{Readable, Writeable};

use super::queue::Position;
use super::registers::{CommandConsumer, GlobalError, Registers};
use crate::cpu::patience;
use crate::memory::table::Table;

/// Largest size of the queue, as a power of two.
const MOST: u32 = 8;

/// Smallest size of the queue, as a power of two, with room for all commands of one call.
pub(super) const FEWEST: u32 = 2;

/// A command.
#[derive(Clone, Copy, Debug)]
pub(super) struct Command([u64; 2]);

impl Command {
    const CFGI_STE: u64 = 0x03;
    const CFGI_STE_RANGE: u64 = 0x04;
    const TLBI_S12_VMALL: u64 = 0x28;
    const TLBI_NSNH_ALL: u64 = 0x30;
    const SYNC: u64 = 0x46;

    /// Returns a `CMD_CFGI_STE`, which also forgets the descriptors on the way to the entry.
    pub(super) const fn forget_entry(stream: u32) -> Self {
        Self([(stream as u64) << 32 | Self::CFGI_STE, 0])
    }

    /// Returns a `CMD_CFGI_ALL`.
    pub(super) const fn forget_entries() -> Self {
        /// All StreamIDs, as a range.
        const ALL: u64 = 31;
        Self([Self::CFGI_STE_RANGE, ALL])
    }

    /// Returns a `CMD_TLBI_S12_VMALL`.
    pub(super) const fn forget_translations_of(vmid: u16) -> Self {
        Self([(vmid as u64) << 32 | Self::TLBI_S12_VMALL, 0])
    }

    /// Returns a `CMD_TLBI_NSNH_ALL`.
    pub(super) const fn forget_translations() -> Self {
        Self([Self::TLBI_NSNH_ALL, 0])
    }

    /// Returns a `CMD_SYNC` without a signal: its completion shows in `SMMU_CMDQ_CONS`.
    const fn sync() -> Self {
        Self([Self::SYNC, 0])
    }
}

/// The command queue.
pub(super) struct CommandQueue {
    memory: Table,
    /// Number of entries, as a power of two.
    log2: u32,
    /// Position of the next command.
    write: Position,
}

impl CommandQueue {
    /// Returns an empty queue of at most 2^`most` entries.
    pub(super) fn new(most: u32) -> Self {
        let log2 = most.min(MOST);
        let bytes = size_of::<Command>() << log2;
        Self {
            memory: Table::new(bytes, bytes),
            log2,
            write: Position::START,
        }
    }

    /// Returns the value of `SMMU_CMDQ_BASE`.
    pub(super) fn base_register(&self) -> u64 {
        const READ_ALLOCATE: u64 = 1 << 62;
        READ_ALLOCATE | self.memory.physical() | u64::from(self.log2)
    }

    /// Executes the commands, and waits until their effects are complete.
    ///
    /// # Panics
    /// If the SMMU refuses a command, or does not execute one in time: devices would go on with
    /// translations that they must not have.
    pub(super) fn execute(&mut self, registers: &Registers, commands: &[Command]) {
        for command in commands.iter().chain([&Command::sync()]) {
            self.append(*command);
        }
        registers.cmdq_prod.set(self.write.value());

        let position = || registers.cmdq_cons.read(CommandConsumer::RD);
        let is_empty = || Position::from_register(position(), self.log2) == self.write;
        let error = |bits: u32| bits & GlobalError::CMDQ_ERR::SET.value;
        let has_stopped = || error(registers.gerror.get()) != error(registers.gerrorn.get());
        let reacts = patience::wait(|| is_empty() || has_stopped());
        assert!(
            reacts && is_empty(),
            "the SMMU does not execute {commands:x?}: CMDQ_CONS {:#x}",
            registers.cmdq_cons.get()
        );
    }

    /// Appends a command. The queue has room: each call of `execute` empties it, and has few
    /// commands.
    fn append(&mut self, command: Command) {
        let first = self.write.index(self.log2) * command.0.len();
        for (word, value) in command.0.into_iter().enumerate() {
            self.memory.write_word(first + word, value);
        }
        self.write = self.write.next(self.log2);
    }
}
