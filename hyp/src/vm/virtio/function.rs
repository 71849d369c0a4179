//! The PCI function: configuration space, the BAR with the virtio structures, and MSI-X.

use rand_chacha::rand_core::RngCore;

use super::WINDOW;
use super::queue::{self, PLACES};
use crate::snapshot::state::{Virtio, VirtioQueue};
use crate::vm::memory::GuestMemory;

/// Vendor and device: virtio's entropy device, without the interface of old. Revision and class:
/// a device of no other class.
const IDENTITY: u32 = 0x1044_1af4;
const CLASS: u32 = 0x00ff_0001;
const SUBSYSTEM: u32 = 0x1100_1af4;

/// Bytes of the BAR.
const BAR: u32 = 0x4000;

/// Number of MSI-X vectors: for the configuration, and for the queue.
const VECTORS: u16 = 2;
/// Vector of a source of interrupts that has none.
const NO_VECTOR: u16 = 0xffff;

/// Command register: memory space, bus master, no interrupt line.
const MEMORY: u16 = 1 << 1;
const MASTER: u16 = 1 << 2;
const COMMAND: u16 = MEMORY | MASTER | 1 << 10;
/// Status register: there are capabilities.
const STATUS: u32 = 1 << 20;

/// MSI-X: enable, and mask of the function, in the control register. Mask of a vector.
const MSIX_ENABLE: u16 = 1 << 15;
const MSIX_MASK: u16 = 1 << 14;
const VECTOR_MASK: u32 = 1 << 0;

/// Offsets in configuration space.
mod config {
    pub(super) const COMMAND: u64 = 0x04;
    pub(super) const BAR: u64 = 0x10;
    pub(super) const CAPABILITIES: u64 = 0x34;
    pub(super) const MSIX: u64 = 0x40;
    pub(super) const COMMON: u64 = 0x4c;
    pub(super) const ISR: u64 = 0x5c;
    pub(super) const NOTIFY: u64 = 0x6c;
    pub(super) const NOTIFY_MULTIPLIER: u64 = 0x7c;
}

/// Offsets in the BAR.
mod bar {
    pub(super) const COMMON: u64 = 0x0000;
    pub(super) const ISR: u64 = 0x1000;
    pub(super) const NOTIFY: u64 = 0x2000;
    pub(super) const TABLE: u64 = 0x3000;
    pub(super) const PENDING: u64 = 0x3800;
}

/// Offsets in the common structure (4.1.4.3).
mod common {
    pub(super) const FEATURE_SELECT: u64 = 0x00;
    pub(super) const FEATURE: u64 = 0x04;
    pub(super) const DRIVER_FEATURE_SELECT: u64 = 0x08;
    pub(super) const DRIVER_FEATURE: u64 = 0x0c;
    pub(super) const CONFIG_VECTOR: u64 = 0x10;
    pub(super) const QUEUES: u64 = 0x12;
    pub(super) const STATUS: u64 = 0x14;
    pub(super) const QUEUE_SELECT: u64 = 0x16;
    pub(super) const QUEUE_SIZE: u64 = 0x18;
    pub(super) const QUEUE_VECTOR: u64 = 0x1a;
    pub(super) const QUEUE_ENABLE: u64 = 0x1c;
    pub(super) const DESCRIPTORS: u64 = 0x20;
    pub(super) const DRIVER: u64 = 0x28;
    pub(super) const DEVICE: u64 = 0x30;
    pub(super) const SIZE: u64 = 0x38;
}

/// Device status: the driver is ready; the device wants a reset.
const DRIVER_OK: u8 = 1 << 2;
const NEEDS_RESET: u8 = 1 << 6;

/// The feature VERSION_1, in the upper word.
const VERSION_1: u32 = 1 << 0;

/// Message to be signalled.
pub(crate) struct Message {
    pub(crate) address: u64,
    pub(crate) data: u32,
}

/// The function.
pub(crate) struct Function(Virtio);

impl Function {
    /// Returns the function after a reset. The BAR is where the hypervisor has put it.
    pub(crate) fn new() -> Self {
        Self(Virtio {
            command: 0,
            bar: WINDOW.bus as u32,
            msix_control: VECTORS - 1,
            // Masked, as after a reset of the bus.
            vectors: [[0, 0, 0, VECTOR_MASK]; VECTORS as usize],
            pending: 0,
            feature_select: 0,
            driver_feature_select: 0,
            driver_features: [0; 2],
            status: 0,
            config_vector: NO_VECTOR,
            queue_select: 0,
            queue_vector: NO_VECTOR,
            is_enabled: false,
            queue: VirtioQueue {
                size: PLACES,
                ..VirtioQueue::default()
            },
        })
    }

    /// Returns a function with this state, if it is one that such a function can have.
    pub(crate) fn of(state: &Virtio) -> Option<Self> {
        let is_sound = is_size(state.queue.size)
            && state.bar.is_multiple_of(BAR)
            && state.command & !COMMAND == 0;
        is_sound.then(|| Self(state.clone()))
    }

