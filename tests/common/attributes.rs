//! A VMM that saves and restores a VM by KVM's attributes.
#![allow(
    dead_code,
    unreachable_pub,
    missing_docs,
    reason = "a module shared by several test programs, each using a part"
)]

use std::sync::Mutex;

use vgic::cpu_interface::Vtr;
use vgic::intid::{Affinity, CpuId, ItsId, VcpuId};
use vgic::kvm::{Attribute, Device, Devices, address, control, group};
use vgic::{BadAddress, Config, Host, PhysicalInterrupt};

pub const ITS: Device = Device::Its(ItsId(0));

/// The order in which a VMM restores registers: with those of all vCPUs before the distributor's,
/// or after them; with the CPU interfaces before the redistributors, or after them.
#[derive(Clone, Copy, Debug)]
pub struct Order {
    pub vcpus_first: bool,
    pub interfaces_first: bool,
}

/// Orders of VMMs: QEMU's, Cloud Hypervisor's and Firecracker's, and crosvm's.
pub const ORDERS: [Order; 3] = [
    Order {
        vcpus_first: true,
        interfaces_first: false,
    },
    Order {
        vcpus_first: false,
        interfaces_first: false,
    },
    Order {
        vcpus_first: true,
        interfaces_first: true,
    },
];

pub fn attribute(device: Device, group: u32, attr: u64) -> Attribute {
    Attribute {
        device,
        group,
        attr,
    }
}

pub fn gic(group: u32, attr: u64) -> Attribute {
    attribute(Device::Gic, group, attr)
}

pub fn command(device: Device, attr: u64) -> Attribute {
    attribute(device, group::CTRL, attr)
}

/// Returns the attribute of a register of the vCPU with an affinity.
pub fn of_vcpu(group: u32, affinity: Affinity, register: u64) -> Attribute {
    gic(group, u64::from(affinity.packed()) << 32 | register)
}

/// Returns the encoding of a system register of Op0 3 and Op1 0.
pub fn icc(crn: u64, crm: u64, op2: u64) -> u64 {
    3 << 14 | crn << 7 | crm << 3 | op2
}

/// Returns the offsets of the words of a block of registers.
fn words(base: u64, bytes: u64) -> impl Iterator<Item = u64> {
    (0..bytes / 4).map(move |n| base + n * 4)
}

/// Returns the attributes of a vCPU's redistributor and lines.
fn redistributor(affinity: Affinity) -> Vec<Attribute> {
    let register = |offset| of_vcpu(group::REDIST_REGS, affinity, offset);
    // The bases before GICR_CTLR, which may enable LPIs.
    let mut all: Vec<_> = [0x70, 0x74, 0x78, 0x7c, 0, 0x14].map(register).into();
    for block in [0x080, 0x100, 0xc00, 0xc04] {
        all.push(register(0x1_0000 | block));
    }
    all.push(of_vcpu(group::LEVEL_INFO, affinity, 0));
    for block in [0x200, 0x300] {
        all.push(register(0x1_0000 | block));
    }
    all.extend(words(0x1_0400, 32).map(register));
    all
}

/// Returns the attributes of a vCPU's CPU interface.
fn interface(affinity: Affinity, vtr: Vtr) -> Vec<Attribute> {
    let mut registers = vec![
        icc(12, 12, 5), // SRE
        icc(12, 12, 4), // CTLR
        icc(12, 12, 6), // IGRPEN0
        icc(12, 12, 7), // IGRPEN1
        icc(4, 6, 0),   // PMR
        icc(12, 8, 3),  // BPR0
        icc(12, 12, 3), // BPR1
    ];
    for n in 0..vtr.apr_count() as u64 {
        registers.extend([icc(12, 8, 4 + n), icc(12, 9, n)]); // AP0R<n>, AP1R<n>
    }
    let of = |register| of_vcpu(group::CPU_SYSREGS, affinity, register);
    registers.into_iter().map(of).collect()
}

/// Returns the attributes of the distributor of `irqs` interrupts.
fn distributor(irqs: u64) -> Vec<Attribute> {
    let register = |at| gic(group::DIST_REGS, at);
    let mut all = vec![register(0)];
    all.extend(words(0x6100, (irqs - 32) * 8).map(register));
    for block in [0x080, 0x100] {
        all.extend(words(block, irqs / 8).map(register));
    }
    all.extend(words(0xc00, irqs / 4).map(register));
    all.extend(
        (32..irqs)
            .step_by(32)
            .map(|first| gic(group::LEVEL_INFO, first)),
    );
    for block in [0x200, 0x300] {
        all.extend(words(block, irqs / 8).map(register));
    }
    all.extend(words(0x400, irqs).map(register));
    all
}

/// Returns the attributes of an ITS, but for `GITS_CTLR`.
fn its(device: Device) -> impl Iterator<Item = Attribute> {
    // IIDR, CBASER, CREADR, CWRITER, BASER<n>.
    let registers = [4, 0x80, 0x90, 0x88].into_iter();
    let registers = registers.chain((0..8).map(|n| 0x100 + n * 8));
    registers.map(move |at| attribute(device, group::ITS_REGS, at))
}

/// Returns the ITSes of a VM.
fn itses(config: &Config) -> impl Iterator<Item = Device> {
    (0..config.its.len() as u8).map(|n| Device::Its(ItsId(n)))
}

