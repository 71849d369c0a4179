//! LPIs that outlive a mapping, are mapped twice, or are mapped again.

use super::*;
use crate::delivery::lpi_lifetime;
use crate::vm::irq::{ENABLED, GROUP1, MAX_MAPPING_REFS, PENDING, Pruned};

/// Translates an event, for an injector that is about to raise the interrupt.
fn in_flight<'a>(guest: &'a Guest, pin: &'a CpuPin<'_>, event: u32) -> &'a crate::vm::irq::Irq {
    let its = guest.vm.vm().its(ITS).unwrap();
    its.translate(DeviceId(1), EventId(event), pin.guard())
        .unwrap()
}

#[test]
fn a_raise_that_comes_after_discard_has_no_effect() {
    let guest = Guest::new().with_device_1();
    guest.run(&[mapti(1, 3, 8192, 2)]);
    let pin = guest.pin();
    let irq = in_flight(&guest, &pin, 3);
    guest.run(&[discard(1, 3)]);
    assert!(irq.raise().unmapped());
    assert_eq!(irq.state().queued_on(), None);
    assert!(guest.lpi(8192).is_none());
    drop(pin);
    guest.finish();
}

#[test]
fn one_of_two_mappings_keeps_the_interrupt() {
    let guest = Guest::new().with_device_1();
    guest.run(&[mapti(1, 3, 8192, 2), mapti(1, 4, 8192, 2), int(1, 4)]);
    assert_eq!(guest.lpi(8192).unwrap().refs(), 3);
    guest.run(&[discard(1, 3)]);
    assert_eq!(guest.msi(1, 3), Err(InjectError::UnmappedEvent));
    // The pending state is withdrawn, but the interrupt is alive.
    assert_eq!(guest.place(8192), (Some(2), false, None));
    assert_eq!(guest.msi(1, 4), Ok(Injected::Pending));
    assert_eq!(guest.place(8192), (Some(2), true, Some(2)));
    guest.run(&[discard(1, 4)]);
    assert!(guest.lpi(8192).is_none());
    guest.finish();
}

/// Maps every event of two devices to one LPI: the count of references would wrap.
#[test]
#[cfg_attr(miri, ignore = "too many commands")]
fn an_lpi_has_a_largest_number_of_mappings() {
    const MOST: u32 = 1 << 15;
    let guest = Guest::new();
    guest.run(&[mapc(0, Some(0)), mapd(1, Some(15)), mapd(2, Some(15))]);

    for device in [1, 2] {
        let events: Vec<_> = (0..MOST).map(|n| mapti(device, n, 8192, 0)).collect();
        for commands in events.chunks(127) {
            guest.run(commands);
        }
        assert_eq!(guest.lpi(8192).unwrap().refs(), MOST as u16);
    }
    assert_eq!(
        guest.fails(mapti(2, 0, 8192, 0)),
        Some(CommandError::IntidOutOfRange)
    );

    guest.run(&[mapd(2, None)]);
    assert_eq!(guest.lpi(8192).unwrap().refs(), MOST as u16);
    guest.run(&[mapd(1, None)]);
    assert!(guest.lpi(8192).is_none());
    guest.finish();
}

#[test]
fn two_itses_may_map_the_same_lpi() {
    let guest = Guest::with(|config| {
        config.its.push(crate::config::ItsConfig::at(0x0900_0000));
    })
    .with_device_1();
    let other = ItsId(1);
    guest.run(&[mapti(1, 3, 8192, 2)]);
    guest.run_on(
        other,
        &[mapc(0, Some(1)), mapd(9, Some(1)), mapti(9, 0, 8192, 0)],
    );
    assert_eq!(guest.lpi(8192).unwrap().refs(), 2);

    guest.run(&[mapd(1, None)]);
    assert_eq!(guest.msi(1, 3), Err(InjectError::UnmappedDevice));

    let translater = 0x0900_0000 + GITS_TRANSLATER;
    let raised = guest
        .vm
        .signal_msi(&guest.pin(), translater, DeviceId(9), 0);
    assert_eq!(raised, Ok(Injected::Pending));
    assert_eq!(guest.place(8192), (Some(1), true, Some(1)));
    guest.finish();
}

/// vCPU in the guest on a CPU of its own, ready to take interrupts.
struct Running<'a> {
    guest: &'a Guest,
    cpu: Cpu<SoftwareInterface>,
    vcpu: VcpuId,
}

impl<'a> Running<'a> {
    fn new(guest: &'a Guest, vcpu: u16) -> Self {
        let vcpu = VcpuId(vcpu);
        let local = guest.domain.register(CpuId(vcpu.0 + 1)).unwrap();
        let cpu = Cpu::new(local, SoftwareInterface::default());
        guest.vm.power_on(vcpu);
        let running = Self { guest, cpu, vcpu };
        running.enter();
        running.cpu.interface().write_igrpen1(true);
        running.cpu.interface().write_pmr(0xf8).unwrap();
        running.enter_again();
        running
    }

