//! LPIs from the device to the guest: ITS commands, the tables in guest memory, and the
//! redistributors' LPI registers, through the library's public API.

mod common;

use std::sync::atomic::Ordering::Relaxed;
use std::sync::mpsc::channel;
use std::time::Duration;

use common::its::{Driver, PROPERTIES, pending_table};
use common::{Call, GICD, GICR, GITS, Machine, RAM, RAM_SIZE, TestHost, vcpu};
use vgic::epoch::CpuPin;
use vgic::intid::{CpuId, DeviceId, EventId, IntId, ItsId};
use vgic::mmio::Width;
use vgic::{Host, InjectError, PhysicalInterrupt, Vgic};

const RWP: u32 = 1 << 3;

fn pend_in_table(machine: &Machine, vcpu: usize, intid: u64) {
    let at = pending_table(vcpu) + intid / 8;
    machine.vm.host().write_ram(at, &[1 << (intid % 8)]);
}

#[test]
fn an_msi_becomes_the_lpi_that_the_guest_mapped() {
    let machine = Machine::new(2);
    let its = Driver::new(&machine);
    its.mapd(7, 3);
    its.map(7, 5, 9000, 1);

    assert_eq!(machine.inject_msi(7, 5), Ok(()));
    assert_eq!(machine.serve(0), []);
    assert_eq!(machine.serve(1), [9000]);
    its.int(7, 5);
    assert_eq!(machine.serve(1), [9000]);

    assert_eq!(machine.inject_msi(7, 4), Err(InjectError::UnmappedEvent));
    assert_eq!(machine.inject_msi(8, 5), Err(InjectError::UnmappedDevice));
    its.int(7, 5);
    its.clear(7, 5);
    assert_eq!(machine.serve(1), []);

    its.discard(7, 5);
    assert_eq!(machine.inject_msi(7, 5), Err(InjectError::UnmappedEvent));
    its.unmap_device(7);
    assert_eq!(machine.inject_msi(7, 5), Err(InjectError::UnmappedDevice));
    machine.finish();
}

#[test]
fn configuration_counts_once_it_is_invalidated() {
    let machine = Machine::new(1);
    let its = Driver::new(&machine);
    its.mapd(0, 4);
    for event in 0..3 {
        its.map(0, event, 8200 + event, 0);
    }

    its.configure(8201, 0x10, true);
    its.configure(8202, 0xa0, false);
    for event in 0..3 {
        machine.inject_msi(0, event).unwrap();
    }
    assert_eq!(machine.serve(0), [8200, 8201, 8202], "as mapped");

    its.inv(0, 1);
    its.inv(0, 2);
    for event in 0..3 {
        machine.inject_msi(0, event).unwrap();
    }
    assert_eq!(machine.serve(0), [8201, 8200], "8202 is disabled");

    its.configure(8202, 0x08, true);
    its.invall(0);
    machine.inject_msi(0, 1).unwrap();
    assert_eq!(machine.serve(0), [8202, 8201]);

    // The redistributor's registers have the effect of INV and INVALL.
    its.configure(8202, 0, false);
    machine.write64(0, GICR + 0xa0, 8202);
    machine.inject_msi(0, 2).unwrap();
    assert_eq!(machine.serve(0), []);
    its.configure(8202, 0, true);
    machine.write64(0, GICR + 0xb0, 0);
    while machine.read(0, GICR + 0xc0) & 1 != 0 {}
    assert_eq!(machine.serve(0), [8202]);
    machine.finish();
}

#[test]
fn what_is_mapped_before_lpis_are_enabled_has_the_configuration_that_they_are_enabled_with() {
    let machine = Machine::new(2);
    let its = Driver::new(&machine);
    for vcpu in 0..2 {
        machine.write(0, machine.gicr(vcpu), 0);
        machine.write64(0, machine.gicr(vcpu) + 0x70, 0);
    }

    its.mapd(0, 4);
    for (event, intid) in [(0, 8192), (1, 60_000), (2, 8193)] {
        its.configure(intid, 0, intid != 8193);
        its.mapti(0, event, intid, 1);
        machine.inject_msi(0, event as u32).unwrap();
    }

    machine.write64(0, machine.gicr(1) + 0x70, PROPERTIES | 16);
    machine.write(0, machine.gicr(1), 1);
    machine.advance();
    assert_eq!(machine.serve(1), [8192, 60_000], "8193 is disabled");
    machine.finish();
}

