//! Every mistake in a configuration has its error, and every getter answers.

use super::*;

fn config(vcpus: u8) -> Config {
    Config::new((0..vcpus).map(|n| Affinity::new(0, 0, 0, n)).collect()).with_its(0x0808_0000)
}

#[test]
fn redistributors_fill_the_regions_in_order() {
    let base = |config: &Config, n| config.redistributor_base(VcpuId::new(n).unwrap());
    let large = config(200);
    assert_eq!(base(&large, 0), Some(0x080a_0000));
    assert_eq!(base(&large, 122), Some(0x080a_0000 + 122 * 0x2_0000));
    assert_eq!(base(&large, 123), Some(0x40_0000_0000));
    assert_eq!(base(&large, 199), Some(0x40_0000_0000 + 76 * 0x2_0000));
    assert_eq!(base(&large, 200), None);

    let mut regions = config(4);
    regions.redistributors = [(0x1000_0000, 1), (0x2000_0000, 0), (0x3000_0000, 2)]
        .map(|(base, count)| RedistributorRegion { base, count })
        .to_vec();
    assert_eq!(base(&regions, 0), Some(0x1000_0000));
    assert_eq!(base(&regions, 1), Some(0x3000_0000));
    assert_eq!(base(&regions, 2), Some(0x3002_0000));
    assert_eq!(base(&regions, 3), None);

    // No configuration, valid or not, makes it panic.
    regions.redistributors[0] = RedistributorRegion {
        base: u64::MAX,
        count: usize::MAX,
    };
    assert_eq!(base(&regions, 511), Some(u64::MAX));
}

/// A mistake made in a valid configuration.
type Spoil = fn(&mut Config);

#[test]
fn the_number_of_lpis_gives_the_bits_of_an_intid() {
    for (lpis, bits, end) in [
        (0, 10, 8192),
        (32, 14, 8224),
        (0x2000, 14, 0x4000),
        (0x8000, 16, 0xa000),
        (LPIS_OF_16_BITS, 16, 0x1_0000),
        (0x1_0000, 17, 0x1_2000),
    ] {
        let config = Config {
            lpis,
            ..Config::new(config(1).vcpus)
        };
        assert_eq!(config.validate(), Ok(()), "{lpis} LPIs");
        assert_eq!(
            (config.intid_bits(), config.lpi_end()),
            (bits, end),
            "{lpis} LPIs"
        );
    }
}

#[test]
fn extended_interrupts_need_bits_of_an_intid_unless_lpis_have_more() {
    for (spis, ppis, bits, of_lpis) in [
        (0, 32, 11, 14),
        (0, 64, 11, 14),
        (32, 0, 13, 14),
        (1024, 64, 13, 14),
    ] {
        let extended = |lpis| Config {
            extended_spis: spis,
            extended_ppis: ppis,
            lpis,
            ..Config::new(config(1).vcpus)
        };
        assert_eq!(extended(0).intid_bits(), bits);
        assert_eq!(extended(32).intid_bits(), of_lpis);
        assert_eq!(extended(LPIS_OF_16_BITS).intid_bits(), 16);
        assert!(extended(0).has_extended_range());
    }
    assert!(!config(1).has_extended_range());
}

#[test]
fn no_configuration_makes_a_getter_panic() {
    let last_lpi = 0_u32.wrapping_sub(IntId::FIRST_LPI);
    for (spis, lpis, bits) in [(u32::MAX, u32::MAX, 13), (0, last_lpi, 32)] {
        let config = Config {
            lpis,
            spis,
            ..config(1)
        };
        let _ = (config.spi_end(), config.lpi_end());
        let wild = Config {
            lpis: 0,
            extended_spis: u32::MAX - spis,
            extended_ppis: u32::MAX,
            ..config.clone()
        };
        let _ = (
            wild.intid_bits(),
            wild.extended_spi_end(),
            wild.extended_ppi_end(),
        );
        assert_eq!(config.intid_bits(), bits);
    }
}