    fn enter(&self) {
        let pin = self.cpu.pin();
        self.guest.vm.enter(&pin, self.vcpu).unwrap();
    }

    fn exit(&self) {
        let pin = self.cpu.pin();
        self.guest.vm.exit(&pin, self.vcpu).unwrap();
    }

    fn enter_again(&self) {
        self.exit();
        self.enter();
    }

    /// Acknowledges and ends the most urgent interrupt. Returns the INTID, or 1023 for none.
    fn take(&self) -> u32 {
        let intid = self.cpu.interface().read_iar1();
        if intid != 1023 {
            self.cpu.interface().write_eoir1(intid);
        }
        intid
    }

    fn leave(self) {
        self.exit();
        let pin = self.cpu.pin();
        self.guest.vm.vcpu_put(&pin, self.vcpu).unwrap();
    }
}

#[test]
fn an_lpi_is_delivered_and_follows_a_move_out_of_a_list_register() {
    let guest = Guest::new().with_device_1();
    let (one, two) = (Running::new(&guest, 1), Running::new(&guest, 2));
    guest.run(&[mapti(1, 3, 8192, 2), int(1, 3)]);
    two.enter_again();
    assert_eq!((one.take(), two.take()), (1023, 8192));
    let _ = guest.msi(1, 3);
    two.enter_again();
    assert!(guest.lpi(8192).unwrap().in_lr());
    guest.run(&[movi(1, 3, 1)]);
    two.enter_again();
    one.enter_again();
    assert_eq!((one.take(), two.take()), (8192, 1023));
    one.leave();
    two.leave();
    guest.finish();
}

#[test]
fn discarded_in_a_list_register_and_mapped_again_it_is_the_same_interrupt() {
    let guest = Guest::new().with_device_1();
    let (one, two) = (Running::new(&guest, 1), Running::new(&guest, 2));
    guest.run(&[mapti(1, 3, 8192, 2), int(1, 3)]);
    two.enter_again();
    let pin = guest.pin();
    let irq = in_flight(&guest, &pin, 3);
    guest.run(&[discard(1, 3)]);

    // Only the ap_list keeps the interrupt. A late raise has no effect, also after the next
    // mapping.
    assert_eq!(irq.state().refs(), 1);
    assert!(irq.state().in_lr() && irq.state().unmapped());
    assert!(irq.raise().unmapped());

    guest.run(&[mapti(1, 4, 8192, 1)]);
    assert!(core::ptr::eq(irq, in_flight(&guest, &pin, 4)));
    assert_eq!(irq.state().refs(), 2);
    assert!(!irq.state().shows_pending());

    two.enter_again();
    one.enter_again();
    assert_eq!((one.take(), two.take()), (1023, 1023));
    assert_eq!(irq.state().refs(), 1);
    drop(pin);
    assert_eq!(guest.msi(1, 4), Ok(Injected::Pending));

    one.enter_again();
    assert_eq!((one.take(), two.take()), (8192, 1023));

    one.leave();
    two.leave();
    guest.finish();
}

#[test]
fn a_reference_that_outlives_the_mapping_does_not_keep_it_raisable() {
    let guest = Guest::new().with_device_1();
    guest.run(&[mapti(1, 3, 8192, 2), int(1, 3)]);
    let pin = guest.pin();
    let irq = in_flight(&guest, &pin, 3);

    // Another CPU has begun to migrate the interrupt: off one list, not yet on the next.
    let vcpu = guest.vm.vm().vcpu(VcpuId(2)).unwrap();
    let _ = irq.update(|state| state.with_target(Some(VcpuId(1))));
    let mut list = vcpu.ap_list.lock(pin.locks());
    list.unlink(irq);
    assert_eq!(irq.unlink(vcpu.id), Pruned::Migrating);
    drop(list);
    crate::delivery::prune::trace_list_put(guest.vm.vm(), &pin, irq.intid(), vcpu.id);
    pin.counters().migration_gets.add(1);
    guest.run(&[discard(1, 3)]);

    // The migration's reference keeps the interrupt alive, so a late raise still counts ...
    let _ = crate::delivery::inject::raised(guest.vm.vm(), &pin, irq, irq.raise());
    assert_eq!(guest.place(8192), (Some(1), true, Some(1)));

    // ... until the put of the reference.
    crate::delivery::lpi_lifetime::put_migration(guest.vm.vm(), &pin, irq);
    assert!(guest.lpi(8192).is_none());
    drop(pin);
    let (_, totals) = guest.finish();
    #[cfg(feature = "counters")]
    assert_eq!((totals.injections[3], totals.withdrawn[3]), (2, 2));
    let _ = totals;
}

