//! The distributor's frame and SPIs, through the library's public API.

mod common;

use common::{Call, GICD, GICR, GITS, Machine, affinity, vcpu};
use vgic::intid::{Affinity, IntId};
use vgic::mmio::{MmioOutcome, Width};
use vgic::{Blocked, Config, sysreg::SysReg};

const CTLR: u64 = GICD;
const ISENABLER: u64 = 0x100;
const ICENABLER: u64 = 0x180;
const ISPENDR: u64 = 0x200;
const ICPENDR: u64 = 0x280;
const ISACTIVER: u64 = 0x300;
const ICACTIVER: u64 = 0x380;
const RWP: u32 = 1 << 31;

#[test]
fn identification_registers_match_the_configuration() {
    let machine = Machine::bare(2);
    let typer = machine.read(0, GICD + 4);
    assert_eq!(typer & 0x1f, 31, "ITLinesNumber: INTIDs up to 1019");
    assert_eq!(typer >> 11 & 0x1f, 0, "num_LPIs: by IDbits");
    assert_eq!(typer >> 19 & 0x1f, 15, "IDbits: 16");

    for (bit, name) in [
        (16, "MBIS"),
        (17, "LPIS"),
        (24, "A3V"),
        (25, "No1N"),
        (26, "RSS"),
    ] {
        assert_eq!(typer >> bit & 1, 1, "{name}");
    }
    for (bit, name) in [(8, "ESPI"), (9, "NMI"), (10, "SecurityExtn"), (18, "DVIS")] {
        assert_eq!(typer >> bit & 1, 0, "{name}");
    }

    for frame in [GICD, GICR, GICR + 0x2_0000] {
        assert_eq!(machine.read(1, frame + 0xffe8) >> 4 & 0xf, 3, "ArchRev");
        assert_eq!(machine.read(1, frame + 0xffd0), 0x44);
        assert_eq!(machine.read(1, frame + 0xfff0), 0x0d);
    }

    assert_eq!(machine.read(0, CTLR), 0x50, "DS, ARE; groups disabled");
    assert_eq!(
        machine.read(0, GICD + 8),
        machine.read(0, GICR + 4),
        "one IIDR"
    );

    let few = Machine::from_config(Config {
        spis: 64,
        ..Config::new(vec![affinity(0)])
    });
    let typer = few.read(0, GICD + 4);
    assert_eq!(typer & 0x1f, 2);
    assert_eq!(typer >> 17 & 1, 0, "no LPIs");
    assert_eq!(typer >> 19 & 0x1f, 9, "10 bits");

    for (lpis, num_lpis, id_bits) in [(32, 4, 13), (0x8000, 14, 15), (0x1_0000, 15, 16)] {
        let mut config = Config::new(vec![affinity(0)]).with_its(GITS);
        config.lpis = lpis;
        let typer = Machine::from_config(config).read(0, GICD + 4);
        assert_eq!(typer >> 11 & 0x1f, num_lpis, "num_LPIs of {lpis}");
        assert_eq!(typer >> 19 & 0x1f, id_bits, "IDbits of {lpis}");
    }
}

/// Asks as Linux does, which warns if `num_LPIs` announces more LPIs than INTIDs of at most 16 bits
/// have room for.
#[test]
fn linux_finds_room_for_the_lpis_of_the_default_configuration() {
    let typer = Machine::bare(1).read(0, GICD + 4);
    let [num_lpis, id_bits] = [11, 19].map(|shift| (typer >> shift & 0x1f) + 1);
    let room = (1_u64 << id_bits.min(16)) - 8192;
    assert!(
        1 << num_lpis <= 2 || 1 << num_lpis <= room,
        "{num_lpis} {id_bits}"
    );
    assert_eq!(room, 57_344);
}

