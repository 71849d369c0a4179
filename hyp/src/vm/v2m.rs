//! The GICv2m frame of a guest with a GICv2, which has no ITS: MSIs of PCI functions make SPIs
//! pending.
//!
//! Functions find the physical ITS where the guest finds the frame: `MSI_SETSPI_NS` has the offset
//! of `GITS_TRANSLATER` in the page. The SPI's number, which a function writes, is the EventID.
//! Each function has an event for each SPI of the frame, mapped in the physical ITS to an LPI of
//! the hypervisor's. The CPU that takes the LPI makes the SPI pending.

use alloc::collections::BTreeSet;
use alloc::vec::Vec;
use core::ops::Range;

use spin::Mutex;
use vgic::config::{GITS_TRANSLATER, V2M_SETSPI, V2M_SIZE, V2mConfig};

use crate::gic::its::{Its, ItsError};
use crate::gic::lpi::MsiSource;
use crate::gic::{self, Gic};
use crate::println;

const _: () = assert!(GITS_TRANSLATER % V2M_SIZE == V2M_SETSPI);

/// Most SPIs of the frame.
const MOST_SPIS: u32 = 64;

/// End of the SPIs that Linux accepts in a frame.
const END: u32 = 1019;

/// A guest's GICv2m frame, as PCI functions use it.
pub(crate) struct MsiFrame {
    its: &'static Its,
    /// DeviceIDs of the functions whose events are mapped.
    devices: Vec<u32>,
    spis: Range<u32>,
    /// CPU that takes the LPIs of each SPI.
    cpus: Mutex<Vec<usize>>,
}

/// Returns the configuration of a frame whose SPIs begin at `first`. The guest finds the frame in
/// the page of `GITS_TRANSLATER` of the ITS at `its`. Returns `None` if there are no SPIs left.
pub(crate) fn config(its: u64, first: u32) -> Option<V2mConfig> {
    let spis = END.saturating_sub(first).min(MOST_SPIS);
    (spis > 0).then_some(V2mConfig {
        base: (its + GITS_TRANSLATER) / V2M_SIZE * V2M_SIZE,
        first_spi: first,
        spis,
    })
}

impl MsiFrame {
    /// Maps the events of the functions with these DeviceIDs for VM number `vm`, whose frame has
    /// this configuration, in the first ITS. A function whose events cannot be mapped has no MSIs,
    /// and a line on the console says so.
    ///
    /// # Panics
    /// If the machine has no ITS.
    pub(crate) fn new(vm: usize, config: &V2mConfig, devices: BTreeSet<u32>) -> Self {
        let gic = gic::get();
        let its = gic.its.first().expect("the machine has an ITS");
        let spis = config.intids();

        let is_mapped = |&device: &u32| match map(gic, its, vm, device, spis.clone()) {
            Ok(()) => true,
            Err(error) => {
                println!("hyp: device {device:#x} has no MSIs: {error:?}");
                false
            }
        };

        Self {
            its,
            devices: devices.into_iter().filter(is_mapped).collect(),
            cpus: Mutex::new(spis.clone().map(|_| 0).collect()),
            spis,
        }
    }

    /// Makes CPU number `cpu` take the LPIs of an SPI, if the SPI is one of the frame's.
    pub(crate) fn route(&self, spi: u32, cpu: usize) {
        let mut cpus = self.cpus.lock();
        let place = spi.checked_sub(self.spis.start);
        let Some(old) = place.and_then(|place| cpus.get_mut(place as usize)) else {
            return;
        };

        if *old != cpu {
            for &device in &self.devices {
                self.its.move_event(device, spi, *old, cpu);
            }
            *old = cpu;
        }
    }
}

/// Maps an event of a device for each SPI, to the first CPU.
fn map(gic: &Gic, its: &Its, vm: usize, device: u32, spis: Range<u32>) -> Result<(), ItsError> {
    its.map_device(device, u32::BITS - (spis.end - 1).leading_zeros())?;
    for spi in spis {
        let source = MsiSource {
            vm: vm as u16,
            its: MsiSource::SPI,
            device,
            event: spi,
        };

        let lpi = gic.lpis.allocate(source).ok_or(ItsError::Event)?;
        its.map_event(device, spi, lpi, 0)?;
    }
    Ok(())
}
