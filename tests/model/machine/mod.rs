//! The library and the reference side by side: each operation is applied to both, and the
//! observable state is compared.
//!
//! # Quiescence
//! The reference's operations take effect at once. The library's take effect once the embedder has
//! served the library's requests: kicks and maintenance interrupts make a PE exit and enter, and
//! deferred work is advanced. Comparisons follow after the last request ([`Machine::quiesce`]). A
//! PE exits for no other reason: a missing kick shows as a difference. One exception: a falling
//! level takes effect at the PE's next exit, and the test makes the PE exit. (On hardware, too, a
//! device dropping its line races with the acknowledgement.)
//!
//! With more pending interrupts than list registers the virtual interface presents the
//! highest-priority interrupts. The guest's reads (`IAR`, `HPPIR`, `RPR`, the signals) give only
//! the highest-priority interrupt. The comparison is exact up to the order among equal priorities:
//! for these the reference gives a set.
//!
//! # Forwarded interrupts
//! The embedder acts as the physical distributor. An interrupt of [`crate::operation::FORWARDED`]
//! with a high line, enabled and not active, becomes active and is forwarded. The interrupt must
//! become inactive exactly once: when the guest deactivates or clears the forwarded interrupt, when
//! its line is found low, when the PE leaves the CPU of a PPI, or at the end of the VM.
//!
//! The physical PPIs are those of the CPUs. The devices behind them move with their PEs, as timers
//! do that the embedder saves and restores. While a PE is on no CPU, the embedder shows the line to
//! the library by `set_ppi_line`.
//!
//! # Exclusions
//! Operations with an outcome not defined by the architecture:
//! * changes of the group, priority or trigger of an active interrupt (or of the trigger of a
//!   pending one); changes of the binary points during a handler; ends of interrupt out of order;
//! * events of one LPI leading to different PEs; a new target for a collection with pending
//!   interrupts; mapping by a disabled ITS;
//! * messages (`GICD_SETSPI_NSR`) for a forwarded interrupt: the interrupt has a line of its own;
//!   edges of a disabled or active physical interrupt, held in the physical distributor.
//!   `ISPENDR` of a forwarded level-sensitive interrupt: see docs/limits.md;
//! * a new trigger of a forwarded interrupt whose physical interrupt is active: the library may not
//!   know that a level has fallen, and the pending state is UNKNOWN (`GICD_ICFGR<n>`);
//!
//! Limits of the library (README.md):
//! * with EOImode 0, the end of an interrupt active in no list register is attempted only if the
//!   interrupt is the most urgent active one outside the list registers, or if none is active
//!   there. The end of an interrupt taken by another PE since is never attempted;
//! * MOVALL is followed by MAPC of the collections concerned, as intended for MOVALL. Until the
//!   MAPC the library sends the moved interrupts to MOVALL's target;
//! * an MSI for a PE with LPIs disabled is kept. The architecture ignores the MSI;
//! * an LPI pending in the table of a PE with LPIs disabled is not moved, cleared or unmapped, and
//!   a pending table has no bits of unmapped LPIs. See docs/limits.md;
//! * events of one LPI have collections with one number.

mod compare;
mod cpus;
mod devices;
mod direct;
mod embedder;
mod forwarded;
mod hotplug;
mod interface;
mod kvm;
mod lpis;
mod registers;
mod restore;
mod setup;
mod situations;
mod tables;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use vgic::cpu_interface::Vtr;
use vgic::cpu_interface::software::SoftwareInterface;
use vgic::epoch::Domain;
use vgic::intid::{Kind, VcpuId};
use vgic::sysreg::SysReg;
use vgic::{Cpu, Vgic};

use embedder::{Embedder, Virtual};
use situations::Shot;

use crate::coverage::{note, note_if};
use crate::gicv4::Model;
use crate::operation::{ITSES, Operation, PES};
use crate::reference::Gic;

const VALID: u64 = 1 << 63;

/// State of a PE.
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
    /// Properties of the CPUs.
    vtr: Vtr,
    /// Interrupts pending in the VMs that were saved and taken apart, by kind.
    left_behind: [u64; Kind::COUNT],
    /// Those of them that the end of their VM has withdrawn.
    taken_back: [u64; Kind::COUNT],
    /// The last CPU of each PE.
    last_cpu: [usize; PES],
    /// The machine's GICv4, if it has one.
    gicv4: Option<Arc<Model>>,
    /// PEs that are to be direct.
    direct: [bool; PES],
    /// LPIs that are pending in the hardware and in the library: [`direct`].
    doubled: BTreeSet<u32>,
    /// Commands given to each ITS.
    queued: [u64; ITSES.len()],
    /// Commands waiting for the ITS to be enabled.
    waiting: [Vec<[u64; 4]>; ITSES.len()],
    /// PPIs of PEs on no CPU whose high line is known to the library.
    shown: BTreeSet<Virtual>,
    /// Forwarded interrupts made pending or active by the guest since their last idle state.
    meddled: BTreeSet<Virtual>,
    /// The PE that has been removed, until it is added again.
    absent: Option<usize>,
    /// The state before the operation, once set-up is complete.
    last: Option<Shot>,
    /// The PE with the last acknowledgement of each active SPI.
    taker: BTreeMap<u32, usize>,
    /// Interrupts acknowledged by PEs, by kind.
    acknowledged: [u64; Kind::COUNT],
    /// Acknowledgements of each PE without an end, in order: INTID, group.
    handling: [Vec<(u32, bool)>; PES],
}