#[test]
fn private_interrupts_and_unimplemented_spis_read_as_zero() {
    let machine = Machine::from_config(Config {
        spis: 64,
        ..Config::new(vec![affinity(0)])
    });
    for register in [0, 3, 31] {
        for block in [0x80, ISENABLER, ISPENDR, ISACTIVER] {
            let at = GICD + block + register * 4;
            machine.write(0, at, u32::MAX);
            assert_eq!(machine.read(0, at), 0, "{block:#x} {register}");
        }
    }

    for (at, value) in [
        (0x400, u32::MAX),
        (0x460, u32::MAX),
        (0xc00, u32::MAX),
        (0x800, u32::MAX),
        (0xd04, u32::MAX),
        (0xe00, u32::MAX),
        (0xf00, u32::MAX),
        (0xf10, u32::MAX),
        (0xf20, u32::MAX),
        (0x6000, u32::MAX),
        (0x6300, u32::MAX),
    ] {
        machine.write(0, GICD + at, value);
        assert_eq!(machine.read(0, GICD + at), 0, "{at:#x}");
    }
    machine.finish();
}

#[test]
fn widths_that_are_not_allowed_read_as_zero_and_write_nothing() {
    let machine = Machine::bare(1);
    machine.write_as(0, GICD + 0x421, Width::Byte, 0xaf);
    assert_eq!(
        machine.read(0, GICD + 0x420),
        0xa800,
        "five bits of one byte"
    );
    assert_eq!(machine.read_as(0, GICD + 0x421, Width::Byte), 0xa8);

    assert_eq!(machine.read_as(0, GICD + 0x420, Width::Half), 0);
    machine.write_as(0, GICD + 0x420, Width::Half, 0xffff);
    machine.write_as(0, GICD + 0x420, Width::Double, u64::MAX);
    assert_eq!(machine.read(0, GICD + 0x420), 0xa800);

    for width in [Width::Byte, Width::Half, Width::Double] {
        machine.write_as(0, CTLR, width, 3);
        assert_eq!(machine.read_as(0, CTLR, width), 0);
    }

    assert_eq!(machine.read(0, CTLR) & 3, 0);
    assert_eq!(machine.read_as(0, GICD + 6, Width::Word), 0, "misaligned");
    assert_eq!(
        machine.access(0, GICD - 4, Width::Word, None),
        MmioOutcome::Unclaimed
    );

    // IROUTER by halves and as a whole.
    let router = GICD + 0x6000 + 40 * 8;
    machine.write(0, router + 4, 0xffff_ff7f);
    machine.write(0, router, 0x8001_0203);
    assert_eq!(machine.read64(0, router), 0x7f_0001_0203, "IRM is RAZ/WI");
    assert_eq!(machine.read(0, router + 4), 0x7f);
    assert_eq!(machine.read_as(0, router, Width::Byte), 0);
    machine.finish();
}

#[test]
fn every_set_has_its_clear_and_the_host_hears_of_it() {
    let machine = Machine::new(2);
    for intid in [32, 63, 64, 500, 1019] {
        for (set, clear) in [
            (ISENABLER, ICENABLER),
            (ISPENDR, ICPENDR),
            (ISACTIVER, ICACTIVER),
        ] {
            assert!(!machine.spi_bit(0, set, intid));
            machine.set_spi(1, set, intid);
            assert!(machine.spi_bit(0, set, intid), "{set:#x} {intid}");
            assert!(machine.spi_bit(1, clear, intid));
            machine.set_spi(0, clear, intid);
            assert!(!machine.spi_bit(1, set, intid), "{clear:#x} {intid}");
        }

        let calls = machine.vm.host().take_calls();
        let hooks = [
            Call::Enabled(None, intid, true),
            Call::Enabled(None, intid, false),
        ];
        assert!(hooks.iter().all(|call| calls.contains(call)), "{calls:?}");
    }

    // Trigger configuration: two bits each, the low one RAZ/WI.
    machine.write(0, GICD + 0xc0c, u32::MAX);
    assert_eq!(machine.read(0, GICD + 0xc0c), 0xaaaa_aaaa);
    machine.write(0, GICD + 0xc0c, 0);
    assert_eq!(machine.read(0, GICD + 0xc0c), 0);
    assert!(
        machine
            .vm
            .host()
            .take_calls()
            .contains(&Call::Configured(None, 48, true))
    );
    machine.finish();
}