#[test]
fn enabling_lpis_passes_over_what_is_not_mapped() {
    let machine = Machine::new(1);
    let its = Driver::new(&machine);
    let swept_at_once = || {
        machine.write(0, machine.gicr(0) + 0xb0, 0);
        !machine.vm.has_deferred()
    };
    assert!(swept_at_once(), "there is no LPI");

    its.mapd(0, 1);
    its.map(0, 0, 8192, 0);
    its.map(0, 1, 60_000, 0);
    its.configure(60_000, 0x40, false);
    assert!(!swept_at_once(), "there are two, far from each other");
    assert!(machine.advance() <= 2, "more slices than LPIs");

    machine.inject_msi(0, 1).unwrap();
    assert_eq!(machine.serve(0), [], "60000 is disabled by now");
    machine.finish();
}

#[test]
fn moving_takes_what_is_pending_along() {
    let machine = Machine::new(3);
    let its = Driver::new(&machine);
    its.mapd(0, 4);
    for event in 0..4 {
        its.map(0, event, 8300 + event, 0);
        machine.inject_msi(0, event as u32).unwrap();
    }

    its.movi(0, 0, 1);
    // In a list register of vCPU 0, out of the guest: the next entry prunes the LPI.
    machine.enter(0);
    machine.exit(0);
    assert_eq!(machine.serve(1), [8300]);

    // In a list register of a running vCPU: the vCPU is kicked. The blocked target is woken.
    machine.enter(0);
    assert_eq!(machine.block(2), vgic::Blocked::Yes);
    machine.vm.host().take_calls();
    its.movi(0, 1, 2);
    let calls = [Call::Kick(0, 0), Call::Mapped(0, 1, 8301, Some(2))];
    assert_eq!(machine.vm.host().take_calls(), calls);
    machine.bounce(0);
    assert_eq!(machine.vm.host().take_calls(), [Call::Wake(2)]);
    assert_eq!(machine.serve(2), [8301]);
    machine.exit(0);

    its.movall(0, 1);
    assert_eq!(machine.serve(0), []);
    assert_eq!(machine.serve(1), [8302, 8303]);

    // An unmapped collection keeps its pending LPIs until mapped again.
    machine.inject_msi(0, 0).unwrap();
    its.mapc(1, None);
    assert_eq!(machine.serve(1), []);
    its.mapc(1, Some(2));
    assert_eq!(machine.serve(2), [8300]);
    machine.finish();
}

#[test]
fn an_intid_mapped_again_while_its_interrupt_is_queued_is_one_interrupt() {
    let machine = Machine::new(2);
    let its = Driver::new(&machine);
    its.mapd(0, 4);
    its.map(0, 0, 8192, 0);
    machine.inject_msi(0, 0).unwrap();
    machine.enter(0);
    assert_eq!(machine.guest(0).read_iar1(), 8192);
    machine.exit(0);

    its.discard(0, 0);
    its.map(0, 9, 8192, 0);
    machine.inject_msi(0, 9).unwrap();
    machine.enter(0);
    assert_eq!(
        machine.guest(0).read_iar1(),
        1023,
        "its priority still runs"
    );
    machine.guest(0).write_eoir1(8192);
    machine.exit(0);
    assert_eq!(machine.serve(0), [8192]);

    // Discarded while pending: the pending state is gone, also for the next mapping.
    machine.inject_msi(0, 9).unwrap();
    its.discard(0, 9);
    its.map(0, 1, 8192, 1);
    assert_eq!(machine.serve(0), []);
    assert_eq!(machine.serve(1), []);
    machine.inject_msi(0, 1).unwrap();
    assert_eq!(machine.serve(1), [8192]);
    machine.finish();
}

