//! Looking at a VM: the dump, and a getter for each state that an embedder sets.

mod common;

use std::sync::{Arc, Mutex, OnceLock, Weak};

use common::its::{Driver, PENDING, PROPERTIES};
use common::{GICD, GITS, Machine, affinity, vcpu};
use vgic::epoch::Domain;
use vgic::intid::{Affinity, CpuId, DeviceId, EventId, IntId, ItsId, VcpuId};
use vgic::mmio::Width;
use vgic::{BadAddress, Blocked, Config, Host, InjectError, PhysicalInterrupt, Vgic};

fn dump(machine: &Machine) -> String {
    machine.vm.dump(&machine.pin()).to_string()
}

/// Returns the lines that begin with `title` or follow it, indented.
fn section<'a>(dump: &'a str, title: &str) -> Vec<&'a str> {
    let mut lines = dump.lines().skip_while(|line| !line.starts_with(title));
    let first = lines.next().expect(title);
    let indented = lines.take_while(|line| line.starts_with(' '));
    [first].into_iter().chain(indented.map(str::trim)).collect()
}

/// Returns a VM with five edges for vCPU 0, which is in the guest with four list registers; SPI 50
/// pending and disabled, SPI 51 pending and routed to no vCPU, and LPIs 8200 and 8201, of vCPUs 0
/// and 1.
fn busy() -> Machine {
    let machine = Machine::new(3);
    let driver = Driver::new(&machine);
    driver.mapd(8, 5);
    driver.mapd(9, 1);
    driver.map(8, 0, 8200, 0);
    driver.map(8, 1, 8201, 1);

    machine.inject_spi(50);
    machine.write64(0, GICD + 0x6000 + 51 * 8, 0x7f);
    machine.inject_spi(51);
    for spi in 40..45 {
        machine.edge_spi(spi, 0);
        machine.inject_spi(spi);
    }
    machine.enter(0);
    machine
}

#[test]
fn a_dump_says_what_waits_and_why() {
    let machine = busy();
    let text = dump(&machine);
    assert_eq!(
        section(&text, "vCPU 0"),
        [
            "vCPU 0, affinity 0.0.0.0: on, running on CPU 0, EnableLPIs 1",
            "SPI 40: priority 0x00, group 1; in a list register, last known pending",
            "SPI 41: priority 0x00, group 1; in a list register, last known pending",
            "SPI 42: priority 0x00, group 1; in a list register, last known pending",
            "SPI 43: priority 0x00, group 1; in a list register, last known pending",
            "SPI 44: priority 0x00, group 1, pending; waits: the list registers are full",
            "SPI 50: priority 0x00, group 1, pending; disabled",
            "ap_list: 5, 4 in list registers, 1 waiting",
        ],
        "{text}"
    );
    assert_eq!(
        section(&text, "routed to no vCPU"),
        [
            "routed to no vCPU:",
            "SPI 51: priority 0x00, group 1, pending; no target, disabled"
        ]
    );
    assert_eq!(
        section(&text, "ITS 0"),
        [
            "ITS 0 at 0x8080000: Enabled 1, GITS_CREADR 0xe0, GITS_CWRITER 0xe0",
            "device 0x8: events 2 mapped of 32",
            "device 0x9: events 0 mapped of 2",
            "devices 2 of 4096, events 2 mapped, with room for 34 of 262144",
        ]
    );
    assert!(text.starts_with("vGIC: vCPUs 3 of 3, SPIs 988, LPIs 8192-"));
    assert!(text.contains("\nGICD_CTLR: EnableGrp0 1, EnableGrp1 1\ndeferred work: none\n"));
    machine.finish();
}

