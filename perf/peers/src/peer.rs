//! `arm_vgic` with as many vCPUs and devices as the library's load.

use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::thread;

use arm_vgic::{
    CpuInterfaceState, EventId, GicAffinity, GicV3Backend, GicV3BackendError, GicV3Config,
    GicV3Controller, GicV3MmioRegion, GicV3SpiOwnership, GicV3VcpuBinding, GicV3VcpuWake,
    GicVcpuId, GuestMemory, GuestMemoryError, ItsDeviceId, VgicResult,
};
use axvm_types::AccessWidth;

use perf_host::threads::{Load, Role, Worker, events, run};
use perf_host::vm::{Command, FIRST_LPI};

/// The peer's version, as in Cargo.toml.
pub const VERSION: &str = "0.6";

const QUEUE: u64 = 0x4000_0000;
const BATCH: u32 = 64;

/// Returns whether the peer supports the load. The peer has no means for continuous moves.
pub fn has(group: &str, name: &str) -> bool {
    let comparable = match group {
        "inject_msi" => name.contains("/to_"),
        _ => name.starts_with("1/1/1/spread") || name.starts_with("16/16/16/spread"),
    };
    comparable && !name.contains("movi")
}

/// Returns the peer's load for a load of the library, derived from its name.
pub fn load(ours: &Load) -> Load {
    let parts: Vec<String> = ours.name.split('/').map(str::to_owned).collect();
    let threads = ours.threads;
    Load::new(ours.name.clone(), threads, move || {
        match parts[0].as_str() {
            "pending" => {
                let one = parts[1] == "to_one_vcpu";
                let gic = Gic::new(threads.max(2));
                for device in 0..threads as u32 {
                    let vcpu = if one { 0 } else { device };
                    gic.map(device, BATCH, FIRST_LPI + device * BATCH, |_| vcpu);
                }
                Box::new(move |time| {
                    let workers = (0..threads as u32).map(|n| injector(&gic, n..n + 1, BATCH));
                    run(time, workers.collect())
                })
            }
            _ => {
                let [vcpus, devices, events] =
                    [0, 1, 2].map(|n| parts[n].parse::<u32>().expect("a number"));
                let gic = Gic::new(vcpus as usize);
                for device in 0..devices {
                    gic.map(device, events, FIRST_LPI + device * events, |event| {
                        (device * events + event) % vcpus
                    });
                }
                Box::new(move |time| {
                    let share = |total: u32, n: u32| {
                        let parts = (threads as u32).min(total);
                        total * n / parts..total * (n + 1) / parts
                    };
                    let mut workers: Vec<Worker<'_>> = (0..devices.min(threads as u32))
                        .map(|n| injector(&gic, share(devices, n), events))
                        .collect();
                    let guests =
                        (0..vcpus.min(threads as u32)).map(|n| guests(&gic, share(vcpus, n)));
                    workers.extend(guests);
                    run(time, workers)
                })
            }
        }
    })
}

/// A guest taking and ending every interrupt in its list registers.
struct Guest {
    taken: Vec<AtomicU64>,
}

impl GicV3Backend for Guest {
    fn load_cpu_interface(
        &self,
        _vcpu: GicVcpuId,
        _state: &CpuInterfaceState,
    ) -> Result<(), GicV3BackendError> {
        Ok(())
    }

    fn save_cpu_interface(
        &self,
        vcpu: GicVcpuId,
        state: &mut CpuInterfaceState,
    ) -> Result<(), GicV3BackendError> {
        let taken = state
            .list_registers_mut()
            .iter_mut()
            .filter_map(Option::take)
            .count();
        self.taken[vcpu.raw()].fetch_add(taken as u64, Relaxed);
        Ok(())
    }
}

struct NoWake;

impl GicV3VcpuWake for NoWake {
    fn wake(&self) -> VgicResult {
        Ok(())
    }
}

/// The command queue: the current command, read at every address.
struct Queue(Mutex<[u8; 32]>);

impl GuestMemory for Queue {
    fn read(&self, _address: u64, buffer: &mut [u8]) -> Result<(), GuestMemoryError> {
        buffer.copy_from_slice(&self.0.lock().expect("not poisoned")[..buffer.len()]);
        Ok(())
    }
}

struct Gic {
    controller: GicV3Controller,
    vcpus: Vec<GicV3VcpuBinding>,
    guest: Arc<Guest>,
    queue: Arc<Queue>,
    commands: AtomicU64,
}

