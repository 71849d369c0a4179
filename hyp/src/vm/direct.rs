//! Direct injection on a machine with GICv4: the physical ITSes and redistributors, as the vGIC of
//! a VM uses them.

use tock_registers::interfaces::{Readable, Writeable};
use tock_registers::registers::ReadWrite;
use vgic::gicv4::command::Command;
use vgic::gicv4::{Gicv4, ItsFault, PhysicalDevice, PhysicalIts, VpeId};
use vgic::intid::{CpuId, DeviceId, EventId, ItsId, VcpuId};

use super::host::VmHost;
use crate::cpu::this_cpu::ThisCpu;
use crate::gic::lpi::MsiSource;

impl VmHost {
    fn virtual_lpi_registers(&self, cpu: CpuId) -> [&ReadWrite<u64>; 2] {
        let registers = self.redistributor(cpu).virtual_lpis();
        registers.expect("the redistributors of a GICv4 have them")
    }
}

impl Gicv4 for VmHost {
    fn its_count(&self) -> usize {
        self.gic.its.len()
    }

    fn vmovp_is_shared(&self) -> bool {
        self.gic.its.iter().all(|its| its.is_vmovp_shared())
    }

    fn execute(&self, its: PhysicalIts, commands: &[Command]) -> Result<(), ItsFault> {
        let its = self.gic.its.get(usize::from(its.0)).ok_or(ItsFault)?;
        its.execute(commands).then_some(()).ok_or(ItsFault)
    }

    fn rdbase(&self, its: PhysicalIts, cpu: CpuId) -> u64 {
        self.gic.its[usize::from(its.0)].target(usize::from(cpu.0))
    }

    fn allocate_vpe(&self, vcpu: Option<VcpuId>) -> Option<VpeId> {
        let gic = self.gic;
        let doorbell = match vcpu {
            Some(vcpu) => {
                let doorbell = gic.lpis.allocate(MsiSource {
                    vm: self.vm().index as u16,
                    its: MsiSource::DOORBELL,
                    device: vcpu.index() as u32,
                    event: 0,
                })?;
                gic.lpis.configure(doorbell, false, false);
                doorbell
            }
            None => VpeId::NO_DOORBELL,
        };
        let Some(number) = gic.virtual_lpis.allocate() else {
            if vcpu.is_some() {
                gic.lpis.release(doorbell);
            }
            return None;
        };
        Some(VpeId { number, doorbell })
    }

    fn free_vpe(&self, vpe: VpeId) {
        if vpe.doorbell != VpeId::NO_DOORBELL {
            self.gic.lpis.release(vpe.doorbell);
        }
        self.gic.virtual_lpis.free(vpe.number);
    }

    fn allocate_table(&self, bytes: usize) -> Option<u64> {
        Some(self.gic.virtual_lpis.allocate_table(bytes))
    }

    fn free_table(&self, table: u64, _bytes: usize) {
        self.gic.virtual_lpis.free_table(table);
    }

    fn fill_table(&self, table: u64, offset: usize, bytes: usize, value: u8) {
        let tables = &self.gic.virtual_lpis;
        tables.fill_table(table, offset, bytes, value);
    }

    fn vpendbaser(&self, cpu: CpuId) -> u64 {
        let [_, vpendbaser] = self.virtual_lpi_registers(cpu);
        vpendbaser.get()
    }

    fn set_vpendbaser(&self, cpu: CpuId, value: u64) {
        let [_, vpendbaser] = self.virtual_lpi_registers(cpu);
        vpendbaser.set(value);
    }

    fn vpropbaser(&self, cpu: CpuId) -> u64 {
        let [vpropbaser, _] = self.virtual_lpi_registers(cpu);
        vpropbaser.get()
    }

    fn set_vpropbaser(&self, cpu: CpuId, value: u64) {
        let [vpropbaser, _] = self.virtual_lpi_registers(cpu);
        vpropbaser.set(value);
    }

    fn set_doorbell(&self, vpe: VpeId, cpu: CpuId, on: bool) {
        self.gic.lpis.configure(vpe.doorbell, on, false);
        if let Some(its) = self.gic.its.first() {
            its.invalidate_all(usize::from(cpu.0));
        }
    }

    fn device(&self, its: ItsId, device: DeviceId) -> Option<PhysicalDevice> {
        let changes = self.vm().changes.as_ref();
        let is_on = changes.is_none_or(|changes| changes.is_on(device));
        (is_on && self.is_mirrored(its, device)).then_some(PhysicalDevice {
            its: PhysicalIts(its.0),
            device: device.0,
        })
    }

    fn hold(&self, _its: ItsId, device: DeviceId) {
        if let Some(devices) = &self.vm().devices {
            devices.mask(device.0, true);
        }
    }

    fn release(&self, _its: ItsId, device: DeviceId) {
        if let Some(devices) = &self.vm().devices {
            devices.mask(device.0, false);
        }
    }

    fn unmap_event(&self, its: ItsId, device: DeviceId, event: EventId) -> bool {
        let cpu = ThisCpu::get().shared.index;
        self.take_event(its, device, event, cpu)
    }
}
