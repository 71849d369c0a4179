//! Virtual SGIs of GICv4.1.

use vgic::sysreg::SysReg;
use vgic::{Blocked, Config};

use crate::common::gicv4::Version;
use crate::common::{Call, GICD, GITS, Machine, affinity};
use crate::{Direct, LPI};

const CTLR_NASSGIREQ: u32 = 1 << 8;
const TYPER2_NASSGICAP: u32 = 1 << 8;
/// Offsets in a redistributor.
const IGROUPR: u64 = 0x1_0080;
const ISENABLER: u64 = 0x1_0100;
const ICENABLER: u64 = 0x1_0180;
const ISPENDR: u64 = 0x1_0200;
const ICPENDR: u64 = 0x1_0280;
const ISACTIVER: u64 = 0x1_0300;
const IPRIORITYR: u64 = 0x1_0400;

impl Direct {
    /// Returns a VM whose guest has asked for SGIs without an active state, and enabled all of
    /// them. Every vCPU is direct, and blocked.
    fn with_sgis(vcpus: usize) -> Self {
        let this = Self::new(Version::V4_1, vcpus);
        for n in 0..vcpus {
            this.set_vcpu(n, true).unwrap();
        }
        this.ask(true);
        for n in 0..vcpus {
            this.machine
                .write(n, this.machine.gicr(n) + ISENABLER, 0xffff);
        }
        for n in 0..vcpus {
            assert_eq!(this.serve(n), []);
        }
        this.machine.vm.host().take_calls();
        this
    }

    /// Lets the guest ask for SGIs without an active state, or with one.
    pub(crate) fn ask(&self, without: bool) {
        let request = if without { CTLR_NASSGIREQ } else { 0 };
        self.machine.write(0, GICD, 0);
        self.machine.write(0, GICD, 3 | request);
        self.machine.advance();
    }

    /// Sends an SGI from vCPU `from` to vCPU `to`, and does what the hypervisor's handlers do.
    pub(crate) fn sgi(&self, from: usize, to: usize, sgi: u64) {
        self.machine
            .sysreg(from, SysReg::Sgi1r, sgi << 24 | 1 << to);
        self.handle_doorbells();
    }

    fn virtual_sgis(&self) -> u64 {
        self.machine.domain.totals().virtual_sgis
    }

    fn gicr(&self, n: usize, register: u64) -> u32 {
        self.machine.read(n, self.machine.gicr(n) + register)
    }

    /// Enables the SGIs in `sgis` of vCPU `n`, a bit each, or disables them; by vCPU `by`.
    pub(crate) fn enable_sgi(&self, by: usize, n: usize, sgis: u32, on: bool) {
        let register = if on { ISENABLER } else { ICENABLER };
        self.set_gicr(by, n, register, sgis & 0xffff);
    }

    fn set_gicr(&self, by: usize, n: usize, register: u64, value: u32) {
        self.machine
            .write(by, self.machine.gicr(n) + register, value);
        self.handle_doorbells();
    }
}

#[test]
fn an_sgi_reaches_a_running_vcpu_without_a_kick() {
    let this = Direct::with_sgis(2);
    this.machine.enter(1);
    let before = this.machine.domain.totals();

    for to in [1, 0] {
        this.sgi(0, to, 3);
    }
    assert_eq!(this.model.take(1), Some(3));
    let after = this.machine.domain.totals();
    assert_eq!(after.injections, before.injections);
    assert_eq!(after.virtual_sgis, before.virtual_sgis + 2);
    let calls = this.machine.vm.host().take_calls();
    assert!(
        !calls.iter().any(|call| matches!(call, Call::Kick(..))),
        "{calls:?}"
    );
    this.machine.exit(1);
    assert_eq!(this.serve(0), [3]);
    this.finish();
}

#[test]
fn an_sgi_wakes_a_blocked_vcpu_and_waits_for_one_that_is_put() {
    let this = Direct::with_sgis(3);
    // To a list, and to all others.
    for value in [5 << 24 | 0b110, 6 << 24 | 1 << 40] {
        this.machine.sysreg(0, SysReg::Sgi1r, value);
        this.handle_doorbells();
        let woken = this.machine.vm.host().take_calls();
        assert_eq!(woken, [Call::Wake(1), Call::Wake(2)]);
        for n in [1, 2] {
            assert_eq!(this.serve(n), [(value >> 24 & 0xf) as u32]);
        }
    }
    assert_eq!(this.virtual_sgis(), 4);

    this.machine.enter(1);
    this.machine.exit(1);
    this.machine.put_all();
    this.sgi(0, 1, 7);
    assert_eq!(this.machine.vm.host().take_calls(), []);
    assert_eq!(this.serve(1), [7]);
    this.finish();
}

