//! The library and the reference side by side: each operation is done to both, and what can be observed
//! is compared.
//!
//! # Quiescence
//! The reference's operations take effect at once. The library's take effect once the embedder has done
//! what it was asked for: kicks and maintenance interrupts make a PE leave the guest and enter it again,
//! deferred work is advanced. Comparisons are made when nothing of that is left to be done
//! ([`Machine::settle`]), and a PE is taken out of the guest for nothing else, so a kick that is missing
//! shows as a difference. One exception: a level that falls is noticed at the PE's next exit (a device
//! that drops its line races with the acknowledgement on hardware, too), so it is made to exit.
//!
//! With more pending interrupts than list registers the virtual interface presents the most urgent of
//! them. What a guest can ask its interface (`IAR`, `HPPIR`, `RPR`, the signals) is about the most urgent
//! one, so the comparison is exact up to the order among equal priorities, where the reference gives a set.
//!
//! # What is left out
//! Operations whose outcome the architecture does not define: changing the group, priority or trigger of
//! an interrupt that is active (or, of the trigger, pending), the binary points while anything is being
//! handled, ends of interrupt out of order; two events with one LPI, a collection with pending interrupts that
//! is mapped elsewhere. And limits of the library (README.md): with EOImode 0
//! and more interrupts than list registers, an end of interrupt is only attempted while all active ones
//! are those that the PE is handling. MOVALL is followed by MAPC of the collections concerned, which is what
//! it is for; until then the library sends the interrupts that it moved to where it moved them.

use std::sync::Mutex;

use vgic::config::ItsConfig;
use vgic::cpu_interface::software::SoftwareInterface;
use vgic::epoch::{Domain, Pin};
use vgic::intid::{Affinity, CpuId, DeviceId, EventId, IntId, ItsId, VcpuId};
use vgic::mmio::{MmioOutcome, Width};
use vgic::sysreg::SysReg;
use vgic::{BadAddress, Blocked, CommandError, Config, Cpu, Host, Vgic};

use crate::operation::{CPUS, ITS, Operation, PES, SPIS};
use crate::reference::{FIRST_LPI, Frame, Gic, Interrupt, SPURIOUS};

const LIST_REGISTERS: usize = 4;

/// Guest memory: the ITS's tables and queue, the LPI configuration, a pending table for each PE.
const RAM: u64 = 0x4000_0000;
const DEVICES: u64 = RAM;
const COLLECTIONS: u64 = RAM + 0x1000;
const PROPERTIES: u64 = RAM + 0x2000;
const QUEUE: u64 = RAM + 0x1_0000;
const QUEUE_SIZE: u64 = 0x1000;
const PENDING: u64 = RAM + 0x2_0000;
const RAM_SIZE: u64 = 0x2_0000 + PES as u64 * 0x1_0000;
const VALID: u64 = 1 << 63;

/// Where a PE is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Place {
    Off,
    Away,
    /// On this CPU, waiting for an interrupt.
    Waiting(usize),
    InGuest(usize),
}

#[derive(Default)]
struct Embedder {
    kicks: Mutex<Vec<(usize, usize)>>,
    wakes: Mutex<Vec<usize>>,
    memory: Mutex<Vec<u8>>,
    faults: Mutex<Vec<(u8, CommandError)>>,
}

impl Host for Embedder {
    fn kick(&self, cpu: CpuId, vcpu: VcpuId) {
        let kick = (usize::from(cpu.0), vcpu.index());
        self.kicks.lock().unwrap().push(kick);
    }
    fn wake(&self, vcpu: VcpuId) {
        self.wakes.lock().unwrap().push(vcpu.index());
    }
    fn read_memory(&self, gpa: u64, buffer: &mut [u8]) -> Result<(), BadAddress> {
        let memory = self.memory.lock().unwrap();
        let at = gpa.checked_sub(RAM).ok_or(BadAddress)? as usize;
        let bytes = memory.get(at..at + buffer.len()).ok_or(BadAddress)?;
        buffer.copy_from_slice(bytes);
        Ok(())
    }
    fn command_failed(&self, _its: ItsId, number: u8, error: CommandError) {
        self.faults.lock().unwrap().push((number, error));
    }
    fn deactivate(&self, _vcpu: Option<VcpuId>, _pintid: u16) {
        unreachable!("nothing is forwarded");
    }
}

