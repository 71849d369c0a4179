//! PCI functions of the machine that a VM has.
//!
//! The SMMU confines their DMA to the VM's memory, and their MSIs to the ITS. Stage 2 maps their
//! BARs for the VM alone. Accesses to configuration space trap.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::ops::Range;
use core::sync::atomic::{AtomicBool, Ordering};

use spin::{Mutex, MutexGuard};

use crate::memory::dma::DmaTables;
use crate::pci::Bdf;
use crate::pci::config_space::ConfigSpace;
use crate::pci::ecam::Ecam;
use crate::pci::function::Function;
use crate::pci::id_map::IdMap;
use crate::pci::window::Window;
use crate::smmu::Smmu;

/// Guest-physical address of the configuration space of bus 0, as on QEMU's `virt` board.
pub(crate) const ECAM: u64 = 0x3f00_0000;
/// Bytes of the configuration space of a bus.
pub(crate) const ECAM_SIZE: u64 = 1 << 20;

/// The machine's PCI bus, as all VMs with functions use it.
pub(crate) struct Bus {
    pub(crate) ecam: Ecam,
    pub(crate) smmu: &'static Smmu,
    /// Memory of the bus that CPUs see.
    pub(crate) windows: Vec<Window>,
    /// StreamIDs and DeviceIDs of functions.
    pub(crate) streams: IdMap,
    pub(crate) devices: IdMap,
    /// Functions of the root bus.
    pub(crate) all: Vec<Bdf>,
}

impl Bus {
    /// Returns another function with the StreamID or the DeviceID of this one, if there is one.
    pub(crate) fn alias_of(&self, bdf: Bdf) -> Option<Bdf> {
        let is_alias = |&other: &Bdf| {
            let maps = [&self.streams, &self.devices];
            let mut ids = maps
                .into_iter()
                .map(|map| (map.id_of(bdf), map.id_of(other)));
            other != bdf && ids.any(|(id, of_other)| id.is_some() && id == of_other)
        };
        self.all.iter().copied().find(is_alias)
    }

    /// Returns true if the SMMU confines the DMA of a function.
    pub(crate) fn confines(&self, bdf: Bdf) -> bool {
        let stream = self.streams.id_of(bdf);
        stream.is_some_and(|stream| self.smmu.has_stream(stream))
    }
}

/// PCI functions of a VM.
pub(crate) struct Devices {
    bus: &'static Bus,
    functions: Vec<Function>,
    /// Translation tables of the functions' DMA.
    dma: Arc<DmaTables>,
    config: Mutex<ConfigSpace>,
    /// True while the MSIs of a function are held back, under the lock of `config`.
    held: AtomicBool,
    /// True if the VM had masked that function itself.
    masked_by_vm: AtomicBool,
}

impl Devices {
    /// Returns the functions, which nobody else has and the SMMU confines. They do nothing until
    /// [`Devices::start`].
    pub(crate) fn new(bus: &'static Bus, functions: Vec<Function>, dma: Arc<DmaTables>) -> Self {
        let devices = Self {
            config: Mutex::new(ConfigSpace::new(functions.clone(), &bus.ecam)),
            held: AtomicBool::new(false),
            masked_by_vm: AtomicBool::new(false),
            bus,
            functions,
            dma,
        };
        // The SMMU makes room for the streams now, and not in a VM's life.
        devices.detach();
        devices
    }

    /// Lets the functions reach the VM's memory, once the VM enables them. BARs read as they are,
    /// and not as an earlier life has left them.
    pub(crate) fn start(&self) {
        self.config.lock().reset();
        for stream in self.ids(&self.bus.streams) {
            self.bus.smmu.attach(stream, Arc::clone(&self.dma));
        }
    }

    /// Stops the functions: from now on none reaches memory or raises an MSI.
    pub(crate) fn stop(&self) {
        for function in &self.functions {
            function.disable(&self.bus.ecam);
        }
        self.detach();
    }

    /// Makes the SMMU abort what the functions do.
    fn detach(&self) {
        for stream in self.ids(&self.bus.streams) {
            self.bus.smmu.detach(stream);
        }
    }

    /// Returns true if the DeviceID is a function's.
    pub(crate) fn has(&self, device: u32) -> bool {
        self.ids(&self.bus.devices).any(|id| id == device)
    }

    /// Holds the MSIs of the function with this DeviceID back, or lets them go: the Function Mask
    /// of MSI-X (PCI 6.8.2.3). When the call returns, earlier MSIs have left the function.
    ///
    /// The VM, which reads and writes the register too, waits meanwhile. Calls come in pairs, one
    /// pair at a time.
    pub(crate) fn mask(&self, device: u32, on: bool) {
        let mut functions = self.functions.iter();
        let is_it = |function: &&Function| self.bus.devices.id_of(function.bdf) == Some(device);
        let Some(function) = functions.find(is_it) else {
            return;
        };
        let config = self.config.lock();
        if on {
            let was_masked = function.mask_msis(&self.bus.ecam, true);
            // Relaxed, both: ordered by the lock.
            self.held.store(true, Ordering::Relaxed);
            self.masked_by_vm.store(was_masked, Ordering::Relaxed);
        } else {
            if !self.masked_by_vm.load(Ordering::Relaxed) {
                function.mask_msis(&self.bus.ecam, false);
            }
            self.held.store(false, Ordering::Relaxed);
        }
        drop(config);
    }

    /// Returns the number of functions.
    pub(crate) fn len(&self) -> usize {
        self.functions.len()
    }

    /// Returns the DeviceID of a function.
    pub(crate) fn id_of(&self, index: usize) -> Option<u32> {
        self.bus.devices.id_of(self.functions.get(index)?.bdf)
    }

    /// Returns true if the VM has the function at this address.
    pub(crate) fn has_function(&self, bdf: Bdf) -> bool {
        self.functions.iter().any(|function| function.bdf == bdf)
    }

    /// Returns true if the configuration space is at this guest-physical address.
    pub(crate) fn claims(&self, address: u64) -> bool {
        (ECAM..ECAM + ECAM_SIZE).contains(&address)
    }

    /// Reads `bytes` bytes of configuration space.
    pub(crate) fn read(&self, address: u64, bytes: u64) -> u64 {
        let config = self.config_of_vm();
        config.read(&self.bus.ecam, address - ECAM, bytes)
    }

    /// Writes `bytes` bytes of configuration space.
    pub(crate) fn write(&self, address: u64, bytes: u64, value: u64) {
        let mut config = self.config_of_vm();
        config.write(&self.bus.ecam, address - ECAM, bytes, value);
    }

    /// Locks the configuration space for the VM, once no function's MSIs are held back. The VM
    /// would read a mask that is not its own, and write it back.
    fn config_of_vm(&self) -> MutexGuard<'_, ConfigSpace> {
        loop {
            let config = self.config.lock();
            // Relaxed: ordered by the lock.
            if !self.held.load(Ordering::Relaxed) {
                return config;
            }
            drop(config);
            core::hint::spin_loop();
        }
    }

    /// Returns the functions' numbers at a controller.
    fn ids<'a>(&'a self, map: &'a IdMap) -> impl Iterator<Item = u32> + 'a {
        let functions = self.functions.iter();
        functions.filter_map(|function| map.id_of(function.bdf))
    }
}

/// Returns the pages of the functions' registers.
pub(crate) fn registers(functions: &[Function]) -> impl Iterator<Item = &Range<usize>> {
    let bars = functions.iter().flat_map(|function| &function.bars);
    bars.map(|bar| &bar.mmio)
}
