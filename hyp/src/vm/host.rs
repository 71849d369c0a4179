//! The embedder's side of a VM's vGIC: its [`Host`].
//!
//! Events that the guest maps in a virtual ITS for a device of its own are mapped in the physical
//! ITS, to an LPI of the hypervisor's choice. The VM with the whole machine has every interrupt of
//! the machine, with its own INTID. Its SPIs and PPIs are enabled, configured and routed in the
//! physical controller as in the virtual one, and its vCPU n runs on CPU n. Another VM has the PPIs
//! of its timers, on the CPU that runs the vCPU.

use alloc::collections::{BTreeMap, BTreeSet};
use core::mem;
use core::ops::Range;

use spin::Mutex;
use vgic::gicv4::Gicv4;
use vgic::intid::{CpuId, DeviceId, EventId, IntId, ItsId, VcpuId};
use vgic::{BadAddress, Host, PhysicalInterrupt};

use super::options::Direct;
use super::{Extent, Vm};
use crate::cpu::hyp_timer;
use crate::gic::its::Its;
use crate::gic::lpi::MsiSource;
use crate::gic::redistributor::Redistributor;
use crate::gic::{self, Gic};
use crate::println;
use crate::schedule;
use crate::vcpu::{Vcpu, interrupts};

/// The machine, as a VM's vGIC uses it.
pub(crate) struct VmHost {
    vm: &'static Vm,
    vcpus: &'static [Vcpu],
    pub(super) gic: &'static Gic,
    /// True if devices reach the VM's vCPUs directly.
    is_direct: bool,
    /// SPIs of the machine that are the VM's.
    spis: Range<u32>,
    /// PPIs of each CPU that are its vCPU's, one bit each.
    ppis: u32,
    locks: Locks,
}

/// Locks, in cache lines apart from the fields that every kick reads.
#[repr(align(128))]
struct Locks {
    mirror: Mutex<Mirror>,
    /// Lock of the configuration registers, each of which holds the fields of several SPIs.
    configuration: Mutex<()>,
}

/// Mappings of the virtual ITSes that the physical ones have too.
#[derive(Default)]
pub(crate) struct Mirror {
    /// Devices, by ITS and DeviceID.
    devices: BTreeSet<(u8, u32)>,
    /// Events, by ITS, DeviceID and EventID.
    events: BTreeMap<(u8, u32, u32), Mirrored>,
}

/// Event in a physical ITS.
#[derive(Clone, Copy)]
struct Mirrored {
    lpi: u32,
    cpu: usize,
}

impl VmHost {
    /// Returns the host of a VM's interrupt controller, in whose place the one with this `mirror`
    /// was.
    pub(crate) fn new(vm: &'static Vm, mirror: Mirror) -> Self {
        let gic = gic::get();
        // Nothing but a device of the machine's sends MSIs that can be direct.
        let has_devices = vm.extent == Extent::Whole || vm.devices.is_some();
        let own = 1 << gic.maintenance() | 1 << hyp_timer::PPI;
        let (spis, ppis) = match vm.extent {
            Extent::Whole => (gic.distributor.spis(), u32::MAX << IntId::FIRST_PPI & !own),
            Extent::Part => (
                0..0,
                interrupts::TIMERS.map(|timer| 1 << timer).iter().sum(),
            ),
        };
        Self {
            vm,
            vcpus: vm.vcpus(),
            gic,
            is_direct: gic.has_virtual_lpis() && vm.direct != Direct::Off && has_devices,
            spis,
            ppis,
            locks: Locks {
                mirror: Mutex::new(mirror),
                configuration: Mutex::new(()),
            },
        }
    }

