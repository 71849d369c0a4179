//! Checks of a state before it is restored: nothing is changed by a state that is wrong anywhere.

use alloc::vec;
use alloc::vec::Vec;

use crate::config::ItsConfig;
use crate::epoch::CpuPin;
use crate::error::RestoreError;
use crate::host::Host;
use crate::intid::{Affinity, IntId, ItsId, VcpuId};
use crate::mmio::gicr::{PENDBASER_MASK, PROPBASER_MASK};
use crate::state::{
    DeviceState, EXTENDED_VERSION, InterruptState, ItsState, LpiState, SpiState, VERSION,
    VcpuState, VmState, flags, version_of,
};
use crate::vm::Vm;
use crate::vm::distributor::NO_ACTIVE_SGIS;
use crate::vm::irq::MAX_MAPPING_REFS;
use crate::vm::its::baser::{Baser, TableType};
use crate::vm::its::device::Itt;
use crate::vm::its::registers::{CommandQueue, OFFSET};
use crate::vm::redistributor::PENDBASER_PTZ;

/// Bits of `ICH_VMCR_EL2` with a meaning for a GICv3 with affinity routing (IHI 0069, 12.4).
const VMCR: u64 = 0xfffc_021f;

/// Flags that an LPI, an SGI, a PPI and an SPI may have. An LPI is active in a list register only,
/// and a VM that is saved has none in use.
const OF_LPI: u8 = flags::LATCH | flags::ENABLED | flags::GROUP1;
const OF_SGI: u8 = OF_LPI | flags::ACTIVE;
const OF_PPI: u8 = OF_SGI | flags::LINE | flags::LEVEL;
const OF_SPI: u8 = OF_PPI | flags::MESSAGE;

/// Checks that a state is one of this VM, whose vCPUs are claimed. Returns its LPIs, with the
/// references that the mappings take.
///
/// # Errors
/// The first part of the state that is not.
pub(super) fn check<'a, H: Host>(
    vm: &Vm<H>,
    pin: &CpuPin<'_>,
    state: &'a VmState,
) -> Result<Mappings<'a>, RestoreError> {
    if !matches!(state.version, VERSION | EXTENDED_VERSION) {
        return Err(RestoreError::Version(state.version));
    }
    let no_active_sgis = if vm.config.nassgi_cap {
        NO_ACTIVE_SGIS
    } else {
        0
    };
    register(
        "GICD_CTLR",
        state.group_enables & !(3 | no_active_sgis) == 0,
    )?;
    register("GICR_PROPBASER", state.propbaser & !PROPBASER_MASK == 0)?;

    let equal = |error: fn(usize, usize) -> RestoreError, state, vm| {
        if state == vm {
            Ok(())
        } else {
            Err(error(state, vm))
        }
    };
    equal(
        RestoreError::Spis,
        state.spis.len(),
        vm.distributor.spis().len(),
    )?;
    equal(RestoreError::Vcpus, state.vcpus.len(), vm.vcpu_count())?;

    let extended = &state.extended;
    let extended_ppis = vm
        .vcpu_count()
        .saturating_mul(vm.config.extended_ppis as usize);
    equal(
        RestoreError::ExtendedSpis,
        extended.spis.len(),
        vm.distributor.extended_spis().len(),
    )?;
    equal(
        RestoreError::ExtendedPpis,
        extended.ppis.len(),
        extended_ppis,
    )?;
    let sgi_sources = vm.gicv2.as_ref().map_or(0, |_| vm.vcpu_count());
    equal(
        RestoreError::SgiSources,
        extended.sgi_sources.len(),
        sgi_sources,
    )?;
    // The numbers are the VM's by now: its version is the one whose form has them.
    if state.version != version_of(&vm.config) {
        return Err(RestoreError::Version(state.version));
    }
    equal(RestoreError::ItsCount, state.its.len(), vm.its.len())?;

    (IntId::FIRST_SPI..)
        .zip(&state.spis)
        .try_for_each(|(intid, spi)| check_spi(vm, intid, spi))?;
    (IntId::FIRST_EXTENDED_SPI..)
        .zip(&extended.spis)
        .try_for_each(|(intid, spi)| check_spi(vm, intid, spi))?;

    for (place, vcpu) in vm.added_vcpus().iter().zip(&state.vcpus) {
        check_vcpu(place.id, vm.affinity(pin, place.id), vcpu)?;
        let ppis = extended.ppis_of(place.id.index(), vm.config.extended_ppis);
        (IntId::FIRST_EXTENDED_PPI..)
            .zip(ppis)
            .try_for_each(|(intid, ppi)| interrupt(intid, *ppi, OF_PPI))?;
    }

    if vm.gicv2.is_some() {
        let sources = state.vcpus.iter().zip(&extended.sgi_sources);
        for (vcpu, sources) in sources {
            register("GICR_WAKER", !vcpu.processor_sleep)?;
            register("GICR_CTLR", !vcpu.enable_lpis)?;
            check_sgis(vm, vcpu, sources)?;
        }
    }

    let has_vcpu = |index: u16| vm.vcpu(VcpuId(index)).is_some();
    let end = vm.config.lpi_end();
    let collections = vm.config.its.iter().map(|its| its.collections).max();
    let mut last = 0;
    for lpi in &state.lpis {
        let in_order = lpi.intid > last && (IntId::FIRST_LPI..end).contains(&lpi.intid);
        let routed = lpi.target.is_none_or(has_vcpu);
        let collected = u32::from(lpi.icid) < collections.unwrap_or(0);
        if !in_order || !routed || !collected || !lpi_is_well_formed(lpi) {
            return Err(RestoreError::Interrupt(lpi.intid));
        }
        last = lpi.intid;
    }

    let mut mappings = Mappings::new(&state.lpis);
    for (its, saved) in vm.its.iter().zip(&state.its) {
        check_its(its.id, &its.config, saved, has_vcpu, &mut mappings)?;
    }
    mappings.check()?;
    Ok(mappings)
}

