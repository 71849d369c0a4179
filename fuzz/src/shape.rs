//! VMs of several sizes, and the bounds on the library's allocations for their guests.

use vgic::Config;
use vgic::config::ItsConfig;
use vgic::intid::Affinity;

use crate::memory::BASE;

/// The valid bit of an ITS's table, collection, or device.
pub(crate) const VALID: u64 = 1 << 63;
/// The indirect bit: a table of two levels.
pub(crate) const INDIRECT: u64 = 1 << 62;
/// Address of the guest's device table.
pub(crate) const DEVICE_TABLE: u64 = BASE + 0x8000;
/// Heap outside every quota: the epoch's garbage, the host's record, and data of the run.
const SLACK: isize = 2 << 20;

/// Size of a VM, and value of its guest's device table register.
pub struct Shape(pub(crate) Config, pub(crate) u64);

impl Shape {
    /// Returns the shape of the given number.
    #[must_use]
    pub fn new(number: u8) -> Self {
        let affinity = |n: usize| Affinity::new(0, 0, (n / 32) as u8, (n % 32) as u8);
        let vcpus = match number {
            // An SGI to all others has a second slice.
            0x7f => 600,
            _ if number % 4 == 2 => 1,
            _ => 3,
        };

        // vCPU 2 is beyond the first 16 of Aff0.
        let affinities =
            (0..vcpus).map(|n| affinity(if n == 2 { 18 } else { n + usize::from(n >= 18) }));
        let mut config = Config::new(affinities.collect());

        let its = |base, bits, max_devices, max_events, collections| ItsConfig {
            device_bits: bits,
            event_bits: bits.min(16),
            max_devices,
            max_events,
            collections,
            ..ItsConfig::at(base)
        };

        let bases = [0x0808_0000, 0x1808_0000];
        (config.spis, config.lpis) = (64, 256);
        config.its = bases.map(|base| its(base, 16, 3, 256, 4)).to_vec();

        match number % 4 {
            1 => {
                (config.spis, config.lpis) = (988, 0x1_0000);
                (config.extended_spis, config.extended_ppis) = (1024, 64);
                config.its = bases.map(|base| its(base, 32, 64, 0x2_0000, 512)).to_vec();
            }
            2 => {
                (config.spis, config.lpis) = (32, 32);
                config.its = vec![its(bases[0], 1, 1, 2, 1)];
            }
            3 if number != 0x7f => {
                (config.spis, config.lpis) = (0, 0);
                (config.extended_spis, config.extended_ppis) = (64, 32);
                config.its.clear();
            }
            _ => {}
        }

        if number != 0x7f {
            config.max_vcpus += 2;
            config.redistributors[0].count += 2;
        }

        let table = match number >> 5 {
            1 => INDIRECT | DEVICE_TABLE,
            // Pages of 64 KiB, overlapping the configuration table.
            2 => 0x200 | BASE,
            _ => DEVICE_TABLE,
        };
        Self(config, VALID | table)
    }
}

/// Returns the bytes that a guest may make the library allocate: the formula of SECURITY.md.
pub(crate) fn allowed(config: &Config) -> isize {
    const NODE: isize = 2048 + 64;
    let itses = config.its.iter().map(|its| {
        let levels = isize::from(its.device_bits.div_ceil(8));
        let (devices, events) = (its.max_devices as isize, its.max_events as isize);
        // 64 bytes of an event if it is direct.
        devices * (256 + (levels - 1) * NODE) + events * (16 + 64)
    });
    let lpis = config.lpis as isize;
    SLACK + itses.sum::<isize>() + lpis * 160 + (lpis / 256 + 1) * NODE
}
