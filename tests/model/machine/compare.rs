//! Observable state of the library and the reference.

use vgic::mmio::{MmioOutcome, Width};
use vgic::sysreg::SysReg;

use super::{Machine, Place, vcpu};
use crate::coverage::note;
use crate::operation::{EXTENDED, PES, SPIS};
use crate::reference::Frame;

impl Machine {
    /// Returns whether the PE has an interrupt to wake up for: one is signalled, or its
    /// redistributor asks for wake-up. Returns `None` if the result depends on an undefined order.
    pub(super) fn wakes(&self, pe: usize) -> Option<bool> {
        if self.reference.asks_for_wake_up(pe) {
            return Some(true);
        }

        let group0 = self.reference.signalled(pe, false)?;
        Some(group0 || self.reference.signalled(pe, true)?)
    }

    /// Compares the CPU interfaces of PEs in the guest, without a trap. A PE waiting must have no
    /// interrupt to wake up for.
    pub(super) fn compare_interfaces(&mut self) {
        for pe in 0..PES {
            match self.places[pe] {
                Place::InGuest(_) => self.compare_interface(pe),
                Place::Waiting(_) => {
                    assert_ne!(self.wakes(pe), Some(true), "PE {pe} waits for ever");
                }
                Place::Off | Place::Away => {}
            }
        }
    }

    /// Reads a system register whose access traps, without an exit: an exit could hide a missing
    /// kick.
    fn read_trapped(&self, pe: usize, register: SysReg) -> u64 {
        let cpu = &self.cpus[self.cpu_of(pe)];
        let value = self.vm.sysreg_read(&cpu.pin(), vcpu(pe), register);
        note("a common register traps");
        value.expect("readable")
    }

    pub(super) fn compare_interface(&self, pe: usize) {
        let (guest, reference) = (self.guest(pe), &self.reference.interfaces[pe]);
        let trapped = |register| self.read_trapped(pe, register);
        assert_eq!(
            guest
                .read_rpr()
                .map_or_else(|_| trapped(SysReg::Rpr), u64::from),
            u64::from(reference.running_priority()),
            "RPR of PE {pe}"
        );
        assert_eq!(
            guest
                .read_pmr()
                .map_or_else(|_| trapped(SysReg::Pmr), u64::from),
            u64::from(reference.mask),
            "PMR of PE {pe}"
        );
        assert_eq!(
            guest.read_bpr0(),
            reference.read_bpr(false),
            "BPR0 of PE {pe}"
        );
        assert_eq!(
            guest.read_bpr1(),
            reference.read_bpr(true),
            "BPR1 of PE {pe}"
        );
        assert_eq!(
            guest.read_ctlr().unwrap_or_else(|_| trapped(SysReg::Ctlr)) & 3,
            reference.read_ctlr(),
            "CTLR of PE {pe}"
        );
        assert_eq!(guest.read_igrpen0(), reference.enabled[0]);
        assert_eq!(guest.read_igrpen1(), reference.enabled[1]);

        for group1 in [false, true] {
            let (signal, hppir) = self.signals(pe, group1);
            let group = u8::from(group1);
            if let Some(expected) = self.reference.signalled(pe, group1) {
                assert_eq!(
                    signal,
                    expected,
                    "signal of Group {group} to PE {pe}: {:?}",
                    self.reference.acknowledgeable(pe, group1)
                );
            }

            let allowed = self.reference.highest_pending(pe, group1);
            assert!(
                allowed.allows(hppir),
                "HPPIR{group} of PE {pe} is {hppir}, not one of {allowed:?}"
            );
        }
    }

    /// Compares the registers changed by writes only, after a write. No PE has to exit. Operations
    /// read the registers of pending and active states, and `compare_registers` reads every
    /// register: more frequent reads would make every PE exit all the time.
    pub(super) fn compare_configuration(&self) {
        let cpu = &self.cpus[0];
        let pin = cpu.pin();
        for (frame, at) in configuration() {
            let outcome = self
                .vm
                .mmio_read(&pin, vcpu(0), self.gpa(frame, at), Width::Word);
            let expected = self.reference.read(frame, at, 4);
            assert_eq!(
                outcome,
                Ok(MmioOutcome::Done(expected)),
                "{frame:?} {at:#x}: {expected:#x}"
            );
        }
    }

