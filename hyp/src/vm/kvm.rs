//! Snapshots of a VM in the form of Linux KVM's calls, for a VM that moves between `hyp` and KVM.
//!
//! The file is [`kvm_state`]'s. The interrupt controller goes through [`vgic::kvm`], which has the
//! attributes of KVM's devices over the library's state. A vCPU's registers are a subset of those
//! that KVM lists; those that are missing, such as identification registers, are each side's own.
#![expect(unsafe_code)]
// UNSAFETY: reads and writes the RAM of a VM that is stopped.

use alloc::borrow::ToOwned;
use alloc::format;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;

use aarch64_cpu::registers::{ICH_VTR_EL2, Readable};
use kvm_state::{Attribute, Device, PAGE, Page, Register, Saved, Shape, Vcpu, order};
use semihosting::fs::File;
use semihosting::io::{Read, Write};
use vgic::Host;
use vgic::cpu_interface::Vtr;
use vgic::intid::{IntId, ItsId, VcpuId};
use vgic::kvm::{self, Devices, Errno, address, control, group};
use vgic::state::VmState;

use super::Vm;
use super::hop::Hop;
use super::host::{Mirror, VmHost};
use super::snapshot::{runs, state as state_of};
use super::virtio::EntropyDevice;
use crate::cpu::clock::now;
use crate::cpu::this_cpu::ThisCpu;
use crate::memory::cache;
use crate::parts::RAM;
use crate::snapshot::state::{self, Registers, State, SystemRegisters};
use crate::vcpu::interrupts;
use crate::vcpu::vector::{self, VectorRegisters};

/// `KVM_MP_STATE_RUNNABLE` and `KVM_MP_STATE_STOPPED`.
const RUNNABLE: u32 = 0;
const STOPPED: u32 = 5;

/// INTIDs below the LPIs of a VM that KVM takes.
pub(crate) const INTERRUPTS: u32 = 992;

/// Offset of `GICD_CTLR`.
const GICD_CTLR: u64 = 0;

/// The first INTID in an attribute of lines.
const INTID: u64 = 0x3ff;

/// Bytes of an instruction.
const INSTRUCTION: u64 = 4;

/// Vector registers, and the bytes of one without SVE.
const VECTORS: usize = 32;
const VECTOR: usize = 16;

/// Bytes of one transfer.
const PIECE: usize = 64 << 10;

/// Bytes of the largest file.
const MOST: usize = 64 << 20;

/// Numbers of a vCPU's registers.
mod id {
    const U64: u64 = 0x6030_0000_0000_0000;
    const CORE: u64 = 0x0010_0000;

    /// Returns the number of the core register of 64 bits at an offset in `struct kvm_regs`.
    const fn core(offset: u64) -> u64 {
        U64 | CORE | (offset / 4)
    }

    /// Returns the number of a system register.
    pub(super) const fn system(op0: u64, op1: u64, crn: u64, crm: u64, op2: u64) -> u64 {
        U64 | 0x0013_0000 | op0 << 14 | op1 << 11 | crn << 7 | crm << 3 | op2
    }

    /// Returns the number of `x0` to `x30`.
    pub(super) const fn general(number: u64) -> u64 {
        core(8 * number)
    }

    pub(super) const SP_EL0: u64 = core(248);
    pub(super) const PC: u64 = core(256);
    pub(super) const PSTATE: u64 = core(264);
    pub(super) const SP_EL1: u64 = core(272);
    pub(super) const ELR_EL1: u64 = core(280);
    pub(super) const SPSR_EL1: u64 = core(288);

    /// Returns the number of `V0` to `V31`, of 128 bits.
    pub(super) const fn vector(number: u64) -> u64 {
        0x6040_0000_0000_0000 | CORE | ((336 + 16 * number) / 4)
    }

    /// `FPSR` and `FPCR`, of 32 bits.
    pub(super) const FPSR: u64 = 0x6020_0000_0000_0000 | CORE | (848 / 4);
    pub(super) const FPCR: u64 = 0x6020_0000_0000_0000 | CORE | (852 / 4);

