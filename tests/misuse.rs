//! Mistakes of an embedder. Each is refused with a matching error, and changes nothing. Mistakes in
//! a configuration are tested beside `Config::validate`.

mod common;

use common::its::Driver;
use common::{GITS, Machine, affinity, vcpu};
use vgic::config::GITS_TRANSLATER;
use vgic::cpu_interface::software::{NEOVERSE, SoftwareInterface};
use vgic::cpu_interface::{CpuInterface, Vtr};
use vgic::epoch::Domain;
use vgic::intid::{Affinity, CpuId, DeviceId, EventId, IntId, ItsId};
use vgic::lr::ListRegister;
use vgic::mmio::Width;
use vgic::{AccessError, ConfigError, Cpu, CpuError, EntryError, InjectError, TeardownError};

#[test]
fn a_vcpu_is_entered_once_where_its_registers_are() {
    let machine = Machine::new(2);
    let [first, second] = [&machine.cpus[0], &machine.cpus[1]];
    let enter = |cpu: &Cpu<_>, n| machine.vm.enter(&cpu.pin(), vcpu(n));
    let put = |cpu: &Cpu<_>, n| machine.vm.vcpu_put(&cpu.pin(), vcpu(n));

    assert_eq!(enter(first, 0), Ok(()));
    assert_eq!(enter(first, 0), Err(EntryError::AlreadyEntered(vcpu(0))));
    assert_eq!(enter(second, 0), Err(EntryError::AlreadyEntered(vcpu(0))));
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
        machine.vm.connect_ppi(none, ppi, ppi).err(),
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
            vm.connect_spi(wrong, spi).err(),
        ];
        assert_eq!(
            errors,
            [Some(InjectError::UnknownInterrupt); 4],
            "{wrong:?}"
        );
    }

    for wrong in [sgi, spi, lpi] {
        let error = vm.inject_ppi(&pin, vcpu(0), wrong).err();
        assert_eq!(error, Some(InjectError::UnknownInterrupt), "{wrong:?}");
    }

    for physical in [sgi, lpi] {
        let error = vm.connect_spi(spi, physical).err();
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

    let signal = |doorbell| {
        let pin = machine.pin();
        machine.vm.signal_msi(&pin, doorbell, DeviceId(1), 3).err()
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

/// The registers of a CPU with the given ICH_VTR.
struct Odd(Vtr, SoftwareInterface);

impl CpuInterface for Odd {
    fn vtr(&self) -> Vtr {
        self.0
    }
    fn read_lr(&self, index: usize) -> ListRegister {
        self.1.read_lr(index)
    }
    fn write_lr(&self, index: usize, value: ListRegister) {
        self.1.write_lr(index, value);
    }
    fn read_elrsr(&self) -> u16 {
        self.1.read_elrsr()
    }
    fn read_eisr(&self) -> u16 {
        self.1.read_eisr()
    }
    fn read_misr(&self) -> u64 {
        self.1.read_misr()
    }
    fn read_hcr(&self) -> u64 {
        self.1.read_hcr()
    }
    fn write_hcr(&self, value: u64) {
        self.1.write_hcr(value);
    }
    fn read_vmcr(&self) -> u64 {
        self.1.read_vmcr()
    }
    fn write_vmcr(&self, value: u64) {
        self.1.write_vmcr(value);
    }
    fn read_apr(&self, group1: bool, index: usize) -> u32 {
        self.1.read_apr(group1, index)
    }
    fn write_apr(&self, group1: bool, index: usize, value: u32) {
        self.1.write_apr(group1, index, value);
    }
    fn synchronize(&self) {
        self.1.synchronize();
    }
}

#[test]
fn a_cpu_that_cannot_run_vcpus_is_refused() {
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
                traps_dir: false,
                ..NEOVERSE
            },
            CpuError::NoDirTrap,
        ),
    ];

    for (vtr, error) in cases {
        let odd = Odd(vtr, SoftwareInterface::default());
        let cpu = Cpu::try_new(domain.register(CpuId(0)).unwrap(), odd);
        assert_eq!(cpu.err(), Some(error), "{error}");
    }

    let sound = Odd(NEOVERSE, SoftwareInterface::default());
    assert!(Cpu::try_new(domain.register(CpuId(0)).unwrap(), sound).is_ok());
}
