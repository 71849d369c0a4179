//! A guest with a GICv2, through the library's public API.

#[cfg(all(debug_assertions, not(miri)))]
mod bounds;
#[path = "../common/mod.rs"]
mod common;
mod model;
mod random;

use common::{Call, GICD, Machine, affinity, vcpu};
use vgic::config::V2mConfig;
use vgic::intid::IntId;
use vgic::mmio::{MmioOutcome, Width};
use vgic::state::{EXTENDED_VERSION, VmState};
use vgic::{Blocked, Config, ConfigError, PhysicalInterrupt, RestoreError, VirtualLines};

const GICC: u64 = 0x0801_0000;
const V2M: u64 = 0x0802_0000;

const CTLR: u64 = GICC;
const PMR: u64 = GICC + 0x04;
const IAR: u64 = GICC + 0x0c;
const EOIR: u64 = GICC + 0x10;
const RPR: u64 = GICC + 0x14;
const HPPIR: u64 = GICC + 0x18;
const DIR: u64 = GICC + 0x1000;

const ISENABLER: u64 = GICD + 0x100;
const ISPENDR: u64 = GICD + 0x200;
const ISACTIVER: u64 = GICD + 0x300;
const ITARGETSR: u64 = GICD + 0x800;
const SGIR: u64 = GICD + 0xf00;
const CPENDSGIR: u64 = GICD + 0xf10;
const SPENDSGIR: u64 = GICD + 0xf20;

const IRQ: VirtualLines = VirtualLines {
    irq: true,
    fiq: false,
};

/// Returns the configuration of a VM with a GICv2.
fn config(count: usize) -> Config {
    Config::new((0..count).map(affinity).collect()).with_gicv2()
}

/// A guest's view of a machine with a GICv2. Every access is a trap of a vCPU in the guest.
struct Guest(Machine);

impl Guest {
    /// Returns a VM after the set-up of a kernel: all interrupts in Group 0, nothing masked.
    fn new(count: usize) -> Self {
        let this = Self(Machine::from_config(config(count)));
        for n in 0..count {
            this.0.enter(n);
        }
        this.write(0, GICD, 1);
        for n in 0..count {
            this.write(n, PMR, 0xf0);
            this.write(n, CTLR, 1);
        }
        this
    }

    /// Reads a register, once the kick of what came before has arrived.
    fn read_as(&self, n: usize, gpa: u64, width: Width) -> u32 {
        self.0.bounce(n);
        self.0.exit(n);
        let value = self.0.read_as(n, gpa, width);
        self.0.enter(n);
        value as u32
    }

    fn read(&self, n: usize, gpa: u64) -> u32 {
        self.read_as(n, gpa, Width::Word)
    }

    fn write(&self, n: usize, gpa: u64, value: u32) {
        self.0.exit(n);
        self.0.write(n, gpa, value);
        self.0.enter(n);
    }

    fn write_byte(&self, n: usize, gpa: u64, value: u8) {
        self.0.exit(n);
        self.0.write_as(n, gpa, Width::Byte, value.into());
        self.0.enter(n);
    }

    /// Reads a register of states, as often as the library asks for it.
    fn read_states(&self, n: usize, gpa: u64) -> u32 {
        loop {
            self.0.exit(n);
            let outcome = self.0.access(n, gpa, Width::Word, None);
            self.0.enter(n);
            match outcome {
                MmioOutcome::Done(value) => return value as u32,
                _ => (0..self.0.cpus.len()).for_each(|other| self.0.bounce(other)),
            }
        }
    }

    fn lines(&self, n: usize) -> VirtualLines {
        self.0.bounce(n);
        self.0.vm.virtual_lines(&self.0.cpus[n].pin(), vcpu(n))
    }

    /// Makes an SPI an edge for `target`, and enables it.
    fn edge_spi(&self, intid: u32, target: usize) {
        let configuration = GICD + 0xc00 + u64::from(intid / 16) * 4;
        let old = self.read(0, configuration);
        self.write(0, configuration, old | 2 << (intid % 16 * 2));
        self.write_byte(0, ITARGETSR + u64::from(intid), 1 << target);
        self.write(0, ISENABLER + u64::from(intid / 32) * 4, 1 << (intid % 32));
    }