#[test]
fn an_spi_needs_pending_enable_and_group() {
    let machine = Machine::new(1);
    machine.set_spi(0, ISPENDR, 40);
    assert_eq!(machine.serve(0), []);

    machine.set_spi(0, ISENABLER, 40);
    assert_eq!(machine.serve(0), [40]);
    assert!(!machine.spi_bit(0, ISPENDR, 40));

    machine.write(0, CTLR, 0x11);
    machine.advance();
    machine.set_spi(0, ISPENDR, 40);
    assert_eq!(machine.serve(0), [], "Group 1 is disabled");
    machine.write(0, CTLR, 0x13);
    assert_eq!(machine.serve(0), [40]);

    // Group 0 has another enable and another acknowledge register.
    machine.write(0, GICD + 0x84, !(1 << 8));
    machine.set_spi(0, ISPENDR, 40);
    machine.enter(0);
    machine.guest(0).write_igrpen0(true);
    assert_eq!(machine.guest(0).read_iar1(), 1023);
    assert_eq!(machine.guest(0).read_iar0(), 40);
    machine.guest(0).write_eoir0(40);
    machine.exit(0);
    machine.finish();
}

#[test]
fn messages_set_and_clear_spis() {
    let machine = Machine::new(1);
    machine.edge_spi(40, 0);
    machine.set_spi(0, ISENABLER, 41);
    machine.write(0, GICD + 0x40, 40);
    machine.write_as(0, GICD + 0x40, Width::Half, 41);
    assert!(machine.spi_bit(0, ISPENDR, 40) && machine.spi_bit(0, ISPENDR, 41));

    machine.write(0, GICD + 0x48, 40);
    assert!(!machine.spi_bit(0, ISPENDR, 40));

    // The level stays until the clear.
    machine.enter(0);
    assert_eq!(machine.guest(0).read_iar1(), 41);
    machine.guest(0).write_eoir1(41);
    machine.bounce(0);
    assert_eq!(machine.guest(0).read_iar1(), 41);
    machine.exit(0);

    machine.write(0, GICD + 0x48, 41);
    machine.enter(0);
    machine.guest(0).write_eoir1(41);
    machine.bounce(0);
    assert_eq!(machine.guest(0).read_iar1(), 1023);
    machine.exit(0);

    machine.write(0, GICD + 0x40, 1020);
    machine.write(0, GICD + 0x40, 5);
    machine.finish();
}

/// Sets the line of SPI 40 of a machine.
fn set_line(machine: &Machine, high: bool) {
    let spi = IntId::spi(40).unwrap();
    machine.vm.set_spi_line(&machine.pin(), spi, high).unwrap();
}

#[test]
fn a_rising_line_of_an_edge_triggered_spi_is_an_edge() {
    let machine = Machine::new(1);
    machine.edge_spi(40, 0);
    set_line(&machine, true);
    assert!(machine.spi_bit(0, ISPENDR, 40));
    set_line(&machine, false);
    assert!(
        machine.spi_bit(0, ISPENDR, 40),
        "whatever the line does then"
    );
    assert_eq!(machine.serve(0), [40]);

    // A line that stays high is no further edge; one that rises while the SPI is active is.
    set_line(&machine, true);
    set_line(&machine, true);
    assert_eq!(machine.serve(0), [40]);
    set_line(&machine, false);
    assert_eq!(machine.serve(0), [], "a falling line is nothing");
    set_line(&machine, true);
    machine.enter(0);
    assert_eq!(machine.guest(0).read_iar1(), 40);
    set_line(&machine, false);
    set_line(&machine, true);
    machine.bounce(0);
    machine.guest(0).write_eoir1(40);
    machine.bounce(0);
    assert_eq!(machine.guest(0).read_iar1(), 40, "pending while active");
    machine.guest(0).write_eoir1(40);
    machine.exit(0);

    // The edge waits while the SPI is disabled, and ICPENDR clears it.
    machine.write(0, GICD + ICENABLER + 4, 1 << 8);
    set_line(&machine, false);
    set_line(&machine, true);
    machine.set_spi(0, ISENABLER, 40);
    assert_eq!(machine.serve(0), [40]);
    set_line(&machine, false);
    set_line(&machine, true);
    machine.write(0, GICD + ICPENDR + 4, 1 << 8);
    assert_eq!(machine.serve(0), []);
    machine.finish();
}

