//! MSIs without an ITS: LPIs by `GICR_SETLPIR` (IHI 0069, 12.11), and SPIs by `GICD_SETSPI_NSR`
//! (12.9), as devices write them.

mod common;

use common::its::{PROPERTIES, pending_table};
use common::{GICD, Machine, affinity, vcpu};
use vgic::Config;
use vgic::intid::VcpuId;

const SETLPIR: u64 = 0x40;
const CLRLPIR: u64 = 0x48;
const RWP: u32 = 1 << 3;

/// Makes a VM without an ITS, with LPIs enabled on each vCPU. The first eight LPIs are enabled.
fn machine(vcpus: usize) -> Machine {
    let config = Config {
        lpis: 256,
        direct_lpis: true,
        ..Config::new((0..vcpus).map(affinity).collect())
    };
    let machine = Machine::from_config(config);
    machine.set_up();
    machine.vm.host().write_ram(PROPERTIES, &[0xa1; 8]);
    for n in 0..vcpus {
        machine.write64(n, machine.gicr(n) + 0x70, PROPERTIES | 13);
        enable(&machine, n, true);
    }
    machine
}

/// Writes `GICR_CTLR.EnableLPIs`, and waits for RWP. The pending table stays as it is.
fn enable(machine: &Machine, n: usize, on: bool) {
    let gicr = machine.gicr(n);
    if on {
        machine.write64(n, gicr + 0x78, pending_table(n));
    }
    machine.write(n, gicr, on.into());
    machine.enter(n);
    machine.exit(n);
    for _ in 0..10_000 {
        if machine.read(n, gicr) & RWP == 0 {
            return;
        }
    }
    panic!("RWP stays set");
}

/// Writes a register as a device does.
fn device(machine: &Machine, at: u64, value: u32) {
    let claimed = machine
        .vm
        .bus_write(&machine.pin(), at, &value.to_le_bytes());
    assert_eq!(claimed, Ok(true));
}

fn set(machine: &Machine, n: usize, intid: u32) {
    let at = machine.vm.config().lpi_address(vcpu(n)).unwrap();
    assert_eq!(at, machine.gicr(n) + SETLPIR);
    device(machine, at, intid);
}

/// Returns whether a vCPU's pending table in memory has an LPI.
fn in_table(machine: &Machine, n: usize, intid: u32) -> bool {
    let mut byte = [0];
    let at = pending_table(n) + u64::from(intid) / 8;
    vgic::Host::read_memory(machine.vm.host(), at, &mut byte).unwrap();
    byte[0] >> (intid % 8) & 1 != 0
}

#[test]
fn the_redistributor_says_that_it_has_the_registers() {
    let direct = machine(1);
    let typer = direct.read64(0, direct.gicr(0) + 8);
    assert_eq!(typer & 0b1001, 0b1001, "PLPIS and DirectLPI");
    let its = Machine::new(1);
    let typer = its.read64(0, its.gicr(0) + 8);
    assert_eq!(typer & 0b1001, 0b0001);
}

#[test]
fn a_write_makes_an_lpi_pending_on_that_redistributor() {
    let machine = machine(2);
    set(&machine, 0, 8192);
    set(&machine, 1, 8193);
    // Pending already: one interrupt.
    set(&machine, 1, 8193);
    assert_eq!(machine.serve(0), [8192]);
    assert_eq!(machine.serve(1), [8193]);

    // The same LPI, again and elsewhere.
    set(&machine, 1, 8192);
    assert_eq!(machine.serve(0), []);
    assert_eq!(machine.serve(1), [8192]);

    // Raised again while it is being handled.
    set(&machine, 0, 8192);
    machine.enter(0);
    assert_eq!(machine.guest(0).read_iar1(), 8192);
    set(&machine, 0, 8192);
    machine.bounce(0);
    machine.guest(0).write_eoir1(8192);
    machine.exit(0);
    assert_eq!(machine.serve(0), [8192]);

    // Wakes a vCPU that waits.
    assert_eq!(machine.block(1), vgic::Blocked::Yes);
    machine.vm.host().take_calls();
    set(&machine, 1, 8194);
    assert_eq!(machine.vm.host().take_calls(), [common::Call::Wake(1)]);
    assert_eq!(machine.serve(1), [8194]);
    machine.finish();
}

