//! A hostile guest of a GICv2: any access of any frame by any vCPU, with interrupts raised, vCPUs
//! blocked, put, and turned off and on, resets, and saves that are restored.

use vgic::config::V2mConfig;
use vgic::cpu_interface::software::SoftwareInterface;
use vgic::epoch::Domain;
use vgic::intid::{Affinity, CpuId, IntId, VcpuId};
use vgic::mmio::Width;
use vgic::{Blocked, Config, Cpu, Vgic};

use crate::bounds::{self, Bound, within};
use crate::check_injections;
use crate::host::HostileHost;
use crate::input::Input;

/// Largest number of steps in a run.
const STEPS: usize = 600;
/// Registers of the CPU interface that acknowledge, end and deactivate.
const HOT: [u64; 6] = [0x0c, 0x10, 0x18, 0x20, 0x24, 0x1000];
/// An access of the CPU interface: each list register that an acknowledge empties is folded.
const INTERFACE: Bound = Bound(1_000, 0, 0);

/// The VM, vCPU n of which is on CPU n.
struct Machine {
    domain: Domain,
    vm: Vgic<HostileHost>,
    cpus: Vec<Cpu<SoftwareInterface>>,
    inside: Vec<bool>,
    on: Vec<bool>,
}

/// Runs a VM through the steps of an input, and tears it down.
pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let mut machine = Machine::new(1 + usize::from(input.byte() % 8));
    if input.flag() {
        machine.set_up();
    }
    for _ in 0..STEPS {
        if input.is_empty() {
            break;
        }
        machine.step(&mut input);
    }
    machine.finish();
}

fn id(n: usize) -> VcpuId {
    VcpuId::new(n).unwrap()
}

impl Machine {
    fn new(count: usize) -> Self {
        let affinities = (0..count).map(|n| Affinity::new(0, 0, 0, n as u8));
        let mut config = Config::new(affinities.collect()).with_gicv2();
        config.spis = 64;
        config.gicv2.as_mut().unwrap().v2m = vec![V2mConfig {
            base: 0x0802_0000,
            first_spi: 64,
            spis: 16,
        }];
        let domain = Domain::new();
        let vm = Vgic::new(&domain, config, HostileHost::new(Vec::new(), None)).unwrap();
        let cpus = (0..count).map(|n| {
            let local = domain.register(CpuId(n as u16)).unwrap();
            Cpu::new(local, SoftwareInterface::default())
        });
        let cpus = cpus.collect();
        (1..count).for_each(|n| assert!(vm.power_on(id(n))));
        Self {
            domain,
            vm,
            cpus,
            inside: vec![false; count],
            on: vec![true; count],
        }
    }

    /// Enables everything, as a guest's driver would.
    fn set_up(&mut self) {
        let (gicd, gicc) = self.frames();
        for n in 0..self.cpus.len() {
            self.write(n, gicc + 4, Width::Word, 0xf0);
            self.write(n, gicc, Width::Word, 7);
            self.write(n, gicd + 0x100, Width::Word, u64::from(u32::MAX));
        }
        self.write(0, gicd, Width::Word, 3);
        for register in 1..3 {
            self.write(
                0,
                gicd + 0x100 + 4 * register,
                Width::Word,
                u64::from(u32::MAX),
            );
        }
        for intid in 32..96 {
            self.write(0, gicd + 0x800 + intid, Width::Byte, 1 << (intid % 8));
        }
    }

    fn frames(&self) -> (u64, u64) {
        let config = self.vm.config();
        (
            config.distributor,
            config.gicv2.as_ref().unwrap().cpu_interface,
        )
    }

    /// Enters a vCPU that is on, and looks at its lines.
    fn enter(&mut self, n: usize) {
        if !self.inside[n] && self.on[n] {
            let cpu = &self.cpus[n];
            self.vm.host().set_inside(n, Some(id(n)));
            within(bounds::ENTRY, || {
                self.vm.enter(&cpu.pin(), id(n)).unwrap();
                let _ = self.vm.virtual_lines(&cpu.pin(), id(n));
            });
            self.inside[n] = true;
        }
    }

    fn exit(&mut self, n: usize) {
        if std::mem::take(&mut self.inside[n]) {
            let cpu = &self.cpus[n];
            self.vm.host().set_inside(n, None);
            within(bounds::EXIT, || self.vm.exit(&cpu.pin(), id(n)).unwrap());
        }
    }

    fn put(&mut self, n: usize) {
        self.exit(n);
        within(bounds::LEAVE, || {
            let _ = self.vm.vcpu_put(&self.cpus[n].pin(), id(n));
        });
    }

    fn put_all(&mut self) {
        (0..self.cpus.len()).for_each(|n| self.put(n));
    }

    /// Returns the bound of an access.
    fn bound(&self, gpa: u64) -> Bound {
        match gpa.wrapping_sub(self.frames().0) {
            0x000..0x004 => bounds::GROUPS,
            0x080..0x400 | 0xc00..0xd00 => bounds::BITS,
            // Four interrupts, or eight vCPUs.
            0x400..0xc00 | 0xf00..0x1000 => Bound(200, 0, 0),
            _ => INTERFACE,
        }
    }

