//! Mistakes of an embedder. Each is refused with a matching error, and changes nothing. Mistakes in
//! a configuration are tested beside `Config::validate`.

mod common;

use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;

use common::its::Driver;
use common::{GICD, GITS, Machine, TestHost, affinity, vcpu};
use vgic::config::GITS_TRANSLATER;
use vgic::cpu_interface::software::{NEOVERSE, SoftwareInterface};
use vgic::cpu_interface::{CpuInterface, Vtr};
use vgic::epoch::Domain;
use vgic::intid::{Affinity, CpuId, DeviceId, EventId, IntId, ItsId};
use vgic::lr::ListRegister;
use vgic::mmio::{MmioOutcome, Width};
use vgic::sysreg::SysReg;
use vgic::{
    AccessError, Config, ConfigError, Cpu, CpuError, EntryError, Erratum, InjectError,
    RegisterError, TeardownError, Vgic,
};

#[test]
fn a_vcpu_is_entered_once_where_its_registers_are() {
    let machine = Machine::new(2);
    let [first, second] = [&machine.cpus[0], &machine.cpus[1]];
    let enter = |cpu: &Cpu<_>, n| machine.vm.enter(&cpu.pin(), vcpu(n));
    let put = |cpu: &Cpu<_>, n| machine.vm.vcpu_put(&cpu.pin(), vcpu(n));

    assert_eq!(enter(first, 0), Ok(()));
    assert_eq!(enter(first, 0), Err(EntryError::AlreadyEntered(vcpu(0))));
    // The second CPU has vCPU 1 since its set-up.
    assert_eq!(enter(second, 0), Err(EntryError::CpuInUse));
    assert_eq!(put(first, 0), Err(EntryError::AlreadyEntered(vcpu(0))));
    let block = |cpu: &Cpu<_>, n| machine.vm.block(&cpu.pin(), vcpu(n));
    assert_eq!(block(first, 0), Err(EntryError::AlreadyEntered(vcpu(0))));
    let power_off = |cpu: &Cpu<_>, n| machine.vm.power_off(&cpu.pin(), vcpu(n));
    assert_eq!(
        power_off(first, 0),
        Err(EntryError::AlreadyEntered(vcpu(0)))
    );

    machine.exit(0);
    let exit = |cpu: &Cpu<_>, n| machine.vm.exit(&cpu.pin(), vcpu(n));
    assert_eq!(exit(first, 0), Err(EntryError::NotEntered(vcpu(0))));
    assert_eq!(put(second, 0), Err(EntryError::NotEntered(vcpu(0))));
    assert_eq!(block(second, 0), Err(EntryError::NotEntered(vcpu(0))));

    // vCPU 1 has been on the second CPU since its set-up.
    assert_eq!(enter(first, 1), Err(EntryError::CpuInUse));
    assert_eq!(put(second, 1), Ok(()));
    assert_eq!(enter(second, 0), Err(EntryError::OnAnotherCpu(vcpu(0))));

    assert_eq!(power_off(first, 0), Ok(()));
    assert_eq!(enter(first, 0), Err(EntryError::PoweredOff(vcpu(0))));
    assert!(machine.vm.power_on(vcpu(0)));
    assert!(!machine.vm.power_on(vcpu(0)), "it is on");
    assert_eq!(enter(second, 0), Ok(()));
    assert_eq!(exit(second, 0), Ok(()));
    assert_eq!(put(second, 0), Ok(()));
    machine.finish();
}

#[test]
fn a_cpu_refuses_intids_that_its_list_registers_cut_off() {
    let with = |id_bits, lpis| {
        let domain = Domain::new();
        let vtr = Vtr {
            id_bits,
            ..NEOVERSE
        };
        let local = domain.register(CpuId(0)).unwrap();
        let cpu = Cpu::new(local, SoftwareInterface::new(vtr));
        let mut config = Config::new(vec![affinity(0)]).with_its(GITS);
        if let Some(lpis) = lpis {
            config.lpis = lpis;
        }
        let vm = Vgic::new(&domain, config, TestHost::default()).unwrap();
        let entered = vm.enter(&cpu.pin(), vcpu(0));
        let free = entered.is_err() && vm.vcpu_put(&cpu.pin(), vcpu(0)).is_err();
        (entered, free)
    };

    let refused = EntryError::IntidBits { vm: 17, cpu: 16 };
    assert_eq!(with(16, Some(0x1_0000)), (Err(refused), true));
    assert_eq!(with(24, Some(0x1_0000)), (Ok(()), false));
    assert_eq!(with(16, Some(0x8000)), (Ok(()), false));
    assert_eq!(with(16, None), (Ok(()), false), "the default");
}

