//! The virtual machine, laid out as QEMU's `virt` board.
#![expect(unsafe_code)]
// UNSAFETY: hands memory to a virtual machine and addresses to the kernel.

use std::ptr;

use anyhow::{Context, Result};
use kvm_bindings as kvm;
use kvm_ioctls::{DeviceFd, Kvm, VcpuFd, VmFd};

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

/// The parts of a virtual machine.
pub(crate) struct Shape {
    /// Number of vCPUs.
    pub(crate) vcpus: u64,
    /// Number of INTIDs below the LPIs.
    pub(crate) interrupts: u32,
    /// Number of ITSes.
    pub(crate) itses: usize,
    /// Bytes of RAM.
    pub(crate) ram: usize,
}

/// A virtual machine, ready to run.
pub(crate) struct Machine {
    pub(crate) vm: VmFd,
    pub(crate) memory: Memory,
    /// The vCPUs. vCPU 0 is on, the others are off.
    pub(crate) vcpus: Vec<VcpuFd>,
    /// Devices, kept open as long as the machine.
    _devices: Vec<DeviceFd>,
}

impl Machine {
    /// Creates a machine and loads the guest. `x0` is the guest's argument.
    pub(crate) fn new(shape: &Shape, guest: &[u8], x0: u64) -> Result<Self> {
        let vm = (Kvm::new().and_then(|kvm| kvm.create_vm())).context("cannot make a VM")?;
        let memory = Memory::new(shape.ram)?;
        memory.write((ENTRY - RAM) as usize, guest)?;
        let (userspace_addr, memory_size) = memory.range();

        let region = kvm::kvm_userspace_memory_region {
            slot: 0,
            flags: 0,
            guest_phys_addr: RAM,
            memory_size,
            userspace_addr,
        };
        // SAFETY: the memory stays mapped for ever, and nobody takes references into it.
        unsafe { vm.set_user_memory_region(region) }.context("no memory")?;

        let vcpus = (0..shape.vcpus)
            .map(|number| create_vcpu(&vm, number))
            .collect::<Result<Vec<_>>>()?;

        let mut devices = vec![create_gic(&vm, shape.interrupts)?];
        for address in &GITS[..shape.itses] {
            devices.push(create_its(&vm, address)?);
        }
        vcpus[0].set_one_reg(PC, &ENTRY.to_le_bytes())?;
        vcpus[0].set_one_reg(X0, &x0.to_le_bytes())?;
        Ok(Self {
            vm,
            memory,
            vcpus,
            _devices: devices,
        })
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
    let address = kvm::KVM_DEV_ARM_VGIC_GRP_ADDR;

    set_attribute(
        &device,
        address,
        kvm::KVM_VGIC_V3_ADDR_TYPE_DIST,
        Some(&GICD),
    )?;
    set_attribute(
        &device,
        address,
        kvm::KVM_VGIC_V3_ADDR_TYPE_REDIST,
        Some(&GICR),
    )?;
    set_attribute(
        &device,
        kvm::KVM_DEV_ARM_VGIC_GRP_NR_IRQS,
        0,
        Some(&interrupts),
    )?;
    init_device(&device)?;
    Ok(device)
}

/// Creates an ITS at `base`.
fn create_its(vm: &VmFd, base: &u64) -> Result<DeviceFd> {
    let device = create_device(vm, kvm::kvm_device_type_KVM_DEV_TYPE_ARM_VGIC_ITS)?;
    let address = kvm::KVM_DEV_ARM_VGIC_GRP_ADDR;
    set_attribute(&device, address, kvm::KVM_VGIC_ITS_ADDR_TYPE, Some(base))?;
    init_device(&device)?;
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

/// Initializes a device.
fn init_device(device: &DeviceFd) -> Result<()> {
    let (group, attribute) = (
        kvm::KVM_DEV_ARM_VGIC_GRP_CTRL,
        kvm::KVM_DEV_ARM_VGIC_CTRL_INIT,
    );
    set_attribute::<u64>(device, group, attribute, None)
}

/// Sets an attribute to the value behind `value`.
fn set_attribute<T>(
    device: &DeviceFd,
    group: u32,
    attribute: u32,
    value: Option<&T>,
) -> Result<()> {
    let addr = value.map_or(ptr::null(), ptr::from_ref).addr() as u64;
    let attribute = kvm::kvm_device_attr {
        group,
        attr: attribute.into(),
        addr,
        flags: 0,
    };
    device
        .set_device_attr(&attribute)
        .with_context(|| format!("attribute {group}/{}", attribute.attr))
}
