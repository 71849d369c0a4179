//! A guest that programs an ITS only through the registers and guest memory, and tests of one topic
//! a file.

mod commands;
mod lifetimes;
mod queue;
mod registers;
mod tables;

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::vec;
use std::vec::Vec;

use crate::CommandError;
use crate::config::GITS_TRANSLATER;
use crate::cpu_interface::software::SoftwareInterface;
use crate::epoch::{CpuPin, Domain};
use crate::host::{BadAddress, Host, PhysicalInterrupt};
use crate::intid::{Affinity, CpuId, DeviceId, EventId, IntId, ItsId, VcpuId};
use crate::mmio::{MmioOutcome, Width};
use crate::trace::Totals;
use crate::vm::irq::State;
use crate::{Config, Cpu, PinnedCpu, TeardownReport, Vgic};
use crate::{InjectError, Injected};

const ITS: ItsId = ItsId(0);

const V0: VcpuId = VcpuId(0);

const GITS_CTLR: u64 = 0;
const GITS_CBASER: u64 = 0x80;
const GITS_CWRITER: u64 = 0x88;
const GITS_CREADR: u64 = 0x90;
const GITS_BASER0: u64 = 0x100;
const GITS_BASER1: u64 = 0x108;

const VALID: u64 = 1 << 63;
const INDIRECT: u64 = 1 << 62;

/// Guest RAM, and the addresses of the tests' tables.
const RAM: u64 = 0x4000_0000;
const RAM_SIZE: usize = 0x40_0000;
const QUEUE: u64 = RAM;
/// One page: 128 commands.
const QUEUE_SIZE: u64 = 0x1000;
/// 512 KiB: 65,536 entries of 8 bytes.
const DEVICE_TABLE: u64 = RAM + 0x10_0000;
const COLLECTION_TABLE: u64 = RAM + 0x20_0000;
const LPI_CONFIG: u64 = RAM + 0x30_0000;

/// Notification of the host.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Notice {
    /// Device, event, LPI, target.
    Mapped(u32, u32, u32, Option<u16>),
    /// Device, event.
    Unmapped(u32, u32),
    /// Command number, error.
    Failed(u8, CommandError),
}

struct TestHost {
    ram: Mutex<Vec<u8>>,
    notices: Mutex<Vec<Notice>>,
    /// Devices mapped, with the number of EventID bits, and unmapped.
    devices: Mutex<Vec<(u32, Option<u8>)>>,
    /// Address and length of each read of guest memory.
    reads: Mutex<Vec<(u64, usize)>>,
}

impl TestHost {
    fn new() -> Self {
        Self {
            ram: Mutex::new(vec![0; RAM_SIZE]),
            notices: Mutex::default(),
            devices: Mutex::default(),
            reads: Mutex::default(),
        }
    }

    fn write(&self, gpa: u64, bytes: &[u8]) {
        let start = (gpa - RAM) as usize;
        self.ram.lock().unwrap()[start..start + bytes.len()].copy_from_slice(bytes);
    }

    fn note(&self, notice: Notice) {
        self.notices.lock().unwrap().push(notice);
    }
}