/// Returns an error about a register unless `holds`.
fn register(name: &'static str, holds: bool) -> Result<(), RestoreError> {
    if holds {
        Ok(())
    } else {
        Err(RestoreError::Register(name))
    }
}

fn interrupt(intid: u32, saved: InterruptState, allowed: u8) -> Result<(), RestoreError> {
    if saved.flags & !allowed == 0 && saved.priority & 7 == 0 {
        Ok(())
    } else {
        Err(RestoreError::Interrupt(intid))
    }
}

fn check_spi<H: Host>(vm: &Vm<H>, intid: u32, spi: &SpiState) -> Result<(), RestoreError> {
    interrupt(intid, spi.interrupt, OF_SPI)?;
    if !is_taken_rightly(vm, spi.interrupt, spi.active_on) {
        return Err(RestoreError::Interrupt(intid));
    }
    if vm.gicv2.is_some() {
        let targets = u64::from(vm.config.gicv2_targets());
        return register("GICD_ITARGETSR<n>", spi.router & !targets == 0);
    }
    let affinity = Affinity::from_mpidr(spi.router);
    register("GICD_IROUTER<n>", affinity.mpidr() == spi.router)
}

/// Checks that the SGIs of a GICv2 are enabled, and pending exactly with a source, which is a vCPU
/// of the VM.
fn check_sgis<H: Host>(vm: &Vm<H>, vcpu: &VcpuState, sources: &[u8]) -> Result<(), RestoreError> {
    for (intid, (sgi, sources)) in (0..).zip(vcpu.private.iter().zip(sources)) {
        let known = sources & !vm.config.gicv2_cpus() == 0;
        let pending = sgi.has(flags::LATCH) == (*sources != 0);
        if !known || !pending || !sgi.has(flags::ENABLED) {
            return Err(RestoreError::Interrupt(intid));
        }
    }
    Ok(())
}

/// Returns true if an interrupt is active wherever a vCPU has taken it.
fn is_taken_rightly<H: Host>(vm: &Vm<H>, saved: InterruptState, by: Option<u16>) -> bool {
    by.is_none_or(|vcpu| saved.has(flags::ACTIVE) && vm.vcpu(VcpuId(vcpu)).is_some())
}

fn check_vcpu(
    id: VcpuId,
    affinity: Option<Affinity>,
    saved: &VcpuState,
) -> Result<(), RestoreError> {
    if saved.affinity != affinity.map(Affinity::mpidr) || saved.is_on && affinity.is_none() {
        return Err(RestoreError::Affinity(id));
    }
    for (intid, private) in (0..).zip(saved.private) {
        let allowed = if intid < IntId::FIRST_PPI {
            OF_SGI
        } else {
            OF_PPI
        };
        interrupt(intid, private, allowed)?;
    }
    let fields = PENDBASER_MASK | PENDBASER_PTZ;
    register("GICR_PENDBASER", saved.pendbaser & !fields == 0)?;
    register("ICH_VMCR_EL2", saved.vmcr & !VMCR == 0)
}

fn lpi_is_well_formed(lpi: &LpiState) -> bool {
    interrupt(lpi.intid, lpi.interrupt, OF_LPI).is_ok() && lpi.interrupt.has(flags::GROUP1)
}

