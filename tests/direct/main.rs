//! Direct injection, on a GICv4 in software.

#[path = "../common/mod.rs"]
mod common;
mod corners;
mod random;
mod sgis;
mod wakes;

use std::sync::Arc;

use common::gicv4::{Model, Sent, Version};
use common::its::Driver;
use common::{Call, GICD, Machine, TestHost, affinity, vcpu};
use vgic::cpu_interface::software::NEOVERSE;
use vgic::intid::ItsId;
use vgic::{Blocked, Config, DirectError};

/// Device with direct events, and its number of events.
const DEVICE: u32 = 7;
const EVENTS: u32 = 4;
/// LPI of event 0.
const LPI: u32 = 8200;

/// A machine with a GICv4 and one VM.
struct Direct {
    machine: Machine,
    model: Arc<Model>,
}

impl Direct {
    /// Returns a VM with `vcpus` vCPUs, none of which is direct yet.
    fn new(version: Version, vcpus: usize) -> Self {
        let config = Config::new((0..vcpus).map(affinity).collect()).with_its(common::GITS);
        Self::with_config(version, config)
    }

    fn with_config(version: Version, config: Config) -> Self {
        let model = Arc::new(Model::new(version));
        let host = TestHost::with_gicv4(model.clone());
        let config = Config {
            nassgi_cap: true,
            ..config
        };
        let machine = Machine::with_host(Arc::default(), 0, config, NEOVERSE, host);
        machine.set_up();
        Self { machine, model }
    }

    /// Returns a VM whose vCPUs and device are direct. Event n is LPI 8200 + n on vCPU n, modulo
    /// the number of vCPUs. Every vCPU is blocked.
    fn started(version: Version, vcpus: usize) -> (Self, impl Fn(&Self) -> Driver<'_>) {
        let this = Self::new(version, vcpus);
        for n in 0..vcpus {
            this.set_vcpu(n, true).unwrap();
        }
        this.set_device(true).unwrap();
        (this, |this| {
            let its = Driver::new(&this.machine);
            its.mapd(DEVICE.into(), 2);
            for event in 0..EVENTS {
                let icid = event as usize % this.machine.cpus.len();
                its.map(
                    DEVICE.into(),
                    event.into(),
                    (LPI + event).into(),
                    icid as u64,
                );
            }
            for n in 0..this.machine.cpus.len() {
                assert_eq!(this.serve(n), []);
            }
            this.model.take_commands();
            its
        })
    }

    fn set_vcpu(&self, n: usize, on: bool) -> Result<(), DirectError> {
        let pin = self.machine.pin();
        let set = self.machine.vm.set_direct_vcpu(&pin, vcpu(n), on);
        self.machine.advance();
        set
    }

    fn set_device(&self, on: bool) -> Result<(), DirectError> {
        self.model.set_device(DEVICE, on);
        let set = (self.machine.vm).settle_direct(&self.machine.pin(), ItsId(0));
        self.machine.advance();
        set
    }

    fn events(&self, n: usize) -> Result<u32, DirectError> {
        self.machine.vm.direct_events(&self.machine.pin(), vcpu(n))
    }

    /// Sends an MSI, and does what the hypervisor's handlers do. Returns true if the MSI went
    /// directly.
    fn msi(&self, event: u32) -> bool {
        let sent = self.model.send(DEVICE, event);
        assert_ne!(sent, Sent::Held);
        if sent == Sent::Software {
            self.machine.inject_msi(DEVICE, event).unwrap();
        }
        self.handle_doorbells();
        sent == Sent::Direct
    }

    fn handle_doorbells(&self) {
        for vpe in self.model.ring() {
            // vPEID 0 takes pending states out; those of the vCPUs follow in their order.
            let n = usize::from(vpe).checked_sub(1).expect("of a vCPU");
            let pin = self.machine.pin();
            self.machine.vm.doorbell(&pin, vcpu(n)).unwrap();
        }
    }

    /// Takes the physical LPIs that no CPU has taken.
    fn handle_lpis(&self) {
        for (device, event) in self.model.take_lpis() {
            self.machine.inject_msi(device, event).unwrap();
        }
    }

    /// Lets the guest on vCPU `n` take and end every interrupt, until the vCPU blocks.
    fn serve(&self, n: usize) -> Vec<u32> {
        let mut seen = Vec::new();
        loop {
            self.machine.enter(n);
            self.take(n, &mut seen);
            self.machine.exit(n);
            if self.machine.block(n) == Blocked::Yes {
                self.handle_doorbells();
                return seen;
            }
        }
    }

