//! A VMM that saves and restores a VM by KVM's device attributes: any attribute with any value, in
//! any order, over tables in the memory of a hostile guest.

use vgic::config::ItsConfig;
use vgic::cpu_interface::Vtr;
use vgic::cpu_interface::software::{NEOVERSE, SoftwareInterface};
use vgic::epoch::Domain;
use vgic::intid::{CpuId, ItsId, VcpuId};
use vgic::kvm::{Attribute, Device, Devices, address, control, group};
use vgic::{Config, Cpu, Vgic};

use crate::as_given;
use crate::heap;
use crate::host::HostileHost;
use crate::input::Input;
use crate::memory::{self, BASE};
use crate::shape::{DEVICE_TABLE, INDIRECT, Shape, VALID};

/// Largest number of calls in a run.
const CALLS: usize = 300;
/// The CPUs: the largest shape has LPIs of 17 bits.
const VTR: Vtr = Vtr {
    id_bits: 24,
    ..NEOVERSE
};
const COLLECTION_TABLE: u64 = BASE + 0x9000;
/// The second-level page of an indirect device table.
const DEVICE_PAGE: u64 = BASE + 0xa000;
const TRANSLATION_TABLES: u64 = BASE + 0x2_0000;
const PENDING_TABLES: u64 = BASE + 0x3_0000;
/// Most entries of device tables that one command looks at: the library's own bound.
const MOST_ENTRIES: u64 = 1 << 23;
/// Entries in the bytes that the library reads at once.
const CHUNK: u64 = 32;
/// Heap outside every quota: the vectors of interrupts and vCPUs, twice.
const SLACK: isize = 1 << 18;

/// The VMM, and its knowledge of the VM.
struct Vmm {
    devices: Devices,
    config: Config,
    host: HostileHost,
}

/// Runs a VMM through the calls of an input, and restores a VM from the devices.
pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let shape = input.byte();
    let Shape(mut config, device_table) = Shape::new(shape & 0x63);
    // KVM has none.
    (config.extended_spis, config.extended_ppis) = (0, 0);
    let mut vmm = Vmm {
        devices: Devices::new(config.clone(), VTR),
        host: HostileHost::new(config.its.clone(), None),
        config,
    };

    if shape & 0x80 == 0 {
        vmm.set_up(device_table);
    }
    for _ in 0..CALLS {
        if input.is_empty() {
            break;
        }
        vmm.step(&mut input);
    }
    vmm.finish();
}

impl Vmm {
    /// Sets the devices up as those of a VM whose guest has programmed them, with tables of valid
    /// entries.
    fn set_up(&mut self, device_table: u64) {
        let config = self.config.clone();
        let gic = |group, attr| attribute(Device::Gic, group, attr);
        self.set(gic(group::ADDR, address::DIST), config.distributor);
        let redistributors = config.redistributors[0].base;
        self.set(gic(group::ADDR, address::REDIST), redistributors);
        self.set(gic(group::CTRL, control::INIT), 0);

        for vcpu in &config.vcpus {
            let of = u64::from(vcpu.packed()) << 32;
            let mut register = |offset, value| {
                self.set(gic(group::REDIST_REGS, of | offset), value);
            };
            register(0x70, BASE | 15);
            register(0x78, PENDING_TABLES);
            register(0, 1);
        }

        let memory = &self.host.memory;
        memory.write(BASE, &[0xa1; 0x100]);
        memory.write(PENDING_TABLES + 8192 / 8, &[0x55; 0x20]);
        let mut entries = vec![
            (COLLECTION_TABLE, VALID),
            (COLLECTION_TABLE + 8, VALID | 1 << 16 | 1),
        ];
        let indirect = device_table & INDIRECT != 0;
        if indirect {
            entries.push((DEVICE_TABLE, VALID | DEVICE_PAGE));
        }
        let devices = if indirect { DEVICE_PAGE } else { DEVICE_TABLE };
        for device in 0..2 {
            let table = TRANSLATION_TABLES + device * 0x100;
            let next = 1 - device;
            entries.push((
                devices + device * 8,
                VALID | next << 49 | (table >> 8) << 5 | 3,
            ));
            entries.push((table, 2 << 48 | (8192 + device * 4) << 16));
            entries.push((table + 16, (8193 + device * 4) << 16 | 1));
        }
        for (at, entry) in entries {
            memory.write(at, &entry.to_le_bytes());
        }

        for (n, its) in (0..).zip(&config.its) {
            let device = Device::Its(ItsId(n));
            self.set(attribute(device, group::ADDR, address::ITS), its.base);
            for (offset, value) in [
                (0x80, VALID | BASE),
                (0x100, device_table),
                (0x108, VALID | COLLECTION_TABLE),
            ] {
                self.set(attribute(device, group::ITS_REGS, offset), value);
            }
        }
    }