    fn finish(self) {
        self.0.finish();
    }
}

#[test]
fn an_spi_is_signalled_acknowledged_and_ended() {
    let guest = Guest::new(2);
    guest.edge_spi(40, 1);
    assert_eq!(guest.lines(1), VirtualLines::default());
    guest.0.inject_spi(40);
    assert_eq!(guest.lines(0), VirtualLines::default());
    assert_eq!(guest.lines(1), IRQ);

    assert_eq!(guest.read(1, HPPIR), 40);
    assert_eq!(guest.read(0, IAR), 1023);
    assert_eq!(guest.read(1, IAR), 40);
    assert_eq!(guest.lines(1), VirtualLines::default());
    assert_eq!(guest.read(1, RPR), 0);
    assert_eq!(guest.read_states(1, ISACTIVER + 4), 1 << 8);
    assert_eq!(guest.read(1, IAR), 1023);

    guest.write(1, EOIR, 40);
    assert_eq!(guest.read(1, RPR), 0xff);
    assert_eq!(guest.read_states(0, ISACTIVER + 4), 0);
    guest.finish();
}

#[test]
fn an_sgi_is_pending_from_each_source() {
    let guest = Guest::new(4);
    for sender in [3, 1] {
        guest.write(sender, SGIR, 1 << 24 | 5);
    }
    guest.write(2, SGIR, 1 << 16 | 5);
    guest.write(0, SGIR, 2 << 24 | 5);
    assert_eq!(guest.read_as(0, SPENDSGIR + 5, Width::Byte), 0b1111);
    assert_eq!(guest.read(1, CPENDSGIR + 4), 0b1000 << 8);

    let mut sources = Vec::new();
    while guest.lines(0) == IRQ {
        let value = guest.read(0, IAR);
        assert_eq!(value & 0x3ff, 5);
        sources.push(value >> 10);
        assert_eq!(guest.read(0, IAR), 1023, "active once");
        guest.write(0, EOIR, value);
    }
    assert_eq!(sources, [0, 1, 2, 3]);
    assert_eq!(guest.read(0, SPENDSGIR + 4), 0);
    assert_eq!(guest.read(0, IAR), 1023);

    // The others' are from vCPUs 1 and 3, but for the sender's own.
    assert_eq!(guest.read(2, IAR), 1 << 10 | 5);
    assert_eq!(guest.read(1, IAR), 3 << 10 | 5);
    guest.finish();
}

#[test]
fn sources_are_set_and_cleared_by_register() {
    let guest = Guest::new(2);
    guest.write(1, SPENDSGIR + 8, 0xff << 8 | 0b01 << 16);
    assert_eq!(guest.read(1, CPENDSGIR + 8), 0b11 << 8 | 0b01 << 16);
    assert_eq!(guest.read(0, CPENDSGIR + 8), 0, "banked");
    guest.write_byte(1, CPENDSGIR + 9, 0b01);
    guest.write_byte(1, CPENDSGIR + 10, 0b01);
    assert_eq!(guest.read(1, SPENDSGIR + 8), 0b10 << 8);
    assert_eq!(guest.read_states(1, ISPENDR), 1 << 9);

    // Neither `ISPENDR0` nor `ICPENDR0` changes an SGI.
    guest.write(1, ISPENDR, 0xff);
    guest.write(1, GICD + 0x280, 0xffff);
    assert_eq!(guest.read_states(1, ISPENDR), 1 << 9);
    assert_eq!(guest.read(1, IAR), 1 << 10 | 9);
    guest.finish();
}

#[test]
fn a_line_is_sampled_at_the_end() {
    let guest = Guest::new(1);
    guest.write(0, ISENABLER + 4, 1 << 8);
    let spi = IntId::spi(40).unwrap();
    guest.0.vm.set_spi_line(&guest.0.pin(), spi, true).unwrap();
    for _ in 0..2 {
        assert_eq!(guest.read(0, IAR), 40);
        guest.0.vm.host().take_calls();
        guest.write(0, EOIR, 40);
        assert_eq!(guest.0.vm.host().take_calls(), [Call::Resample(0, 40)]);
    }
    guest.0.vm.set_spi_line(&guest.0.pin(), spi, false).unwrap();
    assert_eq!(guest.lines(0), VirtualLines::default());
    assert_eq!(guest.read(0, IAR), 1023);
    guest.finish();
}