fn check_its(
    id: ItsId,
    config: &ItsConfig,
    saved: &ItsState,
    has_vcpu: impl Fn(u16) -> bool,
    mappings: &mut Mappings<'_>,
) -> Result<(), RestoreError> {
    let queue = CommandQueue::with(saved.cbaser);
    register("GITS_CBASER", queue.get() == saved.cbaser)?;
    register("GITS_CWRITER", saved.cwriter & !OFFSET == 0)?;
    register(
        "GITS_CREADR",
        saved.creadr & !OFFSET == 0 && queue.has(saved.creadr),
    )?;
    for (kind, value) in [
        (TableType::Devices, saved.device_table),
        (TableType::Collections, saved.collection_table),
    ] {
        register("GITS_BASER<n>", Baser::with(kind, value).get() == value)?;
    }

    let mut next = 0;
    for collection in &saved.collections {
        let icid = u32::from(collection.icid);
        if icid < next || icid >= config.collections || !has_vcpu(collection.vcpu) {
            return Err(RestoreError::Collection(id, collection.icid));
        }
        next = icid.saturating_add(1);
    }

    let (mut next, mut events) = (0, 0_u64);
    for device in &saved.devices {
        let number = u64::from(device.device);
        let sizes = 1..=config.event_bits;
        if number < next
            || number >> config.device_bits != 0
            || !sizes.contains(&device.event_bits)
            || device.itt & !Itt::ADDRESS != 0
        {
            return Err(RestoreError::Device(id, device.device));
        }
        check_events(id, device, mappings)?;
        next = number.saturating_add(1);
        events = events.saturating_add(1 << device.event_bits);
    }
    let devices = saved.devices.len() as u64;
    if devices > u64::from(config.max_devices) || events > u64::from(config.max_events) {
        return Err(RestoreError::Quota(id));
    }
    Ok(())
}

fn check_events(
    id: ItsId,
    device: &DeviceState,
    mappings: &mut Mappings<'_>,
) -> Result<(), RestoreError> {
    let mut next = 0;
    for event in &device.events {
        let in_order = event.event >= next && event.event >> device.event_bits == 0;
        if !in_order || !mappings.add(event.intid) {
            return Err(RestoreError::Event(id, device.device, event.event));
        }
        next = event.event.saturating_add(1);
    }
    Ok(())
}

/// The LPIs of a state, with a reference for each event that is mapped to them.
pub(super) struct Mappings<'a> {
    lpis: &'a [LpiState],
    /// References of each LPI, in the order of `lpis`.
    refs: Vec<u16>,
    /// Place of the LPI after the last one found.
    next: usize,
}

impl<'a> Mappings<'a> {
    /// Makes the LPIs of a state, without a reference. Allocates 2 bytes for each.
    fn new(lpis: &'a [LpiState]) -> Self {
        Self {
            lpis,
            refs: vec![0; lpis.len()],
            next: 0,
        }
    }

    /// Returns the references of each LPI, in the order of the state.
    pub(super) fn refs(&mut self) -> &mut [u16] {
        &mut self.refs
    }

    /// Finds the LPI `intid`, and its references.
    fn find(&mut self, intid: u32) -> Option<(&'a LpiState, &mut u16)> {
        let is_it = |lpi: &LpiState| lpi.intid == intid;
        // The events of a device mostly have INTIDs in a row.
        let place = if self.lpis.get(self.next).is_some_and(is_it) {
            self.next
        } else {
            (self.lpis)
                .binary_search_by_key(&intid, |lpi| lpi.intid)
                .ok()?
        };
        self.next = place.saturating_add(1);
        Some((self.lpis.get(place)?, self.refs.get_mut(place)?))
    }

    /// Adds a reference of the LPI `intid`, for an event. Returns false if the state has no such
    /// LPI.
    fn add(&mut self, intid: u32) -> bool {
        let found = self.find(intid);
        found
            .map(|(_, refs)| *refs = refs.saturating_add(1))
            .is_some()
    }

    /// Takes a reference of the LPI `intid`, for an event that is being mapped. Returns `None` if
    /// none is left.
    pub(super) fn take(&mut self, intid: u32) -> Option<&'a LpiState> {
        let (lpi, refs) = self.find(intid)?;
        *refs = refs.checked_sub(1)?;
        Some(lpi)
    }

    /// Checks that every LPI is mapped, and not too many times.
    fn check(&self) -> Result<(), RestoreError> {
        let is_right = |refs| (1..=MAX_MAPPING_REFS).contains(refs);
        let mut all = self.lpis.iter().zip(&self.refs);
        match all.find(|(_, refs)| !is_right(refs)) {
            Some((lpi, _)) => Err(RestoreError::Interrupt(lpi.intid)),
            None => Ok(()),
        }
    }
}