#[test]
fn an_unknown_vcpu_is_refused_everywhere() {
    let machine = Machine::new(1);
    let (cpu, none) = (&machine.cpus[0], vcpu(1));
    let pin = cpu.pin();
    let unknown = EntryError::UnknownVcpu(none);

    assert_eq!(machine.vm.enter(&pin, none), Err(unknown));
    assert_eq!(machine.vm.exit(&pin, none), Err(unknown));
    assert_eq!(machine.vm.vcpu_put(&pin, none), Err(unknown));
    assert_eq!(machine.vm.power_off(&pin, none), Err(unknown));
    assert_eq!(machine.vm.block(&pin, none), Err(unknown));
    assert!(!machine.vm.power_on(none));

    let read = machine.vm.mmio_read(&pin, none, common::GICD, Width::Word);
    assert_eq!(read, Err(AccessError::UnknownVcpu(none)));

    let ppi = IntId::ppi(27).unwrap();
    for error in [
        machine.vm.inject_ppi(&pin, none, ppi).err(),
        machine.vm.forward_ppi(&pin, none, ppi).err(),
        machine.vm.set_ppi_line(&pin, none, ppi, true).err(),
        machine.vm.connect_ppi(&pin, none, ppi, ppi).err(),
        machine.vm.disconnect_ppi(&pin, none, ppi).err(),
    ] {
        assert_eq!(error, Some(InjectError::UnknownVcpu));
    }
    drop(pin);
    machine.finish();
}

#[test]
fn an_interrupt_of_another_kind_is_refused() {
    let machine = Machine::new(1);
    let pin = machine.pin();
    let vm = &machine.vm;
    let [sgi, ppi, spi, lpi] = [3, 27, 40, 8192].map(|raw| IntId::new(raw).unwrap());

    for wrong in [sgi, ppi, lpi] {
        let errors = [
            vm.inject_spi(&pin, wrong).err(),
            vm.forward_spi(&pin, wrong).err(),
            vm.set_spi_line(&pin, wrong, true).err(),
            vm.connect_spi(&pin, wrong, spi).err(),
            vm.disconnect_spi(&pin, wrong).err(),
        ];
        assert_eq!(
            errors,
            [Some(InjectError::UnknownInterrupt); 5],
            "{wrong:?}"
        );
    }

    for wrong in [sgi, spi, lpi] {
        let error = vm.inject_ppi(&pin, vcpu(0), wrong).err();
        assert_eq!(error, Some(InjectError::UnknownInterrupt), "{wrong:?}");
    }

    // A physical PPI belongs to a CPU, and an SPI to none.
    for physical in [sgi, ppi, lpi] {
        let error = vm.connect_spi(&pin, spi, physical).err();
        assert_eq!(error, Some(InjectError::UnknownInterrupt), "{physical:?}");
    }

    let none = vm.inject_msi(&pin, ItsId(1), DeviceId(0), EventId(0));
    assert_eq!(none.err(), Some(InjectError::ItsDisabled));
    drop(pin);
    machine.finish();
}

#[test]
fn an_msi_that_leads_nowhere_is_refused() {
    let machine = Machine::new(2);
    let msi = |device, event| {
        let (device, event) = (DeviceId(device), EventId(event));
        machine
            .vm
            .inject_msi(&machine.pin(), ItsId(0), device, event)
            .err()
    };

    let signal = |translater| {
        let pin = machine.pin();
        machine
            .vm
            .signal_msi(&pin, translater, DeviceId(1), 3)
            .err()
    };

    assert_eq!(msi(1, 3), Some(InjectError::ItsDisabled));
    let driver = Driver::new(&machine);
    assert_eq!(msi(1, 3), Some(InjectError::UnmappedDevice));
    // A DeviceID with more bits than the ITS's.
    assert_eq!(msi(0x1_0000, 3), Some(InjectError::UnmappedDevice));

    driver.mapd(1, 4);
    assert_eq!(msi(1, 3), Some(InjectError::UnmappedEvent));
    assert_eq!(msi(1, 16), Some(InjectError::UnmappedEvent));
    driver.mapti(1, 3, 8200, 1);
    driver.mapc(1, None);
    assert_eq!(msi(1, 3), Some(InjectError::UnmappedCollection));
    driver.mapc(1, Some(0));
    assert_eq!(msi(1, 3), None);

    assert_eq!(signal(GITS + GITS_TRANSLATER), None);
    assert_eq!(
        signal(GITS + GITS_TRANSLATER + 8),
        Some(InjectError::ItsDisabled)
    );
    assert_eq!(signal(0), Some(InjectError::ItsDisabled));
    machine.finish();
}