    /// `CNTVCT_EL0` and `CNTPCT_EL0`; KVM's names for the virtual timer's registers are crossed.
    pub(super) const CNTVCT: u64 = system(3, 3, 14, 3, 2);
    pub(super) const CNTPCT: u64 = system(3, 3, 14, 0, 1);
    pub(super) const CNTV_CVAL: u64 = system(3, 3, 14, 0, 2);
    pub(super) const CNTV_CTL: u64 = system(3, 3, 14, 3, 1);
    pub(super) const CNTP_CVAL: u64 = system(3, 3, 14, 2, 2);
    pub(super) const CNTP_CTL: u64 = system(3, 3, 14, 2, 1);
}

/// Returns the registers of 64 bits, each with its number, but for the general ones.
fn system_registers(registers: &mut SystemRegisters) -> [(u64, &mut u64); 30] {
    let r = registers;
    [
        (id::SP_EL0, &mut r.sp_el0),
        (id::PC, &mut r.elr_el2),
        (id::PSTATE, &mut r.spsr_el2),
        (id::SP_EL1, &mut r.sp_el1),
        (id::ELR_EL1, &mut r.elr),
        (id::SPSR_EL1, &mut r.spsr),
        (id::CNTV_CVAL, &mut r.cntv_cval),
        (id::CNTV_CTL, &mut r.cntv_ctl),
        (id::CNTP_CVAL, &mut r.cntp_cval),
        (id::CNTP_CTL, &mut r.cntp_ctl),
        (id::system(2, 0, 0, 2, 2), &mut r.mdscr),
        (id::system(3, 0, 1, 0, 0), &mut r.sctlr),
        (id::system(3, 0, 1, 0, 2), &mut r.cpacr),
        (id::system(3, 0, 2, 0, 0), &mut r.ttbr0),
        (id::system(3, 0, 2, 0, 1), &mut r.ttbr1),
        (id::system(3, 0, 2, 0, 2), &mut r.tcr),
        (id::system(3, 0, 5, 1, 0), &mut r.afsr0),
        (id::system(3, 0, 5, 1, 1), &mut r.afsr1),
        (id::system(3, 0, 5, 2, 0), &mut r.esr),
        (id::system(3, 0, 6, 0, 0), &mut r.far),
        (id::system(3, 0, 7, 4, 0), &mut r.par),
        (id::system(3, 0, 10, 2, 0), &mut r.mair),
        (id::system(3, 0, 10, 3, 0), &mut r.amair),
        (id::system(3, 0, 12, 0, 0), &mut r.vbar),
        (id::system(3, 0, 13, 0, 1), &mut r.contextidr),
        (id::system(3, 0, 13, 0, 4), &mut r.tpidr_el1),
        (id::system(3, 0, 14, 1, 0), &mut r.cntkctl),
        (id::system(3, 2, 0, 0, 0), &mut r.csselr),
        (id::system(3, 3, 13, 0, 2), &mut r.tpidr_el0),
        (id::system(3, 3, 13, 0, 3), &mut r.tpidrro),
    ]
}