#[test]
fn the_end_of_a_forwarded_interrupt_deactivates_the_physical_one() {
    let guest = Guest::new(1);
    let spi = IntId::spi(40).unwrap();
    let physical = IntId::spi(70).unwrap();
    guest.edge_spi(40, 0);
    guest
        .0
        .vm
        .connect_spi(&guest.0.pin(), spi, physical)
        .unwrap();
    for mode in [0, 1 << 9] {
        guest.write(0, CTLR, 1 | mode);
        let _ = guest.0.vm.forward_spi(&guest.0.pin(), spi).unwrap();
        assert_eq!(guest.read(0, IAR), 40);
        guest.0.vm.host().take_calls();
        guest.write(0, EOIR, 40);
        if mode != 0 {
            assert_eq!(guest.0.vm.host().take_calls(), []);
            guest.write(0, DIR, 40);
        }
        let ended = Call::Deactivate(PhysicalInterrupt::Spi { intid: physical });
        assert_eq!(guest.0.vm.host().take_calls(), [ended]);
    }
    guest.finish();
}

#[test]
fn more_interrupts_than_list_registers_come_in_order() {
    let guest = Guest::new(1);
    for n in 0..20 {
        guest.edge_spi(40 + n, 0);
        guest.write_byte(0, GICD + 0x400 + 40 + u64::from(n), (19 - n as u8) * 8);
        guest.0.inject_spi(40 + n);
    }
    // All become active, each more urgent than the one before would not be: the least comes first
    // is never so.
    let mut taken = Vec::new();
    guest.write(0, CTLR, 1 | 1 << 9);
    while guest.lines(0) == IRQ {
        let intid = guest.read(0, IAR);
        taken.push(intid);
        guest.write(0, EOIR, intid);
    }
    assert_eq!(taken, (40..60).rev().collect::<Vec<u32>>());
    assert_eq!(guest.read_states(0, ISACTIVER + 4), 0x0fff_ff00);
    for intid in taken {
        guest.write(0, DIR, intid);
    }
    assert_eq!(guest.read_states(0, ISACTIVER + 4), 0);
    guest.finish();
}

#[test]
fn a_blocked_vcpu_wakes_for_an_sgi() {
    let guest = Guest::new(2);
    guest.0.exit(1);
    assert_eq!(guest.0.block(1), Blocked::Yes);
    guest.0.vm.host().take_calls();
    guest.write(0, SGIR, 1 << 24 | 1);
    assert_eq!(guest.0.vm.host().take_calls(), [Call::Wake(1)]);
    assert_eq!(guest.0.block(1), Blocked::No);
    guest.0.enter(1);
    assert_eq!(guest.lines(1), IRQ);
    guest.finish();
}

#[test]
fn an_msi_through_the_frame_makes_an_spi_pending() {
    let guest = Guest::new(2);
    assert_eq!(guest.read(0, V2M + 8), 80 << 16 | 64);
    guest.edge_spi(80, 1);
    guest.edge_spi(79, 1);
    let write = |value: u32| {
        let pin = guest.0.pin();
        guest.0.vm.bus_write(&pin, V2M + 0x40, &value.to_le_bytes())
    };
    assert!(write(79).unwrap() && write(144).unwrap() && write(u32::MAX).unwrap());
    assert_eq!(guest.lines(1), VirtualLines::default());
    assert!(write(80).unwrap());
    assert_eq!(guest.read(1, IAR), 80);
    guest.finish();
}

#[test]
fn a_single_vcpu_has_no_targets() {
    let guest = Guest::new(1);
    assert_eq!(guest.read(0, ITARGETSR), 0);
    guest.write(0, ITARGETSR + 40, 0);
    assert_eq!(guest.read(0, ITARGETSR + 40), 0);
    guest.write(0, ISENABLER + 4, 1 << 8);
    guest.0.inject_spi(40);
    assert_eq!(guest.read(0, IAR), 40);
    guest.finish();
}

