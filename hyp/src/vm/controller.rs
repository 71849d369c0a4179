//! The interrupt controller of a VM.

use alloc::boxed::Box;

use vgic::config::{
    GICV2_CPU_INTERFACE_SIZE, Gicv2Config, ItsConfig, LPIS_OF_16_BITS, REDISTRIBUTOR_STRIDE,
    RedistributorRegion,
};
use vgic::epoch::CpuPin;
use vgic::intid::{Affinity, IntId, VcpuId};
use vgic::{Config, Host, Vgic};

use super::Vm;
use super::host::{Mirror, VmHost};
use super::v2m;
use crate::gic;
use crate::machine::Machine;
use crate::println;

/// A VM's interrupt controller.
pub(crate) type Controller = Vgic<VmHost>;

/// Address of the ITS of a VM with a part of the machine, as on QEMU's `virt` board. The addresses
/// of the other frames, from [`Config::new`], are that board's too.
pub(crate) const ITS: u64 = 0x0808_0000;

/// Distance of a GICv2's CPU interface from its distributor, as on QEMU's `virt` board.
const CPU_INTERFACE: u64 = 0x1_0000;

/// Limits on the memory that the hypervisor allocates for the ITS of a VM with a part of the
/// machine, besides that on events.
const QUOTA: ItsConfig = ItsConfig {
    max_devices: 64,
    collections: 64,
    ..ItsConfig::at(ITS)
};

/// Number of LPIs of a VM with a part of the machine.
const LPIS: u32 = 8192;

/// vCPUs of a cluster: one write of `ICC_SGI1R_EL1` reaches as many.
const CLUSTER: usize = 16;

/// Returns the number of a vCPU.
pub(crate) fn vcpu_id(number: usize) -> VcpuId {
    VcpuId::new(number).expect("the vGIC has been made for this many vCPUs")
}

/// Returns a configuration like the controller in the device tree, with every SPI of the
/// architecture.
pub(crate) fn of_machine(machine: &Machine, has_its: bool) -> Config {
    let cpus = machine.cpus.iter();
    let mut config = Config::new(cpus.map(|&mpidr| Affinity::from_mpidr(mpidr)).collect());
    config.distributor = machine.gic.distributor.start as u64;
    let regions = machine.gic.redistributors.iter();
    config.redistributors = regions
        .map(|region| RedistributorRegion {
            base: region.start as u64,
            count: region.len() / REDISTRIBUTOR_STRIDE as usize,
        })
        .collect();

    config.maintenance =
        IntId::ppi(machine.gic.maintenance).expect("the maintenance interrupt is a PPI");
    if has_its {
        config.lpis = LPIS_OF_16_BITS;
        let frames = machine.gic.its.iter();
        config.its = frames
            .map(|frame| ItsConfig::at(frame.start as u64))
            .collect();
    }
    config
}

/// Returns the configuration of a GICv2 for the VM with the whole machine, with every SPI of the
/// architecture. The GICv2m frame, for the MSIs of devices at the first ITS if `has_its`, has SPIs
/// after the machine's own, if there are any.
///
/// # Panics
/// If the machine has too many CPUs for a GICv2, or no room for the CPU interface.
pub(crate) fn gicv2_of_machine(machine: &Machine, has_its: bool) -> Config {
    let mut config = of_machine(machine, false).with_gicv2();
    let cpu_interface = config.distributor + CPU_INTERFACE;
    let start = cpu_interface as usize;
    assert!(
        machine.is_free(&(start..start + GICV2_CPU_INTERFACE_SIZE as usize)),
        "no room for the CPU interface of a GICv2 at {start:#x}"
    );

    let first = gic::get().distributor.spis().end;
    let its = machine.gic.its.first().filter(|_| has_its);
    let v2m = its.and_then(|its| v2m::config(its.start as u64, first));
    config.gicv2 = Some(Gicv2Config {
        cpu_interface,
        v2m: v2m.into_iter().collect(),
    });
    (config.validate()).unwrap_or_else(|error| panic!("the guest's GICv2: {error}"));
    config
}

/// Returns the configuration for a VM with a part of the machine, with `vcpus` vCPUs and
/// at most so many `events` in the ITS.
pub(crate) fn of_part(vcpus: usize, events: u32) -> Config {
    let affinities = (0..vcpus).map(|number| {
        let [aff2, aff1] = [number >> 12, number >> 4].map(|field| field as u8);
        Affinity::new(0, aff2, aff1, (number % CLUSTER) as u8)
    });
    let mut config = Config::new(affinities.collect());
    // An operating system has a collection for each CPU.
    let collections = QUOTA.collections.max(vcpus as u32);
    config.its.push(ItsConfig {
        collections,
        max_events: events,
        ..QUOTA
    });
    config.lpis = LPIS;
    config
}

/// Returns the number of the vCPU with these affinity fields in such a configuration, or another
/// number if there is none.
pub(super) fn number_of_part(affinity: u64) -> usize {
    let field = |level: u32| (affinity >> (8 * level) & 0xff) as usize;
    field(2) << 12 | field(1) << 4 | field(0)
}

/// Creates the interrupt controller of a VM, in whose place the one with this `mirror` was.
///
/// # Panics
/// If the VM's configuration is refused.
pub(super) fn create(vm: &'static Vm, mirror: Mirror, pin: &CpuPin<'_>) -> Box<Controller> {
    let controller = Vgic::new(super::domain(), vm.config.clone(), VmHost::new(vm, mirror))
        .unwrap_or_else(|error| panic!("no interrupt controller for {}: {error}", vm.name));
    connect_interrupts(&controller, pin);
    if controller.host().gicv4().is_some() {
        for vcpu in vm.vcpus().iter().filter(|vcpu| vcpu.wants_direct()) {
            if let Err(error) = controller.set_direct_vcpu(pin, vcpu.id, true) {
                println!("hyp: {}: vCPU {}: {error}", vm.name, vcpu.id.index());
            }
        }
    }
    Box::new(controller)
}

/// Connects every SPI and PPI of the machine that is the VM's to the interrupt of the same number,
/// or of the VM's wiring. The VM's other interrupts have no physical counterpart.
fn connect_interrupts(controller: &Controller, pin: &CpuPin<'_>) {
    let host = controller.host();
    for spi in host.spis().filter_map(IntId::spi) {
        controller
            .connect_spi(pin, spi, spi)
            .expect("the controller has every SPI");
    }

    let wiring = host.vm().wiring;
    for vcpu in controller.vcpus() {
        let ppis = (0..IntId::PRIVATE).filter(|ppi| host.has_ppi(*ppi));
        for physical in ppis.filter_map(IntId::ppi) {
            let ppi = wiring.ppi(physical.raw()).expect("the guest's is a PPI");
            controller
                .connect_ppi(pin, vcpu, ppi, physical)
                .expect("every vCPU has every PPI");
        }
    }
}