impl Host for TestHost {
    fn kick(&self, _cpu: CpuId, _vcpu: VcpuId) {}
    fn wake(&self, _vcpu: VcpuId) {}
    fn read_memory(&self, gpa: u64, buffer: &mut [u8]) -> Result<(), BadAddress> {
        self.reads.lock().unwrap().push((gpa, buffer.len()));
        let start = gpa.checked_sub(RAM).ok_or(BadAddress)? as usize;
        let ram = self.ram.lock().unwrap();
        let end = start.checked_add(buffer.len()).ok_or(BadAddress)?;
        buffer.copy_from_slice(ram.get(start..end).ok_or(BadAddress)?);
        Ok(())
    }
    fn write_memory(&self, gpa: u64, bytes: &[u8]) -> Result<(), BadAddress> {
        let start = gpa.checked_sub(RAM).ok_or(BadAddress)? as usize;
        let mut ram = self.ram.lock().unwrap();
        let end = start.checked_add(bytes.len()).ok_or(BadAddress)?;
        ram.get_mut(start..end)
            .ok_or(BadAddress)?
            .copy_from_slice(bytes);
        Ok(())
    }
    fn deactivate(&self, _physical: PhysicalInterrupt) {}
    fn is_pending(&self, _physical: PhysicalInterrupt) -> bool {
        false
    }
    fn device_mapped(&self, _its: ItsId, device: DeviceId, event_bits: u8) {
        let mut devices = self.devices.lock().unwrap();
        devices.push((device.0, Some(event_bits)));
    }
    fn device_unmapped(&self, _its: ItsId, device: DeviceId) {
        self.devices.lock().unwrap().push((device.0, None));
    }
    fn event_mapped(
        &self,
        _its: ItsId,
        device: DeviceId,
        event: EventId,
        lpi: IntId,
        target: Option<VcpuId>,
    ) {
        let target = target.map(|vcpu| vcpu.index() as u16);
        self.note(Notice::Mapped(device.0, event.0, lpi.raw(), target));
    }
    fn event_unmapped(&self, _its: ItsId, device: DeviceId, event: EventId) {
        self.note(Notice::Unmapped(device.0, event.0));
    }
    fn command_failed(&self, _its: ItsId, number: u8, error: CommandError) {
        self.note(Notice::Failed(number, error));
    }
}

/// Stop signal for other threads when dropped, also by a failed test.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Relaxed);
    }
}

type Command = [u64; 4];

fn command(number: u64, device: u32, word1: u64, word2: u64) -> Command {
    [u64::from(device) << 32 | number, word1, word2, 0]
}

fn movi(device: u32, event: u32, icid: u16) -> Command {
    command(1, device, event.into(), icid.into())
}
fn int(device: u32, event: u32) -> Command {
    command(3, device, event.into(), 0)
}
fn clear(device: u32, event: u32) -> Command {
    command(4, device, event.into(), 0)
}
fn sync(vcpu: u64) -> Command {
    command(5, 0, 0, vcpu << 16)
}
/// Builds `MAPD`; `event_bits` is 1-32, or `None` to unmap.
fn mapd(device: u32, event_bits: Option<u64>) -> Command {
    match event_bits {
        Some(bits) => command(8, device, bits - 1, VALID | 0x4030_0000),
        None => command(8, device, 0, 0),
    }
}
fn mapc(icid: u16, vcpu: Option<u64>) -> Command {
    let target = vcpu.map_or(0, |vcpu| VALID | vcpu << 16);
    command(9, 0, 0, target | u64::from(icid))
}
fn mapti(device: u32, event: u32, intid: u32, icid: u16) -> Command {
    let ids = u64::from(intid) << 32 | u64::from(event);
    command(0xa, device, ids, icid.into())
}
fn mapi(device: u32, event: u32, icid: u16) -> Command {
    command(0xb, device, event.into(), icid.into())
}
fn inv(device: u32, event: u32) -> Command {
    command(0xc, device, event.into(), 0)
}
fn invall(icid: u16) -> Command {
    command(0xd, 0, 0, icid.into())
}
fn movall(from: u64, to: u64) -> Command {
    [0xe, 0, from << 16, to << 16]
}
fn discard(device: u32, event: u32) -> Command {
    command(0xf, device, event.into(), 0)
}

/// VM with four vCPUs and enabled ITSes without mappings.
struct Guest {
    domain: Domain,
    cpu: Cpu<SoftwareInterface>,
    vm: Vgic<TestHost>,
}

impl Guest {
    fn new() -> Self {
        Self::with(|_| {})
    }