#[test]
fn one_of_several_targets_takes_an_spi() {
    let guest = Guest::new(3);
    guest.edge_spi(40, 0);
    guest.edge_spi(41, 0);
    guest.write_byte(0, ITARGETSR + 40, 0b111);
    let taker = || (0..3).find(|&n| guest.lines(n) == IRQ);

    // The lowest, unless it masks the SPI, or is busy.
    guest.0.inject_spi(40);
    assert_eq!(taker(), Some(0));
    guest.write(0, PMR, 0);
    guest.0.bounce(0);
    assert_eq!(taker(), Some(1));
    guest.write(1, CTLR, 0);
    guest.0.bounce(1);
    assert_eq!(taker(), Some(2));
    assert_eq!(guest.read(2, IAR), 40);
    guest.0.inject_spi(40);
    assert_eq!(taker(), None, "active");
    guest.write(0, PMR, 0xf0);
    guest.write(2, EOIR, 40);
    (0..3).for_each(|n| guest.0.bounce(n));
    assert_eq!(taker(), Some(0));
    assert_eq!(guest.read(0, IAR), 40);
    guest.write(0, EOIR, 40);

    // An SPI with one target waits for that one.
    guest.write(0, PMR, 0);
    guest.0.inject_spi(41);
    assert_eq!(taker(), None);
    guest.finish();
}

#[test]
fn an_spi_leaves_a_vcpu_that_powers_off_for_another_target() {
    let guest = Guest::new(2);
    guest.edge_spi(40, 0);
    guest.write_byte(0, ITARGETSR + 40, 0b11);
    guest.write(0, PMR, 0);
    guest.0.inject_spi(40);
    assert_eq!(guest.lines(1), IRQ);
    guest.write(0, PMR, 0xf0);
    assert_ne!(guest.lines(0), IRQ);

    guest.0.exit(1);
    guest.0.power_off(1);
    assert_eq!(guest.lines(0), IRQ);
    assert_eq!(guest.read(0, IAR), 40);
    guest.finish();
}

#[test]
fn an_access_of_no_vcpu_finds_no_banked_register() {
    let guest = Guest::new(2);
    let pin = guest.0.pin();
    for gpa in [IAR, ISENABLER, ITARGETSR, SPENDSGIR] {
        let mut data = [0xff; 4];
        assert_eq!(guest.0.vm.bus_read(&pin, gpa, &mut data), Ok(true));
        assert_eq!(data, [0; 4], "{gpa:#x}");
        assert_eq!(guest.0.vm.bus_write(&pin, gpa, &[0xff; 4]), Ok(true));
    }
    assert!(guest.0.vm.claims(V2M + 0xfff) && !guest.0.vm.claims(V2M + 0x1000));
    assert!(!guest.0.vm.claims(GICD + 0x1000) && !guest.0.vm.claims(GICC + 0x2000));
    drop(pin);
    guest.finish();
}

#[test]
fn a_reset_makes_the_vm_as_new() {
    let guest = Guest::new(2);
    guest.edge_spi(40, 1);
    guest.write(0, SGIR, 1 << 24 | 3);
    guest.write(1, CTLR, 0xf);
    guest.0.put_all();
    guest.0.vm.reset(&guest.0.pin()).unwrap();
    guest.0.vm.power_on(vcpu(1));
    guest.0.enter(0);
    guest.0.enter(1);
    assert_eq!(guest.read(1, CTLR), 0);
    assert_eq!(guest.read(1, SPENDSGIR), 0);
    assert_eq!(guest.read(1, ITARGETSR + 40), 0);
    assert_eq!(guest.read(1, ISENABLER), 0xffff);
    guest.0.inject_spi(40);
    guest.write(0, GICD, 1);
    guest.write(0, ISENABLER + 4, 1 << 8);
    guest.write(0, CTLR, 1);
    guest.write(0, PMR, 0xf0);
    assert_eq!(guest.read(0, IAR), 1023, "no target");
    guest.finish();
}

