//! The virtual machine, laid out as QEMU's `virt` board.
#![expect(unsafe_code)]
// UNSAFETY: hands memory to a virtual machine and addresses to the kernel.

use std::ptr;

use anyhow::{Context, Result};
use kvm_bindings as kvm;
use kvm_ioctls::{DeviceFd, Kvm, VcpuFd, VmFd};
use kvm_state::Shape;

use crate::system::Memory;

/// Guest-physical address of RAM.
pub(crate) const RAM: u64 = 0x4000_0000;

/// Guest-physical address of the guest's image and its entry point.
pub(crate) const ENTRY: u64 = RAM + 0x20_0000;

pub(crate) const GICD: u64 = 0x0800_0000;
pub(crate) const GICR: u64 = 0x080a_0000;

/// Bytes of `GICD`, of an ITS, and of the redistributor of one vCPU.
pub(crate) const GICD_SIZE: u64 = 0x1_0000;
pub(crate) const GITS_SIZE: u64 = 0x2_0000;
pub(crate) const GICR_SIZE: u64 = 0x2_0000;

/// Addresses of the first ITS and of the second, which the board does not have.
pub(crate) const GITS: [u64; 2] = [0x0808_0000, 0x0c00_0000];

/// KVM's numbers of `x0` and the program counter.
const X0: u64 = 0x6030_0000_0010_0000;
const PC: u64 = 0x6030_0000_0010_0040;

/// Returns the parts of a machine with `vcpus` vCPUs, `interrupts` INTIDs below the LPIs, `itses`
/// ITSes and `ram` bytes of RAM. The affinities are those that KVM chooses.
pub(crate) fn shape(vcpus: u64, interrupts: u32, itses: usize, ram: u64) -> Shape {
    let affinity = |number: u64| (number & 0xf) | (number >> 4 & 0xff) << 8 | (number >> 12) << 16;
    Shape {
        affinities: (0..vcpus).map(affinity).collect(),
        interrupts,
        itses: GITS[..itses].to_vec(),
        ram: (RAM, ram),
    }
}

/// A virtual machine, ready to run.
pub(crate) struct Machine {
    pub(crate) vm: VmFd,
    pub(crate) memory: Memory,
    /// The vCPUs. vCPU 0 is on, the others are off.
    pub(crate) vcpus: Vec<VcpuFd>,
    pub(crate) gic: DeviceFd,
    pub(crate) itses: Vec<DeviceFd>,
    pub(crate) shape: Shape,
}

impl Machine {
    /// Creates a machine without content. Its interrupt controllers are initialised.
    pub(crate) fn new(shape: Shape) -> Result<Self> {
        let vm = (Kvm::new().and_then(|kvm| kvm.create_vm())).context("cannot make a VM")?;
        let (guest_phys_addr, size) = shape.ram;
        let memory = Memory::new(usize::try_from(size)?)?;
        let (userspace_addr, memory_size) = memory.range();

        let region = kvm::kvm_userspace_memory_region {
            slot: 0,
            flags: 0,
            guest_phys_addr,
            memory_size,
            userspace_addr,
        };
        // SAFETY: the memory stays mapped for ever, and nobody takes references into it.
        unsafe { vm.set_user_memory_region(region) }.context("no memory")?;

        let vcpus = (0..shape.affinities.len() as u64)
            .map(|number| create_vcpu(&vm, number))
            .collect::<Result<Vec<_>>>()?;

        let gic = create_gic(&vm, shape.interrupts)?;
        let itses = (shape.itses.iter())
            .map(|&base| create_its(&vm, base))
            .collect::<Result<Vec<_>>>()?;
        Ok(Self {
            vm,
            memory,
            vcpus,
            gic,
            itses,
            shape,
        })
    }

    /// Loads a guest's image. `x0` is the guest's argument.
    pub(crate) fn load(&self, guest: &[u8], x0: u64) -> Result<()> {
        self.memory.write((ENTRY - RAM) as usize, guest)?;
        self.vcpus[0].set_one_reg(PC, &ENTRY.to_le_bytes())?;
        self.vcpus[0].set_one_reg(X0, &x0.to_le_bytes())?;
        Ok(())
    }
}