    /// Returns the state.
    pub(crate) fn state(&self) -> Virtio {
        self.0.clone()
    }

    /// Returns the offset in the BAR of a guest-physical address that is there.
    pub(crate) fn bar_offset(&self, address: u64) -> Option<u64> {
        let offset = address.checked_sub(self.0.bar.into())?;
        (self.0.command & MEMORY != 0 && offset < BAR.into()).then_some(offset)
    }

    /// Reads configuration space from a register on.
    pub(crate) fn read_config(&self, register: u64) -> u64 {
        let aligned = register & !3;
        let value = match aligned {
            0x00 => IDENTITY,
            config::COMMAND => STATUS | u32::from(self.0.command),
            0x08 => CLASS,
            config::BAR => self.0.bar,
            0x2c => SUBSYSTEM,
            config::CAPABILITIES => config::MSIX as u32,
            _ => self.capability(aligned),
        };
        u64::from(value) >> (8 * (register & 3))
    }

    /// Returns a register of the capabilities, which are chained in their order.
    fn capability(&self, register: u64) -> u32 {
        const VENDOR: u32 = 0x09;
        const MSIX: u32 = 0x11;
        // A capability of virtio: its length and its kind; the offset in the BAR; the length.
        let virtio = |next: u64, length: u32, kind: u32| {
            kind << 24 | length << 16 | (next as u32) << 8 | VENDOR
        };
        match register {
            config::MSIX => {
                u32::from(self.0.msix_control) << 16 | (config::COMMON as u32) << 8 | MSIX
            }
            0x44 => bar::TABLE as u32,
            0x48 => bar::PENDING as u32,
            config::COMMON => virtio(config::ISR, 16, 1),
            0x54 => bar::COMMON as u32,
            0x58 => common::SIZE as u32,
            config::ISR => virtio(config::NOTIFY, 16, 3),
            0x64 => bar::ISR as u32,
            0x68 => 1,
            config::NOTIFY => virtio(0, 20, 2),
            0x74 => bar::NOTIFY as u32,
            0x78 => 4,
            config::NOTIFY_MULTIPLIER => 4,
            _ => 0,
        }
    }

    /// Writes configuration space from a register on.
    pub(crate) fn write_config(&mut self, register: u64, bytes: u64, value: u64) {
        // An access does not cross a register of four bytes.
        let shift = 8 * (register & 3);
        let mask = ((u64::MAX >> (64 - 8 * bytes.clamp(1, 8))) << shift) as u32;
        let value = (value << shift) as u32;
        let merged = |old: u32| old & !mask | value & mask;
        match register & !3 {
            config::COMMAND => {
                self.0.command = merged(self.0.command.into()) as u16 & COMMAND;
            }
            // The low bits are zero: memory of 32 bits, and the size.
            config::BAR => self.0.bar = merged(self.0.bar) & !(BAR - 1),
            config::MSIX => {
                let control = (merged(u32::from(self.0.msix_control) << 16) >> 16) as u16;
                let writable = MSIX_ENABLE | MSIX_MASK;
                self.0.msix_control = control & writable | (VECTORS - 1);
            }
            _ => {}
        }
    }

    /// Reads the BAR.
    pub(crate) fn read_bar(&mut self, offset: u64) -> u64 {
        match offset {
            0..common::SIZE => self.read_common(offset),
            // An interrupt line would be told apart here; there is none.
            bar::ISR => 0,
            bar::TABLE..bar::PENDING => {
                let (vector, word) = table_place(offset);
                let vector = self.0.vectors.get(vector);
                vector.map_or(0, |vector| vector[word].into())
            }
            bar::PENDING => self.0.pending.into(),
            _ => 0,
        }
    }

    /// Writes the BAR. A notification serves the queue.
    pub(crate) fn write_bar(
        &mut self,
        offset: u64,
        bytes: u64,
        value: u64,
        memory: &GuestMemory,
        random: &mut impl RngCore,
    ) {
        match offset {
            0..common::SIZE => self.write_common(offset, bytes, value),
            bar::NOTIFY..bar::TABLE => self.notify(memory, random),
            bar::TABLE..bar::PENDING => {
                let (vector, word) = table_place(offset);
                if let Some(vector) = self.0.vectors.get_mut(vector) {
                    vector[word] = value as u32;
                    if let Some(next) = vector.get_mut(word + 1).filter(|_| bytes == 8) {
                        *next = (value >> 32) as u32;
                    }
                }
            }
            _ => {}
        }
    }

    /// Serves the queue, if the driver is ready.
    fn notify(&mut self, memory: &GuestMemory, random: &mut impl RngCore) {
        let state = &mut self.0;
        let is_ready = state.status & (DRIVER_OK | NEEDS_RESET) == DRIVER_OK;
        if !is_ready || !state.is_enabled || state.command & MASTER == 0 {
            return;
        }
        let vector = match queue::serve(&mut state.queue, memory, random) {
            Ok(true) => state.queue_vector,
            Ok(false) => return,
            Err(queue::Broken) => {
                state.status |= NEEDS_RESET;
                state.config_vector
            }
        };
        if vector < VECTORS {
            state.pending |= 1 << vector;
        }
    }