/// Writes a VM that is stopped. Returns the bytes of the file, and the nanoseconds that the vGIC
/// took.
///
/// # Errors
/// Why the VM cannot be written.
pub(super) fn write(cpu: &ThisCpu, vm: &'static Vm, hop: &Hop) -> Result<(u64, u64), String> {
    let (state, of_vgic) = state_of(cpu, vm)?;
    let host = vm.vgic().ok_or("it is dead")?.host();
    let shape = shape(vm);
    let attributes = attributes(vm, &shape, state.vgic, host)
        .map_err(|errno| format!("its interrupt controller: {errno:?}"))?;
    let vcpus = state.vcpus.iter().zip(vm.vcpus()).map(|(vcpu, of)| {
        let is_asking = hop.is_asking(of);
        vcpu_to_kvm(
            vcpu,
            is_asking,
            state.virtual_counter,
            state.physical_counter,
        )
    });
    let vcpus = vcpus.collect::<Result<_, _>>()?;

    // The tables that a save writes are in RAM by now.
    let pages = runs(vm).flat_map(|(first, run)| {
        // SAFETY: the RAM is mapped, and the VM, which is stopped, is the only one to write it.
        let bytes = unsafe { core::slice::from_raw_parts(run.start as *const u8, run.len()) };
        let first = shape.ram.0 + first * PAGE as u64;
        let addresses = (first..).step_by(PAGE);
        let pages = addresses.zip(bytes.chunks_exact(PAGE));
        pages.map(|(address, content)| Page { address, content })
    });
    let saved = Saved {
        vcpus,
        attributes,
        pages: pages.collect(),
        shape: shape.clone(),
    };
    let bytes = (saved.to_file()).map_err(|error| format!("it has no form: {error:?}"))?;
    let mut file = File::create(&hop.file).map_err(of_host)?;
    file.write_all(&bytes).map_err(of_host)?;
    Ok((bytes.len() as u64, of_vgic))
}

/// Returns the state of a VM that is dead from a file, whose pages are written to the VM's RAM.
///
/// # Errors
/// Why the file is refused.
pub(super) fn read(vm: &'static Vm, mut file: File) -> Result<State, String> {
    let mut bytes = Vec::new();
    let mut piece = vec![0; PIECE];
    loop {
        let read = file.read(&mut piece).map_err(of_host)?;
        if read == 0 {
            break;
        }
        if bytes.len() + read > MOST {
            return Err("it is too large".to_owned());
        }
        bytes.extend_from_slice(&piece[..read]);
    }

    let saved = Saved::from_file(&bytes).map_err(|error| format!("{error:?}"))?;
    if saved.shape != shape(vm) || saved.vcpus.len() != vm.vcpus().len() {
        return Err(format!(
            "it is of a VM of another shape: {:x?}",
            saved.shape
        ));
    }
    for page in &saved.pages {
        let run = vm.memory.locate(page.address, PAGE);
        let run = run.ok_or("it has a page beyond RAM")?;
        // SAFETY: the RAM is mapped, and no vCPU of the VM runs.
        unsafe { core::slice::from_raw_parts_mut(run as *mut u8, PAGE) }
            .copy_from_slice(page.content);
        cache::clean_and_invalidate(&(run..run + PAGE));
    }
    cache::invalidate_instructions();
    state(vm, &saved, &VmHost::new(vm, Mirror::default()))
}

/// Returns the parts of a VM.
fn shape(vm: &Vm) -> Shape {
    let config = &vm.config;
    Shape {
        affinities: config
            .vcpus
            .iter()
            .map(|affinity| affinity.mpidr())
            .collect(),
        interrupts: config.spis + IntId::FIRST_SPI,
        itses: config.its.iter().map(|its| its.base).collect(),
        ram: (
            RAM as u64,
            vm.memory.physical().map(|ram| ram.len() as u64).sum(),
        ),
    }
}

/// Returns a value of `GICD_CTLR` with Group 0 enabled if Group 1 is: KVM has one enable for both.
fn with_group_0(value: u64) -> u64 {
    const GROUP_1: u64 = 1 << 1;
    value | (value & GROUP_1) >> 1
}

/// Returns the lines of PPIs without those of the timers. They are the machine's: a timer that is
/// due raises its line again when its vCPU runs.
fn without_timers(lines: u64) -> u64 {
    interrupts::TIMERS
        .iter()
        .fold(lines, |lines, timer| lines & !(1 << timer))
}

/// Returns the attributes of a VM's interrupt controller, whose tables are written.
fn attributes(
    vm: &Vm,
    shape: &Shape,
    state: VmState,
    host: &impl Host,
) -> Result<Vec<Attribute>, Errno> {
    let vtr = Vtr::decode(ICH_VTR_EL2.get());
    let mut devices = Devices::of(vm.config.clone(), vtr, state);
    devices.set(action(Device::Gic, control::SAVE_PENDING_TABLES), 0, host)?;
    for (number, _) in (0..).zip(&shape.itses) {
        devices.set(action(Device::Its(number), control::SAVE_TABLES), 0, host)?;
    }
    order::attributes(shape, |device, group, attribute| {
        let mut value = 0;
        devices.get(named(device, group, attribute), &mut value)?;
        Ok(value)
    })
}