#[test]
fn a_changed_trigger_looks_at_the_line_as_it_is() {
    let machine = Machine::new(1);
    machine.edge_spi(40, 0);
    let configure = |edge: u32| machine.write(0, GICD + 0xc00 + 8, edge << 17);
    set_line(&machine, true);
    assert_eq!(machine.serve(0), [40]);

    configure(0);
    assert!(machine.spi_bit(0, ISPENDR, 40), "a level that is high");
    configure(1);
    assert!(
        !machine.spi_bit(0, ISPENDR, 40),
        "no edge: the line has not risen"
    );
    set_line(&machine, false);
    configure(0);
    assert!(!machine.spi_bit(0, ISPENDR, 40));
    machine.finish();
}

#[test]
fn a_message_and_the_line_of_a_level_are_two_sources() {
    let (set, clear) = (0x40, 0x48);
    let machine = Machine::new(1);
    machine.set_spi(0, ISENABLER, 40);
    let pending = || machine.spi_bit(0, ISPENDR, 40);

    set_line(&machine, true);
    machine.write(0, GICD + clear, 40);
    assert!(pending(), "the wire is high");
    machine.write(0, GICD + set, 40);
    set_line(&machine, false);
    assert!(pending(), "the message is not taken back");
    machine.write(0, GICD + ICPENDR + 4, 1 << 8);
    assert!(pending(), "only CLRSPI takes it back");
    machine.write(0, GICD + clear, 40);
    assert!(!pending());

    // CLRSPI clears a latch, too.
    machine.set_spi(0, ISPENDR, 40);
    machine.write(0, GICD + clear, 40);
    assert!(!pending());

    // In a list register.
    machine.write(0, GICD + set, 40);
    machine.enter(0);
    machine.write(0, GICD + clear, 40);
    machine.bounce(0);
    assert_eq!(machine.guest(0).read_iar1(), 1023);
    machine.write(0, GICD + set, 40);
    set_line(&machine, true);
    machine.bounce(0);
    assert_eq!(machine.guest(0).read_iar1(), 40);
    machine.write(0, GICD + clear, 40);
    machine.guest(0).write_eoir1(40);
    machine.bounce(0);
    assert_eq!(machine.guest(0).read_iar1(), 40, "the wire is high");
    set_line(&machine, false);
    machine.guest(0).write_eoir1(40);
    machine.bounce(0);
    assert_eq!(machine.guest(0).read_iar1(), 1023);
    machine.exit(0);
    machine.finish();
}

#[test]
fn a_level_that_is_high_outlives_a_clear() {
    let machine = Machine::new(1);
    machine.set_spi(0, ISENABLER, 50);
    let line = |high| {
        machine
            .vm
            .set_spi_line(&machine.pin(), IntId::spi(50).unwrap(), high)
            .unwrap();
    };

    line(true);
    machine.set_spi(0, ICPENDR, 50);
    assert!(machine.spi_bit(0, ISPENDR, 50));

    line(false);
    assert!(!machine.spi_bit(0, ISPENDR, 50));

    machine.set_spi(0, ISPENDR, 50);
    assert!(machine.spi_bit(0, ISPENDR, 50), "the latch");
    machine.set_spi(0, ICPENDR, 50);
    assert!(!machine.spi_bit(0, ISPENDR, 50));
    machine.finish();
}