    /// Makes the next call of the input, or changes the guest's memory.
    fn step(&mut self, input: &mut Input<'_>) {
        let memory = &self.host.memory;
        match input.byte() % 20 {
            0..8 => {
                let attribute = self.attribute(input);
                let is_table = attribute.group == group::ITS_REGS && input.flag();
                let value = if is_table {
                    input.table()
                } else {
                    input.value()
                };
                self.set(attribute, value);
            }
            8 => {
                let attribute = self.attribute(input);
                let mut value = input.value();
                let got = self.devices.get(attribute, &mut value);
                if got.is_ok() {
                    self.check_that_there_is(attribute);
                }
            }
            9..11 => self.command(input, control::SAVE_TABLES),
            11..14 => self.command(input, control::RESTORE_TABLES),
            14 => self.command(input, control::RESET),
            15 => {
                let pending = attribute(Device::Gic, group::CTRL, control::SAVE_PENDING_TABLES);
                self.set(pending, 0);
            }
            16 => {
                let at = BASE + u64::from(input.half() & 0x7fff) * 8;
                let bytes = entry(input).to_le_bytes();
                let count = usize::from(input.byte()) << (input.byte() & 7);
                memory.write(at, &bytes.repeat(count));
            }
            17 | 18 => {
                let page = input.pick(&[
                    DEVICE_TABLE,
                    COLLECTION_TABLE,
                    DEVICE_PAGE,
                    TRANSLATION_TABLES,
                ]);
                let at = page + u64::from(input.byte()) * 8;
                memory.write(at, &entry(input).to_le_bytes());
            }
            _ => match input.byte() % 3 {
                0 => memory.disturb(input.byte().into()),
                1 => memory.flip_page(input.byte()),
                _ => {
                    let vcpu = VcpuId::new(input.byte().into()).expect("a small number");
                    let known = vcpu.index() < self.config.vcpus.len();
                    let set = self.devices.set_power(vcpu, input.flag());
                    assert_eq!(set.is_ok(), known);
                }
            },
        }
    }

    /// Sends a command to an ITS.
    fn command(&mut self, input: &mut Input<'_>, command: u64) {
        let its = ItsId(input.byte() & 1);
        self.set(attribute(Device::Its(its), group::CTRL, command), 0);
    }

    /// Writes an attribute, or does a command, and checks the bounds, and that a call that fails
    /// has changed nothing.
    fn set(&mut self, attribute: Attribute, value: u64) {
        let before = self.devices.clone();
        let reads = memory::reads();
        let (devices, host) = (&mut self.devices, &self.host);
        let (outcome, peak) = heap::peak(|| devices.set(attribute, value, host));
        let reads = memory::reads() - reads;

        let bound = reads_of(&self.config);
        assert!(reads <= bound, "{reads} reads of {bound}: {attribute:x?}");
        let bound = heap_of(&self.config);
        assert!(peak <= bound, "{peak} bytes of {bound}: {attribute:x?}");

        let saves = [control::SAVE_TABLES, control::SAVE_PENDING_TABLES];
        let is_save = attribute.group == group::CTRL && saves.contains(&attribute.attr);
        if outcome.is_err() || is_save {
            let unchanged = self.devices == before;
            assert!(unchanged, "{attribute:x?} = {value:#x}: {outcome:?}");
            return;
        }

        self.check_that_there_is(attribute);
        if attribute.group != group::CTRL {
            let mut found = value;
            let got = self.devices.get(attribute, &mut found);
            assert_eq!(got, Ok(()), "{attribute:x?}");
            if [group::ADDR, group::NR_IRQS].contains(&attribute.group) {
                assert_eq!(found, value, "{attribute:x?}");
            }
        }
    }

    /// Checks that there is an attribute that has been read or written. Registers of frames are
    /// RAZ/WI where there are none.
    fn check_that_there_is(&self, attribute: Attribute) {
        if ![group::DIST_REGS, group::REDIST_REGS].contains(&attribute.group) {
            assert_eq!(self.devices.has(attribute), Ok(()), "{attribute:x?}");
        }
    }

