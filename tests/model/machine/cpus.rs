//! PEs on CPUs: entry and exit, block, power, and the library's requests in between.

use vgic::cpu_interface::software::SoftwareInterface;
use vgic::{Blocked, Cpu, PinnedCpu, Vgic};

use super::embedder::Embedder;
use super::{Machine, Place, vcpu};
use crate::coverage::{note, note_if};
use crate::operation::{CPUS, PES};

impl Machine {
    pub(super) fn pin(&self) -> PinnedCpu<'_, SoftwareInterface> {
        self.cpus[0].pin()
    }

    pub(super) fn cpu_of(&self, pe: usize) -> usize {
        match self.places[pe] {
            Place::InGuest(cpu) | Place::Waiting(cpu) => cpu,
            place => panic!("PE {pe} is {place:?}"),
        }
    }

    pub(super) fn guest(&self, pe: usize) -> &SoftwareInterface {
        assert!(matches!(self.places[pe], Place::InGuest(_)));
        self.cpus[self.cpu_of(pe)].interface()
    }

    pub(super) fn enter(&mut self, pe: usize, on: usize) {
        self.hide_lines(pe);
        self.vm.host().loaded.lock().unwrap()[on] = Some(pe);
        let cpu = &self.cpus[on];
        self.vm.enter(&cpu.pin(), vcpu(pe)).unwrap();
        self.places[pe] = Place::InGuest(on);
    }

    pub(super) fn exit(&self, pe: usize) -> &Cpu<SoftwareInterface> {
        let cpu = &self.cpus[self.cpu_of(pe)];
        self.vm.exit(&cpu.pin(), vcpu(pe)).unwrap();
        assert!(
            !cpu.interface().maintenance(),
            "still asserted after an exit"
        );
        cpu
    }

    pub(super) fn bounce(&mut self, pe: usize) {
        self.exit(pe);
        self.enter(pe, self.cpu_of(pe));
    }

    pub(super) fn bounce_everybody(&mut self) {
        for pe in 0..PES {
            if let Place::InGuest(_) = self.places[pe] {
                self.bounce(pe);
            }
        }
    }

    /// Handles a trap of `pe`: an exit, `handle`, and an entry.
    pub(super) fn trap<R>(
        &mut self,
        pe: usize,
        handle: impl FnOnce(&Vgic<Embedder>, &PinnedCpu<'_, SoftwareInterface>) -> R,
    ) -> R {
        let cpu = self.exit(pe);
        let result = handle(&self.vm, &cpu.pin());
        self.enter(pe, self.cpu_of(pe));
        result
    }

    /// Makes `pe` run in the guest, on its last CPU or on a default CPU. Returns false for a PE
    /// that is off.
    pub(super) fn run(&mut self, pe: usize) -> bool {
        match self.places[pe] {
            Place::Off => return false,
            Place::Away => self.run_on(pe, pe % CPUS),
            Place::Waiting(cpu) => self.enter(pe, cpu),
            Place::InGuest(_) => {}
        }
        true
    }

    pub(super) fn run_on(&mut self, pe: usize, cpu: usize) {
        match self.places[pe] {
            Place::Off => return,
            Place::InGuest(on) if on == cpu => return,
            _ => self.take_away(pe),
        }

        let other = (0..PES).find(|other| match self.places[*other] {
            Place::InGuest(on) | Place::Waiting(on) => on == cpu,
            _ => false,
        });
        if let Some(other) = other {
            self.take_away(other);
        }

        note_if(self.last_cpu[pe] != cpu, "a PE comes to another CPU");
        self.last_cpu[pe] = cpu;
        self.enter(pe, cpu);
    }

    pub(super) fn take_away(&mut self, pe: usize) {
        let (Place::InGuest(on) | Place::Waiting(on)) = self.places[pe] else {
            return;
        };
        if let Place::InGuest(_) = self.places[pe] {
            self.exit(pe);
        }

        let cpu = &self.cpus[on];
        note_if(
            cpu.interface().list_registers().any(|lr| !lr.is_empty()),
            "a PE leaves its CPU with interrupts in list registers",
        );
        note_if(
            !self.handling[pe].is_empty(),
            "a PE moves while it handles an interrupt",
        );

        for (owner, intid) in self.physically_active() {
            let interrupt = self.reference.redistributors[pe]
                .private
                .get(intid as usize);
            if let Some(interrupt) = interrupt.filter(|_| owner == Some(pe)) {
                note(match interrupt.active {
                    true => "forwarded and active, the PE leaves its CPU",
                    false => "forwarded and pending, the PE leaves its CPU",
                });
            }
        }

        self.vm.vcpu_put(&cpu.pin(), vcpu(pe)).unwrap();
        self.vm.host().loaded.lock().unwrap()[on] = None;
        self.places[pe] = Place::Away;
    }

    /// Serves the library's requests until none is left.
    pub(super) fn quiesce(&mut self) {
        for _ in 0..100 {
            let mut busy = self.vm.has_deferred();
            self.vm.advance(&self.pin()).unwrap();
            self.show_lines_of_absent();
            busy |= self.forward_all();

            busy |= self.handle_doorbells();

            let kicks = std::mem::take(&mut *self.vm.host().kicks.lock().unwrap());
            for (cpu, pe) in kicks {
                if self.places[pe] == Place::InGuest(cpu) {
                    self.bounce(pe);
                    busy = true;
                }
            }

            let wakes = std::mem::take(&mut *self.vm.host().wakes.lock().unwrap());
            for pe in wakes {
                if let Place::Waiting(cpu) = self.places[pe] {
                    note_if(!self.wait_on(pe, cpu), "a PE is woken");
                    busy = true;
                }
            }

            for pe in 0..PES {
                if let Place::InGuest(cpu) = self.places[pe]
                    && self.cpus[cpu].interface().maintenance()
                {
                    self.bounce(pe);
                    busy = true;
                }
            }

            if !busy {
                return;
            }
        }
        panic!("kicks or maintenance interrupts without end");
    }

    pub(super) fn power_on(&mut self, pe: usize) {
        if self.places[pe] == Place::Off {
            note_if(
                self.reference
                    .routed_to(pe)
                    .any(|(_, irq)| irq.pending() && irq.enabled),
                "a PE comes on with interrupts pending",
            );
            self.vm.power_on(vcpu(pe));
            self.places[pe] = Place::Away;
        }
    }

    pub(super) fn power_off(&mut self, pe: usize) {
        // One PE stays on to continue the run.
        if self
            .places
            .iter()
            .filter(|place| **place != Place::Off)
            .count()
            > 1
        {
            let cpu = self.exit(pe);
            note_if(
                cpu.interface().list_registers().any(|lr| !lr.is_empty()),
                "a PE goes off with interrupts in list registers",
            );
            self.vm.power_off(&cpu.pin(), vcpu(pe)).unwrap();
            let on = usize::from(cpu.id().0);
            self.vm.host().loaded.lock().unwrap()[on] = None;
            self.places[pe] = Place::Off;
            self.handling[pe].clear();
            self.reference.interfaces[pe] = Default::default();
        }
    }

    pub(super) fn wait(&mut self, pe: usize) {
        let cpu = self.cpu_of(pe);
        self.exit(pe);
        let expected = self.wakes(pe);

        // `Blocked::No` may also mean pending work of another kind. The second answer is about
        // interrupts only.
        let blocked = self.wait_on(pe, cpu) || {
            self.exit(pe);
            self.wait_on(pe, cpu)
        };

        note(match blocked {
            true => "a PE sleeps",
            false => "a PE does not sleep",
        });

        let interface = self.cpus[cpu].interface();
        note_if(
            blocked && interface.list_registers().any(|lr| !lr.is_empty()),
            "a PE sleeps with interrupts in list registers",
        );

        let held_back = |group1| self.reference.signalled(pe, group1) == Some(false);
        note_if(
            !blocked && self.reference.asks_for_wake_up(pe) && held_back(false) && held_back(true),
            "a PE does not sleep, for its sleeping redistributor",
        );

        if expected == Some(false) && !blocked && self.may_stay_awake(pe) {
            note("a PE with a virtual LPI behind its mask does not sleep");
            return;
        }
        if let Some(expected) = expected {
            assert_eq!(blocked, !expected, "PE {pe} in WFI");
        }
    }

    /// Blocks the PE, or enters the guest. Returns whether the PE is blocked.
    pub(super) fn wait_on(&mut self, pe: usize, on: usize) -> bool {
        let cpu = &self.cpus[on];
        match self.vm.block(&cpu.pin(), vcpu(pe)).unwrap() {
            Blocked::Yes => {
                self.places[pe] = Place::Waiting(on);
                true
            }
            Blocked::No => {
                self.enter(pe, on);
                false
            }
        }
    }
}
