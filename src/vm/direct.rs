//! State of direct injection: virtual PEs, and the events that are direct.
//!
//! A virtual PE is a vCPU as the physical ITSes and redistributors know it. An event is *direct* if
//! the physical ITS maps it to a virtual LPI of the virtual PE of its vCPU.
//!
//! # Rules
//! 1. The owner of the vCPU alone makes its virtual PE resident, and ends that: on the CPU that has
//!    the vCPU.
//! 2. The holder of an ITS's command lock alone changes the ITS's [`DirectEvents`].
//! 3. No lock of this file is held while an ap_list's is taken.

use alloc::collections::BTreeMap;

use crate::error::DirectError;
use crate::fixed::FixedSlice;
use crate::gicv4::{PhysicalDevice, VpeId};
use crate::intid::{CpuId, DeviceId, EventId, ItsId, VcpuId};
use crate::sync::Ordering::{Acquire, Relaxed, Release};
use crate::sync::{AtomicBool, AtomicU16, AtomicU32, Rank, SpinLock};

/// Direct injection of a VM.
pub(crate) struct Direct {
    /// By vCPU.
    pub(crate) slots: FixedSlice<Slot>,
    pub(crate) shared: SpinLock<Option<Shared>, { Rank::Direct as u8 }>,
    /// True while no event may be direct: during a save, and in a frozen VM.
    stopped: AtomicBool,
    /// ITSes, a bit each, whose events have to be settled before the next command.
    unsettled: AtomicU16,
}

/// The virtual PE of a vCPU, if it has one.
pub(crate) struct Slot {
    pub(crate) vpe: SpinLock<Result<Vpe, DirectError>, { Rank::Direct as u8 }>,
    /// True if the embedder wants the vCPU's events to be direct.
    wanted: AtomicBool,
    /// True while the vCPU's events go through list registers all the same, because of a `MOVALL`.
    suspended: AtomicBool,
    /// Number of events that are direct to the vCPU.
    events: AtomicU32,
    /// vPEID of the vCPU's virtual PE, for SGIs. A vCPU keeps its virtual PE until the VM's end.
    vpe_number: AtomicU16,
}

/// A virtual PE, mapped on every physical ITS.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Vpe {
    pub(crate) id: VpeId,
    /// Physical address of the virtual LPI pending table.
    pub(crate) table: u64,
    /// Physical address of the configuration table.
    pub(crate) configuration: u64,
    /// CPU whose redistributor the virtual PE is mapped to.
    pub(crate) cpu: CpuId,
    /// True if the ITS has not answered a move from `cpu`: the next one is sent even to `cpu`.
    pub(crate) is_between: bool,
    /// True while the virtual PE is resident on `cpu`.
    pub(crate) resident: bool,
    /// True if a virtual interrupt may be pending: one was when the virtual PE left, or the
    /// doorbell has rung since, or will not ring.
    pub(crate) pending: bool,
    /// `GICR_VPENDBASER.IDAI` as the last redistributor has left it.
    pub(crate) idai: bool,
    /// True while the doorbell is enabled. GICv4.0 only: a virtual PE of GICv4.1 asks for its
    /// doorbell each time that it leaves for a block.
    pub(crate) doorbell_on: bool,
    /// Groups that are forwarded while the virtual PE is resident: bit 0 for Group 0, bit 1 for
    /// Group 1.
    pub(crate) groups: u32,
    pub(crate) sgis: VirtualSgis,
}

/// State of the virtual SGIs of a virtual PE.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(crate) struct VirtualSgis {
    /// True once the hardware has been given the configuration of the SGIs. Some may be pending
    /// there from then on.
    pub(crate) used: bool,
    /// True while SGIs are to become pending there.
    pub(crate) on: bool,
    /// True if the guest has changed the configuration since.
    pub(crate) stale: bool,
}

/// Tables of a VM, and the virtual PE that takes pending states out.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shared {
    /// Physical address of the configuration table of the VM's virtual LPIs.
    pub(crate) configuration: u64,
    /// True if an ITS that has stopped may still have the table, which then is not freed.
    pub(crate) is_kept: bool,
    /// A virtual PE of no vCPU, whose configuration table enables every virtual LPI:
    /// [`crate::direct::pending`].
    pub(crate) parking: Vpe,
}

/// Direct events of an ITS, by DeviceID and EventID.
#[derive(Default)]
pub(crate) struct DirectEvents(BTreeMap<(u32, u32), DirectEvent>);

/// An event that is direct.
#[derive(Clone, Copy)]
pub(crate) struct DirectEvent {
    /// vCPU to whose virtual PE the physical ITS maps the event.
    pub(crate) vcpu: VcpuId,
    /// Device at the physical ITS.
    pub(crate) device: PhysicalDevice,
}

impl Direct {
    /// Makes the state of a VM with at most `vcpus` vCPUs, none of which has a virtual PE.
    pub(crate) fn new(vcpus: usize) -> Self {
        let slot = |_| Slot {
            vpe: SpinLock::new(Err(DirectError::NotWanted)),
            wanted: AtomicBool::new(false),
            suspended: AtomicBool::new(false),
            events: AtomicU32::new(0),
            vpe_number: AtomicU16::new(0),
        };
        Self {
            slots: (0..vcpus).map(slot).collect(),
            shared: SpinLock::new(None),
            stopped: AtomicBool::new(false),
            unsettled: AtomicU16::new(0),
        }
    }

