//! The embedder: the library's requests, noted until [`Machine::quiesce`](super::Machine) serves
//! them, and the guest's memory.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

use vgic::gicv4::Gicv4;
use vgic::intid::{CpuId, IntId, ItsId, VcpuId};
use vgic::{BadAddress, CommandError, Host, PhysicalInterrupt};

use crate::gicv4::Model;
use crate::operation::{CPUS, FORWARDED, ITSES, PES};

/// Guest memory: the ITSes' tables and queues, the LPI configuration, and a pending table for each
/// PE.
pub(super) const RAM: u64 = 0x4000_0000;
pub(super) const PROPERTIES: u64 = RAM + 0x8000;
pub(super) const QUEUE_SIZE: u64 = 0x1000;
pub(super) const RAM_SIZE: u64 = pending_table(PES) - RAM;

pub(super) const fn device_table(its: usize) -> u64 {
    RAM + its as u64 * 0x2000
}

pub(super) const fn collection_table(its: usize) -> u64 {
    device_table(its) + 0x1000
}

pub(super) const fn queue(its: usize) -> u64 {
    RAM + (its as u64 + 1) * 0x1_0000
}

pub(super) const fn pending_table(pe: usize) -> u64 {
    queue(ITSES.len()) + pe as u64 * 0x1_0000
}

/// A physical interrupt: the CPU of a PPI, and the INTID.
///
/// IHI 0069, 2.1: a PPI "targets a single, specific PE", and different PEs use the same INTID for
/// different events. Here the physical PEs are the CPUs.
pub(super) type Physical = (Option<usize>, u16);

/// An interrupt of the VM: the PE of an SGI or PPI, and the INTID.
pub(super) type Virtual = (Option<usize>, u32);

#[derive(Default)]
pub(super) struct Embedder {
    pub(super) kicks: Mutex<Vec<(usize, usize)>>,
    pub(super) wakes: Mutex<Vec<usize>>,
    pub(super) memory: Mutex<Vec<u8>>,
    /// Failed commands: ITS, command number, reason.
    pub(super) faults: Mutex<Vec<(u8, u8, CommandError)>>,
    /// Physical interrupts active because of being forwarded.
    pub(super) active: Mutex<BTreeSet<Physical>>,
    /// Interrupts whose devices hold the physical line high. The line of a PPI's device, such as a
    /// timer, is a line of the CPU that has the PE.
    pub(super) lines: Mutex<BTreeSet<Virtual>>,
    /// PE on each CPU.
    pub(super) loaded: Mutex<[Option<usize>; CPUS]>,
    /// The library's last notice of each interrupt.
    pub(super) enabled: Mutex<BTreeMap<Virtual, bool>>,
    pub(super) edges: Mutex<BTreeMap<Virtual, bool>>,
    pub(super) routes: Mutex<BTreeMap<u32, Option<usize>>>,
    /// Level-sensitive interrupts to be sampled.
    pub(super) resamples: Mutex<BTreeSet<u32>>,
    /// The machine's GICv4, if it has one.
    pub(super) gicv4: Option<Arc<Model>>,
}

impl Embedder {
    /// Takes the machine around a VM that has been taken apart, for another VM.
    pub(super) fn take(&self) -> Self {
        fn take<T: Default>(of: &Mutex<T>) -> Mutex<T> {
            Mutex::new(std::mem::take(&mut of.lock().unwrap()))
        }
        Self {
            kicks: take(&self.kicks),
            wakes: take(&self.wakes),
            memory: take(&self.memory),
            faults: take(&self.faults),
            active: take(&self.active),
            lines: take(&self.lines),
            loaded: take(&self.loaded),
            enabled: take(&self.enabled),
            edges: take(&self.edges),
            routes: take(&self.routes),
            resamples: take(&self.resamples),
            gicv4: self.gicv4.clone(),
        }
    }

    /// Writes memory as the guest does.
    pub(super) fn guest_writes(&self, gpa: u64, bytes: &[u8]) {
        let at = (gpa - RAM) as usize;
        self.memory.lock().unwrap()[at..at + bytes.len()].copy_from_slice(bytes);
    }

    /// Deactivates a physical interrupt, for the guest through a list register or for the
    /// hypervisor. The interrupt has to be active: the deactivation of an inactive interrupt may
    /// lose a pending one.
    pub(super) fn deactivated(&self, physical: Physical) {
        let was_active = self.active.lock().unwrap().remove(&physical);
        assert!(was_active, "{physical:?} is deactivated and not active");
    }
}

/// Returns a physical interrupt as the model has it.
fn physical(physical: PhysicalInterrupt) -> Physical {
    let cpu = match physical {
        PhysicalInterrupt::Ppi { cpu, .. } => Some(usize::from(cpu.0)),
        PhysicalInterrupt::Spi { .. } => None,
    };
    (cpu, physical.intid().raw() as u16)
}

fn owner(vcpu: Option<VcpuId>) -> Option<usize> {
    vcpu.map(VcpuId::index)
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
    fn write_memory(&self, gpa: u64, bytes: &[u8]) -> Result<(), BadAddress> {
        let mut memory = self.memory.lock().unwrap();
        let at = gpa.checked_sub(RAM).ok_or(BadAddress)? as usize;
        let place = memory.get_mut(at..at + bytes.len()).ok_or(BadAddress)?;
        place.copy_from_slice(bytes);
        Ok(())
    }
    fn command_failed(&self, its: ItsId, number: u8, error: CommandError) {
        self.faults.lock().unwrap().push((its.0, number, error));
    }
    fn gicv4(&self) -> Option<&dyn Gicv4> {
        self.gicv4.as_deref().map(|gicv4| gicv4 as &dyn Gicv4)
    }
    fn deactivate(&self, interrupt: PhysicalInterrupt) {
        self.deactivated(physical(interrupt));
    }
    fn is_pending(&self, interrupt: PhysicalInterrupt) -> bool {
        let (cpu, pintid) = physical(interrupt);
        let (intid, _) = *FORWARDED.iter().find(|(_, p)| *p == pintid).unwrap();
        let pe = cpu.map(|cpu| self.loaded.lock().unwrap()[cpu].expect("a PE is on the CPU"));
        self.lines.lock().unwrap().contains(&(pe, intid))
    }
    fn resample(&self, _vcpu: VcpuId, intid: IntId) {
        self.resamples.lock().unwrap().insert(intid.raw());
    }
    fn enabled(&self, vcpu: Option<VcpuId>, intid: IntId, on: bool) {
        let of = (owner(vcpu), intid.raw());
        self.enabled.lock().unwrap().insert(of, on);
    }
    fn configured(&self, vcpu: Option<VcpuId>, intid: IntId, edge: bool) {
        let of = (owner(vcpu), intid.raw());
        self.edges.lock().unwrap().insert(of, edge);
    }
    fn routed(&self, intid: IntId, target: Option<VcpuId>) {
        self.routes
            .lock()
            .unwrap()
            .insert(intid.raw(), owner(target));
    }
}