    fn take(&self, n: usize, seen: &mut Vec<u32>) {
        let guest = self.machine.guest(n);
        loop {
            match (guest.read_iar1(), self.model.take(n)) {
                (1023, None) => return,
                (1023, Some(direct)) => seen.push(direct),
                (listed, direct) => {
                    seen.push(listed);
                    guest.write_eoir1(listed);
                    seen.extend(direct);
                }
            }
        }
    }

    fn finish(self) {
        self.machine.finish();
        self.model.check_empty();
    }
}

/// Makes a test of each function, on each version of the architecture.
macro_rules! on_each_version {
    ($($name:ident)*) => {
        on_each_version!(v4_0, V4_0, $($name)*);
        on_each_version!(v4_1, V4_1, $($name)*);
    };
    ($module:ident, $version:ident, $($name:ident)*) => {
        mod $module {
            use crate::common::gicv4::Version;

            $(
                #[test]
                fn $name() {
                    super::$name(Version::$version);
                }
            )*
        }
    };
}

on_each_version! {
    an_msi_reaches_a_running_vcpu_without_the_library
    a_doorbell_wakes_a_blocked_vcpu
    a_virtual_lpi_that_comes_before_the_block_is_found
    the_doorbell_of_a_preempted_vcpu_rings_at_most_once
    a_virtual_pe_is_moved_only_to_another_cpu
    a_virtual_pe_that_cannot_be_moved_stays_off
    a_virtual_pe_without_a_doorbell_keeps_its_vcpu_awake
    commands_have_their_effect_on_direct_events
    a_pending_state_goes_along_with_its_event
    a_guest_that_disables_lpis_finds_the_pending_state_in_its_table
    a_group_that_the_distributor_disables_holds_virtual_lpis_back
    a_save_has_what_the_hardware_had
    a_vcpu_without_a_virtual_pe_has_its_reason
    a_vm_that_is_taken_apart_makes_no_virtual_pe
    a_vcpu_of_a_vm_without_lpis_has_a_virtual_pe
    an_its_that_its_guest_disables_translates_no_msi
    an_its_that_stops_ends_direct_injection
    a_vcpu_that_becomes_direct_while_it_sleeps_is_woken
    a_vcpu_that_becomes_direct_in_the_guest_is_kicked
    other_interrupts_reach_a_vcpu_with_a_virtual_pe
}

fn an_msi_reaches_a_running_vcpu_without_the_library(version: Version) {
    let (this, start) = Direct::started(version, 2);
    let _its = start(&this);
    assert_eq!(this.events(1), Ok(2));
    this.machine.enter(1);
    let before = this.machine.domain.totals();
    this.machine.vm.host().take_calls();

    assert!(this.msi(1));
    assert!(this.msi(3));
    let mut seen = Vec::new();
    this.take(1, &mut seen);
    assert_eq!(seen, [LPI + 1, LPI + 3]);

    let after = this.machine.domain.totals();
    assert_eq!(after.injections, before.injections);
    assert_eq!(after.vpe_residencies, before.vpe_residencies);
    assert_eq!(this.machine.vm.host().take_calls(), []);
    assert_eq!(this.model.take_commands(), []);
    this.finish();
}

fn a_doorbell_wakes_a_blocked_vcpu(version: Version) {
    let (this, start) = Direct::started(version, 1);
    let _its = start(&this);
    assert!(!this.model.is_occupied(0));
    assert!(this.model.is_doorbell_on(1));
    this.machine.vm.host().take_calls();

    assert!(this.msi(0));
    assert_eq!(this.machine.vm.host().take_calls(), [Call::Wake(0)]);
    // A look before the entry finds it too.
    assert_eq!(this.machine.block(0), Blocked::No);
    assert!(this.model.is_occupied(0));
    assert_eq!(this.serve(0), [LPI]);

    assert!(this.msi(0));
    assert_eq!(this.serve(0), [LPI]);
    this.finish();
}

