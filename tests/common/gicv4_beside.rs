//! Views of the GICv4 in software, for tests that have a reference or a bound beside it.

use std::cell::Cell;
use std::sync::Arc;

use vgic::gicv4::command::Command;
use vgic::gicv4::{Gicv4, Gicv41, ItsFault, PhysicalDevice, PhysicalIts, VpeId};
use vgic::intid::{CpuId, DeviceId, EventId, ItsId, VcpuId};

use super::{Model, Sent, ones, physical};

thread_local! {
    static WAITS: Cell<u64> = const { Cell::new(0) };
}

/// Returns the waits of this thread for the ITS so far.
pub fn waits() -> u64 {
    WAITS.get()
}

type OnUnmap = Box<dyn Fn(ItsId, DeviceId, EventId) + Send + Sync>;

/// The part of a machine's GICv4 that one of several VMs has: devices of its own.
pub struct Part {
    pub model: Arc<Model>,
    /// First DeviceID, at the physical ITS, of the VM.
    first: u32,
    /// Called for an event that is unmapped, to become direct.
    on_unmap: OnUnmap,
}

impl Part {
    /// DeviceIDs of a VM that may be direct.
    const DEVICES: u32 = 0x1000;

    /// Returns the part of the `n`th VM.
    pub fn new(
        model: Arc<Model>,
        n: u32,
        on_unmap: impl Fn(ItsId, DeviceId, EventId) + Send + Sync + 'static,
    ) -> Self {
        Self {
            model,
            first: n << 20,
            on_unmap: Box::new(on_unmap),
        }
    }

    fn device_of(&self, device: DeviceId) -> DeviceId {
        DeviceId(self.first | device.0)
    }

    /// Makes a device's MSIs direct, or ends that, for the library to ask.
    pub fn set_device(&self, its: ItsId, device: DeviceId, on: bool) {
        let device = physical(its, self.device_of(device));
        self.model.set_device(device, on);
    }

    /// Sends an MSI. Returns false if the handler has to inject it.
    pub fn sends_directly(&self, its: ItsId, device: DeviceId, event: EventId) -> bool {
        let direct = device.0 < Self::DEVICES;
        let device = physical(its, self.device_of(device));
        // Another thread may hold the device's MSIs.
        direct && self.model.send(device, event.0) != Sent::Software
    }
}

impl Gicv4 for Part {
    fn v4_1(&self) -> Option<&dyn Gicv41> {
        self.model.v4_1()
    }
    fn its_count(&self) -> usize {
        self.model.its_count()
    }
    fn vmovp_is_shared(&self) -> bool {
        self.model.vmovp_is_shared()
    }
    fn execute(&self, its: PhysicalIts, commands: &[Command]) -> Result<(), ItsFault> {
        WAITS.set(WAITS.get() + 1);
        self.model.execute(its, commands)
    }
    fn rdbase(&self, its: PhysicalIts, cpu: CpuId) -> u64 {
        self.model.rdbase(its, cpu)
    }
    fn allocate_vpe(&self, vcpu: Option<VcpuId>) -> Option<VpeId> {
        self.model.allocate_vpe(vcpu)
    }
    fn free_vpe(&self, vpe: VpeId) {
        self.model.free_vpe(vpe);
    }
    fn allocate_table(&self, bytes: usize) -> Option<u64> {
        self.model.allocate_table(bytes)
    }
    fn free_table(&self, table: u64, bytes: usize) {
        self.model.free_table(table, bytes);
    }
    fn fill_table(&self, table: u64, offset: usize, bytes: usize, value: u8) {
        self.model.fill_table(table, offset, bytes, value);
    }
    fn vpendbaser(&self, cpu: CpuId) -> u64 {
        self.model.vpendbaser(cpu)
    }
    fn set_vpendbaser(&self, cpu: CpuId, value: u64) {
        self.model.set_vpendbaser(cpu, value);
    }
    fn vpropbaser(&self, cpu: CpuId) -> u64 {
        self.model.vpropbaser(cpu)
    }
    fn set_vpropbaser(&self, cpu: CpuId, value: u64) {
        self.model.set_vpropbaser(cpu, value);
    }
    fn set_doorbell(&self, vpe: VpeId, cpu: CpuId, on: bool) {
        self.model.set_doorbell(vpe, cpu, on);
    }
    fn device(&self, its: ItsId, device: DeviceId) -> Option<PhysicalDevice> {
        let direct = device.0 < Self::DEVICES;
        let device = self.model.device(its, self.device_of(device));
        device.filter(|_| direct)
    }
    fn hold(&self, its: ItsId, device: DeviceId) {
        self.model.hold(its, self.device_of(device));
    }
    fn release(&self, its: ItsId, device: DeviceId) {
        self.model.release(its, self.device_of(device));
    }
    fn unmap_event(&self, its: ItsId, device: DeviceId, event: EventId) -> bool {
        (self.on_unmap)(its, device, event);
        self.model.unmap_event(its, self.device_of(device), event)
    }
}

impl Model {
    /// Returns the virtual LPI that the redistributor of `cpu` presents to the CPU interface, with
    /// its priority.
    pub fn presented(&self, cpu: usize) -> Option<(u32, u8)> {
        let mut state = self.0.lock().unwrap();
        let cpu = cpu as u16;
        let vpe = state.cpus.get(&cpu)?.resident?;
        let lpi = state.first(cpu, vpe)?;
        let byte = state.configuration(cpu, vpe, lpi);
        Some((lpi as u32, byte & 0xfc))
    }

    /// Takes the number of waits for the ITS since the last call, and of commands.
    pub fn take_work(&self) -> (u64, u64) {
        std::mem::take(&mut self.0.lock().unwrap().work)
    }

    /// Returns every pending virtual LPI, with the vCPU of its virtual PE.
    pub fn pending(&self) -> Vec<(Option<usize>, u32)> {
        let state = self.0.lock().unwrap();
        let mut found = Vec::new();
        for (number, vpe) in &state.vpes {
            let owner = state.owners.get(number).copied();
            let pending = ones(state.table(vpe.table));
            found.extend(pending.map(|vintid| (owner, vintid as u32)));
        }
        found
    }

    /// Returns true if an event of a device is direct.
    pub fn is_direct(&self, device: u32, event: u32) -> bool {
        let state = self.0.lock().unwrap();
        state.events.contains_key(&(device, event.into()))
    }

    /// Takes the vCPUs whose doorbell is pending and enabled.
    pub fn ring_vcpus(&self) -> Vec<usize> {
        let rung = self.ring();
        let state = self.0.lock().unwrap();
        rung.iter().map(|vpe| state.owners[vpe]).collect()
    }

    /// Has a device send an MSI when its MSIs are held next.
    pub fn send_at_hold(&self, device: u32, event: u32) {
        self.0.lock().unwrap().at_hold = Some((device, event.into()));
    }

    /// Takes the MSI that no hold has had sent yet.
    pub fn is_unsent(&self) -> bool {
        self.0.lock().unwrap().at_hold.take().is_some()
    }

    /// Takes the MSIs that were held, and then had no virtual LPI: those of the handler.
    pub fn take_released(&self) -> Vec<(u32, u32)> {
        std::mem::take(&mut self.0.lock().unwrap().by_software)
    }

    /// Sends an MSI that is not held. Returns true if it is pending as a virtual LPI.
    pub fn sends_directly(&self, device: u32, event: u32) -> bool {
        let sent = self.send(device, event);
        assert_ne!(sent, Sent::Held);
        sent == Sent::Direct
    }
}
