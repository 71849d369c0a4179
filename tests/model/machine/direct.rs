//! Direct injection: the machine's GICv4 beside the library.
//!
//! The reference knows nothing of paths: an LPI is pending or not. Here its pending state is the
//! hardware's, the library's, or both, and the union is compared.
//!
//! # Permitted differences
//! * An LPI may be pending in both places: raised once on either way, while the other place has it.
//!   The guest then takes it twice. The design gives each place a pending state
//!   (docs/limits.md). To the guest, the second MSI was still on its way when the first was
//!   acknowledged: a write of `GITS_TRANSLATER` says nothing about the time at which the ITS makes
//!   the LPI pending. [`Machine::doubled`] has these LPIs, and an LPI gets there in no way but a
//!   raise of its own.
//! * A CPU interface chooses between list registers and the virtual LPI that the redistributor
//!   presents: the higher priority first. Of equal priorities either may come first, as of any two
//!   interrupts (IHI 0069, 4.8). The reference gives a set.
//! * A PE with a pending and enabled virtual LPI behind its priority mask does not sleep:
//!   `GICR_VPENDBASER.PendingLast` has no priority (IHI 0069, 12.11).

use vgic::DirectError;
use vgic::cpu_interface::software::SoftwareInterface;
use vgic::cpu_interface::{CpuInterface, Vtr};
use vgic::intid::{DeviceId, EventId, ItsId, Kind};
use vgic::lr::ListRegister;

use super::{Machine, vcpu};
use crate::coverage::{note, note_if};
use crate::gicv4;
use crate::operation::{Early, PES};
use crate::reference::{FIRST_LPI, SPURIOUS};

/// INTID that stands for the presented virtual LPI in [`Signals`]: a list register may have the
/// same LPI.
const PRESENTED: u32 = 0xffff;

/// A CPU interface with the virtual LPI presented to it: a copy that has one more list register.
pub(super) struct Signals {
    pub(super) interface: SoftwareInterface,
    /// The virtual LPI.
    intid: u32,
}

impl Signals {
    /// Copies `real`, with a virtual LPI of a priority. Of equal priorities, odd INTIDs come before
    /// those of list registers.
    fn new(real: &SoftwareInterface, (intid, priority): (u32, u8)) -> Self {
        let vtr = real.vtr();
        let interface = SoftwareInterface::new(Vtr {
            list_registers: vtr.list_registers + 1,
            ..vtr
        });
        interface.write_vmcr(real.read_vmcr());
        interface.write_hcr(real.read_hcr());
        for group1 in [false, true] {
            for index in 0..vtr.apr_count() {
                interface.write_apr(group1, index, real.read_apr(group1, index));
            }
        }

        let presented = ListRegister(
            ListRegister::PENDING
                | ListRegister::GROUP1
                | u64::from(priority) << ListRegister::PRIORITY_SHIFT
                | u64::from(PRESENTED),
        );
        let first = usize::from(intid % 2 == 1);
        for (index, lr) in (first..).zip(real.list_registers()) {
            interface.write_lr(index, lr);
        }
        let at = (1 - first) * usize::from(vtr.list_registers);
        interface.write_lr(at, presented);
        Self { interface, intid }
    }

    /// Returns the INTID that a guest reads as `intid`.
    fn seen(&self, intid: u32) -> u32 {
        if intid == PRESENTED {
            self.intid
        } else {
            intid
        }
    }
}

impl Machine {
    /// Returns the number of list registers that a CPU may have: [`Signals`] need one more.
    pub(super) fn limit(gicv4: bool, list_registers: u8) -> u8 {
        list_registers.min(if gicv4 { 15 } else { 16 })
    }

    /// Returns the signals to a PE in the guest, and its `ICC_HPPIR<n>_EL1`.
    pub(super) fn signals(&self, pe: usize, group1: bool) -> (bool, u32) {
        let of = |interface: &SoftwareInterface| match group1 {
            false => (interface.vfiq(), interface.read_hppir0()),
            true => (interface.virq(), interface.read_hppir1()),
        };
        match self.with_presented(pe) {
            None => of(self.guest(pe)),
            Some(signals) => {
                let (signal, intid) = of(&signals.interface);
                (signal, signals.seen(intid))
            }
        }
    }

    fn with_presented(&self, pe: usize) -> Option<Signals> {
        let presented = self.gicv4.as_ref()?.presented(self.cpu_of(pe))?;
        Some(Signals::new(self.guest(pe), presented))
    }

    /// Reads `ICC_IAR<n>_EL1`. Returns the INTID, and true for a virtual LPI of the hardware.
    pub(super) fn read_iar(&self, pe: usize, group1: bool) -> (u32, bool) {
        let read = |interface: &SoftwareInterface| match group1 {
            false => interface.read_iar0(),
            true => interface.read_iar1(),
        };
        let real = self.guest(pe);
        let Some(signals) = self.with_presented(pe) else {
            return (read(real), false);
        };

        match read(&signals.interface) {
            // The most urgent one, which is not signalled, may be either.
            SPURIOUS => (SPURIOUS, false),
            PRESENTED => {
                let model = self.gicv4.as_ref().expect("it presents");
                assert_eq!(model.take(self.cpu_of(pe)), Some(signals.intid));
                for index in 0..real.vtr().apr_count() {
                    let active = signals.interface.read_apr(true, index);
                    real.write_ap1r(index, active);
                }
                (signals.intid, true)
            }
            listed => {
                assert_eq!(read(real), listed);
                (listed, false)
            }
        }
    }