#[test]
fn injectors_race_with_every_way_of_unmapping() {
    let guest = Guest::new().with_device_1();
    let (vm, domain) = (&guest.vm, &guest.domain);
    let rounds = if cfg!(miri) { 5 } else { 2000 };
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for cpu in 1..3 {
            let done = &done;
            scope.spawn(move || {
                let local = domain.register(CpuId(cpu)).unwrap();
                let mut n = 0;
                while !done.load(Relaxed) {
                    let pin = local.pin();
                    let _ = vm.inject_msi(&pin, ITS, DeviceId(1), EventId(n % 4));
                    n += 1;
                }
            });
        }
        let _stop = Stop(&done);
        for round in 0..rounds {
            let event = round % 4;
            guest.run(&[mapti(1, event, 8192 + round % 3, (round % 4) as u16)]);
            match round % 5 {
                0 => guest.run(&[discard(1, event)]),
                1 => guest.run(&[mapti(1, event, 8195, 1)]),
                2 => guest.run(&[mapd(1, Some(5))]),
                3 => guest.run(&[mapc(1, Some(u64::from(round % 4))), movi(1, event, 1)]),
                _ => guest.run(&[mapd(1, None), mapd(1, Some(3))]),
            };
        }
        guest.run(&[int(1, 0), mapti(1, 1, 8192, 0), int(1, 1), mapd(1, None)]);
    });

    // In any interleaving: no LPI is left, and the counters agree.
    for intid in 8192..8196 {
        assert_eq!(guest.lpi(intid), None, "{intid}");
    }
    let (report, totals) = guest.finish();
    assert_eq!(report.pending[3], 0);
    #[cfg(feature = "counters")]
    {
        let pended = totals.injections[3] - totals.coalesced[3];
        assert!(pended > 0);
        assert_eq!(totals.withdrawn[3], pended);
    }
    let _ = totals;
}

/// Makes LPI 8192 with `refs` mappings, and 8193 with one, as a restore does: pending on vCPU 1.
/// Returns the mappings that each has got.
fn restore_two(guest: &Guest, refs: u16) -> [u16; 2] {
    let pending = State::new(PENDING | ENABLED | GROUP1, Some(VcpuId(1))).with_priority(0x40);
    let lpis = [8192, 8193].map(|intid| (IntId::lpi(intid).unwrap(), pending, 1));
    let mut refs = [refs, 1];
    lpi_lifetime::make(guest.vm.vm(), &guest.pin(), lpis.into_iter(), &mut refs);
    refs
}

/// Ends `mappings` of an LPI, which are of no event.
fn unmap(guest: &Guest, intid: u32, mappings: u16) {
    let (vm, pin) = (guest.vm.vm(), guest.pin());
    let irq = vm.lpi(&pin, IntId::lpi(intid).unwrap()).unwrap();
    (0..mappings).for_each(|_| lpi_lifetime::unmap(vm, &pin, irq));
}

/// Makes two LPIs while one of the INTIDs is mapped: that LPI gets the mappings, the configuration
/// and the pending state.
#[test]
fn an_lpi_that_is_restored_gives_way_to_the_one_in_the_table() {
    let guest = Guest::new().with_device_1();
    guest.run(&[mapti(1, 3, 8192, 2)]);
    assert_eq!(restore_two(&guest, 2), [2, 1]);
    for (intid, mappings) in [(8192, 3), (8193, 1)] {
        assert_eq!(guest.place(intid), (Some(1), true, Some(1)));
        let state = guest.lpi(intid).unwrap();
        // The list has a reference too.
        assert_eq!((state.refs(), state.priority()), (mappings + 1, 0x40));
    }

    unmap(&guest, 8192, 2);
    unmap(&guest, 8193, 1);
    assert_eq!(guest.lpi(8192).unwrap().refs(), 1);
    assert!(guest.lpi(8193).is_none());
    guest.finish();
}

/// Makes an LPI with as many mappings as one may have, while the INTID is mapped.
#[test]
#[cfg_attr(miri, ignore = "too many mappings")]
fn an_lpi_that_gives_way_has_no_more_mappings_than_are_allowed() {
    let guest = Guest::new().with_device_1();
    guest.run(&[mapti(1, 3, 8192, 2)]);
    let [most, one] = restore_two(&guest, MAX_MAPPING_REFS);
    // The event has one, and the list another while the last ones are added.
    assert_eq!((most, one), (MAX_MAPPING_REFS - 2, 1));
    unmap(&guest, 8192, most);
    unmap(&guest, 8193, one);
    guest.finish();
}
