//! `publication`: what a CPU writes before it raises an interrupt, by any way, is visible to the
//! CPU that takes the interrupt, also if the raise coalesces with an earlier one, and to a guest
//! that polls for the interrupt.
//!
//! Known faults elsewhere: a raise skipped after a look at the pending state.

use loom::sync::Arc;
use loom::sync::atomic::AtomicUsize;
use loom::sync::atomic::Ordering::Relaxed;
use loom_tests::{
    LEVEL, Machine, Other, SPI, V0, V1, acknowledge, check, in_the_epoch, int, sole, spawn, take,
};
use vgic::Cpu;
use vgic::cpu_interface::software::SoftwareInterface;
use vgic::epoch::CpuPin;

/// A way to raise an interrupt of vCPU 0.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    /// An edge of the SPI.
    Spi,
    /// An edge of the PPI.
    Ppi,
    /// A high line of the level-sensitive PPI.
    Line,
    /// An SGI of vCPU 1.
    Sgi,
    /// An MSI of device 0.
    Msi,
    /// `INT` of an event of device 0.
    Int,
    /// `GICD_ISPENDR` of the SPI.
    Ispendr,
    /// The physical SPI.
    Forward,
}

impl Way {
    /// Returns a VM with the interrupt's source set up.
    fn machine(self) -> Machine {
        match self {
            Self::Msi | Self::Int => Machine::with_lpi(1, 1),
            Self::Sgi => Machine::new(2),
            _ => Machine::new(1),
        }
    }

    /// Does what the source has to do before it raises the interrupt.
    fn prepare(self, machine: &Machine, pin: &CpuPin<'_>) {
        match self {
            Self::Int => machine.place(0, int(0)),
            Self::Forward => machine.connect_spi(pin),
            _ => {}
        }
    }

    /// Raises the interrupt.
    fn raise(self, machine: &Machine, cpu: &Cpu<SoftwareInterface>, pin: &CpuPin<'_>) {
        match self {
            Self::Spi => drop(machine.inject_spi(pin)),
            Self::Ppi => drop(machine.inject(pin)),
            Self::Line => machine.set_line(pin, true),
            Self::Sgi => machine.broadcast(cpu, V1),
            Self::Msi => drop(machine.msi(pin, 0, 0).expect("it is mapped")),
            Self::Int => machine.execute(pin, 0),
            Self::Ispendr => machine.gicd(pin, 0x204, 1 << (SPI - 32)),
            Self::Forward => assert!(machine.forward_spi(pin)),
        }
    }

    /// Raises the interrupt for the first time, on the CPU of the vCPU.
    fn raise_first(self, machine: &Machine, cpu: &Cpu<SoftwareInterface>) {
        let pin = cpu.pin();
        self.prepare(machine, &pin);
        self.raise(machine, cpu, &pin);
    }

    /// Does what makes the device lower a line.
    fn handle(self, machine: &Machine, cpu: &Cpu<SoftwareInterface>) {
        if self == Self::Line {
            machine.set_line(&cpu.pin(), false);
        }
    }
}

/// The datum, 1 once written.
type Datum = Arc<AtomicUsize>;

/// Writes `datum` and raises the interrupt, on another CPU.
fn write_and_raise(machine: &Arc<Machine>, way: Way, datum: &Datum) -> Other<()> {
    let datum = datum.clone();
    spawn(machine, 1, move |machine, cpu| {
        let pin = in_the_epoch(cpu);
        way.prepare(machine, &pin);
        // Relaxed: the raise itself orders the store before the guest's load.
        datum.store(1, Relaxed);
        way.raise(machine, cpu, &pin);
    })
}

/// Races a raise against exit and re-entry, after the guest's EOI of the last occurrence. A guest
/// that takes the interrupt once more sees the datum.
fn raised_again(way: Way) {
    check(3, move || {
        let machine = Arc::new(way.machine());
        let datum = Datum::default();
        let cpu = machine.cpu(0);
        way.raise_first(&machine, &cpu);
        machine.enter(&cpu, V0);
        assert_eq!(take(&cpu), 1);
        way.handle(&machine, &cpu);

        let other = write_and_raise(&machine, way, &datum);
        machine.exit(&cpu, V0);
        machine.enter(&cpu, V0);
        let taken = take(&cpu);
        // Relaxed: the interrupt orders the load.
        let seen = datum.load(Relaxed);
        assert!(taken == 0 || seen == 1, "the guest misses the datum");
        if taken != 0 {
            way.handle(&machine, &cpu);
        }
        other.join();

        machine.exit(&cpu, V0);
        if taken == 0 {
            machine.enter(&cpu, V0);
            assert_eq!(take(&cpu), 1);
            way.handle(&machine, &cpu);
            machine.exit(&cpu, V0);
        }
        assert_eq!(machine.serve(&cpu, V0), 0);
        sole(machine).finish(&cpu);
    });
}