    /// Returns the VM.
    #[inline]
    pub(crate) fn vm(&self) -> &'static Vm {
        self.vm
    }

    /// Takes what is mapped in the physical ITSes, for the controller that comes in the place of
    /// this one. It stays mapped whatever this one unmaps.
    pub(super) fn take_mirror(&self) -> Mirror {
        mem::take(&mut *self.locks.mirror.lock())
    }

    /// Returns the SPIs of the machine that are the VM's.
    pub(super) fn spis(&self) -> Range<u32> {
        self.spis.clone()
    }

    /// Returns true if the VM has the physical SPI of this number. The guest has more SPIs.
    fn has_spi(&self, intid: IntId) -> bool {
        self.spis.contains(&intid.raw())
    }

    /// Returns true if the VM's vCPUs have the physical PPI of this number. The guest may have
    /// extended ones, which the machine's are not connected to.
    pub(super) fn has_ppi(&self, ppi: u32) -> bool {
        self.ppis.checked_shr(ppi).is_some_and(|ppis| ppis & 1 != 0)
    }

    /// Deactivates the PPIs of CPU number `cpu` that its vCPU has: those that came while the vCPU
    /// was off, and that nobody has been given.
    pub(crate) fn deactivate_ppis(&self, cpu: usize) {
        self.gic.redistributor(cpu).deactivate(self.ppis);
    }

    /// Returns the physical ITS for a device of the VM.
    fn physical_its(&self, its: ItsId, device: DeviceId) -> Option<&Its> {
        let is_owned = match self.vm.extent {
            Extent::Whole => true,
            Extent::Part => (self.vm.devices.as_ref()).is_some_and(|devices| devices.has(device.0)),
        };
        self.gic.its.get(usize::from(its.0)).filter(|_| is_owned)
    }

    /// Returns true if the device is the VM's, and mapped in the physical ITS.
    pub(super) fn is_mirrored(&self, its: ItsId, device: DeviceId) -> bool {
        let mirror = self.locks.mirror.lock();
        mirror.devices.contains(&(its.0, device.0))
    }

    /// Unmaps an event in the physical ITS, whose device sends none, on the CPU number `cpu`, the
    /// calling one. Returns true if its LPI was pending. Another CPU that has acknowledged the LPI
    /// injects the event.
    pub(super) fn take_event(
        &self,
        its: ItsId,
        device: DeviceId,
        event: EventId,
        cpu: usize,
    ) -> bool {
        let key = (its.0, device.0, event.0);
        let Some(old) = self.locks.mirror.lock().events.remove(&key) else {
            return false;
        };
        let pending = self.physical_its(its, device).is_some_and(|physical| {
            self.gic.lpis.configure(old.lpi, true, true);
            physical.take_event(device.0, event.0, old.lpi, old.cpu, cpu)
        });
        self.gic.lpis.retire(old.lpi);
        pending
    }

    /// Returns the redistributor of a CPU. The numbers of CPUs are their indices.
    pub(super) fn redistributor(&self, cpu: CpuId) -> &Redistributor {
        self.gic.redistributor(usize::from(cpu.0))
    }
}

impl Host for VmHost {
    fn kick(&self, cpu: CpuId, vcpu: VcpuId) {
        self.vcpus[vcpu.index()].delay.begin();
        self.gic.kick(usize::from(cpu.0));
    }

    fn wake(&self, vcpu: VcpuId) {
        let vcpu = &self.vcpus[vcpu.index()];
        vcpu.delay.begin();
        schedule::wake(vcpu);
    }

    fn read_memory(&self, gpa: u64, buffer: &mut [u8]) -> Result<(), BadAddress> {
        self.vm.memory.read(gpa, buffer).ok_or(BadAddress)
    }

    fn write_memory(&self, gpa: u64, bytes: &[u8]) -> Result<(), BadAddress> {
        self.vm.memory.write(gpa, bytes).ok_or(BadAddress)
    }

    fn deactivate(&self, physical: PhysicalInterrupt) {
        match physical {
            PhysicalInterrupt::Ppi { cpu, intid } => {
                self.redistributor(cpu).deactivate(1 << intid.raw());
            }
            PhysicalInterrupt::Spi { intid } => self.gic.distributor.deactivate(intid.raw()),
        }
    }

    fn is_pending(&self, physical: PhysicalInterrupt) -> bool {
        match physical {
            PhysicalInterrupt::Ppi { cpu, intid } => {
                self.redistributor(cpu).is_pending(intid.raw())
            }
            PhysicalInterrupt::Spi { intid } => self.gic.distributor.is_pending(intid.raw()),
        }
    }

