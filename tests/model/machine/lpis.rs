//! The guest's ITS commands, as far as the outcome is defined.
//!
//! Several events may share an LPI, of one ITS or of two, if all lead to the same PE. In this test
//! the collections of such events also have equal numbers. A command moving one of the events is
//! followed by commands moving the others.

use vgic::mmio::{MmioOutcome, Width};

use super::embedder::{QUEUE_SIZE, queue};
use super::{Machine, VALID, vcpu};
use crate::coverage::{note, note_if};
use crate::operation::ITSES;
use crate::reference::its::Fault;

/// Command numbers (IHI 0069, 5.3).
const MOVI: u64 = 0x01;
const INT: u64 = 0x03;
const CLEAR: u64 = 0x04;
const MAPD: u64 = 0x08;
const MAPC: u64 = 0x09;
const MAPTI: u64 = 0x0a;
const MAPI: u64 = 0x0b;
const MOVALL: u64 = 0x0e;
const DISCARD: u64 = 0x0f;

impl Machine {
    /// Sends a command and the commands required after it.
    pub(super) fn order(&mut self, pe: usize, its: usize, command: [u64; 4]) {
        let number = command[0] & 0xff;
        let followers = match number {
            MOVI => self.moves_of_the_others(its, command),
            MAPC => Some(self.maps_of_the_others(its, command)),
            MOVALL => Some(self.maps_after_movall(command)),
            _ => Some(Vec::new()),
        };

        let Some(followers) = followers else {
            return;
        };

        // The following commands need enabled ITSes.
        let enabled = |its: &usize| self.reference.itses[*its].enabled;
        if !followers.iter().all(|(its, _)| enabled(its)) || !self.is_defined(its, command) {
            return;
        }

        self.command(pe, its, command);
        for (other, command) in followers {
            note_if(number == MOVI && other != its, "an LPI of two ITSes moves");
            self.command(pe, other, command);
        }
    }

    /// Sends a command through the queue in memory and the ITS's registers.
    pub(super) fn command(&mut self, pe: usize, its: usize, command: [u64; 4]) {
        if self.waiting[its].len() as u64 + 1 == QUEUE_SIZE / 32 {
            // The queue is full.
            return;
        }

        let bytes: Vec<u8> = command.iter().flat_map(|word| word.to_le_bytes()).collect();
        let at = queue(its) + self.queued[its] * 32 % QUEUE_SIZE;
        self.vm.host().guest_writes(at, &bytes);
        self.queued[its] += 1;
        let next = self.queued[its] * 32 % QUEUE_SIZE;
        let intid = (command[0] & 0xff == INT)
            .then(|| self.reference.itses[its].event(command[0] >> 32, command[1] & 0xffff_ffff));
        let intid = intid.flatten().map(|(intid, _)| intid);
        self.raise_lpi(intid, false, |machine| {
            machine.write_gits(pe, its, 0x88, Width::Double, next);
            machine.quiesce();
        });
        // `MOVALL` takes pending states out of the hardware. The `MAPC` after it brings them back.
        self.forget_doubled();

        self.waiting[its].push(command);
        note_if(
            !self.reference.itses[its].enabled,
            "a command waits for the ITS to be enabled",
        );
        self.commands_done(pe, its);
    }

    /// Writes `GITS_CTLR`.
    pub(super) fn enable_its(&mut self, pe: usize, its: usize, on: bool) {
        self.write_gits(pe, its, 0, Width::Word, on.into());
        self.reference.itses[its].enabled = on;
        self.quiesce();
        self.commands_done(pe, its);
        let (enabled, quiescent) = (u64::from(on), u64::from(!on) << 31);
        let ctlr = self.read_gits(pe, its, 0, Width::Word);
        assert_eq!(ctlr, enabled | quiescent, "CTLR of ITS {its}");
    }

    /// Compares the commands executed by an enabled ITS, and their failures.
    fn commands_done(&mut self, pe: usize, its: usize) {
        let waiting = match self.reference.itses[its].enabled {
            true => std::mem::take(&mut self.waiting[its]),
            false => Vec::new(),
        };

        let found = std::mem::take(&mut *self.vm.host().faults.lock().unwrap());
        let found: Vec<String> = found
            .into_iter()
            .map(|error| format!("{error:?}"))
            .collect();

        let expected: Vec<String> = waiting
            .iter()
            .filter_map(|command| self.fault_of(its, *command))
            .collect();
        assert_eq!(found, expected, "{waiting:x?}");

        self.compare_interfaces();

        // Read CREADR last: a read also makes the ITS execute.
        let done = self.queued[its] - self.waiting[its].len() as u64;
        let creadr = self.read_gits(pe, its, 0x90, Width::Double);
        assert_eq!(creadr, done * 32 % QUEUE_SIZE, "CREADR of ITS {its}");
    }