/// Writes the tables of a VM that is saved.
pub fn save_tables(devices: &mut Devices, config: &Config, host: &impl Host) {
    let pending = command(Device::Gic, control::SAVE_PENDING_TABLES);
    devices.set(pending, 0, host).unwrap();
    for its in itses(config) {
        let tables = command(its, control::SAVE_TABLES);
        devices.set(tables, 0, host).unwrap();
    }
}

/// Returns the attributes of all registers but `GITS_CTLR`, in an order.
fn registers(config: &Config, vtr: Vtr, irqs: u64, order: Order) -> Vec<Attribute> {
    let mut vcpus = Vec::new();
    for &affinity in &config.vcpus {
        let (redistributor, interface) = (redistributor(affinity), interface(affinity, vtr));
        if order.interfaces_first {
            vcpus.extend(interface.into_iter().chain(redistributor));
        } else {
            vcpus.extend(redistributor.into_iter().chain(interface));
        }
    }

    let mut all = vec![gic(group::DIST_REGS, 8)]; // IIDR
    if order.vcpus_first {
        all.extend(vcpus.into_iter().chain(distributor(irqs)));
    } else {
        all.extend(distributor(irqs).into_iter().chain(vcpus));
    }
    all.extend(itses(config).flat_map(its));
    all
}

/// The data that a VMM stores: the attributes to set, in this order, and the power of each vCPU.
pub struct Stored {
    attributes: Vec<(Attribute, u64)>,
    power: Vec<bool>,
}

/// Reads what a VMM stores.
pub fn stored(from: &Devices, config: &Config, vtr: Vtr, order: Order) -> Stored {
    let with = |attribute, mut value| {
        from.get(attribute, &mut value).unwrap();
        (attribute, value)
    };
    let (irqs, count) = with(gic(group::NR_IRQS, 0), 0);
    let mut all = vec![(irqs, count), with(gic(group::ADDR, address::DIST), 0)];
    all.extend(itses(config).map(|its| with(attribute(its, group::ADDR, address::ITS), 0)));
    let region = gic(group::ADDR, address::REDIST_REGION);
    all.extend((0..config.redistributors.len() as u64).map(|index| with(region, index)));
    let devices = itses(config).chain([Device::Gic]);
    all.extend(devices.map(|device| (command(device, control::INIT), 0)));

    for attribute in registers(config, vtr, count, order) {
        assert_eq!(from.has(attribute), Ok(()));
        all.push(with(attribute, 0));
    }
    for its in itses(config) {
        all.push((command(its, control::RESTORE_TABLES), 0));
        all.push(with(attribute(its, group::ITS_REGS, 0), 0));
    }

    let vcpus = (0..config.vcpus.len()).filter_map(VcpuId::new);
    Stored {
        attributes: all,
        power: vcpus.map(|vcpu| from.power(vcpu).unwrap()).collect(),
    }
}

/// Returns devices as they are made of what a VMM has stored, with the tables in the memory of
/// `host`.
pub fn made_of(stored: &Stored, config: &Config, vtr: Vtr, host: &impl Host) -> Devices {
    let mut to = Devices::new(config.clone(), vtr);
    for &(attribute, value) in &stored.attributes {
        let result = to.set(attribute, value, host);
        result.unwrap_or_else(|error| panic!("{attribute:x?} = {value:#x}: {error}"));
    }
    for (index, on) in stored.power.iter().enumerate() {
        let vcpu = VcpuId::new(index).unwrap();
        to.set_power(vcpu, *on).unwrap();
    }
    to
}

/// Returns devices as the attributes of others make them, with the tables in the memory of `host`.
pub fn transfer(
    from: &Devices,
    config: &Config,
    vtr: Vtr,
    host: &impl Host,
    order: Order,
) -> Devices {
    made_of(&stored(from, config, vtr, order), config, vtr, host)
}

/// Guest memory from [`Memory::BASE`] on, for the tables.
pub struct Memory(pub Mutex<Vec<u8>>);

impl Memory {
    pub const BASE: u64 = 0x4000_0000;

    /// Calls `access` with the bytes at an address.
    fn with(
        &self,
        gpa: u64,
        length: usize,
        access: impl FnOnce(&mut [u8]),
    ) -> Result<(), BadAddress> {
        let at = gpa.checked_sub(Self::BASE).ok_or(BadAddress)? as usize;
        let mut bytes = self.0.lock().unwrap();
        let bytes = bytes.get_mut(at..).and_then(|rest| rest.get_mut(..length));
        bytes.map(access).ok_or(BadAddress)
    }
}

impl Host for Memory {
    fn kick(&self, _cpu: CpuId, _vcpu: VcpuId) {}
    fn wake(&self, _vcpu: VcpuId) {}
    fn read_memory(&self, gpa: u64, buffer: &mut [u8]) -> Result<(), BadAddress> {
        self.with(gpa, buffer.len(), |bytes| buffer.copy_from_slice(bytes))
    }
    fn write_memory(&self, gpa: u64, buffer: &[u8]) -> Result<(), BadAddress> {
        self.with(gpa, buffer.len(), |bytes| bytes.copy_from_slice(buffer))
    }
    fn deactivate(&self, _physical: PhysicalInterrupt) {}
    fn is_pending(&self, _physical: PhysicalInterrupt) -> bool {
        false
    }
}