pub struct Machine {
    vm: Vgic<Embedder>,
    cpus: Vec<Cpu<SoftwareInterface>>,
    reference: Gic,
    places: [Place; PES],
    /// Commands given to the ITS.
    queued: u64,
    /// What each PE has acknowledged and not ended, in order: INTID, group.
    handling: [Vec<(u32, bool)>; PES],
}

fn vcpu(pe: usize) -> VcpuId {
    VcpuId::new(pe).unwrap()
}

impl Machine {
    /// Both after reset, and then set up as a guest does: everything in Group 1 and enabled, nothing
    /// masked, every PE on.
    pub fn new() -> Self {
        let affinities = (0..PES as u8).map(|n| Affinity::new(0, 0, 0, n));
        let config = Config {
            spis: SPIS,
            lpi_bits: ITS.lpi_bits as u8,
            its: vec![ItsConfig {
                device_bits: ITS.device_bits as u8,
                event_bits: ITS.event_bits as u8,
                collections: ITS.collections as u32,
                max_devices: ITS.devices as u32,
                max_events: ITS.events as u32,
                ..ItsConfig::at(0x0808_0000)
            }],
            ..Config::new(affinities.clone().collect())
        };
        let mpidrs: Vec<u64> = affinities.map(Affinity::mpidr).collect();
        let domain = Domain::new();
        let cpus = (0..CPUS as u16).map(|n| {
            let local = domain.register(CpuId(n));
            Cpu::new(local, SoftwareInterface::default())
        });
        let mut machine = Self {
            vm: Vgic::new(config, Embedder::default()).unwrap(),
            cpus: cpus.collect(),
            reference: Gic::new(&mpidrs, SPIS, ITS),
            queued: 0,
            places: [Place::Away, Place::Off, Place::Off],
            handling: Default::default(),
        };
        machine
            .vm
            .host()
            .memory
            .lock()
            .unwrap()
            .resize(RAM_SIZE as usize, 0);
        machine.compare_registers(0);
        machine.set_up_its();
        for pe in 0..PES {
            machine.apply(&Operation::PowerOn(pe));
            let frame = Frame::Redistributor(pe);
            machine.apply(&Operation::Write(pe, frame, 0x1_0080, 4, 0xffff_ff0f));
            machine.apply(&Operation::Write(pe, frame, 0x1_0100, 4, u64::MAX));
            for group1 in [false, true] {
                machine.apply(&Operation::Enable(pe, group1, true));
            }
            machine.apply(&Operation::Mask(pe, 0xf8));
        }
        machine.apply(&Operation::Write(0, Frame::Distributor, 0, 4, 3));
        for n in [1, 2] {
            machine.apply(&Operation::Write(
                0,
                Frame::Distributor,
                0x80 + 4 * n,
                4,
                u64::MAX,
            ));
            machine.apply(&Operation::Write(
                0,
                Frame::Distributor,
                0x100 + 4 * n,
                4,
                u64::MAX,
            ));
        }
        machine.map_lpis();
        machine
    }

    /// Tables, queue and EnableLPIs; nothing is mapped yet.
    fn set_up_its(&mut self) {
        let config = self.vm.config();
        let (gits, gicr) = (config.its[0].base, config.redistributors[0].base);
        let cpu = &self.cpus[0];
        let write = |gpa, value| {
            let _ = self.vm.mmio_write(&cpu.pin(), gpa, Width::Double, value);
        };
        for pe in 0..PES as u64 {
            write(gicr + pe * 0x2_0000 + 0x70, PROPERTIES | 13);
            write(gicr + pe * 0x2_0000 + 0x78, PENDING + pe * 0x1_0000);
        }
        write(gits + 0x100, VALID | DEVICES);
        write(gits + 0x108, VALID | COLLECTIONS);
        write(gits + 0x80, VALID | QUEUE);
        let _ = self.vm.mmio_write(&cpu.pin(), gits, Width::Word, 1);
        for pe in 0..PES {
            self.apply(&Operation::Write(0, Frame::Redistributor(pe), 0, 4, 1));
        }
    }

