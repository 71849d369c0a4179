//! The command queue: order, wrapping, slices, and queues outside RAM.

use super::*;
use crate::its::command_queue::{COMMAND_STEPS, EVENT_STEPS, SLICE};

#[test]
fn the_queue_wraps() {
    let guest = Guest::new().with_device_1();
    for round in 0..50 {
        let event = round % 32;
        let intid = 8192 + round;
        guest.run(&[
            mapti(1, event, intid, 0),
            int(1, event),
            movi(1, event, 1),
            [0xff; 4],
            int(1, event),
            inv(1, event),
            discard(1, event),
        ]);
        let notices = [
            Notice::Mapped(1, event, intid, Some(0)),
            Notice::Mapped(1, event, intid, Some(1)),
            Notice::Failed(0xff, CommandError::Unknown),
            Notice::Unmapped(1, event),
        ];
        assert_eq!(guest.notices(), notices, "round {round}");
    }
    guest.finish();
}

#[test]
fn a_write_of_cwriter_executes_one_slice_and_advance_the_next() {
    let guest = Guest::new().with_device_1();
    let slice = u64::from(SLICE / COMMAND_STEPS);
    let before = guest.read(GITS_CREADR);
    let commands = vec![sync(0); 100];
    let cwriter = guest.put(ITS, &commands);
    guest.write(GITS_CWRITER, cwriter);
    let creadr = || guest.vm.vm().its(ITS).unwrap().creadr();
    assert_eq!(creadr() - before, slice * 32);
    assert!(guest.vm.has_deferred());

    guest.vm.advance(&guest.pin()).unwrap();
    assert_eq!(creadr() - before, 2 * slice * 32);
    assert_eq!(guest.read(GITS_CREADR) - before, 3 * slice * 32);

    guest.vm.advance(&guest.pin()).unwrap();
    assert_eq!(creadr(), cwriter);
    assert!(!guest.vm.has_deferred());
    guest.finish();
}

#[test]
fn a_slice_reads_each_command_once() {
    let guest = Guest::new().with_device_1();
    let base = guest.read(GITS_CREADR);
    let cwriter = guest.put(ITS, &vec![sync(0); 32]);
    guest.vm.host().reads.lock().unwrap().clear();
    guest.write(GITS_CWRITER, cwriter);
    assert_eq!(guest.read(GITS_CREADR), cwriter);
    let reads = guest.vm.host().reads.lock().unwrap().clone();
    let each: Vec<_> = (0..32).map(|n| (QUEUE + base + n * 32, 32)).collect();
    assert_eq!(reads, each);
    guest.finish();
}

#[test]
fn commands_outside_ram_fail_and_are_skipped() {
    let guest = Guest::new().with_device_1();
    guest.enable(false);

    // The queue's last page lies outside RAM; the command before it does not.
    let end = RAM + RAM_SIZE as u64;
    guest.write(GITS_CBASER, VALID | (end - 0x1_0000) | 0x10);
    guest.enable(true);
    let last = 0x1_0000 - 32;
    for offset in (0..=last).step_by(32) {
        guest.write_memory(end - 0x1_0000 + offset, sync(0)[0]);
    }
    let before = guest.totals();

    // With `GITS_CREADR` off a slice's boundary, one slice reaches from RAM to beyond RAM.
    guest.write(GITS_CWRITER, 5 * 32);
    guest.write(GITS_CWRITER, 0x1_0000 + 64);
    for _ in 0..100 {
        guest.read(GITS_CREADR);
    }
    assert_eq!(guest.read(GITS_CREADR), 0x1_0000 + 64);

    let after = guest.totals();
    #[cfg(feature = "counters")]
    {
        assert_eq!(after.its_commands - before.its_commands, 0x1_0000 / 32 + 2);
        assert_eq!(after.its_command_errors - before.its_command_errors, 2);
    }
    let _ = (before, after);
    assert_eq!(
        guest.notices(),
        [Notice::Failed(0, CommandError::Unreadable); 2]
    );
    guest.finish();
}