    /// Applies the acknowledgement of an LPI to the reference's pending state: the other place may
    /// have one too.
    pub(super) fn acknowledged_lpi(&mut self, intid: u32, by_hardware: bool) {
        let doubled = self.doubled.remove(&intid);
        note_if(by_hardware, "a virtual LPI is acknowledged");
        note_if(doubled, "an LPI is taken for each of its pending states");
        if !by_hardware {
            self.acknowledged[Kind::Lpi as usize] += 1;
            assert_eq!(self.hardware_has(intid), doubled, "LPI {intid}");
        }
        if doubled {
            let lpi = self.reference.lpis.mapped.get_mut(&intid).expect("mapped");
            lpi.interrupt.latch = true;
        }
    }

    /// Returns true if an LPI is pending in the hardware.
    pub(super) fn hardware_has(&self, intid: u32) -> bool {
        let pending = self.gicv4.as_ref().map(|gicv4| gicv4.pending());
        pending.is_some_and(|all| all.iter().any(|(_, pending)| *pending == intid))
    }

    pub(super) fn is_latched(&self, intid: u32) -> bool {
        let lpi = self.reference.lpis.mapped.get(&intid);
        lpi.is_some_and(|lpi| lpi.interrupt.latch)
    }

    /// Returns true if a list register of a PE has an LPI pending.
    fn is_listed(&self, intid: u32) -> bool {
        let registers = self
            .cpus
            .iter()
            .flat_map(|cpu| cpu.interface().list_registers());
        let mut pending = registers.filter(|lr| lr.is_pending());
        pending.any(|lr| lr.vintid() == intid)
    }

    /// Calls `raise`, which may make an LPI pending, and notes if the LPI is pending in both places
    /// afterwards.
    pub(super) fn raise_lpi<R>(
        &mut self,
        intid: Option<u32>,
        by_software: bool,
        raise: impl FnOnce(&mut Self) -> R,
    ) -> R {
        let Some(intid) = intid.filter(|_| self.gicv4.is_some()) else {
            return raise(self);
        };

        let (latched, before) = (self.is_latched(intid), self.hardware_has(intid));
        let result = raise(self);
        let after = self.hardware_has(intid);
        // Pending in the library, and now in the hardware; or the other way round.
        if latched
            && if by_software {
                before
            } else {
                !before && after
            }
        {
            note("an LPI becomes pending in both places");
            self.doubled.insert(intid);
        }
        result
    }

    /// Sends an MSI to the hardware. Returns false if the handler has to inject it.
    pub(super) fn sends_directly(&self, its: usize, device: u64, event: u64) -> bool {
        let device = gicv4::physical(ItsId(its as u8), DeviceId(device as u32));
        let direct = self
            .gicv4
            .as_ref()
            .is_some_and(|gicv4| gicv4.sends_directly(device, event as u32));
        note_if(direct, "an MSI is direct");
        direct
    }

    fn is_direct(&self, its: usize, device: u64, event: u64) -> bool {
        let device = gicv4::physical(ItsId(its as u8), DeviceId(device as u32));
        let gicv4 = self.gicv4.as_ref();
        gicv4.is_some_and(|gicv4| gicv4.is_direct(device, event as u32))
    }

    /// Compares the hardware's pending states with the reference, and forgets the LPIs that are not
    /// pending in both places any more.
    pub(super) fn compare_hardware(&mut self) {
        let Some(gicv4) = &self.gicv4 else {
            return;
        };

        let pending = gicv4.pending();
        for (owner, intid) in &pending {
            let lpi = self.reference.lpis.mapped.get(intid);
            let at = lpi.filter(|lpi| lpi.interrupt.latch).map(|lpi| lpi.at);
            assert_eq!(at, Some(*owner), "LPI {intid} is pending in the hardware");
        }
        self.forget_doubled();
    }

    /// Forgets the LPIs that are not pending in both places any more.
    pub(super) fn forget_doubled(&mut self) {
        let mut doubled = std::mem::take(&mut self.doubled);
        doubled.retain(|intid| self.is_latched(*intid) && self.hardware_has(*intid));
        self.doubled = doubled;
    }

    /// Handles the doorbells that ring. Returns true if one did.
    pub(super) fn handle_doorbells(&self) -> bool {
        let rung = self.gicv4.as_ref().map(|gicv4| gicv4.ring_vcpus());
        let rung = rung.unwrap_or_default();
        for pe in &rung {
            note("a doorbell rings");
            self.vm.doorbell(&self.pin(), vcpu(*pe)).unwrap();
        }
        !rung.is_empty()
    }

