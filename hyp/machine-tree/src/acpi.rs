//! The machine that ACPI tables describe.
//!
//! Read are MADT (CPUs, interrupt controller), GTDT (timers), FADT (PSCI), SPCR (console), MCFG and
//! IORT (PCI). The windows of host bridges are in the DSDT, whose byte code is not interpreted:
//! firmware tells them by a protocol, and the caller passes them on.

#![expect(unsafe_code)]
// UNSAFETY: reads tables at addresses that firmware has left.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::ops::Range;
use core::ptr::NonNull;

use acpi::sdt::fadt::Fadt;
use acpi::sdt::madt::{GiccEntry, Madt, MadtEntry};
use acpi::sdt::mcfg::Mcfg;
use acpi::sdt::spcr::{Spcr, SpcrInterfaceType};
use acpi::{AcpiTable, AcpiTables, Handler, PciAddress, PhysicalMapping, RawPhysicalMapping};

use crate::gtdt::Gtdt;
use crate::iort::{Header, Iort};
use crate::machine::{Bridge, Console, Cpu, Its, Machine, Uart, Window};

/// A host bridge as the firmware's protocol tells it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Windows {
    /// PCI segment.
    pub segment: u16,
    /// First bus.
    pub first_bus: u8,
    /// Memory of the bus that CPUs see.
    pub windows: Vec<Window>,
}

/// A machine, and remarks about parts of it that are left out.
pub type Found = (Machine, Vec<String>);

/// PPIs of the physical timer of EL1, the virtual timer, and the timer of EL2, by Arm's Base System
/// Architecture. `hyp` knows no others.
const TIMERS: [u32; 3] = [30, 27, 26];

/// Bytes of the frames of a redistributor of GICv3.
const REDISTRIBUTOR: u64 = 0x2_0000;

/// Reads the tables behind the RSDP at `rsdp`.
///
/// # Safety
/// The address is that of an RSDP. It and all tables behind it are mapped by identity, and do not
/// change.
///
/// # Errors
/// Why `hyp` cannot run on the machine.
pub unsafe fn read(rsdp: usize, bridges: &[Windows]) -> Result<Found, String> {
    // SAFETY: by the caller's promise.
    let tables = unsafe { AcpiTables::from_rsdp(Identity, rsdp) };
    let tables = tables.map_err(|error| format!("the RSDP is not one: {error:?}"))?;
    let mut machine = Machine::default();
    let mut remarks = Vec::new();

    let fadt = tables.find_table::<Fadt>().ok_or("there is no FADT")?;
    let arm = fadt.arm_boot_arch;
    if !arm.implements_psci() {
        return Err("the firmware has no PSCI".into());
    }
    if arm.use_hvc_as_psci_conduit() {
        return Err("the firmware takes PSCI calls by HVC, which EL2 cannot make".into());
    }

    let madt = tables.find_table::<Madt>().ok_or("there is no MADT")?;
    interrupt_controller(&madt, &mut machine)?;
    let gtdt = tables.find_table::<Gtdt>().ok_or("there is no GTDT")?;
    machine.timers = gtdt.timers();
    let [_, timers @ ..] = machine.timers.map(|timer| timer.intid);
    if timers != TIMERS {
        return Err(format!(
            "the timers' interrupts are {timers:?}, where Arm's Base System Architecture has \
             {TIMERS:?}"
        ));
    }

    machine.console = match tables.find_table::<Spcr>() {
        Some(spcr) => console(&spcr),
        None => None,
    };
    if machine.console.is_none() {
        remarks.push("SPCR names no UART that hyp knows: say `uart` in hyp.conf".into());
    }

    let iort = tables.find_table::<Header>();
    let iort = iort.as_ref().map(|table| Iort(bytes(table)));
    if let Some(mcfg) = tables.find_table::<Mcfg>() {
        machine.bridges = self::bridges(&mcfg, iort.as_ref(), bridges);
    }
    match iort.and_then(|iort| iort.smmus()).as_deref() {
        Some(&[smmu]) => machine.smmu = Some(smmu),
        Some([]) => {}
        _ => remarks.push("there are SMMUs that hyp does not drive: no device is confined".into()),
    }
    if machine.smmu.is_none() {
        (machine.bridges.iter_mut()).for_each(|bridge| bridge.streams.clear());
    }
    Ok((machine, remarks))
}

