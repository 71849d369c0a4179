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

mod compare;
mod cpus;
mod devices;
mod embedder;
mod interface;
mod lpis;
mod registers;

use vgic::config::ItsConfig;
use vgic::cpu_interface::software::SoftwareInterface;
use vgic::epoch::Domain;
use vgic::intid::{Affinity, CpuId, VcpuId};
use vgic::mmio::Width;
use vgic::sysreg::SysReg;
use vgic::{Config, Cpu, Vgic};

use embedder::{COLLECTIONS, DEVICES, Embedder, PENDING, PROPERTIES, QUEUE, RAM_SIZE};

use crate::operation::{CPUS, ITS, Operation, PES, SPIS};
use crate::reference::{FIRST_LPI, Frame, Gic};

const LIST_REGISTERS: usize = 4;
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

    /// Takes the VM apart; every reference must have been given back.
    pub fn finish(mut self) {
        for pe in 0..PES {
            self.take_away(pe);
        }
        let remains = self.vm.teardown(&self.cpus[0].pin()).unwrap();
        assert_eq!(remains.references, 0);
    }
}
