//! Direct events: which events are direct, and the change between the two paths.
//!
//! An event is direct if the embedder wants direct injection for its device
//! ([`Gicv4::device`](crate::gicv4::Gicv4::device)) and for its vCPU, the vCPU has a virtual PE,
//! the vCPU's redistributor enables LPIs, and the ITS is enabled. An LPI that several events share
//! has no direct event.
//!
//! Every command that maps, moves or unmaps an event ends here, with the command lock held. A
//! change of what the embedder wants *settles* every event: brings each to the path that it is to
//! take, in slices ([`Task::Settle`](crate::vm::its::progress::Task)).
//!
//! # The pending state goes along
//! The device's MSIs are held during a change of the path, so that none finds the event unmapped.
//! * To the hardware: the event is mapped to the virtual PE. If the physical LPI was pending, or
//!   the latch of the state word is set, which then is taken, an `INT` makes the virtual LPI
//!   pending. A pending state that is in a list register already is delivered from there.
//! * To the state word: [`pending::take`] unmaps the event. If it was pending, the LPI is raised.

use crate::delivery::{inject, queue};
use crate::direct::{self, configuration, pending};
use crate::epoch::CpuPin;
use crate::error::DirectError;
use crate::gicv4::command::Command;
use crate::gicv4::{PhysicalDevice, VpeId};
use crate::host::Host;
use crate::intid::{DeviceId, EventId, ItsId, VcpuId};
use crate::its::command_queue::PHYSICAL_STEPS;
use crate::its::execute::Execution;
use crate::its::walks;
use crate::sync::Ordering::SeqCst;
use crate::sync::{Mutant, fence, mutant};
use crate::vm::Vm;
use crate::vm::direct::{Direct, DirectEvent, Slot};
use crate::vm::irq::Irq;
use crate::vm::its::Its;
use crate::vm::residency::RECALL;

/// An event of an ITS with its device.
#[derive(Clone, Copy)]
pub(crate) struct Event {
    pub(crate) device: DeviceId,
    pub(crate) event: EventId,
}

/// The place of a direct event.
#[derive(Clone, Copy)]
struct Place<'a> {
    event: DirectEvent,
    slot: &'a Slot,
    vpe: VpeId,
}

impl<'a, H: Host> Execution<'a, H> {
    /// Maps an event, whose LPI goes to `target`, on the path that it is to take, and reports it to
    /// the host unless it is direct. `known` is true if the event was mapped before.
    #[inline]
    pub(crate) fn place(&self, at: Event, irq: &Irq, target: Option<VcpuId>, known: bool) {
        if self.vm.direct.is_none() || !self.choose_path(at, irq, target, known) {
            self.report(at, irq, target);
        }
    }

    /// Reports an event to the host, which maps it in the physical ITS to an LPI of its own.
    fn report(&self, at: Event, irq: &Irq, target: Option<VcpuId>) {
        let host = &self.vm.host;
        host.event_mapped(self.its.id, at.device, at.event, irq.intid(), target);
    }

    /// Brings an event that is direct, or is to be, to the path that it is to take. Returns false
    /// for an event that goes through list registers, before and after.
    #[inline(never)]
    fn choose_path(&self, at: Event, irq: &Irq, target: Option<VcpuId>, known: bool) -> bool {
        match (self.direct_place(at), self.wanted_place(at, irq, target)) {
            (None, None) => return false,
            (Some(old), Some(new)) if old.event.device != new.event.device => {
                // Another physical device: the event is mapped there anew.
                self.to_state_word(at, irq, old, target);
                self.to_hardware(at, irq, new, true);
            }
            (Some(old), Some(new)) if old.event.vcpu == new.event.vcpu => {}
            (Some(old), Some(new)) => self.move_between(at, old, new),
            (None, Some(new)) => self.to_hardware(at, irq, new, known),
            (Some(old), None) => self.to_state_word(at, irq, old, target),
        }
        true
    }

    /// Brings an event to the path that it is to take.
    pub(crate) fn settle_event(&self, at: Event, irq: &Irq) {
        self.choose_path(at, irq, irq.state().target(), true);
    }

    /// Settles all events, if that has been asked for, as far as `budget` allows. Returns true if
    /// nothing is left to settle.
    #[inline]
    pub(crate) fn settle_if_asked(&mut self, budget: &mut u32) -> bool {
        match &self.vm.direct {
            Some(direct) if direct.take_unsettled(self.its.id) => {
                self.engine.settle();
                self.resume(budget)
            }
            _ => true,
        }
    }

    /// Counts waits for a physical ITS: [`Execution::charge_physical`].
    #[inline]
    pub(crate) fn waited(&self, times: u32) {
        self.waits.set(self.waits.get().saturating_add(times));
    }