#[test]
fn a_dump_tells_the_places_of_vcpus_and_what_holds_interrupts_back() {
    let machine = busy();
    let has = |part: &str| {
        let text = dump(&machine);
        assert!(text.contains(part), "no {part:?} in\n{text}");
    };

    // Routed elsewhere, and still in the list register.
    machine.write64(0, GICD + 0x6000 + 40 * 8, affinity(1).mpidr());
    let text = dump(&machine);
    let moving = "SPI 40: priority 0x00, group 1; in a list register, last known pending";
    assert!(section(&text, "vCPU 0").contains(&moving), "{text}");
    machine.write64(0, GICD + 0x6000 + 40 * 8, affinity(0).mpidr());

    // In the guest and kicked; out of it for an exit, and kicked too; blocked.
    machine.inject_msi(8, 0).unwrap();
    has("LPI 8200: priority 0xa0, group 1, pending; waits: the vCPU has been kicked\n");
    machine.edge_spi(46, 1);
    machine.inject_spi(46);
    has("SPI 46: priority 0x00, group 1, pending; waits: the vCPU has been kicked\n");
    assert_eq!(machine.block(2), Blocked::Yes);
    has("vCPU 2, affinity 0.0.0.2: on, on CPU 2, blocked");
    machine.edge_spi(47, 2);
    machine.inject_spi(47);
    has("SPI 47: priority 0x00, group 1, pending; waits: the vCPU has been woken\n");

    // LPIs of a vCPU, then the groups.
    machine.inject_msi(8, 1).unwrap();
    has("LPI 8201: priority 0xa0, group 1, pending; waits: the vCPU has been kicked\n");
    machine.write(0, GICD, 0x11);
    has("EnableGrp0 1, EnableGrp1 0\n");
    has("SPI 44: priority 0x00, group 1, pending; held back: GICD_CTLR.EnableGrp1 is 0\n");
    machine.write(0, GICD, 0x13);

    // A level, taken and then out of its list register: vCPU 1 leaves its CPU with it active.
    let spi = IntId::spi(60).unwrap();
    machine.write64(0, GICD + 0x6000 + 60 * 8, affinity(1).mpidr());
    machine.set_spi(0, 0x100, 60);
    machine.vm.set_spi_line(&machine.pin(), spi, true).unwrap();
    machine.enter(1);
    assert_eq!(machine.guest(1).read_iar1(), 46);
    machine.guest(1).write_eoir1(46);
    assert_eq!(machine.guest(1).read_iar1(), 60);
    machine.exit(1);
    let cpu = &machine.cpus[1];
    machine.vm.vcpu_put(&cpu.pin(), vcpu(1)).unwrap();
    has("SPI 60: priority 0x00, group 1, line high, active; waits for the next entry\n");
    has("vCPU 1, affinity 0.0.0.1: on, on no CPU");

    // Off.
    let cpu = &machine.cpus[2];
    machine.vm.power_off(&cpu.pin(), vcpu(2)).unwrap();
    has("vCPU 2, affinity 0.0.0.2: off, on no CPU");
    has("SPI 47: priority 0x00, group 1, pending; waits: the vCPU is off\n");
    machine.finish();
}

#[test]
fn lpis_wait_for_enable_lpis() {
    let machine = Machine::new(2);
    let driver = Driver::new(&machine);
    driver.mapd(8, 5);
    driver.map(8, 1, 8201, 1);
    machine.write(1, machine.gicr(1), 0);
    machine.inject_msi(8, 1).unwrap();
    assert_eq!(
        section(&dump(&machine), "vCPU 1")[1],
        "LPI 8201: priority 0xa0, group 1, pending; held back: GICR_CTLR.EnableLPIs is 0"
    );
    machine.finish();
}

#[test]
fn long_lists_end_with_the_number_of_the_others() {
    let machine = Machine::new(1);
    let driver = Driver::new(&machine);
    driver.mapd(0, 7);
    (0..100).for_each(|event| driver.map(0, event, 8192 + event, 0));
    (0..100).for_each(|event| machine.inject_msi(0, event).unwrap());
    (1..80).for_each(|device| driver.mapd(device, 1));

    let text = dump(&machine);
    let vcpu = section(&text, "vCPU 0");
    assert_eq!(vcpu.len(), 1 + 64 + 2, "{text}");
    assert_eq!(vcpu[65], "and 36 interrupts more");
    assert!(vcpu[66].starts_with("ap_list: 100, "), "{}", vcpu[66]);
    let its = section(&text, "ITS 0");
    assert_eq!(its[65], "and 16 devices more");
    let sum = "devices 80 of 4096, events 100 mapped, with room for 286 of 262144";
    assert_eq!(its[66], sum);
    machine.finish();
}

#[test]
fn deferred_work_is_named() {
    let machine = Machine::new(1);
    assert!(dump(&machine).contains("\ndeferred work: none\n"));
    let gicr = machine.gicr(0);
    machine.write64(0, gicr + 0x70, PROPERTIES | 15);
    machine.write64(0, gicr + 0x78, PENDING);
    machine.write(0, gicr, 1);
    assert!(machine.vm.has_deferred());
    let text = dump(&machine);
    assert!(
        text.contains("\ndeferred work: pending tables to read\n"),
        "{text}"
    );
    machine.advance();
    assert!(dump(&machine).contains("\ndeferred work: none\n"));
    machine.finish();
}

