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
// What a guest says is a claim: nothing here may stop the hypervisor over it.
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

pub(crate) mod command;
pub(crate) mod device;
mod execute;
mod long;
pub(crate) mod queue;
pub(crate) mod tables;
#[cfg(all(test, not(loom)))]
mod tests;

use alloc::boxed::Box;

use crossbeam_epoch::Guard;

use crate::Vgic;
use crate::config::{GITS_TRANSLATER, ItsConfig};
use crate::epoch::CpuPin;
use crate::host::Host;
use crate::intid::{DeviceId, EventId, ItsId, VcpuId};
use crate::irq::Irq;
#[cfg(vgic_mutants)]
use crate::radix::Cursor;
use crate::sync::Ordering::{AcqRel, Acquire};
use crate::sync::{AtomicU32, Rank, SpinLock};
use crate::vgic::{InjectError, Injected};

pub use command::CommandError;
use device::Devices;
use execute::{Execution, Usage};
use long::InProgress;
use queue::Queue;
use tables::{Baser, TableType};

/// `GITS_CTLR.Enabled`.
const ENABLED: u32 = 1 << 0;
/// The guest has taken a table away, and what was mapped through it is still being unmapped.
const DROPPING: u32 = 1 << 1;

/// One ITS.
pub(crate) struct Its {
    id: ItsId,
    config: ItsConfig,
    control: AtomicU32,
    devices: Devices,
    commands: Commands,
}

/// The side that commands come in by.
// Lines of its own: injectors read what is beside it.
#[repr(align(64))]
struct Commands {
    /// `GITS_CWRITER.Offset`, in bytes.
    cwriter: AtomicU32,
    /// `GITS_CREADR.Offset`, in bytes.
    creadr: AtomicU32,
    engine: SpinLock<Engine>,
}

/// What only commands, and writes of the registers that prepare for them, touch.
struct Engine {
    queue: Queue,
    device_table: Baser,
    collection_table: Baser,
    /// Where each collection is mapped to.
    collections: Box<[Option<VcpuId>]>,
    usage: Usage,
    in_progress: Option<InProgress>,
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
        self.control.load(Acquire) & ENABLED != 0
    }

    fn set_control(&self, flag: u32, on: bool) {
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
        if self.control.load(Acquire) & (ENABLED | DROPPING) != ENABLED {
            return Err(InjectError::ItsDisabled);
        }
        self.devices
            .get(device, guard)
            .ok_or(InjectError::UnmappedDevice)?
            .irq(event, guard)
            .ok_or(InjectError::UnmappedEvent)
    }

    /// [`Mutant::DrainedTwice`](crate::sync::Mutant): ends device 0's mappings without the command lock.
    #[cfg(vgic_mutants)]
    fn drain_beside_the_lock<H: Host>(&self, vgic: &Vgic<H>, pin: &CpuPin<'_>) {
        let (mut cursor, mut steps) = (Cursor::default(), u32::MAX);
        if let Some(device) = self.devices.get(DeviceId(0), pin.guard()) {
            device.walk(&mut cursor, &mut steps, pin.guard(), |event, irq, _| {
                vgic.unmap_lpi(pin, irq);
                device.unmap(event, irq, pin.guard());
                true
            });
        }
    }

    /// Ends every mapping, whatever it takes: the VM is being torn down.
    pub(crate) fn dismantle<H: Host>(&self, vgic: &Vgic<H>, pin: &CpuPin<'_>) {
        let mut engine = self.commands.engine.lock(pin.ledger());
        Execution::new(vgic, pin, self, &mut engine).unmap_everything();
    }
}

impl<H: Host> Vgic<H> {
    /// An MSI as a device on the bus makes it: `device` writes `data`, an EventID, to the guest-physical
    /// address `doorbell`. Finds the ITS whose `GITS_TRANSLATER` that is, and goes on as
    /// [`Vgic::inject_msi`].
    ///
    /// # Errors
    /// [`InjectError::ItsDisabled`] if no ITS has its `GITS_TRANSLATER` there; else as for
    /// [`Vgic::inject_msi`].
    pub fn signal_msi(
        &self,
        pin: &CpuPin<'_>,
        doorbell: u64,
        device: DeviceId,
        data: u32,
    ) -> Result<Injected, InjectError> {
        let its = self
            .itses()
            .iter()
            .find(|its| doorbell.checked_sub(its.config.base) == Some(GITS_TRANSLATER))
            .ok_or(InjectError::ItsDisabled)?;
        self.inject_msi(pin, its.id, device, EventId(data))
    }
}