    fn with(change: impl FnOnce(&mut Config)) -> Self {
        let mut config =
            Config::new((0..4).map(|n| Affinity::new(0, 0, 0, n)).collect()).with_its(0x0808_0000);
        if cfg!(miri) {
            config.spis = 32;
        }
        change(&mut config);
        let domain = Domain::new();
        let cpu = Cpu::new(
            domain.register(CpuId(0)).unwrap(),
            SoftwareInterface::default(),
        );
        let vm = Vgic::new(&domain, config, TestHost::new()).unwrap();
        let guest = Self { domain, cpu, vm };
        guest.set_up();
        guest
    }

    /// Sets up LPIs, tables and queues and enables the ITSes, as a driver does.
    fn set_up(&self) {
        let config = self.vm.config();
        self.access(config.distributor, Width::Word, Some(2));
        for vcpu in 0..4 {
            let frame = config.redistributors[0].base + vcpu * 0x2_0000;
            self.access(frame + 0x70, Width::Double, Some(LPI_CONFIG | 16));
            self.access(frame + 0x78, Width::Double, Some(1 << 62));
            self.access(frame, Width::Word, Some(1));
        }

        // Enabling LPIs reads every configuration, in slices.
        while self.vm.has_deferred() {
            self.vm.advance(&self.pin()).unwrap();
        }

        for index in 0..config.its.len() as u8 {
            let its = ItsId(index);
            let queue = QUEUE + u64::from(index) * 0x1_0000;
            self.write_its(its, GITS_BASER0, Width::Double, VALID | DEVICE_TABLE | 127);
            self.write_its(
                its,
                GITS_BASER1,
                Width::Double,
                VALID | COLLECTION_TABLE | 15,
            );
            self.write_its(its, GITS_CBASER, Width::Double, VALID | queue);
            self.write_its(its, GITS_CTLR, Width::Word, 1);
        }
    }

