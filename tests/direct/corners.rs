//! Corners of direct injection: settings that change while something is pending, another CPU in the
//! middle of a change, an ITS that stops half-way.

use std::sync::mpsc::channel;

use vgic::intid::CpuId;
use vgic::mmio::Width;
use vgic::sysreg::SysReg;
use vgic::{Blocked, Config, Vgic};

use crate::common::gicv4::{Sent, Version};
use crate::common::its::PROPERTIES;
use crate::common::{GICD, GITS, Machine, TestHost, affinity};
use crate::{DEVICE, Direct, LPI, vcpu};

const VERSIONS: [Version; 2] = [Version::V4_0, Version::V4_1];
const CTLR_NASSGIREQ: u32 = 1 << 8;
/// Offsets in a redistributor.
const INVLPIR: u64 = 0x00a0;
const IGROUPR: u64 = 0x1_0080;
const ISENABLER: u64 = 0x1_0100;
const ISPENDR: u64 = 0x1_0200;

impl Direct {
    /// Lets the guest ask for SGIs without an active state, and enable those of vCPU `n`: SGI 4 of
    /// Group 0, the others of Group 1.
    fn use_sgis(&self, n: usize) {
        self.ask(true);
        let gicr = self.machine.gicr(n);
        self.machine.write(n, gicr + ISENABLER, 0xffff);
        self.machine.write(n, gicr + IGROUPR, !(1 << 4));
        assert_eq!(self.serve(n), []);
    }

    /// Sends SGI 4 to vCPU 1 by vCPU 0.
    fn send_group0(&self) {
        let (register, value) = (SysReg::Sgi0r, 4 << 24 | 1 << 1);
        self.machine.sysreg(0, register, value);
    }
}

#[test]
fn a_virtual_sgi_of_group_0_wakes_a_guest_that_asks_for_an_active_state_again() {
    let this = Direct::new(Version::V4_1, 2);
    this.set_vcpu(1, true).unwrap();
    this.use_sgis(1);
    // Pending in the hardware, which does not forward it.
    this.machine.write(0, GICD, 2 | CTLR_NASSGIREQ);
    this.machine.advance();
    this.machine.enter(1);
    this.machine.guest(1).write_igrpen1(false);
    this.machine.guest(1).write_igrpen0(true);
    this.machine.exit(1);
    this.send_group0();

    this.ask(false);
    assert_eq!(this.machine.block(1), Blocked::No);
    this.machine.enter(1);
    assert_eq!(this.model.take(1), Some(4));
    this.machine.exit(1);
    this.finish();
}

#[test]
fn a_virtual_sgi_reaches_a_running_vcpu_after_its_last_direct_event() {
    let (this, start) = Direct::started(Version::V4_1, 2);
    let _its = start(&this);
    this.use_sgis(1);
    this.machine.enter(1);
    let gicr = this.machine.gicr(1);
    this.machine.write(0, gicr, 0);
    // While events are direct and LPIs disabled, the virtual PE is off.
    this.machine.exit(1);
    this.machine.enter(1);
    this.machine.vm.host().take_calls();

    this.machine.advance();
    assert_eq!(this.events(1), Ok(0));
    assert_ne!(this.machine.vm.host().take_calls(), []);
    this.machine.exit(1);
    this.machine.enter(1);
    this.sgi(0, 1, 3);
    assert_eq!(this.model.take(1), Some(3));
    this.machine.exit(1);
    this.finish();
}

#[test]
fn virtual_sgis_of_group_0_go_on_without_group_1() {
    let (this, start) = Direct::started(Version::V4_1, 2);
    let _its = start(&this);
    this.use_sgis(1);
    this.machine.write(0, GICD, 1 | CTLR_NASSGIREQ);
    this.machine.advance();
    this.machine.enter(1);
    this.machine.guest(1).write_igrpen0(true);
    this.send_group0();
    // Virtual LPIs do not.
    assert!(this.msi(1));
    assert_eq!(this.model.take(1), Some(4));
    assert_eq!(this.model.take(1), None);
    this.machine.exit(1);
    this.finish();
}

#[test]
fn no_sgi_goes_to_the_virtual_pe_of_a_vm_that_was_taken_apart() {
    let this = Direct::new(Version::V4_1, 2);
    this.set_vcpu(1, true).unwrap();
    this.use_sgis(1);
    this.machine.put_all();
    let pin = this.machine.pin();
    this.machine.vm.teardown(&pin).unwrap();

    let register = this.machine.gicr(1) + ISPENDR;
    let _ = (this.machine.vm).mmio_write(&pin, register, Width::Word, 1 << 3);
    let _ = (this.machine.vm).sysreg_write(&pin, vcpu(0), SysReg::Sgi1r, 3 << 24 | 1 << 1);
    this.model.check_empty();
}

#[test]
fn no_sgi_of_a_dropped_vm_reaches_the_next_guest_of_its_cpu() {
    let this = Direct::new(Version::V4_1, 1);
    this.set_vcpu(0, true).unwrap();
    this.use_sgis(0);
    this.machine.enter(0);
    this.sgi(0, 0, 3);
    this.machine.exit(0);
    let Direct { machine, model } = this;
    let Machine { domain, vm, cpus } = machine;
    drop(vm);

    let host = TestHost::with_gicv4(model.clone());
    let config = Config::new(vec![affinity(0)]).with_its(GITS);
    let vm = Vgic::new(&domain, config, host).unwrap();
    vm.power_on(vcpu(0));
    vm.enter(&cpus[0].pin(), vcpu(0)).unwrap();
    assert_eq!(model.take(0), None);
}

