//! State of an interrupt translation service (ITS, IHI 0069, chapter 5), and translation.
//!
//! A device writes an EventID. The ITS makes pending the LPI that the guest has mapped the pair
//! (DeviceID, EventID) to.
//!
//! | file | content |
//! |---|---|
//! | this file | [`Its`], its parts, translation |
//! | [`device`] | devices and events: the tables that translation reads |
//! | [`baser`] | `GITS_BASER<n>`: the tables that the guest provides in memory |
//! | [`registers`] | `GITS_CTLR`, `GITS_CBASER`, `GITS_CWRITER`, `GITS_CREADR` |
//! | [`progress`] | a command that has been begun and is not done |
//!
//! [`crate::its`] executes commands.
//!
//! # Access rules
//! 1. Translation takes no lock, reads no guest memory and writes nothing. Translation is two
//!    lookups in tables whose nodes, devices and interrupts the epoch keeps alive. Any pinned CPU
//!    may translate at any time.
//! 2. Only the holder of the command lock changes the tables and [`Engine`]. One command is
//!    executed at a time: a command that has been begun is completed before the next is begun.
//! 3. `creadr`, `cwriter` and `control` are atomics beside the lock, so that a guest that polls the
//!    registers does not wait for the lock. `creadr` is written under the lock.
//!
//! # Publication
//! Mapping an event:
//! 1. The LPI gets a mapping reference, a target, a collection and a configuration.
//! 2. The event's slot is filled (Release). A CPU that translates finds a complete interrupt.
//!
//! Unmapping an event:
//! 1. The event's slot is emptied.
//! 2. The LPI's pending state is withdrawn, and the LPI stops reacting to raises.
//! 3. The mapping reference is put.
//!
//! An injector that read the slot before step 1 holds a valid pointer, because the injector is
//! pinned. The injector's raise comes before step 2 and is withdrawn, comes after step 2 and has no
//! effect, or finds the LPI mapped again and counts for the new mapping.
//!
//! # Bounded work
//! A register access takes at most [`SLICE`](crate::its::command_queue::SLICE) steps and the last
//! item's excess. Steps count table slots passed, commands and events.
//! [`Vgic::advance`](crate::Vgic::advance) and the guest's own polling of `GITS_CREADR` execute
//! further slices. `GITS_CREADR` moves past a command once the whole command is done.
#![cfg_attr(
    not(test),
    deny(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        clippy::indexing_slicing,
        clippy::arithmetic_side_effects
    )
)]

pub(crate) mod baser;
pub(crate) mod device;
pub(crate) mod progress;
pub(crate) mod registers;

use alloc::boxed::Box;

use crossbeam_epoch::Guard;

use crate::config::ItsConfig;
use crate::error::InjectError;
use crate::intid::{DeviceId, EventId, ItsId, VcpuId};
use crate::sync::Ordering::{Acquire, Relaxed, Release};
use crate::sync::{AtomicU32, Rank, SpinLock};
use crate::vm::direct::DirectEvents;
use crate::vm::irq::Irq;
use crate::vm::its::baser::{Baser, TableType};
use crate::vm::its::device::{Devices, Itt};
use crate::vm::its::progress::InProgress;
use crate::vm::its::registers::CommandQueue;

/// `GITS_CTLR.Enabled`.
pub(crate) const CTLR_ENABLED: u32 = 1 << 0;

/// Bit of [`Its`]`::control`: the guest has taken a table away, and the mappings of that table are
/// still being removed.
pub(crate) const DROPPING: u32 = 1 << 1;

/// Bit of [`Its`]`::control`: the VM is frozen, and commands wait for a thaw. The saved state has
/// the commands: no poll of `GITS_CREADR` executes a slice.
pub(crate) const FROZEN: u32 = 1 << 2;

/// One ITS.
pub(crate) struct Its {
    pub(crate) id: ItsId,
    pub(crate) config: ItsConfig,
    /// [`CTLR_ENABLED`], [`DROPPING`] and [`FROZEN`].
    control: AtomicU32,
    pub(crate) devices: Devices,
    pub(crate) commands: Commands,
    /// Changed under the command lock.
    pub(crate) direct: SpinLock<DirectEvents, { Rank::Direct as u8 }>,
}

/// Command side of an ITS.
// Aligned to cache lines of its own: injectors read the neighbouring fields of `Its`. In this order
// a CPU that writes `GITS_CWRITER` finds the lock, which it takes next, in the same line.
#[repr(C, align(64))]
pub(crate) struct Commands {
    /// `GITS_CWRITER.Offset`, in bytes.
    pub(crate) cwriter: AtomicU32,
    /// `GITS_CREADR.Offset`, in bytes.
    pub(crate) creadr: AtomicU32,
    pub(crate) engine: SpinLock<Engine, { Rank::ItsCommand as u8 }>,
}

