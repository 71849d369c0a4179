//! Registers of an ITS: `GITS_CTLR`, and the command queue's `GITS_CBASER`, `GITS_CWRITER` and
//! `GITS_CREADR` (IHI 0069, 5.3.1).

use crate::epoch::CpuPin;
use crate::sync::Ordering::{Acquire, Relaxed, Release};
use crate::vm::its::baser::{Baser, TableType};
use crate::vm::its::{CTLR_ENABLED, Its};

/// `GITS_CWRITER.Offset` and `GITS_CREADR.Offset`: bytes from the start of the queue.
pub(crate) const OFFSET: u64 = 0xf_ffe0;

const VALID: u64 = 1 << 63;

/// `GITS_CBASER.Physical_Address`. The queue is aligned to 64 KiB: bits 15:12 are `RES0`.
const ADDRESS: u64 = 0x000f_ffff_ffff_0000;

/// Inner and outer cacheability, and shareability: kept as written, without effect.
const ATTRIBUTES: u64 = 0x7 << 59 | 0x7 << 53 | 0x3 << 10;

/// `GITS_CBASER.Size`: the number of 4 KiB pages less one.
const SIZE: u64 = 0xff;

/// `GITS_CBASER`: place and size of the command queue.
#[derive(Clone, Copy, Default)]
pub(crate) struct CommandQueue(u64);

impl CommandQueue {
    /// Creates the register with a value.
    pub(crate) fn with(value: u64) -> Self {
        let mut queue = Self::default();
        queue.set(value);
        queue
    }

    /// Returns true if `GITS_CREADR` may have an offset: that of a command, or 0.
    pub(crate) fn has(self, offset: u64) -> bool {
        offset == 0 || offset < self.bytes()
    }

    /// Returns the register's value.
    pub(crate) fn get(self) -> u64 {
        self.0
    }

    /// Writes the writable fields.
    pub(crate) fn set(&mut self, value: u64) {
        self.0 = value & (VALID | ATTRIBUTES | ADDRESS | SIZE);
    }

    /// Returns the size of the queue in bytes, a multiple of 4 KiB up to 1 MiB; 0 without Valid.
    pub(crate) fn bytes(self) -> u64 {
        if self.0 & VALID == 0 {
            0
        } else {
            (self.0 & SIZE).wrapping_add(1) << 12
        }
    }

    /// Returns the guest-physical address of the queue.
    pub(crate) fn address(self) -> u64 {
        self.0 & ADDRESS
    }
}

impl Its {
    /// Returns `GITS_CREADR`. The Stalled bit is never set: a command that fails is skipped.
    pub(crate) fn creadr(&self) -> u64 {
        // Acquire: pairs with the Release in `Execution::finish_command`.
        u64::from(self.commands.creadr.load(Acquire))
    }

    /// Returns whether `GITS_CREADR` has still to move: a command waits, or is being executed.
    pub(crate) fn is_behind(&self) -> bool {
        self.creadr() != self.cwriter()
    }

    /// Returns `GITS_CWRITER`.
    pub(crate) fn cwriter(&self) -> u64 {
        // Acquire: pairs with the Release in `set_cwriter`.
        u64::from(self.commands.cwriter.load(Acquire))
    }

    /// Writes `GITS_CWRITER`. The caller then executes a slice.
    pub(crate) fn set_cwriter(&self, value: u64) {
        // Release: pairs with the Acquire in `cwriter`, on the CPU that executes the next slice.
        self.commands
            .cwriter
            .store((value & OFFSET) as u32, Release);
    }

    /// Resets the registers of a disabled ITS without mappings. Takes the command lock.
    pub(crate) fn reset(&self, pin: &CpuPin<'_>) {
        let mut engine = self.commands.engine.lock(pin.locks());
        engine.in_progress = None;
        engine.queue = CommandQueue::default();
        engine.device_table = Baser::new(TableType::Devices);
        engine.collection_table = Baser::new(TableType::Collections);
        engine.collections.fill(None);
        // Relaxed: ordered by the caller's claim of the vCPUs.
        self.commands.creadr.store(0, Relaxed);
        self.set_cwriter(0);
    }

    /// Writes `GITS_CTLR.Enabled`. Returns true if that changes it. The caller then executes a
    /// slice.
    pub(crate) fn set_enabled(&self, on: bool) -> bool {
        self.change_control(CTLR_ENABLED, on)
    }

    /// Returns `GITS_CTLR.Quiescent`: the ITS is disabled, no command is being executed, and no
    /// table is being dropped.
    pub(crate) fn is_quiescent(&self, pin: &CpuPin<'_>) -> bool {
        !self.is_enabled()
            && self
                .commands
                .engine
                .try_lock(pin.locks())
                .is_some_and(|engine| engine.in_progress.is_none())
    }

    /// Returns `GITS_CBASER`. Takes the command lock.
    pub(crate) fn cbaser(&self, pin: &CpuPin<'_>) -> u64 {
        self.commands.engine.lock(pin.locks()).queue.0
    }

    /// Returns `GITS_BASER0` (devices) or `GITS_BASER1` (collections). Takes the command lock.
    pub(crate) fn baser(&self, pin: &CpuPin<'_>, table: TableType) -> u64 {
        let engine = self.commands.engine.lock(pin.locks());
        match table {
            TableType::Devices => engine.device_table.get(),
            TableType::Collections => engine.collection_table.get(),
        }
    }
}
