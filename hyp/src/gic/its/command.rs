//! Commands of an ITS, and the command queue (IHI 0069, 5.3).

use aarch64_cpu::asm::barrier;
use aarch64_cpu::registers::{Readable, Writeable};

use super::{ReadPointer, Registers};
use crate::cpu::patience;
use crate::memory::table::Table;

/// A command.
#[derive(Clone, Copy, Debug)]
pub(super) struct Command([u64; 4]);

impl Command {
    const MOVI: u64 = 0x01;
    const SYNC: u64 = 0x05;
    const MAPD: u64 = 0x08;
    const MAPC: u64 = 0x09;
    const MAPTI: u64 = 0x0a;
    const INV: u64 = 0x0c;
    const INVALL: u64 = 0x0d;
    const DISCARD: u64 = 0x0f;
    /// V bit of MAPD and MAPC.
    const VALID: u64 = 1 << 63;

    const fn of_device(code: u64, device: u32) -> u64 {
        (device as u64) << 32 | code
    }

    /// Returns a MAPD. `translations` is the physical address of the device's table.
    pub(super) const fn map_device(device: u32, event_bits: u32, translations: u64) -> Self {
        let size = event_bits.saturating_sub(1) as u64;
        Self([
            Self::of_device(Self::MAPD, device),
            size,
            Self::VALID | translations,
            0,
        ])
    }

    /// Returns a MAPD with V clear.
    pub(super) const fn unmap_device(device: u32) -> Self {
        Self([Self::of_device(Self::MAPD, device), 0, 0, 0])
    }

    /// Returns a MAPC. `target` names the redistributor.
    pub(super) const fn map_collection(collection: u16, target: u64) -> Self {
        Self([Self::MAPC, 0, Self::VALID | target | collection as u64, 0])
    }

    /// Returns a MAPTI.
    pub(super) const fn map_event(device: u32, event: u32, lpi: u32, collection: u16) -> Self {
        let event = (lpi as u64) << 32 | event as u64;
        Self([
            Self::of_device(Self::MAPTI, device),
            event,
            collection as u64,
            0,
        ])
    }

    /// Returns a MOVI.
    pub(super) const fn move_event(device: u32, event: u32, collection: u16) -> Self {
        Self([
            Self::of_device(Self::MOVI, device),
            event as u64,
            collection as u64,
            0,
        ])
    }

    /// Returns an INV.
    pub(super) const fn invalidate(device: u32, event: u32) -> Self {
        Self([Self::of_device(Self::INV, device), event as u64, 0, 0])
    }

    /// Returns an INVALL.
    pub(super) const fn invalidate_all(collection: u16) -> Self {
        Self([Self::INVALL, 0, collection as u64, 0])
    }

    /// Returns a command of the library's.
    pub(super) const fn of_library(command: vgic::gicv4::command::Command) -> Self {
        Self(command.words())
    }

    /// Returns a DISCARD.
    pub(super) const fn discard(device: u32, event: u32) -> Self {
        Self([Self::of_device(Self::DISCARD, device), event as u64, 0, 0])
    }

    /// Returns a SYNC. `target` names the redistributor.
    pub(super) const fn sync(target: u64) -> Self {
        Self([Self::SYNC, 0, target, 0])
    }
}

/// The command queue.
pub(super) struct CommandQueue {
    memory: Table,
    /// Offset of the next command, in bytes.
    write: usize,
}

impl CommandQueue {
    const SIZE: usize = 64 << 10;

    /// Returns an empty queue.
    pub(super) fn new() -> Self {
        Self {
            memory: Table::new(Self::SIZE, Self::SIZE),
            write: 0,
        }
    }

    /// Returns the value of `GITS_CBASER`.
    pub(super) fn base_register(&self) -> u64 {
        const VALID: u64 = 1 << 63;
        const WRITE_BACK: u64 = 7 << 59;
        const INNER_SHAREABLE: u64 = 1 << 10;
        /// Size in pages of 4 KiB, less one.
        const PAGES: u64 = (CommandQueue::SIZE as u64 >> 12) - 1;
        VALID | WRITE_BACK | self.memory.physical() | INNER_SHAREABLE | PAGES
    }

    /// Appends the commands to the queue, which is empty, and waits until they are executed.
    /// Returns false if they are not within the time that a device has ([`patience`]), or if the
    /// ITS stalls.
    #[must_use]
    pub(super) fn try_execute(
        &mut self,
        registers: &Registers,
        commands: impl Iterator<Item = Command>,
    ) -> bool {
        let position = self.append(registers, commands);
        let mut stalled = false;
        let done = patience::wait(|| {
            let read = registers.creadr.extract();
            stalled = read.is_set(ReadPointer::STALLED);
            stalled || read.read(ReadPointer::OFFSET) == position
        });
        done && !stalled
    }

    /// Appends the commands to the queue, which is empty, and waits until they are executed.
    ///
    /// # Panics
    /// If the ITS stalls at a wrong command.
    pub(super) fn execute(&mut self, registers: &Registers, commands: &[Command]) {
        let position = self.append(registers, commands.iter().copied());
        loop {
            let read = registers.creadr.extract();
            if read.read(ReadPointer::OFFSET) == position {
                return;
            }
            assert!(
                !read.is_set(ReadPointer::STALLED),
                "the ITS refuses one of {commands:x?}"
            );
            core::hint::spin_loop();
        }
    }

    /// Appends the commands to the queue. Returns the place of its end, in commands.
    fn append(&mut self, registers: &Registers, commands: impl Iterator<Item = Command>) -> u64 {
        for command in commands {
            let words = command.0.map(u64::to_le_bytes);
            self.memory.write(self.write, words.as_flattened());
            self.write = (self.write + size_of::<Command>()) % Self::SIZE;
        }

        barrier::dsb(barrier::SY);
        registers.cwriter.set(self.write as u64);
        self.write as u64 / size_of::<Command>() as u64
    }
}
