//! Machines that ACPI tables describe, as the hypervisor's device tree.

#![expect(unsafe_code)]
// UNSAFETY: tells the addresses of tables, as firmware does.

use std::ops::Range;

use acpi_tables::madt::{EnabledStatus, GicIts, GicVersion, Gicc, Gicd, Gicr, Trigger};
use acpi_tables::rsdp::Rsdp;
use acpi_tables::sdt::Sdt;
use acpi_tables::xsdt::XSDT;
use acpi_tables::{Aml, AmlSink};
use dtoolkit::fdt::Fdt;
use dtoolkit::{Node, Property};
use machine_tree::acpi::{self, Found, Windows};
use machine_tree::boot::{self, Boot, Kernel};
use machine_tree::machine::{Cpu, IdRange, Interrupt, Its, Uart, Window};
use machine_tree::tree;

/// Returns an empty table of so many bytes.
fn table(signature: &[u8; 4], length: u32, revision: u8) -> Sdt {
    Sdt::new(*signature, length, revision, *b"OEM   ", *b"TABLE   ", 1)
}

/// Collects the bytes of structures and tables.
#[derive(Default)]
struct Bytes(Vec<u8>);

impl AmlSink for Bytes {
    fn byte(&mut self, byte: u8) {
        self.0.push(byte);
    }
}

fn bytes(structures: &[&dyn Aml]) -> Vec<u8> {
    let mut all = Bytes::default();
    for structure in structures {
        structure.to_aml_bytes(&mut all);
    }
    all.0
}

/// The tables of a machine.
struct Tables {
    fadt: Sdt,
    madt: Sdt,
    others: Vec<Sdt>,
}

impl Tables {
    /// Returns tables with this contents of the MADT, PSCI by SMC, and the timers of Arm's Base
    /// System Architecture.
    fn new(structures: &[&dyn Aml]) -> Self {
        let mut fadt = table(b"FACP", 276, 6);
        fadt.write_u16(129, 1);
        let mut madt = table(b"APIC", 44, 5);
        madt.append_slice(&bytes(structures));
        let mut gtdt = table(b"GTDT", 104, 3);
        // Secure and non-secure physical timer, virtual timer, timer of EL2: level, active low.
        for (at, gsiv) in [(48, 29), (56, 30), (64, 27), (72, 26)] {
            gtdt.write_u32(at, gsiv);
            gtdt.write_u32(at + 4, 2);
        }
        Self {
            fadt,
            madt,
            others: vec![gtdt],
        }
    }

    fn with(mut self, table: Sdt) -> Self {
        self.others.push(table);
        self
    }

    /// Puts the tables into memory for ever, and reads them.
    fn read(self, bridges: &[Windows]) -> Result<Found, String> {
        let mut xsdt = XSDT::new(*b"OEM   ", *b"TABLE   ", 1);
        for table in [self.fadt, self.madt].into_iter().chain(self.others) {
            let place: &'static [u8] = table.as_slice().to_vec().leak();
            xsdt.add_entry(place.as_ptr().addr() as u64);
        }
        let xsdt = bytes(&[&xsdt]).leak();
        let rsdp = Rsdp::new(*b"OEM   ", xsdt.as_ptr().addr() as u64);
        let rsdp = bytes(&[&rsdp]).leak();
        // SAFETY: the tables are where they say, for ever.
        unsafe { acpi::read(rsdp.as_ptr().addr(), bridges) }
    }
}

fn cpu(affinity: u64, frames: u64) -> Gicc {
    Gicc::new(EnabledStatus::Enabled)
        .maintenance_interrupt(25, Trigger::Level)
        .performance_interrupt(23, Trigger::Level)
        .redistributor_base(frames)
        .mpidr(affinity)
}

/// Returns an SPCR of this kind of UART: width of a register and of an access, address.
fn spcr(kind: u8, width: u8, access: u8, address: u64) -> Sdt {
    let mut spcr = table(b"SPCR", 80, 2);
    spcr.write_u8(36, kind);
    spcr.write_bytes(40, &[0, width, 0, access]);
    spcr.write_u64(44, address);
    spcr.write_u8(52, 8);
    spcr.write_u32(54, 69);
    spcr.write_u8(58, 7);
    spcr
}

fn mcfg(spaces: &[(u64, u16, u8, u8)]) -> Sdt {
    let mut mcfg = table(b"MCFG", 44, 1);
    for &(address, segment, first, last) in spaces {
        mcfg.append(address);
        mcfg.append(segment);
        mcfg.append_slice(&[first, last, 0, 0, 0, 0]);
    }
    mcfg
}

