//! The embedder's side of the guest's vGIC: the [`Host`] of a guest with the whole machine.
//!
//! vCPU n runs on CPU n. Every interrupt of the machine is the guest's, with its own INTID. SPIs
//! and PPIs are enabled, configured and routed in the physical controller as in the virtual one. An
//! event that the guest maps in a virtual ITS is mapped in the physical ITS, to an LPI of the
//! hypervisor's choice.
#![expect(unsafe_code)]
// UNSAFETY: reads the guest's memory, which the guest writes.

use alloc::collections::BTreeMap;

use spin::Mutex;
use vgic::intid::{CpuId, DeviceId, EventId, IntId, ItsId, VcpuId};
use vgic::{BadAddress, Host, PhysicalInterrupt};

use crate::cpu::hyp_timer;
use crate::cpu::percpu::PerCpu;
use crate::gic::Gic;
use crate::gic::lpi::MsiSource;
use crate::gic::redistributor::Redistributor;
use crate::memory::ranges::Pages;
use crate::println;

/// The first PPI.
const FIRST_PPI: u32 = 16;

/// The machine, as the vGIC uses it.
pub(crate) struct PassthroughHost {
    /// Physical interrupt controller.
    pub(crate) gic: Gic,
    /// The guest's RAM, mapped by identity.
    memory: Pages,
    /// Events mapped in the physical ITSes, by ITS, DeviceID and EventID.
    mirror: Mutex<BTreeMap<(u8, u32, u32), Mirrored>>,
    /// Lock of the configuration registers, each of which holds the fields of several SPIs.
    configuration: Mutex<()>,
}

/// Event in a physical ITS.
#[derive(Clone, Copy)]
struct Mirrored {
    lpi: u32,
    cpu: usize,
}

impl PassthroughHost {
    /// Returns a host with the controller `gic`, for a guest with the RAM `memory`.
    pub(crate) fn new(gic: Gic, memory: Pages) -> Self {
        Self {
            gic,
            memory,
            mirror: Mutex::new(BTreeMap::new()),
            configuration: Mutex::new(()),
        }
    }

    /// Returns true if the machine has this SPI. The guest has more SPIs.
    fn has_spi(&self, intid: IntId) -> bool {
        self.gic.distributor.spis().contains(&intid.raw())
    }

    /// Returns true if the guest may have the physical PPI. The hypervisor's own PPIs are not the
    /// guest's.
    pub(crate) fn is_guest_ppi(&self, ppi: u32) -> bool {
        ppi >= FIRST_PPI && ppi != self.gic.maintenance() && ppi != hyp_timer::PPI
    }

    /// Deactivates the guest's PPIs of CPU `cpu`: those that came while the vCPU was off, and that
    /// nobody has been given.
    pub(crate) fn deactivate_ppis(&self, cpu: usize) {
        let ppis = (0..IntId::FIRST_SPI).filter(|ppi| self.is_guest_ppi(*ppi));
        let mask = ppis.fold(0, |mask, ppi| mask | 1 << ppi);
        self.gic.redistributor(cpu).deactivate(mask);
    }

    /// Returns the redistributor of a CPU. The numbers of CPUs are their indices.
    fn redistributor(&self, cpu: CpuId) -> &Redistributor {
        self.gic.redistributor(usize::from(cpu.0))
    }
}

impl Host for PassthroughHost {
    fn kick(&self, cpu: CpuId, _vcpu: VcpuId) {
        self.gic.kick(usize::from(cpu.0));
    }

    fn wake(&self, vcpu: VcpuId) {
        // The interrupt that led here has woken the vCPU of this CPU, which checks again.
        if vcpu != PerCpu::current().vcpu {
            self.gic.kick(vcpu.index());
        }
    }