    /// Takes the steps of the waits for a physical ITS since the last call from `budget`.
    #[inline]
    pub(crate) fn charge_physical(&self, budget: &mut u32) {
        let steps = self.waits.take().saturating_mul(PHYSICAL_STEPS);
        *budget = budget.saturating_sub(steps);
    }

    /// Returns the place of an event that is direct.
    fn direct_place(&self, at: Event) -> Option<Place<'a>> {
        let (direct, _) = direct::of(self.vm)?;
        let found = self
            .its
            .direct
            .lock(self.pin.locks())
            .get(at.device, at.event)?;
        self.place_of(direct, found)
    }

    /// Returns the place of an event that is to be direct.
    fn wanted_place(&self, at: Event, irq: &Irq, target: Option<VcpuId>) -> Option<Place<'a>> {
        let (direct, gic) = direct::of(self.vm)?;
        // A physical ITS knows nothing of `GITS_CTLR.Enabled` of the guest.
        let translates = !direct.is_stopped() && self.its.is_enabled();
        let vcpu = target.filter(|_| translates)?;
        direct.slot(vcpu).filter(|slot| slot.is_wanted())?;
        if !self.vm.vcpu(vcpu)?.redistributor.lpis_enabled() || is_shared(irq) {
            return None;
        }
        let device = gic.device(self.its.id, at.device)?;
        self.place_of(direct, DirectEvent { vcpu, device })
    }

    fn place_of(&self, direct: &'a Direct, event: DirectEvent) -> Option<Place<'a>> {
        let slot = direct.slot(event.vcpu)?;
        let mut vpe = slot.vpe.lock(self.pin.locks()).ok()?.id;
        if self.vm.host.gicv4()?.v4_1().is_some() {
            // The events of a virtual PE share its default doorbell.
            vpe.doorbell = VpeId::NO_DOORBELL;
        }
        Some(Place { event, slot, vpe })
    }

    /// Executes commands on the physical ITS of a direct event. Returns false if the ITS does not
    /// answer.
    fn submit(&self, place: Place<'_>, commands: &[Command]) -> bool {
        self.waited(1);
        let gic = self.vm.host.gicv4();
        gic.is_some_and(|gic| gic.execute(place.event.device.its, commands).is_ok())
    }

    /// Unmaps a direct event in the physical ITS, and returns true if it was pending, or perhaps.
    fn take_pending(&self, at: Event, old: Place<'_>) -> bool {
        /// Waits of [`pending::take`], with those for the redistributor.
        const WAITS: u32 = 4;

        self.waited(WAITS);
        let device = old.event.device;
        pending::take(self.vm, self.pin, device, at.event, old.vpe.number).unwrap_or(true)
    }

    /// Moves a direct event to the virtual PE of another vCPU. If the ITS does not answer, the
    /// event stays.
    fn move_between(&self, at: Event, old: Place<'_>, new: Place<'_>) {
        let (from, to) = (old.vpe.number, new.vpe.number);
        let commands = [
            Command::vmovi(new.event.device, at.event, to, new.vpe.doorbell),
            // The redistributor may have cached an old configuration of the virtual LPI.
            Command::inv(new.event.device, at.event),
            Command::vsync(from),
            Command::vsync(to),
        ];
        self.add_event(new);
        if self.submit(new, &commands) {
            self.note(at, Some(new.event));
            self.remove_event(old);
        } else {
            self.remove_event(new);
        }
    }

    /// Counts an event that becomes direct to a vCPU. The first one makes the virtual PE of a vCPU
    /// that is in the guest resident, and enables the doorbell of one that is blocked.
    ///
    /// Before the `INV` of the event: an invalidation by another CPU that comes later finds the
    /// vCPU among the readers of the configuration table.
    fn add_event(&self, new: Place<'_>) {
        if new.slot.add_event() && !mutant(Mutant::VpeWithoutRecall) {
            queue::notify(self.vm, self.pin, new.event.vcpu, RECALL);
        }
        // SeqCst: pairs with the fence in `configuration::reader`: the other CPU finds the event,
        // or the `INV` has the redistributor read what that CPU has stored.
        fence(SeqCst);
    }

    /// Counts an event that is no more direct to its vCPU. A virtual PE has been off while its vCPU
    /// had LPIs disabled and events: without the last one it is resident for its SGIs.
    fn remove_event(&self, old: Place<'_>) {
        let vcpu = self.vm.vcpu(old.event.vcpu);
        if old.slot.remove_event() && vcpu.is_some_and(|vcpu| !vcpu.redistributor.lpis_enabled()) {
            queue::notify(self.vm, self.pin, old.event.vcpu, RECALL);
        }
    }

    /// Makes an event direct. If the ITS does not answer, the event goes through list registers.
    fn to_hardware(&self, at: Event, irq: &Irq, new: Place<'_>, known: bool) {
        let (vm, pin, its) = (self.vm, self.pin, self.its);
        let Some(gic) = vm.host.gicv4() else {
            return;
        };

        let mut pending = false;
        if known {
            gic.hold(its.id, at.device);
            pending = gic.unmap_event(its.id, at.device, at.event)
                && !mutant(Mutant::PhysicalLpiForgotten);
        }

        self.add_event(new);
        configuration::store(vm, pin, irq);
        let VpeId { number, doorbell } = new.vpe;
        let map = Command::vmapti(
            new.event.device,
            at.event,
            irq.intid().raw(),
            number,
            doorbell,
        );
        let sync = Command::vsync(number);
        // The redistributor may have cached an old configuration of the virtual LPI.
        let invalidate = Command::inv(new.event.device, at.event);
        if self.submit(new, &[map, invalidate, sync]) {
            self.note(at, Some(new.event));
            pin.counters().direct_begins.add(1);
            if let Some(changed) = irq.take_pending(new.event.vcpu) {
                queue::complete(vm, pin, irq, changed);
                pending |= !mutant(Mutant::LatchForgotten);
            }
            let int = Command::int(new.event.device, at.event);
            pending = pending && !self.submit(new, &[int, sync]);
        } else {
            self.remove_event(new);
            self.report(at, irq, Some(new.event.vcpu));
        }
        if pending {
            let _ = inject::raised(vm, pin, irq, irq.raise());
        }

        if known {
            gic.release(its.id, at.device);
        }
    }

    /// Makes an event that is direct go through list registers, to `target`. If the hardware does
    /// not answer, the LPI is taken for pending: a guest stands an interrupt too many.
    fn to_state_word(&self, at: Event, irq: &Irq, old: Place<'_>, target: Option<VcpuId>) {
        let (vm, pin, its) = (self.vm, self.pin, self.its);
        let Some(gic) = vm.host.gicv4() else {
            return;
        };

        gic.hold(its.id, at.device);
        let pending = self.take_pending(at, old);

        self.note(at, None);
        self.report(at, irq, target);
        if pending && !mutant(Mutant::VirtualLpiForgotten) {
            let _ = inject::raised(vm, pin, irq, irq.raise());
        }

        self.remove_event(old);
        pin.counters().direct_ends.add(1);
        gic.release(its.id, at.device);
    }

    /// Unmaps an event in the physical ITS, with its pending state, or reports the end of its
    /// mapping to the host.
    pub(crate) fn displace(&self, at: Event) {
        if let Some(old) = self.direct_place(at) {
            let discard = Command::discard(old.event.device, at.event);
            self.submit(old, &[discard, Command::vsync(old.vpe.number)]);
            self.note(at, None);
            self.remove_event(old);
        } else {
            let host = &self.vm.host;
            host.event_unmapped(self.its.id, at.device, at.event);
        }
    }

    /// Makes the LPI of a direct event pending. Returns false if the event is not direct.
    pub(crate) fn int_direct(&self, at: Event) -> bool {
        self.command_direct(at, Command::int)
    }

    /// Clears the pending state of a direct event. Returns false if the event is not direct.
    pub(crate) fn clear_direct(&self, at: Event) -> bool {
        self.command_direct(at, Command::clear)
    }

    #[inline]
    fn command_direct(&self, at: Event, command: fn(PhysicalDevice, EventId) -> Command) -> bool {
        self.vm.direct.is_some()
            && self.direct_place(at).is_some_and(|place| {
                let sync = Command::vsync(place.vpe.number);
                self.submit(place, &[command(place.event.device, at.event), sync])
            })
    }

    /// Notes the place of an event that is direct, or `None` for one that is not.
    fn note(&self, at: Event, place: Option<DirectEvent>) {
        let mut events = self.its.direct.lock(self.pin.locks());
        events.set(at.device, at.event, place);
    }
}