fn a_virtual_lpi_that_comes_before_the_block_is_found(version: Version) {
    let (this, start) = Direct::started(version, 1);
    let _its = start(&this);
    this.machine.enter(0);
    assert!(this.msi(0));
    this.machine.exit(0);
    assert_eq!(this.machine.block(0), Blocked::No);
    assert_eq!(this.serve(0), [LPI]);

    // Not signalled: the guest has disabled the group, and sleeps.
    this.machine.enter(0);
    this.machine.guest(0).write_igrpen1(false);
    assert!(this.msi(0));
    this.machine.exit(0);
    assert_eq!(this.machine.block(0), Blocked::Yes);
    this.machine.enter(0);
    this.machine.guest(0).write_igrpen1(true);
    this.machine.exit(0);
    assert_eq!(this.serve(0), [LPI]);
    this.finish();
}

fn the_doorbell_of_a_preempted_vcpu_rings_at_most_once(version: Version) {
    let (this, start) = Direct::started(version, 1);
    let _its = start(&this);
    this.machine.enter(0);
    this.machine.exit(0);
    this.machine.put_all();
    assert!(!this.model.is_occupied(0));
    let v4_0 = version == Version::V4_0;
    assert_eq!(this.model.is_doorbell_on(1), v4_0);

    assert!(this.msi(0));
    assert!(!this.model.is_doorbell_on(1));
    assert!(this.msi(2));
    // A virtual PE of GICv4.1 has not even asked.
    assert_eq!(this.machine.domain.totals().doorbells, u64::from(v4_0));
    assert_eq!(this.serve(0), [LPI, LPI + 2]);
    assert!(this.model.is_doorbell_on(1));
    this.finish();
}

fn a_virtual_pe_is_moved_only_to_another_cpu(version: Version) {
    let (this, start) = Direct::started(version, 2);
    let _its = start(&this);
    this.machine.put_all();
    this.model.take_commands();
    this.machine.enter(0);
    this.machine.exit(0);
    assert_eq!(this.model.take_commands(), []);
    this.machine.put_all();

    // vCPU 0 on CPU 1.
    let cpu = &this.machine.cpus[1];
    assert!(this.msi(0));
    this.machine.vm.enter(&cpu.pin(), vcpu(0)).unwrap();
    assert_eq!(this.model.take_commands(), [0x22]);
    assert_eq!(this.model.take(1), Some(LPI));
    this.machine.vm.exit(&cpu.pin(), vcpu(0)).unwrap();
    this.machine.vm.vcpu_put(&cpu.pin(), vcpu(0)).unwrap();
    this.finish();
}

fn a_virtual_pe_that_cannot_be_moved_stays_off(version: Version) {
    let (this, start) = Direct::started(version, 2);
    let _its = start(&this);
    this.machine.put_all();
    let cpu = &this.machine.cpus[1];
    let visit = || {
        this.model.leave(None, None, Some(0));
        this.machine.vm.enter(&cpu.pin(), vcpu(0)).unwrap();
        assert!(!this.model.is_occupied(1));
        this.machine.vm.exit(&cpu.pin(), vcpu(0)).unwrap();
    };
    let put = || this.machine.vm.vcpu_put(&cpu.pin(), vcpu(0)).unwrap();
    visit();
    this.model.leave(None, None, None);
    assert!(this.msi(0));
    put();
    assert_eq!(this.serve(0), [LPI]);
    this.machine.put_all();

    // Its doorbell wakes it there.
    visit();
    this.model.leave(None, None, None);
    this.machine.vm.host().take_calls();
    assert_eq!(
        this.machine.vm.block(&cpu.pin(), vcpu(0)).unwrap(),
        Blocked::Yes
    );
    assert!(this.msi(0));
    assert_eq!(this.machine.vm.host().take_calls(), [Call::Wake(0)]);
    put();
    assert_eq!(this.serve(0), [LPI]);

    // An LPI that was pending when it left its CPU keeps it awake.
    this.machine.enter(0);
    assert!(this.msi(0));
    this.machine.exit(0);
    this.machine.put_all();
    visit();
    assert_eq!(
        this.machine.vm.block(&cpu.pin(), vcpu(0)).unwrap(),
        Blocked::No
    );
    this.model.leave(None, None, None);
    put();
    assert_eq!(this.serve(0), [LPI]);
    this.finish();
}