/// Checks the errors' sizes, at most one register, and their messages.
#[test]
fn errors_are_small_and_speak() {
    let unknown = EntryError::UnknownVcpu(vcpu(7));
    let entry = [
        unknown,
        EntryError::PoweredOff(vcpu(7)),
        EntryError::AlreadyEntered(vcpu(7)),
        EntryError::NotEntered(vcpu(7)),
        EntryError::OnAnotherCpu(vcpu(7)),
    ];

    for error in entry {
        assert!(error.to_string().contains('7'), "{error}");
    }
    assert!(EntryError::CpuInUse.to_string().contains("another vCPU"));

    let inject = [
        InjectError::UnknownVcpu,
        InjectError::UnknownInterrupt,
        InjectError::ItsDisabled,
        InjectError::UnmappedDevice,
        InjectError::UnmappedEvent,
        InjectError::UnmappedCollection,
    ];
    let messages: std::collections::BTreeSet<_> = inject.map(|error| error.to_string()).into();
    assert_eq!(messages.len(), inject.len());
    assert!(size_of::<EntryError>() <= 8 && size_of::<InjectError>() == 1);
}

#[test]
fn a_vcpu_too_many_or_one_twice_is_refused() {
    let machine = Machine::new(1);
    let add = |affinity| machine.vm.add_vcpu(&machine.pin(), affinity);
    assert_eq!(
        add(affinity(0)),
        Err(ConfigError::DuplicateAffinity(affinity(0)))
    );
    assert_eq!(
        add(Affinity::new(0, 0, 0, 9)),
        Err(ConfigError::MaxVcpus(1))
    );
    machine.finish();
}

#[test]
fn a_vm_with_a_vcpu_on_a_cpu_is_not_taken_apart() {
    let machine = Machine::new(2);
    machine.enter(1);
    let cpu = &machine.cpus[0];
    machine.vm.vcpu_put(&cpu.pin(), vcpu(0)).unwrap();
    let torn = machine.vm.teardown(&cpu.pin());
    assert_eq!(torn, Err(TeardownError::Loaded(vcpu(1))));
}

/// The registers of a CPU with the given ICH_VTR and MIDR.
struct Odd(Vtr, u64, SoftwareInterface);

impl CpuInterface for Odd {
    fn vtr(&self) -> Vtr {
        self.0
    }
    fn midr(&self) -> u64 {
        self.1
    }
    fn read_lr(&self, index: usize) -> ListRegister {
        self.2.read_lr(index)
    }
    fn write_lr(&self, index: usize, value: ListRegister) {
        self.2.write_lr(index, value);
    }
    fn read_elrsr(&self) -> u16 {
        self.2.read_elrsr()
    }
    fn read_eisr(&self) -> u16 {
        self.2.read_eisr()
    }
    fn read_misr(&self) -> u64 {
        self.2.read_misr()
    }
    fn read_hcr(&self) -> u64 {
        self.2.read_hcr()
    }
    fn write_hcr(&self, value: u64) {
        self.2.write_hcr(value);
    }
    fn read_vmcr(&self) -> u64 {
        self.2.read_vmcr()
    }
    fn write_vmcr(&self, value: u64) {
        self.2.write_vmcr(value);
    }
    fn read_apr(&self, group1: bool, index: usize) -> u32 {
        self.2.read_apr(group1, index)
    }
    fn write_apr(&self, group1: bool, index: usize, value: u32) {
        self.2.write_apr(group1, index, value);
    }
    fn synchronize(&self) {
        self.2.synchronize();
    }
}