    fn write(&mut self, n: usize, gpa: u64, width: Width, value: u64) {
        self.enter(n);
        self.exit(n);
        let cpu = &self.cpus[n];
        within(self.bound(gpa), || {
            let _ = (self.vm).mmio_write_of(&cpu.pin(), id(n), gpa, width, value);
        });
    }

    fn read(&mut self, n: usize, gpa: u64, width: Width) {
        self.enter(n);
        self.exit(n);
        let cpu = &self.cpus[n];
        within(self.bound(gpa), || {
            let _ = self.vm.mmio_read(&cpu.pin(), id(n), gpa, width);
        });
    }

    fn step(&mut self, input: &mut Input<'_>) {
        let n = usize::from(input.byte()) % self.cpus.len();
        let (gicd, gicc) = self.frames();
        let width = |input: &mut Input<'_>| {
            input.pick(&[
                Width::Word,
                Width::Word,
                Width::Byte,
                Width::Half,
                Width::Double,
            ])
        };
        match input.byte() % 16 {
            0..3 => {
                let (at, width) = (u64::from(input.half()) & 0xfff, width(input));
                let value = input.value();
                self.write(n, gicd + at, width, value);
            }
            3 => {
                let (at, width) = (u64::from(input.half()) & 0xfff, width(input));
                self.read(n, gicd + at, width);
            }
            4 => {
                let (at, width) = (u64::from(input.half()) & 0x1fff, width(input));
                let value = input.value();
                self.write(n, gicc + at, width, value);
            }
            5 | 6 => {
                let at = input.pick(&HOT);
                self.read(n, gicc + at, Width::Word);
            }
            7 | 8 => {
                let (at, value) = (input.pick(&HOT), input.half());
                self.write(n, gicc + at, Width::Word, value.into());
            }
            9 => {
                let value = u64::from(input.byte()) << 16
                    | u64::from(input.byte() & 3) << 24
                    | u64::from(input.byte() & 15);
                self.write(n, gicd + 0xf00, Width::Word, value);
            }
            10 => {
                let (at, value) = (u64::from(input.half()) & 0xfff, input.value());
                let frame = input.pick(&[gicd, gicc, 0x0802_0000]);
                let bytes = value.to_le_bytes();
                let length = 1 << (input.byte() & 3);
                let pin = self.cpus[n].pin();
                let _ = self.vm.bus_write(&pin, frame + at, &bytes[..length]);
                let _ = self.vm.bus_read(&pin, frame + at, &mut [0; 4]);
            }
            11 => self.raise(n, input),
            12 => self.enter(n),
            13 => {
                self.enter(n);
                self.exit(n);
                if self.on[n] {
                    let (vm, pin) = (&self.vm, self.cpus[n].pin());
                    within(bounds::ENTRY, || {
                        let pending = vm.has_pending(&pin, id(n)).unwrap();
                        let blocked = vm.block(&pin, id(n)).unwrap();
                        assert!(
                            !pending || blocked == Blocked::No,
                            "asleep with an interrupt"
                        );
                    });
                }
            }
            14 => self.power(n, input.flag()),
            _ => self.whole(input),
        }
    }

    /// Raises an interrupt, or changes a line.
    fn raise(&self, n: usize, input: &mut Input<'_>) {
        let (pin, high) = (self.cpus[n].pin(), input.flag());
        let number = u32::from(input.byte());
        let spi = IntId::spi(32 + number % 64).unwrap();
        let ppi = IntId::ppi(16 + number % 16).unwrap();
        within(bounds::INJECTION, || match number >> 6 {
            0 => drop(self.vm.inject_spi(&pin, spi)),
            1 => drop(self.vm.inject_ppi(&pin, id(n), ppi)),
            2 => drop(self.vm.set_spi_line(&pin, spi, high)),
            _ => drop(self.vm.set_ppi_line(&pin, id(n), ppi, high)),
        });
    }

    fn power(&mut self, n: usize, on: bool) {
        if on {
            self.on[n] |= self.vm.power_on(id(n));
            return;
        }
        self.enter(n);
        self.exit(n);
        let cpu = &self.cpus[n];
        within(bounds::LEAVE, || {
            if self.vm.power_off(&cpu.pin(), id(n)).is_ok() {
                self.on[n] = false;
            }
        });
    }

    /// Resets the VM, or saves and restores it.
    fn whole(&mut self, input: &mut Input<'_>) {
        self.put_all();
        let pin = self.cpus[0].pin();
        if input.flag() {
            self.vm.reset(&pin).unwrap();
            self.on.fill(false);
            self.on[0] = true;
        } else {
            let state = self.vm.save(&pin).unwrap();
            self.vm.restore(&pin, &state).unwrap();
            assert!(self.vm.save(&pin).unwrap() == state);
        }
    }

    /// Tears the VM down and checks the counters.
    fn finish(mut self) {
        self.put_all();
        let Self {
            domain, vm, cpus, ..
        } = self;
        let before = domain.totals();
        let report = vm.teardown(&cpus[0].pin()).unwrap();
        assert_eq!(report.references, 0);
        check_injections(&before, &report);
        let after = domain.totals();
        assert_eq!(after.list_gets, after.list_puts);
    }
}