    /// A collection for each PE, and a device with eight LPIs among them.
    fn map_lpis(&mut self) {
        for pe in 0..PES as u64 {
            self.apply(&Operation::Command(0, [0x09, 0, VALID | pe << 16 | pe, 0]));
        }
        self.apply(&Operation::Command(0, [0x08, 2, VALID, 0]));
        for n in 0..8 {
            self.apply(&Operation::Configure(
                0,
                FIRST_LPI + n,
                (n as u8) << 5 | 1,
                3,
            ));
            let (n, intid) = (u64::from(n), u64::from(FIRST_LPI + n));
            let mapti = [0x0a, n | intid << 32, n % PES as u64, 0];
            self.apply(&Operation::Command(0, mapti));
        }
    }

    /// Does one operation to both and compares.
    pub fn apply(&mut self, operation: &Operation) {
        self.perform(operation);
        self.settle();
        self.compare_interfaces();
    }

    fn perform(&mut self, operation: &Operation) {
        match *operation {
            Operation::PowerOn(pe) => self.power_on(pe),
            Operation::Line(pe, intid, high) => self.line(pe, intid, high),
            Operation::Edge(pe, intid) => self.edge(pe, intid),
            Operation::Msi(device, event) => self.msi(device, event),
            Operation::Move(pe, cpu) => self.run_on(pe, cpu),
            Operation::Away(pe) => self.take_away(pe),
            Operation::Compare(pe) => self.compare_registers(pe),
            _ => {
                let (Operation::Read(pe, ..)
                | Operation::Write(pe, ..)
                | Operation::Sgi(pe, ..)
                | Operation::Acknowledge(pe, ..)
                | Operation::End(pe)
                | Operation::Deactivate(pe, ..)
                | Operation::Enable(pe, ..)
                | Operation::Mask(pe, ..)
                | Operation::BinaryPoint(pe, ..)
                | Operation::Control(pe, ..)
                | Operation::Command(pe, ..)
                | Operation::Configure(pe, ..)
                | Operation::Wait(pe)
                | Operation::PowerOff(pe)) = *operation
                else {
                    unreachable!("the others are above")
                };
                if self.run(pe) {
                    // What came while it was away is in its list registers now.
                    self.settle();
                    self.perform_in_guest(operation);
                }
            }
        }
    }

    /// An operation of a PE that is in the guest.
    fn perform_in_guest(&mut self, operation: &Operation) {
        match *operation {
            Operation::Read(pe, frame, at, bytes) => self.read(pe, frame, at, bytes),
            Operation::Write(pe, frame, at, bytes, value) => {
                let value = self.defined(frame, at, bytes, value);
                self.access(pe, frame, at, bytes, Some(value));
                self.reference.write(frame, at, bytes, value);
                // A message may have lowered a line.
                self.bounce_everybody();
            }
            Operation::Sgi(pe, value, group1) => {
                let register = if group1 { SysReg::Sgi1r } else { SysReg::Sgi0r };
                self.trap(pe, |vm, cpu, pin| {
                    vm.sysreg_write(cpu, pin, vcpu(pe), register, value)
                });
                self.reference.send_sgi(pe, value, group1);
            }
            Operation::Acknowledge(pe, group1) => self.acknowledge(pe, group1),
            Operation::End(pe) => self.end(pe),
            Operation::Deactivate(pe, nth) => self.deactivate(pe, nth),
            Operation::Enable(pe, group1, on) => {
                match group1 {
                    false => self.guest(pe).write_igrpen0(on),
                    true => self.guest(pe).write_igrpen1(on),
                }
                self.reference.interfaces[pe].enabled[usize::from(group1)] = on;
            }
            Operation::Mask(pe, mask) => {
                self.guest(pe).write_pmr(mask).unwrap();
                self.reference.interfaces[pe].write_pmr(mask);
            }
            Operation::BinaryPoint(pe, group1, point)
                if self.reference.interfaces[pe].is_idle() =>
            {
                match group1 {
                    false => self.guest(pe).write_bpr0(point),
                    true => self.guest(pe).write_bpr1(point),
                }
                self.reference.interfaces[pe].write_bpr(group1, point);
            }
            Operation::Control(pe, value) => {
                // CBPR is a binary point, too.
                let idle = self.reference.interfaces[pe].is_idle();
                let common = self.reference.interfaces[pe].read_ctlr() & 1;
                let value = if idle { value } else { value & 2 | common };
                self.guest(pe).write_ctlr(value).unwrap();
                self.reference.interfaces[pe].write_ctlr(value);
            }
            Operation::Command(pe, command) => {
                self.command(pe, command);
                if command[0] & 0xff == 0x0e {
                    self.map_after_movall(pe, command);
                }
            }
            Operation::Configure(pe, intid, byte, how) => self.configure(pe, intid, byte, how),
            Operation::Wait(pe) => self.wait(pe),
            Operation::PowerOff(pe) => self.power_off(pe),
            _ => {}
        }
    }