#[test]
fn the_configuration_table_decides() {
    let machine = machine(1);
    let gicr = machine.gicr(0);
    machine.vm.host().write_ram(PROPERTIES + 9, &[0xa0]);
    set(&machine, 0, 8201);
    assert_eq!(machine.serve(0), [], "disabled");

    // GICR_INVLPIR, GICR_INVALLR.
    machine.vm.host().write_ram(PROPERTIES + 9, &[0xa1]);
    machine.write64(0, gicr + 0xa0, 8201);
    assert_eq!(machine.read(0, gicr + 0xc0), 0, "GICR_SYNCR");
    assert_eq!(machine.serve(0), [8201]);
    machine.vm.host().write_ram(PROPERTIES + 9, &[0xa0]);
    machine.write64(0, gicr + 0xb0, 0);
    machine.advance();
    set(&machine, 0, 8201);
    assert_eq!(machine.serve(0), []);
    machine.finish();
}

#[test]
fn a_write_that_names_no_lpi_is_ignored() {
    let machine = machine(2);
    let gicr = machine.gicr(0);
    for intid in [0, 31, 32, 1023, 8191, 8192 + 256, 0x1_0000, u32::MAX] {
        set(&machine, 0, intid);
        device(&machine, gicr + CLRLPIR, intid);
    }
    // EnableLPIs is 0.
    enable(&machine, 1, false);
    set(&machine, 1, 8192);
    enable(&machine, 1, true);
    assert_eq!(machine.serve(0), []);
    assert_eq!(machine.serve(1), []);

    // Beyond GICR_PROPBASER.IDbits.
    for n in 0..2 {
        enable(&machine, n, false);
    }
    machine.write64(0, gicr + 0x70, PROPERTIES | 12);
    enable(&machine, 0, true);
    set(&machine, 0, 8192);
    enable(&machine, 0, false);
    machine.write64(0, gicr + 0x70, PROPERTIES | 13);
    enable(&machine, 0, true);
    assert_eq!(machine.serve(0), []);

    // With an ITS the registers have no function.
    let its = Machine::new(1);
    device(&its, its.gicr(0) + SETLPIR, 8192);
    assert_eq!(its.serve(0), []);
    its.finish();
    machine.finish();
}

#[test]
fn a_pending_state_is_cleared_on_its_redistributor() {
    let machine = machine(2);
    set(&machine, 0, 8192);
    device(&machine, machine.gicr(1) + CLRLPIR, 8192);
    assert_eq!(machine.serve(0), [8192]);
    set(&machine, 0, 8192);
    device(&machine, machine.gicr(0) + CLRLPIR, 8192);
    assert_eq!(machine.serve(0), []);

    // In a list register.
    set(&machine, 0, 8192);
    machine.enter(0);
    device(&machine, machine.gicr(0) + CLRLPIR, 8192);
    machine.bounce(0);
    assert_eq!(machine.guest(0).read_iar1(), 1023);
    machine.exit(0);
    machine.finish();
}

#[test]
fn pending_states_go_to_the_table_and_come_back() {
    let machine = machine(2);
    set(&machine, 0, 8192);
    set(&machine, 0, 8200);
    enable(&machine, 0, false);
    assert!(in_table(&machine, 0, 8192) && in_table(&machine, 0, 8200));
    assert!(!in_table(&machine, 0, 8193));
    assert_eq!(machine.serve(0), []);
    enable(&machine, 0, true);
    assert_eq!(machine.serve(0), [8192], "the other is disabled");
    machine.finish();
}