#[test]
fn an_its_that_stops_while_sgis_are_taken_out_loses_none() {
    for left in 0..5 {
        let this = Direct::new(Version::V4_1, 2);
        this.set_vcpu(1, true).unwrap();
        this.use_sgis(1);
        this.sgi(0, 1, 3);
        this.sgi(0, 1, 5);
        this.machine.put_all();
        this.model.leave(None, None, Some(left));
        let _ = this.machine.save();
        this.model.leave(None, None, None);
        let seen = this.serve(1);
        assert!(seen.contains(&3) && seen.contains(&5), "{left}: {seen:?}");
        this.finish();
    }
}

/// Stops the ITS after each number of commands that a first virtual PE takes, and lets it answer
/// again. The model sees tables freed that it still has.
#[test]
fn an_its_that_stops_while_a_virtual_pe_is_made_keeps_the_tables() {
    for version in VERSIONS {
        for left in 0..8 {
            for again in [false, true] {
                let this = Direct::new(version, 1);
                this.model.leave(None, None, Some(left));
                let _ = this.set_vcpu(0, true);
                this.model.leave(None, None, None);
                if again {
                    this.set_vcpu(0, true).unwrap();
                }
                this.machine.finish();
            }
        }
    }
}

/// Stops the ITS once it has moved a virtual PE, which then comes back to its old CPU.
#[test]
fn a_move_without_an_answer_is_undone() {
    for version in VERSIONS {
        let (this, start) = Direct::started(version, 2);
        let _its = start(&this);
        this.machine.put_all();
        this.model.leave(None, None, Some(1));
        let cpu = &this.machine.cpus[1];
        this.machine.vm.enter(&cpu.pin(), vcpu(0)).unwrap();
        this.machine.vm.exit(&cpu.pin(), vcpu(0)).unwrap();
        this.machine.vm.vcpu_put(&cpu.pin(), vcpu(0)).unwrap();
        this.model.leave(None, None, None);

        assert_eq!(this.serve(0), []);
        assert!(this.msi(0));
        assert_eq!(this.serve(0), [LPI]);
        this.finish();
    }
}

/// Invalidates the configuration of an LPI by another CPU while its event becomes direct to a vCPU
/// without other events, once the redistributor has cached the old configuration.
#[test]
fn an_invalidation_in_the_middle_of_a_change_counts() {
    for version in VERSIONS {
        for moves in [false, true] {
            invalidate_in_the_middle(version, moves);
        }
    }
}

fn invalidate_in_the_middle(version: Version, moves: bool) {
    const VMOVI: u8 = 0x21;
    const VMAPTI: u8 = 0x2a;

    let (this, start) = Direct::started(version, 2);
    let its = start(&this);
    let device = u64::from(DEVICE);
    if moves {
        its.movi(device, 1, 0);
        its.movi(device, 3, 0);
    } else {
        this.set_device(false).unwrap();
        (1..4).for_each(|event| its.discard(device, event));
        its.movi(device, 0, 1);
    }
    its.configure(LPI.into(), 0xa0, false);
    its.inv(device, 0);
    assert_eq!([this.serve(0), this.serve(1)], [[], []]);
    assert_eq!(this.events(1), Ok(0));

    let (ask, asked) = channel();
    let (answer, answered) = channel();
    let model = this.model.clone();
    let code = if moves { VMOVI } else { VMAPTI };
    this.model.interrupt_after(code, move || {
        model.cache(1, 2, LPI as usize);
        ask.send(()).unwrap();
        answered.recv().unwrap();
    });

    std::thread::scope(|scope| {
        let (vm, domain) = (&this.machine.vm, &this.machine.domain);
        let invlpir = this.machine.gicr(1) + INVLPIR;
        scope.spawn(move || {
            asked.recv().unwrap();
            let local = domain.register(CpuId(77)).unwrap();
            let byte = PROPERTIES + u64::from(LPI) - 8192;
            vm.host().write_ram(byte, &[0xa1]);
            let written = vm.mmio_write(&local.pin(), invlpir, Width::Double, LPI.into());
            assert!(written.is_ok());
            answer.send(()).unwrap();
        });
        if moves {
            its.movi(device, 0, 1);
        } else {
            this.set_device(true).unwrap();
        }
    });

    assert_eq!(this.events(1), Ok(1));
    assert!(this.msi(0));
    assert_eq!(this.serve(1), [LPI]);
    this.finish();
}

#[test]
fn events_follow_to_another_physical_device() {
    const OTHER: u32 = DEVICE + 100;

    for version in VERSIONS {
        for moves in [false, true] {
            let (this, start) = Direct::started(version, 2);
            let its = start(&this);
            assert!(this.msi(0));
            this.model.replace_device(DEVICE, OTHER);
            if moves {
                its.movi(DEVICE.into(), 0, 1);
            }
            this.set_device(true).unwrap();
            assert_eq!(this.model.send(OTHER, 2), Sent::Direct);
            assert_eq!(this.model.send(DEVICE, 2), Sent::Software);
            this.handle_doorbells();

            let mut seen = [this.serve(0), this.serve(1)].concat();
            seen.sort_unstable();
            assert_eq!(seen, [LPI, LPI + 2]);
            this.finish();
        }
    }
}