impl Gic {
    fn new(vcpus: usize) -> Self {
        let region = |base, size| GicV3MmioRegion::new(base, size).expect("a region");
        let config = GicV3Config::new(
            GicV3SpiOwnership::AllGuestOwned,
            region(0x0800_0000, 0x1_0000),
            region(0x080a_0000, 0x2_0000 * vcpus as u64),
            0x2_0000,
            vcpus,
        )
        .and_then(|config| config.with_spi_count(32))
        .and_then(|config| config.with_list_register_count(4))
        .and_then(|config| config.with_its(region(0x0808_0000, 0x2_0000)))
        .expect("a configuration");

        let guest = Arc::new(Guest {
            taken: (0..vcpus).map(|_| AtomicU64::new(0)).collect(),
        });
        let queue = Arc::new(Queue(Mutex::new([0; 32])));
        let controller =
            GicV3Controller::new_with_guest_memory(config, guest.clone(), Some(queue.clone()))
                .expect("a controller");

        let bindings = (0..vcpus)
            .map(|n| {
                let affinity = GicAffinity::new(0, 0, (n / 16) as u8, (n % 16) as u8);
                controller
                    .attach_vcpu(GicVcpuId::new(n), affinity, Arc::new(NoWake))
                    .expect("a vCPU")
            })
            .collect();

        let gic = Self {
            controller,
            vcpus: bindings,
            guest,
            queue,
            commands: AtomicU64::new(0),
        };

        for n in 0..vcpus {
            (gic.controller)
                .write_redistributor(GicVcpuId::new(n), 0, AccessWidth::Dword, 1)
                .expect("GICR_CTLR");
        }
        gic.write_its(0x80, QUEUE);
        (gic.controller)
            .write_its(0, AccessWidth::Dword, 1)
            .expect("GITS_CTLR");
        (0..vcpus as u64).for_each(|n| gic.send(Command::mapc(n, n)));
        gic
    }

    fn write_its(&self, offset: u64, value: u64) {
        (self.controller)
            .write_its(offset, AccessWidth::Qword, value)
            .expect("an ITS register");
    }

    fn send(&self, command: Command) {
        let bytes: Vec<u8> = command
            .0
            .iter()
            .flat_map(|word| word.to_le_bytes())
            .collect();
        self.queue
            .0
            .lock()
            .expect("not poisoned")
            .copy_from_slice(&bytes);
        // The queue is one page: 128 commands.
        let next = self.commands.fetch_add(1, Relaxed) + 1;
        self.write_its(0x88, next % 128 * 32);
    }

    fn map(&self, device: u32, events: u32, first: u32, vcpu: impl Fn(u32) -> u32) {
        let bits = u64::from(events.next_power_of_two().trailing_zeros().max(1));
        self.send(Command::mapd(device.into(), bits));
        for event in 0..events {
            let (intid, icid) = ((first + event).into(), vcpu(event).into());
            self.send(Command::mapti(device.into(), event.into(), intid, icid));
            (self.controller)
                .configure_msi_input(ItsDeviceId::new(device), EventId::new(event))
                .expect("an MSI");
        }
    }
}

fn injector(gic: &Gic, devices: std::ops::Range<u32>, count: u32) -> Worker<'_> {
    let work = move |stop: &AtomicBool| {
        let events = events(devices, count);
        let mut done = 0;
        while !stop.load(Relaxed) {
            for &(device, event) in &events {
                (gic.controller)
                    .signal_msi(ItsDeviceId::new(device), EventId::new(event))
                    .expect("mapped");
            }
            done += events.len() as u64;
        }
        done
    };
    (Role::Accept, Box::new(work))
}

fn guests(gic: &Gic, vcpus: std::ops::Range<u32>) -> Worker<'_> {
    let work = move |stop: &AtomicBool| {
        let taken = || -> u64 {
            let counts = vcpus
                .clone()
                .map(|n| gic.guest.taken[n as usize].load(Relaxed));
            counts.sum()
        };
        let start = taken();

        while !stop.load(Relaxed) {
            let before = taken();
            for n in vcpus.clone() {
                let vcpu = &gic.vcpus[n as usize];
                vcpu.load().expect("loaded");
                vcpu.save().expect("saved");
            }
            if taken() == before {
                thread::yield_now();
            }
        }
        taken() - start
    };
    (Role::Deliver, Box::new(work))
}
