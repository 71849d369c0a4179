//! A save, and a restore to another VM on other CPUs.

use vgic::cpu_interface::Vtr;
use vgic::cpu_interface::software::SoftwareInterface;
use vgic::intid::{CpuId, Kind};
use vgic::state::{VmState, flags};
use vgic::{Cpu, Vgic};

use super::Machine;
use crate::coverage::{note, note_if};
use crate::operation::{CPUS, PES};

impl Machine {
    /// Saves the VM, takes it apart, and restores the state to a new VM on CPUs with so many list
    /// registers. Nothing that a guest can observe changes: the comparisons of all that follows
    /// would tell.
    pub(super) fn restore(&mut self, list_registers: u8) {
        for pe in 0..PES {
            self.take_away(pe);
        }
        self.quiesce();
        self.note_restore();

        let list_registers = Self::limit(self.gicv4.is_some(), list_registers);
        let state = self.vm.save(&self.pin()).unwrap();
        self.doubled.clear();
        self.compare_lpis(&state);
        let again = self.vm.save(&self.pin()).unwrap();
        assert!(again == state, "a save changes what a save finds");
        self.check_kvm(&state);
        let report = self.vm.teardown(&self.pin()).unwrap();
        assert_eq!(report.references, 0);
        if let Some(gicv4) = &self.gicv4 {
            gicv4.check_empty();
        }
        for kind in Kind::ALL.map(|kind| kind as usize) {
            self.left_behind[kind] += report.pending[kind];
            self.taken_back[kind] += report.withdrawn[kind];
        }

        let host = self.vm.host().take();
        let config = self.vm.config().clone();
        self.vm = Vgic::new(&self.domain, config, host).unwrap();
        self.list_registers = list_registers.into();
        self.vtr = Vtr {
            list_registers,
            ..self.vtr
        };
        self.cpus.clear();
        self.cpus = (0..CPUS as u16)
            .map(|n| {
                let local = self.domain.register(CpuId(n)).unwrap();
                Cpu::new(local, SoftwareInterface::new(self.vtr))
            })
            .collect();

        self.vm.restore(&self.pin(), &state).unwrap();
        let restored = self.vm.save(&self.pin()).unwrap();
        assert!(restored == state, "what is saved is not what was restored");
        self.connect();
        self.forget_physical();
        self.quiesce();
        self.set_all_direct();
    }

    /// Compares the pending LPIs of a state, wherever they were pending.
    fn compare_lpis(&self, state: &VmState) {
        for lpi in &state.lpis {
            let latch = self.reference.lpis.mapped[&lpi.intid].interrupt.latch;
            assert_eq!(lpi.interrupt.has(flags::LATCH), latch, "LPI {}", lpi.intid);
        }
    }

    fn note_restore(&self) {
        note("a VM is saved and restored");
        let all = || (0..PES).flat_map(|pe| self.reference.routed_to(pe));
        let some = |test: &dyn Fn(u32, bool, bool) -> bool| {
            all().any(|(intid, interrupt)| test(intid, interrupt.pending(), interrupt.active))
        };
        note_if(
            some(&|intid, pending, _| intid >= 8192 && pending),
            "a VM is restored with an LPI pending",
        );
        note_if(
            some(&|intid, pending, _| intid >= 8192 && pending && self.hardware_has(intid)),
            "a VM is restored with a virtual LPI pending",
        );
        note_if(
            some(&|intid, pending, _| intid < 8192 && pending),
            "a VM is restored with a wired interrupt pending",
        );
        note_if(
            some(&|_, _, active| active),
            "a VM is restored with an interrupt active",
        );
        note_if(
            self.waiting.iter().any(|commands| !commands.is_empty()),
            "a VM is restored with commands that wait",
        );
    }
}