/// Returns the state that a file has.
///
/// # Errors
/// Why the file is refused.
fn state(vm: &Vm, saved: &Saved<'_>, host: &impl Host) -> Result<State, String> {
    let vgic = vgic_state(vm, saved, host)?;
    let counter = |id| {
        let registers = saved.vcpus.iter().flat_map(|vcpu| &vcpu.registers);
        let mut found = registers.filter(|register| register.id == id);
        found.next().and_then(value)
    };
    let vcpus = saved.vcpus.iter().map(vcpu_from_kvm);
    Ok(State {
        virtual_counter: counter(id::CNTVCT).ok_or("it has no CNTVCT_EL0")?,
        physical_counter: counter(id::CNTPCT).unwrap_or_else(now),
        vcpus: vcpus.collect::<Result<_, _>>()?,
        console: vm
            .console
            .as_ref()
            .map(|console| console.take())
            .unwrap_or_default(),
        // KVM has no such device: it begins as after a reset.
        entropy: vm.entropy.as_ref().map(EntropyDevice::state),
        vgic,
    })
}

/// Returns the state of the interrupt controller that a file has.
///
/// # Errors
/// Why the file is refused.
fn vgic_state(vm: &Vm, saved: &Saved<'_>, host: &impl Host) -> Result<VmState, String> {
    let vtr = Vtr::decode(ICH_VTR_EL2.get());
    let mut devices = Devices::new(vm.config.clone(), vtr);
    let mut set = |device, group, attribute, value| {
        let set = devices.set(named(device, group, attribute), value, host);
        set.map_err(|errno| {
            format!("{device:?}, attribute {group}/{attribute:#x} := {value:#x}: {errno:?}")
        })
    };
    let gic = Device::Gic;
    let frames = vm
        .config
        .redistributors
        .first()
        .ok_or("no redistributors")?;
    set(gic, group::ADDR, address::DIST, vm.config.distributor)?;
    set(gic, group::ADDR, address::REDIST, frames.base)?;
    set(gic, group::NR_IRQS, 0, saved.shape.interrupts.into())?;
    set(gic, group::CTRL, control::INIT, 0)?;
    for (number, base) in (0..).zip(&saved.shape.itses) {
        set(Device::Its(number), group::ADDR, address::ITS, *base)?;
        set(Device::Its(number), group::CTRL, control::INIT, 0)?;
    }

    for attribute in &saved.attributes {
        let Attribute {
            device,
            group,
            attribute,
            value,
        } = *attribute;
        let value = match (group, attribute) {
            (group::DIST_REGS, GICD_CTLR) => with_group_0(value),
            (group::LEVEL_INFO, _) if attribute & INTID == 0 => without_timers(value),
            _ => value,
        };
        set(device, group, attribute, value)?;
    }
    for (number, vcpu) in saved.vcpus.iter().enumerate() {
        let id = VcpuId::new(number).ok_or("too many vCPUs")?;
        let is_on = vcpu.mp_state == RUNNABLE;
        devices
            .set_power(id, is_on)
            .map_err(|errno| format!("{errno:?}"))?;
    }
    let (_, state) = devices.finish().map_err(|errno| format!("{errno:?}"))?;
    Ok(state)
}