    /// Reads an attribute: mostly one that there is.
    fn attribute(&self, input: &mut Input<'_>) -> Attribute {
        const GICD: [u64; 8] = [0, 4, 8, 0xc, 0x10, 0xffe8, 0xd04, 0x800];
        const GICR: [u64; 10] = [0, 4, 8, 0xc, 0x14, 0x70, 0x74, 0x78, 0x7c, 0xa0];
        const GITS: [u64; 10] = [0, 4, 8, 0x80, 0x88, 0x90, 0x100, 0x108, 0x110, 0xffe8];
        const BLOCKS: [u64; 10] = [
            0x080, 0x100, 0x180, 0x200, 0x280, 0x300, 0x380, 0x400, 0xc00, 0x6000,
        ];
        // CRn, CRm and Op2.
        const ICC: [(u64, u64, u64); 9] = [
            (4, 6, 0),
            (12, 8, 3),
            (12, 8, 4),
            (12, 9, 0),
            (12, 12, 3),
            (12, 12, 4),
            (12, 12, 5),
            (12, 12, 6),
            (12, 12, 7),
        ];

        let its = Device::Its(ItsId(input.byte() & 1));
        let vcpu = input.pick(&self.config.vcpus);
        let of = u64::from(vcpu.packed()) << 32;
        let block = |input: &mut Input<'_>| input.pick(&BLOCKS) + u64::from(input.byte()) * 4;

        let (device, group, attr) = match input.byte() % 16 {
            0 => (Device::Gic, group::DIST_REGS, input.pick(&GICD)),
            1 | 2 => (Device::Gic, group::DIST_REGS, block(input)),
            3 => (Device::Gic, group::REDIST_REGS, of | input.pick(&GICR)),
            4 | 5 => {
                let offset = 0x1_0000 | block(input) & 0xfff;
                (Device::Gic, group::REDIST_REGS, of | offset)
            }
            6 => {
                let (crn, crm, op2) = input.pick(&ICC);
                let register = 3 << 14 | crn << 7 | crm << 3 | op2;
                (Device::Gic, group::CPU_SYSREGS, of | register)
            }
            7 => {
                let first = u64::from(input.byte() & 31) * 32;
                (Device::Gic, group::LEVEL_INFO, of | first)
            }
            8..12 => (its, group::ITS_REGS, input.pick(&GITS)),
            12 => {
                let attr = input.pick(&[address::DIST, address::REDIST, address::REDIST_REGION]);
                (Device::Gic, group::ADDR, attr)
            }
            13 => (its, group::ADDR, address::ITS),
            14 => input.pick(&[
                (Device::Gic, group::NR_IRQS, 0),
                (Device::Gic, group::CTRL, control::INIT),
                (its, group::CTRL, control::INIT),
            ]),
            _ => {
                let device = if input.flag() { its } else { Device::Gic };
                (device, u32::from(input.byte() % 10), input.value())
            }
        };
        attribute(device, group, attr)
    }

    /// Restores a VM from the devices, has each of its vCPUs on a CPU, and tears it down.
    fn finish(self) {
        let Ok((config, state)) = self.devices.finish() else {
            return;
        };
        let domain = Domain::new();
        let vm = Vgic::new(&domain, config, self.host).expect("`finish` has looked at it");
        let local = domain.register(CpuId(0)).expect("the only CPU");
        let cpu = Cpu::new(local, SoftwareInterface::new(VTR));

        vm.restore(&cpu.pin(), &state).expect("the state is whole");
        let saved = vm.save(&cpu.pin()).expect("no vCPU is on a CPU");
        assert_eq!(as_given(saved, &state), state);

        for (n, vcpu) in state.vcpus.iter().enumerate() {
            let id = VcpuId::new(n).expect("a vCPU of the VM");
            vm.host().set_inside(0, Some(id));
            assert_eq!(vm.enter(&cpu.pin(), id).is_ok(), vcpu.is_on);
            vm.host().set_inside(0, None);
            if vcpu.is_on {
                vm.exit(&cpu.pin(), id).expect("it is in the guest");
                vm.vcpu_put(&cpu.pin(), id).expect("it is on the CPU");
            }
        }
        let report = vm.teardown(&cpu.pin()).expect("no vCPU is on a CPU");
        assert_eq!(report.references, 0);
    }
}

fn attribute(device: Device, group: u32, attr: u64) -> Attribute {
    Attribute {
        device,
        group,
        attr,
    }
}

/// Reads an entry of a table, mostly a valid one.
fn entry(input: &mut Input<'_>) -> u64 {
    let next = u64::from(input.byte() & 7);
    let page = u64::from(input.half()) << 8 & 0x3_ff00;
    let icid = u64::from(input.id() & 0xffff);
    let choice = input.byte();
    match choice % 5 {
        0 => {
            let bits = u64::from(choice >> 4);
            VALID | next << 49 | ((BASE + page) >> 8) << 5 | bits
        }
        1 => VALID | u64::from(input.id()) << 16 | icid,
        2 => next << 48 | u64::from(8192 + input.id() % 0x1_0000) << 16 | icid,
        3 => VALID | (BASE + page),
        _ => input.value(),
    }
}

/// Returns the most reads of guest memory of a command. A table is read a chunk at a time; a page
/// of the second level may be one that every entry of the first level leads to.
fn reads_of(config: &Config) -> u64 {
    // The smallest pages have 512 entries.
    let of_its = |its: &ItsConfig| {
        let entries = 1_u64 << its.device_bits;
        let table = (entries / CHUNK + entries / 512 + 2).min(MOST_ENTRIES);
        let (devices, events) = (u64::from(its.max_devices), u64::from(its.max_events));
        let collections = u64::from(its.collections) / CHUNK + 2;
        // The entries of a device, its events, and the configuration and the pending state of each.
        table + 4 * devices + events / CHUNK + 3 * events + collections
    };
    let most = config.its.iter().map(of_its).max().unwrap_or(0);
    // Pending states are those of all ITSes.
    let events = config.its.iter().map(|its| u64::from(its.max_events));
    most.max(events.sum())
}

/// Returns the most bytes that a command may allocate. Vectors double.
fn heap_of(config: &Config) -> isize {
    let its = config.its.iter().map(|its| {
        let (devices, events) = (its.max_devices as isize, its.max_events as isize);
        devices * 256 + events * 64
    });
    SLACK + its.sum::<isize>() + config.lpis as isize * 64
}
