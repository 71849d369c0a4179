//! The state of a VM after reset.

use alloc::vec::Vec;

use crate::config::Config;
use crate::cpu_interface::vmcr;
use crate::intid::{Affinity, IntId};
use crate::state::{
    ExtendedState, InterruptState, ItsState, SpiState, VcpuState, VmState, flags, version_of,
};
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
        let first = config.vcpus.first().copied();
        let spi = SpiState {
            interrupt: LEVEL,
            router: first.map_or(0, Affinity::mpidr),
            active_on: None,
        };
        Self {
            version: version_of(config),
            group_enables: 0,
            propbaser: 0,
            spis: alloc::vec![spi; config.spis as usize],
            vcpus: (config.vcpus.iter().enumerate())
                .map(|(index, affinity)| VcpuState::after_reset(*affinity, index == 0))
                .collect(),
            lpis: Vec::new(),
            its: config.its.iter().map(|_| ItsState::after_reset()).collect(),
            extended: ExtendedState {
                spis: alloc::vec![spi; config.extended_spis as usize],
                ppis: alloc::vec![
                    LEVEL;
                    config.vcpus.len().saturating_mul(config.extended_ppis as usize)
                ],
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