fn a_virtual_pe_without_a_doorbell_keeps_its_vcpu_awake(version: Version) {
    let this = Direct::new(version, 2);
    this.machine.put_all();
    let cpu = &this.machine.cpus[1];
    let block_there = || {
        this.model.leave(None, None, Some(0));
        this.machine.vm.enter(&cpu.pin(), vcpu(0)).unwrap();
        this.machine.vm.exit(&cpu.pin(), vcpu(0)).unwrap();
        let blocked = this.machine.vm.block(&cpu.pin(), vcpu(0)).unwrap();
        this.model.leave(None, None, None);
        this.machine.vm.vcpu_put(&cpu.pin(), vcpu(0)).unwrap();
        blocked
    };
    let awake = match version {
        // The doorbell can be enabled at any time.
        Version::V4_0 => Blocked::Yes,
        Version::V4_1 => Blocked::No,
    };

    // A virtual PE that has just been made, and one that left without asking for its doorbell.
    this.set_device(true).unwrap();
    let its = Driver::new(&this.machine);
    its.mapd(DEVICE.into(), 2);
    its.map(DEVICE.into(), 0, LPI.into(), 0);
    this.machine.put_all();
    this.set_vcpu(0, true).unwrap();
    assert_eq!(this.events(0), Ok(1));
    assert_eq!(block_there(), awake);
    assert_eq!(this.serve(0), []);
    this.machine.enter(0);
    this.machine.exit(0);
    this.machine.put_all();
    assert_eq!(block_there(), awake);
    assert_eq!(this.serve(0), []);
    this.finish();
}

fn commands_have_their_effect_on_direct_events(version: Version) {
    let (this, start) = Direct::started(version, 2);
    let its = start(&this);
    let device = u64::from(DEVICE);

    its.int(device, 0);
    its.int(device, 1);
    this.handle_doorbells();
    assert_eq!([this.serve(0), this.serve(1)], [[LPI], [LPI + 1]]);

    its.int(device, 0);
    its.clear(device, 0);
    this.handle_doorbells();
    assert_eq!(this.serve(0), []);

    // With the pending state.
    assert!(this.msi(0));
    its.movi(device, 0, 1);
    assert_eq!(this.serve(0), []);
    assert_eq!(this.serve(1), [LPI]);
    assert_eq!((this.events(0), this.events(1)), (Ok(1), Ok(3)));
    its.movi(device, 0, 0);

    its.configure((LPI).into(), 0xa0, false);
    its.inv(device, 0);
    assert!(this.msi(0));
    assert_eq!(this.serve(0), []);
    its.configure((LPI).into(), 0xa0, true);
    its.invall(0);
    assert_eq!(this.serve(0), [LPI]);

    assert!(this.msi(1));
    its.movall(1, 0);
    this.machine.advance();
    this.handle_doorbells();
    assert_eq!(this.serve(1), []);
    assert_eq!(this.serve(0), [LPI + 1]);

    assert!(this.msi(2));
    its.discard(device, 2);
    assert_eq!(this.serve(0), []);
    assert_eq!(this.model.send(DEVICE, 2), Sent::Software);
    its.unmap_device(device);
    this.machine.advance();
    assert_eq!((this.events(0), this.events(1)), (Ok(0), Ok(0)));
    this.finish();
}

fn a_pending_state_goes_along_with_its_event(version: Version) {
    let (this, start) = Direct::started(version, 1);
    let _its = start(&this);
    // Out of the hardware, while the vCPU is on its CPU and while it is not.
    for loaded in [true, false] {
        if loaded {
            this.machine.enter(0);
            this.machine.exit(0);
        }
        assert!(this.msi(1));
        this.set_device(false).unwrap();
        assert_eq!(this.events(0), Ok(0));
        assert_eq!(this.serve(0), [LPI + 1]);

        // And into it: not yet in a list register.
        assert!(!this.msi(2));
        this.model.take_commands();
        this.set_device(true).unwrap();
        assert_eq!(this.events(0), Ok(4));
        assert_eq!(
            this.model
                .take_commands()
                .iter()
                .filter(|code| **code == 3)
                .count(),
            1
        );
        this.handle_doorbells();
        assert_eq!(this.serve(0), [LPI + 2]);

        // Not even taken by a CPU.
        this.set_device(false).unwrap();
        assert!(this.model.send_to_busy_cpu(DEVICE, 3));
        this.set_device(true).unwrap();
        this.handle_doorbells();
        assert_eq!(this.serve(0), [LPI + 3]);
    }
    this.finish();
}

