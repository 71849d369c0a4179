//! The description of the controller in the device tree and in ACPI tables: written by a crate that
//! embedders use, and read by another.
#![expect(unsafe_code)]
// UNSAFETY: the crate `acpi` reads a MADT behind a pointer, as firmware leaves it.

use std::pin::Pin;

use acpi::sdt::madt::{Madt, MadtEntry};
use acpi_tables::madt::{EnabledStatus, GicIts, GicMsi, GicVersion, Gicc, Gicd, Gicr, Trigger};
use acpi_tables::sdt::Sdt;
use acpi_tables::{Aml, AmlSink};
use dtoolkit::fdt::{Fdt, FdtNode};
use dtoolkit::{Node as _, Property as _};
use vgic::Config;
use vgic::config::{Gicv2Config, ITS_SIZE, ItsConfig, RedistributorRegion, V2mConfig};
use vgic::description::acpi::{MADT_REVISION, MADT_SIGNATURE, its_group, madt};
use vgic::description::device_tree::{Node, Value, gic_node, its_node, ppi_specifier, v2m_node};
use vgic::intid::{Affinity, IntId, ItsId};

/// Returns a configuration unlike the default in each field that a description shows.
fn config() -> Config {
    let affinities = [(0, 0, 0, 0), (0, 0, 1, 3), (7, 6, 5, 4)];
    let mut config = Config::new(
        affinities
            .map(|(aff3, aff2, aff1, aff0)| Affinity::new(aff3, aff2, aff1, aff0))
            .to_vec(),
    );
    config.distributor = 0x1_2345_0000;
    config.redistributors = [(0x2_0000_0000, 2), (0x4000_0000, 1)]
        .map(|(base, count)| RedistributorRegion { base, count })
        .to_vec();
    config.maintenance = IntId::ppi(29).unwrap();
    config.lpis = 0x4000;
    config.its = vec![ItsConfig::at(0x5000_0000), ItsConfig::at(0x3_0000_0000)];
    config.validate().unwrap();
    config
}

/// Returns a configuration with a GICv2 for three vCPUs, unlike the default in each field that a
/// description shows.
fn gicv2_config() -> Config {
    let affinities = [3, 0x1_0000, 7].map(Affinity::from_mpidr);
    let mut config = Config::new(affinities.to_vec()).with_gicv2();
    config.distributor = 0x1_2345_1000;
    let v2m = |base, first_spi, spis| V2mConfig {
        base,
        first_spi,
        spis,
    };
    config.gicv2 = Some(Gicv2Config {
        cpu_interface: 0x2_0000_3000,
        v2m: vec![v2m(0x3_0000_1000, 0x123, 0x45), v2m(0x4000_0000, 64, 1)],
    });
    config.validate().unwrap();
    config
}

// --- device tree ---------------------------------------------------------------------------------

/// Writes a node as an embedder does.
fn write(fdt: &mut vm_fdt::FdtWriter, node: &Node) {
    let begun = fdt.begin_node(&node.name).unwrap();
    for property in &node.properties {
        match &property.value {
            // The writer keeps account of handles.
            Value::Cells(cells) if property.name == "phandle" => fdt.property_phandle(cells[0]),
            Value::Empty => fdt.property_null(property.name),
            Value::Text(text) => fdt.property_string(property.name, text),
            Value::Cells(cells) => fdt.property_array_u32(property.name, cells),
        }
        .unwrap();
    }
    node.children.iter().for_each(|child| write(fdt, child));
    fdt.end_node(begun).unwrap();
}

/// Returns the blob of a tree with the controller of `config`.
fn tree(config: &Config) -> Vec<u8> {
    let mut fdt = vm_fdt::FdtWriter::new().unwrap();
    let root = fdt.begin_node("").unwrap();
    fdt.property_u32("#address-cells", 2).unwrap();
    fdt.property_u32("#size-cells", 2).unwrap();
    fdt.property_u32("interrupt-parent", 7).unwrap();
    write(&mut fdt, &gic_node(config, 7));
    fdt.end_node(root).unwrap();
    fdt.finish().unwrap()
}