#[test]
fn a_cpu_that_cannot_run_vcpus_is_refused() {
    /// `MIDR_EL1` of a Neoverse N1.
    const N1: u64 = 0x413f_d0c1;
    let domain = Domain::new();
    let cases = [
        (
            Vtr {
                list_registers: 0,
                ..NEOVERSE
            },
            CpuError::ListRegisters(0),
        ),
        (
            Vtr {
                list_registers: 17,
                ..NEOVERSE
            },
            CpuError::ListRegisters(17),
        ),
        (
            Vtr {
                preemption_bits: 4,
                ..NEOVERSE
            },
            CpuError::PreemptionBits(4),
        ),
        (
            Vtr {
                preemption_bits: 8,
                ..NEOVERSE
            },
            CpuError::PreemptionBits(8),
        ),
        (
            Vtr {
                priority_bits: 4,
                ..NEOVERSE
            },
            CpuError::PriorityBits(4),
        ),
        (
            Vtr {
                priority_bits: 5,
                preemption_bits: 6,
                ..NEOVERSE
            },
            CpuError::PriorityBits(5),
        ),
        (
            Vtr {
                local_serrors: true,
                ..NEOVERSE
            },
            CpuError::LocalSErrors,
        ),
    ];

    for (vtr, error) in cases {
        let odd = Odd(vtr, N1, SoftwareInterface::default());
        let cpu = Cpu::try_new(domain.register(CpuId(0)).unwrap(), odd);
        assert_eq!(cpu.err(), Some(error), "{error}");
    }

    let thunderx = Odd(NEOVERSE, 0x431f_0a12, SoftwareInterface::default());
    let cpu = Cpu::try_new(domain.register(CpuId(0)).unwrap(), thunderx);
    let refused = CpuError::Erratum(Erratum::Cavium30115);
    assert_eq!(cpu.err(), Some(refused), "{refused}");

    let sound = Odd(NEOVERSE, N1, SoftwareInterface::default());
    assert!(Cpu::try_new(domain.register(CpuId(0)).unwrap(), sound).is_ok());
}

/// Returns two VMs, each with a vCPU and a CPU of its own domain.
fn strangers() -> [Machine; 2] {
    [Machine::new(1), Machine::new(1)]
}

#[test]
fn a_pin_of_another_domain_reaches_nothing() {
    let [machine, other] = strangers();
    let driver = Driver::new(&machine);
    driver.mapd(9, 1);
    driver.map(9, 0, 8192, 0);
    let (vm, pin) = (&machine.vm, other.pin());
    let v0 = vcpu(0);
    let [ppi, spi] = [27, 40].map(|raw| IntId::new(raw).unwrap());

    for error in [
        vm.inject_msi(&pin, ItsId(0), DeviceId(9), EventId(0)).err(),
        vm.signal_msi(&pin, GITS + GITS_TRANSLATER, DeviceId(9), 0)
            .err(),
        vm.inject_spi(&pin, spi).err(),
        vm.inject_ppi(&pin, v0, ppi).err(),
        vm.set_spi_line(&pin, spi, true).err(),
        vm.set_ppi_line(&pin, v0, ppi, true).err(),
        vm.forward_spi(&pin, spi).err(),
        vm.forward_ppi(&pin, v0, ppi).err(),
    ] {
        assert_eq!(error, Some(InjectError::ForeignDomain));
    }

    machine.vm.vcpu_put(&machine.pin(), v0).unwrap();
    other.vm.vcpu_put(&pin, v0).unwrap();
    assert_eq!(vm.enter(&pin, v0), Err(EntryError::ForeignDomain));
    for refused in [
        vm.exit(&pin, v0),
        vm.vcpu_put(&pin, v0),
        vm.power_off(&pin, v0),
        vm.block(&pin, v0).map(|_| ()),
        vm.has_pending(&pin, v0).map(|_| ()),
    ] {
        assert_eq!(refused, Err(EntryError::NotEntered(v0)));
    }

    let foreign = AccessError::ForeignDomain;
    assert_eq!(vm.mmio_read(&pin, v0, GICD, Width::Word), Err(foreign));
    assert_eq!(vm.mmio_write(&pin, GICD, Width::Word, 0), Err(foreign));
    assert_eq!(vm.sysreg_write(&pin, v0, SysReg::Sgi1r, 1), Err(foreign));
    assert_eq!(vm.advance(&pin), Err(foreign));
    assert_eq!(vm.affinity(&pin, v0), None);
    assert_eq!(vm.find_vcpu(&pin, affinity(0)), None);
    assert_eq!(
        vm.add_vcpu(&pin, affinity(9)),
        Err(ConfigError::ForeignDomain)
    );

    let foreign = TeardownError::ForeignDomain;
    let state = vgic::state::VmState::after_reset(vm.config());
    assert_eq!(vm.save(&pin), Err(foreign));
    assert_eq!(vm.restore(&pin, &state), Err(foreign.into()));
    assert_eq!(vm.freeze(&pin), Err(foreign));
    assert_eq!(vm.take_late(&pin, &state), Err(foreign));
    assert_eq!(vm.thaw(&pin, &state), Err(foreign));
    let late = vgic::state::LateInterrupt {
        intid: 40,
        vcpu: None,
        flags: vgic::state::flags::LATCH,
    };
    assert_eq!(vm.inject_late(&pin, late), Err(InjectError::ForeignDomain));
    assert_eq!(vm.teardown(&pin), Err(foreign));
    drop(pin);

    let pending = machine.read(0, GICD + 0x204);
    assert_eq!(pending, 0, "nothing was raised");
    machine.finish();
    other.finish();
}

