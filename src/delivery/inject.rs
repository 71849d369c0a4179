//! How interrupts come in: edges, lines, forwarded physical interrupts, and MSIs.
use crate::config::GITS_TRANSLATER;
use crate::delivery::{change, queue};
use crate::epoch::CpuPin;
use crate::error::InjectError;
use crate::host::Host;
use crate::intid::{DeviceId, EventId, IntId, ItsId, Kind, VcpuId};
use crate::vm::Vm;
use crate::vm::irq::{Irq, Raised};
use crate::vm::vcpu::Vcpu;

/// What an injection came to.
#[must_use]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Injected {
    /// It made the interrupt pending.
    Pending,
    /// The interrupt was pending already; the guest will see the two as one.
    Coalesced,
}

/// An edge on the SPI `intid`.
///
/// # Errors
/// [`InjectError::UnknownInterrupt`] if the VM has no such SPI.
pub(crate) fn inject_spi<H: Host>(
    vm: &Vm<H>,
    pin: &CpuPin<'_>,
    intid: IntId,
) -> Result<Injected, InjectError> {
    let irq = vm.spi(intid)?;
    Ok(raised(vm, pin, irq, irq.raise()))
}

/// Sets the level of the line of SPI `intid`. Interrupts configured as edge-triggered ignore it.
///
/// # Errors
/// [`InjectError::UnknownInterrupt`] if the VM has no such SPI.
pub(crate) fn set_spi_line<H: Host>(
    vm: &Vm<H>,
    pin: &CpuPin<'_>,
    intid: IntId,
    high: bool,
) -> Result<(), InjectError> {
    let irq = vm.spi(intid)?;
    change::set_line(vm, pin, irq, high);
    Ok(())
}

/// Forwards a physical interrupt, active on this or another CPU, as the SPI `intid`: the guest's
/// deactivation will deactivate it ([`Vgic::connect_spi`] says which one).
///
/// # Errors
/// [`InjectError::UnknownInterrupt`] if the VM has no such SPI.
pub(crate) fn forward_spi<H: Host>(
    vm: &Vm<H>,
    pin: &CpuPin<'_>,
    intid: IntId,
) -> Result<Injected, InjectError> {
    let irq = vm.spi(intid)?;
    Ok(raised(vm, pin, irq, irq.raise_hw()))
}

/// Says which physical interrupt, 16-1019, [`Vgic::forward_spi`] of `intid` stands for. Before the
/// first one.
///
/// # Errors
/// [`InjectError::UnknownInterrupt`] if either is out of range.
pub(crate) fn connect_spi<H: Host>(
    vm: &Vm<H>,
    intid: IntId,
    pintid: IntId,
) -> Result<(), InjectError> {
    vm.spi(intid)?.set_pintid(physical(pintid)?);
    Ok(())
}

/// An edge on the PPI `intid` of `vcpu`.
///
/// # Errors
/// [`InjectError::UnknownVcpu`], [`InjectError::UnknownInterrupt`] if it is not a PPI.
pub(crate) fn inject_ppi<H: Host>(
    vm: &Vm<H>,
    pin: &CpuPin<'_>,
    vcpu: VcpuId,
    intid: IntId,
) -> Result<Injected, InjectError> {
    let (owner, irq) = vm.ppi(vcpu, intid)?;
    Ok(raised_on(vm, pin, owner, irq, irq.raise()))
}

/// Sets the level of the line of PPI `intid` of `vcpu`.
///
/// # Errors
/// As for [`Vgic::inject_ppi`].
pub(crate) fn set_ppi_line<H: Host>(
    vm: &Vm<H>,
    pin: &CpuPin<'_>,
    vcpu: VcpuId,
    intid: IntId,
    high: bool,
) -> Result<(), InjectError> {
    let (_, irq) = vm.ppi(vcpu, intid)?;
    change::set_line(vm, pin, irq, high);
    Ok(())
}

/// Forwards a physical PPI, active on the CPU that has `vcpu`, as the PPI `intid` of `vcpu`: the
/// guest's deactivation will deactivate it. The virtual timer comes this way.
///
/// # Errors
/// As for [`Vgic::inject_ppi`].
pub(crate) fn forward_ppi<H: Host>(
    vm: &Vm<H>,
    pin: &CpuPin<'_>,
    vcpu: VcpuId,
    intid: IntId,
) -> Result<Injected, InjectError> {
    let (owner, irq) = vm.ppi(vcpu, intid)?;
    Ok(raised_on(vm, pin, owner, irq, irq.raise_hw()))
}

/// Says which physical interrupt, 16-1019, [`Vgic::forward_ppi`] of `intid` stands for. Before the
/// first one.
///
/// # Errors
/// As for [`Vgic::inject_ppi`], and if `pintid` is out of range.
pub(crate) fn connect_ppi<H: Host>(
    vm: &Vm<H>,
    vcpu: VcpuId,
    intid: IntId,
    pintid: IntId,
) -> Result<(), InjectError> {
    vm.ppi(vcpu, intid)?.1.set_pintid(physical(pintid)?);
    Ok(())
}