fn compatible(node: &FdtNode<'_>, kind: &str) -> bool {
    let mut kinds = node.compatible().expect("a compatible");
    kinds.any(|known| known == kind)
}

fn frames(node: &FdtNode<'_>) -> Vec<(u64, u64)> {
    let regs = node.reg().unwrap().expect("a reg");
    regs.map(|reg| (reg.address().unwrap(), reg.size().unwrap()))
        .collect()
}

fn cell(node: &FdtNode<'_>, name: &str) -> u32 {
    let property = node.property(name).expect(name);
    property.value_as::<u32>().unwrap()
}

fn is_flag(node: &FdtNode<'_>, name: &str) -> bool {
    node.property(name).expect(name).value().is_empty()
}

#[test]
fn a_device_tree_reads_back_as_the_configuration() {
    let config = config();
    let blob = tree(&config);
    let fdt = Fdt::new(&blob).unwrap();

    let gic = fdt.find_node("/interrupt-controller@123450000").unwrap();
    assert!(compatible(&gic, "arm,gic-v3"));
    assert!(is_flag(&gic, "interrupt-controller") && is_flag(&gic, "ranges"));
    assert_eq!(
        [
            "#interrupt-cells",
            "#address-cells",
            "#size-cells",
            "phandle"
        ]
        .map(|n| cell(&gic, n)),
        [3, 2, 2, 7]
    );
    assert_eq!(cell(&gic, "#redistributor-regions"), 2);
    let cells: Vec<_> = config.frames().take(3).collect();
    assert_eq!(frames(&gic), cells);
    // PPI 13 is INTID 29; 4 is level-sensitive, active high.
    let interrupts = gic.property("interrupts").unwrap();
    assert_eq!(interrupts.value(), [0, 0, 0, 1, 0, 0, 0, 13, 0, 0, 0, 4]);

    let children: Vec<_> = gic.children().collect();
    let names: Vec<_> = children.iter().map(|its| its.name()).collect();
    assert_eq!(
        names,
        ["msi-controller@50000000", "msi-controller@300000000"]
    );
    for ((its, expected), handle) in children.iter().zip(&config.its).zip(8..) {
        assert!(compatible(its, "arm,gic-v3-its") && is_flag(its, "msi-controller"));
        assert_eq!((cell(its, "#msi-cells"), cell(its, "phandle")), (1, handle));
        assert_eq!(frames(its), [(expected.base, ITS_SIZE)]);
    }
}

#[test]
fn a_gicv2_in_a_device_tree_reads_back_as_the_configuration() {
    let config = gicv2_config();
    let blob = tree(&config);
    let fdt = Fdt::new(&blob).unwrap();

    let gic = fdt.find_node("/interrupt-controller@123451000").unwrap();
    assert!(compatible(&gic, "arm,cortex-a15-gic"));
    assert!(is_flag(&gic, "interrupt-controller") && is_flag(&gic, "ranges"));
    let numbers = [
        "#interrupt-cells",
        "#address-cells",
        "#size-cells",
        "phandle",
    ];
    assert_eq!(numbers.map(|name| cell(&gic, name)), [3, 2, 2, 7]);
    let distributor_and_cpu_interface = [(0x1_2345_1000, 0x1000), (0x2_0000_3000, 0x2000)];
    assert_eq!(frames(&gic), distributor_and_cpu_interface);
    for of_gicv3 in ["interrupts", "#redistributor-regions"] {
        assert!(gic.property(of_gicv3).is_none(), "{of_gicv3}");
    }

    let children: Vec<_> = gic.children().collect();
    let names: Vec<_> = children.iter().map(|v2m| v2m.name()).collect();
    assert_eq!(names, ["v2m@300001000", "v2m@40000000"]);
    for ((v2m, base), handle) in children.iter().zip([0x3_0000_1000, 0x4000_0000]).zip(8..) {
        assert!(compatible(v2m, "arm,gic-v2m-frame") && is_flag(v2m, "msi-controller"));
        assert_eq!(cell(v2m, "phandle"), handle);
        assert_eq!(frames(v2m), [(base, 0x1000)]);
    }

    let frame = &config.gicv2.as_ref().unwrap().v2m[0];
    assert_eq!(v2m_node(frame, None).property("phandle"), None);
}