/// A node of IORT: its kind, its own words, and its mappings of identifiers: first, number, first
/// at the other node, offset of the other node.
struct IortNode<'a>(u8, &'a [u32], &'a [[u32; 4]]);

fn iort(nodes: &[IortNode<'_>]) -> Sdt {
    let mut iort = table(b"IORT", 48, 3);
    iort.write_u32(36, nodes.len() as u32);
    iort.write_u32(40, 48);
    for IortNode(kind, words, mappings) in nodes {
        let own = 16 + 4 * words.len();
        let length = (own + 20 * mappings.len()) as u16;
        iort.append_slice(&[*kind]);
        iort.append(length);
        iort.append_slice(&[0, 0, 0, 0, 0]);
        iort.append(mappings.len() as u32);
        iort.append(own as u32);
        words.iter().for_each(|&word| iort.append(word));
        for &[from, count, to, to_whom] in *mappings {
            for word in [from, count - 1, to, to_whom, 0] {
                iort.append(word);
            }
        }
    }
    iort
}

/// Offset of the first node of IORT, and bytes of an ITS group with one ITS.
const FIRST: u32 = 48;
const GROUP: u32 = 24;

/// The ITS 7 in a group.
const ITS_GROUP: IortNode<'_> = IortNode(0, &[1, 7], &[]);

/// Returns the words of the root complex of a segment.
fn complex(segment: u32) -> [u32; 5] {
    [0, 0, 0, segment, 0]
}

fn windows(segment: u16) -> Windows {
    Windows {
        segment,
        first_bus: 0,
        windows: vec![Window {
            bus: 0x4000_0000,
            cpu: 0x30_4000_0000,
            size: 0x1000_0000,
        }],
    }
}

/// A server: two sockets, a CPU that cannot be used, redistributors in the CPUs' own structures,
/// everything at high addresses, two PCI segments behind an SMMU.
fn server() -> Tables {
    const SMMU: [u32; 11] = [0x8000_0000, 0x1000, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let off = Gicc::new(EnabledStatus::Disabled).mpidr(0x200);
    let smmu = FIRST + GROUP;
    let complexes = [complex(0), complex(1)];
    Tables::new(&[
        &Gicd::new(0, 0x1001_0000_0000, GicVersion::GICv4),
        &cpu(0x0, 0x1001_0014_0000),
        &cpu(0x1_0100, 0x1001_0018_0000),
        &off,
        &cpu(0x1_0000_0000, 0x4001_0014_0000),
        &GicIts::new(7, 0x1001_0004_0000),
    ])
    .with(spcr(0x0e, 32, 3, 0x1000_0260_0000))
    .with(mcfg(&[
        (0x3000_0000_0000, 0, 0, 255),
        (0x3100_0000_0000, 1, 0x40, 0x7f),
        (0x3200_0000_0000, 2, 0, 255),
    ]))
    .with(iort(&[
        ITS_GROUP,
        IortNode(4, &SMMU, &[[0x1_0000, 0x1_0000, 0x5_0000, FIRST]]),
        IortNode(2, &complexes[0], &[[0, 0x1_0000, 0x1_0000, smmu]]),
        IortNode(2, &complexes[1], &[[0x4000, 0x100, 0x9_0000, FIRST]]),
    ]))
}

#[test]
fn a_server_is_read() {
    let second = Windows {
        first_bus: 0x40,
        ..windows(1)
    };
    let (machine, remarks) = server().read(&[windows(0), second]).unwrap();
    assert_eq!(remarks, Vec::<String>::new());
    let affinities = [0x0, 0x1_0100, 0x1_0000_0000];
    assert_eq!(machine.cpus, affinities.map(|affinity| Cpu { affinity }));
    let of_cpu = |start: u64| start..start + 0x2_0000;
    let regions: [Range<u64>; 3] =
        [0x1001_0014_0000, 0x1001_0018_0000, 0x4001_0014_0000].map(of_cpu);
    assert_eq!(machine.redistributors, regions);
    let its = Its {
        id: 7,
        address: 0x1001_0004_0000,
    };
    assert_eq!(machine.its, [its]);
    assert_eq!((machine.maintenance, machine.monitors), (25, Some(23)));
    let low = |intid| Interrupt {
        intid,
        is_edge: false,
        is_low: true,
    };
    assert_eq!(machine.timers, [29, 30, 27, 26].map(low));

    let console = machine.console.unwrap();
    assert_eq!(console.kind, Uart::Sbsa);
    assert_eq!(console.address, 0x1000_0260_0000);
    assert_eq!((console.interrupt, console.baud), (Some(69), Some(115_200)));

    assert_eq!(machine.smmu, Some(0x1000_8000_0000));
    let [first, second] = &machine.bridges[..] else {
        panic!("{} bridges", machine.bridges.len());
    };
    let ids = |from, to, count| IdRange { from, to, count };
    assert_eq!(first.streams, [ids(0, 0x1_0000, 0x1_0000)]);
    assert_eq!(first.devices, [(7, ids(0, 0x5_0000, 0x1_0000))]);
    assert_eq!(second.ecam, 0x3100_0400_0000);
    assert_eq!(second.streams, []);
    assert_eq!(second.devices, [(7, ids(0x4000, 0x9_0000, 0x100))]);
}

#[test]
fn a_mapping_that_reaches_an_its_in_part_is_cut() {
    let complex = complex(0);
    let smmu = FIRST + GROUP;
    let words = [0x900_0000, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let tables = Tables::new(&[
        &Gicd::new(0, 0x800_0000, GicVersion::GICv3),
        &cpu(0, 0x80a_0000),
    ])
    .with(mcfg(&[(0x4000_0000, 0, 0, 0)]))
    .with(iort(&[
        ITS_GROUP,
        IortNode(4, &words, &[[0x80, 0x20, 0x700, FIRST]]),
        IortNode(2, &complex, &[[0x100, 0x100, 0x40, smmu]]),
    ]));
    let (machine, _) = tables.read(&[windows(0)]).unwrap();
    let cut = IdRange {
        from: 0x140,
        to: 0x700,
        count: 0x20,
    };
    assert_eq!(machine.bridges[0].devices, [(7, cut)]);
}

#[test]
fn several_smmus_are_left_alone() {
    let complex = complex(0);
    let smmu = |address| [address, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let (one, other) = (smmu(0x900_0000), smmu(0xa00_0000));
    let tables = Tables::new(&[
        &Gicd::new(0, 0x800_0000, GicVersion::GICv3),
        &cpu(0, 0x80a_0000),
    ])
    .with(mcfg(&[(0x4000_0000, 0, 0, 0)]))
    .with(iort(&[
        ITS_GROUP,
        IortNode(4, &one, &[[0, 0x100, 0, FIRST]]),
        IortNode(4, &other, &[]),
        IortNode(2, &complex, &[[0, 0x100, 0, FIRST + GROUP]]),
    ]));
    let (machine, remarks) = tables.read(&[windows(0)]).unwrap();
    assert_eq!(machine.smmu, None);
    assert!(machine.bridges[0].streams.is_empty());
    assert!(remarks.iter().any(|remark| remark.contains("SMMUs")));
}

#[test]
fn regions_of_redistributors_come_before_those_of_cpus() {
    let tables = Tables::new(&[
        &Gicd::new(0, 0x800_0000, GicVersion::GICv3),
        &cpu(0, 0x1234_0000),
        &Gicr::new(0x80a_0000, 0xf6_0000),
        &Gicr::new(0x40_0000_0000, 0x400_0000),
    ]);
    let (machine, remarks) = tables.read(&[]).unwrap();
    let regions = [0x80a_0000..0x900_0000, 0x40_0000_0000..0x40_0400_0000];
    assert_eq!(machine.redistributors, regions);
    assert!(remarks.iter().any(|remark| remark.contains("`uart`")));
}

#[test]
fn a_16550_has_the_registers_that_spcr_tells() {
    let kind = |kind, width, access| {
        let tables = Tables::new(&[
            &Gicd::new(0, 0x800_0000, GicVersion::GICv3),
            &cpu(0, 0x80a_0000),
        ]);
        let spcr = spcr(kind, width, access, 0xfe21_5040);
        let (machine, _) = tables.with(spcr).read(&[]).unwrap();
        machine.console.map(|console| console.kind)
    };
    let ns16550 = |shift, width| {
        Some(Uart::Ns16550 {
            shift,
            width,
            clock: 1_843_200,
        })
    };
    assert_eq!(kind(0, 8, 1), ns16550(0, 1));
    assert_eq!(kind(1, 8, 0), ns16550(0, 1));
    assert_eq!(kind(0x12, 32, 3), ns16550(2, 4));
    assert_eq!(kind(0x12, 32, 1), ns16550(2, 1));
    assert_eq!(kind(3, 32, 3), Some(Uart::Sbsa));
    assert_eq!(kind(0x0f, 32, 3), None);
}

#[test]
fn a_machine_that_cannot_run_hyp_is_refused() {
    let gicv3 = Gicd::new(0, 0x800_0000, GicVersion::GICv3);
    let with_boot_flags = |flags| {
        let mut tables = Tables::new(&[&gicv3, &cpu(0, 0x80a_0000)]);
        tables.fadt.write_u16(129, flags);
        tables.read(&[]).unwrap_err()
    };
    let mut other_timer = Tables::new(&[&gicv3, &cpu(0, 0x80a_0000)]);
    other_timer.others[0].write_u32(64, 28);
    let error = other_timer.read(&[]).unwrap_err();
    assert!(error.contains("[30, 28, 26]"), "{error}");
    assert!(with_boot_flags(0).contains("no PSCI"));
    assert!(with_boot_flags(3).contains("HVC"));
    let of = |structures: &[&dyn Aml]| Tables::new(structures).read(&[]).unwrap_err();
    let gicv2 = Gicd::new(0, 0x800_0000, GicVersion::GICv2);
    assert!(of(&[&gicv2, &cpu(0, 0x80a_0000)]).contains("no GICv3"));
    assert!(of(&[&cpu(0, 0x80a_0000)]).contains("no GICv3"));
    assert!(of(&[&gicv3, &cpu(0, 0)]).contains("no redistributors"));
    let no_maintenance = Gicc::new(EnabledStatus::Enabled).redistributor_base(0x80a_0000);
    assert!(of(&[&gicv3, &no_maintenance]).contains("maintenance interrupt"));
}

#[test]
fn the_tree_says_what_the_tables_said() {
    let (machine, _) = server().read(&[windows(0)]).unwrap();
    let boot = Boot {
        memory: vec![0x8000_0000..0x9000_0000, 0x80_0000_0000..0x90_0000_0000],
        arguments: "quiet",
        kernels: vec![Kernel {
            image: 0x8020_0000..0x8030_0000,
            arguments: "hyp.name=a",
            initrd: Some(0x8040_0000..0x8040_1000),
        }],
        ..Boot::default()
    };
    let blob = boot::complete(tree::build(&machine), &boot);
    let fdt = Fdt::new(&blob).unwrap();

    let regs = |path: &str| {
        let node = fdt.find_node(path).unwrap_or_else(|| panic!("no {path}"));
        let regs = node.reg().unwrap().unwrap();
        let pair = |reg: dtoolkit::standard::Reg<'_>| -> (u64, u64) {
            (reg.address().unwrap(), reg.size().unwrap())
        };
        regs.map(pair).collect::<Vec<_>>()
    };
    let gib = 1 << 30;
    let memory = [(0x8000_0000, gib / 4), (0x80_0000_0000, 64 * gib)];
    assert_eq!(regs("/memory@80000000"), memory);
    let gic = regs("/intc@100100000000");
    assert_eq!(gic[0], (0x1001_0000_0000, 0x1_0000));
    assert_eq!(gic[3], (0x4001_0014_0000, 0x2_0000));
    assert_eq!(regs("/smmuv3@100080000000"), [(0x1000_8000_0000, 0x2_0000)]);
    assert_eq!(regs("/pcie@300000000000"), [(0x3000_0000_0000, 256 << 20)]);

    assert!(fdt.root().property("dma-coherent").is_some());
    let text = |path: &str, name: &str| {
        let property = fdt.find_node(path).unwrap().property(name).unwrap();
        property.value_as::<&str>().unwrap()
    };
    assert_eq!(text("/chosen", "bootargs"), "quiet");
    assert_eq!(text("/chosen", "stdout-path"), "/serial@100002600000");
    assert_eq!(text("/serial@100002600000", "compatible"), "arm,sbsa-uart");
    assert_eq!(text("/chosen/module@80200000", "bootargs"), "hyp.name=a");
    assert!(fdt.find_node("/chosen/module@80400000").is_some());

    let cells = |path: &str, name: &str| {
        let property = fdt.find_node(path).unwrap().property(name).unwrap();
        let cells = property.value().as_chunks().0.iter();
        cells
            .map(|&cell| u32::from_be_bytes(cell))
            .collect::<Vec<_>>()
    };
    let gic = "/intc@100100000000";
    let its = format!("{gic}/its@100100040000");
    let smmu = cells("/smmuv3@100080000000", "phandle")[0];
    let bridge = "/pcie@300000000000";
    assert_eq!(cells(bridge, "iommu-map"), [0, smmu, 0x1_0000, 0x1_0000]);
    let its = cells(&its, "phandle")[0];
    assert_eq!(cells(bridge, "msi-map"), [0, its, 0x5_0000, 0x1_0000]);
    assert_eq!(cells(gic, "interrupts"), [1, 9, 4]);
    assert_eq!(cells(gic, "#redistributor-regions"), [3]);
    assert_eq!(cells("/timer", "interrupts")[6..9], [1, 11, 8]);
}
