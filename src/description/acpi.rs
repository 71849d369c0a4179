//! ACPI tables about the interrupt controller: the Multiple APIC Description Table (MADT; ACPI 6.5,
//! 5.2.12), and ITS groups of the I/O Remapping Table (IORT; DEN 0049, 3.1.1.1).
//!
//! A table begins with a header of 36 bytes: signature, length, revision, checksum and the
//! embedder's names. The embedder writes the header, and appends the bytes of [`madt`]. The crate
//! `acpi_tables`, for example, has `Sdt::append_slice`, which mends length and checksum too.

use alloc::vec::Vec;

use crate::config::{Config, REDISTRIBUTOR_STRIDE, V2mConfig};
use crate::intid::{ItsId, VcpuId};

/// Signature of the MADT.
pub const MADT_SIGNATURE: [u8; 4] = *b"APIC";

/// Revision of the MADT: ACPI 6.5.
pub const MADT_REVISION: u8 = 6;

/// Types of interrupt controller structures (ACPI 6.5, table 5.21).
const GICC: u8 = 0x0b;
const GICD: u8 = 0x0c;
const GIC_MSI_FRAME: u8 = 0x0d;
const GICR: u8 = 0x0e;
const GIC_ITS: u8 = 0x0f;

/// `GICC.Flags.Enabled`. With the maintenance interrupt's mode 0, level-triggered.
const GICC_ENABLED: u32 = 1 << 0;

/// `GICD.GIC version`.
const GICV2: u8 = 2;
const GICV3: u8 = 3;

/// `GIC MSI Frame.Flags`, SPI Count/Base Select: the structure has both, as `MSI_TYPER` has.
const SPIS_ARE_HERE: u32 = 1 << 0;

/// Type of an ITS group in the IORT.
const ITS_GROUP: u8 = 0;
/// Revision of an ITS group's layout: DEN 0049E.
const ITS_GROUP_REVISION: u8 = 1;
/// Bytes of a node of the IORT before the part of its type.
const NODE_HEADER: usize = 16;

/// Returns the MADT without its header of 36 bytes: two fields of PCs, which are 0, then a GICD
/// structure, a GICC structure for each of [`Config::vcpus`], a GICR structure for each region of
/// redistributors, and a GIC ITS structure for each ITS. With a GICv2 ([`Config::gicv2`]), the GICC
/// structures have the address of the CPU interface, and a GIC MSI Frame structure for each GICv2m
/// frame follows them.
///
/// vCPU n has the processor UID n, which `_UID` of its Processor Device in the DSDT repeats. ITS n
/// has the GIC ITS ID n, which [`its_group`] repeats. The number of a wired interrupt (GSIV), also
/// an extended one, is its INTID in every table. A vCPU that is added later
/// ([`Vgic::add_vcpu`](crate::Vgic::add_vcpu)) is not in the table.
#[must_use]
pub fn madt(config: &Config) -> Vec<u8> {
    // Local interrupt controller address, flags.
    let mut table = Vec::from([0; 8]);
    let version = match config.gicv2 {
        None => GICV3,
        Some(_) => GICV2,
    };
    table.extend(gicd(config.distributor, version));

    // A GICv2 of a guest has no maintenance interrupt.
    let (cpu_interface, maintenance) = match &config.gicv2 {
        None => (0, config.maintenance.raw()),
        Some(gicv2) => (gicv2.cpu_interface, 0),
    };
    for (uid, affinity) in (0..).zip(&config.vcpus) {
        table.extend(gicc(uid, cpu_interface, affinity.mpidr(), maintenance));
    }

    let v2m = config.gicv2.iter().flat_map(|gicv2| &gicv2.v2m);
    for (id, v2m) in (0..).zip(v2m) {
        table.extend(gic_msi_frame(id, v2m));
    }

    for region in &config.redistributors {
        // More vCPUs than a VM can have need no description, and their bytes no 64 bits.
        let count = region.count.min(VcpuId::MAX_COUNT) as u64;
        table.extend(gicr(region.base, (count * REDISTRIBUTOR_STRIDE) as u32));
    }

    for (id, its) in (0..).zip(&config.its) {
        table.extend(gic_its(id, its.base));
    }
    table
}