/// An MSI: `device` writes `event` to the translation register of ITS `its`. Looks the interrupt
/// up without a lock and without guest memory; from interrupt context too.
///
/// # Errors
/// [`InjectError`] when the guest has not mapped it; nothing has happened then.
#[inline]
pub(crate) fn inject_msi<H: Host>(
    vm: &Vm<H>,
    pin: &CpuPin<'_>,
    its: ItsId,
    device: DeviceId,
    event: EventId,
) -> Result<Injected, InjectError> {
    // First of all: the less there is to keep meanwhile.
    let guard = pin.first_guard();
    let its = vm.its(its).ok_or(InjectError::ItsDisabled)?;
    let irq = pin.lookup(|| its.translate(device, event, guard))?;
    let raised = irq.raise();
    match news_for(vm, raised) {
        Some(vcpu) => Ok(raised_first(vm, pin, irq, vcpu)),
        None if raised.needs_nothing() => Ok(merged(vm, pin, irq)),
        None => msi_raised_again(vm, pin, irq, raised),
    }
}

/// An MSI as a device on the bus makes it: `device` writes `data`, an EventID, to the guest-physical
/// address `doorbell`. Finds the ITS whose `GITS_TRANSLATER` that is, and goes on as
/// [`Vgic::inject_msi`].
///
/// # Errors
/// [`InjectError::ItsDisabled`] if no ITS has its `GITS_TRANSLATER` there; else as for
/// [`Vgic::inject_msi`].
pub(crate) fn signal_msi<H: Host>(
    vm: &Vm<H>,
    pin: &CpuPin<'_>,
    doorbell: u64,
    device: DeviceId,
    data: u32,
) -> Result<Injected, InjectError> {
    let its = vm
        .its
        .iter()
        .find(|its| doorbell.checked_sub(its.config.base) == Some(GITS_TRANSLATER))
        .ok_or(InjectError::ItsDisabled)?;
    inject_msi(vm, pin, its.id, device, EventId(data))
}

/// Of an MSI whose interrupt is in a list register, disabled, unmapped, or leads to no vCPU.
#[inline(never)]
fn msi_raised_again<H: Host>(
    vm: &Vm<H>,
    pin: &CpuPin<'_>,
    irq: &Irq,
    raised: Raised,
) -> Result<Injected, InjectError> {
    if raised.unmapped() {
        // Unmapped since it was looked up.
        return Err(InjectError::UnmappedEvent);
    }
    let injected = raised_again(vm, pin, irq, raised);
    if raised.without_target() {
        return Err(refuse(vm, pin, irq, injected));
    }
    Ok(injected)
}

/// Takes an MSI back whose collection is not mapped: as for the `INT` command, nothing is kept, but for
/// what was pending before.
#[cold]
fn refuse<H: Host>(vm: &Vm<H>, pin: &CpuPin<'_>, irq: &Irq, injected: Injected) -> InjectError {
    if injected == Injected::Pending {
        let (_, changed) = irq.clear_pending();
        queue::complete(vm, pin, irq, changed);
    }
    InjectError::UnmappedCollection
}

/// Books a raise, and pays what it owes.
#[inline(always)]
pub(crate) fn raised<H: Host>(vm: &Vm<H>, pin: &CpuPin<'_>, irq: &Irq, raised: Raised) -> Injected {
    match news_for(vm, raised) {
        Some(vcpu) => raised_first(vm, pin, irq, vcpu),
        None => raised_again(vm, pin, irq, raised),
    }
}

/// As [`Vgic::raised`], for an SGI or PPI of `owner`.
#[inline(always)]
pub(crate) fn raised_on<H: Host>(
    vm: &Vm<H>,
    pin: &CpuPin<'_>,
    owner: &Vcpu,
    irq: &Irq,
    raised: Raised,
) -> Injected {
    if raised.was_idle() {
        raised_first(vm, pin, irq, owner)
    } else {
        raised_again(vm, pin, irq, raised)
    }
}

/// Whom a raise that is news is for.
#[inline(always)]
fn news_for<H: Host>(vm: &Vm<H>, raised: Raised) -> Option<&Vcpu> {
    // A target is a vCPU that is, or was when it was found, present.
    let target = vm.vcpus.get(raised.target_index());
    target.filter(|_| raised.was_idle())
}

/// Books a raise that is news for `vcpu`, and inserts the interrupt there.
#[inline(always)]
fn raised_first<H: Host>(vm: &Vm<H>, pin: &CpuPin<'_>, irq: &Irq, vcpu: &Vcpu) -> Injected {
    pin.counters().injections[irq.kind() as usize].add(1);
    queue::insert_on(vm, pin, irq, vcpu);
    Injected::Pending
}

/// Books a raise that merged with an earlier one, and that is all.
#[inline(always)]
pub(crate) fn merged<H: Host>(_vm: &Vm<H>, pin: &CpuPin<'_>, irq: &Irq) -> Injected {
    let kind = irq.kind() as usize;
    pin.counters().injections[kind].add(1);
    pin.counters().coalesced[kind].add(1);
    Injected::Coalesced
}

/// As [`Vgic::raised`], for an interrupt that is pending or queued, or may not be delivered.
#[inline(never)]
fn raised_again<H: Host>(vm: &Vm<H>, pin: &CpuPin<'_>, irq: &Irq, raised: Raised) -> Injected {
    let coalesced = raised.coalesced();
    if !raised.unmapped() {
        let kind = irq.kind() as usize;
        pin.counters().injections[kind].add(1);
        if coalesced {
            pin.counters().coalesced[kind].add(1);
        }
    }
    queue::follow_up(vm, pin, irq, raised.follow_up());
    if coalesced {
        Injected::Coalesced
    } else {
        Injected::Pending
    }
}

fn physical(pintid: IntId) -> Result<u16, InjectError> {
    if matches!(pintid.kind(), Kind::Ppi | Kind::Spi) {
        Ok(pintid.raw() as u16)
    } else {
        Err(InjectError::UnknownInterrupt)
    }
}
