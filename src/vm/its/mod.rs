//! Interrupt translation services (IHI 0069, chapter 5): a device writes an EventID, and the LPI that
//! the guest has mapped (DeviceID, EventID) to becomes pending.
//!
//! * this file: translation, and what an ITS is made of;
//! * [`device`]: the tables that translation reads;
//! * [`command`]: what the guest can ask for, and how that fails;
//! * [`queue`]: taking commands from the guest's queue, a slice at a time;
//! * [`execute`]: doing what a command says; [`long`]: those that are done in steps;
//! * [`tables`]: checks against the tables that the guest has set aside in its memory.
//!
//! # Who may touch what
//! 1. Translation takes no lock, reads no guest memory and writes nothing: two lookups in tables whose
//!    nodes, devices and interrupts the epoch keeps. Any CPU that is pinned, any time.
//! 2. The tables, and everything in [`Engine`], are changed by the holder of the command lock only. One
//!    command is executed at a time; a long one is resumed before the next is begun.
//! 3. `creadr`, `cwriter` and `control` are atomics beside the lock, so that a guest that polls them does
//!    not wait for it. `creadr` is written under the lock.
//!
//! # Publication
//! Mapping an event: the LPI gets its reference, target, collection and configuration, *then* the slot
//! is filled (Release), so that whoever translates finds a complete interrupt. Unmapping: the slot is
//! emptied, *then* the LPI's pending state is withdrawn and it stops reacting to raises, *then* its
//! reference is put. An injector that read the slot before still holds a valid pointer, since it is
//! pinned; its raise comes before the withdrawal and is withdrawn, or after it and has no effect, or
//! finds the LPI mapped again and counts for the new mapping.
//!
//! # Bounded work
//! A register access takes at most [`queue::SLICE`] steps: slots of tables passed, and what commands and
//! events count for. The rest is left to
//! [`Vgic::advance`](crate::Vgic::advance) and to the guest's own polling of `GITS_CREADR`, which moves
//! past a command once all of it is done.
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
use crate::sync::Ordering::{AcqRel, Acquire};
use crate::sync::{AtomicU32, Rank, SpinLock};
use crate::vm::irq::Irq;
use crate::vm::its::baser::{Baser, TableType};
use crate::vm::its::device::Devices;
use crate::vm::its::progress::InProgress;
use crate::vm::its::registers::Queue;

/// `GITS_CTLR.Enabled`.
pub(crate) const CTLR_ENABLED: u32 = 1 << 0;

/// The guest has taken a table away, and what was mapped through it is still being unmapped.
pub(crate) const DROPPING: u32 = 1 << 1;

/// One ITS.
pub(crate) struct Its {
    pub(crate) id: ItsId,
    pub(crate) config: ItsConfig,
    control: AtomicU32,
    pub(crate) devices: Devices,
    pub(crate) commands: Commands,
}

/// The side that commands come in by.
// Lines of its own: injectors read what is beside it.
#[repr(align(64))]
pub(crate) struct Commands {
    /// `GITS_CWRITER.Offset`, in bytes.
    pub(crate) cwriter: AtomicU32,
    /// `GITS_CREADR.Offset`, in bytes.
    pub(crate) creadr: AtomicU32,
    pub(crate) engine: SpinLock<Engine>,
}

/// What only commands, and writes of the registers that prepare for them, touch.
pub(crate) struct Engine {
    pub(crate) queue: Queue,
    pub(crate) device_table: Baser,
    pub(crate) collection_table: Baser,
    /// Where each collection is mapped to.
    pub(crate) collections: Box<[Option<VcpuId>]>,
    pub(crate) usage: Usage,
    pub(crate) in_progress: Option<InProgress>,
}

/// What the mapped devices take of the quotas.
#[derive(Clone, Copy, Default)]
pub(crate) struct Usage {
    pub(crate) devices: u32,
    /// Events that they have room for.
    pub(crate) events: u32,
}

impl Usage {
    /// One device more, with room for so many events: the quotas, which are `u32`s, have been found to
    /// allow it.
    pub(crate) fn add(&mut self, room: u32) {
        self.devices = self.devices.saturating_add(1);
        self.events = self.events.saturating_add(room);
    }

    /// One device less.
    pub(crate) fn remove(&mut self, room: u32) {
        debug_assert!(self.devices > 0 && self.events >= room, "given back twice");
        self.devices = self.devices.saturating_sub(1);
        self.events = self.events.saturating_sub(room);
    }
}

impl Its {
    pub(crate) fn new(id: ItsId, config: &ItsConfig) -> Self {
        let engine = Engine {
            queue: Queue::default(),
            device_table: Baser::new(TableType::Devices),
            collection_table: Baser::new(TableType::Collections),
            collections: core::iter::repeat_n(None, config.collections as usize).collect(),
            usage: Usage::default(),
            in_progress: None,
        };
        Self {
            id,
            config: *config,
            control: AtomicU32::new(0),
            devices: Devices::new(config.device_bits),
            commands: Commands {
                cwriter: AtomicU32::new(0),
                creadr: AtomicU32::new(0),
                engine: SpinLock::new(Rank::ItsCommand, engine),
            },
        }
    }

    pub(crate) fn config(&self) -> &ItsConfig {
        &self.config
    }

    /// `GITS_CTLR.Enabled`.
    pub(crate) fn is_enabled(&self) -> bool {
        // Acquire: pairs with `set_control`.
        self.control.load(Acquire) & CTLR_ENABLED != 0
    }

    pub(crate) fn set_control(&self, flag: u32, on: bool) {
        // AcqRel: pairs with `is_enabled` and `translate`: who sees the ITS enabled sees what was set up
        // before.
        if on {
            self.control.fetch_or(flag, AcqRel);
        } else {
            self.control.fetch_and(!flag, AcqRel);
        }
    }

    /// The interrupt that (device, event) is mapped to.
    #[inline]
    pub(crate) fn translate<'g>(
        &'g self,
        device: DeviceId,
        event: EventId,
        guard: &'g Guard,
    ) -> Result<&'g Irq, InjectError> {
        // Acquire: pairs with `set_control`.
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