/// Returns true if another event may be mapped to the LPI of an event: the LPI has one pending
/// state, which either the hardware has or the state word.
fn is_shared(irq: &Irq) -> bool {
    let state = irq.state();
    let lists = u16::from(state.queued_on().is_some());
    // A migration has a reference too, for a moment.
    state.refs() > lists.saturating_add(1)
}

/// Has every event settled before the next command of its ITS, by deferred work if none comes.
fn unsettle<H: Host>(vm: &Vm<H>, direct: &Direct) {
    direct.unsettle();
    vm.its.iter().for_each(|its| vm.deferred.add(1 << its.id.0));
}

/// Has every event settled before the next command of its ITS, if the LPI of an event that has just
/// been mapped has other events.
#[inline]
pub(crate) fn unsettle_if_shared<H: Host>(vm: &Vm<H>, irq: &Irq) {
    if let Some(direct) = &vm.direct
        && is_shared(irq)
    {
        unsettle(vm, direct);
    }
}

/// Returns true if no event is direct to a vCPU whose pending LPIs `MOVALL` moves: the state words
/// have all of them. Otherwise makes the events go through list registers, in slices of every ITS,
/// until the embedder wants the vCPU to be direct anew, or the guest enables LPIs anew.
pub(crate) fn is_ready_to_move<H: Host>(vm: &Vm<H>, vcpu: VcpuId) -> bool {
    if let Some(direct) = &vm.direct
        && let Some(slot) = direct.slot(vcpu)
        && slot.events() > 0
    {
        slot.suspend();
        unsettle(vm, direct);
        return false;
    }
    true
}