#[test]
fn routing_follows_irouter_also_when_pending() {
    let machine = Machine::new(3);
    let route = |affinity: u64| machine.write64(0, GICD + 0x6000 + 60 * 8, affinity);

    machine.edge_spi(60, 1);
    machine.inject_spi(60);
    assert_eq!(machine.serve(0), []);
    route(2);
    assert_eq!(machine.serve(1), []);

    // A route to no vCPU: the SPI stays pending.
    route(0x4_0000);
    assert_eq!(machine.serve(2), []);
    assert!(machine.spi_bit(0, ISPENDR, 60));
    route(2);
    assert_eq!(machine.serve(2), [60]);
    let calls = machine.vm.host().take_calls();
    assert!(calls.contains(&Call::Routed(60, None)) && calls.contains(&Call::Routed(60, Some(2))));

    // Active: the SPI stays on its vCPU. The next edge goes to the new target.
    machine.inject_spi(60);
    machine.enter(2);
    assert_eq!(machine.guest(2).read_iar1(), 60);
    route(0);
    machine.inject_spi(60);
    assert_eq!(machine.serve(0), [], "active on vCPU 2");

    machine.guest(2).write_eoir1(60);
    machine.bounce(2);
    assert_eq!(machine.guest(2).read_iar1(), 1023);
    assert_eq!(machine.serve(0), [60]);
    machine.finish();
}

#[test]
fn rwp_waits_for_a_vcpu_that_has_the_interrupt() {
    let machine = Machine::new(2);
    machine.edge_spi(40, 1);
    machine.inject_spi(40);
    machine.enter(1);
    machine.vm.host().take_calls();

    machine.set_spi(0, ICENABLER, 40);
    assert_eq!(machine.read(0, CTLR) & RWP, RWP);
    assert_eq!(
        machine.vm.host().take_calls(),
        [Call::Kick(1, 1), Call::Enabled(None, 40, false)]
    );
    machine.exit(1);
    assert_eq!(machine.read(0, CTLR) & RWP, 0, "folded before the entry");
    machine.enter(1);
    assert_eq!(machine.read(0, CTLR) & RWP, 0);
    assert_eq!(machine.guest(1).read_iar1(), 1023);
    assert!(machine.spi_bit(0, ISPENDR, 40));

    // A vCPU out of the guest for an exit is waited for until its next entry.
    machine.set_spi(0, ISENABLER, 40);
    machine.bounce(1);
    machine.exit(1);
    machine.set_spi(0, ICENABLER, 40);
    assert_eq!(machine.read(0, CTLR) & RWP, RWP);
    machine.enter(1);
    assert_eq!(machine.read(0, CTLR) & RWP, 0);
    assert_eq!(machine.guest(1).read_iar1(), 1023);

    // On one that has looked for an interrupt since, RWP has nothing to wait for.
    machine.set_spi(0, ISENABLER, 40);
    machine.bounce(1);
    machine.exit(1);
    let cpu = &machine.cpus[1];
    assert!(machine.vm.has_pending(&cpu.pin(), vcpu(1)).unwrap());
    machine.set_spi(0, ICENABLER, 40);
    assert_eq!(machine.read(0, CTLR) & RWP, 0);
    machine.enter(1);
    assert_eq!(machine.guest(1).read_iar1(), 1023);

    // A block or a power-off instead of an entry ends the wait too.
    for off in [false, true] {
        machine.set_spi(0, ISENABLER, 40);
        machine.bounce(1);
        machine.set_spi(0, ICENABLER, 40);
        assert_eq!(machine.read(0, CTLR) & RWP, RWP);
        machine.exit(1);
        if off {
            let cpu = &machine.cpus[1];
            machine.vm.power_off(&cpu.pin(), vcpu(1)).unwrap();
        } else {
            let _ = machine.block(1);
            assert_eq!(machine.read(0, CTLR) & RWP, 0);
            machine.enter(1);
        }
    }

    assert_eq!(machine.read(0, CTLR) & RWP, 0);
    machine.finish();
}

#[test]
fn a_change_of_the_group_enables_reaches_every_vcpu_in_slices() {
    let machine = Machine::new(150);
    for n in 0..150 {
        machine.enter(n);
    }

    machine.write(0, CTLR, 0x11);
    let kicked = || {
        machine
            .vm
            .host()
            .take_calls()
            .iter()
            .filter(|call| matches!(call, Call::Kick(..)))
            .count()
    };

    assert_eq!(kicked(), 64, "one slice in the trap");
    assert!(machine.vm.has_deferred());
    machine.advance();
    assert_eq!(kicked(), 150 - 64);
    assert_eq!(machine.read(0, CTLR) & RWP, RWP);

    for n in 0..150 {
        machine.bounce(n);
    }
    assert_eq!(machine.read(0, CTLR), 0x51);
    machine.finish();
}

