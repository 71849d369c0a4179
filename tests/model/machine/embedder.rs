//! The embedder: what the library asks for, noted until [`Machine::settle`](super::Machine) does it; and the
//! guest's memory.

use std::sync::Mutex;

use vgic::intid::{CpuId, ItsId, VcpuId};
use vgic::{BadAddress, CommandError, Host};

use crate::operation::{ITSES, PES};

/// Guest memory: the ITSes' tables and queues, the LPI configuration, a pending table for each PE.
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

#[derive(Default)]
pub(super) struct Embedder {
    pub(super) kicks: Mutex<Vec<(usize, usize)>>,
    pub(super) wakes: Mutex<Vec<usize>>,
    pub(super) memory: Mutex<Vec<u8>>,
    pub(super) faults: Mutex<Vec<(u8, u8, CommandError)>>,
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
    fn command_failed(&self, its: ItsId, number: u8, error: CommandError) {
        self.faults.lock().unwrap().push((its.0, number, error));
    }
    fn deactivate(&self, _vcpu: Option<VcpuId>, _pintid: u16) {
        unreachable!("nothing is forwarded");
    }
}

impl Embedder {
    pub(super) fn write_memory(&self, gpa: u64, bytes: &[u8]) {
        let at = (gpa - RAM) as usize;
        self.memory.lock().unwrap()[at..at + bytes.len()].copy_from_slice(bytes);
    }
}