#[test]
fn long_and_short_commands_share_a_slice() {
    let guest = Guest::new().with_device_1();
    let events: Vec<_> = (0..32).map(|n| mapti(1, n, 8192 + n, 0)).collect();
    guest.run(&events);
    let before = guest.read(GITS_CREADR);
    // An `INVALL` takes about 1,000 steps: 32 events, and the slots without a device.
    let cwriter = guest.put(ITS, &[[invall(0), sync(0)]; 20].concat());
    guest.write(GITS_CWRITER, cwriter);
    let executed = (guest.vm.vm().its(ITS).unwrap().creadr() - before) / 32;
    assert_eq!(executed, 3, "and a fourth is begun");
    let polls = guest.run(&[]);
    assert!((7..12).contains(&polls), "{polls}: the next slice goes on");
    guest.finish();
}

#[test]
fn cwriter_outside_the_queue_does_nothing_until_it_is_inside() {
    let guest = Guest::new();
    guest.write(GITS_CWRITER, 0x8000);
    assert_eq!(guest.read(GITS_CREADR), 0);
    assert!(!guest.vm.has_deferred());
    guest.write(GITS_CWRITER, 0xffe0);
    assert_eq!(guest.read(GITS_CREADR), 0);
    guest.write(GITS_CWRITER, 0);
    guest.run(&[mapc(0, Some(1))]);
    assert_eq!(guest.notices(), []);
    guest.finish();
}

#[test]
fn a_disabled_its_leaves_its_queue_alone() {
    let guest = Guest::new().with_device_1();
    guest.enable(false);
    let creadr = guest.read(GITS_CREADR);
    let cwriter = guest.put(ITS, &[mapti(1, 0, 8192, 0)]);
    guest.write(GITS_CWRITER, cwriter);
    assert_eq!(guest.read(GITS_CREADR), creadr);
    assert!(!guest.vm.has_deferred());
    guest.enable(true);
    assert_eq!(guest.read(GITS_CREADR), cwriter);
    assert_eq!(guest.notices(), [Notice::Mapped(1, 0, 8192, Some(0))]);
    guest.finish();
}

/// Creates a guest with 10,000 LPIs of four devices, all in collection 0.
fn many() -> Guest {
    let guest = Guest::new().with_device_1();
    for device in 0..4 {
        guest.run(&[mapd(10 + device, Some(12))]);
        for start in (0..2500).step_by(100) {
            let commands: Vec<_> = (start..start + 100)
                .flat_map(|event| {
                    let intid = 8192 + device * 2500 + event;
                    guest.configure(intid, 0xa1);
                    [mapti(10 + device, event, intid, 0)]
                })
                .collect();
            guest.run(&commands);
        }
    }
    guest.notices();
    guest
}

const MANY: u32 = 10_000;

/// Gives one command and checks that the command is done in slices. `GITS_CREADR` moves only at the
/// end.
fn in_slices(guest: &Guest, command: Command) {
    let before = guest.read(GITS_CREADR);
    let cwriter = guest.put(ITS, &[command]);
    guest.write(GITS_CWRITER, cwriter);
    let mut slices = 1;
    while guest.vm.has_deferred() {
        assert_eq!(guest.vm.vm().its(ITS).unwrap().creadr(), before);
        assert!(guest.vm.vm().its(ITS).unwrap().is_enabled());
        guest.vm.advance(&guest.pin()).unwrap();
        slices += 1;
    }
    assert_eq!(guest.vm.vm().its(ITS).unwrap().creadr(), cwriter);
    // The slots of the nodes for 16-bit IDs count too, for each event and each device.
    let least = MANY * EVENT_STEPS / SLICE;
    let most = MANY * (EVENT_STEPS + 4) / SLICE + 2;
    assert!((least..=most).contains(&slices), "{slices} slices");
}

#[test]
fn invall_of_10_000_lpis_takes_slices() {
    let guest = many();
    for intid in 8192..8192 + MANY {
        guest.configure(intid, 0x20);
    }
    in_slices(&guest, invall(0));
    for intid in 8192..8192 + MANY {
        let state = guest.lpi(intid).unwrap();
        assert!(
            !state.enabled() && state.priority() == 0x20,
            "{intid} {state:?}"
        );
    }
    guest.finish();
}