/// Reads the state of an interrupt in a list register of a running vCPU: the state is folded first.
#[test]
fn reading_a_state_that_another_vcpu_has_is_tried_again() {
    let machine = Machine::new(2);
    machine.edge_spi(40, 1);
    machine.inject_spi(40);
    machine.enter(1);
    assert_eq!(machine.guest(1).read_iar1(), 40);
    machine.vm.host().take_calls();

    let active = GICD + ISACTIVER + 4;
    let read = |at| machine.access(0, at, Width::Word, None);
    assert_eq!(read(active), MmioOutcome::Retry);
    assert_eq!(machine.vm.host().take_calls(), [Call::Kick(1, 1)]);
    assert_eq!(read(active), MmioOutcome::Retry, "still in the guest");
    assert_eq!(machine.vm.host().take_calls(), [], "asked once");

    machine.bounce(1);
    assert_eq!(read(active), MmioOutcome::Done(1 << 8));
    assert_eq!(read(GICD + ISPENDR + 4), MmioOutcome::Retry, "a new read");
    machine.bounce(1);
    assert_eq!(read(GICD + ISPENDR + 4), MmioOutcome::Done(0));

    machine.guest(1).write_eoir1(40);
    assert_eq!(read(active), MmioOutcome::Retry);
    machine.exit(1);
    assert_eq!(read(active), MmioOutcome::Done(0));

    // A vCPU's own list registers are read at once.
    machine.inject_spi(40);
    machine.enter(1);
    assert_eq!(machine.guest(1).read_iar1(), 40);
    machine.exit(1);
    assert_eq!(machine.read(1, active), 1 << 8);
    machine.enter(1);
    machine.guest(1).write_eoir1(40);
    machine.finish();
}

/// Reads the state of an interrupt of a vCPU that is recalled, leaves the guest, and is neither
/// entered nor put: its exit has shown the state.
#[test]
fn a_recalled_vcpu_shows_its_states_when_it_exits() {
    let machine = Machine::new(2);
    machine.edge_spi(40, 1);
    machine.inject_spi(40);
    machine.enter(1);
    assert_eq!(machine.guest(1).read_iar1(), 40);
    let active = GICD + ISACTIVER + 4;
    let read = |at| machine.access(0, at, Width::Word, None);
    assert_eq!(read(active), MmioOutcome::Retry, "it is in the guest");
    machine.exit(1);
    for _ in 0..3 {
        assert_eq!(read(active), MmioOutcome::Done(1 << 8));
        assert_eq!(read(GICD + ISPENDR + 4), MmioOutcome::Done(0));
    }

    machine.enter(1);
    machine.guest(1).write_eoir1(40);
    assert_eq!(read(active), MmioOutcome::Retry, "it is in the guest again");
    machine.finish();
}

/// Reads the state of an interrupt of a vCPU that was out of the guest before the read, and stays
/// there: the read ends, and shows the state last known. It ends sooner if the vCPU has looked for
/// an interrupt since its exit.
#[test]
fn a_read_does_not_wait_for_ever_for_a_vcpu_that_is_out_of_the_guest() {
    let machine = Machine::new(2);
    machine.edge_spi(40, 1);
    machine.inject_spi(40);
    machine.enter(1);
    machine.exit(1);
    let tries = |register| {
        let outcomes =
            (0..70_000).map(|_| machine.access(0, GICD + register + 4, Width::Word, None));
        let mut outcomes = outcomes.enumerate();
        outcomes.find(|(_, outcome)| *outcome != MmioOutcome::Retry)
    };
    assert_eq!(tries(ISPENDR), Some((65_535, MmioOutcome::Done(1 << 8))));

    machine.enter(1);
    machine.exit(1);
    let cpu = &machine.cpus[1];
    assert!(machine.vm.has_pending(&cpu.pin(), vcpu(1)).unwrap());
    assert_eq!(tries(ISPENDR), Some((256, MmioOutcome::Done(1 << 8))));
    assert_eq!(tries(ISACTIVER), Some((256, MmioOutcome::Done(0))));
    machine.finish();
}