#[test]
fn dumps_change_nothing() {
    let machine = busy();
    machine.inject_msi(8, 0).unwrap();
    let observe = || {
        let calls = machine.vm.host().calls.lock().unwrap().len();
        (format!("{:?}", machine.domain.totals()), calls)
    };

    let before = observe();
    let first = dump(&machine);
    for _ in 0..1000 {
        assert_eq!(dump(&machine), first);
    }
    assert_eq!(observe(), before);
    let debug = "Vgic { vcpus: 3, spis: 988, extended_spis: 0, extended_ppis: 0, lpis: ";
    assert!(format!("{:?}", machine.vm).starts_with(debug));

    // A formatter that fails ends the dump.
    struct Full(usize);
    impl std::fmt::Write for Full {
        fn write_str(&mut self, text: &str) -> std::fmt::Result {
            self.0 = self.0.checked_sub(text.len()).ok_or(std::fmt::Error)?;
            Ok(())
        }
    }
    let pin = machine.pin();
    let text = machine.vm.dump(&pin);
    for room in 0..first.len() {
        std::fmt::write(&mut Full(room), format_args!("{text}")).unwrap_err();
    }
    drop(text);
    drop(pin);
    machine.finish();
}

#[test]
fn a_foreign_pin_sees_nothing() {
    let machine = busy();
    let cpu = Domain::new().register(CpuId(0)).unwrap();
    let text = machine.vm.dump(&cpu.pin()).to_string();
    assert_eq!(text, "vGIC: the pin is of another domain than the VM");
    machine.finish();
}

/// A host that takes a dump in a callback that runs under the command lock.
struct Curious {
    domain: Arc<Domain>,
    vm: OnceLock<Weak<Vgic<Curious>>>,
    text: Mutex<String>,
}

impl Host for Curious {
    fn kick(&self, _cpu: CpuId, _vcpu: VcpuId) {}
    fn wake(&self, _vcpu: VcpuId) {}
    fn write_memory(&self, _: u64, _: &[u8]) -> Result<(), BadAddress> {
        Err(BadAddress)
    }
    fn deactivate(&self, _physical: PhysicalInterrupt) {}
    fn is_pending(&self, _physical: PhysicalInterrupt) -> bool {
        false
    }

    fn read_memory(&self, gpa: u64, buffer: &mut [u8]) -> Result<(), BadAddress> {
        // Every command is MAPD of device 1, with an event.
        let command = [0x0000_0001_0000_0008_u64, 0, 1 << 63 | 0x1_0000, 0];
        let bytes: Vec<u8> = command.iter().flat_map(|word| word.to_le_bytes()).collect();
        for (at, byte) in (gpa..).zip(buffer) {
            *byte = bytes[at as usize % 32];
        }
        Ok(())
    }

    fn device_mapped(&self, _its: ItsId, _device: DeviceId, _event_bits: u8) {
        let vm = self.vm.get().unwrap().upgrade().unwrap();
        let cpu = self.domain.register(CpuId(1)).unwrap();
        *self.text.lock().unwrap() = vm.dump(&cpu.pin()).to_string();
    }
}

#[test]
fn a_callback_under_a_lock_takes_a_dump() {
    let domain = Arc::new(Domain::new());
    let host = Curious {
        domain: Arc::clone(&domain),
        vm: OnceLock::new(),
        text: Mutex::default(),
    };
    let config = Config::new(vec![Affinity::new(0, 0, 0, 0)]).with_its(GITS);
    let vm = Arc::new(Vgic::new(&domain, config, host).unwrap());
    let _ = vm.host().vm.set(Arc::downgrade(&vm));

    let cpu = domain.register(CpuId(0)).unwrap();
    for (register, width, value) in [
        (0x100, Width::Double, 1 << 63 | 0x2_0000),
        (0x80, Width::Double, 1 << 63 | 0x3_0000),
        (0x00, Width::Word, 1),
        (0x88, Width::Double, 32),
    ] {
        let _ = vm
            .mmio_write(&cpu.pin(), GITS + register, width, value)
            .unwrap();
    }
    let text = vm.host().text.lock().unwrap();
    assert!(
        text.contains("GITS_CREADR 0x0, GITS_CWRITER 0x20, commands to execute"),
        "{text}"
    );
}

#[test]
fn dumps_are_taken_while_other_cpus_work() {
    let rounds = if cfg!(miri) { 3 } else { 300 };
    let machine = Machine::new(2);
    let driver = Driver::new(&machine);
    driver.mapd(8, 5);
    let (domain, vm) = (&machine.domain, &machine.vm);
    let done = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        let observer = scope.spawn(|| {
            let cpu = domain.register(CpuId(7)).unwrap();
            let mut taken = 0;
            while taken < 10 || !done.load(std::sync::atomic::Ordering::Acquire) {
                let text = vm.dump(&cpu.pin()).to_string();
                assert!(text.contains("device 0x8"), "{text}");
                taken += 1;
            }
        });
        for round in 0..rounds {
            driver.map(8, round % 32, 8192 + round % 50, 0);
            let pin = machine.pin();
            let _ = vm.inject_msi(&pin, ItsId(0), DeviceId(8), EventId(round as u32 % 32));
            machine.serve(0);
            driver.discard(8, round % 32);
        }
        done.store(true, std::sync::atomic::Ordering::Release);
        observer.join().unwrap();
    });
    machine.finish();
}