#[test]
fn a_state_is_of_a_gicv2() {
    let guest = Guest::new(2);
    guest.edge_spi(40, 1);
    guest.write(0, SGIR, 1 << 24 | 3);
    guest.write(1, CTLR, 0xd);
    let state = guest.0.save();
    assert_eq!(state.version, EXTENDED_VERSION);
    assert_eq!(state.spis[8].router, 0b10);
    assert_eq!(state.extended.sgi_sources[1][3], 0b01);
    assert_eq!(state.vcpus[1].vmcr & 0xf, 0xd);

    let target = Machine::from_config(config(2));
    assert_eq!(VmState::after_reset(&config(2)).vcpus, {
        target.power_off(1);
        target.save().vcpus
    });
    type Spoil = fn(&mut VmState);
    let wrong: [(Spoil, RestoreError); 8] = [
        (|s| s.version = 1, RestoreError::Version(1)),
        (
            |s| s.extended.sgi_sources.truncate(1),
            RestoreError::SgiSources(1, 2),
        ),
        (
            |s| s.extended.sgi_sources[1][3] = 0b100,
            RestoreError::Interrupt(3),
        ),
        (
            |s| s.extended.sgi_sources[0][5] = 1,
            RestoreError::Interrupt(5),
        ),
        (
            |s| s.vcpus[0].private[6].flags = 0,
            RestoreError::Interrupt(6),
        ),
        (
            |s| s.spis[9].router = 0b100,
            RestoreError::Register("GICD_ITARGETSR<n>"),
        ),
        (
            |s| s.vcpus[1].processor_sleep = true,
            RestoreError::Register("GICR_WAKER"),
        ),
        (
            |s| s.vcpus[1].enable_lpis = true,
            RestoreError::Register("GICR_CTLR"),
        ),
    ];
    for (change, error) in wrong {
        let mut state = state.clone();
        change(&mut state);
        assert_eq!(target.restore(&state), Err(error));
    }
    let gicv3 = Machine::from_config(Config::new((0..2).map(affinity).collect()));
    assert_eq!(gicv3.restore(&state), Err(RestoreError::SgiSources(2, 0)));
    gicv3.finish();

    target.restore(&state).unwrap();
    let target = Guest(target);
    (0..2).for_each(|n| target.0.enter(n));
    assert_eq!(target.read(1, CTLR), 0xd);
    assert_eq!(target.read(1, IAR), 3);
    target.write(1, EOIR, 3);
    target.0.inject_spi(40);
    assert_eq!(target.read(1, IAR), 40);
    target.finish();
    guest.finish();
}

#[test]
fn a_wrong_configuration_is_refused() {
    let refused = |change: &dyn Fn(&mut Config)| {
        let mut config = config(2);
        change(&mut config);
        config.validate().unwrap_err()
    };
    let v2m = |base, first_spi, spis| V2mConfig {
        base,
        first_spi,
        spis,
    };
    let frames = |frames: Vec<V2mConfig>| {
        refused(&|config: &mut Config| config.gicv2.as_mut().unwrap().v2m = frames.clone())
    };

    assert_eq!(config(9).validate(), Err(ConfigError::Gicv2Vcpus(9)));
    assert_eq!(refused(&|c| c.max_vcpus = 3), ConfigError::Gicv2Vcpus(3));
    assert_eq!(refused(&|c| c.lpis = 64), ConfigError::NotOfGicv2);
    assert_eq!(refused(&|c| c.nassgi_cap = true), ConfigError::NotOfGicv2);
    let redistributors = Config::new(vec![affinity(0)]).redistributors;
    assert_eq!(
        refused(&|c| c.redistributors = redistributors.clone()),
        ConfigError::NotOfGicv2
    );
    assert_eq!(frames(vec![v2m(V2M, 31, 1)]), ConfigError::V2mSpis(31));
    assert_eq!(frames(vec![v2m(V2M, 40, 0)]), ConfigError::V2mSpis(40));
    assert_eq!(frames(vec![v2m(V2M, 1019, 2)]), ConfigError::V2mSpis(1019));
    assert_eq!(
        frames(vec![v2m(V2M, 40, 8), v2m(V2M + 0x1000, 47, 8)]),
        ConfigError::V2mSpis(47)
    );
    assert_eq!(frames(vec![v2m(V2M, 40, 8); 9]), ConfigError::V2mCount(9));
    assert_eq!(
        frames(vec![v2m(GICD, 40, 8)]),
        ConfigError::Overlap(GICD, GICD)
    );
    assert_eq!(
        frames(vec![v2m(V2M + 1, 40, 8)]),
        ConfigError::Unaligned(V2M + 1)
    );
}