    /// Takes a message of a vector that is pending and not masked, if there is one.
    pub(crate) fn take_message(&mut self) -> Option<Message> {
        let state = &mut self.0;
        if state.msix_control & (MSIX_ENABLE | MSIX_MASK) != MSIX_ENABLE {
            return None;
        }
        let mut vectors = state.vectors.iter().enumerate();
        let (number, &[low, high, data, _]) = vectors.find(|(number, vector)| {
            state.pending >> number & 1 != 0 && vector[3] & VECTOR_MASK == 0
        })?;
        state.pending &= !(1 << number);
        Some(Message {
            address: u64::from(high) << 32 | u64::from(low),
            data,
        })
    }

    fn read_common(&self, offset: u64) -> u64 {
        let state = &self.0;
        let of_queue = |value: u64| if state.queue_select == 0 { value } else { 0 };
        match offset {
            common::FEATURE_SELECT => state.feature_select.into(),
            common::FEATURE if state.feature_select == 1 => VERSION_1.into(),
            common::DRIVER_FEATURE_SELECT => state.driver_feature_select.into(),
            common::DRIVER_FEATURE => {
                let word = state
                    .driver_features
                    .get(state.driver_feature_select as usize);
                word.copied().unwrap_or(0).into()
            }
            common::CONFIG_VECTOR => state.config_vector.into(),
            common::QUEUES => 1,
            common::STATUS => state.status.into(),
            common::QUEUE_SELECT => state.queue_select.into(),
            common::QUEUE_SIZE => of_queue(state.queue.size.into()),
            common::QUEUE_VECTOR => of_queue(state.queue_vector.into()),
            common::QUEUE_ENABLE => of_queue(state.is_enabled.into()),
            common::DESCRIPTORS..common::SIZE => {
                let address = match offset & !7 {
                    common::DESCRIPTORS => state.queue.descriptors,
                    common::DRIVER => state.queue.driver,
                    common::DEVICE => state.queue.device,
                    _ => 0,
                };
                of_queue(address >> (8 * (offset & 7)))
            }
            _ => 0,
        }
    }

    fn write_common(&mut self, offset: u64, bytes: u64, value: u64) {
        let state = &mut self.0;
        // The places of a queue are fixed while the queue is enabled.
        let is_open = state.queue_select == 0 && !state.is_enabled;
        let vector = if value < VECTORS.into() {
            value as u16
        } else {
            NO_VECTOR
        };
        match offset {
            common::FEATURE_SELECT => state.feature_select = value as u32,
            common::DRIVER_FEATURE_SELECT => state.driver_feature_select = value as u32,
            common::DRIVER_FEATURE => {
                let word = state
                    .driver_features
                    .get_mut(state.driver_feature_select as usize);
                if let Some(word) = word {
                    *word = value as u32;
                }
            }
            common::CONFIG_VECTOR => state.config_vector = vector,
            common::STATUS if value == 0 => self.reset(),
            common::STATUS => self.set_status(value as u8),
            common::QUEUE_SELECT => state.queue_select = value as u16,
            common::QUEUE_SIZE if is_open && is_size(value as u16) => {
                state.queue.size = value as u16;
            }
            common::QUEUE_VECTOR if state.queue_select == 0 => state.queue_vector = vector,
            common::QUEUE_ENABLE if is_open && value == 1 => state.is_enabled = true,
            common::DESCRIPTORS..common::SIZE if is_open => {
                let address = match offset & !7 {
                    common::DESCRIPTORS => &mut state.queue.descriptors,
                    common::DRIVER => &mut state.queue.driver,
                    common::DEVICE => &mut state.queue.device,
                    _ => return,
                };
                let shift = 8 * (offset & 7);
                let mask = (u64::MAX >> (64 - 8 * bytes.clamp(1, 8))) << shift;
                *address = *address & !mask | value << shift & mask;
            }
            _ => {}
        }
    }

    /// Sets the status that the driver has written. Features that the device does not have are not
    /// agreed upon (3.1.1).
    fn set_status(&mut self, status: u8) {
        const FEATURES_OK: u8 = 1 << 3;
        let agreed = self.0.driver_features == [0, VERSION_1];
        let refused = if agreed { 0 } else { FEATURES_OK };
        self.0.status = status & !refused | self.0.status & NEEDS_RESET;
    }

    /// Resets the virtio part. The PCI part stays.
    fn reset(&mut self) {
        let new = Self::new().0;
        self.0 = Virtio {
            command: self.0.command,
            bar: self.0.bar,
            msix_control: self.0.msix_control,
            vectors: self.0.vectors,
            ..new
        };
    }
}

/// Returns true if a queue may have so many places.
fn is_size(places: u16) -> bool {
    places.is_power_of_two() && places <= PLACES
}

/// Returns the vector, and the word of it, at an offset in the BAR.
fn table_place(offset: u64) -> (usize, usize) {
    let word = (offset - bar::TABLE) as usize / 4;
    (word / 4, word % 4)
}
