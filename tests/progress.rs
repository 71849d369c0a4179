//! `GICR_SYNCR.Busy` and `GICD_CTLR.RWP` during another CPU's work.
mod common;

use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Mutex, mpsc};

use vgic::cpu_interface::software::SoftwareInterface;
use vgic::epoch::Domain;
use vgic::intid::{Affinity, CpuId, IntId, VcpuId};
use vgic::mmio::{MmioOutcome, Width};
use vgic::{BadAddress, Config, Cpu, Host, PhysicalInterrupt, Vgic};

use common::{GICD, GICR, GITS, RAM};

const PROPERTIES: u64 = RAM + 0x10_0000;
const QUEUE: u64 = RAM + 0x3_0000;

struct Slow {
    ram: Mutex<Vec<u8>>,
    /// While set, a CPU reading a configuration or kicking reports and waits.
    hold: AtomicBool,
    held: Mutex<mpsc::Sender<()>>,
    go: Mutex<mpsc::Receiver<()>>,
}

impl Slow {
    fn wait(&self) {
        if self.hold.swap(false, SeqCst) {
            self.held.lock().unwrap().send(()).unwrap();
            self.go.lock().unwrap().recv().unwrap();
        }
    }
}

impl Host for Slow {
    fn kick(&self, _: CpuId, _: VcpuId) {
        self.wait();
    }
    fn wake(&self, _: VcpuId) {}
    fn read_memory(&self, gpa: u64, buffer: &mut [u8]) -> Result<(), BadAddress> {
        if (PROPERTIES..PROPERTIES + 0x1_0000).contains(&gpa) {
            self.wait();
        }
        let at = gpa.checked_sub(RAM).ok_or(BadAddress)? as usize;
        let ram = self.ram.lock().unwrap();
        buffer.copy_from_slice(ram.get(at..at + buffer.len()).ok_or(BadAddress)?);
        Ok(())
    }
    fn write_memory(&self, gpa: u64, bytes: &[u8]) -> Result<(), BadAddress> {
        let at = gpa.checked_sub(RAM).ok_or(BadAddress)? as usize;
        let mut ram = self.ram.lock().unwrap();
        let place = ram.get_mut(at..at + bytes.len()).ok_or(BadAddress)?;
        place.copy_from_slice(bytes);
        Ok(())
    }
    fn deactivate(&self, _physical: PhysicalInterrupt) {}
    fn is_pending(&self, _physical: PhysicalInterrupt) -> bool {
        false
    }
    fn resample(&self, _: VcpuId, _: IntId) {}
}

/// Returns a host, the receiver of its reports, and the sender ending a wait.
fn slow() -> (Slow, mpsc::Receiver<()>, mpsc::Sender<()>) {
    let (held, is_held) = mpsc::channel();
    let (release, go) = mpsc::channel();
    let host = Slow {
        ram: Mutex::new(vec![0xa1; 0x20_0000]),
        hold: AtomicBool::new(false),
        held: Mutex::new(held),
        go: Mutex::new(go),
    };
    (host, is_held, release)
}

#[test]
fn syncr_is_busy_while_another_cpu_is_at_it() {
    let (host, is_held, release) = slow();
    let affinities = (0..2).map(|n| Affinity::new(0, 0, 0, n)).collect();
    let domain = Domain::new();
    let vm = Vgic::new(&domain, Config::new(affinities).with_its(GITS), host).unwrap();
    let cpu = Cpu::new(
        domain.register(CpuId(0)).unwrap(),
        SoftwareInterface::default(),
    );

    let pin = cpu.pin();
    let write = |gpa, value| {
        let _ = vm.mmio_write(&pin, gpa, Width::Double, value);
    };

    write(GICR + 0x70, PROPERTIES | 16);
    write(GICR + 0x78, 1 << 62);
    let _ = vm.mmio_write(&pin, GICR, Width::Word, 1);
    write(GITS + 0x100, 1 << 63 | (RAM + 0x1_0000) | 0xf);
    write(GITS + 0x108, 1 << 63 | (RAM + 0x2_0000));
    write(GITS + 0x80, 1 << 63 | QUEUE | 0xf);

    let commands = [
        [0x08, 0, 1 << 63 | RAM, 0],
        [0x09, 0, 1 << 63, 0],
        [0x0a, 8192 << 32, 0, 0],
    ];

    let bytes = commands
        .iter()
        .flatten()
        .flat_map(|word| word.to_le_bytes());
    for (at, byte) in (0x3_0000..).zip(bytes.collect::<Vec<u8>>()) {
        vm.host().ram.lock().unwrap()[at] = byte;
    }

    let _ = vm.mmio_write(&pin, GITS, Width::Word, 1);
    write(GITS + 0x88, 96);
    while vm.has_deferred() {
        vm.advance(&pin).unwrap();
    }

    // The sweep of INVALLR is one slice in this VM. Another CPU does the slice.
    vm.host().hold.store(true, SeqCst);
    std::thread::scope(|scope| {
        let (vm, domain) = (&vm, &domain);
        scope.spawn(move || {
            let local = domain.register(CpuId(1)).unwrap();
            let _ = vm.mmio_write(&local.pin(), GICR + 0xb0, Width::Double, 0);
        });
        is_held.recv().unwrap();
        let busy = || {
            let syncr = GICR + 0xc0;
            let v0 = VcpuId::new(0).unwrap();
            vm.mmio_read(&pin, v0, syncr, Width::Word) == Ok(MmioOutcome::Done(1))
        };

        let busy = (0..1000).all(|_| busy());
        release.send(()).unwrap();
        assert!(busy, "not busy, and a configuration has not been read");
    });
}

/// Disables a group in a VM with more vCPUs than one slice notifies.
#[test]
fn rwp_is_set_while_another_cpu_is_notifying_the_vcpus() {
    let (host, is_held, release) = slow();
    let affinities = (0..70).map(|n| Affinity::new(0, 0, n / 16, n % 16));
    let domain = Domain::new();
    let vm = Vgic::new(&domain, Config::new(affinities.collect()), host).unwrap();
    let cpu = |n| {
        Cpu::new(
            domain.register(CpuId(n)).unwrap(),
            SoftwareInterface::default(),
        )
    };
    let (cpu, cpu_69) = (cpu(0), cpu(69));
    let (pin, v0, v69) = (cpu.pin(), VcpuId::new(0).unwrap(), VcpuId::new(69).unwrap());

    let disable = |groups| {
        let _ = vm.mmio_write(&pin, GICD, Width::Word, groups);
    };

    disable(2);
    while vm.has_deferred() {
        vm.advance(&pin).unwrap();
    }

    vm.power_on(v69);
    vm.enter(&cpu_69.pin(), v69).unwrap();
    disable(0);
    vm.host().hold.store(true, SeqCst);

    let rwp = || {
        let Ok(MmioOutcome::Done(ctlr)) = vm.mmio_read(&pin, v0, GICD, Width::Word) else {
            panic!("a register without a value");
        };
        ctlr >> 31 & 1 != 0
    };

    std::thread::scope(|scope| {
        let (vm, domain) = (&vm, &domain);
        scope.spawn(move || {
            let local = domain.register(CpuId(1)).unwrap();
            vm.advance(&local.pin()).unwrap();
        });
        is_held.recv().unwrap();
        let waits = (0..1000).all(|_| rwp());
        release.send(()).unwrap();
        assert!(waits, "a running vCPU has not been notified");
    });

    assert!(rwp(), "it still runs");
    vm.exit(&cpu_69.pin(), v69).unwrap();
    vm.vcpu_put(&cpu_69.pin(), v69).unwrap();
    assert!(!rwp());
}