/// Place of the first occurrence, when the interrupt is raised for the second time.
#[derive(Clone, Copy, PartialEq, Eq)]
enum First {
    /// On the ap_list.
    Queued,
    /// Pending in a list register.
    Pending,
    /// Active in a list register.
    Active,
}

/// Races a second raise against an entry. The guest sees the datum of the second raise, or gets
/// another interrupt, at once or after the exit that a kick causes.
fn coalesced(way: Way, first: First) {
    check(3, move || {
        let machine = Arc::new(way.machine());
        let datum = Datum::default();
        let cpu = machine.cpu(0);
        way.raise_first(&machine, &cpu);
        let mut active = None;
        if first != First::Queued {
            machine.enter(&cpu, V0);
            active = (first == First::Active).then(|| acknowledge(&cpu));
            machine.exit(&cpu, V0);
        }

        let other = write_and_raise(&machine, way, &datum);
        machine.enter(&cpu, V0);
        if let Some(intid) = active {
            cpu.interface().write_eoir1(intid);
        }
        let taken = take(&cpu);
        // Relaxed: the interrupt orders the load.
        let seen = datum.load(Relaxed);
        other.join();

        let mut late = 0;
        if machine.kicks() == 0 {
            late += take(&cpu);
            assert!(seen == 1 || taken + late > 1, "the guest misses the datum");
        }
        machine.exit(&cpu, V0);
        late += machine.serve(&cpu, V0);
        assert!(seen == 1 || late > 0, "the guest misses the datum");
        sole(machine).finish(&cpu);
    });
}

/// Races a raise against a read of `ISPENDR` by a guest that polls. A guest that finds the
/// interrupt pending sees the datum.
fn polled(way: Way, is_pending: fn(&Machine, &Cpu<SoftwareInterface>) -> bool) {
    check(3, move || {
        let machine = Arc::new(way.machine());
        let datum = Datum::default();
        let cpu = machine.cpu(0);

        let other = write_and_raise(&machine, way, &datum);
        let pending = is_pending(&machine, &cpu);
        // Relaxed: the read of the register orders the load.
        let seen = datum.load(Relaxed);
        assert!(!pending || seen == 1, "the guest misses the datum");
        other.join();

        way.handle(&machine, &cpu);
        let _ = machine.serve(&cpu, V0);
        sole(machine).finish(&cpu);
    });
}

#[test]
fn edge_of_an_spi() {
    raised_again(Way::Spi);
}

#[test]
fn edge_of_a_ppi() {
    raised_again(Way::Ppi);
}

#[test]
fn line_of_a_ppi() {
    raised_again(Way::Line);
}

#[test]
fn sgi() {
    raised_again(Way::Sgi);
}

#[test]
fn msi() {
    raised_again(Way::Msi);
}

#[test]
fn int_command() {
    raised_again(Way::Int);
}

#[test]
fn ispendr_of_an_spi() {
    raised_again(Way::Ispendr);
}

#[test]
fn forward_of_an_spi() {
    raised_again(Way::Forward);
}

#[test]
fn coalesced_edge_of_an_spi() {
    coalesced(Way::Spi, First::Queued);
}

#[test]
fn coalesced_edge_of_a_ppi() {
    coalesced(Way::Ppi, First::Queued);
}

#[test]
fn coalesced_sgi() {
    coalesced(Way::Sgi, First::Queued);
}

#[test]
fn coalesced_msi() {
    coalesced(Way::Msi, First::Queued);
}

#[test]
fn coalesced_int_command() {
    coalesced(Way::Int, First::Queued);
}

#[test]
fn coalesced_ispendr_of_an_spi() {
    coalesced(Way::Ispendr, First::Queued);
}

#[test]
fn edge_while_the_last_is_pending() {
    coalesced(Way::Ppi, First::Pending);
}

#[test]
fn edge_while_the_last_is_active() {
    coalesced(Way::Ppi, First::Active);
}

#[test]
fn polled_edge_of_an_spi() {
    polled(Way::Spi, |machine, cpu| {
        machine.read_gicd(cpu, V0, 0x204) >> (SPI - 32) & 1 != 0
    });
}

#[test]
fn polled_line_of_a_ppi() {
    polled(Way::Line, |machine, cpu| {
        machine.read_gicr(cpu, V0, 0x1_0200) >> LEVEL & 1 != 0
    });
}