#[test]
fn the_specifier_of_a_ppi_has_the_cpus_of_a_gicv2() {
    let timer = IntId::ppi(27).unwrap();
    assert_eq!(ppi_specifier(&config(), timer, 4), [1, 11, 4]);
    assert_eq!(ppi_specifier(&gicv2_config(), timer, 8), [1, 11, 0x708]);
    let cpus = |count| vec![Affinity::new(0, 0, 0, 0); count];
    for (count, mask) in [(1, 0x01), (8, 0xff)] {
        let config = Config::new(cpus(count)).with_gicv2();
        assert_eq!(ppi_specifier(&config, timer, 4), [1, 11, mask << 8 | 4]);
    }
}

#[test]
fn a_controller_without_its_has_no_children_and_an_its_may_lack_a_handle() {
    let plain = gic_node(&Config::new(vec![Affinity::new(0, 0, 0, 0)]), 1);
    assert_eq!(plain.name, "interrupt-controller@8000000");
    assert!(plain.children.is_empty());

    let its = its_node(&ItsConfig::at(0x0808_0000), None);
    assert_eq!(its.property("phandle"), None);
    let reg = its.property("reg").unwrap();
    assert_eq!(reg, &Value::Cells(vec![0, 0x0808_0000, 0, 0x2_0000]));
    assert_eq!(reg.to_bytes()[4..8], [0x08, 0x08, 0, 0]);
    let compatible = its.property("compatible").unwrap();
    assert_eq!(compatible.to_bytes(), b"arm,gic-v3-its\0");
}

// --- ACPI ----------------------------------------------------------------------------------------

/// Bytes of a table's header.
const HEADER: usize = 36;

/// Returns a MADT as an embedder writes it.
fn table(config: &Config) -> Sdt {
    let revision = MADT_REVISION;
    let mut table = Sdt::new(
        MADT_SIGNATURE,
        HEADER as u32,
        revision,
        *b"TESTER",
        *b"VGICTEST",
        1,
    );
    table.append_slice(&madt(config));
    table
}

#[test]
fn a_madt_reads_back_as_the_configuration() {
    let config = config();
    let table = table(&config);
    let bytes = table.as_slice();
    let sum = bytes.iter().fold(0_u8, |sum, byte| sum.wrapping_add(*byte));
    assert_eq!(sum, 0);

    // SAFETY: `Madt` has no alignment and any bits for its fields, and `bytes` has the bytes of the
    // whole table and outlives the reference.
    let madt = unsafe { Pin::new_unchecked(&*bytes.as_ptr().cast::<Madt>()) };
    assert_eq!({ madt.header.length } as usize, bytes.len());
    assert!(!madt.supports_8259());

    let (mut cpus, mut regions, mut its) = (Vec::new(), Vec::new(), Vec::new());
    let mut distributors = 0;
    for entry in madt.entries() {
        match entry {
            MadtEntry::Gicd(gicd) => {
                distributors += 1;
                assert_eq!({ gicd.physical_base_address }, config.distributor);
                assert_eq!((gicd.gic_version, { gicd.system_vector_base }), (3, 0));
            }
            MadtEntry::Gicc(gicc) => {
                assert_eq!({ gicc.flags }, 1, "enabled, and level-triggered interrupts");
                assert_eq!({ gicc.vgic_maintenance_interrupt }, 29);
                assert_eq!({ gicc.gicr_base_address }, 0, "the GICR structures have it");
                assert_eq!({ gicc.gic_registers_address }, 0);
                cpus.push(({ gicc.processor_uid }, { gicc.mpidr }));
            }
            MadtEntry::GicRedistributor(gicr) => {
                let length = u64::from(gicr.discovery_range_length);
                regions.push(({ gicr.discovery_range_base_address }, length));
            }
            MadtEntry::GicInterruptTranslationService(entry) => {
                its.push(({ entry.id }, { entry.physical_base_address }));
            }
            other => panic!("{other:?}"),
        }
    }

    assert_eq!(distributors, 1);
    assert_eq!(cpus, [(0, 0), (1, 0x103), (2, 0x07_0006_0504)]);
    assert_eq!(
        regions,
        [(0x2_0000_0000, 0x4_0000), (0x4000_0000, 0x2_0000)]
    );
    assert_eq!(its, [(0, 0x5000_0000), (1, 0x3_0000_0000)]);
}

