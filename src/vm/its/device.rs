//! Devices of an ITS, and the events mapped on each device.
//!
//! Only this file puts pointers into an ITS's tables.
#![expect(unsafe_code)]
// UNSAFETY: raw pointers put devices and interrupts into the tables, and devices into the epoch.

use alloc::boxed::Box;
use core::num::{NonZeroU8, NonZeroU64};
use core::ptr::NonNull;

use crossbeam_epoch::Guard;

use crate::epoch::{Garbage, Piece};
use crate::intid::{DeviceId, EventId};
use crate::radix::{Cursor, Radix};
use crate::vm::irq::Irq;

/// A mapped device.
///
/// # Invariants
/// Every filled slot of `events` owns one mapping reference of the slot's interrupt.
/// [`map`](crate::delivery::lpi_lifetime::map) takes the reference.
/// [`unmap`](crate::delivery::lpi_lifetime::unmap) puts the reference after the slot has
/// been emptied.
pub(crate) struct Device {
    events: Radix<Irq>,
    itt: Itt,
}

/// The interrupt translation table that a guest provides for a device (`MAPD`). The host keeps the
/// guest's mappings, and knows the table for a save in KVM's format.
///
/// # Invariants
/// Bits 51:8 are `ITT_addr`, and bits 7:0 the number of EventID bits, never 0.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Itt(NonZeroU64);

impl Itt {
    /// `ITT_addr`: bits 51:8 of the address (IHI 0069, 5.3.11).
    pub(crate) const ADDRESS: u64 = 0x000f_ffff_ffff_ff00;

    /// Makes the table at a guest-physical address, of which bits 51:8 count, for EventIDs of
    /// `event_bits` bits: 1 to 32 in a guest's command, at most 16 of a mapped device.
    pub(crate) fn new(address: u64, event_bits: u8) -> Self {
        let bits = NonZeroU64::from(NonZeroU8::new(event_bits).unwrap_or(NonZeroU8::MIN));
        // INVARIANT: the low byte is not 0.
        Self(bits | address & Self::ADDRESS)
    }

    /// Returns the guest-physical address, a multiple of 256 below 2^52.
    pub(crate) fn address(self) -> u64 {
        self.0.get() & Self::ADDRESS
    }

    /// Returns the number of EventID bits.
    #[inline]
    pub(crate) fn event_bits(self) -> u8 {
        self.0.get() as u8
    }
}

impl Piece for Device {}

impl Device {
    /// Returns the number of events that the device has room for, 2 to 2^16.
    pub(crate) fn event_count(&self) -> u32 {
        1 << self.itt.event_bits()
    }

    /// Returns the guest's table for the device.
    pub(crate) fn itt(&self) -> Itt {
        self.itt
    }

    /// Returns whether the device was mapped with room for the EventID `event`.
    pub(crate) fn has_room_for(&self, event: u32) -> bool {
        event < self.event_count()
    }

    /// Returns the interrupt that `event` is mapped to. Takes no lock.
    #[inline]
    pub(crate) fn irq<'g>(&'g self, event: EventId, guard: &'g Guard) -> Option<&'g Irq> {
        self.events.get(event.0, guard)
    }

    /// Visits the mapped events from `cursor` on, as far as `steps` allows ([`Radix::walk`]).
    /// Returns true once the last event has been visited.
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

    /// Maps `event`, which is in range and not mapped. The slot takes over the caller's mapping
    /// reference of `irq`. Needs the command lock.
    pub(crate) fn map(&self, event: EventId, irq: &Irq, guard: &Guard, garbage: &Garbage) {
        // SAFETY: the mapping reference keeps the interrupt alive until `unmap` has emptied the
        // slot, and the put of the last reference frees the interrupt through the epoch.
        let mapped = unsafe {
            self.events
                .insert(event.0, NonNull::from(irq), guard, garbage)
        };
        debug_assert!(mapped, "the caller has checked that the slot is empty");
    }

    /// Empties the slot of `event`. The caller takes over the slot's mapping reference of `irq`.
    /// Needs the command lock.
    pub(crate) fn unmap(&self, event: EventId, irq: &Irq, guard: &Guard, garbage: &Garbage) {
        let emptied = self.events.remove(event.0, irq, guard, garbage);
        debug_assert!(
            emptied.is_some(),
            "only the command lock's holder changes slots"
        );
    }
}

/// Devices of one ITS, by DeviceID. Written under the command lock, read by any pinned CPU.
pub(crate) struct Devices(Radix<Device>);

impl Devices {
    /// Creates a table for DeviceIDs of `device_bits` bits.
    pub(crate) fn new(device_bits: u8) -> Self {
        Self(Radix::new(u32::from(device_bits)))
    }

    /// Returns the mapped device with the DeviceID `device`. Takes no lock.
    #[inline]
    pub(crate) fn get<'g>(&'g self, device: DeviceId, guard: &'g Guard) -> Option<&'g Device> {
        self.0.get(device.0, guard)
    }

    /// Visits the mapped devices from `cursor` on, as far as `steps` allows ([`Radix::walk`]).
    /// Returns true once the last device has been visited.
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

    /// Maps `device`, which is not mapped, with room for the events of `itt`, and with `events`
    /// mapped, by rising EventIDs. The slots take over the caller's mapping references. Needs the
    /// command lock.
    pub(crate) fn map<'i>(
        &self,
        device: DeviceId,
        itt: Itt,
        events: impl Iterator<Item = (EventId, &'i Irq)>,
        guard: &Guard,
        garbage: &Garbage,
    ) {
        let events = events.map(|(event, irq)| (event.0, NonNull::from(irq)));
        // SAFETY: the mapping reference keeps an interrupt alive until `unmap` has emptied its
        // slot, and the put of the last reference frees the interrupt through the epoch.
        let events = unsafe { Radix::filled(u32::from(itt.event_bits()), events, guard, garbage) };
        let new = NonNull::from(Box::leak(Box::new(Device { events, itt })));
        // SAFETY: only `unmap` frees the device, through the epoch, after the device has left the
        // table.
        let mapped = unsafe { self.0.insert(device.0, new, guard, garbage) };
        debug_assert!(mapped, "the caller has checked that no device is mapped");
        if !mapped {
            // SAFETY: the failed insertion has not published the `Box`, so `new` is the only
            // pointer.
            drop(unsafe { Box::from_raw(new.as_ptr()) });
        }
    }

    /// Unmaps `device`, which has no mapped event. The epoch keeps the device allocated for
    /// injectors that have found the device before. Needs the command lock.
    pub(crate) fn unmap(&self, device: DeviceId, found: &Device, guard: &Guard, garbage: &Garbage) {
        debug_assert!(found.events.is_empty(), "an event is still mapped");
        if let Some(unlinked) = self.0.remove(device.0, found, guard, garbage) {
            // SAFETY: `map` allocated the device as a `Box`, and only the one call that emptied the
            // slot gets the pointer.
            unsafe { garbage.leave(unlinked.as_ptr(), guard) };
        }
    }
}