#[test]
fn getters_return_what_was_set() {
    let config = Config::new((0..2).map(affinity).collect()).with_max_vcpus(3);
    let machine = Machine::from_config(config);
    let vm = &machine.vm;
    let present = || vm.vcpus().map(VcpuId::index).collect::<Vec<_>>();
    assert_eq!(present(), [0, 1]);
    assert_eq!(vm.vcpu_cpu(vcpu(0)), None);

    // An added vCPU is off. Of an unknown one there is nothing to say.
    assert!(!vm.is_powered_on(vcpu(2)));
    let added = vm.add_vcpu(&machine.pin(), affinity(2)).unwrap();
    assert_eq!((present(), added), (vec![0, 1, 2], vcpu(2)));
    assert!(vm.power_on(vcpu(2)) || vm.is_powered_on(vcpu(2)));
    assert!(vm.is_powered_on(vcpu(0)) && vm.is_powered_on(vcpu(2)));

    machine.enter(1);
    assert_eq!(vm.vcpu_cpu(vcpu(1)), Some(CpuId(1)));
    machine.exit(1);
    assert_eq!(vm.vcpu_cpu(vcpu(1)), Some(CpuId(1)));
    vm.power_off(&machine.cpus[1].pin(), vcpu(1)).unwrap();
    assert_eq!(
        (vm.vcpu_cpu(vcpu(1)), vm.is_powered_on(vcpu(1))),
        (None, false)
    );

    let (spi, ppi) = (IntId::spi(40).unwrap(), IntId::ppi(27).unwrap());
    for high in [true, false, true] {
        vm.set_spi_line(&machine.pin(), spi, high).unwrap();
        vm.set_ppi_line(&machine.pin(), vcpu(1), ppi, !high)
            .unwrap();
        assert_eq!(vm.spi_line(spi), Ok(high));
        assert_eq!(vm.ppi_line(vcpu(1), ppi), Ok(!high));
        assert_eq!(vm.ppi_line(vcpu(0), ppi), Ok(false));
    }
    // A latch is no line.
    let (latched, pin) = (IntId::ppi(28).unwrap(), machine.pin());
    let _ = vm.inject_ppi(&pin, vcpu(1), latched).unwrap();
    let _ = vm.inject_spi(&pin, IntId::spi(41).unwrap()).unwrap();
    drop(pin);
    assert_eq!(vm.ppi_line(vcpu(1), latched), Ok(false));
    assert_eq!(vm.spi_line(IntId::spi(41).unwrap()), Ok(false));
    // The line of an edge-triggered interrupt is remembered too.
    machine.write(0, GICD + 0xc08, 2 << 16);
    assert_eq!(vm.spi_line(spi), Ok(true));

    // Connections: two of them, and one that has ended.
    let (timer, pin) = (IntId::ppi(30).unwrap(), machine.pin());
    vm.connect_spi(&pin, spi, IntId::spi(140).unwrap()).unwrap();
    vm.connect_ppi(&pin, vcpu(1), ppi, timer).unwrap();
    assert_eq!(vm.spi_connection(spi), Ok(IntId::spi(140)));
    assert_eq!(vm.ppi_connection(vcpu(1), ppi), Ok(Some(timer)));
    assert_eq!(vm.ppi_connection(vcpu(0), ppi), Ok(None));
    vm.disconnect_spi(&pin, spi).unwrap();
    assert_eq!(vm.spi_connection(spi), Ok(None));
    drop(pin);

    assert_eq!(vm.spi_connection(ppi), Err(InjectError::UnknownInterrupt));
    let error = InjectError::UnknownInterrupt;
    assert_eq!(vm.ppi_connection(vcpu(0), spi), Err(error));
    assert_eq!(vm.spi_line(ppi), Err(InjectError::UnknownInterrupt));
    assert_eq!(
        vm.ppi_line(vcpu(0), spi),
        Err(InjectError::UnknownInterrupt)
    );
    let unknown = vcpu(3);
    assert_eq!(vm.ppi_line(unknown, ppi), Err(InjectError::UnknownVcpu));
    let error = InjectError::UnknownVcpu;
    assert_eq!(vm.ppi_connection(unknown, ppi), Err(error));
    assert_eq!(
        (vm.vcpu_cpu(unknown), vm.is_powered_on(unknown)),
        (None, false)
    );
    machine.finish();
}