/// State that only commands and writes of `GITS_CBASER` and `GITS_BASER<n>` change.
pub(crate) struct Engine {
    pub(crate) queue: CommandQueue,
    pub(crate) device_table: Baser,
    pub(crate) collection_table: Baser,
    /// Target vCPU of each collection, by ICID; `None` for an unmapped collection.
    pub(crate) collections: Box<[Option<VcpuId>]>,
    pub(crate) usage: Usage,
    pub(crate) in_progress: Option<InProgress>,
    /// Table of the device that a `MAPD` in progress maps, if any. Not in the task: slices move the
    /// task.
    pub(crate) remap: Option<Itt>,
}

/// Share of the quotas that the mapped devices use.
#[derive(Clone, Copy, Default)]
pub(crate) struct Usage {
    pub(crate) devices: u32,
    /// Sum of the event counts of the mapped devices.
    pub(crate) events: u32,
}

impl Usage {
    /// Adds a device with room for `events` events. The caller has checked the `u32` quotas, so
    /// that neither sum saturates.
    pub(crate) fn add(&mut self, events: u32) {
        self.devices = self.devices.saturating_add(1);
        self.events = self.events.saturating_add(events);
    }

    /// Removes a device with room for `events` events.
    pub(crate) fn remove(&mut self, events: u32) {
        debug_assert!(self.devices > 0 && self.events >= events, "removed twice");
        self.devices = self.devices.saturating_sub(1);
        self.events = self.events.saturating_sub(events);
    }
}

impl Its {
    /// Creates a disabled ITS without mappings.
    pub(crate) fn new(id: ItsId, config: &ItsConfig) -> Self {
        let engine = Engine {
            queue: CommandQueue::default(),
            device_table: Baser::new(TableType::Devices),
            collection_table: Baser::new(TableType::Collections),
            collections: core::iter::repeat_n(None, config.collections as usize).collect(),
            usage: Usage::default(),
            in_progress: None,
            remap: None,
        };

        Self {
            id,
            config: *config,
            control: AtomicU32::new(0),
            devices: Devices::new(config.device_bits),
            direct: SpinLock::new(DirectEvents::default()),
            commands: Commands {
                cwriter: AtomicU32::new(0),
                creadr: AtomicU32::new(0),
                engine: SpinLock::new(engine),
            },
        }
    }

    /// Returns `GITS_CTLR.Enabled`.
    pub(crate) fn is_enabled(&self) -> bool {
        // Acquire: pairs with the Release in `set_control`.
        self.control.load(Acquire) & CTLR_ENABLED != 0
    }

    /// Returns whether commands are executed. Under the command lock.
    pub(crate) fn executes_commands(&self) -> bool {
        // Relaxed: the lock orders the tables. A freeze sets the flag, and then takes the lock.
        self.control.load(Relaxed) & (CTLR_ENABLED | FROZEN) == CTLR_ENABLED
    }

    /// Sets or clears [`CTLR_ENABLED`], [`DROPPING`] or [`FROZEN`].
    pub(crate) fn set_control(&self, flag: u32, on: bool) {
        self.change_control(flag, on);
    }

    /// Sets or clears a flag. Returns true if that changes the flag.
    fn change_control(&self, flag: u32, on: bool) -> bool {
        // Release, both: pairs with the Acquire in `is_enabled` and in `translate`. A CPU that sees
        // the ITS enabled sees the registers and mappings set up before. A CPU that sees no table
        // being dropped sees no mapping of the table.
        let old = if on {
            self.control.fetch_or(flag, Release)
        } else {
            self.control.fetch_and(!flag, Release)
        };
        (old & flag != 0) != on
    }

    /// Returns the interrupt that the pair (`device`, `event`) is mapped to. Takes no lock.
    ///
    /// # Errors
    /// [`InjectError::ItsDisabled`], also while [`DROPPING`] is set;
    /// [`InjectError::UnmappedDevice`]; [`InjectError::UnmappedEvent`].
    #[inline]
    pub(crate) fn translate<'g>(
        &'g self,
        device: DeviceId,
        event: EventId,
        guard: &'g Guard,
    ) -> Result<&'g Irq, InjectError> {
        // Acquire: pairs with the Release in `set_control`.
        if self.control.load(Acquire) & (CTLR_ENABLED | DROPPING) != CTLR_ENABLED {
            return Err(InjectError::ItsDisabled);
        }

        self.devices
            .get(device, guard)
            .ok_or(InjectError::UnmappedDevice)?
            .irq(event, guard)
            .ok_or(InjectError::UnmappedEvent)
    }
}
