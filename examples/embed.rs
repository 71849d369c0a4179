//! A whole VM on the host: two vCPUs, each a thread on a CPU of its own, and a device sending MSIs
//! through the virtual ITS.
//!
//! The software CPU interface stands in for `ICH_*_EL2`, and the function `guest` for the guest.
//! Run the example with `cargo run --example embed`.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use vgic::cpu_interface::software::SoftwareInterface;
use vgic::epoch::Domain;
use vgic::intid::{Affinity, CpuId, DeviceId, EventId, ItsId, VcpuId};
use vgic::mmio::Width;
use vgic::{BadAddress, Blocked, Config, Cpu, Host, PhysicalInterrupt, Vgic};

const VCPUS: usize = 2;
const MSIS: u32 = 1000;
const DEVICE: u32 = 0x10;

const RAM: u64 = 0x4000_0000;
const GITS: u64 = 0x0808_0000;
const DEVICE_TABLE: u64 = RAM + 0x1_0000;
const COLLECTION_TABLE: u64 = RAM + 0x2_0000;
const QUEUE: u64 = RAM + 0x3_0000;
const PROPERTIES: u64 = RAM + 0x4_0000;
const PENDING: u64 = RAM + 0x6_0000;

/// The embedder: guest RAM, and a thread for each physical CPU.
struct Hypervisor {
    ram: Mutex<Vec<u8>>,
    cpus: Mutex<Vec<Option<thread::Thread>>>,
    /// Set by an "IPI". The CPU leaves the guest on seeing the flag.
    ipi: [AtomicBool; VCPUS],
}

impl Hypervisor {
    fn write(&self, gpa: u64, bytes: &[u8]) {
        let at = (gpa - RAM) as usize;
        self.ram.lock().unwrap()[at..at + bytes.len()].copy_from_slice(bytes);
    }
}

impl Host for Hypervisor {
    fn kick(&self, cpu: CpuId, _vcpu: VcpuId) {
        // Release: pairs with the AcqRel swap in `guest`.
        self.ipi[usize::from(cpu.0)].store(true, Ordering::Release);
    }

    fn wake(&self, vcpu: VcpuId) {
        if let Some(thread) = &self.cpus.lock().unwrap()[vcpu.index()] {
            thread.unpark();
        }
    }

    fn read_memory(&self, gpa: u64, buffer: &mut [u8]) -> Result<(), BadAddress> {
        let ram = self.ram.lock().unwrap();
        let at = gpa.checked_sub(RAM).ok_or(BadAddress)? as usize;
        let end = at.checked_add(buffer.len()).ok_or(BadAddress)?;
        buffer.copy_from_slice(ram.get(at..end).ok_or(BadAddress)?);
        Ok(())
    }

    fn write_memory(&self, gpa: u64, bytes: &[u8]) -> Result<(), BadAddress> {
        let mut ram = self.ram.lock().unwrap();
        let at = gpa.checked_sub(RAM).ok_or(BadAddress)? as usize;
        let end = at.checked_add(bytes.len()).ok_or(BadAddress)?;
        ram.get_mut(at..end)
            .ok_or(BadAddress)?
            .copy_from_slice(bytes);
        Ok(())
    }

    fn deactivate(&self, _physical: PhysicalInterrupt) {
        unreachable!("this hypervisor forwards no physical interrupts");
    }

