//! Devices, and the events mapped on each: the only place that puts pointers into an ITS's tables.
#![expect(unsafe_code)]
// UNSAFETY: hands devices and interrupts to the tables, and devices to the epoch, by raw pointer.

use alloc::boxed::Box;
use core::ptr::NonNull;

use crossbeam_epoch::{Guard, Shared};

use crate::intid::{DeviceId, EventId};
use crate::radix::{Cursor, Radix};
use crate::vm::irq::Irq;

/// A mapped device.
///
/// # Invariants
/// Every slot of `events` owns one mapping reference of the interrupt it holds, taken by
/// [`Vgic::map_lpi`](crate::Vgic::map_lpi) and given back by
/// [`Vgic::unmap_lpi`](crate::Vgic::unmap_lpi) after the slot was emptied.
pub(crate) struct Device {
    events: Radix<Irq>,
    event_bits: u8,
}

impl Device {
    /// One past the largest EventID.
    fn event_end(&self) -> u32 {
        1 << self.event_bits
    }

    /// Whether the device was mapped with room for this EventID.
    pub(crate) fn has(&self, event: u32) -> bool {
        event < self.event_end()
    }

    /// Events that the device has room for.
    pub(crate) fn room(&self) -> u32 {
        self.event_end()
    }

    /// The interrupt that `event` is mapped to. No lock.
    #[inline]
    pub(crate) fn irq<'g>(&'g self, event: EventId, guard: &'g Guard) -> Option<&'g Irq> {
        self.events.get(event.0, guard)
    }

    /// Visits the mapped events: [`Radix::walk`].
    pub(crate) fn walk<'g>(
        &'g self,
        cursor: &mut Cursor,
        steps: &mut u32,
        guard: &'g Guard,
        mut visit: impl FnMut(EventId, &'g Irq, &mut u32) -> bool,
    ) -> bool {
        self.events.walk(cursor, steps, guard, |event, irq, steps| {
            visit(EventId(event), irq, steps)
        })
    }

    /// Maps an event that the device has and that is not mapped; the caller's mapping reference of `irq`
    /// goes over to the slot. Under the command lock.
    pub(crate) fn map(&self, event: EventId, irq: &Irq, guard: &Guard) {
        // SAFETY: the mapping's reference keeps the interrupt until `unmap` has emptied the slot, and
        // the last put frees it through the epoch.
        let mapped = unsafe { self.events.insert(event.0, NonNull::from(irq), guard) }.is_ok();
        debug_assert!(mapped, "the caller has checked that the slot is empty");
    }

    /// Empties an event's slot; its mapping reference is the caller's now. Under the command lock.
    pub(crate) fn unmap(&self, event: EventId, irq: &Irq, guard: &Guard) {
        let emptied = self.events.remove(event.0, irq, guard);
        debug_assert!(
            emptied.is_some(),
            "only the command lock's holder changes slots"
        );
    }
}

/// The devices of one ITS. Written under the command lock; read by whoever is pinned.
pub(crate) struct Devices(Radix<Device>);

impl Devices {
    pub(crate) fn new(device_bits: u8) -> Self {
        Self(Radix::new(u32::from(device_bits)))
    }

    /// The device, if it is mapped. No lock.
    #[inline]
    pub(crate) fn get<'g>(&'g self, device: DeviceId, guard: &'g Guard) -> Option<&'g Device> {
        self.0.get(device.0, guard)
    }

    /// Visits the mapped devices: [`Radix::walk`].
    pub(crate) fn walk<'g>(
        &'g self,
        cursor: &mut Cursor,
        steps: &mut u32,
        guard: &'g Guard,
        mut visit: impl FnMut(DeviceId, &'g Device, &mut u32) -> bool,
    ) -> bool {
        self.0.walk(cursor, steps, guard, |id, device, steps| {
            visit(DeviceId(id), device, steps)
        })
    }

    /// Maps a device that is not mapped, with room for `2^event_bits` events.
    pub(crate) fn map(&self, device: DeviceId, event_bits: u8, guard: &Guard) {
        let new = NonNull::from(Box::leak(Box::new(Device {
            events: Radix::new(u32::from(event_bits)),
            event_bits,
        })));
        // SAFETY: freed only by `unmap`, after it has left the table, through the epoch.
        let mapped = unsafe { self.0.insert(device.0, new, guard) }.is_ok();
        debug_assert!(mapped, "the caller has checked that it is not mapped");
        if !mapped {
            // SAFETY: it was not published: still ours alone.
            drop(unsafe { Box::from_raw(new.as_ptr()) });
        }
    }

    /// Unmaps a device none of whose events is mapped. Injectors that found it before go on in peace.
    pub(crate) fn unmap(&self, device: DeviceId, found: &Device, guard: &Guard) {
        debug_assert!(found.events.is_empty(), "an event is still mapped");
        if let Some(unlinked) = self.0.remove(device.0, found, guard) {
            // SAFETY: allocated as a `Box` in `map`; only the remover that emptied the slot comes here.
            unsafe { guard.defer_destroy(Shared::from(unlinked.as_ptr().cast_const())) };
        }
    }
}