/// Leaves vCPU 0 on CPU 0 of one domain, and asks for it on CPU 0 of another domain.
#[test]
fn a_cpu_of_another_domain_with_the_same_number_is_another_cpu() {
    let [machine, other] = strangers();
    machine.enter(0);
    let v0 = vcpu(0);
    assert_eq!(
        machine.vm.exit(&other.pin(), v0),
        Err(EntryError::NotEntered(v0))
    );
    machine.exit(0);
    assert_eq!(
        machine.vm.vcpu_put(&other.pin(), v0),
        Err(EntryError::NotEntered(v0))
    );
    machine.finish();
    other.finish();
}

#[test]
fn a_cpu_is_registered_once_at_a_time_under_a_real_number() {
    let domain = Domain::new();
    for number in [0xfffe, 0xffff].map(CpuId) {
        let refused = domain.register(number).err();
        assert_eq!(refused, Some(RegisterError::Reserved(number)));
    }

    let first = domain.register(CpuId(0xfffd)).unwrap();
    let again = domain.register(CpuId(0xfffd)).err();
    assert_eq!(again, Some(RegisterError::InUse(CpuId(0xfffd))));
    first.counters().kicks.add(1);
    drop(first);
    let back = domain.register(CpuId(0xfffd)).unwrap();
    back.counters().kicks.add(1);
    assert_eq!(domain.totals().kicks, 2, "the counters go on");
    // Another domain has its own CPUs.
    let _elsewhere = Domain::new().register(CpuId(0xfffd)).unwrap();
}

#[test]
fn a_vm_that_cannot_be_taken_apart_stays_as_it_is() {
    let machine = Machine::new(2);
    machine.edge_spi(40, 1);
    machine.enter(1);
    let pin = machine.pin();
    machine.vm.vcpu_put(&pin, vcpu(0)).unwrap();
    let refused = machine.vm.teardown(&pin);
    assert_eq!(refused, Err(TeardownError::Loaded(vcpu(1))));
    drop(pin);

    machine.inject_spi(40);
    machine.exit(1);
    assert_eq!(machine.serve(1), [40]);
    machine.finish();
}

#[test]
fn a_vm_that_is_taken_apart_runs_no_vcpu() {
    let Machine { vm, cpus, .. } = Machine::new(1);
    let pin = cpus[0].pin();
    vm.vcpu_put(&pin, vcpu(0)).unwrap();
    // Behind an `Arc`, as VMs are that several CPUs run.
    let vm = std::sync::Arc::new(vm);
    assert_eq!(vm.clone().teardown(&pin).unwrap().references, 0);
    assert_eq!(vm.teardown(&pin), Err(TeardownError::TornDown));
    assert_eq!(vm.enter(&pin, vcpu(0)), Err(EntryError::TornDown));
    assert!(!vm.power_on(vcpu(0)), "it is on");
    let _ = vm.inject_spi(&pin, IntId::spi(40).unwrap()).unwrap();
    let read = vm.mmio_read(&pin, vcpu(0), GICD + 0x204, Width::Word);
    assert!(matches!(read, Ok(MmioOutcome::Done(_))));
}