#[test]
fn lpis_are_held_while_a_redistributor_has_them_disabled() {
    let machine = Machine::new(2);
    let its = Driver::new(&machine);
    assert_eq!(machine.read(0, GICR) & 0b111, 0b111, "IR, CES, EnableLPIs");
    its.mapd(0, 4);
    its.map(0, 0, 8192, 1);
    machine.inject_msi(0, 0).unwrap();

    machine.enter(1);
    machine.write(0, machine.gicr(1), 0);
    assert_eq!(machine.read(0, machine.gicr(1)) & RWP, RWP, "in a register");
    machine.bounce(1);
    assert_eq!(machine.read(0, machine.gicr(1)) & RWP, RWP, "in slices");
    machine.advance();
    assert_eq!(machine.read(0, machine.gicr(1)), 0b110);
    assert_eq!(machine.guest(1).read_iar1(), 1023);
    machine.exit(1);

    machine.inject_msi(0, 0).unwrap();
    assert_eq!(machine.serve(1), []);
    assert_eq!(machine.block(1), vgic::Blocked::Yes);
    machine.vm.host().take_calls();
    machine.write(0, machine.gicr(1), 1);
    assert_eq!(machine.vm.host().take_calls(), [Call::Wake(1)]);
    machine.advance();
    assert_eq!(machine.serve(1), [8192]);

    // The base registers do not change while LPIs are enabled.
    machine.write64(0, machine.gicr(1) + 0x70, 0);
    machine.write64(0, machine.gicr(1) + 0x78, 0);
    assert_eq!(machine.read64(0, machine.gicr(1) + 0x70), PROPERTIES | 16);
    assert_eq!(machine.read64(0, machine.gicr(1) + 0x78), pending_table(1));
    machine.finish();
}

#[test]
fn a_pending_table_is_read_when_lpis_are_enabled() {
    let machine = Machine::new(2);
    let its = Driver::new(&machine);
    its.mapd(0, 4);
    its.map(0, 0, 8192, 0);
    its.map(0, 1, 65_535, 0);
    its.map(0, 2, 20_000, 1);

    machine.write(0, GICR, 0);
    for intid in [8192, 65_535, 20_000, 30_000] {
        pend_in_table(&machine, 0, intid);
    }

    machine.write(0, GICR, 1);
    assert_eq!(machine.read(0, GICR) & RWP, RWP, "in slices");
    assert!(machine.advance() > 10);
    assert_eq!(machine.read(0, GICR) & RWP, 0);
    assert_eq!(machine.serve(0), [8192, 65_535]);
    assert_eq!(
        machine.serve(1),
        [20_000],
        "moved while the table had its pending state"
    );

    // PTZ: the guest declares an all-zero table.
    machine.write(0, GICR, 0);
    machine.write64(0, GICR + 0x78, 1 << 62 | pending_table(0));
    assert_eq!(machine.read64(0, GICR + 0x78), pending_table(0));
    machine.write(0, GICR, 1);
    machine.advance();
    assert_eq!(machine.serve(0), []);
    machine.finish();
}

/// Returns the LPIs that are pending in the pending table at `base`.
fn stored(machine: &Machine, base: u64) -> Vec<u32> {
    let mut table = vec![0; 0x1_0000 / 8];
    machine.vm.host().read_memory(base, &mut table).unwrap();
    let pending = |intid: &u32| table[*intid as usize / 8] >> (intid % 8) & 1 != 0;
    (0..0x1_0000).filter(pending).collect()
}

/// Clears EnableLPIs of vCPU `n`, and waits until RWP is 0.
fn disable_lpis(machine: &Machine, n: usize) {
    machine.write(n, machine.gicr(n), 0);
    assert_eq!(machine.read(n, machine.gicr(n)) & RWP, RWP);
    machine.enter(n);
    machine.exit(n);
    machine.advance();
    assert_eq!(machine.read(n, machine.gicr(n)) & RWP, 0);
}