/// Reads the state of an interrupt in a list register of a vCPU out of the guest, for a trap or in
/// WFI.
#[test]
fn the_state_of_a_vcpu_that_is_out_of_the_guest_is_shown_as_it_is() {
    let machine = Machine::new(2);
    machine.edge_spi(40, 1);
    machine.inject_spi(40);
    machine.enter(1);
    assert_eq!(machine.guest(1).read_iar1(), 40);
    let active = GICD + ISACTIVER + 4;
    let read = |at| machine.access(0, at, Width::Word, None);

    // The guest has acknowledged the interrupt since the last fold.
    machine.exit(1);
    assert_eq!(read(active), MmioOutcome::Retry);
    assert_eq!(read(active), MmioOutcome::Retry, "not folded yet");
    machine.enter(1);
    assert_eq!(read(active), MmioOutcome::Done(1 << 8));

    machine.inject_spi(40);
    machine.bounce(1);
    machine.exit(1);
    assert_eq!(machine.block(1), Blocked::Yes, "it is active");
    assert_eq!(read(active), MmioOutcome::Done(1 << 8));
    assert_eq!(read(GICD + ISPENDR + 4), MmioOutcome::Done(1 << 8));

    machine.enter(1);
    machine.guest(1).write_eoir1(40);
    assert_eq!(machine.guest(1).read_iar1(), 40);
    machine.exit(1);
    assert_eq!(machine.block(1), Blocked::Yes, "it is active again");
    assert_eq!(read(GICD + ISPENDR + 4), MmioOutcome::Done(0));
    machine.enter(1);
    machine.guest(1).write_eoir1(40);
    machine.finish();
}

#[test]
fn clearing_reaches_into_the_registers_of_a_running_vcpu() {
    let machine = Machine::new(2);
    machine.edge_spi(40, 1);
    machine.inject_spi(40);
    machine.enter(1);
    machine.set_spi(0, ICPENDR, 40);
    machine.bounce(1);
    assert_eq!(machine.guest(1).read_iar1(), 1023);

    // An edge after the clear counts.
    machine.inject_spi(40);
    machine.bounce(1);
    machine.set_spi(0, ICPENDR, 40);
    machine.inject_spi(40);
    machine.bounce(1);
    assert_eq!(machine.guest(1).read_iar1(), 40);

    machine.set_spi(0, ICACTIVER, 40);
    machine.bounce(1);
    machine.exit(1);
    assert!(!machine.spi_bit(0, ISACTIVER, 40));

    machine.set_spi(0, ISACTIVER, 40);
    machine.enter(1);
    machine.exit(1);
    assert_eq!(machine.block(1), Blocked::Yes);
    assert!(machine.spi_bit(0, ISACTIVER, 40));
    machine.finish();
}

#[test]
fn with_eoimode_1_any_vcpu_may_deactivate() {
    let machine = Machine::new(2);
    machine.edge_spi(40, 1);
    for n in 0..2 {
        machine.guest(n).write_ctlr(2).unwrap();
    }

    machine.inject_spi(40);
    machine.enter(1);
    assert_eq!(machine.guest(1).read_iar1(), 40);
    machine.guest(1).write_eoir1(40);
    assert!(machine.guest(0).write_dir(40).is_err() || machine.guest(1).write_dir(40).is_err());
    machine.sysreg(0, SysReg::Dir, 40);
    machine.bounce(1);
    machine.exit(1);
    assert!(!machine.spi_bit(0, ISACTIVER, 40));

    // On the vCPU with the interrupt, and for INTIDs that cannot be deactivated.
    machine.inject_spi(40);
    machine.enter(1);
    assert_eq!(machine.guest(1).read_iar1(), 40);
    machine.guest(1).write_eoir1(40);
    machine.exit(1);
    for intid in [8192, 1023, 1020, 0xff_ffff, 40] {
        machine.sysreg(1, SysReg::Dir, intid);
    }
    machine.enter(1);
    machine.exit(1);
    assert!(!machine.spi_bit(0, ISACTIVER, 40));

    // A level is sampled again, and pending once more while the line is high.
    let line = |high| {
        machine
            .vm
            .set_spi_line(&machine.pin(), IntId::spi(50).unwrap(), high)
            .unwrap();
    };
    machine.set_spi(0, ISENABLER, 50);
    line(true);

    machine.enter(0);
    assert_eq!(machine.guest(0).read_iar1(), 50);
    machine.guest(0).write_eoir1(50);
    machine.exit(0);
    machine.vm.host().take_calls();
    machine.sysreg(0, SysReg::Dir, 50);
    assert_eq!(machine.vm.host().take_calls(), [Call::Resample(0, 50)]);

    machine.enter(0);
    assert_eq!(machine.guest(0).read_iar1(), 50);
    line(false);
    machine.guest(0).write_eoir1(50);
    machine.exit(0);
    machine.sysreg(0, SysReg::Dir, 50);
    machine.enter(0);
    assert_eq!(machine.guest(0).read_iar1(), 1023);
    machine.finish();
}

