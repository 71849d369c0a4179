//! `ADDR` and `NR_IRQS`: where the frames are, and how many SPIs there are.

use alloc::vec::Vec;

use super::{Device, Errno, address};
use crate::config::{
    Config, DISTRIBUTOR_SIZE, ITS_SIZE, REDISTRIBUTOR_STRIDE, RedistributorRegion,
};

/// An address that has not been set, as it is read.
const UNDEFINED: u64 = u64::MAX;

/// SPIs of devices that are initialised without a number of interrupts.
const DEFAULT_SPIS: u32 = 224;

/// Most SPIs: 1,024 interrupts less the private and the special ones.
const MOST_SPIS: u32 = 988;

/// End of guest-physical addresses.
const END: u64 = 1 << 52;

/// Settings made by attributes so far.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Layout {
    distributor: Option<u64>,
    redistributors: Redistributors,
    its: Vec<Option<u64>>,
    spis: Option<u32>,
    is_initialised: bool,
}

/// Addresses of the redistributors. The two ways to give them are not mixed.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Redistributors {
    Undefined,
    /// One region for all vCPUs ([`address::REDIST`]).
    One(u64),
    /// Regions by index ([`address::REDIST_REGION`]).
    Regions(Vec<RedistributorRegion>),
}

impl Layout {
    /// Returns the layout of devices that have just been created, `its` of them ITSes.
    pub(super) fn new(its: usize) -> Self {
        Self {
            distributor: None,
            redistributors: Redistributors::Undefined,
            its: alloc::vec![None; its],
            spis: None,
            is_initialised: false,
        }
    }

    /// Returns the layout of a VM.
    pub(super) fn of(config: &Config) -> Self {
        Self {
            distributor: Some(config.distributor),
            redistributors: Redistributors::Regions(config.redistributors.clone()),
            its: config.its.iter().map(|its| Some(its.base)).collect(),
            spis: Some(config.spis),
            is_initialised: true,
        }
    }

    /// Returns whether registers have values.
    pub(super) fn is_initialised(&self) -> bool {
        self.is_initialised
    }

    /// Returns true once: the devices are initialised.
    pub(super) fn initialise(&mut self) -> bool {
        !core::mem::replace(&mut self.is_initialised, true)
    }

    /// Returns whether an ITS has its address.
    pub(super) fn has_its(&self, its: usize) -> bool {
        self.its.get(its).is_some_and(Option::is_some)
    }

    /// Returns the number of SPIs.
    pub(super) fn spis(&self) -> u32 {
        self.spis.unwrap_or(DEFAULT_SPIS)
    }

    /// Returns the number of interrupts: a multiple of 32.
    pub(super) fn irq_count(&self) -> u64 {
        u64::from(self.spis().next_multiple_of(32)).saturating_add(32)
    }

    /// Sets the number of interrupts: 64 to 1,024, a multiple of 32.
    pub(super) fn set_irq_count(&mut self, count: u64) -> Result<(), Errno> {
        if !matches!(count, 64..=1024) || count & 31 != 0 {
            return Err(Errno::Inval);
        }
        if self.is_initialised || self.spis.is_some() {
            return Err(Errno::Busy);
        }
        self.spis = Some((count as u32).saturating_sub(32).min(MOST_SPIS));
        Ok(())
    }

    /// Returns an address. `value` has the index of a region.
    pub(super) fn address(&self, device: Device, attr: u64, value: u64) -> Result<u64, Errno> {
        Ok(match (device, attr) {
            (Device::Its(its), _) => {
                let its = self.its.get(usize::from(its.0)).ok_or(Errno::Nxio)?;
                its.unwrap_or(UNDEFINED)
            }
            (_, address::DIST) => self.distributor.unwrap_or(UNDEFINED),
            (_, address::REDIST) => match &self.redistributors {
                Redistributors::Undefined => UNDEFINED,
                Redistributors::One(base) => *base,
                Redistributors::Regions(regions) => {
                    regions.first().map_or(UNDEFINED, |region| region.base)
                }
            },
            _ => {
                let index = value & 0xfff;
                let (base, count) = match &self.redistributors {
                    Redistributors::One(base) if index == 0 => (*base, 0),
                    Redistributors::Regions(regions) => {
                        let region = regions.get(index as usize).ok_or(Errno::Noent)?;
                        (region.base, region.count as u64)
                    }
                    _ => return Err(Errno::Noent),
                };
                count << 52 | base | index
            }
        })
    }

    /// Sets an address that is not set.
    pub(super) fn set_address(
        &mut self,
        device: Device,
        attr: u64,
        value: u64,
    ) -> Result<(), Errno> {
        match (device, attr) {
            (Device::Its(its), _) => {
                let its = self.its.get_mut(usize::from(its.0)).ok_or(Errno::Nxio)?;
                place(its, value, ITS_SIZE)
            }
            (_, address::DIST) => place(&mut self.distributor, value, DISTRIBUTOR_SIZE),
            (_, address::REDIST) => match &self.redistributors {
                Redistributors::One(_) => Err(Errno::Exist),
                Redistributors::Regions(_) => Err(Errno::Inval),
                Redistributors::Undefined => {
                    place(&mut None, value, REDISTRIBUTOR_STRIDE)?;
                    self.redistributors = Redistributors::One(value);
                    Ok(())
                }
            },
            _ => self.add_region(value),
        }
    }

    /// Adds a region of redistributors: the index is that of the last region, and 1.
    fn add_region(&mut self, value: u64) -> Result<(), Errno> {
        let (count, base, flags) = (value >> 52, value & 0x000f_ffff_ffff_0000, value & 0xf000);
        let regions = match &self.redistributors {
            Redistributors::One(_) => return Err(Errno::Inval),
            Redistributors::Undefined => &[][..],
            Redistributors::Regions(regions) => regions,
        };
        if count == 0 || flags != 0 || value & 0xfff != regions.len() as u64 {
            return Err(Errno::Inval);
        }

        place(&mut None, base, count.saturating_mul(REDISTRIBUTOR_STRIDE))?;

        let mut regions = regions.to_vec();
        regions.push(RedistributorRegion {
            base,
            count: count as usize,
        });
        self.redistributors = Redistributors::Regions(regions);
        Ok(())
    }

    /// Returns `config` with the addresses and the number of SPIs.
    pub(super) fn configure(self, config: Config) -> Result<Config, Errno> {
        if !self.is_initialised {
            return Err(Errno::Nxio);
        }

        let mut its = config.its.clone();
        for (its, base) in its.iter_mut().zip(&self.its) {
            its.base = base.ok_or(Errno::Nxio)?;
        }

        let config = Config {
            spis: self.spis(),
            distributor: self.distributor.ok_or(Errno::Nxio)?,
            redistributors: match self.redistributors {
                Redistributors::Undefined => return Err(Errno::Nxio),
                Redistributors::One(base) => alloc::vec![RedistributorRegion {
                    base,
                    count: config.max_vcpus,
                }],
                Redistributors::Regions(regions) => regions,
            },
            its,
            ..config
        };

        config.validate().map_err(|_| Errno::Inval)?;
        Ok(config)
    }
}

/// Sets the address of a frame of `size` bytes.
fn place(address: &mut Option<u64>, value: u64, size: u64) -> Result<(), Errno> {
    if address.is_some() {
        return Err(Errno::Exist);
    }
    if value & 0xffff != 0 {
        return Err(Errno::Inval);
    }
    if value.checked_add(size).is_none_or(|end| end > END) {
        return Err(Errno::TooBig);
    }
    *address = Some(value);
    Ok(())
}
