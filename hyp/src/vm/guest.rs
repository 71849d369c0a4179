//! The guest: one Linux, or another kernel that boots like Linux on this machine.
#![expect(unsafe_code)]
// UNSAFETY: the exit path assumes, without a check, that the guest has been created.

use alloc::boxed::Box;
use alloc::vec::Vec;

use spin::Once;
use vgic::config::{ItsConfig, LPIS_OF_16_BITS, RedistributorRegion};
use vgic::cpu_interface::ich::Ich;
use vgic::epoch::Domain;
use vgic::intid::{Affinity, CpuId, IntId};
use vgic::{Config, Cpu, Vgic};

use super::passthrough_host::PassthroughHost;
use super::psci;
use crate::cpu::hyp_timer;
use crate::cpu::percpu::{self, PerCpu};
use crate::machine::Machine;
use crate::memory::stage2::Stage2;
use crate::vcpu::interrupts;
use crate::vcpu::power::Power;

/// The guest's interrupt controller.
pub(crate) type Controller = Vgic<PassthroughHost>;

/// The guest's machine.
pub(crate) struct Guest {
    /// Memory and devices.
    pub(crate) stage2: Stage2,
    /// Interrupt controller. Lives until [`shutdown`] takes it apart.
    controller: &'static Controller,
    /// Epoch domain of the readers of unlinked objects.
    pub(crate) domain: Domain,
}

static GUEST: Once<Guest> = Once::new();

/// Creates the guest: its memory, and an interrupt controller that looks like the machine's.
///
/// # Panics
/// If the machine's controller cannot be emulated.
pub(crate) fn init(machine: &Machine, stage2: Stage2, host: PassthroughHost) {
    GUEST.call_once(|| {
        let config = vgic_config(machine, &host);
        let domain = Domain::new();
        let controller = Vgic::new(&domain, config, host)
            .unwrap_or_else(|error| panic!("no interrupt controller for the guest: {error}"));
        connect_interrupts(&controller, &domain);
        Guest {
            stage2,
            controller: Box::leak(Box::new(controller)),
            domain,
        }
    });
}

/// Returns a configuration like the controller in the device tree, with every SPI of the
/// architecture.
fn vgic_config(machine: &Machine, host: &PassthroughHost) -> Config {
    let cpus = machine.cpus.iter();
    let affinities: Vec<_> = cpus.map(|&mpidr| Affinity::from_mpidr(mpidr)).collect();
    let mut config = Config::new(affinities);

    config.distributor = machine.gic.distributor.start as u64;
    let stride = vgic::config::REDISTRIBUTOR_STRIDE;
    let regions = machine.gic.redistributors.iter();
    config.redistributors = regions
        .map(|region| RedistributorRegion {
            base: region.start as u64,
            count: region.len() / stride as usize,
        })
        .collect();

    config.maintenance =
        IntId::ppi(machine.gic.maintenance).expect("the maintenance interrupt is a PPI");
    if !host.gic.its.is_empty() {
        config.lpis = LPIS_OF_16_BITS;
        let frames = machine.gic.its.iter();
        config.its = frames
            .map(|frame| ItsConfig::at(frame.start as u64))
            .collect();
    }
    config
}

/// Connects every SPI of the machine, and every PPI that is not the hypervisor's, to the guest's
/// interrupt of the same number. The guest's other SPIs have no physical counterpart.
fn connect_interrupts(controller: &Controller, domain: &Domain) {
    // The CPUs register later.
    let local = (domain.register(CpuId(0))).expect("no CPU has registered yet");
    let pin = local.pin();
    for spi in controller
        .host()
        .gic
        .distributor
        .spis()
        .filter_map(IntId::spi)
    {
        controller
            .connect_spi(&pin, spi, spi)
            .expect("the controller has every SPI");
    }

    for cpu in 0..controller.vcpu_count() {
        let host = controller.host();
        let ppis = (0..IntId::PRIVATE).filter(|ppi| host.is_guest_ppi(*ppi));
        for ppi in ppis.filter_map(IntId::ppi) {
            controller
                .connect_ppi(&pin, interrupts::vcpu_of(cpu), ppi, ppi)
                .expect("every vCPU has every PPI");
        }
    }
}

/// Returns the guest.
///
/// # Panics
/// Before [`init`].
#[inline]
pub(crate) fn get() -> &'static Guest {
    GUEST
        .get()
        .expect("the guest is created before a CPU runs it")
}

/// Returns the guest, on a CPU that runs one of its vCPUs.
///
/// # Safety
/// [`init`] has been called.
#[inline]
pub(crate) unsafe fn get_unchecked() -> &'static Guest {
    // SAFETY: by the caller's promise, the guest has been created.
    unsafe { GUEST.get_unchecked() }
}

impl Guest {
    /// Returns the guest's interrupt controller.
    #[inline]
    pub(crate) fn vgic(&self) -> &'static Controller {
        self.controller
    }

    /// Prepares the calling CPU, whose data is `cpu`, to run a vCPU.
    pub(crate) fn bring_up_cpu(&self, cpu: &PerCpu, interface: Ich) {
        let local = (self.domain.register(CpuId(cpu.index as u16)))
            .unwrap_or_else(|error| panic!("CPU {}: {error}", cpu.index));
        let gic = &self.vgic().host().gic;
        gic.start_cpu(cpu.index);
        hyp_timer::stop();
        (gic.redistributor(cpu.index)).enable(hyp_timer::PPI, true);
        cpu.set_vgic_cpu(Cpu::new(local, interface));
    }
}

impl psci::Vcpus for Guest {
    fn find(&self, affinity: u64) -> Option<(usize, &Power)> {
        percpu::find(affinity).map(|cpu| (cpu.index, &cpu.power))
    }

    fn kick(&self, cpu: usize) {
        self.vgic().host().gic.kick(cpu);
    }

    fn can_suspend_system(&self) -> bool {
        true
    }
}