#[test]
fn what_is_pending_is_saved_restored_and_frozen() {
    let machine = machine(2);
    set(&machine, 1, 8192);
    set(&machine, 0, 8200);
    let state = machine.save();
    let pending: Vec<_> = state
        .lpis
        .iter()
        .map(|lpi| (lpi.intid, lpi.target))
        .collect();
    assert_eq!(pending, [(8192, Some(1)), (8200, Some(0))]);

    machine.restore(&state).unwrap();
    assert_eq!(machine.save(), state);
    assert_eq!(machine.serve(0), []);
    assert_eq!(machine.serve(1), [8192]);
    set(&machine, 0, 8192);
    assert_eq!(machine.serve(0), [8192]);

    // One of them is late for the state, and the other is in it.
    set(&machine, 0, 8194);
    machine.put_all();
    let frozen = machine.vm.freeze(&machine.pin()).unwrap();
    set(&machine, 1, 8195);
    let late = machine.vm.take_late(&machine.pin(), &frozen).unwrap();
    assert_eq!(late.len(), 1);
    assert_eq!((late[0].intid, late[0].vcpu), (8195, Some(1)));

    let other = self::machine(2);
    other.restore(&frozen).unwrap();
    for late in late {
        other.vm.inject_late(&other.pin(), late).unwrap();
    }
    assert_eq!(other.serve(0), [8194]);
    assert_eq!(other.serve(1), [8195]);
    other.finish();

    // A state of an LPI that is neither mapped nor pending, or on no vCPU, is refused.
    for spoil in [
        |lpi: &mut vgic::state::LpiState| lpi.interrupt.flags &= !vgic::state::flags::LATCH,
        |lpi: &mut vgic::state::LpiState| lpi.target = None,
    ] {
        let mut wrong = state.clone();
        spoil(&mut wrong.lpis[0]);
        let error = vgic::RestoreError::Interrupt(8192);
        assert_eq!(self::machine(2).restore(&wrong), Err(error));
    }
    machine.vm.thaw(&machine.pin(), &frozen).unwrap();
    machine.finish();
}

/// Makes each LPI pending twice. The redistributor keeps the memory of an LPI for the next pending
/// state: the VM's LPIs bound the number.
#[test]
fn a_reset_and_the_end_of_a_vm_leave_nothing() {
    let machine = machine(2);
    for intid in 8192..8192 + 256 {
        set(&machine, intid as usize % 2, intid);
        set(&machine, intid as usize % 2, intid);
    }
    let gets = || machine.domain.totals().redistributor_gets;
    assert_eq!(gets(), 256);
    machine.put_all();
    machine.vm.reset(&machine.pin()).unwrap();
    let totals = machine.domain.totals();
    assert_eq!(totals.redistributor_puts, 256);
    set(&machine, 0, 8192);
    assert_eq!(gets(), 256, "LPIs are off");
    machine.finish();
}

#[test]
fn a_vcpu_that_is_removed_takes_its_pending_lpis_along() {
    let machine = machine(2);
    set(&machine, 0, 8193);
    set(&machine, 1, 8192);
    machine.put_all();
    machine.power_off(1);
    machine.put_all();
    machine.vm.remove_vcpu(&machine.pin(), vcpu(1)).unwrap();
    machine.vm.add_vcpu(&machine.pin(), affinity(1)).unwrap();
    assert!(machine.vm.power_on(vcpu(1)));
    enable(&machine, 1, true);
    assert_eq!(machine.serve(1), []);
    assert_eq!(machine.serve(0), [8193]);
    machine.finish();
}

/// Writes SPIs as a function does whose MSI-X vectors Linux has programmed (irq-gic-v3-mbi): each is
/// an SPI, edge-triggered.
#[test]
fn a_device_raises_an_spi_by_a_message() {
    let machine = Machine::bare(2);
    machine.set_up();
    let config = machine.vm.config();
    assert_eq!(config.message_address(), GICD + 0x40);
    assert_eq!(config.lpi_address(VcpuId::new(2).unwrap()), None);
    let typer = machine.read(0, GICD + 4);
    assert_ne!(typer & 1 << 16, 0, "GICD_TYPER.MBIS");

    for (intid, target) in [(128, 0), (383, 1)] {
        machine.edge_spi(intid, target);
        device(&machine, machine.vm.config().message_address(), intid);
        assert_eq!(machine.serve(target), [intid]);
        assert_eq!(machine.serve(target), []);
    }
    machine.finish();
}