    /// Returns the slot of a vCPU.
    pub(crate) fn slot(&self, vcpu: VcpuId) -> Option<&Slot> {
        self.slots.get(vcpu.index())
    }

    /// Asks for every ITS to be settled before its next command.
    pub(crate) fn unsettle(&self) {
        // Release: pairs with the Acquire in `take_unsettled`: the CPU that settles sees the change
        // that asks for it.
        self.unsettled.store(u16::MAX, Release);
    }

    /// Asks for `its` to be settled before its next command.
    pub(crate) fn unsettle_one(&self, its: ItsId) {
        // Release: as in `unsettle`.
        self.unsettled.fetch_or(1 << (its.0 & 0xf), Release);
    }

    /// Returns true if `its` has to be settled, and takes the request.
    pub(crate) fn take_unsettled(&self, its: ItsId) -> bool {
        let bit = 1 << (its.0 & 0xf);
        // Relaxed: a request that comes after the load is of a later change. Acquire: pairs with
        // the Release in `unsettle`.
        self.unsettled.load(Relaxed) & bit != 0
            && self.unsettled.fetch_and(!bit, Acquire) & bit != 0
    }

    /// Returns true while no event may be direct.
    pub(crate) fn is_stopped(&self) -> bool {
        // Relaxed: the command lock, taken after the store, orders the flag.
        self.stopped.load(Relaxed)
    }

    /// Lets no event be direct, or ends that.
    pub(crate) fn set_stopped(&self, stopped: bool) {
        // Relaxed: as in `is_stopped`.
        self.stopped.store(stopped, Relaxed);
    }
}

impl Slot {
    /// Returns true if the embedder wants the vCPU's events to be direct, and no `MOVALL` has
    /// suspended that.
    pub(crate) fn is_wanted(&self) -> bool {
        // Relaxed, both: the command lock, taken after the store, orders the flag, or a request to
        // settle.
        self.wanted.load(Relaxed) && !self.suspended.load(Relaxed)
    }

    /// Makes the vCPU's events go through list registers, until [`Slot::resume`]. The caller asks
    /// for every ITS to be settled afterwards.
    pub(crate) fn suspend(&self) {
        // Relaxed: as in `is_wanted`.
        self.suspended.store(true, Relaxed);
    }

    /// Ends [`Slot::suspend`]. The caller settles every ITS afterwards.
    pub(crate) fn resume(&self) {
        // Relaxed: as in `is_wanted`.
        self.suspended.store(false, Relaxed);
    }

    /// Sets whether the embedder wants the vCPU's events to be direct. The caller settles every ITS
    /// afterwards.
    pub(crate) fn set_wanted(&self, wanted: bool) {
        // Relaxed: as in `is_wanted`.
        self.wanted.store(wanted, Relaxed);
    }

    /// Returns the vPEID of the vCPU's virtual PE, after [`Vcpu::has_virtual_sgis`].
    ///
    /// [`Vcpu::has_virtual_sgis`]: crate::vm::vcpu::Vcpu::has_virtual_sgis
    pub(crate) fn vpe_number(&self) -> u16 {
        // Relaxed: the vCPU's mark has published the number.
        self.vpe_number.load(Relaxed)
    }

    /// Sets the vPEID, before the vCPU's mark.
    pub(crate) fn set_vpe_number(&self, number: u16) {
        // Relaxed: as in `vpe_number`.
        self.vpe_number.store(number, Relaxed);
    }

    /// Returns the number of events that are direct to the vCPU.
    pub(crate) fn events(&self) -> u32 {
        // Acquire: pairs with the Release in `remove_event`: without an event, the pending states
        // that were the hardware's are in the state words.
        self.events.load(Acquire)
    }

    /// Counts an event that becomes direct to the vCPU. Returns true for the first: the caller
    /// recalls the vCPU.
    #[must_use]
    pub(crate) fn add_event(&self) -> bool {
        // Relaxed: the recall publishes it.
        self.events.fetch_add(1, Relaxed) == 0
    }

    /// Counts an event that is no more direct to the vCPU. Returns true for the last.
    #[must_use]
    pub(crate) fn remove_event(&self) -> bool {
        // Release: pairs with the Acquire in `events`.
        self.events.fetch_sub(1, Release) == 1
    }
}

impl DirectEvents {
    /// Returns the place of an event, if it is direct.
    pub(crate) fn get(&self, device: DeviceId, event: EventId) -> Option<DirectEvent> {
        self.0.get(&(device.0, event.0)).copied()
    }

    /// Notes the place of an event that is direct, or `None` for one that is not.
    pub(crate) fn set(&mut self, device: DeviceId, event: EventId, place: Option<DirectEvent>) {
        match place {
            Some(place) => self.0.insert((device.0, event.0), place),
            None => self.0.remove(&(device.0, event.0)),
        };
    }
}