/// Collects the bytes of the structures that the crate `acpi_tables` writes.
#[derive(Default)]
struct Bytes(Vec<u8>);

impl AmlSink for Bytes {
    fn byte(&mut self, byte: u8) {
        self.0.push(byte);
    }
}

#[test]
fn madt_structures_are_those_of_another_writer() {
    let config = config();
    let mut expected = Bytes(vec![0; 8]);
    Gicd::new(0, config.distributor, GicVersion::GICv3).to_aml_bytes(&mut expected);
    for (uid, affinity) in (0..).zip(&config.vcpus) {
        Gicc::new(EnabledStatus::Enabled)
            .cpu_interface_number(uid)
            .acpi_processor_uid(uid)
            .maintenance_interrupt(29, Trigger::Level)
            .mpidr(affinity.mpidr())
            .to_aml_bytes(&mut expected);
    }
    Gicr::new(0x2_0000_0000, 0x4_0000).to_aml_bytes(&mut expected);
    Gicr::new(0x4000_0000, 0x2_0000).to_aml_bytes(&mut expected);
    GicIts::new(0, 0x5000_0000).to_aml_bytes(&mut expected);
    GicIts::new(1, 0x3_0000_0000).to_aml_bytes(&mut expected);
    assert_eq!(madt(&config), expected.0);
}

/// Returns the bytes of the structures that another writer makes of a GICv2.
fn gicv2_structures(config: &Config) -> Vec<u8> {
    let mut expected = Bytes(vec![0; 8]);
    Gicd::new(0, config.distributor, GicVersion::GICv2).to_aml_bytes(&mut expected);
    for (uid, affinity) in (0..).zip(&config.vcpus) {
        Gicc::new(EnabledStatus::Enabled)
            .cpu_interface_number(uid)
            .acpi_processor_uid(uid)
            .base_address(0x2_0000_3000)
            .mpidr(affinity.mpidr())
            .to_aml_bytes(&mut expected);
    }

    let frames = [
        (0x3_0000_1000, [0x45, 0, 0x23, 0x01]),
        (0x4000_0000, [1, 0, 64, 0]),
    ];
    for (id, (base, spis)) in (0..).zip(frames) {
        let frame = GicMsi::new().gic_msi_frame_id(id).base_addr(base);
        frame.to_aml_bytes(&mut expected);
        // The writer has the flag 1 without the SPIs, or 0 with them; the flag says that they are
        // there (ACPI 6.5, table 5.41).
        let end = expected.0.len();
        expected.0[end - 4..].copy_from_slice(&spis);
    }
    expected.0
}

#[test]
fn a_madt_of_a_gicv2_has_the_cpu_interface_and_the_msi_frames() {
    let config = gicv2_config();
    assert_eq!(madt(&config), gicv2_structures(&config));
}

#[test]
fn an_its_group_names_its_itses() {
    // DEN 0049, tables 4 and 5: type, length, revision, identifier, mappings, their offset; number
    // of ITSes and their identifiers.
    let expected = [
        [0, 28, 0, 1],
        [0x78, 0x56, 0x34, 0x12],
        [0; 4],
        [0; 4],
        [2, 0, 0, 0],
        [0; 4],
        [1, 0, 0, 0],
    ];
    let group = its_group(0x1234_5678, &[ItsId(0), ItsId(1)]);
    assert_eq!(group, expected.as_flattened());
    assert_eq!(its_group(0, &[])[16..], [0; 4]);
}