/// Begins to bring every event of `its` to the path that it is to take. [`Vgic::advance`] goes on.
///
/// [`Vgic::advance`]: crate::Vgic::advance
pub(crate) fn settle<H: Host>(vm: &Vm<H>, pin: &CpuPin<'_>, its: &Its) {
    its.commands.engine.lock(pin.locks()).settle();
    vm.deferred.add(1 << its.id.0);
}

/// Begins to settle every ITS of a VM with direct injection.
pub(crate) fn settle_all<H: Host>(vm: &Vm<H>, pin: &CpuPin<'_>) {
    if let Some(direct) = &vm.direct {
        direct.slots.iter().for_each(Slot::resume);
        vm.its.iter().for_each(|its| settle(vm, pin, its));
    }
}

/// Makes every event and SGI go through list registers, so that the state words have every pending
/// state, until [`resume`]. The vCPUs are claimed. Unbounded.
pub(crate) fn stop<H: Host>(vm: &Vm<H>, pin: &CpuPin<'_>) {
    if let Some(direct) = &vm.direct {
        direct.set_stopped(true);
        for its in &vm.its {
            settle(vm, pin, its);
            walks::finish(vm, pin, its);
        }

        for vcpu in vm.added_vcpus().iter().filter(|vcpu| vcpu.is_present()) {
            let pending = direct::sgi::take(vm, pin, vcpu);
            let sgis = vcpu.privates().iter().take(16).enumerate();
            for (_, irq) in sgis.filter(|(sgi, _)| pending >> sgi & 1 != 0) {
                let _ = inject::raised(vm, pin, irq, irq.raise());
            }
        }
    }
}

/// Ends [`stop`]: the events become direct again, in slices.
pub(crate) fn resume<H: Host>(vm: &Vm<H>, pin: &CpuPin<'_>) {
    if let Some(direct) = &vm.direct {
        direct.set_stopped(false);
        settle_all(vm, pin);
    }
}

/// Sets whether the embedder wants a vCPU to be direct:
/// [`Vgic::set_direct_vcpu`](crate::Vgic::set_direct_vcpu).
pub(crate) fn set_vcpu<H: Host>(
    vm: &Vm<H>,
    pin: &CpuPin<'_>,
    vcpu: VcpuId,
    on: bool,
) -> Result<(), DirectError> {
    vm.admit(pin)?;
    let (direct, _) = direct::of(vm).ok_or(DirectError::NoGicv4)?;
    let slot = direct.slot(vcpu).filter(|_| vm.vcpu(vcpu).is_some());
    let slot = slot.ok_or(DirectError::UnknownVcpu(vcpu))?;
    let made = if on {
        // A teardown claims the VM under the lock: it frees the virtual PE, or none is made.
        let _no_claim = vm.growth.lock(pin.locks());
        if vm.is_torn_down() {
            return Err(DirectError::TornDown);
        }
        direct::vpe::ensure(vm, pin, vcpu)
    } else {
        Ok(())
    };

    slot.set_wanted(on);
    settle_all(vm, pin);
    if vm.distributor.no_active_sgis() {
        // The next entry brings the SGIs to the path that they are to take.
        queue::notify(vm, pin, vcpu, RECALL);
    }
    made
}

/// Looks at every event of an ITS again: [`Vgic::settle_direct`](crate::Vgic::settle_direct).
pub(crate) fn settle_again<H: Host>(
    vm: &Vm<H>,
    pin: &CpuPin<'_>,
    its: ItsId,
) -> Result<(), DirectError> {
    vm.admit(pin)?;
    let (direct, _) = direct::of(vm).ok_or(DirectError::NoGicv4)?;
    let its = vm.its(its).ok_or(DirectError::UnknownIts(its))?;
    direct.slots.iter().for_each(Slot::resume);
    settle(vm, pin, its);
    Ok(())
}