/// Returns a vCPU as KVM has it. One that is asking to be saved is past that access.
///
/// # Errors
/// Why KVM cannot have it.
fn vcpu_to_kvm(
    vcpu: &state::Vcpu,
    is_asking: bool,
    virtual_counter: u64,
    physical_counter: u64,
) -> Result<Vcpu, String> {
    let mp_state = if vcpu.is_on { RUNNABLE } else { STOPPED };
    let mut registers = Vec::new();
    let mut put = |id, value: &[u8]| {
        let value = value.to_vec();
        registers.push(Register { id, value });
    };
    put(id::CNTVCT, &virtual_counter.to_le_bytes());
    put(id::CNTPCT, &physical_counter.to_le_bytes());

    if let Some((entry, argument)) = vcpu.start {
        put(id::PC, &entry.to_le_bytes());
        put(id::general(0), &argument.to_le_bytes());
    } else if let Some(of) = &vcpu.registers {
        for (number, value) in (0..).zip(of.general) {
            put(id::general(number), &value.to_le_bytes());
        }
        let mut system = of.system.clone();
        if is_asking {
            system.elr_el2 += INSTRUCTION;
        }
        for (id, value) in system_registers(&mut system) {
            put(id, &value.to_le_bytes());
        }

        if vector::length() != VECTOR {
            return Err("its vectors are longer than KVM's without SVE".to_owned());
        }
        let vectors = of.vector.vectors.chunks_exact(VECTOR).take(VECTORS);
        for (number, value) in (0..).zip(vectors) {
            put(id::vector(number), value);
        }
        put(id::FPSR, &(of.vector.status as u32).to_le_bytes());
        put(id::FPCR, &(of.vector.control as u32).to_le_bytes());
    }
    Ok(Vcpu {
        mp_state,
        registers,
    })
}

/// Returns a vCPU that KVM has saved.
///
/// # Errors
/// Why the vCPU is refused.
fn vcpu_from_kvm(vcpu: &Vcpu) -> Result<state::Vcpu, String> {
    let is_on = match vcpu.mp_state {
        RUNNABLE => true,
        STOPPED => false,
        other => return Err(format!("a vCPU is in the power state {other}")),
    };
    if !is_on {
        return Ok(state::Vcpu {
            is_on,
            start: None,
            registers: None,
        });
    }

    let find = |id| {
        let register = vcpu.registers.iter().find(|register| register.id == id);
        register.ok_or_else(|| format!("a vCPU has no register {id:#x}"))
    };
    let number = |id| value(find(id)?).ok_or_else(|| format!("register {id:#x} has another size"));
    let mut general = [0; 31];
    for (place, register) in (0..).zip(&mut general) {
        *register = number(id::general(place))?;
    }
    let mut system = SystemRegisters::default();
    for (id, register) in system_registers(&mut system) {
        *register = number(id)?;
    }
    if vector::length() != VECTOR {
        return Err("vectors are longer here".to_owned());
    }
    let mut vector = VectorRegisters::new().state();
    for (place, register) in (0..).zip(vector.vectors.chunks_exact_mut(VECTOR).take(VECTORS)) {
        let id = id::vector(place);
        let value = find(id)?.value.as_slice();
        if value.len() != register.len() {
            return Err(format!("register {id:#x} has another size"));
        }
        register.copy_from_slice(value);
    }
    vector.status = number(id::FPSR)?;
    vector.control = number(id::FPCR)?;
    Ok(state::Vcpu {
        is_on,
        start: None,
        registers: Some(Registers {
            general,
            system,
            vector,
        }),
    })
}

/// Returns the value of a register of at most 64 bits.
fn value(register: &Register) -> Option<u64> {
    let mut bytes = [0; 8];
    bytes
        .get_mut(..register.value.len())?
        .copy_from_slice(&register.value);
    Some(u64::from_le_bytes(bytes))
}

/// Returns an attribute of a device.
fn named(device: Device, group: u32, attr: u64) -> kvm::Attribute {
    let device = match device {
        Device::Gic => kvm::Device::Gic,
        Device::Its(number) => kvm::Device::Its(ItsId(number as u8)),
    };
    kvm::Attribute {
        device,
        group,
        attr,
    }
}

/// Returns an action of a device.
fn action(device: Device, attr: u64) -> kvm::Attribute {
    named(device, group::CTRL, attr)
}

fn of_host(error: semihosting::io::Error) -> String {
    format!("the host says {error:?}")
}