#[test]
fn pending_lpis_are_stored_when_lpis_are_disabled() {
    let machine = Machine::new(2);
    let its = Driver::new(&machine);
    its.mapd(0, 4);
    for (event, lpi, vcpu) in [(0, 8192, 0), (1, 8200, 0), (2, 65_535, 0), (3, 9000, 1)] {
        its.map(0, event.into(), lpi, vcpu);
        machine.inject_msi(0, event).unwrap();
    }

    // One is acknowledged, one waits in a list register, and the table is full of old bits.
    machine.enter(0);
    assert_eq!(machine.guest(0).read_iar1(), 8192);
    machine.exit(0);
    let table = pending_table(0);
    machine.vm.host().write_ram(table + 1024, &[0xff; 0x1c00]);
    machine.vm.host().write_ram(table + 0x2000, &[0xa5]);

    disable_lpis(&machine, 0);
    assert_eq!(stored(&machine, table), [8200, 65_535]);
    let mut beyond = [0];
    machine
        .vm
        .host()
        .read_memory(table + 0x2000, &mut beyond)
        .unwrap();
    assert_eq!(beyond, [0xa5], "the table has 8 KiB");
    machine.guest(0).write_eoir1(8192);
    assert_eq!(machine.serve(0), []);
    assert_eq!(machine.serve(1), [9000], "another redistributor's");

    // With PTZ, or another table, what was pending does not come back: a kernel that another one
    // has started does not find the interrupts of the first.
    machine.write64(0, GICR + 0x78, 1 << 62 | table);
    machine.write(0, GICR, 1);
    machine.advance();
    assert_eq!(machine.serve(0), []);
    disable_lpis(&machine, 0);
    assert_eq!(stored(&machine, table), []);

    // PTZ counts once: the guest enables LPIs again with the table as it is.
    machine.write64(0, GICR + 0x78, 1 << 62 | table);
    machine.write(0, GICR, 1);
    machine.inject_msi(0, 1).unwrap();
    disable_lpis(&machine, 0);
    machine.write(0, GICR, 1);
    machine.advance();
    assert_eq!(machine.serve(0), [8200]);
    disable_lpis(&machine, 0);

    pend_in_table(&machine, 1, 8200);
    machine.write64(0, GICR + 0x78, pending_table(1));
    machine.write(0, GICR, 1);
    machine.advance();
    assert_eq!(machine.serve(0), [8200]);

    // In the same table it does.
    machine.inject_msi(0, 2).unwrap();
    disable_lpis(&machine, 0);
    assert_eq!(stored(&machine, pending_table(1)), [65_535]);
    machine.write(0, GICR, 1);
    machine.advance();
    assert_eq!(machine.serve(0), [65_535]);
    machine.finish();
}

#[test]
fn a_vcpu_on_no_cpu_stores_its_pending_lpis_at_once() {
    let machine = Machine::new(2);
    let its = Driver::new(&machine);
    its.mapd(0, 4);
    its.map(0, 0, 8200, 1);
    machine.inject_msi(0, 0).unwrap();
    let put = || machine.vm.vcpu_put(&machine.cpus[1].pin(), vcpu(1));
    assert_eq!(put(), Ok(()));

    machine.write(0, machine.gicr(1), 0);
    machine.advance();
    assert_eq!(machine.read(0, machine.gicr(1)) & RWP, 0);
    assert_eq!(stored(&machine, pending_table(1)), [8200]);

    // One that is on a CPU stores them once it is put.
    machine.write(0, machine.gicr(1), 1);
    machine.advance();
    machine.enter(1);
    machine.exit(1);
    machine.write(0, machine.gicr(1), 0);
    assert_eq!(machine.advance(), 0, "it has not folded");
    assert_eq!(machine.read(0, machine.gicr(1)) & RWP, RWP);
    assert_eq!(put(), Ok(()));
    machine.advance();
    assert_eq!(machine.read(0, machine.gicr(1)) & RWP, 0);
    assert_eq!(stored(&machine, pending_table(1)), [8200]);
    machine.finish();
}

#[test]
fn pending_lpis_stay_if_their_table_cannot_be_written() {
    let machine = Machine::new(1);
    let its = Driver::new(&machine);
    its.mapd(0, 4);
    its.map(0, 0, 8192, 0);
    disable_lpis(&machine, 0);
    // Beyond RAM.
    machine.write64(0, GICR + 0x78, RAM + RAM_SIZE);
    machine.write(0, GICR, 1);
    machine.advance();
    machine.inject_msi(0, 0).unwrap();
    disable_lpis(&machine, 0);
    machine.write64(0, GICR + 0x78, 1 << 62 | pending_table(0));
    machine.write(0, GICR, 1);
    machine.advance();
    assert_eq!(machine.serve(0), [8192]);
    machine.finish();
}