#[test]
fn mapc_movall_and_mapd_of_10_000_lpis_take_slices() {
    let guest = many();
    for device in 0..4 {
        for event in 0..2500 {
            assert_eq!(guest.msi(10 + device, event), Ok(Injected::Pending));
        }
    }
    in_slices(&guest, movall(0, 1));
    assert!((8192..8192 + MANY).all(|intid| guest.place(intid) == (Some(1), true, Some(1))));

    in_slices(&guest, mapc(0, Some(2)));
    assert!((8192..8192 + MANY).all(|intid| guest.place(intid) == (Some(2), true, Some(2))));
    assert_eq!(guest.notices().len(), MANY as usize);

    let polls = guest.run(&[mapd(10, None)]);
    assert!(polls >= 2500 * EVENT_STEPS / SLICE, "{polls} polls");
    assert_eq!(guest.notices().len(), 2500);
    let (report, totals) = guest.finish();
    assert_eq!(report.pending[3], u64::from(MANY - 2500));
    #[cfg(feature = "counters")]
    assert_eq!(totals.withdrawn[3], u64::from(MANY));
    let _ = totals;
}

#[test]
fn a_disabled_its_completes_a_begun_command_and_is_then_quiescent() {
    let guest = many();
    let cwriter = guest.put(ITS, &[mapc(0, Some(2)), mapc(0, Some(3))]);
    let before = guest.read(GITS_CREADR);
    guest.write(GITS_CWRITER, cwriter);
    guest.enable(false);

    // Writes for a restart are ignored until the ITS is quiescent.
    guest.write(GITS_CBASER, VALID | QUEUE);
    guest.write(GITS_BASER0, 0);
    let mut polls = 0;
    while !guest.ctlr().1 {
        polls += 1;
    }
    assert!(polls > 50, "{polls} polls");
    assert_eq!(guest.vm.vm().its(ITS).unwrap().creadr(), before + 32);
    assert_eq!(guest.place(8192).0, Some(2));

    guest.vm.advance(&guest.pin()).unwrap();
    assert!(!guest.vm.has_deferred());

    guest.enable(true);
    guest.run(&[]);
    assert_eq!(guest.place(8192).0, Some(3));
    guest.finish();
}

#[test]
fn a_held_command_lock_leaves_the_work_to_advance() {
    let guest = Guest::new().with_device_1();
    let its = guest.vm.vm().its(ITS).unwrap();
    let other = guest.domain.register(CpuId(1)).unwrap();
    let cwriter = guest.put(ITS, &[mapti(1, 0, 8192, 0)]);
    let busy = its.commands.engine.lock(other.pin().locks());
    guest.write(GITS_CWRITER, cwriter);
    assert_ne!(guest.read(GITS_CREADR), cwriter);
    drop(busy);
    assert!(guest.vm.has_deferred());
    guest.vm.advance(&guest.pin()).unwrap();
    assert_eq!(its.creadr(), cwriter);
    guest.finish();
}

#[test]
fn many_cpus_at_one_queue() {
    let guest = Guest::new().with_device_1();
    let (vm, domain) = (&guest.vm, &guest.domain);
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for cpu in 1..4 {
            let done = &done;
            scope.spawn(move || {
                let local = domain.register(CpuId(cpu)).unwrap();
                while !done.load(Relaxed) {
                    let pin = local.pin();
                    vm.advance(&pin).unwrap();
                    crate::mmio::gits::gits_read(vm.vm(), &pin, ITS, GITS_CREADR, Width::Double);
                    let _ = vm.inject_msi(&pin, ITS, DeviceId(1), EventId(u32::from(cpu)));
                }
            });
        }
        let _stop = Stop(&done);
        for round in 0..200 {
            let event = round % 4;
            guest.run(&[
                mapti(1, event, 8192 + event, 0),
                int(1, event),
                movi(1, event, 1),
                discard(1, event),
                mapti(1, event, 8196 + event, 1),
                mapd(1, Some(5)),
            ]);
        }
    });
    let notices = guest.notices();
    let mapped = |notice: &&Notice| matches!(notice, Notice::Mapped(..));
    assert_eq!(notices.iter().filter(mapped).count(), 3 * 200);
    assert_eq!(
        notices.len(),
        5 * 200,
        "a command failed or was executed twice"
    );
    guest.finish();
}
