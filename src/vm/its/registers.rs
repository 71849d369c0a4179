//! The command queue: `GITS_CBASER`, `GITS_CWRITER`, `GITS_CREADR` (IHI 0069, 5.3.1).

use crate::epoch::CpuPin;
use crate::sync::Ordering::{Acquire, Release};
use crate::vm::its::baser::TableType;
use crate::vm::its::{CTLR_ENABLED, Its};

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
pub(crate) struct Queue(u64);

impl Queue {
    /// The register.
    pub(crate) fn get(self) -> u64 {
        self.0
    }

    /// Writes the fields that can be written.
    pub(crate) fn set(&mut self, value: u64) {
        self.0 = value & (VALID | ATTRIBUTES | ADDRESS | SIZE);
    }

    pub(crate) fn bytes(self) -> u64 {
        if self.0 & VALID == 0 {
            0
        } else {
            (self.0 & SIZE).wrapping_add(1) << 12
        }
    }

    pub(crate) fn address(self) -> u64 {
        self.0 & ADDRESS
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
        self.set_control(CTLR_ENABLED, on);
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
