//! A virtual PE: made, moved to another CPU, freed.

use crate::direct::{of, sgi};
use crate::epoch::CpuPin;
use crate::error::DirectError;
use crate::gicv4::command::Command;
use crate::gicv4::{Gicv4, ItsFault, PhysicalIts, VpeId};
use crate::host::Host;
use crate::intid::{CpuId, IntId, VcpuId};
use crate::vm::Vm;
use crate::vm::direct::{Shared, VirtualSgis, Vpe};

/// Byte of a configuration table: an enabled virtual LPI of the lowest priority.
const ENABLED: u8 = 0xfd;

/// Byte of a configuration table: a disabled virtual LPI of the lowest priority.
const DISABLED: u8 = 0xfc;

/// Returns the number of bits of a virtual PE's INTIDs: at least those of the first LPI, for a VM
/// without LPIs.
pub(super) fn id_bits<H: Host>(vm: &Vm<H>) -> u32 {
    let first = IntId::FIRST_LPI.ilog2().saturating_add(1);
    vm.config.intid_bits().max(first)
}

/// Returns the bytes of a configuration table, a byte for each LPI (IHI 0069, 5.1.1).
fn configuration_bytes<H: Host>(vm: &Vm<H>) -> usize {
    (1 << id_bits(vm)) - IntId::FIRST_LPI as usize
}

/// Returns the bytes of a pending table, a bit for each INTID (IHI 0069, 5.1.2).
fn pending_bytes<H: Host>(vm: &Vm<H>) -> usize {
    (1 << id_bits(vm)) / 8
}

/// Gives a vCPU a virtual PE, unless it has one. The vCPU may be in the guest, or blocked: the
/// first direct event recalls it. Takes the locks of `vm::direct`, one at a time.
///
/// # Errors
/// [`DirectError`]; the reason stays in the vCPU's slot.
pub(crate) fn ensure<H: Host>(
    vm: &Vm<H>,
    pin: &CpuPin<'_>,
    vcpu: VcpuId,
) -> Result<(), DirectError> {
    let (direct, gic) = of(vm).ok_or(DirectError::NoGicv4)?;
    let slot = direct.slot(vcpu).ok_or(DirectError::UnknownVcpu(vcpu))?;

    let configuration = {
        let mut shared = direct.shared.lock(pin.locks());
        match *shared {
            Some(_) => Ok(()),
            None => make_shared(vm, gic, pin.cpu()).map(|made| *shared = Some(made)),
        }
        .map(|()| shared.map_or(0, |shared| shared.configuration))
    };

    let mut vpe = slot.vpe.lock(pin.locks());
    if vpe.is_ok() {
        return Ok(());
    }
    let made = configuration.and_then(|table| make(vm, gic, Some(vcpu), pin.cpu(), table));
    *vpe = made;
    drop(vpe);

    if let Err(error) = made
        && keeps_configuration(gic, error)
        && let Some(shared) = &mut *direct.shared.lock(pin.locks())
    {
        shared.is_kept = true;
    }
    made.map(|_| ())
}

/// Makes the tables of a VM, and the virtual PE that takes pending states out.
fn make_shared<H: Host>(vm: &Vm<H>, gic: &dyn Gicv4, cpu: CpuId) -> Result<Shared, DirectError> {
    if gic.its_count() > 1 && !gic.vmovp_is_shared() {
        return Err(DirectError::VmovpNotShared);
    }

    let bytes = configuration_bytes(vm);
    let table = |value| -> Result<u64, DirectError> {
        let table = gic.allocate_table(bytes).ok_or(DirectError::NoMemory)?;
        gic.fill_table(table, 0, bytes, value);
        Ok(table)
    };

    let configuration = table(DISABLED)?;
    let all_enabled = table(ENABLED).inspect_err(|_| gic.free_table(configuration, bytes))?;
    let parking = make(vm, gic, None, cpu, all_enabled).inspect_err(|error| {
        gic.free_table(configuration, bytes);
        if !keeps_configuration(gic, *error) {
            gic.free_table(all_enabled, bytes);
        }
    })?;

    Ok(Shared {
        configuration,
        is_kept: false,
        parking,
    })
}

/// Returns true if an ITS that has stopped, in [`make`], may still have the configuration table: a
/// `VMAPP` of GICv4.1 has its address.
fn keeps_configuration(gic: &dyn Gicv4, error: DirectError) -> bool {
    error == DirectError::ItsFault && gic.v4_1().is_some()
}