#[test]
fn lpis_disabled_while_their_table_is_read_are_read_first() {
    let machine = Machine::new(1);
    let its = Driver::new(&machine);
    its.mapd(0, 4);
    its.map(0, 0, 65_535, 0);
    disable_lpis(&machine, 0);
    pend_in_table(&machine, 0, 65_535);
    machine.write(0, GICR, 1);
    machine.write(0, GICR, 0);
    machine.enter(0);
    machine.exit(0);
    machine.advance();
    assert_eq!(stored(&machine, pending_table(0)), [65_535]);
    assert_eq!(machine.read(0, GICR) & RWP, 0);

    // Enabled again before the table is written, by a guest that does not wait for RWP.
    machine.write(0, GICR, 1);
    machine.advance();
    machine.write(0, GICR, 0);
    machine.write(0, GICR, 1);
    machine.advance();
    assert_eq!(machine.serve(0), [65_535]);
    machine.finish();
}

#[test]
fn unreadable_tables_disable_and_harm_nothing() {
    let machine = Machine::new(1);
    let its = Driver::new(&machine);
    its.mapd(0, 4);

    machine.write(0, GICR, 0);
    machine.write64(0, GICR + 0x70, (RAM + RAM_SIZE) | 16);
    machine.write64(0, GICR + 0x78, 0xf_ffff_ffff_0000);
    machine.write(0, GICR, 1);
    machine.advance();
    its.mapti(0, 0, 8192, 0);
    machine.inject_msi(0, 0).unwrap();
    assert_eq!(
        machine.serve(0),
        [],
        "without a configuration it is disabled"
    );

    // A table with fewer bits than the INTID.
    machine.write(0, GICR, 0);
    machine.write64(0, GICR + 0x70, PROPERTIES | 13);
    machine.write(0, GICR, 1);
    machine.advance();
    its.configure(8192, 0, true);
    its.configure(16_384, 0, true);
    its.mapti(0, 1, 16_384, 0);
    its.inv(0, 0);
    machine.inject_msi(0, 1).unwrap();
    assert_eq!(machine.serve(0), [8192]);
    machine.finish();
}

#[test]
fn thousands_of_lpis_are_served_each_once() {
    let machine = Machine::new(2);
    let its = Driver::new(&machine);
    its.mapd(3, 13);
    for event in 0..5000 {
        its.map(3, event, 8192 + event, event % 2);
    }

    for _ in 0..2 {
        for event in 0..5000 {
            machine.inject_msi(3, event).unwrap();
        }
    }

    for n in 0..2 {
        let mut seen = machine.serve(n);
        seen.sort_unstable();
        let expected: Vec<u32> = (8192..13_192).filter(|i| *i as usize % 2 == n).collect();
        assert_eq!(seen, expected);
    }

    let totals = machine.domain.totals();
    assert_eq!((totals.injections[3], totals.coalesced[3]), (10_000, 5000));
    assert_eq!(totals.lookup_locks_taken, 0);
    assert!(totals.lookups >= 10_000);
    machine.finish();
}

/// Returns the bit of an LPI in a vCPU's pending table.
fn is_in_table(machine: &Machine, vcpu: usize, intid: u64) -> bool {
    let mut byte = [0];
    let at = pending_table(vcpu) + intid / 8;
    machine.vm.host().read_memory(at, &mut byte).unwrap();
    byte[0] >> (intid % 8) & 1 != 0
}

/// Disables LPIs between the fill of an entry and the entry's end. The entry has consumed a recall
/// that came for another reason.
#[test]
fn the_table_waits_for_the_fold_after_lpis_were_disabled() {
    let machine = Machine::new(2);
    let its = Driver::new(&machine);
    its.mapd(7, 3);
    its.map(7, 0, 8192, 0);
    let [spi, physical] = [40, 70].map(|n| IntId::spi(n).unwrap());
    let pin = machine.cpus[1].pin();
    machine.vm.connect_spi(&pin, spi, physical).unwrap();
    machine.set_spi(0, 0x100, 40);
    let line = PhysicalInterrupt::Spi { intid: physical };
    machine.vm.host().high.lock().unwrap().push(line);
    let _ = machine.vm.forward_spi(&pin, spi).unwrap();
    machine.enter(0);
    machine.exit(0);

    // The recall: the priority of what is in a list register.
    machine.write_as(1, GICD + 0x400 + 40, Width::Byte, 0x80);
    let msi = (ItsId(0), DeviceId(7), EventId(0));
    let _ = machine.vm.inject_msi(&pin, msi.0, msi.1, msi.2).unwrap();
    drop(pin);
    machine.meanwhile(
        "is_pending",
        |vm, pin| {
            let _ = vm.mmio_write(pin, GICR, Width::Word, 0).unwrap();
        },
        || machine.enter(0),
    );
    machine.advance();
    assert_eq!(
        machine.read(1, GICR) & RWP,
        RWP,
        "the LPI is in a list register"
    );
    machine.exit(0);
    machine.enter(0);
    machine.exit(0);
    machine.advance();
    assert_eq!(machine.read(1, GICR) & RWP, 0);
    assert!(is_in_table(&machine, 0, 8192));
    machine.finish();
}