    fn is_pending(&self, _physical: PhysicalInterrupt) -> bool {
        unreachable!("this hypervisor connects no physical interrupts");
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let domain = Domain::new();
    let affinities = (0..VCPUS as u8).map(|n| Affinity::new(0, 0, 0, n));
    let vm = Arc::new(Vgic::new(
        &domain,
        Config::new(affinities.collect()).with_its(GITS),
        Hypervisor {
            ram: Mutex::new(vec![0; 0x10_0000]),
            cpus: Mutex::new(vec![None; VCPUS]),
            ipi: [const { AtomicBool::new(false) }; VCPUS],
        },
    )?);

    // The device's CPU. The CPU also plays the guest's driver at boot, with trapped accesses.
    let local = domain.register(CpuId(VCPUS as u16))?;
    boot(&vm, &local.pin());

    let done = AtomicBool::new(false);
    let handled: [AtomicU32; VCPUS] = [const { AtomicU32::new(0) }; VCPUS];
    thread::scope(|scope| {
        for n in 0..VCPUS {
            let (vm, domain, done, handled) = (&vm, &domain, &done, &handled[n]);
            scope.spawn(move || run(vm, domain, n, done, handled));
        }
        for n in 0..MSIS {
            let event = EventId(n % VCPUS as u32);
            let _ = vm
                .inject_msi(&local.pin(), ItsId(0), DeviceId(DEVICE), event)
                .expect("the guest has mapped it");
            thread::sleep(Duration::from_micros(20));
        }
        // Release: pairs with the Acquire load in `run`.
        done.store(true, Ordering::Release);
        for n in 0..VCPUS {
            vm.host().wake(VcpuId::new(n).expect("few vCPUs"));
        }
    });

    let totals = domain.totals();
    for (n, handled) in handled.iter().enumerate() {
        println!("vCPU {n} handled {} LPIs", handled.load(Ordering::Relaxed));
    }
    println!(
        "{} MSIs: {} delivered, {} coalesced with a pending one; {} kicks, {} wakes, \
         {} locks taken by {} lookups",
        totals.injections[3],
        totals.deliveries[3],
        totals.coalesced[3],
        totals.kicks,
        totals.wakes,
        totals.lookup_locks_taken,
        totals.lookups,
    );
    let report = vm.teardown(&local.pin())?;
    println!("references left: {}", report.references);
    Ok(())
}

/// Writes the registers and commands of a guest's drivers at boot: distributor, redistributors, and
/// an ITS with one device.
fn boot(vm: &Vgic<Hypervisor>, pin: &vgic::epoch::CpuPin<'_>) {
    let write = |gpa, value: u64| {
        let _ = vm.mmio_write(pin, gpa, Width::Double, value);
    };
    let write_word = |gpa, value: u64| {
        let _ = vm.mmio_write(pin, gpa, Width::Word, value);
    };

    write_word(vm.config().distributor, 0x12); // GICD_CTLR: affinity routing, Group 1
    vm.host().write(PROPERTIES, &[0xa1; VCPUS]); // each LPI: enabled, priority 0xa0
    for vcpu in (0..VCPUS).filter_map(VcpuId::new) {
        let n = vcpu.index() as u64;
        let gicr = vm
            .config()
            .redistributor_base(vcpu)
            .expect("room for every vCPU");
        write(gicr + 0x70, PROPERTIES | 16); // GICR_PROPBASER
        write(gicr + 0x78, (PENDING + n * 0x2_0000) | 1 << 62); // GICR_PENDBASER, all zero
        write_word(gicr, 1); // GICR_CTLR.EnableLPIs
    }

    write(GITS + 0x100, 1 << 63 | DEVICE_TABLE | 0xf); // GITS_BASER0
    write(GITS + 0x108, 1 << 63 | COLLECTION_TABLE); // GITS_BASER1
    write(GITS + 0x80, 1 << 63 | QUEUE | 0xf); // GITS_CBASER
    write_word(GITS, 1); // GITS_CTLR.Enabled

    let mut commands = vec![[0x08 | u64::from(DEVICE) << 32, 4, 1 << 63 | RAM, 0]]; // MAPD
    for n in 0..VCPUS as u64 {
        commands.push([0x09, 0, 1 << 63 | n << 16 | n, 0]); // MAPC: collection n to vCPU n
        commands.push([0x0a | u64::from(DEVICE) << 32, (8192 + n) << 32 | n, n, 0]); // MAPTI
    }

    let bytes: Vec<u8> = commands
        .as_flattened()
        .iter()
        .flat_map(|word| word.to_le_bytes())
        .collect();
    vm.host().write(QUEUE, &bytes);
    write(GITS + 0x88, bytes.len() as u64); // GITS_CWRITER
    while vm.has_deferred() {
        vm.advance(pin).expect("a pin of the VM's domain");
    }
}

/// Runs one physical CPU: enters its vCPU, exits, blocks, until the device has stopped.
fn run(vm: &Vgic<Hypervisor>, domain: &Domain, n: usize, done: &AtomicBool, handled: &AtomicU32) {
    let cpu = Cpu::new(
        domain.register(CpuId(n as u16)).expect("a thread per CPU"),
        SoftwareInterface::default(),
    );
    let vcpu = VcpuId::new(n).expect("few vCPUs");

    vm.host().cpus.lock().unwrap()[n] = Some(thread::current());
    vm.power_on(vcpu);

    loop {
        vm.enter(&cpu.pin(), vcpu)
            .expect("this CPU is the only one that enters it");
        guest(cpu.interface(), &vm.host().ipi[n], handled);
        let pin = cpu.pin();
        vm.exit(&pin, vcpu).expect("it was entered");
        // The guest is idle and executes WFI.
        let blocked = vm.block(&pin, vcpu).expect("it is on this CPU");
        drop(pin);
        if blocked == Blocked::Yes {
            // Acquire: pairs with the Release store in `main`.
            if done.load(Ordering::Acquire) {
                break;
            }
            thread::park_timeout(Duration::from_secs(1));
        }
    }

    vm.vcpu_put(&cpu.pin(), vcpu).expect("it is on this CPU");
}

/// Runs the guest: takes the signalled interrupts until none is left or an IPI arrives.
fn guest(interface: &SoftwareInterface, ipi: &AtomicBool, handled: &AtomicU32) {
    if !interface.read_igrpen1() {
        interface.write_igrpen1(true);
        interface.write_pmr(0xf8).expect("not trapped");
    }
    // AcqRel: pairs with the Release in `kick`.
    while !ipi.swap(false, Ordering::AcqRel) && interface.virq() {
        let intid = interface.read_iar1();
        assert!(intid >= 8192, "only LPIs are configured");
        // Relaxed: a counter, read after the threads have ended.
        handled.fetch_add(1, Ordering::Relaxed);
        interface.write_eoir1(intid);
    }
}