/// Makes a virtual PE with this configuration table, and maps it to the redistributor of `cpu`.
fn make<H: Host>(
    vm: &Vm<H>,
    gic: &dyn Gicv4,
    vcpu: Option<VcpuId>,
    cpu: CpuId,
    configuration: u64,
) -> Result<Vpe, DirectError> {
    let bytes = pending_bytes(vm);
    let table = gic.allocate_table(bytes).ok_or(DirectError::NoMemory)?;
    let Some(id) = gic.allocate_vpe(vcpu) else {
        gic.free_table(table, bytes);
        return Err(DirectError::NoVpe);
    };

    let number = id.number;
    let v4_1 = gic.v4_1().is_some();
    let on_all = each_its(gic, |its| {
        let rdbase = gic.rdbase(its, cpu);
        let map = Command::vmapp(number, rdbase, table, id_bits(vm));
        let sync = Command::vsync(number);
        if v4_1 {
            let map = map.with_vpe_of_v4_1(configuration, id.doorbell, its == PhysicalIts(0));
            gic.execute(its, &[map, Command::invdb(number), sync])
        } else {
            gic.execute(its, &[map, Command::vinvall(number), sync])
        }
    });
    if on_all.is_err() {
        // An ITS that has stopped may still have the table and the number: neither is used again.
        return Err(DirectError::ItsFault);
    }

    Ok(Vpe {
        id,
        table,
        configuration,
        cpu,
        is_between: false,
        resident: false,
        // A virtual PE of GICv4.1 has not asked for its doorbell yet.
        pending: v4_1,
        // The first redistributor finds no area of its own.
        idai: true,
        doorbell_on: false,
        // LPIs are of Group 1.
        groups: 1 << 1,
        sgis: VirtualSgis::default(),
    })
}

/// Moves a virtual PE, which is not resident, to the redistributor of `cpu`.
pub(super) fn move_to(gic: &dyn Gicv4, vpe: &mut Vpe, cpu: CpuId) -> Result<(), ItsFault> {
    if vpe.cpu == cpu && !vpe.is_between {
        return Ok(());
    }

    let its = PhysicalIts(0);
    let number = vpe.id.number;
    let mut there = Command::vmovp(number, gic.rdbase(its, cpu));
    if gic.v4_1().is_some() {
        there = there.with_doorbell(vpe.id.doorbell);
    }
    // An ITS that does not answer may have moved it, or may do so later.
    vpe.is_between = true;
    gic.execute(its, &[there, Command::vsync(number)])?;
    vpe.is_between = false;
    vpe.cpu = cpu;
    Ok(())
}

/// Calls `execute` for each physical ITS.
pub(super) fn each_its(
    gic: &dyn Gicv4,
    execute: impl Fn(PhysicalIts) -> Result<(), ItsFault>,
) -> Result<(), ItsFault> {
    (0..gic.its_count()).try_for_each(|its| execute(PhysicalIts(its as u8)))
}

/// Frees the virtual PEs and tables of a VM that is taken apart, and whose events are unmapped. A
/// virtual PE that is resident, because its vCPU is still on a CPU, keeps its number, and the
/// tables of the VM stay allocated: the redistributor may still use them.
pub(crate) fn free_all<H: Host>(vm: &Vm<H>, pin: &CpuPin<'_>) {
    let Some((direct, gic)) = of(vm) else {
        return;
    };

    for vcpu in &vm.vcpus {
        // No SGI goes to a number that is free, nor, from a virtual PE that stays resident, to the
        // guest that is on the CPU next.
        let _dropped = sgi::take(vm, pin, vcpu);
    }

    let mut all_left = true;
    for slot in &direct.slots {
        let mut vpe = slot.vpe.lock(pin.locks());
        if let Ok(old) = *vpe {
            *vpe = Err(DirectError::TornDown);
            all_left &= !old.resident && free(vm, gic, old).is_ok();
        }
    }

    let mut shared = direct.shared.lock(pin.locks());
    if let Some(old) = shared.take()
        && free(vm, gic, old.parking).is_ok()
        && all_left
        && !old.is_kept
    {
        let bytes = configuration_bytes(vm);
        gic.free_table(old.configuration, bytes);
        gic.free_table(old.parking.configuration, bytes);
    }
}

/// Frees a virtual PE that is not resident. After an error, the ITS may still use the table and the
/// number, which then are not used again.
fn free<H: Host>(vm: &Vm<H>, gic: &dyn Gicv4, vpe: Vpe) -> Result<(), ItsFault> {
    let VpeId { number, .. } = vpe.id;
    let v4_1 = gic.v4_1().is_some();
    if vpe.doorbell_on {
        gic.set_doorbell(vpe.id, vpe.cpu, false);
    }

    let last = gic.its_count().saturating_sub(1);
    each_its(gic, |its| {
        let unmap = if v4_1 {
            Command::vunmapp_of_v4_1(number, usize::from(its.0) == last)
        } else {
            Command::vunmapp(number)
        };
        gic.execute(its, &[Command::vsync(number), unmap])
    })?;
    gic.free_table(vpe.table, pending_bytes(vm));
    gic.free_vpe(vpe.id);
    Ok(())
}