    fn fault_of(&mut self, its: usize, command: [u64; 4]) -> Option<String> {
        let number = command[0] & 0xff;
        let (_, _, icid) = names(command);
        let before = self.reference.itses[its].collection(icid);
        let result = self.reference.execute(its, command);
        let after = self.reference.itses[its].collection(icid);

        if number == MAPC && before.is_some() && before != after {
            note(match after {
                Some(_) => "a collection moves to another PE",
                None => "a collection is unmapped",
            });
        }

        note(match result {
            Ok(()) => command_name(number),
            Err(fault) => fault_name(fault),
        });
        Some(format!("({its}, {number}, {:?})", result.err()?))
    }

    fn gits(&self, its: usize, at: u64) -> u64 {
        self.vm.config().its[its].base + at
    }

    pub(super) fn write_gits(&mut self, pe: usize, its: usize, at: u64, width: Width, value: u64) {
        let gpa = self.gits(its, at);
        let _ = self.trap(pe, |vm, cpu| vm.mmio_write(cpu, gpa, width, value));
    }

    fn read_gits(&mut self, pe: usize, its: usize, at: u64, width: Width) -> u64 {
        let gpa = self.gits(its, at);
        let outcome = self.trap(pe, |vm, cpu| vm.mmio_read(cpu, vcpu(pe), gpa, width));
        let Ok(MmioOutcome::Done(value)) = outcome else {
            panic!("{gpa:#x}: {outcome:?}");
        };
        value
    }

    // --- following commands ----------------------------------------------------------------------

    /// Returns every event of an LPI: ITS, DeviceID, EventID, ICID.
    fn mappings(&self, intid: u32) -> impl Iterator<Item = (usize, u64, u64, u64)> {
        let itses = self.reference.itses.iter().enumerate();
        itses.flat_map(move |(its, of)| of.mappings(intid).map(move |(d, e, c)| (its, d, e, c)))
    }

    /// Returns the moves of an LPI's other events to MOVI's target, or `None` if a target is
    /// unreachable.
    fn moves_of_the_others(&self, its: usize, command: [u64; 4]) -> Option<Vec<(usize, [u64; 4])>> {
        let (device, event, icid) = names(command);
        let here = &self.reference.itses[its];
        let Some((intid, _)) = here.event(device, event) else {
            return Some(Vec::new());
        };
        let target = here.collection(icid);

        let mut moves = Vec::new();
        for (other, d, e, _) in self.mappings(intid) {
            if (other, d, e) != (its, device, event) {
                if self.reference.itses[other].collection(icid) != target {
                    return None;
                }
                moves.push((other, [MOVI | d << 32, e, icid, 0]));
            }
        }
        Some(moves)
    }

    /// Returns the MAPC of the other ITS if a collection's LPIs are also mapped by the other ITS.
    fn maps_of_the_others(&self, its: usize, command: [u64; 4]) -> Vec<(usize, [u64; 4])> {
        let (_, _, icid) = names(command);
        let events = self.reference.itses[its].events();
        let mut shared = events
            .filter(|(_, _, _, of)| *of == icid)
            .flat_map(|(_, _, intid, _)| self.mappings(intid));
        match shared.any(|(other, ..)| other != its) {
            true => vec![(1 - its, command)],
            false => Vec::new(),
        }
    }

    /// Returns the MAPCs required after MOVALL: see the module docs of [`super`].
    fn maps_after_movall(&self, command: [u64; 4]) -> Vec<(usize, [u64; 4])> {
        let (from, to) = (command[2] >> 16, command[3] >> 16);
        if to as usize >= crate::operation::PES {
            // The command fails.
            return Vec::new();
        }

        let mut maps = Vec::new();
        for (its, size) in ITSES.iter().enumerate() {
            for icid in 0..size.collections {
                if self.reference.itses[its].collection(icid) == Some(from as usize) {
                    maps.push((its, [MAPC, 0, VALID | to << 16 | icid, 0]));
                }
            }
        }
        maps
    }

    // --- defined outcomes ------------------------------------------------------------------------

    pub(super) fn lpis_are_off(&self, pe: usize) -> bool {
        !self.reference.redistributors[pe].lpis_enabled
    }

    /// Returns whether an LPI is pending in the table of a PE with LPIs disabled, which ignores
    /// commands on the LPI. The library has one pending state of the LPI, and does not.
    fn is_held(&self, intid: u32) -> bool {
        let tables = self.reference.lpis.pending.iter().enumerate();
        tables
            .filter(|(pe, _)| self.lpis_are_off(*pe))
            .any(|(_, table)| table.contains(&intid))
    }