/// Returns a node of the IORT: a group of ITSes, which mappings of root complexes, named components
/// and SMMUs refer to by the node's offset in the table.
///
/// `identifier` is unique among the nodes of the table.
#[must_use]
pub fn its_group(identifier: u32, its: &[ItsId]) -> Vec<u8> {
    let length = NODE_HEADER + 4 + its.len() * 4;
    let mut node = Vec::with_capacity(length);
    node.push(ITS_GROUP);
    node.extend((length as u16).to_le_bytes());
    node.push(ITS_GROUP_REVISION);
    node.extend(identifier.to_le_bytes());
    // The group is an end of mappings and has none: number of mappings, offset of the array.
    node.extend([0; 8]);

    node.extend((its.len() as u32).to_le_bytes());
    node.extend(its.iter().flat_map(|its| u32::from(its.0).to_le_bytes()));
    node
}

/// Returns a GIC Distributor structure (ACPI 6.5, 5.2.12.15).
fn gicd(base: u64, version: u8) -> [u8; 24] {
    let mut structure = Structure::<24>::new(GICD);
    structure.put(8, base.to_le_bytes());
    structure.put(20, [version]);
    structure.0
}

/// Returns a GIC CPU Interface structure (ACPI 6.5, 5.2.12.14).
///
/// The CPU interface of a GICv3 is system registers: `Physical Base Address`, `base`, is 0. GICR
/// structures have the redistributors, so `GICR Base Address` is 0. The CPU interface of a GICv2
/// has the number of its bit in `GICD_ITARGETSR<n>`.
fn gicc(uid: u32, base: u64, mpidr: u64, maintenance: u32) -> [u8; 82] {
    let mut structure = Structure::<82>::new(GICC);
    structure.put(4, uid.to_le_bytes()); // CPU Interface Number
    structure.put(8, uid.to_le_bytes()); // ACPI Processor UID
    structure.put(12, GICC_ENABLED.to_le_bytes());
    structure.put(32, base.to_le_bytes());
    structure.put(56, maintenance.to_le_bytes());
    structure.put(68, mpidr.to_le_bytes());
    structure.0
}

/// Returns a GIC MSI Frame structure (ACPI 6.5, 5.2.12.16).
fn gic_msi_frame(id: u32, v2m: &V2mConfig) -> [u8; 24] {
    let mut structure = Structure::<24>::new(GIC_MSI_FRAME);
    structure.put(4, id.to_le_bytes());
    structure.put(8, v2m.base.to_le_bytes());
    structure.put(16, SPIS_ARE_HERE.to_le_bytes());
    // INTIDs of SPIs have 10 bits.
    structure.put(20, (v2m.spis as u16).to_le_bytes());
    structure.put(22, (v2m.first_spi as u16).to_le_bytes());
    structure.0
}

/// Returns a GIC Redistributor structure (ACPI 6.5, 5.2.12.17).
fn gicr(base: u64, length: u32) -> [u8; 16] {
    let mut structure = Structure::<16>::new(GICR);
    structure.put(4, base.to_le_bytes());
    structure.put(12, length.to_le_bytes());
    structure.0
}

/// Returns a GIC Interrupt Translation Service structure (ACPI 6.5, 5.2.12.18).
fn gic_its(id: u32, base: u64) -> [u8; 20] {
    let mut structure = Structure::<20>::new(GIC_ITS);
    structure.put(4, id.to_le_bytes());
    structure.put(8, base.to_le_bytes());
    structure.0
}

/// An interrupt controller structure of `LENGTH` bytes: type, length, and fields, 0 unless put.
struct Structure<const LENGTH: usize>([u8; LENGTH]);

impl<const LENGTH: usize> Structure<LENGTH> {
    /// Makes a structure of a type, with its length and all fields 0.
    fn new(kind: u8) -> Self {
        let mut structure = Self([0; LENGTH]);
        structure.put(0, [kind, LENGTH as u8]);
        structure
    }

    /// Puts a field at an offset.
    fn put<const BYTES: usize>(&mut self, offset: usize, field: [u8; BYTES]) {
        self.0[offset..offset + BYTES].copy_from_slice(&field);
    }
}
