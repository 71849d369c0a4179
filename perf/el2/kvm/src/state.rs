//! Save and restore by KVM's own calls.

use anyhow::{Context, Result, anyhow, ensure};
use kvm_bindings as kvm;
use kvm_ioctls::{DeviceFd, VcpuFd};
use kvm_state::{Attribute, Device, Page, Register, Saved, Vcpu};

use crate::vm::{Machine, get, set};

/// Most registers of a vCPU.
const MOST_REGISTERS: usize = 500;

/// INTIDs that a word of one bit each has, and INTIDs in a redistributor.
const WORD: u32 = 32;

/// Offset of `SGI_base` in a redistributor.
const SGI_BASE: u64 = 0x1_0000;

/// Offsets that `GICD` and `SGI_base` share.
const IGROUPR: u64 = 0x80;
const ISENABLER: u64 = 0x100;
const ICENABLER: u64 = 0x180;
const ISPENDR: u64 = 0x200;
const ISACTIVER: u64 = 0x300;
const IPRIORITYR: u64 = 0x400;
const ICFGR: u64 = 0xc00;

/// Offsets in `GICD`.
const GICD_CTLR: u64 = 0x0;
const GICD_IIDR: u64 = 0x8;
const GICD_IROUTER: u64 = 0x6000;

/// Offsets in a redistributor: the tables of LPIs by halves, `GICR_CTLR`, `GICR_WAKER`.
const GICR: [u64; 6] = [0x70, 0x74, 0x78, 0x7c, 0x0, 0x14];

/// Registers of an ITS before its tables are restored: `GITS_IIDR`, `GITS_CBASER`, `GITS_CREADR`,
/// `GITS_CWRITER`, and the first `GITS_BASER<n>`, of which there are eight.
const GITS: [u64; 4] = [0x4, 0x80, 0x90, 0x88];
const GITS_BASER: u64 = 0x100;
const GITS_CTLR: u64 = 0x0;

/// Returns the number of a system register in a CPU interface.
const fn icc(op0: u64, op1: u64, crn: u64, crm: u64, op2: u64) -> u64 {
    op0 << 14 | op1 << 11 | crn << 7 | crm << 3 | op2
}

/// `ICC_*_EL1`: SRE, CTLR, IGRPEN0, IGRPEN1, PMR, BPR0, BPR1.
const ICC: [u64; 7] = [
    icc(3, 0, 12, 12, 5),
    icc(3, 0, 12, 12, 4),
    icc(3, 0, 12, 12, 6),
    icc(3, 0, 12, 12, 7),
    icc(3, 0, 4, 6, 0),
    icc(3, 0, 12, 8, 3),
    icc(3, 0, 12, 12, 3),
];
const ICC_CTLR: u64 = ICC[1];
/// `ICC_AP0R0_EL1` and `ICC_AP1R0_EL1`; higher registers follow.
const ICC_AP: [u64; 2] = [icc(3, 0, 12, 8, 4), icc(3, 0, 12, 9, 0)];

/// Saves a VM that does not run, as a file.
pub(crate) fn save(machine: &Machine) -> Result<Vec<u8>> {
    let tables = kvm::KVM_DEV_ARM_VGIC_SAVE_PENDING_TABLES;
    action(&machine.gic, tables).context("pending tables")?;
    for its in &machine.itses {
        action(its, kvm::KVM_DEV_ARM_ITS_SAVE_TABLES).context("tables of an ITS")?;
    }

    let vcpus = machine.vcpus.iter().map(save_vcpu);
    let vcpus = vcpus.collect::<Result<_>>()?;
    let attributes = save_attributes(machine)?;
    let pages = machine.memory.pages();
    let saved = Saved {
        shape: machine.shape.clone(),
        vcpus,
        attributes,
        pages: (pages.iter())
            .map(|(offset, content)| Page {
                address: machine.shape.ram.0 + *offset as u64,
                content,
            })
            .collect(),
    };
    saved.to_file().map_err(|error| anyhow!("{error:?}"))
}

/// Makes a VM of a saved state.
pub(crate) fn restore(saved: &Saved<'_>) -> Result<Machine> {
    let machine = Machine::new(saved.shape.clone())?;
    ensure!(
        saved.vcpus.len() == machine.vcpus.len(),
        "the state has {} vCPUs",
        saved.vcpus.len()
    );

    for page in &saved.pages {
        let offset = page.address.checked_sub(saved.shape.ram.0);
        let offset = offset.context("a page below RAM")?;
        machine.memory.write(usize::try_from(offset)?, page.content)?;
    }
    for (vcpu, state) in machine.vcpus.iter().zip(&saved.vcpus) {
        for Register { id, value } in &state.registers {
            (vcpu.set_one_reg(*id, value)).with_context(|| format!("register {id:#x}"))?;
        }
        vcpu.set_mp_state(kvm::kvm_mp_state {
            mp_state: state.mp_state,
        })?;
    }

    for attribute in &saved.attributes {
        let device = match attribute.device {
            Device::Gic => &machine.gic,
            Device::Its(number) => (machine.itses.get(number as usize)).context("no such ITS")?,
        };
        set(device, attribute.group, attribute.attribute, attribute.value)?;
    }
    Ok(machine)
}

/// Does an action of a device.
fn action(device: &DeviceFd, attribute: u32) -> Result<()> {
    set(device, kvm::KVM_DEV_ARM_VGIC_GRP_CTRL, attribute.into(), 0)
}

