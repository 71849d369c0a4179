//! Save and restore by KVM's own calls.

use anyhow::{Context, Result, anyhow, ensure};
use kvm_bindings as kvm;
use kvm_ioctls::{DeviceFd, VcpuFd};
use kvm_state::{Device, Page, Register, Saved, Vcpu, order};

use crate::vm::{Machine, get, set};

/// Most registers of a vCPU.
const MOST_REGISTERS: usize = 500;

/// Saves a VM that does not run, as a file.
pub(crate) fn save(machine: &Machine) -> Result<Vec<u8>> {
    let tables = kvm::KVM_DEV_ARM_VGIC_SAVE_PENDING_TABLES;
    action(&machine.gic, tables).context("pending tables")?;
    for its in &machine.itses {
        action(its, kvm::KVM_DEV_ARM_ITS_SAVE_TABLES).context("tables of an ITS")?;
    }

    let vcpus = machine.vcpus.iter().map(save_vcpu);
    let vcpus = vcpus.collect::<Result<_>>()?;
    let attributes = order::attributes(&machine.shape, |device, group, attribute| {
        get(device_of(machine, device)?, group, attribute)
    })?;
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
        machine
            .memory
            .write(usize::try_from(offset)?, page.content)?;
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
        let device = device_of(&machine, attribute.device)?;
        set(
            device,
            attribute.group,
            attribute.attribute,
            attribute.value,
        )?;
    }
    Ok(machine)
}

/// Returns an interrupt controller of a machine.
fn device_of(machine: &Machine, device: Device) -> Result<&DeviceFd> {
    Ok(match device {
        Device::Gic => &machine.gic,
        Device::Its(number) => (machine.itses.get(number as usize)).context("no such ITS")?,
    })
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