fn vcpu(pe: usize) -> VcpuId {
    VcpuId::new(pe).unwrap()
}

impl Machine {
    /// Applies one operation to both sides and compares.
    pub fn apply(&mut self, operation: &Operation) {
        self.perform(operation);
        self.quiesce();
        self.compare_interfaces();
        self.compare_hardware();
        self.compare_physical(matches!(operation, Operation::Compare(_)));
        if let Operation::Write(..) = operation {
            self.compare_configuration();
        }
        self.look_back(operation);
        let distributor = &mut self.reference.distributor;
        self.taker
            .retain(|intid, _| distributor.spi(*intid).is_some_and(|spi| spi.active));
    }

    fn perform(&mut self, operation: &Operation) {
        match *operation {
            Operation::PowerOn(pe) => self.power_on(pe),
            Operation::Replug(pe) => self.replug(pe),
            Operation::Restore(list_registers) => self.restore(list_registers),
            Operation::Line(pe, intid, high) => self.line(pe, intid, high),
            Operation::Edge(pe, intid) => self.edge(pe, intid),
            Operation::Msi(its, device, event) => self.msi(its, device, event),
            Operation::SoftMsi(its, device, event) => self.soft_msi(its, device, event),
            Operation::Direct(pe, on) => self.set_direct(pe, on),
            Operation::DirectDevice(its, device, on, early) => {
                self.set_direct_device(its, device, on, early);
            }
            Operation::Freeze(late) => self.freeze(late),
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
                    // Interrupts pending since the PE's last stay are in list registers afterwards.
                    self.quiesce();
                    self.perform_in_guest(operation);
                }
            }
        }
    }

    /// Performs an operation of a PE in the guest.
    fn perform_in_guest(&mut self, operation: &Operation) {
        match *operation {
            Operation::Read(pe, frame, at, bytes) => self.read(pe, frame, at, bytes),
            Operation::Write(_, frame, at, _, value)
                if Self::is_message_for_forwarded(frame, at, value) => {}
            Operation::Write(pe, frame, at, bytes, value) => {
                let value = self.defined(frame, at, bytes, value);
                let value = self.without_forwarded_levels(frame, at, value);
                self.note_meddling(frame, at, bytes, value);
                self.access(pe, frame, at, bytes, Some(value));
                self.reference.write(frame, at, bytes, value);
                // A message may have lowered a line.
                self.bounce_everybody();
            }
            Operation::Sgi(pe, value, group1) => {
                let register = if group1 { SysReg::Sgi1r } else { SysReg::Sgi0r };
                self.trap(pe, |vm, cpu| {
                    vm.sysreg_write(cpu, vcpu(pe), register, value).unwrap();
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
                if self.guest(pe).write_pmr(mask).is_err() {
                    self.write_trapped(pe, SysReg::Pmr, mask.into());
                }
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
                // CBPR selects a binary point, too.
                let idle = self.reference.interfaces[pe].is_idle();
                let common = self.reference.interfaces[pe].read_ctlr() & 1;
                let value = if idle { value } else { value & 2 | common };
                if self.guest(pe).write_ctlr(value).is_err() {
                    self.write_trapped(pe, SysReg::Ctlr, value);
                }
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

    /// Tears the VM down and checks the counters: no reference left, deliveries equal to the PEs'
    /// acknowledgements, and every injection delivered, coalesced, withdrawn or pending.
    pub fn finish(mut self) {
        for pe in 0..PES {
            self.take_away(pe);
        }

        let before = self.domain.totals();
        let report = self.vm.teardown(&self.cpus[0].pin()).unwrap();
        assert_eq!(report.references, 0);
        if let Some(gicv4) = &self.gicv4 {
            gicv4.check_empty();
        }
        let active = self.vm.host().active.lock().unwrap();
        assert!(active.is_empty(), "active at the end: {active:?}");
        drop(active);

        for kind in Kind::ALL.map(|kind| kind as usize) {
            assert_eq!(before.deliveries[kind], self.acknowledged[kind], "{kind}");
            let ends = [
                before.coalesced,
                before.deliveries,
                before.withdrawn,
                report.pending,
                self.left_behind,
            ];
            let sum: u64 = ends.iter().map(|count| count[kind]).sum();
            let injections = before.injections[kind] + self.taken_back[kind];
            assert_eq!(injections, sum, "{kind}: {ends:?}");
        }

        let after = self.domain.totals();
        assert_eq!(after.list_gets, after.list_puts);
        assert_eq!(after.mapping_gets, after.mapping_puts);
        assert_eq!(after.migration_gets, after.migration_puts);
        assert_eq!(after.lookup_locks_taken, 0);
    }
}
