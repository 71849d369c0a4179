//! The state of a VM after reset.

use alloc::vec::Vec;

use crate::config::Config;
use crate::cpu_interface::vmcr;
use crate::intid::{Affinity, IntId};
use crate::state::{
    ExtendedState, InterruptState, ItsState, SpiState, VcpuState, VmState, flags, version_of,
};
use crate::vm::gicv2::SGIS;
use crate::vm::its::baser::{Baser, TableType};

/// An SPI or PPI.
const LEVEL: InterruptState = InterruptState {
    flags: flags::LEVEL,
    priority: 0,
};

impl VmState {
    /// Returns the state of a VM that has just been made from a configuration.
    #[must_use]
    pub fn after_reset(config: &Config) -> Self {
        let spi = SpiState {
            interrupt: LEVEL,
            router: config.first_router().unwrap_or(0),
            active_on: None,
        };
        Self {
            version: version_of(config),
            group_enables: 0,
            propbaser: 0,
            spis: alloc::vec![spi; config.spis as usize],
            vcpus: (config.vcpus.iter().enumerate())
                .map(|(index, affinity)| VcpuState::after_reset(*affinity, index == 0))
                .map(|vcpu| match config.gicv2 {
                    None => vcpu,
                    Some(_) => vcpu.of_gicv2(),
                })
                .collect(),
            lpis: Vec::new(),
            its: config.its.iter().map(|_| ItsState::after_reset()).collect(),
            extended: ExtendedState {
                spis: alloc::vec![spi; config.extended_spis as usize],
                ppis: alloc::vec![
                    LEVEL;
                    config.vcpus.len().saturating_mul(config.extended_ppis as usize)
                ],
                sgi_sources: match config.gicv2 {
                    None => Vec::new(),
                    Some(_) => alloc::vec![[0; SGIS]; config.vcpus.len()],
                },
            },
        }
    }
}

impl VcpuState {
    /// Returns the state of a vCPU that has just been added, powered on or off.
    #[must_use]
    pub fn after_reset(affinity: Affinity, is_on: bool) -> Self {
        let mut private = [LEVEL; IntId::PRIVATE as usize];
        for sgi in private.iter_mut().take(IntId::FIRST_PPI as usize) {
            sgi.flags = 0;
        }
        Self {
            affinity: Some(affinity.mpidr()),
            is_on,
            processor_sleep: true,
            enable_lpis: false,
            pendbaser: 0,
            private,
            vmcr: vmcr::reset(5),
            active_priorities: [[0; 4]; 2],
        }
    }
}

impl VcpuState {
    /// Returns the state of a vCPU after reset with a GICv2: SGIs are always enabled, and Group 0
    /// is signalled as IRQ.
    fn of_gicv2(mut self) -> Self {
        for sgi in self.private.iter_mut().take(SGIS) {
            sgi.flags |= flags::ENABLED;
        }
        self.processor_sleep = false;
        self.vmcr &= !vmcr::VFIQEN;
        self
    }
}

impl ItsState {
    /// Returns the state of an ITS after reset.
    #[must_use]
    pub fn after_reset() -> Self {
        Self {
            is_enabled: false,
            cbaser: 0,
            cwriter: 0,
            creadr: 0,
            device_table: Baser::new(TableType::Devices).get(),
            collection_table: Baser::new(TableType::Collections).get(),
            collections: Vec::new(),
            devices: Vec::new(),
        }
    }
}