/// Moves or unmaps an LPI between the write of its bit and the move of its pending state.
#[test]
fn an_lpi_that_leaves_while_the_table_is_written_is_not_in_the_table() {
    for (command, taken) in [(0x01, vec![8192]), (0x0f, vec![]), (0x04, vec![])] {
        let machine = Machine::new(2);
        let its = Driver::new(&machine);
        its.mapd(7, 3);
        its.map(7, 0, 8192, 0);
        its.map(7, 1, 8193, 0);
        machine.inject_msi(7, 0).unwrap();
        machine.inject_msi(7, 1).unwrap();
        machine.vm.vcpu_put(&machine.pin(), vcpu(0)).unwrap();
        machine.write(0, GICR, 0);

        let cwriter = its.prepare([command | 7 << 32, 0, 1, 0]);
        machine.meanwhile(
            "write_memory",
            |vm, pin| {
                let gpa = GITS + 0x88;
                let _ = vm.mmio_write(pin, gpa, Width::Double, cwriter).unwrap();
            },
            || machine.advance(),
        );
        its.wait();
        assert_eq!(machine.read(0, GICR) & RWP, 0);
        assert_eq!(machine.serve(1), taken);
        assert!(!is_in_table(&machine, 0, 8192), "command {command:#x}");
        assert!(is_in_table(&machine, 0, 8193));
        machine.finish();
    }
}