    fn enabled(&self, vcpu: Option<VcpuId>, intid: IntId, on: bool) {
        match vcpu {
            None if self.has_spi(intid) => self.gic.distributor.enable(intid.raw(), on),
            // vCPU n is on CPU n. The timers' interrupts of other VMs are always enabled.
            Some(vcpu) if self.vm.extent == Extent::Whole && self.has_ppi(intid.raw()) => {
                self.gic.redistributor(vcpu.index()).enable(intid.raw(), on);
            }
            _ => {}
        }
    }

    fn configured(&self, vcpu: Option<VcpuId>, intid: IntId, edge: bool) {
        // The trigger of a PPI is fixed by the CPU's design.
        if vcpu.is_none() && self.has_spi(intid) {
            let _one_at_a_time = self.locks.configuration.lock();
            self.gic.distributor.configure(intid.raw(), edge);
        }
    }

    fn routed(&self, intid: IntId, target: Option<VcpuId>) {
        let Some(target) = target else {
            return;
        };
        if self.has_spi(intid) {
            let affinity = self.gic.affinity(target.index());
            self.gic.distributor.route(intid.raw(), affinity);
        } else if let Some(frame) = &self.vm.msi_frame {
            frame.route(intid.raw(), self.vcpus[target.index()].entity.cpu());
        }
    }

    fn gicv4(&self) -> Option<&dyn Gicv4> {
        self.is_direct.then_some(self as &dyn Gicv4)
    }

    fn device_mapped(&self, its: ItsId, device: DeviceId, event_bits: u8) {
        let Some(physical) = self.physical_its(its, device) else {
            return;
        };
        let mut mirror = self.locks.mirror.lock();
        if mirror.devices.contains(&(its.0, device.0)) {
            return;
        }
        match physical.map_device(device.0, event_bits.into()) {
            Ok(()) => {
                mirror.devices.insert((its.0, device.0));
            }
            // The guest has mapped a device that the machine cannot have.
            Err(error) => println!(
                "hyp: device {:#x} is not passed through: {error:?}",
                device.0
            ),
        }
    }

    fn device_unmapped(&self, its: ItsId, device: DeviceId) {
        let was_mapped = self.locks.mirror.lock().devices.remove(&(its.0, device.0));
        if let Some(physical) = self.physical_its(its, device).filter(|_| was_mapped) {
            physical.unmap_device(device.0);
        }
    }

    fn event_mapped(
        &self,
        its: ItsId,
        device: DeviceId,
        event: EventId,
        _lpi: IntId,
        target: Option<VcpuId>,
    ) {
        let Some(physical) = self.physical_its(its, device) else {
            return;
        };

        let mut mirror = self.locks.mirror.lock();
        let key = (its.0, device.0, event.0);
        let old = mirror.events.get(&key).copied();
        // The virtual event has no target: the physical interrupt may go to any CPU, and the vGIC
        // keeps it.
        let cpu = match target {
            Some(target) => self.vcpus[target.index()].entity.cpu(),
            None => old.map_or(0, |old| old.cpu),
        };

        let lpi = match old {
            Some(old) => {
                if old.cpu != cpu {
                    physical.move_event(device.0, event.0, old.cpu, cpu);
                }
                old.lpi
            }
            None => {
                let source = MsiSource {
                    vm: self.vm.index as u16,
                    its: its.0,
                    device: device.0,
                    event: event.0,
                };
                let Some(lpi) = self.gic.lpis.allocate(source) else {
                    println!("hyp: no LPI left for device {:#x}", device.0);
                    return;
                };
                if let Err(error) = physical.map_event(device.0, event.0, lpi, cpu) {
                    self.gic.lpis.release(lpi);
                    println!(
                        "hyp: event {} of device {:#x} is not passed through: {error:?}",
                        event.0, device.0
                    );
                    return;
                }
                lpi
            }
        };

        self.gic.lpis.set_target(lpi, target.map(VcpuId::index));
        mirror.events.insert(key, Mirrored { lpi, cpu });
    }

    fn event_unmapped(&self, its: ItsId, device: DeviceId, event: EventId) {
        let key = (its.0, device.0, event.0);
        let Some(old) = self.locks.mirror.lock().events.remove(&key) else {
            return;
        };
        if let Some(physical) = self.physical_its(its, device) {
            physical.unmap_event(device.0, event.0, old.cpu);
        }
        self.gic.lpis.release(old.lpi);
    }
}