/// Reads the CPUs and the interrupt controller.
fn interrupt_controller(
    madt: &PhysicalMapping<Identity, Madt>,
    machine: &mut Machine,
) -> Result<(), String> {
    let mut of_cpus: Vec<Range<u64>> = Vec::new();
    let mut version = 0;
    for entry in madt.get().entries() {
        match entry {
            MadtEntry::Gicc(cpu) if is_usable(cpu) => {
                let affinity = cpu.mpidr;
                machine.cpus.push(Cpu { affinity });
                machine.maintenance = cpu.vgic_maintenance_interrupt;
                let monitors = cpu.performance_interrupt_gsiv;
                machine.monitors = (16..32).contains(&monitors).then_some(monitors);
                let frames = cpu.gicr_base_address;
                if frames != 0 {
                    of_cpus.push(frames..frames + REDISTRIBUTOR);
                }
            }
            MadtEntry::Gicd(distributor) => {
                machine.distributor = distributor.physical_base_address;
                version = distributor.gic_version;
            }
            MadtEntry::GicRedistributor(region) => {
                let start = region.discovery_range_base_address;
                let end = start + u64::from(region.discovery_range_length);
                machine.redistributors.push(start..end);
            }
            MadtEntry::GicInterruptTranslationService(its) => machine.its.push(Its {
                id: its.id,
                address: its.physical_base_address,
            }),
            _ => {}
        }
    }

    if machine.distributor == 0 || matches!(version, 1 | 2) {
        return Err("the MADT describes no GICv3".into());
    }
    // Regions are described, or the redistributor of each CPU on its own.
    if machine.redistributors.is_empty() {
        machine.redistributors = of_cpus;
    }
    if machine.redistributors.is_empty() {
        return Err("the MADT describes no redistributors".into());
    }
    if !(16..32).contains(&machine.maintenance) {
        return Err(format!(
            "the maintenance interrupt is {}, which is no PPI",
            machine.maintenance
        ));
    }
    Ok(())
}

/// Returns true for a CPU that the firmware lets be started.
fn is_usable(cpu: &GiccEntry) -> bool {
    const ENABLED: u32 = 1;
    cpu.flags & ENABLED != 0
}

/// Returns the console, if it is a UART in memory that the hypervisor can drive.
fn console(spcr: &Spcr) -> Option<Console> {
    /// A 16550 whose registers are as the address structure tells.
    const NS16550_OF_ADDRESS: u8 = 0x12;
    /// Clock of the 16550 of a personal computer.
    const USUAL_CLOCK: u32 = 1_843_200;

    let kind = spcr.interface_type;
    let base = spcr.base_address;
    let is_in_memory = base.address_space == 0 && base.address != 0;
    let kind = match (spcr.interface_type(), kind) {
        (
            SpcrInterfaceType::ArmPL011
            | SpcrInterfaceType::ArmSBSAGeneric
            | SpcrInterfaceType::ArmSBSAGeneric32bit,
            _,
        ) => Uart::Sbsa,
        (SpcrInterfaceType::Full16550 | SpcrInterfaceType::Full16450, _)
        | (_, NS16550_OF_ADDRESS) => {
            let width = match base.access_size {
                0 => 1,
                size => 1 << (size - 1).min(2),
            };
            // The distance of two registers is the width of one.
            let bytes = u32::from(base.bit_width / 8).max(width);
            Uart::Ns16550 {
                shift: bytes.ilog2(),
                width,
                clock: spcr.uart_clock_frequency().map_or(USUAL_CLOCK, u32::from),
            }
        }
        _ => return None,
    };
    is_in_memory.then_some(Console {
        kind,
        address: base.address,
        interrupt: spcr.global_system_interrupt().filter(|&gsiv| gsiv >= 32),
        baud: baud(spcr),
    })
}

/// Returns the speed of the console in bits a second, if the table tells.
fn baud(spcr: &Spcr) -> Option<u32> {
    const PRECISE: usize = core::mem::offset_of!(Spcr, precise_baud_rate);
    let length = spcr.header.length as usize;
    if length >= PRECISE + size_of::<u32>() {
        return spcr.baud_rate().map(u32::from);
    }

    // A table before revision 4 ends before the precise rate, which the crate reads all the same.
    match spcr.configured_baud_rate {
        3 => Some(9600),
        4 => Some(19_200),
        6 => Some(57_600),
        7 => Some(115_200),
        _ => None,
    }
}

/// Returns the host bridges: configuration spaces of MCFG, with the windows that the firmware's
/// protocol tells, and the identifiers of IORT.
fn bridges(mcfg: &Mcfg, iort: Option<&Iort<'_>>, told: &[Windows]) -> Vec<Bridge> {
    let bridge = |entry: &acpi::sdt::mcfg::McfgEntry| {
        let segment = entry.pci_segment_group;
        let buses = (entry.bus_number_start, entry.bus_number_end);
        let is_of = |told: &&Windows| {
            told.segment == segment && (buses.0..=buses.1).contains(&told.first_bus)
        };
        let windows = told.iter().filter(is_of).flat_map(|told| &told.windows);
        let (streams, devices) = iort.map_or_else(Default::default, |iort| iort.ids_of(segment));
        Bridge {
            segment,
            // MCFG has the address that bus 0 has or would have.
            ecam: entry.base_address + (u64::from(buses.0) << 20),
            buses,
            windows: windows.copied().collect(),
            streams,
            devices,
        }
    };
    let bridges = mcfg.entries().iter().map(bridge);
    bridges
        .filter(|bridge| !bridge.windows.is_empty())
        .collect()
}

