//! The library and the reference side by side: each operation is done to both, and what can be observed
//! is compared.
//!
//! # Quiescence
//! The reference's operations take effect at once. The library's take effect once the embedder has done
//! what it was asked for: kicks and maintenance interrupts make a PE leave the guest and enter it again,
//! deferred work is advanced. Comparisons are made when nothing of that is left to be done
//! ([`Machine::settle`]), and a PE is taken out of the guest for nothing else, so a kick that is missing
//! shows as a difference. One exception: a level that falls is noticed at the PE's next exit (a device
//! that drops its line races with the acknowledgement on hardware, too), so it is made to exit.
//!
//! With more pending interrupts than list registers the virtual interface presents the most urgent of
//! them. What a guest can ask its interface (`IAR`, `HPPIR`, `RPR`, the signals) is about the most urgent
//! one, so the comparison is exact up to the order among equal priorities, where the reference gives a set.
//!
//! # Forwarded interrupts
//! The embedder plays the physical distributor: an interrupt of [`crate::operation::FORWARDED`] whose line is
//! high, which is enabled and not active, becomes active and is forwarded. It must become inactive once, when
//! the guest deactivates what was forwarded, or clears it.
//!
//! # What is left out
//! Operations whose outcome the architecture does not define:
//! * changing the group, priority or trigger of an interrupt that is active (or, of the trigger, pending); the
//!   binary points while anything is being handled; ends of interrupt out of order;
//! * events of one LPI that lead to different PEs; a collection with pending interrupts that is mapped
//!   elsewhere; mapping by an ITS that is disabled;
//! * moving, clearing or unmapping an LPI that is pending where LPIs are disabled; a pending table that says
//!   something of LPIs that are not mapped, or that the guest has not written since it was last read;
//! * messages (`GICD_SETSPI_NSR`) for a forwarded interrupt, which has a line of its own; edges of a physical
//!   interrupt that is disabled or active, which wait in the physical distributor.
//!
//! And limits of the library (README.md):
//! * with EOImode 0 and more interrupts than list registers, an end of interrupt is only attempted while all
//!   active ones are those that the PE is handling, and never of one that another PE has taken since;
//! * MOVALL is followed by MAPC of the collections concerned, which is what it is for; until then the library
//!   sends the interrupts that it moved to where it moved them;
//! * an MSI for a PE that has LPIs disabled, which the architecture ignores, is kept;
//! * events of one LPI have collections with one number.

mod compare;
mod cpus;
mod devices;
mod embedder;
mod forwarded;
mod interface;
mod lpis;
mod registers;
mod setup;
mod situations;
mod tables;

use std::collections::{BTreeMap, BTreeSet};

use vgic::cpu_interface::software::SoftwareInterface;
use vgic::epoch::Domain;
use vgic::intid::{Kind, VcpuId};
use vgic::sysreg::SysReg;
use vgic::{Cpu, Vgic};

use embedder::{Embedder, Virtual};
use situations::Shot;

use crate::coverage::{note, note_if};
use crate::operation::{ITSES, Operation, PES};
use crate::reference::Gic;

const VALID: u64 = 1 << 63;

/// Where a PE is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Place {
    Off,
    Away,
    /// On this CPU, waiting for an interrupt.
    Waiting(usize),
    InGuest(usize),
}

pub struct Machine {
    vm: Vgic<Embedder>,
    cpus: Vec<Cpu<SoftwareInterface>>,
    domain: Domain,
    reference: Gic,
    places: [Place; PES],
    /// List registers of each CPU.
    list_registers: usize,
    /// Where each PE was last.
    last_cpu: [usize; PES],
    /// Commands given to each ITS.
    queued: [u64; ITSES.len()],
    /// Those of them that wait for it to be enabled.
    waiting: [Vec<[u64; 4]>; ITSES.len()],
    /// Forwarded interrupts that the guest has made pending or active itself since they were last idle.
    meddled: BTreeSet<Virtual>,
    /// What there was before the operation, once both are set up.
    last: Option<Shot>,
    /// The PE that has acknowledged an SPI that is active.
    taker: BTreeMap<u32, usize>,
    /// Interrupts that PEs have acknowledged, by kind.
    acknowledged: [u64; Kind::COUNT],
    /// What each PE has acknowledged and not ended, in order: INTID, group.
    handling: [Vec<(u32, bool)>; PES],
}

fn vcpu(pe: usize) -> VcpuId {
    VcpuId::new(pe).unwrap()
}

impl Machine {
    /// Does one operation to both and compares.
    pub fn apply(&mut self, operation: &Operation) {
        self.perform(operation);
        self.settle();
        self.compare_interfaces();
        self.compare_physical();
        if let Operation::Write(..) = operation {
            self.compare_configuration();
        }
        self.look_back(operation);
        let spis = &self.reference.distributor.spis;
        self.taker
            .retain(|intid, _| spis[*intid as usize - 32].active);
    }