/// Reads a vCPU's registers and its power state.
fn save_vcpu(vcpu: &VcpuFd) -> Result<Vcpu> {
    let mut list = kvm::RegList::new(MOST_REGISTERS)?;
    vcpu.get_reg_list(&mut list).context("KVM_GET_REG_LIST")?;
    let registers = list.as_slice().iter().map(|&id| {
        let log = (id & kvm::KVM_REG_SIZE_MASK) >> kvm::KVM_REG_SIZE_SHIFT;
        let mut value = vec![0; 1 << log];
        (vcpu.get_one_reg(id, &mut value)).with_context(|| format!("register {id:#x}"))?;
        Ok(Register { id, value })
    });
    Ok(Vcpu {
        registers: registers.collect::<Result<_>>()?,
        mp_state: vcpu.get_mp_state()?.mp_state,
    })
}

/// Attributes in the making.
struct List<'a> {
    device: Device,
    fd: &'a DeviceFd,
    attributes: Vec<Attribute>,
}

impl List<'_> {
    /// Adds an attribute with its present value.
    fn read(&mut self, group: u32, attribute: u64) -> Result<u64> {
        let value = get(self.fd, group, attribute)?;
        self.put(group, attribute, value);
        Ok(value)
    }

    /// Adds an attribute with a value.
    fn put(&mut self, group: u32, attribute: u64, value: u64) {
        self.attributes.push(Attribute {
            device: self.device,
            group,
            attribute,
            value,
        });
    }

    /// Adds the registers of the interrupts from `first` on, to which a group and an offset lead,
    /// up to `end`. `who` is the redistributor of private ones.
    fn interrupts(&mut self, group: u32, who: u64, base: u64, first: u32, end: u32) -> Result<()> {
        let word = |intid: u32| u64::from(intid / WORD * 4);
        let at = |offset| who | (base + offset);
        for intid in (first..end).step_by(16) {
            self.read(group, at(ICFGR + u64::from(intid / 16 * 4)))?;
        }
        for intid in (first..end).step_by(WORD as usize) {
            self.read(group, at(IGROUPR + word(intid)))?;
            // A register of enables sets bits only. KVM's SGIs are enabled at first.
            self.put(group, at(ICENABLER + word(intid)), u32::MAX.into());
            self.read(group, at(ISENABLER + word(intid)))?;
            // The line comes before the latch.
            let line = kvm::VGIC_LEVEL_INFO_LINE_LEVEL << kvm::KVM_DEV_ARM_VGIC_LINE_LEVEL_INFO_SHIFT;
            let line = who | u64::from(line | intid);
            self.read(kvm::KVM_DEV_ARM_VGIC_GRP_LEVEL_INFO, line)?;
            self.read(group, at(ISPENDR + word(intid)))?;
            self.read(group, at(ISACTIVER + word(intid)))?;
        }
        for intid in (first..end).step_by(4) {
            self.read(group, at(IPRIORITYR + u64::from(intid)))?;
        }
        Ok(())
    }
}

/// Reads the attributes of the interrupt controllers, in the order in which they are set.
fn save_attributes(machine: &Machine) -> Result<Vec<Attribute>> {
    let mut gic = List {
        device: Device::Gic,
        fd: &machine.gic,
        attributes: Vec::new(),
    };
    let distributor = kvm::KVM_DEV_ARM_VGIC_GRP_DIST_REGS;
    gic.read(distributor, GICD_IIDR)?;
    gic.read(distributor, GICD_CTLR)?;

    // A vCPU's name: its affinity fields side by side in the upper half.
    let name = |mpidr: &u64| (mpidr & 0xff_ffff | mpidr >> 8 & 0xff00_0000) << 32;
    let names: Vec<u64> = machine.shape.affinities.iter().map(name).collect();
    let redistributor = kvm::KVM_DEV_ARM_VGIC_GRP_REDIST_REGS;
    for name in &names {
        for offset in GICR {
            gic.read(redistributor, name | offset)?;
        }
        gic.interrupts(redistributor, *name, SGI_BASE, 0, WORD)?;
    }

    let shared = WORD..machine.shape.interrupts;
    for intid in shared.clone() {
        let register = GICD_IROUTER + u64::from(intid) * 8;
        gic.read(distributor, register)?;
        gic.read(distributor, register + 4)?;
    }
    gic.interrupts(distributor, 0, 0, shared.start, shared.end)?;

    let interface = kvm::KVM_DEV_ARM_VGIC_GRP_CPU_SYSREGS;
    for name in &names {
        for register in ICC {
            gic.read(interface, name | register)?;
        }
        // One register of active priorities for 32 levels of preemption.
        let bits = (get(gic.fd, interface, name | ICC_CTLR)? >> 8 & 7) + 1;
        for place in 0..1 << bits.saturating_sub(5) {
            for first in ICC_AP {
                gic.read(interface, name | (first + place))?;
            }
        }
    }

    let mut attributes = gic.attributes;
    for (number, fd) in (0..).zip(&machine.itses) {
        let mut its = List {
            device: Device::Its(number),
            fd,
            attributes: Vec::new(),
        };
        let registers = kvm::KVM_DEV_ARM_VGIC_GRP_ITS_REGS;
        let basers = (0..8).map(|place| GITS_BASER + 8 * place);
        for register in GITS.into_iter().chain(basers) {
            its.read(registers, register)?;
        }
        let tables = kvm::KVM_DEV_ARM_ITS_RESTORE_TABLES;
        its.put(kvm::KVM_DEV_ARM_VGIC_GRP_CTRL, tables.into(), 0);
        its.read(registers, GITS_CTLR)?;
        attributes.extend(its.attributes);
    }
    Ok(attributes)
}
