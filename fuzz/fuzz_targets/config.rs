//! Configurations of a careless embedder. Each is refused with an error, or makes a working VM.
#![no_main]

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use vgic::config::{ItsConfig, RedistributorRegion};
use vgic::epoch::Domain;
use vgic::intid::{Affinity, IntId};
use vgic::{Config, Vgic};
use vgic_fuzz::host::HostileHost;

#[derive(Arbitrary, Debug)]
struct Input {
    /// Number of vCPUs with distinct affinities, before those of `affinities`.
    count: u16,
    affinities: Vec<u32>,
    max_vcpus: usize,
    spis: u32,
    extended_spis: u32,
    extended_ppis: u32,
    distributor: u64,
    regions: Vec<(u64, usize)>,
    its: Vec<(u64, u8, u8, u32, u32, u32)>,
    lpis: u32,
    maintenance: u32,
    /// A bit for each field: set keeps a working value.
    sane: u8,
}

fuzz_target!(|input: Input| {
    let counted = (0..u32::from(input.count) % 600).map(|n| (n & !0xf) << 4 | n & 0xf);
    let affinities = counted.chain(input.affinities.iter().copied());
    let mut config =
        Config::new(affinities.map(Affinity::from_packed).collect()).with_its(0x1808_0000);

    let wild = |bit: u32| input.sane >> bit & 1 == 0;
    if wild(0) {
        config.max_vcpus = input.max_vcpus;
    }
    if wild(1) {
        config.spis = input.spis;
    }
    if wild(7) {
        config.extended_spis = input.extended_spis;
        config.extended_ppis = input.extended_ppis;
    }
    if wild(2) {
        config.distributor = input.distributor;
    }
    if wild(3) {
        let regions = input.regions.iter();
        config.redistributors = regions
            .map(|&(base, count)| RedistributorRegion { base, count })
            .collect();
    }
    if wild(4) {
        config.its = input
            .its
            .iter()
            .map(
                |&(base, device_bits, event_bits, max_devices, max_events, collections)| {
                    ItsConfig {
                        base,
                        device_bits,
                        event_bits,
                        max_devices,
                        max_events,
                        collections,
                    }
                },
            )
            .collect();
    }
    if wild(5) {
        config.lpis = input.lpis;
    }
    if let (true, Some(intid)) = (wild(6), IntId::new(input.maintenance)) {
        config.maintenance = intid;
    }

    let frames = config.frames().count();
    let verdict = config.validate();
    let description = verdict.map_err(|error| error.to_string());
    match Vgic::new(&Domain::new(), config, HostileHost::default()) {
        Ok(vm) => {
            assert_eq!(description, Ok(()));
            assert!(vm.config().frames().all(|(base, _)| vm.claims(base)));
            assert!(frames >= 2);
        }
        Err(error) => assert_eq!(description, Err(error.to_string())),
    }
});