    /// Returns whether a collection targets a PE with LPIs disabled.
    fn leads_to_none(&self, its: usize, icid: u64) -> bool {
        let to = self.reference.itses[its].collection(icid);
        to.is_some_and(|pe| self.lpis_are_off(pe))
    }

    /// Returns whether the architecture defines the command's outcome.
    fn is_defined(&self, its: usize, command: [u64; 4]) -> bool {
        let here = &self.reference.itses[its];
        let (device, event, icid) = names(command);
        let number = command[0] & 0xff;
        if !here.enabled && matches!(number, MAPD | MAPC | MAPTI | MAPI | MOVI | MOVALL) {
            // The state at the execution of the command is not known yet.
            return false;
        }

        let found = here.event(device, event);
        let pending =
            |intid| self.reference.lpis.mapped[&intid].interrupt.latch || self.is_held(intid);
        match number {
            MAPTI | MAPI => {
                let intid = match number {
                    MAPTI => command[1] >> 32,
                    _ => event,
                } as u32;
                let to = here.collection(icid);
                let mut others = self
                    .mappings(intid)
                    .filter(|(i, d, e, _)| (*i, *d, *e) != (its, device, event));
                others.all(|(other, _, _, of)| {
                    of == icid && self.reference.itses[other].collection(of) == to
                }) && found.is_none_or(|(old, _)| !self.is_held(old))
                    && !(found.is_some_and(|(old, _)| old == intid && pending(old))
                        && self.leads_to_none(its, icid))
            }
            MAPC => {
                let to = (command[2] >> 63 != 0).then_some((command[2] >> 16 & 0xffff) as usize);
                to == here.collection(icid) || self.nothing_pends(its, icid, to)
            }
            MAPD => here
                .events()
                .all(|(d, _, intid, _)| d != device || !self.is_held(intid)),
            MOVI => found.is_none_or(|(intid, _)| {
                !pending(intid) || !self.is_held(intid) && !self.leads_to_none(its, icid)
            }),
            INT => {
                found.is_none_or(|(intid, icid)| pending(intid) || !self.leads_to_none(its, icid))
            }
            CLEAR | DISCARD => found.is_none_or(|(intid, _)| !self.is_held(intid)),
            MOVALL => [command[2], command[3]]
                .into_iter()
                .filter_map(|word| self.reference.redistributors.get((word >> 16) as usize))
                .all(|redistributor| redistributor.lpis_enabled),
            _ => true,
        }
    }

    /// Returns whether every pending interrupt of a collection is pending on PE `to`, with any
    /// ITS's mapping.
    fn nothing_pends(&self, its: usize, icid: u64, to: Option<usize>) -> bool {
        self.reference.itses[its]
            .events()
            .filter(|(_, _, _, of)| *of == icid)
            .map(|(_, _, intid, _)| (intid, &self.reference.lpis.mapped[&intid]))
            .all(|(intid, lpi)| {
                let pends = lpi.interrupt.latch || self.is_held(intid);
                !pends || lpi.at == to
            })
    }
}

/// Returns the DeviceID, EventID and ICID of a command.
fn names(command: [u64; 4]) -> (u64, u64, u64) {
    (
        command[0] >> 32,
        command[1] & 0xffff_ffff,
        command[2] & 0xffff,
    )
}

fn command_name(number: u64) -> &'static str {
    match number {
        MOVI => "MOVI",
        INT => "INT",
        CLEAR => "CLEAR",
        0x05 => "SYNC",
        MAPD => "MAPD",
        MAPC => "MAPC",
        MAPTI => "MAPTI",
        MAPI => "MAPI",
        0x0c => "INV",
        0x0d => "INVALL",
        MOVALL => "MOVALL",
        DISCARD => "DISCARD",
        _ => unreachable!("{number:#x} succeeds"),
    }
}

const fn fault_name(fault: Fault) -> &'static str {
    match fault {
        Fault::Unknown => "fails: Unknown",
        Fault::DeviceOutOfRange => "fails: DeviceOutOfRange",
        Fault::IttSizeOutOfRange => "fails: IttSizeOutOfRange",
        Fault::ProcessorOutOfRange => "fails: ProcessorOutOfRange",
        Fault::CollectionOutOfRange => "fails: CollectionOutOfRange",
        Fault::UnmappedDevice => "fails: UnmappedDevice",
        Fault::EventOutOfRange => "fails: EventOutOfRange",
        Fault::IntidOutOfRange => "fails: IntidOutOfRange",
        Fault::UnmappedInterrupt => "fails: UnmappedInterrupt",
        Fault::UnmappedCollection => "fails: UnmappedCollection",
    }
}