fn a_guest_that_disables_lpis_finds_the_pending_state_in_its_table(version: Version) {
    let (this, start) = Direct::started(version, 1);
    let _its = start(&this);
    assert!(this.msi(0));
    let gicr = this.machine.gicr(0);
    this.machine.write(0, gicr, 0);
    this.machine.enter(0);
    this.machine.exit(0);
    this.machine.advance();
    while this.machine.read(0, gicr) & 1 << 3 != 0 {}
    assert_eq!(this.events(0), Ok(0));
    let mut byte = [0];
    let at = common::its::pending_table(0) + u64::from(LPI) / 8;
    vgic::Host::read_memory(this.machine.vm.host(), at, &mut byte).unwrap();
    assert_eq!(byte, [1 << (LPI % 8)]);

    this.machine.write(0, gicr, 1);
    this.machine.advance();
    assert_eq!(this.events(0), Ok(4));
    this.handle_doorbells();
    assert_eq!(this.serve(0), [LPI]);
    this.finish();
}

fn a_group_that_the_distributor_disables_holds_virtual_lpis_back(version: Version) {
    let (this, start) = Direct::started(version, 1);
    let _its = start(&this);
    this.machine.enter(0);
    this.machine.exit(0);
    this.machine.write(0, GICD, 0x10);
    this.machine.advance();
    this.machine.enter(0);
    assert!(!this.model.is_occupied(0));
    assert!(this.msi(0));
    this.machine.exit(0);
    assert_eq!(this.machine.block(0), Blocked::Yes);
    this.machine.write(0, GICD, 0x13);
    this.machine.advance();
    assert_eq!(this.serve(0), [LPI]);
    this.finish();
}

fn a_save_has_what_the_hardware_had(version: Version) {
    let (this, start) = Direct::started(version, 1);
    let _its = start(&this);
    assert!(this.msi(3));
    let state = this.machine.save();
    this.machine.advance();
    assert_eq!(this.events(0), Ok(4));
    this.handle_doorbells();
    assert_eq!(this.serve(0), [LPI + 3]);

    this.machine.restore(&state).unwrap();
    this.machine.advance();
    assert_eq!(this.events(0), Ok(4));
    this.handle_doorbells();
    assert_eq!(this.serve(0), [LPI + 3]);

    this.machine.put_all();
    let pin = this.machine.pin();
    let frozen = this.machine.vm.freeze(&pin).unwrap();
    assert_eq!(this.events(0), Ok(0));
    assert!(!this.msi(0));
    assert_eq!(this.machine.vm.take_late(&pin, &frozen).unwrap().len(), 1);
    this.machine.vm.thaw(&pin, &frozen).unwrap();
    this.machine.advance();
    assert_eq!(this.events(0), Ok(4));
    drop(pin);
    this.finish();
}

fn a_vcpu_without_a_virtual_pe_has_its_reason(version: Version) {
    for (vpes, tables, commands, reason) in [
        (Some(1), None, None, DirectError::NoVpe),
        (Some(0), None, None, DirectError::NoVpe),
        (None, Some(0), None, DirectError::NoMemory),
        (None, Some(1), None, DirectError::NoMemory),
        (None, Some(2), None, DirectError::NoMemory),
        (None, Some(3), None, DirectError::NoMemory),
    ] {
        let this = Direct::new(version, 1);
        assert_eq!(this.events(0), Err(DirectError::NotWanted));
        this.model.leave(vpes, tables, commands);
        assert_eq!(this.set_vcpu(0, true), Err(reason));
        assert_eq!(this.events(0), Err(reason));
        this.set_device(true).unwrap();

        let its = Driver::new(&this.machine);
        its.mapd(DEVICE.into(), 2);
        its.map(DEVICE.into(), 0, LPI.into(), 0);
        assert!(!this.msi(0));
        assert_eq!(this.serve(0), [LPI]);

        this.model.leave(None, None, None);
        this.set_vcpu(0, true).unwrap();
        assert_eq!(this.events(0), Ok(1));
        assert!(this.msi(0));
        assert_eq!(this.serve(0), [LPI]);
        this.finish();
    }

    let machine = Machine::new(1);
    let set = machine.vm.set_direct_vcpu(&machine.pin(), vcpu(0), true);
    assert_eq!(set, Err(DirectError::NoGicv4));
}

fn a_vm_that_is_taken_apart_makes_no_virtual_pe(version: Version) {
    let this = Direct::new(version, 2);
    this.set_vcpu(1, true).unwrap();
    this.machine.put_all();
    let pin = this.machine.pin();
    this.machine.vm.teardown(&pin).unwrap();
    assert_eq!(this.set_vcpu(0, true), Err(DirectError::TornDown));
    assert_eq!(this.events(0), Err(DirectError::NotWanted));
    assert_eq!(this.events(1), Err(DirectError::TornDown));
    this.model.check_empty();
}