#[test]
fn the_configuration_of_an_sgi_is_the_guests() {
    let this = Direct::with_sgis(2);
    // By another vCPU while the vCPU sleeps, and by itself.
    for by in [0, 1] {
        this.set_gicr(by, 1, ICENABLER, 1 << 3);
        assert_eq!(this.serve(1), []);
        this.sgi(0, 1, 3);
        assert_eq!(this.serve(1), []);
        assert_eq!(this.gicr(1, ISPENDR) & 0xffff, 1 << 3);
        this.set_gicr(by, 1, ISENABLER, 1 << 3);
        assert_eq!(this.serve(1), [3]);
    }

    this.machine.write_as(
        0,
        this.machine.gicr(1) + IPRIORITYR + 9,
        vgic::mmio::Width::Byte,
        0x10,
    );
    this.machine.write_as(
        0,
        this.machine.gicr(1) + IPRIORITYR + 2,
        vgic::mmio::Width::Byte,
        0x80,
    );
    this.sgi(0, 1, 2);
    this.sgi(0, 1, 9);
    assert_eq!(this.serve(1), [9, 2]);
    assert_eq!(this.gicr(1, ISACTIVER) & 0xffff, 0);

    // Of Group 0: a write of the other register has no effect.
    this.set_gicr(0, 1, IGROUPR, !(1 << 4));
    assert_eq!(this.serve(1), []);
    let before = this.virtual_sgis();
    this.sgi(0, 1, 4);
    assert_eq!(this.virtual_sgis(), before);
    this.machine.sysreg(0, SysReg::Sgi0r, 4 << 24 | 1 << 1);
    this.handle_doorbells();
    assert_eq!(this.virtual_sgis(), before + 1);
    this.machine.enter(1);
    this.machine.guest(1).write_igrpen1(false);
    this.machine.guest(1).write_igrpen0(true);
    this.machine.exit(1);
    assert_eq!(this.machine.block(1), Blocked::No);
    this.machine.enter(1);
    assert_eq!(this.model.take(1), Some(4));
    this.machine.exit(1);
    this.finish();
}

#[test]
fn a_group_that_the_distributor_disables_holds_virtual_sgis_back() {
    let this = Direct::with_sgis(2);
    this.set_gicr(0, 1, IGROUPR, !(1 << 4));
    this.machine.enter(1);
    for (ctlr, taken) in [(2, None), (3, Some(4))] {
        this.machine.write(0, GICD, ctlr | CTLR_NASSGIREQ);
        this.machine.advance();
        this.machine.exit(1);
        this.machine.enter(1);
        this.machine.sysreg(0, SysReg::Sgi0r, 4 << 24 | 1 << 1);
        assert_eq!(this.model.take(1), taken);
    }
    this.machine.exit(1);
    this.finish();
}

#[test]
fn a_disabled_sgi_waits_while_its_vcpu_runs() {
    let this = Direct::with_sgis(2);
    this.machine.enter(1);
    this.machine.vm.host().take_calls();
    this.set_gicr(0, 1, ICENABLER, 1 << 3);
    assert_eq!(this.machine.vm.host().take_calls(), [Call::Kick(1, 1)]);
    // RWP, until the vCPU has been out of the guest.
    assert_ne!(this.gicr(1, 0) & 1 << 3, 0);
    this.machine.exit(1);
    this.machine.enter(1);
    assert_eq!(this.gicr(1, 0) & 1 << 3, 0);
    this.sgi(0, 1, 3);
    assert_eq!(this.model.take(1), None);
    this.machine.exit(1);
    this.finish();
}

#[test]
fn the_pending_registers_show_and_change_virtual_sgis() {
    let this = Direct::with_sgis(2);
    this.set_gicr(0, 1, ICENABLER, 0xffff);
    assert_eq!(this.serve(1), []);
    this.set_gicr(0, 1, ISPENDR, 0b110);
    assert_eq!(this.virtual_sgis(), 2);
    this.sgi(0, 1, 8);
    for register in [ISPENDR, ICPENDR] {
        assert_eq!(this.gicr(1, register) & 0xffff, 0x106);
    }
    this.set_gicr(0, 1, ICPENDR, 0b100);
    this.set_gicr(0, 1, ISENABLER, 0xffff);
    assert_eq!(this.serve(1), [1, 8]);
    this.finish();
}

#[test]
fn the_guest_chooses_while_no_group_is_enabled() {
    let this = Direct::with_sgis(2);
    assert_eq!(this.machine.read(0, GICD + 0xc), TYPER2_NASSGICAP);
    let ctlr = || this.machine.read(0, GICD) & (CTLR_NASSGIREQ | 3);
    assert_eq!(ctlr(), CTLR_NASSGIREQ | 3);
    this.machine.write(0, GICD, 3);
    assert_eq!(ctlr(), CTLR_NASSGIREQ | 3);
    this.ask(false);
    assert_eq!(ctlr(), 3);

    let before = this.virtual_sgis();
    // The vCPU has not been in the guest since: either way.
    this.sgi(0, 1, 3);
    assert_eq!(this.serve(1), [3]);
    this.sgi(0, 1, 3);
    assert_eq!(this.serve(1), [3]);
    assert!(this.virtual_sgis() <= before + 1);
    this.machine.write(0, GICD, 3 | CTLR_NASSGIREQ);
    assert_eq!(ctlr(), 3);
    this.finish();

    let plain = Machine::new(1);
    assert_eq!(plain.read(0, GICD + 0xc), 0);
    plain.write(0, GICD, 0);
    plain.write(0, GICD, 3 | CTLR_NASSGIREQ);
    assert_eq!(plain.read(0, GICD) & CTLR_NASSGIREQ, 0);
}