    fn perform(&mut self, operation: &Operation) {
        match *operation {
            Operation::PowerOn(pe) => self.power_on(pe),
            Operation::Line(pe, intid, high) => self.line(pe, intid, high),
            Operation::Edge(pe, intid) => self.edge(pe, intid),
            Operation::Msi(its, device, event) => self.msi(its, device, event),
            Operation::Move(pe, cpu) => self.run_on(pe, cpu),
            Operation::Away(pe) => self.take_away(pe),
            Operation::Compare(pe) => self.compare_registers(pe),
            _ => {
                let (Operation::Read(pe, ..)
                | Operation::Write(pe, ..)
                | Operation::Sgi(pe, ..)
                | Operation::Acknowledge(pe, ..)
                | Operation::End(pe)
                | Operation::Deactivate(pe, ..)
                | Operation::Enable(pe, ..)
                | Operation::Mask(pe, ..)
                | Operation::BinaryPoint(pe, ..)
                | Operation::Control(pe, ..)
                | Operation::Command(pe, ..)
                | Operation::EnableIts(pe, ..)
                | Operation::EnableLpis(pe, ..)
                | Operation::Configure(pe, ..)
                | Operation::Wait(pe)
                | Operation::PowerOff(pe)) = *operation
                else {
                    unreachable!("the others are above")
                };
                if self.run(pe) {
                    // What came while it was away is in its list registers now.
                    self.settle();
                    self.perform_in_guest(operation);
                }
            }
        }
    }

    /// An operation of a PE that is in the guest.
    fn perform_in_guest(&mut self, operation: &Operation) {
        match *operation {
            Operation::Read(pe, frame, at, bytes) => self.read(pe, frame, at, bytes),
            Operation::Write(_, frame, at, _, value)
                if Self::is_message_for_forwarded(frame, at, value) => {}
            Operation::Write(pe, frame, at, bytes, value) => {
                let value = self.defined(frame, at, bytes, value);
                self.note_meddling(frame, at, bytes, value);
                self.access(pe, frame, at, bytes, Some(value));
                self.reference.write(frame, at, bytes, value);
                // A message may have lowered a line.
                self.bounce_everybody();
            }
            Operation::Sgi(pe, value, group1) => {
                let register = if group1 { SysReg::Sgi1r } else { SysReg::Sgi0r };
                self.trap(pe, |vm, cpu, pin| {
                    vm.sysreg_write(cpu, pin, vcpu(pe), register, value)
                });
                let (reached, deaf) = self.reference.send_sgi(pe, value, group1);
                note_if(deaf > 0, "an SGI of the other group");
                note(match reached {
                    _ if value >> 40 & 1 != 0 => "an SGI to all others",
                    0 if deaf == 0 => "an SGI to nobody",
                    0 | 1 => "an SGI to one PE",
                    _ => "an SGI to several PEs",
                });
            }
            Operation::Acknowledge(pe, group1) => self.acknowledge(pe, group1),
            Operation::End(pe) => self.end(pe),
            Operation::Deactivate(pe, nth) => self.deactivate(pe, nth),
            Operation::Enable(pe, group1, on) => {
                match group1 {
                    false => self.guest(pe).write_igrpen0(on),
                    true => self.guest(pe).write_igrpen1(on),
                }
                self.reference.interfaces[pe].enabled[usize::from(group1)] = on;
            }
            Operation::Mask(pe, mask) => {
                self.guest(pe).write_pmr(mask).unwrap();
                self.reference.interfaces[pe].write_pmr(mask);
            }
            Operation::BinaryPoint(pe, group1, point)
                if self.reference.interfaces[pe].is_idle() =>
            {
                note_if(
                    self.reference.interfaces[pe].read_bpr(group1) != point,
                    "ICC_BPR changes the group priority",
                );
                match group1 {
                    false => self.guest(pe).write_bpr0(point),
                    true => self.guest(pe).write_bpr1(point),
                }
                self.reference.interfaces[pe].write_bpr(group1, point);
            }
            Operation::Control(pe, value) => {
                // CBPR is a binary point, too.
                let idle = self.reference.interfaces[pe].is_idle();
                let common = self.reference.interfaces[pe].read_ctlr() & 1;
                let value = if idle { value } else { value & 2 | common };
                self.guest(pe).write_ctlr(value).unwrap();
                self.reference.interfaces[pe].write_ctlr(value);
            }
            Operation::Command(pe, its, command) => self.order(pe, its, command),
            Operation::EnableIts(pe, its, on) => self.enable_its(pe, its, on),
            Operation::EnableLpis(pe, of, Some(table)) => self.enable_lpis(pe, of, table),
            Operation::EnableLpis(pe, of, None) => self.disable_lpis(pe, of),
            Operation::Configure(pe, intid, byte, how) => self.configure(pe, intid, byte, how),
            Operation::Wait(pe) => self.wait(pe),
            Operation::PowerOff(pe) => self.power_off(pe),
            _ => {}
        }
    }

    /// Takes the VM apart: every reference has been given back, what was delivered is what PEs have
    /// acknowledged, and every injection was delivered, merged, withdrawn or is pending.
    pub fn finish(mut self) {
        for pe in 0..PES {
            self.take_away(pe);
        }
        let before = self.domain.totals();
        let remains = self.vm.teardown(&self.cpus[0].pin()).unwrap();
        assert_eq!(remains.references, 0);
        for kind in Kind::ALL.map(|kind| kind as usize) {
            assert_eq!(before.deliveries[kind], self.acknowledged[kind], "{kind}");
            let ends = [
                before.coalesced,
                before.deliveries,
                before.withdrawn,
                remains.pending,
            ];
            let sum: u64 = ends.iter().map(|count| count[kind]).sum();
            assert_eq!(before.injections[kind], sum, "{kind}: {ends:?}");
        }
        let after = self.domain.totals();
        assert_eq!(after.list_gets, after.list_puts);
        assert_eq!(after.mapping_gets, after.mapping_puts);
        assert_eq!(after.migration_gets, after.migration_puts);
        assert_eq!(after.lookup_locks_taken, 0);
    }
}