/// Moves an LPI in a list register to a vCPU, by each command that moves an LPI, and disables the
/// LPIs of that vCPU. The LPI is in the vCPU's table, unless the guest has taken the LPI.
#[test]
fn the_table_waits_for_an_lpi_in_a_list_register_of_another_vcpu() {
    type Move = fn(&Driver<'_>);
    let moves: [Move; 4] = [
        |its| its.movi(7, 0, 1),
        |its| its.movall(0, 1),
        |its| its.mapc(0, Some(1)),
        |its| its.mapti(7, 0, 65_000, 1),
    ];
    for (command, (lpis_off_elsewhere, takes)) in moves
        .into_iter()
        .flat_map(|command| [(false, false), (true, false), (false, true)].map(|k| (command, k)))
    {
        let machine = Machine::new(2);
        let its = Driver::new(&machine);
        its.mapd(7, 3);
        its.map(7, 0, 65_000, 0);
        its.map(7, 1, 8192, 1);
        machine.inject_msi(7, 0).unwrap();
        machine.inject_msi(7, 1).unwrap();
        machine.vm.host().take_calls();
        machine.enter(0);

        let frame = machine.gicr(1);
        command(&its);
        its.sync(1);
        if lpis_off_elsewhere {
            machine.write(1, GICR, 0);
        }
        machine.write(1, frame, 0);
        machine.enter(1);
        machine.exit(1);
        machine.advance();
        assert_eq!(machine.read(1, frame) & RWP, RWP, "vCPU 0 has not folded");
        assert!(!machine.vm.has_deferred(), "nothing to do before the fold");

        let taken = if takes {
            let taken = machine.guest(0).read_iar1();
            machine.guest(0).write_eoir1(taken);
            vec![taken]
        } else {
            vec![]
        };
        machine.exit(0);
        machine.vm.vcpu_put(&machine.pin(), vcpu(0)).unwrap();
        let _ = machine.read(1, frame);
        machine.advance();
        assert_eq!(machine.read(1, frame) & RWP, 0);
        assert_eq!(is_in_table(&machine, 1, 65_000), taken.is_empty());
        assert!(is_in_table(&machine, 1, 8192));
        assert!(!is_in_table(&machine, 0, 65_000));

        // With another table none comes back: the pending states were in the table alone.
        machine.write64(1, frame + 0x78, 1 << 62 | pending_table(1));
        machine.write(1, frame, 1);
        machine.advance();
        assert_eq!(machine.serve(1), []);
        machine.finish();
    }
}

/// Enables LPIs while the table waits for the LPI. The LPI is delivered once.
#[test]
fn a_table_that_waits_for_a_fold_is_given_up_when_lpis_are_enabled() {
    let machine = Machine::new(3);
    let its = Driver::new(&machine);
    its.mapd(7, 3);
    its.map(7, 0, 8192, 0);
    its.map(7, 1, 8193, 2);
    machine.inject_msi(7, 0).unwrap();
    machine.enter(0);
    its.movi(7, 0, 1);
    let frame = machine.gicr(1);
    machine.write(1, frame, 0);
    machine.enter(1);
    machine.exit(1);
    machine.advance();
    assert_eq!(machine.read(1, frame) & RWP, RWP);

    // The table of another vCPU does not wait.
    machine.inject_msi(7, 1).unwrap();
    machine
        .vm
        .vcpu_put(&machine.cpus[2].pin(), vcpu(2))
        .unwrap();
    machine.write(1, machine.gicr(2), 0);
    machine.advance();
    assert_eq!(machine.read(1, machine.gicr(2)) & RWP, 0);
    assert!(is_in_table(&machine, 2, 8193));

    machine.write(1, frame, 1);
    machine.advance();
    assert_eq!(machine.read(1, frame) & RWP, 0);
    machine.exit(0);
    assert_eq!(machine.serve(0), []);
    assert_eq!(machine.serve(1), [8192]);
    machine.finish();
}

/// Ends the life of the guest by `end` in the middle of a slice of the pending table, which another
/// CPU writes. The memory has other data once `end` has returned.
fn end_while_a_table_is_written(end: fn(&Vgic<TestHost>, &CpuPin<'_>)) {
    let machine = Machine::new(1);
    let its = Driver::new(&machine);
    its.mapd(7, 3);
    its.map(7, 0, 8192, 0);
    machine.inject_msi(7, 0).unwrap();
    machine.write(0, GICR, 0);
    machine.put_all();

    let (vm, domain) = (&machine.vm, &machine.domain);
    let at = pending_table(0) + 8192 / 8;
    let (begin, begun) = channel();
    let (over, is_over) = channel();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            begun.recv().unwrap();
            let local = domain.register(CpuId(78)).unwrap();
            end(vm, &local.pin());
            vm.host().write_ram(at, &[0xa5; 16]);
            // The slice may have waited long enough.
            let _ = over.send(());
        });
        // The end takes as long as the slice, or would be over by then.
        let other = move |_: &Vgic<TestHost>, _: &CpuPin<'_>| {
            begin.send(()).unwrap();
            let _ = is_over.recv_timeout(Duration::from_millis(50));
        };
        machine.meanwhile("write_memory", other, || machine.advance());
    });
    let mut found = [0; 16];
    vm.host().read_memory(at, &mut found).unwrap();
    assert_eq!(found, [0xa5; 16]);
}

#[test]
fn no_table_is_written_after_the_reset() {
    end_while_a_table_is_written(|vm, pin| vm.reset(pin).unwrap());
}

#[test]
fn no_slice_of_a_table_is_written_after_the_teardown() {
    end_while_a_table_is_written(|vm, pin| assert!(vm.teardown(pin).is_ok()));
}

#[test]
fn no_table_is_written_after_the_teardown() {
    let machine = Machine::new(1);
    let its = Driver::new(&machine);
    its.mapd(7, 3);
    its.map(7, 0, 8192, 0);
    machine.inject_msi(7, 0).unwrap();
    machine.vm.vcpu_put(&machine.pin(), vcpu(0)).unwrap();
    machine.write(0, GICR, 0);

    machine.vm.teardown(&machine.pin()).unwrap();
    let before = machine.vm.host().reads.load(Relaxed);
    machine.advance();
    assert_eq!(machine.vm.host().reads.load(Relaxed), before);
}
