//! Changes of path: the MSIs of a VM change between the hardware and list registers all the time,
//! under whatever its guest does (`hyp.direct=switch`).
//!
//! The guest must notice nothing. A change takes a random vCPU or a random PCI function of the VM,
//! and turns direct injection on or off for it. The events follow in slices, on exits of the VM's
//! vCPUs.

use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};
use spin::Mutex;
use vgic::intid::{DeviceId, ItsId};

use super::controller::Controller;
use super::options::{Direct, Options};
use crate::cpu::this_cpu::PinnedCpu;
use crate::gic;

/// Loads of the VM's vCPUs from one change to the next.
const LOADS: u32 = 4;

/// Random changes of path of a VM.
pub(crate) struct Changes {
    /// Loads of vCPUs so far.
    loads: AtomicU32,
    random: Mutex<ChaCha8Rng>,
    /// PCI devices whose MSIs go through list registers: a bit for each device number.
    off: AtomicU64,
    /// Changes so far.
    count: AtomicU64,
}

impl Changes {
    /// Returns the changes that the options of a VM ask for, if they do, if the VM has PCI
    /// functions, and if the machine has a GICv4.
    pub(crate) fn of(options: &Options) -> Option<Self> {
        let is_wanted = options.direct == Direct::Switch
            && !options.functions.is_empty()
            && gic::get().has_virtual_lpis();
        is_wanted.then(|| Self {
            loads: AtomicU32::new(0),
            random: Mutex::new(ChaCha8Rng::seed_from_u64(options.seed.into())),
            off: AtomicU64::new(0),
            count: AtomicU64::new(0),
        })
    }

    /// Returns the number of changes so far.
    pub(crate) fn count(&self) -> u64 {
        // Relaxed, here and below: a count, and numbers that publish nothing. The command lock,
        // taken after a change of `off`, orders it.
        self.count.load(Ordering::Relaxed)
    }

    /// Returns true if the MSIs of a device may reach vCPUs directly.
    pub(crate) fn is_on(&self, device: DeviceId) -> bool {
        self.off.load(Ordering::Relaxed) & bit(device.0) == 0
    }

    /// Makes a change, if one is due. Called at each load of a vCPU.
    pub(crate) fn look(&self, vgic: &Controller, pin: &PinnedCpu<'_>) {
        let loads = self.loads.fetch_add(1, Ordering::Relaxed);
        if !loads.is_multiple_of(LOADS) {
            return;
        }

        let number = self.random.lock().next_u64();
        let which = (number >> 32) as usize;
        let vm = vgic.host().vm();
        let devices = vm.devices.as_ref().map_or(0, |devices| devices.len());
        let changed = if number & 1 == 0 && devices > 0 {
            let device = vm.devices.as_ref();
            let device = device.and_then(|devices| devices.id_of(which % devices.len()));
            self.off.fetch_xor(device.map_or(0, bit), Ordering::Relaxed);
            vgic.settle_direct(pin, ItsId(0))
        } else {
            let vcpu = vm.vcpus()[which % vm.vcpus().len()].id;
            vgic.set_direct_vcpu(pin, vcpu, number & 2 == 0)
        };
        // A VM that is being saved on another CPU stays as it is.
        if changed.is_ok() {
            self.count.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Returns the bit of a PCI device in [`Changes::off`]: the DeviceID has the function in bits 2:0.
fn bit(device: u32) -> u64 {
    1 << (device >> 3 & 63)
}
