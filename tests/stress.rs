//! Real threads at one VM: CPUs that run more vCPUs than there are of them, injectors, SGIs, and a guest
//! that moves and remaps its LPIs all the while. At the end the books must balance.

mod common;

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use common::its::Driver;
use common::{Machine, vcpu};
use vgic::cpu_interface::software::SoftwareInterface;
use vgic::intid::{CpuId, DeviceId, EventId, IntId, ItsId};
use vgic::sysreg::SysReg;
use vgic::{Blocked, Cpu};

const VCPUS: usize = 5;
const CPUS: u16 = 3;
const EVENTS: u64 = 8;
const SPIS: u32 = 8;
const DURATION: Duration = Duration::from_secs(3);

struct Random(u64);

impl Random {
    fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % n
    }
}

/// Runs vCPUs from the pool until told to stop.
fn run_cpu(machine: &Shared<'_>, number: u16) {
    let vm = machine.vm;
    let cpu = Cpu::new(
        machine.domain.register(CpuId(number)),
        SoftwareInterface::default(),
    );
    let mut random = Random(u64::from(number) + 77);
    while !machine.stop.load(Ordering::Relaxed) {
        let Some(n) = machine.pool.lock().unwrap().pop() else {
            thread::yield_now();
            continue;
        };
        for _ in 0..=random.below(20) {
            if vm.has_deferred() {
                vm.advance(&cpu.pin());
            }
            vm.enter(&cpu, &cpu.pin(), vcpu(n)).unwrap();
            machine.entries.fetch_add(1, Ordering::Relaxed);
            let mut nested = Vec::new();
            for _ in 0..random.below(6) {
                let intid = cpu.interface().read_iar1();
                if intid != 1023 {
                    assert!(!nested.contains(&intid), "{intid} twice");
                    nested.push(intid);
                }
                if random.below(2) == 0
                    && let Some(intid) = nested.pop()
                {
                    cpu.interface().write_eoir1(intid);
                }
            }
            while let Some(intid) = nested.pop() {
                cpu.interface().write_eoir1(intid);
            }
            vm.exit(&cpu, &cpu.pin(), vcpu(n)).unwrap();
            if random.below(3) == 0 {
                // To one vCPU, or to all others.
                let value = if random.below(4) == 0 {
                    1 << 40
                } else {
                    1 << random.below(VCPUS as u64)
                };
                let sgi = random.below(16) << 24;
                vm.sysreg_write(&cpu, &cpu.pin(), vcpu(n), SysReg::Sgi1r, value | sgi);
            }
            if random.below(4) == 0 && vm.block(&cpu, &cpu.pin(), vcpu(n)).unwrap() == Blocked::Yes
            {
                break;
            }
        }
        vm.put(&cpu, &cpu.pin(), vcpu(n)).unwrap();
        machine.pool.lock().unwrap().push(n);
    }
}

fn inject(machine: &Shared<'_>, number: u16) {
    let local = machine.domain.register(CpuId(number));
    let mut random = Random(u64::from(number) * 31);
    while !machine.stop.load(Ordering::Relaxed) {
        let pin = local.pin();
        for _ in 0..32 {
            let event = EventId(random.below(EVENTS) as u32);
            // Unmapped at times.
            let _ = machine.vm.inject_msi(&pin, ItsId(0), DeviceId(0), event);
            let spi = IntId::spi(32 + random.below(u64::from(SPIS)) as u32).unwrap();
            let _ = machine.vm.inject_spi(&pin, spi).unwrap();
        }
    }
}

struct Shared<'a> {
    vm: &'a vgic::Vgic<common::TestHost>,
    domain: &'a vgic::epoch::Domain,
    pool: Mutex<Vec<usize>>,
    stop: AtomicBool,
    entries: AtomicUsize,
}

#[test]
fn nothing_is_lost_or_doubled_under_load() {
    let machine = Machine::new(VCPUS);
    let its = Driver::new(&machine);
    its.mapd(0, 4);
    for event in 0..EVENTS {
        its.map(0, event, 8192 + event, event % VCPUS as u64);
    }
    for n in 0..VCPUS {
        machine.write(n, machine.gicr(n) + 0x1_0100, 0xffff);
        let cpu = &machine.cpus[n];
        machine.vm.put(cpu, &cpu.pin(), vcpu(n)).unwrap();
    }
    for spi in 0..SPIS {
        machine.edge_spi(32 + spi, spi as usize % VCPUS);
    }
    let shared = Shared {
        vm: &machine.vm,
        domain: &machine.domain,
        pool: Mutex::new((0..VCPUS).collect()),
        stop: AtomicBool::new(false),
        entries: AtomicUsize::new(0),
    };
    thread::scope(|scope| {
        for number in 100..100 + CPUS {
            let shared = &shared;
            scope.spawn(move || run_cpu(shared, number));
        }
        for number in 200..202 {
            let shared = &shared;
            scope.spawn(move || inject(shared, number));
        }
        let start = Instant::now();
        let mut random = Random(5);
        while start.elapsed() < DURATION {
            let (event, to) = (random.below(EVENTS), random.below(VCPUS as u64));
            match random.below(8) {
                0 => {
                    its.discard(0, event);
                    // Another event may have the INTID meanwhile.
                    its.mapti(0, event, 8192 + random.below(EVENTS), to);
                }
                1 => its.movall(to, random.below(VCPUS as u64)),
                2 => its.int(0, event),
                3 => its.clear(0, event),
                4 => {
                    let gicr = machine.gicr(to as usize);
                    machine.write(0, gicr, 0);
                    machine.write(0, gicr, 1);
                }
                5 => {
                    let spi = 32 + random.below(u64::from(SPIS)) as u32;
                    machine.set_spi(0, [0x180, 0x280, 0x200][random.below(3) as usize], spi);
                    machine.edge_spi(spi, to as usize);
                }
                _ => its.movi(0, event, to),
            }
            machine.vm.host().take_calls();
        }
        shared.stop.store(true, Ordering::Relaxed);
    });
    let entries = shared.entries.load(Ordering::Relaxed);
    assert!(entries > 1000, "{entries} entries");
    machine.finish();
}
