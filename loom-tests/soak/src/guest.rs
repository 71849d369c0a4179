//! The guest's code on one vCPU between two exits.

use vgic::Cpu;
use vgic::cpu_interface::software::SoftwareInterface;
use vgic::intid::IntId;

use crate::oracle;
use crate::random::Random;
use crate::vm::{LEVELS, Machine};

/// INTID 1023: no interrupt to acknowledge.
const SPURIOUS: u32 = 1023;

/// A vCPU as its scheduler sees it, and the memory of its guest.
pub(crate) struct Guest {
    pub(crate) vcpu: usize,
    /// Powered off.
    pub(crate) off: bool,
    /// In WFI: runnable once woken.
    pub(crate) blocked: bool,
    /// CPU interface in its reset state.
    fresh: bool,
    /// Interrupts being handled, each of a higher priority than the previous entry.
    active: Vec<u32>,
}

impl Guest {
    /// Returns a vCPU in the state "on, not yet run".
    pub(crate) fn new(vcpu: usize) -> Self {
        Self {
            vcpu,
            off: false,
            blocked: false,
            fresh: true,
            active: Vec::new(),
        }
    }

    /// Notes a power-off.
    pub(crate) fn reset(&mut self) {
        assert!(self.active.is_empty(), "powered off in a handler");
        self.off = true;
        self.fresh = true;
    }

    /// Sets up the CPU interface after a reset.
    pub(crate) fn start(&mut self, cpu: &Cpu<SoftwareInterface>) {
        if std::mem::take(&mut self.fresh) {
            cpu.interface().write_igrpen1(true);
            cpu.interface().write_pmr(0xf8).expect("not trapped");
        }
    }

    /// Takes some interrupts and ends some: handlers nest.
    pub(crate) fn run(
        &mut self,
        machine: &Machine,
        cpu: &Cpu<SoftwareInterface>,
        random: &mut Random,
    ) {
        for _ in 0..random.below(8) {
            if random.one_in(3) {
                self.end(machine, cpu);
            } else {
                self.acknowledge(machine, cpu);
            }
        }
    }

    /// Ends every handler without taking an interrupt. Returns whether a handler was active.
    pub(crate) fn end_all(&mut self, machine: &Machine, cpu: &Cpu<SoftwareInterface>) -> bool {
        let any = !self.active.is_empty();
        while !self.active.is_empty() {
            self.end(machine, cpu);
        }
        any
    }

    /// Takes and ends every signalled interrupt. Returns whether a handler ran.
    pub(crate) fn take_all(&mut self, machine: &Machine, cpu: &Cpu<SoftwareInterface>) -> bool {
        let mut any = false;
        while self.end_all(machine, cpu) || self.acknowledge(machine, cpu) {
            any = true;
        }
        any
    }

    /// Acknowledges the highest-priority interrupt if the interface signals one. Returns whether it
    /// did.
    fn acknowledge(&mut self, machine: &Machine, cpu: &Cpu<SoftwareInterface>) -> bool {
        let intid = cpu.interface().read_iar1();
        if intid == SPURIOUS {
            return false;
        }

        assert!(oracle::is_known(intid), "nobody raises {intid}");
        machine.oracle.acknowledged(self.vcpu, intid);
        if LEVELS.contains(&intid) {
            // The handler makes the device lower its line. A real handler's access traps, and
            // another CPU may serve the trap: the vGIC sees only the call.
            let spi = IntId::spi(intid).expect("an SPI");
            let lowered = machine.vm.set_spi_line(&cpu.pin(), spi, false);
            assert_eq!(lowered, Ok(()));
            machine.oracle.line_lowered(intid);
        }

        self.active.push(intid);
        true
    }

    /// Ends the innermost handler, if any.
    fn end(&mut self, machine: &Machine, cpu: &Cpu<SoftwareInterface>) {
        if let Some(intid) = self.active.pop() {
            machine.oracle.ending(self.vcpu, intid);
            cpu.interface().write_eoir1(intid);
        }
    }
}