    fn read_memory(&self, gpa: u64, buffer: &mut [u8]) -> Result<(), BadAddress> {
        let start = usize::try_from(gpa).map_err(|_| BadAddress)?;
        let end = start.checked_add(buffer.len()).ok_or(BadAddress)?;
        if !self.memory.contains(&(start..end)) {
            return Err(BadAddress);
        }
        // Tables and commands are aligned, and read by double words.
        // SAFETY: any eight bytes are a valid `u64`.
        let (before, words, _) = unsafe { buffer.align_to_mut::<u64>() };

        let mut done = 0;
        if start.is_multiple_of(size_of::<u64>()) && before.is_empty() {
            done = size_of_val(words);
            for (address, word) in (start..).step_by(size_of::<u64>()).zip(words) {
                // SAFETY: the address is in RAM of the guest, mapped by identity. The read is
                // volatile because the guest may write at the same time; then any value will do.
                *word = unsafe { (address as *const u64).read_volatile() };
            }
        }

        for (address, byte) in (start + done..end).zip(&mut buffer[done..]) {
            // SAFETY: the address is in RAM of the guest, mapped by identity. The read is volatile
            // because the guest may write at the same time; then any value will do.
            *byte = unsafe { (address as *const u8).read_volatile() };
        }
        Ok(())
    }

    fn write_memory(&self, gpa: u64, bytes: &[u8]) -> Result<(), BadAddress> {
        let start = usize::try_from(gpa).map_err(|_| BadAddress)?;
        let end = start.checked_add(bytes.len()).ok_or(BadAddress)?;
        if !self.memory.contains(&(start..end)) {
            return Err(BadAddress);
        }
        for (address, byte) in (start..end).zip(bytes) {
            // SAFETY: the address is in RAM of the guest, mapped by identity, and nothing of hyp's
            // is there. The write is volatile because the guest may access it at the same time.
            unsafe { (address as *mut u8).write_volatile(*byte) };
        }
        Ok(())
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
            Some(vcpu) if self.is_guest_ppi(intid.raw()) => {
                self.gic.redistributor(vcpu.index()).enable(intid.raw(), on);
            }
            _ => {}
        }
    }

    fn configured(&self, vcpu: Option<VcpuId>, intid: IntId, edge: bool) {
        // The trigger of a PPI is fixed by the CPU's design.
        if vcpu.is_none() && self.has_spi(intid) {
            let _one_at_a_time = self.configuration.lock();
            self.gic.distributor.configure(intid.raw(), edge);
        }
    }

    fn routed(&self, intid: IntId, target: Option<VcpuId>) {
        if let Some(target) = target.filter(|_| self.has_spi(intid)) {
            let affinity = self.gic.affinity(target.index());
            self.gic.distributor.route(intid.raw(), affinity);
        }
    }

    fn device_mapped(&self, its: ItsId, device: DeviceId, event_bits: u8) {
        if let Some(physical) = self.gic.its.get(usize::from(its.0))
            && let Err(error) = physical.map_device(device.0, event_bits.into())
        {
            // The guest has mapped a device that the machine cannot have.
            println!(
                "hyp: device {:#x} is not passed through: {error:?}",
                device.0
            );
        }
    }

    fn device_unmapped(&self, its: ItsId, device: DeviceId) {
        if let Some(physical) = self.gic.its.get(usize::from(its.0)) {
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
        let Some(physical) = self.gic.its.get(usize::from(its.0)) else {
            return;
        };

        let mut mirror = self.mirror.lock();
        let key = (its.0, device.0, event.0);
        let old = mirror.get(&key).copied();
        // The virtual event has no target: the physical interrupt may go to any CPU, and the vGIC
        // keeps it.
        let cpu = target.map_or_else(|| old.map_or(0, |old| old.cpu), VcpuId::index);

        let lpi = match old {
            Some(old) => {
                if old.cpu != cpu {
                    physical.move_event(device.0, event.0, old.cpu, cpu);
                }
                old.lpi
            }
            None => {
                let source = MsiSource {
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

        mirror.insert(key, Mirrored { lpi, cpu });
    }

    fn event_unmapped(&self, its: ItsId, device: DeviceId, event: EventId) {
        let key = (its.0, device.0, event.0);
        let Some(old) = self.mirror.lock().remove(&key) else {
            return;
        };
        if let Some(physical) = self.gic.its.get(usize::from(its.0)) {
            physical.unmap_event(device.0, event.0, old.cpu);
        }
        self.gic.lpis.release(old.lpi);
    }
}