#[test]
fn defaults_are_valid_and_each_mistake_has_its_error() {
    assert_eq!(config(4).validate(), Ok(()));
    assert_eq!(config(200).validate(), Ok(()));
    let extended = Config {
        extended_spis: 1024,
        extended_ppis: 64,
        maintenance: IntId::ppi(1119).unwrap(),
        ..config(4)
    };
    assert_eq!(extended.validate(), Ok(()));
    let cases: [(Spoil, ConfigError); 33] = [
        (|c| c.vcpus.clear(), ConfigError::VcpuCount(0)),
        (|c| c.max_vcpus = 3, ConfigError::MaxVcpus(3)),
        (|c| c.max_vcpus = 4096, ConfigError::MaxVcpus(4096)),
        (
            |c| c.vcpus[1] = c.vcpus[0],
            ConfigError::DuplicateAffinity(Affinity::new(0, 0, 0, 0)),
        ),
        (|c| c.spis = 33, ConfigError::SpiCount(33)),
        (|c| c.spis = 992, ConfigError::SpiCount(992)),
        (|c| c.extended_spis = 31, ConfigError::ExtendedSpiCount(31)),
        (
            |c| c.extended_spis = 1056,
            ConfigError::ExtendedSpiCount(1056),
        ),
        (|c| c.extended_ppis = 16, ConfigError::ExtendedPpiCount(16)),
        (|c| c.extended_ppis = 96, ConfigError::ExtendedPpiCount(96)),
        (
            |c| c.maintenance = IntId::ppi(1056).unwrap(),
            ConfigError::Maintenance(IntId::ppi(1056).unwrap()),
        ),
        (
            |c| {
                c.extended_ppis = 32;
                c.maintenance = IntId::ppi(1088).unwrap();
            },
            ConfigError::Maintenance(IntId::ppi(1088).unwrap()),
        ),
        (|c| c.lpis = 0x2_0000, ConfigError::LpiCount(0x2_0000)),
        (|c| c.lpis = 57_343, ConfigError::LpiCount(57_343)),
        (|c| c.lpis = u32::MAX, ConfigError::LpiCount(u32::MAX)),
        (|c| c.lpis = 0, ConfigError::ItsWithoutLpis),
        (
            |c| c.its = alloc::vec![c.its[0]; 17],
            ConfigError::ItsCount(17),
        ),
        (
            |c| c.vcpus = config(250).vcpus.repeat(17),
            ConfigError::VcpuCount(4250),
        ),
        (|c| c.lpis = 16, ConfigError::LpiCount(16)),
        (|c| c.its[0].event_bits = 17, ConfigError::Its(ItsId(0))),
        (|c| c.its[0].event_bits = 0, ConfigError::Its(ItsId(0))),
        (|c| c.its[0].device_bits = 33, ConfigError::Its(ItsId(0))),
        (|c| c.its[0].collections = 0, ConfigError::Its(ItsId(0))),
        (
            |c| c.its[0].collections = 0x1_0001,
            ConfigError::Its(ItsId(0)),
        ),
        (
            |c| c.maintenance = IntId::spi(32).unwrap(),
            ConfigError::Maintenance(IntId::spi(32).unwrap()),
        ),
        (
            |c| c.redistributors[0].count = 3,
            ConfigError::RedistributorRoom(3),
        ),
        (
            |c| c.redistributors = c.redistributors.repeat(65),
            ConfigError::RegionCount(65),
        ),
        (
            |c| {
                c.redistributors.push(RedistributorRegion {
                    base: 0x1_0000,
                    count: 0,
                })
            },
            ConfigError::RedistributorRoom(4),
        ),
        (
            |c| {
                c.redistributors =
                    alloc::vec![RedistributorRegion { base: 0x1_0000, count: usize::MAX }; 2]
            },
            ConfigError::Unaddressable(0x1_0000),
        ),
        (
            |c| c.distributor = 0x0800_1000,
            ConfigError::Unaligned(0x0800_1000),
        ),
        (
            |c| c.its[0].base = 0x000f_ffff_ffff_0000,
            ConfigError::Unaddressable(0x000f_ffff_ffff_0000),
        ),
        (
            |c| c.its[0].base = 0x0800_0000,
            ConfigError::Overlap(0x0800_0000, 0x0800_0000),
        ),
        (
            |c| c.its[0].base = 0x07ff_0000,
            ConfigError::Overlap(0x07ff_0000, 0x0800_0000),
        ),
    ];

    for (spoil, error) in cases {
        let mut config = config(4);
        spoil(&mut config);
        assert_eq!(config.validate(), Err(error), "{error}");
    }
}
