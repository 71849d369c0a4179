//! The guest's code on one vCPU: what it does between two exits.

use vgic::Cpu;
use vgic::cpu_interface::software::SoftwareInterface;
use vgic::intid::IntId;

use crate::oracle;
use crate::random::Random;
use crate::vm::{LEVELS, Machine};

/// INTID 1023: there is nothing to acknowledge.
const SPURIOUS: u32 = 1023;

/// A vCPU, as its scheduler sees it, and what its guest remembers.
pub(crate) struct Guest {
    pub(crate) vcpu: usize,
    /// Powered off.
    pub(crate) off: bool,
    /// In WFI; to be run again once it has been woken.
    pub(crate) blocked: bool,
    /// Its CPU interface is as after reset.
    fresh: bool,
    /// Interrupts being handled, each more urgent than the one before.
    active: Vec<u32>,
}

impl Guest {
    /// A vCPU that is on and has not run yet.
    pub(crate) fn new(vcpu: usize) -> Self {
        Self {
            vcpu,
            off: false,
            blocked: false,
            fresh: true,
            active: Vec::new(),
        }
    }

    /// Has been powered off.
    pub(crate) fn reset(&mut self) {
        assert!(self.active.is_empty(), "powered off in a handler");
        self.off = true;
        self.fresh = true;
    }

    /// Sets its CPU interface up after a reset.
    pub(crate) fn start(&mut self, cpu: &Cpu<SoftwareInterface>) {
        if std::mem::take(&mut self.fresh) {
            cpu.interface().write_igrpen1(true);
            cpu.interface().write_pmr(0xf8).expect("not trapped");
        }
    }

    /// Takes some interrupts and ends some, so that handlers nest.
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

    /// Ends every handler, without taking more; whether there was one.
    pub(crate) fn end_all(&mut self, machine: &Machine, cpu: &Cpu<SoftwareInterface>) -> bool {
        let any = !self.active.is_empty();
        while !self.active.is_empty() {
            self.end(machine, cpu);
        }
        any
    }

    /// Takes and ends everything that is signalled; whether there was something.
    pub(crate) fn take_all(&mut self, machine: &Machine, cpu: &Cpu<SoftwareInterface>) -> bool {
        let mut any = false;
        while self.end_all(machine, cpu) || self.acknowledge(machine, cpu) {
            any = true;
        }
        any
    }

    /// Acknowledges the most urgent interrupt, if one is signalled.
    fn acknowledge(&mut self, machine: &Machine, cpu: &Cpu<SoftwareInterface>) -> bool {
        let intid = cpu.interface().read_iar1();
        if intid == SPURIOUS {
            return false;
        }
        assert!(oracle::is_known(intid), "nobody raises {intid}");
        machine.oracle.acknowledged(self.vcpu, intid);
        if LEVELS.contains(&intid) {
            // The handler satisfies the device. An access to it would be a trap; it is another CPU's
            // business as far as the vGIC is concerned.
            let spi = IntId::spi(intid).expect("an SPI");
            let lowered = machine.vm.set_spi_line(&cpu.pin(), spi, false);
            assert_eq!(lowered, Ok(()));
            machine.oracle.line_lowered(intid);
        }
        self.active.push(intid);
        true
    }

    /// Ends the most urgent handler, if there is one.
    fn end(&mut self, machine: &Machine, cpu: &Cpu<SoftwareInterface>) {
        if let Some(intid) = self.active.pop() {
            machine.oracle.ending(self.vcpu, intid);
            cpu.interface().write_eoir1(intid);
        }
    }
}
