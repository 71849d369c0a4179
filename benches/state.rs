//! The save and the restore of a large VM: 512 vCPUs, without LPIs and with 65,536 of them, half of
//! them pending. Beside them the same by KVM's attributes and tables, in as many calls as a VMM
//! makes.

#[path = "../tests/common/attributes.rs"]
mod attributes;
mod common;

use std::sync::Mutex;

use attributes::{Memory, ORDERS, Stored, command, made_of, save_tables, stored};
use criterion::{BatchSize, Criterion};
use perf_host::vm::{GITS, QuietHost, SoftCpu};
use vgic::config::ItsConfig;
use vgic::cpu_interface::software::{NEOVERSE, SoftwareInterface};
use vgic::epoch::Domain;
use vgic::intid::{Affinity, CpuId};
use vgic::kvm::{Device, Devices, control};
use vgic::state::flags;
use vgic::state::{CollectionState, DeviceState, EventState, InterruptState, LpiState, VmState};
use vgic::{Config, Cpu, Vgic};

const VCPUS: u16 = 512;
const DEVICES: u32 = 64;
const EVENT_BITS: u8 = 10;
const VALID: u64 = 1 << 63;

fn main() {
    let mut criterion = common::criterion();
    for lpis in [0, DEVICES << EVENT_BITS] {
        measure(&mut criterion, lpis);
    }
    criterion.final_summary();
}

fn measure(criterion: &mut Criterion, lpis: u32) {
    // Made on first use: a filter may exclude the benchmarks.
    let mut made = None;
    let of = format!("{VCPUS}_vcpus_{lpis}_lpis");
    criterion.bench_function(&format!("state/save/{of}"), |b| {
        let (machine, _) = made.get_or_insert_with(|| saved(lpis));
        b.iter(|| machine.vgic.save(&machine.cpu.pin()));
    });
    criterion.bench_function(&format!("state/restore/{of}"), |b| {
        let (_, state) = made.get_or_insert_with(|| saved(lpis));
        // A new VM each time: the drop of the mappings before is not measured.
        let restore = |machine: Machine| {
            let restored = machine.vgic.restore(&machine.cpu.pin(), state);
            restored.expect("a state of the VM");
            machine
        };
        b.iter_batched(Machine::new, restore, BatchSize::PerIteration);
    });

    criterion.bench_function(&format!("state/kvm_save/{of}"), |b| {
        let (machine, _) = made.get_or_insert_with(|| saved(lpis));
        let ram = ram();
        b.iter(|| saved_by_kvm(machine, &ram));
    });
    criterion.bench_function(&format!("state/kvm_restore/{of}"), |b| {
        let (machine, _) = made.get_or_insert_with(|| saved(lpis));
        let ram = ram();
        let (devices, stored) = saved_by_kvm(machine, &ram);
        let pending = command(Device::Gic, control::SAVE_PENDING_TABLES);
        // A restore takes the pending states out of the tables.
        let prepare = || {
            let saved = devices.clone().set(pending, 0, &ram);
            saved.expect("tables in RAM");
            Machine::new()
        };
        let restore = |machine: Machine| {
            let made = made_of(&stored, machine.vgic.config(), NEOVERSE, &ram);
            let (_, state) = made.finish().expect("complete devices");
            let restored = machine.vgic.restore(&machine.cpu.pin(), &state);
            restored.expect("a state of the VM");
            machine
        };
        b.iter_batched(prepare, restore, BatchSize::PerIteration);
    });
}

/// Saves a VM, and reads all that a VMM stores.
fn saved_by_kvm(machine: &Machine, ram: &Memory) -> (Devices, Stored) {
    let config = machine.vgic.config();
    let state = machine.vgic.save(&machine.cpu.pin());
    let mut devices = Devices::of(
        config.clone(),
        NEOVERSE,
        state.expect("no vCPU is on a CPU"),
    );
    save_tables(&mut devices, config, ram);
    let stored = stored(&devices, config, NEOVERSE, ORDERS[0]);
    (devices, stored)
}

const RAM: u64 = Memory::BASE;
/// Translation tables, 8 KiB for each device.
const ITTS: u64 = RAM;
const DEVICE_TABLE: u64 = RAM + 0x10_0000;
const COLLECTION_TABLE: u64 = RAM + 0x20_0000;
const PROPERTIES: u64 = RAM + 0x30_0000;
/// Pending tables, 64 KiB apart.
const PENDING: u64 = RAM + 0x100_0000;

/// Returns 64 MiB whose table configures every LPI as the state has it.
fn ram() -> Memory {
    let mut bytes = vec![0; 0x400_0000];
    let at = (PROPERTIES - RAM) as usize;
    bytes[at..at + 0x1_0000].fill(0xa1);
    Memory(Mutex::new(bytes))
}

/// A VM after its creation, and a CPU.
struct Machine {
    vgic: Vgic<QuietHost>,
    cpu: SoftCpu,
}

impl Machine {
    fn new() -> Self {
        let affinities = (0..VCPUS).map(|n| Affinity::new(0, 0, (n / 16) as u8, (n % 16) as u8));
        let config = Config {
            lpis: DEVICES << EVENT_BITS,
            its: vec![ItsConfig {
                max_devices: DEVICES,
                max_events: DEVICES << EVENT_BITS,
                collections: VCPUS.into(),
                ..ItsConfig::at(GITS)
            }],
            ..Config::new(affinities.collect())
        };
        let domain = Domain::new();
        let local = domain.register(CpuId(0)).expect("the first CPU");
        Self {
            vgic: Vgic::new(&domain, config, QuietHost::default()).expect("a valid configuration"),
            cpu: Cpu::new(local, SoftwareInterface::default()),
        }
    }
}

/// Returns a VM that has been given a state with so many LPIs, and the state.
fn saved(lpis: u32) -> (Machine, VmState) {
    let machine = Machine::new();
    let mut state = (machine.vgic.save(&machine.cpu.pin())).expect("no vCPU is on a CPU");
    let target = |lpi: u32| (lpi % u32::from(VCPUS)) as u16;
    state.lpis = (0..lpis)
        .map(|lpi| LpiState {
            intid: 8192 + lpi,
            interrupt: InterruptState {
                flags: flags::GROUP1 | flags::ENABLED | ((lpi % 2) as u8 * flags::LATCH),
                priority: 0xa0,
            },
            icid: target(lpi),
            target: Some(target(lpi)),
        })
        .collect();
    state.propbaser = PROPERTIES | 16;
    for (vcpu, table) in state.vcpus.iter_mut().zip((PENDING..).step_by(0x1_0000)) {
        (vcpu.enable_lpis, vcpu.pendbaser) = (true, table);
    }
    let its = &mut state.its[0];
    // Pages of 64 KiB.
    its.device_table |= VALID | DEVICE_TABLE;
    its.collection_table |= VALID | COLLECTION_TABLE;
    its.collections = (0..VCPUS)
        .map(|vcpu| CollectionState { icid: vcpu, vcpu })
        .collect();
    its.devices = (0..lpis >> EVENT_BITS)
        .map(|device| DeviceState {
            device,
            itt: ITTS + (u64::from(device) << (EVENT_BITS + 3)),
            event_bits: EVENT_BITS,
            events: (0..1 << EVENT_BITS)
                .map(|event| EventState {
                    event,
                    intid: 8192 + (device << EVENT_BITS) + event,
                })
                .collect(),
        })
        .collect();
    let restored = machine.vgic.restore(&machine.cpu.pin(), &state);
    restored.expect("a state of the VM");
    (machine, state)
}