#[test]
fn a_pending_state_goes_along_with_a_save() {
    let this = Direct::with_sgis(2);
    this.sgi(0, 1, 3);
    let state = this.machine.save();
    assert_eq!(this.serve(1), [3]);
    // And to the hardware again.
    let before = this.virtual_sgis();
    this.sgi(0, 1, 3);
    assert_eq!(this.virtual_sgis(), before + 1);
    assert_eq!(this.serve(1), [3]);

    this.machine.restore(&state).unwrap();
    assert_eq!(this.serve(1), [3]);
    assert_eq!(this.serve(1), []);
    this.finish();

    // On a machine without a GICv4.1, and in a VM that does not let the guest ask.
    let config = Config::new((0..2).map(affinity).collect()).with_its(GITS);
    let plain = Machine::from_config(config.clone());
    assert!(plain.restore(&state).is_err());
    let asking = Machine::from_config(Config {
        nassgi_cap: true,
        ..config
    });
    asking.restore(&state).unwrap();
    asking.vm.power_on(crate::vcpu(1));
    assert_eq!(asking.serve(1), [3]);
}

#[test]
fn a_reset_leaves_no_virtual_sgi() {
    let this = Direct::with_sgis(2);
    this.sgi(0, 1, 3);
    this.machine.put_all();
    let pin = this.machine.pin();
    this.machine.vm.reset(&pin).unwrap();
    drop(pin);
    this.machine.vm.power_on(crate::vcpu(1));
    this.machine.set_up();
    this.machine
        .write(1, this.machine.gicr(1) + ISENABLER, 0xffff);
    assert_eq!(this.gicr(1, ISPENDR) & 0xffff, 0);
    assert_eq!(this.serve(1), []);
    this.finish();
}

#[test]
fn an_added_vcpu_has_no_sgi_of_the_removed_one() {
    let this = Direct::with_sgis(2);
    this.sgi(0, 1, 3);
    this.machine.put_all();
    this.machine.power_off(1);
    let pin = this.machine.pin();
    this.machine.vm.remove_vcpu(&pin, crate::vcpu(1)).unwrap();
    this.machine.vm.add_vcpu(&pin, affinity(1)).unwrap();
    drop(pin);
    this.machine.vm.power_on(crate::vcpu(1));
    this.machine.set_up();
    this.machine
        .write(1, this.machine.gicr(1) + ISENABLER, 0xffff);
    assert_eq!(this.serve(1), []);
    this.sgi(0, 1, 4);
    assert_eq!(this.serve(1), [4]);
    this.finish();
}

#[test]
fn sgis_go_through_list_registers_where_the_hardware_cannot() {
    // The ITS does not answer.
    let this = Direct::with_sgis(2);
    this.model.leave(None, None, Some(0));
    this.set_gicr(0, 1, IPRIORITYR, 0);
    let _ = this.serve(1);
    let before = this.virtual_sgis();
    this.sgi(0, 1, 3);
    assert_eq!(this.virtual_sgis(), before);
    this.model.leave(None, None, None);
    assert_eq!(this.serve(1), [3]);

    // The embedder does not want the vCPU to be direct.
    this.machine.enter(1);
    this.machine.vm.host().take_calls();
    this.set_vcpu(1, false).unwrap();
    assert_eq!(this.machine.vm.host().take_calls(), [Call::Kick(1, 1)]);
    this.machine.exit(1);
    this.machine.enter(1);
    this.machine.exit(1);
    let before = this.virtual_sgis();
    this.sgi(0, 1, 3);
    assert_eq!(this.virtual_sgis(), before);
    assert_eq!(this.serve(1), [3]);
    this.set_vcpu(1, true).unwrap();
    let _ = this.serve(1);
    this.sgi(0, 1, 3);
    assert_eq!(this.virtual_sgis(), before + 1);
    assert_eq!(this.serve(1), [3]);

    // GICv4.0.
    let this = Direct::new(Version::V4_0, 2);
    this.set_vcpu(1, true).unwrap();
    this.ask(true);
    this.set_gicr(1, 1, ISENABLER, 0xffff);
    let _ = this.serve(1);
    this.sgi(0, 1, 3);
    assert_eq!(this.virtual_sgis(), 0);
    assert_eq!(this.serve(1), [3]);
    this.finish();
}

#[test]
fn virtual_sgis_and_lpis_share_a_virtual_pe() {
    let (this, start) = Direct::started(Version::V4_1, 1);
    let _its = start(&this);
    this.ask(true);
    this.set_gicr(0, 0, ISENABLER, 0xffff);
    assert_eq!(this.serve(0), []);
    this.sgi(0, 0, 3);
    assert!(this.msi(0));
    assert_eq!(this.machine.block(0), Blocked::No);
    let mut seen = this.serve(0);
    seen.sort_unstable();
    assert_eq!(seen, [3, LPI]);
    this.finish();
}