    // --- the embedder ----------------------------------------------------------------------------

    fn pin(&self) -> Pin<'_> {
        self.cpus[0].pin()
    }

    fn cpu_of(&self, pe: usize) -> usize {
        match self.places[pe] {
            Place::InGuest(cpu) | Place::Waiting(cpu) => cpu,
            place => panic!("PE {pe} is {place:?}"),
        }
    }

    fn guest(&self, pe: usize) -> &SoftwareInterface {
        assert!(matches!(self.places[pe], Place::InGuest(_)));
        self.cpus[self.cpu_of(pe)].interface()
    }

    fn enter(&mut self, pe: usize, on: usize) {
        let cpu = &self.cpus[on];
        self.vm.enter(cpu, &cpu.pin(), vcpu(pe)).unwrap();
        self.places[pe] = Place::InGuest(on);
    }

    fn exit(&self, pe: usize) -> &Cpu<SoftwareInterface> {
        let cpu = &self.cpus[self.cpu_of(pe)];
        self.vm.exit(cpu, &cpu.pin(), vcpu(pe)).unwrap();
        cpu
    }

    fn bounce(&mut self, pe: usize) {
        self.exit(pe);
        self.enter(pe, self.cpu_of(pe));
    }

    fn bounce_everybody(&mut self) {
        for pe in 0..PES {
            if let Place::InGuest(_) = self.places[pe] {
                self.bounce(pe);
            }
        }
    }

    /// A trap of `pe`: out of the guest, `handle`, into it.
    fn trap<R>(
        &mut self,
        pe: usize,
        handle: impl FnOnce(&Vgic<Embedder>, &Cpu<SoftwareInterface>, &Pin<'_>) -> R,
    ) -> R {
        let cpu = self.exit(pe);
        let result = handle(&self.vm, cpu, &cpu.pin());
        self.enter(pe, self.cpu_of(pe));
        result
    }

    /// Makes `pe` run in the guest, where it was last or on a CPU of its own choice; false if it is off.
    fn run(&mut self, pe: usize) -> bool {
        match self.places[pe] {
            Place::Off => return false,
            Place::Away => self.run_on(pe, pe % CPUS),
            Place::Waiting(cpu) => self.enter(pe, cpu),
            Place::InGuest(_) => {}
        }
        true
    }

    fn run_on(&mut self, pe: usize, cpu: usize) {
        match self.places[pe] {
            Place::Off => return,
            Place::InGuest(on) if on == cpu => return,
            _ => self.take_away(pe),
        }
        let other = (0..PES).find(|other| match self.places[*other] {
            Place::InGuest(on) | Place::Waiting(on) => on == cpu,
            _ => false,
        });
        if let Some(other) = other {
            self.take_away(other);
        }
        self.enter(pe, cpu);
    }

    fn take_away(&mut self, pe: usize) {
        let (Place::InGuest(on) | Place::Waiting(on)) = self.places[pe] else {
            return;
        };
        if let Place::InGuest(_) = self.places[pe] {
            self.exit(pe);
        }
        let cpu = &self.cpus[on];
        self.vm.put(cpu, &cpu.pin(), vcpu(pe)).unwrap();
        self.places[pe] = Place::Away;
    }

    /// Does what the library has asked for, until it asks for nothing more.
    fn settle(&mut self) {
        for _ in 0..100 {
            let mut busy = self.vm.has_deferred();
            self.vm.advance(&self.pin());
            let kicks = std::mem::take(&mut *self.vm.host().kicks.lock().unwrap());
            for (cpu, pe) in kicks {
                if self.places[pe] == Place::InGuest(cpu) {
                    self.bounce(pe);
                    busy = true;
                }
            }
            let wakes = std::mem::take(&mut *self.vm.host().wakes.lock().unwrap());
            for pe in wakes {
                if let Place::Waiting(cpu) = self.places[pe] {
                    self.wait_on(pe, cpu);
                    busy = true;
                }
            }
            for pe in 0..PES {
                if let Place::InGuest(cpu) = self.places[pe]
                    && self.cpus[cpu].interface().maintenance()
                {
                    self.bounce(pe);
                    busy = true;
                }
            }
            if !busy {
                return;
            }
        }
        panic!("kicks or maintenance interrupts without end");
    }

    fn power_on(&mut self, pe: usize) {
        if self.places[pe] == Place::Off {
            self.vm.power_on(vcpu(pe));
            self.places[pe] = Place::Away;
        }
    }

    fn power_off(&mut self, pe: usize) {
        // One stays, for somebody has to go on.
        if self
            .places
            .iter()
            .filter(|place| **place != Place::Off)
            .count()
            > 1
        {
            let cpu = self.exit(pe);
            self.vm.power_off(cpu, &cpu.pin(), vcpu(pe)).unwrap();
            self.places[pe] = Place::Off;
            self.handling[pe].clear();
            self.reference.interfaces[pe] = Default::default();
        }
    }

    fn wait(&mut self, pe: usize) {
        let cpu = self.cpu_of(pe);
        self.exit(pe);
        let expected = self.signalled(pe);
        // "No" may also mean that there was news to look at; the second answer is about interrupts.
        let blocked = self.wait_on(pe, cpu) || {
            self.exit(pe);
            self.wait_on(pe, cpu)
        };
        if let Some(expected) = expected {
            assert_eq!(blocked, !expected, "PE {pe} in WFI");
        }
    }

    /// To sleep, or into the guest.
    fn wait_on(&mut self, pe: usize, on: usize) -> bool {
        let cpu = &self.cpus[on];
        match self.vm.block(cpu, &cpu.pin(), vcpu(pe)).unwrap() {
            Blocked::Yes => {
                self.places[pe] = Place::Waiting(on);
                true
            }
            Blocked::No => {
                self.enter(pe, on);
                false
            }
        }
    }

    // --- devices ---------------------------------------------------------------------------------

    fn line(&mut self, pe: usize, intid: u32, high: bool) {
        let pin = self.pin();
        match intid {
            16..32 => {
                let ppi = IntId::ppi(intid).unwrap();
                self.vm.set_ppi_line(&pin, vcpu(pe), ppi, high).unwrap();
            }
            _ => {
                let spi = IntId::spi(intid).unwrap();
                self.vm.set_spi_line(&pin, spi, high).unwrap();
            }
        }
        drop(pin);
        self.reference.interrupt(pe, intid).unwrap().line = high;
        if !high {
            self.settle();
            self.bounce_everybody();
        }
    }

    fn edge(&mut self, pe: usize, intid: u32) {
        let pin = self.pin();
        let _ = match intid {
            16..32 => self
                .vm
                .inject_ppi(&pin, vcpu(pe), IntId::ppi(intid).unwrap()),
            _ => self.vm.inject_spi(&pin, IntId::spi(intid).unwrap()),
        }
        .unwrap();
        drop(pin);
        self.reference.interrupt(pe, intid).unwrap().latch = true;
    }

    fn msi(&mut self, device: u64, event: u64) {
        let (id, event_id) = (DeviceId(device as u32), EventId(event as u32));
        let found = self.vm.inject_msi(&self.pin(), ItsId(0), id, event_id);
        let accepted = self.reference.its.translate(device, event);
        assert_eq!(found.is_ok(), accepted, "MSI {device}:{event}: {found:?}");
    }

    // --- the guest -------------------------------------------------------------------------------

    fn gpa(&self, frame: Frame, at: u64) -> u64 {
        let config = self.vm.config();
        match frame {
            Frame::Distributor => config.distributor + at,
            Frame::Redistributor(pe) => config.redistributors[0].base + pe as u64 * 0x2_0000 + at,
        }
    }

    /// An access that traps, tried again as often as the library asks for it.
    fn access(&mut self, pe: usize, frame: Frame, at: u64, bytes: u64, value: Option<u64>) -> u64 {
        let gpa = self.gpa(frame, at);
        let width = Width::from_bytes(bytes).unwrap();
        for _ in 0..10 {
            let outcome = self.trap(pe, |vm, cpu, pin| match value {
                None => vm.mmio_read(cpu, pin, vcpu(pe), gpa, width),
                Some(value) => vm.mmio_write(pin, gpa, width, value),
            });
            match outcome {
                MmioOutcome::Done(value) => return value,
                MmioOutcome::Retry => self.settle(),
                MmioOutcome::Unclaimed => panic!("{gpa:#x} is ours"),
            }
        }
        panic!("{frame:?} {at:#x}: retried without end");
    }

    fn read(&mut self, pe: usize, frame: Frame, at: u64, bytes: u64) {
        let found = self.access(pe, frame, at, bytes, None);
        let expected = self.reference.read(frame, at, bytes);
        assert_eq!(
            found, expected,
            "PE {pe} reads {bytes} bytes of {frame:?} {at:#x}: {found:#x} {expected:#x}"
        );
    }

    /// The value with the fields of interrupts whose change is UNPREDICTABLE now left as they are.
    fn defined(&self, frame: Frame, at: u64, bytes: u64, value: u64) -> u64 {
        let (interrupts, at): (&[Interrupt], u64) = match frame {
            Frame::Distributor => (&self.reference.distributor.spis, at),
            Frame::Redistributor(pe) if at >= 0x1_0000 => {
                (&self.reference.redistributors[pe].private, at - 0x1_0000)
            }
            _ => return value,
        };
        // The field's bits, its first interrupt, and what must not be the case.
        let (field, first) = match at {
            0x80..0x100 => (1, at % 0x80 * 8),
            0x400..0x800 => (8, at - 0x400),
            0xc00..0xd00 => (2, (at - 0xc00) * 4),
            _ => return value,
        };
        let first = first as usize
            - if frame == Frame::Distributor {
                32.min(first as usize)
            } else {
                0
            };
        let private_bank = frame == Frame::Distributor && at % 0x80 < 4 && field == 1;
        if private_bank {
            return value;
        }
        let old = self.reference.read(
            frame,
            if frame == Frame::Distributor {
                at
            } else {
                at + 0x1_0000
            },
            bytes,
        );
        let fields = (bytes * 8 / field) as usize;
        (0..fields)
            .zip(interrupts.iter().skip(first))
            .filter(|(_, i)| i.active || field == 2 && (i.pending() || i.line))
            .fold(value, |value, (n, _)| {
                let mask = ((1_u64 << field) - 1) << (n as u64 * field);
                value & !mask | old & mask
            })
    }

    /// A command, by way of the queue in memory and the ITS's registers.
    fn command(&mut self, pe: usize, command: [u64; 4]) {
        if !self.is_defined(command) {
            return;
        }
        let at = (QUEUE - RAM + self.queued * 32 % QUEUE_SIZE) as usize;
        let bytes: Vec<u8> = command.iter().flat_map(|word| word.to_le_bytes()).collect();
        self.vm.host().memory.lock().unwrap()[at..at + 32].copy_from_slice(&bytes);
        self.queued += 1;
        let (gits, next) = (self.vm.config().its[0].base, self.queued * 32 % QUEUE_SIZE);
        let _ = self.trap(pe, |vm, _, pin| {
            vm.mmio_write(pin, gits + 0x88, Width::Double, next)
        });
        self.settle();
        let creadr = self.trap(pe, |vm, cpu, pin| {
            vm.mmio_read(cpu, pin, vcpu(pe), gits + 0x90, Width::Double)
        });
        assert_eq!(creadr, MmioOutcome::Done(next), "CREADR");
        let faults = std::mem::take(&mut *self.vm.host().faults.lock().unwrap());
        let found = faults.first().map(|(_, error)| format!("{error:?}"));
        let expected = self.reference.its.execute(command).err();
        assert_eq!(
            found,
            expected.map(|fault| format!("{fault:?}")),
            "{command:x?}"
        );
    }

    /// After MOVALL the collections follow: module docs.
    fn map_after_movall(&mut self, pe: usize, command: [u64; 4]) {
        let (from, to) = (command[2] >> 16, command[3] >> 16);
        for icid in 0..ITS.collections {
            if self.reference.its.collection(icid) == Some(from as usize) {
                self.command(pe, [0x09, 0, VALID | to << 16 | icid, 0]);
            }
        }
    }

    /// Whether the architecture says what the command does.
    fn is_defined(&self, command: [u64; 4]) -> bool {
        let its = &self.reference.its;
        let (device, event) = (command[0] >> 32, command[1] & 0xffff_ffff);
        match command[0] & 0xff {
            // One LPI, two events.
            number @ (0x0a | 0x0b) => {
                let intid = if number == 0x0a {
                    command[1] >> 32
                } else {
                    event
                };
                let mapping = its.mapping(intid as u32);
                mapping.is_none_or(|(d, e, _)| (d, e) == (device, event))
            }
            // Pending interrupts of a collection that is mapped elsewhere without MOVALL.
            0x09 => {
                let (icid, pe) = (command[2] & 0xffff, command[2] >> 16 & 0xffff);
                let pe = (command[2] >> 63 != 0).then_some(pe as usize);
                pe == its.collection(icid) || its.pending(icid).all(|at| at == pe)
            }
            _ => true,
        }
    }

    /// A guest's driver changes an LPI's priority and enable.
    fn configure(&mut self, pe: usize, intid: u32, byte: u8, how: u8) {
        let at = (PROPERTIES - RAM) as usize + intid as usize - 8192;
        self.vm.host().memory.lock().unwrap()[at] = byte;
        self.reference.its.table[intid as usize - 8192] = byte;
        let mapping = self.reference.its.mapping(intid);
        let gicr = self.vm.config().redistributors[0].base;
        match (how, mapping) {
            (0, Some((device, event, _))) => self.command(pe, [0x0c | device << 32, event, 0, 0]),
            (1, Some((_, _, icid))) if self.reference.its.collection(icid).is_some() => {
                self.command(pe, [0x0d, 0, icid, 0]);
            }
            _ => {
                // GICR_INVLPIR or GICR_INVALLR.
                let (at, value) = if how == 2 { (0xb0, 0) } else { (0xa0, intid) };
                let value = value.into();
                let _ = self.trap(pe, |vm, _, pin| {
                    vm.mmio_write(pin, gicr + at, Width::Double, value)
                });
                self.reference.its.invalidate(intid);
            }
        }
    }

    fn acknowledge(&mut self, pe: usize, group1: bool) {
        let allowed = self.reference.acknowledgeable(pe, group1);
        let intid = match group1 {
            false => self.guest(pe).read_iar0(),
            true => self.guest(pe).read_iar1(),
        };
        assert!(
            allowed.allows(intid),
            "PE {pe} acknowledges {intid} of Group {}, not one of {allowed:?}",
            u8::from(group1)
        );
        if intid != SPURIOUS {
            self.reference.acknowledge(pe, intid);
            self.handling[pe].push((intid, group1));
        }
    }

    /// Whether an end of interrupt has a defined outcome: module docs.
    fn may_end(&mut self, pe: usize, intid: u32) -> bool {
        if self.reference.interfaces[pe].splits {
            return true;
        }
        let handling: Vec<u32> = self.handling[pe].iter().map(|(intid, _)| *intid).collect();
        let private = self.reference.redistributors[pe].private;
        let all = (0..)
            .zip(&private)
            .chain((32..).zip(&self.reference.distributor.spis));
        if intid >= FIRST_LPI {
            return true;
        }
        let lpis = self
            .reference
            .its
            .lpis
            .values()
            .filter(|lpi| lpi.interrupt.latch)
            .count()
            + handling.iter().filter(|intid| **intid >= FIRST_LPI).count();
        let (mut valid, mut foreign) = (lpis, false);
        for (other, interrupt) in all {
            valid += usize::from(interrupt.active || interrupt.pending());
            foreign |= interrupt.active && !handling.contains(&other);
        }
        let still_active = self
            .reference
            .interrupt(pe, intid)
            .is_some_and(|i| i.active);
        valid <= LIST_REGISTERS || still_active && !foreign
    }

    fn end(&mut self, pe: usize) {
        let Some(&(intid, group1)) = self.handling[pe].last() else {
            return;
        };
        if !self.may_end(pe, intid) {
            return;
        }
        self.handling[pe].pop();
        match group1 {
            false => self.guest(pe).write_eoir0(intid),
            true => self.guest(pe).write_eoir1(intid),
        }
        self.reference.end(pe, intid);
    }

    fn deactivate(&mut self, pe: usize, nth: usize) {
        if !self.reference.interfaces[pe].splits {
            return;
        }
        let private = self.reference.redistributors[pe].private;
        let all = (0..)
            .zip(&private)
            .chain((32..).zip(&self.reference.distributor.spis));
        let active: Vec<u32> = all
            .filter(|(_, i)| i.active)
            .map(|(intid, _)| intid)
            .collect();
        let Some(&intid) = active.get(nth % active.len().max(1)) else {
            return;
        };
        assert!(
            self.guest(pe).write_dir(intid).is_err(),
            "ICC_DIR_EL1 traps"
        );
        self.trap(pe, |vm, cpu, pin| {
            vm.sysreg_write(cpu, pin, vcpu(pe), SysReg::Dir, intid.into())
        });
        self.reference.deactivate(pe, intid);
    }

    // --- comparison ------------------------------------------------------------------------------

    /// Whether an interrupt is signalled to the PE; `None` if it depends on an order that is open.
    fn signalled(&self, pe: usize) -> Option<bool> {
        let group0 = self.reference.signalled(pe, false)?;
        Some(group0 || self.reference.signalled(pe, true)?)
    }

    /// What the PEs in the guest see without a trap; and that those that wait have nothing to wake up for.
    fn compare_interfaces(&mut self) {
        for pe in 0..PES {
            match self.places[pe] {
                Place::InGuest(_) => self.compare_interface(pe),
                Place::Waiting(_) => {
                    assert_ne!(self.signalled(pe), Some(true), "PE {pe} waits for ever");
                }
                Place::Off | Place::Away => {}
            }
        }
    }

    fn compare_interface(&self, pe: usize) {
        let (guest, reference) = (self.guest(pe), &self.reference.interfaces[pe]);
        assert_eq!(
            guest.read_rpr().unwrap(),
            reference.running_priority(),
            "RPR of PE {pe}"
        );
        assert_eq!(guest.read_pmr().unwrap(), reference.mask, "PMR of PE {pe}");
        assert_eq!(
            guest.read_bpr0(),
            reference.read_bpr(false),
            "BPR0 of PE {pe}"
        );
        assert_eq!(
            guest.read_bpr1(),
            reference.read_bpr(true),
            "BPR1 of PE {pe}"
        );
        assert_eq!(
            guest.read_ctlr().unwrap() & 3,
            reference.read_ctlr(),
            "CTLR of PE {pe}"
        );
        assert_eq!(guest.read_igrpen0(), reference.enabled[0]);
        assert_eq!(guest.read_igrpen1(), reference.enabled[1]);
        for (group1, signal, hppir) in [
            (false, guest.vfiq(), guest.read_hppir0()),
            (true, guest.virq(), guest.read_hppir1()),
        ] {
            let group = u8::from(group1);
            if let Some(expected) = self.reference.signalled(pe, group1) {
                assert_eq!(
                    signal,
                    expected,
                    "signal of Group {group} to PE {pe}: {:?}",
                    self.reference.acknowledgeable(pe, group1)
                );
            }
            let allowed = self.reference.highest_pending(pe, group1);
            assert!(
                allowed.allows(hppir),
                "HPPIR{group} of PE {pe} is {hppir}, not one of {allowed:?}"
            );
        }
    }

    /// Every register, as PE `pe` or one that is on reads it.
    fn compare_registers(&mut self, pe: usize) {
        let on = (0..PES)
            .map(|n| (pe + n) % PES)
            .find(|pe| self.places[*pe] != Place::Off);
        let pe = on.expect("one stays on");
        self.run(pe);
        self.settle();
        let blocks = [0x80, 0x100, 0x200, 0x300, 0x380_u64];
        let mut registers = vec![(Frame::Distributor, 0), (Frame::Distributor, 4)];
        registers
            .extend((0..4).flat_map(|n| blocks.map(|block| (Frame::Distributor, block + 4 * n))));
        registers.extend((0..0x1c).map(|n| (Frame::Distributor, 0x400 + 4 * n)));
        registers.extend((0..7).map(|n| (Frame::Distributor, 0xc00 + 4 * n)));
        registers.extend((0..SPIS).map(|n| (Frame::Distributor, 0x6100 + 8 * u64::from(n))));
        for owner in 0..PES {
            let frame = Frame::Redistributor(owner);
            registers.extend([0, 8, 0xc, 0x14].map(|at| (frame, at)));
            registers.extend(blocks.map(|block| (frame, 0x1_0000 + block)));
            registers.extend((0..8).map(|n| (frame, 0x1_0400 + 4 * n)));
            registers.extend([0, 4].map(|at| (frame, 0x1_0c00 + at)));
        }
        for (frame, at) in registers {
            self.read(pe, frame, at, 4);
        }
    }

    /// Takes the VM apart; every reference must have been given back.
    pub fn finish(mut self) {
        for pe in 0..PES {
            self.take_away(pe);
        }
        let remains = self.vm.teardown(&self.cpus[0].pin()).unwrap();
        assert_eq!(remains.references, 0);
    }
}