/// Creates a vCPU. All but the first are off.
fn create_vcpu(vm: &VmFd, number: u64) -> Result<VcpuFd> {
    let vcpu = vm.create_vcpu(number).context("no vCPU")?;
    let mut target = kvm::kvm_vcpu_init::default();
    vm.get_preferred_target(&mut target)?;
    target.features[0] |= 1 << kvm::KVM_ARM_VCPU_PSCI_0_2;
    if number != 0 {
        target.features[0] |= 1 << kvm::KVM_ARM_VCPU_POWER_OFF;
    }
    vcpu.vcpu_init(&target).context("vCPU not initialised")?;
    Ok(vcpu)
}

/// Creates the interrupt controller with `interrupts` INTIDs below the LPIs.
fn create_gic(vm: &VmFd, interrupts: u32) -> Result<DeviceFd> {
    let device = create_device(vm, kvm::kvm_device_type_KVM_DEV_TYPE_ARM_VGIC_V3)?;
    for (kind, base) in [
        (kvm::KVM_VGIC_V3_ADDR_TYPE_DIST, GICD),
        (kvm::KVM_VGIC_V3_ADDR_TYPE_REDIST, GICR),
    ] {
        set(&device, kvm::KVM_DEV_ARM_VGIC_GRP_ADDR, kind.into(), base)?;
    }
    let count = kvm::KVM_DEV_ARM_VGIC_GRP_NR_IRQS;
    set(&device, count, 0, interrupts.into())?;
    initialize(&device)?;
    Ok(device)
}

/// Creates an ITS at `base`.
fn create_its(vm: &VmFd, base: u64) -> Result<DeviceFd> {
    let device = create_device(vm, kvm::kvm_device_type_KVM_DEV_TYPE_ARM_VGIC_ITS)?;
    let kind = kvm::KVM_VGIC_ITS_ADDR_TYPE;
    set(&device, kvm::KVM_DEV_ARM_VGIC_GRP_ADDR, kind.into(), base)?;
    initialize(&device)?;
    Ok(device)
}

/// Creates a device of KVM's.
fn create_device(vm: &VmFd, type_: u32) -> Result<DeviceFd> {
    let mut device = kvm::kvm_create_device {
        type_,
        fd: 0,
        flags: 0,
    };
    vm.create_device(&mut device)
        .with_context(|| format!("no device of type {type_}"))
}

/// Initialises a device.
fn initialize(device: &DeviceFd) -> Result<()> {
    let (group, attribute) = (
        kvm::KVM_DEV_ARM_VGIC_GRP_CTRL,
        kvm::KVM_DEV_ARM_VGIC_CTRL_INIT,
    );
    set(device, group, attribute.into(), 0)
}

/// Sets an attribute. KVM takes the lower half of the value where it wants 32 bits, and nothing for
/// an action.
pub(crate) fn set(device: &DeviceFd, group: u32, attribute: u64, value: u64) -> Result<()> {
    let attribute = kvm::kvm_device_attr {
        group,
        attr: attribute,
        addr: ptr::from_ref(&value).expose_provenance() as u64,
        flags: 0,
    };
    device
        .set_device_attr(&attribute)
        .with_context(|| format!("attribute {group}/{:#x} := {value:#x}", attribute.attr))
}

/// Reads an attribute. The upper half is zero where KVM has 32 bits.
pub(crate) fn get(device: &DeviceFd, group: u32, attribute: u64) -> Result<u64> {
    let mut value = 0_u64;
    let mut attribute = kvm::kvm_device_attr {
        group,
        attr: attribute,
        addr: ptr::from_mut(&mut value).expose_provenance() as u64,
        flags: 0,
    };
    // SAFETY: no attribute has more than 64 bits.
    unsafe { device.get_device_attr(&mut attribute) }
        .with_context(|| format!("attribute {group}/{:#x}", attribute.attr))?;
    Ok(value)
}
