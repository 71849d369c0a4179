//! Bus traits of other hypervisors, over a `Vgic`: each shim is a few lines, and called from a
//! thread that runs no vCPU.

mod common;

use std::sync::Arc;

use common::its::Driver;
use common::{GICD, GITS, Machine, TestHost, affinity};
use vgic::config::GITS_TRANSLATER;
use vgic::epoch::CpuLocal;
use vgic::intid::{CpuId, DeviceId, IntId, VcpuId};
use vgic::{Blocked, Vgic};

/// A device on a bus of guest-physical addresses, whose accesses cannot fail or be tried again.
trait MmioDevice {
    fn read(&self, base: u64, offset: u64, data: &mut [u8]);
    fn write(&self, base: u64, offset: u64, data: &[u8]);
}

/// The interrupt lines of a board.
trait IrqChip {
    fn set_spi_irq(&self, irq: u32, high: bool) -> Result<(), String>;
}

/// The target of a device's messages.
trait MsiSink {
    fn signal_msi(&self, devid: u32, addr: u64, data: u32) -> bool;
}

/// A thread of the hypervisor with a VM in reach.
struct Thread {
    vm: Arc<Vgic<TestHost>>,
    local: CpuLocal,
}

impl MmioDevice for Thread {
    fn read(&self, base: u64, offset: u64, data: &mut [u8]) {
        let claimed = self.vm.bus_read(&self.local.pin(), base + offset, data);
        assert_eq!(claimed, Ok(true), "the bus sends only what the vGIC claims");
    }

    fn write(&self, base: u64, offset: u64, data: &[u8]) {
        let claimed = self.vm.bus_write(&self.local.pin(), base + offset, data);
        assert_eq!(claimed, Ok(true), "the bus sends only what the vGIC claims");
    }
}

impl IrqChip for Thread {
    fn set_spi_irq(&self, irq: u32, high: bool) -> Result<(), String> {
        let intid = IntId::spi(32 + irq).ok_or("no such line")?;
        let set = self.vm.set_spi_line(&self.local.pin(), intid, high);
        set.map_err(|error| error.to_string())
    }
}

impl MsiSink for Thread {
    fn signal_msi(&self, devid: u32, addr: u64, data: u32) -> bool {
        let pin = self.local.pin();
        self.vm
            .signal_msi(&pin, addr, DeviceId(devid), data)
            .is_ok()
    }
}

#[test]
fn bus_traits_of_other_hypervisors_are_a_few_lines() {
    let machine = Machine::new(1);
    let driver = Driver::new(&machine);
    driver.mapd(9, 1);
    driver.map(9, 0, 8192, 0);
    machine.set_spi(0, 0x100, 40);
    let Machine { domain, vm, cpus } = machine;
    let vm = Arc::new(vm);
    let v0 = VcpuId::new(0).unwrap();
    let cpu = &cpus[0];

    std::thread::scope(|scope| {
        scope.spawn(|| {
            let local = domain.register(CpuId(99)).unwrap();
            let thread = Thread {
                vm: vm.clone(),
                local,
            };
            let mut enabled = [0xff; 4];
            thread.read(GICD, 0x104, &mut enabled);
            assert_eq!(enabled, (1_u32 << 8).to_le_bytes());
            let mut router = [0xff; 8];
            thread.read(GICD, 0x6000 + 40 * 8, &mut router);
            assert_eq!(router, affinity(0).mpidr().to_le_bytes());
            let mut odd = [0xff; 3];
            thread.read(GICD, 0x104, &mut odd);
            assert_eq!(odd, [0; 3], "no register has three bytes");
            thread.write(GICD, 0x104, &[0, 2, 0, 0]);
            thread.write(GICD, 0x104, &[0xff; 3]);
            let outside = vm.bus_read(&thread.local.pin(), GICD - 4, &mut enabled);
            assert_eq!(outside, Ok(false));

            thread.set_spi_irq(8, true).unwrap();
            assert!(thread.set_spi_irq(988, true).is_err());
            assert!(thread.signal_msi(9, GITS + GITS_TRANSLATER, 0));
            assert!(!thread.signal_msi(9, GITS, 0), "not GITS_TRANSLATER");
        });
    });

    let pin = cpu.pin();
    vm.enter(&pin, v0).unwrap();
    let mut taken = [0; 2].map(|_: u32| {
        let intid = cpu.interface().read_iar1();
        cpu.interface().write_eoir1(intid);
        intid
    });
    taken.sort_unstable();
    assert_eq!(taken, [40, 8192]);
    vm.exit(&pin, v0).unwrap();
    assert_eq!(
        vm.block(&pin, v0),
        Ok(Blocked::No),
        "the line is still high"
    );
    // The SPI that the bus has enabled at its second byte.
    let mut enabled = [0; 4];
    assert_eq!(vm.bus_read(&pin, GICD + 0x104, &mut enabled), Ok(true));
    assert_eq!(enabled, [0, 3, 0, 0]);
}