/// Makes a vCPU direct whose INTIDs have 10 bits: fewer than the first virtual LPI has.
fn a_vcpu_of_a_vm_without_lpis_has_a_virtual_pe(version: Version) {
    let this = Direct::with_config(version, Config::new(vec![affinity(0)]));
    assert_eq!(this.set_vcpu(0, true), Ok(()));
    assert_eq!(this.serve(0), []);
    assert_eq!(this.events(0), Ok(0));
    this.finish();
}

fn an_its_that_its_guest_disables_translates_no_msi(version: Version) {
    let (this, start) = Direct::started(version, 1);
    let _its = start(&this);
    assert!(this.msi(1));
    this.machine.write(0, common::GITS, 0);
    this.machine.advance();
    assert_eq!(this.events(0), Ok(0));
    assert_eq!(this.model.send(DEVICE, 0), Sent::Software);
    assert!(this.machine.inject_msi(DEVICE, 0).is_err());

    this.machine.write(0, common::GITS, 1);
    this.machine.advance();
    assert_eq!(this.events(0), Ok(4));
    this.handle_doorbells();
    assert_eq!(this.serve(0), [LPI + 1]);
    assert!(this.msi(0));
    assert_eq!(this.serve(0), [LPI]);
    this.finish();
}

fn an_its_that_stops_ends_direct_injection(version: Version) {
    let (this, start) = Direct::started(version, 1);
    let its = start(&this);
    this.model.leave(None, None, Some(0));
    its.mapd(8, 2);
    assert!(this.msi(0));
    this.set_device(false).unwrap();
    assert_eq!(this.events(0), Ok(0));
    // Taken for pending, whatever they were; the ITS has kept the one that was.
    let seen = this.serve(0);
    assert!(
        (LPI..LPI + EVENTS).all(|lpi| seen.contains(&lpi)),
        "{seen:?}"
    );
    this.machine.finish();
}

fn a_vcpu_that_becomes_direct_while_it_sleeps_is_woken(version: Version) {
    let this = Direct::new(version, 1);
    this.set_device(true).unwrap();
    let its = Driver::new(&this.machine);
    its.mapd(DEVICE.into(), 2);
    its.map(DEVICE.into(), 0, LPI.into(), 0);
    assert_eq!(this.serve(0), []);
    this.machine.vm.host().take_calls();

    this.set_vcpu(0, true).unwrap();
    assert_eq!(this.machine.vm.host().take_calls(), [Call::Wake(0)]);
    assert_eq!(this.machine.block(0), Blocked::Yes);
    assert!(this.msi(0));
    assert_eq!(this.machine.vm.host().take_calls(), [Call::Wake(0)]);
    assert_eq!(this.serve(0), [LPI]);
    this.finish();
}

fn a_vcpu_that_becomes_direct_in_the_guest_is_kicked(version: Version) {
    let this = Direct::new(version, 1);
    this.set_device(true).unwrap();
    let its = Driver::new(&this.machine);
    its.mapd(DEVICE.into(), 2);
    its.map(DEVICE.into(), 0, LPI.into(), 0);
    assert_eq!(this.serve(0), []);
    this.machine.enter(0);
    this.machine.vm.host().take_calls();

    this.set_vcpu(0, true).unwrap();
    assert_eq!(this.machine.vm.host().take_calls(), [Call::Kick(0, 0)]);
    this.machine.exit(0);
    this.machine.enter(0);
    assert!(this.model.is_occupied(0));
    assert!(this.msi(0));
    let mut seen = Vec::new();
    this.take(0, &mut seen);
    assert_eq!(seen, [LPI]);
    this.machine.exit(0);
    this.finish();
}

fn other_interrupts_reach_a_vcpu_with_a_virtual_pe(version: Version) {
    let (this, start) = Direct::started(version, 1);
    let _its = start(&this);
    this.machine.edge_spi(40, 0);
    assert_eq!(this.serve(0), []);
    for _ in 0..2 {
        this.machine.inject_spi(40);
        assert_eq!(this.serve(0), [40]);
        this.machine.inject_spi(40);
        assert_eq!(this.machine.block(0), Blocked::No);
        assert_eq!(this.serve(0), [40]);
    }
    this.finish();
}