/// Drops a VM while a CPU has its vCPU, in the guest or out of it. The CPU runs another VM
/// afterwards, which finds empty list registers.
#[test]
fn a_cpu_outlives_the_vm_of_its_vcpu() {
    for stays_in_guest in [false, true] {
        let Machine { domain, vm, cpus } = {
            let machine = Machine::new(1);
            machine.edge_spi(40, 0);
            machine.edge_spi(41, 0);
            machine.inject_spi(40);
            machine.inject_spi(41);
            machine.enter(0);
            if !stays_in_guest {
                machine.exit(0);
            }
            machine
        };
        let cpu = &cpus[0];
        assert_eq!(cpu.release(), Err(EntryError::CpuInUse));
        assert!(cpu.interface().list_registers().any(|lr| !lr.is_empty()));
        drop(vm);
        let totals = domain.totals();
        assert_eq!(totals.list_gets, totals.list_puts);

        let config = Config::new(vec![affinity(0)]);
        let other = Vgic::new(&domain, config, common::TestHost::default()).unwrap();
        if stays_in_guest {
            cpu.release().unwrap();
            assert!(cpu.interface().list_registers().all(ListRegister::is_empty));
        }
        other.enter(&cpu.pin(), vcpu(0)).unwrap();
        assert!(cpu.interface().list_registers().all(ListRegister::is_empty));
        other.exit(&cpu.pin(), vcpu(0)).unwrap();
        assert_eq!(cpu.release(), Err(EntryError::CpuInUse));
        other.vcpu_put(&cpu.pin(), vcpu(0)).unwrap();
        cpu.release().unwrap();
        other.teardown(&cpu.pin()).unwrap();
    }
}

/// Takes a CPU out of the domain with a vCPU loaded, and registers the CPU again. The vCPU is not
/// on the new CPU, and its own end comes with the VM's.
#[test]
fn a_cpu_that_comes_back_does_not_have_the_vcpu_it_had() {
    let Machine {
        domain,
        vm,
        mut cpus,
    } = Machine::new(1);
    drop(cpus.pop());
    let back = domain.register(CpuId(0)).unwrap();
    let cpu = Cpu::new(back, SoftwareInterface::default());
    let v0 = vcpu(0);
    assert_eq!(vm.vcpu_put(&cpu.pin(), v0), Err(EntryError::NotEntered(v0)));
    assert_eq!(vm.enter(&cpu.pin(), v0), Err(EntryError::OnAnotherCpu(v0)));
    assert_eq!(vm.teardown(&cpu.pin()), Err(TeardownError::Loaded(v0)));
    drop(vm);
    cpu.release().unwrap();
    let other = Vgic::new(
        &domain,
        Config::new(vec![affinity(0)]),
        common::TestHost::default(),
    );
    other.unwrap().enter(&cpu.pin(), v0).unwrap();
}

/// Writes a system register for a vCPU that the configuration has room for, and that is not added.
#[test]
fn a_vcpu_that_is_not_added_is_unknown() {
    let machine = Machine::from_config(Config::new(vec![affinity(0)]).with_max_vcpus(2));
    let unknown = AccessError::UnknownVcpu(vcpu(1));
    let written = machine
        .vm
        .sysreg_write(&machine.pin(), vcpu(1), SysReg::Sgi1r, 1);
    assert_eq!(written, Err(unknown));
}

/// Enters a vCPU while a teardown fails, again and again, because of another vCPU that is loaded.
#[test]
fn a_teardown_that_fails_is_not_noticed_by_an_entry() {
    const ROUNDS: u32 = if cfg!(miri) { 20 } else { 20_000 };
    let machine = Machine::new(2);
    machine.vm.vcpu_put(&machine.pin(), vcpu(0)).unwrap();
    let (vm, domain) = (&machine.vm, &machine.domain);
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let local = domain.register(CpuId(20)).unwrap();
            // Relaxed: the flag orders nothing.
            while !done.load(Relaxed) {
                let refused = vm.teardown(&local.pin());
                assert!(matches!(refused, Err(TeardownError::Loaded(_))));
            }
        });
        for _ in 0..ROUNDS {
            let entered = vm.enter(&machine.pin(), vcpu(0));
            if entered.is_err() {
                // Relaxed: the flag orders nothing.
                done.store(true, Relaxed);
            }
            entered.unwrap();
            vm.exit(&machine.pin(), vcpu(0)).unwrap();
            vm.vcpu_put(&machine.pin(), vcpu(0)).unwrap();
        }
        // Relaxed: the flag orders nothing.
        done.store(true, Relaxed);
    });
    machine.finish();
}