/// Returns the bytes of a whole table.
fn bytes<T: AcpiTable>(table: &PhysicalMapping<Identity, T>) -> &[u8] {
    let raw = table.raw();
    // SAFETY: the mapping has the table's length, and lives as long as the result.
    unsafe { core::slice::from_raw_parts(table.as_ptr().cast(), raw.region_length()) }
}

/// Access to tables that are mapped by identity.
#[derive(Clone)]
struct Identity;

/// The reason why the methods for byte code are not called.
const NO_BYTE_CODE: &str = "no byte code is interpreted";

impl Handler for Identity {
    unsafe fn map_physical_region<T>(&self, address: usize, size: usize) -> RawPhysicalMapping<T> {
        let start = NonNull::new(address as *mut T).expect("a table is not at address 0");
        // SAFETY: the region is mapped by identity for ever, and is only read.
        unsafe { RawPhysicalMapping::new(address, start, size, size) }
    }

    unsafe fn unmap_physical_region<T>(&self, _region: RawPhysicalMapping<T>) {}

    fn read_u8(&self, _address: usize) -> u8 {
        unreachable!("{NO_BYTE_CODE}")
    }

    fn read_u16(&self, _address: usize) -> u16 {
        unreachable!("{NO_BYTE_CODE}")
    }

    fn read_u32(&self, _address: usize) -> u32 {
        unreachable!("{NO_BYTE_CODE}")
    }

    fn read_u64(&self, _address: usize) -> u64 {
        unreachable!("{NO_BYTE_CODE}")
    }

    fn write_u8(&self, _address: usize, _value: u8) {
        unreachable!("{NO_BYTE_CODE}")
    }

    fn write_u16(&self, _address: usize, _value: u16) {
        unreachable!("{NO_BYTE_CODE}")
    }

    fn write_u32(&self, _address: usize, _value: u32) {
        unreachable!("{NO_BYTE_CODE}")
    }

    fn write_u64(&self, _address: usize, _value: u64) {
        unreachable!("{NO_BYTE_CODE}")
    }

    fn read_io_u8(&self, _port: u16) -> u8 {
        unreachable!("{NO_BYTE_CODE}")
    }

    fn read_io_u16(&self, _port: u16) -> u16 {
        unreachable!("{NO_BYTE_CODE}")
    }

    fn read_io_u32(&self, _port: u16) -> u32 {
        unreachable!("{NO_BYTE_CODE}")
    }

    fn write_io_u8(&self, _port: u16, _value: u8) {
        unreachable!("{NO_BYTE_CODE}")
    }

    fn write_io_u16(&self, _port: u16, _value: u16) {
        unreachable!("{NO_BYTE_CODE}")
    }

    fn write_io_u32(&self, _port: u16, _value: u32) {
        unreachable!("{NO_BYTE_CODE}")
    }

    fn read_pci_u8(&self, _address: PciAddress, _offset: u16) -> u8 {
        unreachable!("{NO_BYTE_CODE}")
    }

    fn read_pci_u16(&self, _address: PciAddress, _offset: u16) -> u16 {
        unreachable!("{NO_BYTE_CODE}")
    }

    fn read_pci_u32(&self, _address: PciAddress, _offset: u16) -> u32 {
        unreachable!("{NO_BYTE_CODE}")
    }

    fn write_pci_u8(&self, _address: PciAddress, _offset: u16, _value: u8) {
        unreachable!("{NO_BYTE_CODE}")
    }

    fn write_pci_u16(&self, _address: PciAddress, _offset: u16, _value: u16) {
        unreachable!("{NO_BYTE_CODE}")
    }

    fn write_pci_u32(&self, _address: PciAddress, _offset: u16, _value: u32) {
        unreachable!("{NO_BYTE_CODE}")
    }

    fn nanos_since_boot(&self) -> u64 {
        unreachable!("{NO_BYTE_CODE}")
    }

    fn stall(&self, _microseconds: u64) {
        unreachable!("{NO_BYTE_CODE}")
    }

    fn sleep(&self, _milliseconds: u64) {
        unreachable!("{NO_BYTE_CODE}")
    }
}
