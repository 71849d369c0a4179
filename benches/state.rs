//! The save and the restore of a large VM: 512 vCPUs, without LPIs and with 65,536 of them, half of
//! them pending.

mod common;

use criterion::{BatchSize, Criterion};
use perf_host::vm::{GITS, QuietHost, SoftCpu};
use vgic::config::ItsConfig;
use vgic::cpu_interface::software::SoftwareInterface;
use vgic::epoch::Domain;
use vgic::intid::{Affinity, CpuId};
use vgic::state::flags;
use vgic::state::{CollectionState, DeviceState, EventState, InterruptState, LpiState, VmState};
use vgic::{Config, Cpu, Vgic};

const VCPUS: u16 = 512;
const DEVICES: u32 = 64;
const EVENT_BITS: u8 = 10;

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
    let its = &mut state.its[0];
    its.collections = (0..VCPUS)
        .map(|vcpu| CollectionState { icid: vcpu, vcpu })
        .collect();
    its.devices = (0..lpis >> EVENT_BITS)
        .map(|device| DeviceState {
            device,
            itt: 0x4000_0000 + (u64::from(device) << (EVENT_BITS + 3)),
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