    fn pin(&self) -> PinnedCpu<'_, SoftwareInterface> {
        self.cpu.pin()
    }

    /// Makes an access by vCPU 0: a write of `value`, or a read if `value` is `None`.
    fn access(&self, gpa: u64, width: Width, value: Option<u64>) -> u64 {
        let pin = &self.pin();
        let outcome = match value {
            None => self.vm.mmio_read(pin, V0, gpa, width),
            Some(value) => self.vm.mmio_write(pin, gpa, width, value),
        };
        match outcome.unwrap() {
            MmioOutcome::Done(value) => value,
            other => panic!("{gpa:#x}: {other:?}"),
        }
    }

    fn read_its(&self, its: ItsId, offset: u64, width: Width) -> u64 {
        let base = self.vm.config().its[usize::from(its.0)].base;
        self.access(base + offset, width, None)
    }

    fn write_its(&self, its: ItsId, offset: u64, width: Width, value: u64) {
        let base = self.vm.config().its[usize::from(its.0)].base;
        self.access(base + offset, width, Some(value));
    }

    fn read(&self, offset: u64) -> u64 {
        self.read_its(ITS, offset, Width::Double)
    }

    fn write(&self, offset: u64, value: u64) {
        self.write_its(ITS, offset, Width::Double, value);
    }

    /// Returns Enabled and Quiescent of `GITS_CTLR`.
    fn ctlr(&self) -> (bool, bool) {
        let value = self.read_its(ITS, GITS_CTLR, Width::Word);
        assert_eq!(value & !(1 | 1 << 31), 0);
        (value & 1 != 0, value >> 31 != 0)
    }

    fn enable(&self, on: bool) {
        self.write_its(ITS, GITS_CTLR, Width::Word, on.into());
    }

    fn write_memory(&self, gpa: u64, value: u64) {
        self.vm.host().write(gpa, &value.to_le_bytes());
    }

    /// Puts commands into the queue without a write of `GITS_CWRITER`. Returns the new
    /// `GITS_CWRITER`.
    fn put(&self, its: ItsId, commands: &[Command]) -> u64 {
        let queue = self.vm.vm().its(its).unwrap();
        let base = self.read_its(its, GITS_CBASER, Width::Double) & 0x000f_ffff_ffff_0000;
        let mut offset = queue.cwriter();
        for command in commands {
            for (word, value) in (0..).zip(command) {
                self.write_memory(base + offset + word * 8, *value);
            }
            offset = (offset + 32) % QUEUE_SIZE;
        }
        offset
    }

    /// Gives commands to `its` and polls `GITS_CREADR` until the commands are executed, as a driver
    /// does. Returns the number of polls.
    fn run_on(&self, its: ItsId, commands: &[Command]) -> u32 {
        assert!(commands.len() < 128);
        let cwriter = self.put(its, commands);
        self.write_its(its, GITS_CWRITER, Width::Double, cwriter);
        for polls in 1..1_000_000 {
            if self.read_its(its, GITS_CREADR, Width::Double) == cwriter {
                return polls;
            }
            // Another thread may hold the command lock, and not be running.
            std::thread::yield_now();
        }
        panic!("GITS_CREADR does not move");
    }

    fn run(&self, commands: &[Command]) -> u32 {
        self.run_on(ITS, commands)
    }

    /// Runs one command. Returns the error, if the command failed.
    fn fails(&self, command: Command) -> Option<CommandError> {
        self.notices();
        self.run(&[command]);
        self.notices().iter().find_map(|notice| match notice {
            Notice::Failed(number, error) => {
                assert_eq!(u64::from(*number), command[0] & 0xff);
                Some(*error)
            }
            _ => None,
        })
    }

    /// Takes the notifications of the host since the last call.
    fn notices(&self) -> Vec<Notice> {
        core::mem::take(&mut self.vm.host().notices.lock().unwrap())
    }

    /// Maps collections 0-3 to vCPUs 0-3, and device 1 with 32 events.
    fn with_device_1(self) -> Self {
        self.configure(8192, 0xa1);
        self.configure(8193, 0xa1);
        let collections = (0..4).map(|n| mapc(n, Some(n.into())));
        let commands: Vec<_> = collections.chain([mapd(1, Some(5))]).collect();
        self.run(&commands);
        assert_eq!(self.notices(), []);
        self
    }

    /// Writes an LPI's configuration byte: priority in 7:2, enable in 0.
    fn configure(&self, intid: u32, byte: u8) {
        let entry = LPI_CONFIG + u64::from(intid - IntId::FIRST_LPI);
        self.vm.host().write(entry, &[byte]);
    }

    /// Signals an MSI.
    fn msi(&self, device: u32, event: u32) -> Result<Injected, InjectError> {
        let translater = 0x0808_0000 + GITS_TRANSLATER;
        self.vm
            .signal_msi(&self.pin(), translater, DeviceId(device), event)
    }

    /// Returns the state of an LPI in the VM's table.
    fn lpi(&self, intid: u32) -> Option<State> {
        let pin = self.pin();
        let irq = self.vm.vm().lpi(&pin, IntId::lpi(intid).unwrap())?;
        Some(irq.state())
    }

    /// Returns the target of an LPI, the pending state, and the vCPU whose ap_list holds the LPI.
    fn place(&self, intid: u32) -> (Option<u16>, bool, Option<u16>) {
        let state = self.lpi(intid).unwrap();
        let number = |vcpu: VcpuId| vcpu.index() as u16;
        (
            state.target().map(number),
            state.shows_pending(),
            state.queued_on().map(number),
        )
    }

    fn totals(&self) -> Totals {
        self.domain.totals()
    }

    /// Tears the VM down, and checks that every reference has been put.
    fn finish(self) -> (TeardownReport, Totals) {
        let report = self.vm.teardown(&self.cpu.pin()).unwrap();
        let totals = self.domain.totals();
        assert_eq!(report.references, 0);
        #[cfg(feature = "counters")]
        {
            assert_eq!(totals.mapping_gets, totals.mapping_puts);
            assert_eq!(totals.list_gets, totals.list_puts);
            assert_eq!(totals.lookup_locks_taken, 0);
        }
        (report, totals)
    }
}