#[test]
fn a_vcpu_added_later_gets_the_spis_routed_to_it() {
    let machine = Machine::from_config(Config {
        max_vcpus: 2,
        redistributors: vec![vgic::config::RedistributorRegion {
            base: GICR,
            count: 2,
        }],
        ..Config::new(vec![affinity(0)])
    });
    machine.set_up();

    let late = Affinity::new(1, 2, 3, 4);
    machine.write64(0, GICD + 0x6000 + 40 * 8, late.mpidr());
    // SPI 41 stays with vCPU 0.
    for spi in [40, 41] {
        machine.set_spi(0, ISENABLER, spi);
        machine.set_spi(0, ISPENDR, spi);
    }

    assert_eq!(
        machine.read(0, GICR + 0x2_0000 + 0xffe8),
        0,
        "not there yet"
    );
    assert_eq!(machine.read(0, GICR + 8) >> 4 & 1, 1, "Last");

    assert_eq!(machine.vm.add_vcpu(&machine.pin(), late), Ok(vcpu(1)));
    assert!(machine.vm.add_vcpu(&machine.pin(), late).is_err());
    assert!(machine.vm.add_vcpu(&machine.pin(), affinity(9)).is_err());
    assert_eq!(machine.read(0, GICR + 8) >> 4 & 1, 0);
    assert_eq!(machine.read(0, GICR + 0x2_0000 + 12), 0x0102_0304);

    machine.vm.power_on(vcpu(1));
    machine.set_up();
    assert_eq!(machine.serve(1), [40]);
    assert_eq!(machine.serve(0), [41]);
    machine.finish();
}

/// Checks the counters with a line held high behind an active interrupt. The level counts as a new
/// occurrence at the end of the active state, a latch on top as a further one.
#[test]
fn the_counters_balance_with_a_line_held_behind_an_active_interrupt() {
    for latch in [false, true] {
        for end in [false, true] {
            let machine = Machine::new(1);
            machine.set_spi(0, 0x100, 40);
            let line = |high| {
                let spi = IntId::spi(40).unwrap();
                machine.vm.set_spi_line(&machine.pin(), spi, high).unwrap();
            };

            line(true);
            machine.enter(0);
            assert_eq!(machine.guest(0).read_iar1(), 40);
            machine.exit(0);

            if latch {
                machine.set_spi(0, 0x200, 40);
            }
            if end {
                machine.enter(0);
                machine.guest(0).write_eoir1(40);
                machine.exit(0);
            }

            machine.set_spi(0, 0x380, 40);
            machine.set_spi(0, 0x280, 40);
            machine.set_spi(0, 0x300, 40);
            machine.finish();
        }
    }
}

/// Checks the counters over changes of the trigger mode under a high line. A change makes or ends
/// an occurrence.
#[test]
fn the_counters_balance_when_the_trigger_changes() {
    let machine = Machine::new(1);
    let spi = IntId::spi(40).unwrap();
    machine.vm.set_spi_line(&machine.pin(), spi, true).unwrap();
    for configuration in [2 << 16, 0, 2 << 16] {
        machine.write(0, GICD + 0xc08, configuration);
    }
    machine.finish();
}