    /// Returns true if a PE that waits may be kept from sleep by a virtual LPI behind its mask.
    pub(super) fn may_stay_awake(&self, pe: usize) -> bool {
        let mut here = self.reference.routed_to(pe);
        here.any(|(intid, lpi)| {
            intid >= FIRST_LPI && lpi.latch && lpi.enabled && self.hardware_has(intid)
        })
    }

    /// Makes a PE direct, or ends that.
    pub(super) fn set_direct(&mut self, pe: usize, on: bool) {
        let set = self.vm.set_direct_vcpu(&self.pin(), vcpu(pe), on);
        if self.gicv4.is_none() {
            assert_eq!(set, Err(DirectError::NoGicv4));
            return;
        }
        assert_eq!(set, Ok(()));
        self.direct[pe] = on;
        self.settle(if on {
            "a PE becomes direct"
        } else {
            "a PE ceases to be direct"
        });
    }

    /// Makes a new VM's PEs direct that the last VM's were.
    pub(super) fn set_all_direct(&mut self) {
        for pe in 0..PES {
            if self.direct[pe] {
                self.set_direct(pe, true);
            }
        }
    }

    /// Makes the MSIs of a device direct, or ends that. `early` is an MSI shortly before.
    pub(super) fn set_direct_device(
        &mut self,
        its: usize,
        device: u64,
        on: bool,
        early: Option<(u64, Early)>,
    ) {
        let Some(gicv4) = self.gicv4.clone() else {
            return;
        };

        let physical = gicv4::physical(ItsId(its as u8), DeviceId(device as u32));
        let mut msi = None;
        if let Some((event, how)) = early
            && let Some((intid, icid)) = self.reference.itses[its].event(device, event)
            && self.reference.itses[its].enabled
            && let Some(pe) = self.reference.itses[its].collection(icid)
            && !self.lpis_are_off(pe)
        {
            let sent = match how {
                Early::Held => {
                    gicv4.send_at_hold(physical, event as u32);
                    true
                }
                // A direct MSI of the operation `Msi` does as well.
                Early::Busy if self.is_direct(its, device, event) => false,
                Early::Busy => gicv4.send_to_busy_cpu(physical, event as u32),
            };
            msi = sent.then_some((event, intid));
        }

        let before = msi.map(|(_, intid)| self.is_latched(intid));
        gicv4.set_device(physical, on);
        let settled = self.vm.settle_direct(&self.pin(), ItsId(its as u8));
        assert_eq!(settled, Ok(()));
        self.settle(if on {
            "a device becomes direct"
        } else {
            "a device ceases to be direct"
        });

        let unsent = gicv4.is_unsent();
        let released = gicv4.take_released();
        let busy = gicv4.take_lpis();
        note_if(!released.is_empty(), "an MSI is held, and injected");
        for (physical, event) in released.iter().chain(&busy) {
            let (its, device) = (ItsId((physical >> 16) as u8), DeviceId(physical & 0xffff));
            let _ = self
                .vm
                .inject_msi(&self.pin(), its, device, EventId(*event))
                .unwrap();
        }

        let Some((event, intid)) = msi.filter(|_| !unsent) else {
            return;
        };
        let direct = self.hardware_has(intid);
        note_if(
            direct && released.is_empty() && busy.is_empty(),
            "an MSI goes along with its event",
        );
        // The library's pending state may be in a list register, and then has stayed there.
        self.quiesce();
        if before == Some(true) && direct && self.is_listed(intid) {
            self.doubled.insert(intid);
        }
        assert!(self.reference.translate(its, device, event));
    }

    /// Serves the library's requests after a change of paths, and notes the pending states that
    /// have changed place.
    fn settle(&mut self, what: &'static str) {
        let places = |machine: &Self| -> Vec<(u32, bool)> {
            let mapped = machine.reference.lpis.mapped.keys();
            let latched = mapped.filter(|intid| machine.is_latched(**intid));
            latched
                .map(|intid| (*intid, machine.hardware_has(*intid)))
                .collect()
        };
        note(what);
        let before = places(self);
        self.quiesce();
        for ((_, old), (_, new)) in before.iter().zip(places(self)) {
            note_if(!old && new, "a pending state goes to the hardware");
            note_if(*old && !new, "a pending state comes from the hardware");
        }
    }

    /// Freezes the VM, and thaws it after all. `late` is an MSI in between.
    pub(super) fn freeze(&mut self, late: Option<(usize, u64, u64)>) {
        for pe in 0..PES {
            self.take_away(pe);
        }
        self.quiesce();
        let saved = self.vm.save(&self.pin()).unwrap();
        self.quiesce();
        let frozen = self.vm.freeze(&self.pin()).unwrap();
        assert!(frozen == saved, "a freeze finds what a save has found");
        // Every pending state is the library's, which has one of each LPI.
        self.doubled.clear();
        if let Some((its, device, event)) = late {
            self.msi(its, device, event);
        }
        self.vm.thaw(&self.pin(), &frozen).unwrap();
        self.quiesce();
        note("a VM is frozen and thawed");
    }
}