    /// Compares every register, as read by PE `pe`, or by another PE if `pe` is off.
    pub(super) fn compare_registers(&mut self, pe: usize) {
        let on = (0..PES)
            .map(|n| (pe + n) % PES)
            .find(|pe| self.places[*pe] != Place::Off);
        let pe = on.expect("one stays on");

        self.run(pe);
        self.quiesce();

        let states = [0x200, 0x280, 0x300, 0x380_u64];
        let distributor =
            (0..4).flat_map(|n| states.map(|block| (Frame::Distributor, block + 4 * n)));
        let redistributors = (0..PES).map(Frame::Redistributor);
        let redistributors = redistributors.flat_map(|frame| {
            let banks = [0, 4].into_iter();
            banks.flat_map(move |bank| states.map(|block| (frame, 0x1_0000 + block + bank)))
        });
        // Of the extended SPIs, and of those that there are not.
        let extended = [0x1600, 0x1800, 0x1a00, 0x1c00_u64].into_iter();
        let extended =
            extended.flat_map(|block| [0, 4].map(|bank| (Frame::Distributor, block + bank)));

        let states = distributor.chain(redistributors).chain(extended);
        for (frame, at) in configuration().chain(states) {
            self.read(pe, frame, at, 4);
        }
        self.compare_notices();
    }

    /// Compares the library's notices to the embedder with the guest's configuration.
    fn compare_notices(&mut self) {
        let host = self.vm.host();
        for (&(owner, intid), &on) in &*host.enabled.lock().unwrap() {
            let interrupt = self.reference.interrupt(owner.unwrap_or(0), intid).unwrap();
            assert_eq!(on, interrupt.enabled, "enabled: {intid} of {owner:?}");
        }
        for (&(owner, intid), &edge) in &*host.edges.lock().unwrap() {
            let interrupt = self.reference.interrupt(owner.unwrap_or(0), intid).unwrap();
            assert_eq!(edge, !interrupt.level, "configured: {intid} of {owner:?}");
        }
        for (&intid, &target) in &*host.routes.lock().unwrap() {
            let router = self.reference.distributor.router(intid);
            assert_eq!(target, self.reference.find(router), "routed: {intid}");
        }
    }
}

/// Returns every register except those of pending and active states, as words.
fn configuration() -> impl Iterator<Item = (Frame, u64)> {
    let bits = [0x80, 0x100, 0x180_u64];
    let control = [0, 4].into_iter();
    let banks = (0..4).flat_map(move |n| bits.map(|block| block + 4 * n));
    let priorities = (0..0x1c).map(|n| 0x400 + 4 * n);
    let triggers = (0..7).map(|n| 0xc00 + 4 * n);
    let routers = (0..=u64::from(SPIS)).flat_map(|n| [0x6100 + 8 * n, 0x6104 + 8 * n]);

    // Those of the extended SPIs, and one beyond each.
    let extended = [0x1000, 0x1200, 0x1400_u64].into_iter();
    let extended = extended.flat_map(|block| [block, block + 4]);
    let blocks = (0..9)
        .map(|n| 0x2000 + 4 * n)
        .chain((0..3).map(|n| 0x3000 + 4 * n));
    // Most accesses are of the first few.
    let few = [
        0,
        1,
        2,
        3,
        4,
        5,
        u64::from(EXTENDED) - 1,
        u64::from(EXTENDED),
    ];
    let extended_routers = few
        .into_iter()
        .flat_map(|n| [0x8000 + 8 * n, 0x8004 + 8 * n]);

    let distributor = control
        .chain(banks)
        .chain(priorities)
        .chain(triggers)
        .chain(routers)
        .chain(extended)
        .chain(blocks)
        .chain(extended_routers)
        .map(|at| (Frame::Distributor, at));

    let redistributors = (0..PES).map(Frame::Redistributor).flat_map(move |frame| {
        let control = [0, 8, 0xc, 0x14].into_iter();
        let banks = bits.into_iter();
        let banks = banks.flat_map(|block| [0, 4].map(|bank| 0x1_0000 + block + bank));
        let priorities = (0..17).map(|n| 0x1_0400 + 4 * n);
        let triggers = (0..5).map(|n| 0x1_0c00 + 4 * n);
        let all = control.chain(banks).chain(priorities).chain(triggers);
        all.map(move |at| (frame, at))
    });
    distributor.chain(redistributors)
}
