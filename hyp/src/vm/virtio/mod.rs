//! The hypervisor's own device for a VM with a part of the machine: a virtio entropy device, a PCI
//! function behind an emulated host bridge (Virtual I/O Device version 1.2, 4.1 and 5.4).
//!
//! * [`function`]: configuration space, the BAR with the virtio structures, MSI-X.
//! * [`queue`]: a split virtqueue.
//!
//! The device answers a request in the trap that notifies it, and raises an MSI by
//! [`Vgic::signal_msi`](vgic::Vgic::signal_msi). While no vCPU of the VM runs it does nothing: no
//! MSI comes during a save.
//!
//! Rings and descriptors are the guest's claims. A trap takes as many requests as the queue has
//! places, and few bytes for each; a chain that does not end or lies nowhere breaks the device,
//! which then wants a reset.

mod function;
mod queue;

use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::SeedableRng;
use spin::Mutex;
use vgic::epoch::CpuPin;
use vgic::intid::DeviceId;

use super::Vm;
use super::controller::Controller;
use super::devices::ECAM;
use crate::machine::entropy;
use crate::pci::window::Window;
use crate::snapshot::state::Virtio;
use function::{Function, Message};

/// Memory of the bus of the emulated host bridge, as on QEMU's `virt` board.
pub(crate) const WINDOW: Window = Window {
    bus: 0x1000_0000,
    cpu: 0x1000_0000,
    size: 0x1_0000,
};

/// Device and function numbers, and the DeviceID: 00:01.0.
const REQUESTER: u32 = 1 << 3;

/// Bytes of the configuration space of a function.
const FUNCTION: u64 = 4096;

/// The entropy device of a VM.
pub(crate) struct EntropyDevice(Mutex<Device>);

struct Device {
    function: Function,
    random: ChaCha20Rng,
}

impl EntropyDevice {
    /// Returns the device after a reset. Returns `None` if the boot loader has passed no seed.
    pub(crate) fn new() -> Option<Self> {
        Some(Self(Mutex::new(Device {
            function: Function::new(),
            random: ChaCha20Rng::from_seed(entropy::seed()?),
        })))
    }

    /// Returns true if the configuration space, the BAR or the host bridge is at this
    /// guest-physical address.
    pub(crate) fn claims(&self, address: u64) -> bool {
        is_config(address) || self.0.lock().function.bar_offset(address).is_some()
    }

    /// Reads `bytes` bytes.
    pub(crate) fn read(&self, address: u64, bytes: u64) -> u64 {
        let mut device = self.0.lock();
        let value = match register(address) {
            Some(register) => device.function.read_config(register),
            None if is_config(address) => u64::MAX,
            None => match device.function.bar_offset(address) {
                Some(offset) => device.function.read_bar(offset),
                None => u64::MAX,
            },
        };
        value & (u64::MAX >> (64 - 8 * bytes.clamp(1, 8)))
    }

    /// Writes `bytes` bytes.
    pub(crate) fn write(
        &self,
        vm: &Vm,
        vgic: &Controller,
        pin: &CpuPin<'_>,
        address: u64,
        bytes: u64,
        value: u64,
    ) {
        let mut device = self.0.lock();
        let Device { function, random } = &mut *device;
        let value = value & (u64::MAX >> (64 - 8 * bytes.clamp(1, 8)));
        if let Some(register) = register(address) {
            function.write_config(register, bytes, value);
        } else if let Some(offset) = function.bar_offset(address) {
            function.write_bar(offset, bytes, value, &vm.memory, random);
        }

        while let Some(Message { address, data }) = function.take_message() {
            // An error means that the guest has not mapped the event: the message is lost, as it
            // would be on a bus.
            let _ = vgic.signal_msi(pin, address, DeviceId(REQUESTER), data);
        }
    }

    /// Resets the device.
    pub(crate) fn reset(&self) {
        self.0.lock().function = Function::new();
    }

    /// Returns the state as plain data.
    pub(crate) fn state(&self) -> Virtio {
        self.0.lock().function.state()
    }

    /// Sets the state. Returns false, and changes nothing, if it is not that of such a device.
    #[must_use]
    pub(crate) fn set(&self, state: &Virtio) -> bool {
        let function = Function::of(state);
        let is_set = function.is_some();
        if let Some(function) = function {
            self.0.lock().function = function;
        }
        is_set
    }
}

/// Returns true if the configuration space of the bus is at this address.
fn is_config(address: u64) -> bool {
    (ECAM..ECAM + super::devices::ECAM_SIZE).contains(&address)
}

/// Returns the offset of a register in the configuration space of the function, if it is there.
fn register(address: u64) -> Option<u64> {
    let offset = address.checked_sub(ECAM)?;
    (offset / FUNCTION == u64::from(REQUESTER)).then_some(offset % FUNCTION)
}
