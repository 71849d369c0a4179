//! The embedder: what the library asks for, noted until [`Machine::settle`](super::Machine) does it; and the
//! guest's memory.

use std::sync::Mutex;

use vgic::intid::{CpuId, ItsId, VcpuId};
use vgic::{BadAddress, CommandError, Host};

use crate::operation::PES;

/// Guest memory: the ITS's tables and queue, the LPI configuration, a pending table for each PE.
pub(super) const RAM: u64 = 0x4000_0000;
pub(super) const DEVICES: u64 = RAM;
pub(super) const COLLECTIONS: u64 = RAM + 0x1000;
pub(super) const PROPERTIES: u64 = RAM + 0x2000;
pub(super) const QUEUE: u64 = RAM + 0x1_0000;
pub(super) const QUEUE_SIZE: u64 = 0x1000;
pub(super) const PENDING: u64 = RAM + 0x2_0000;
pub(super) const RAM_SIZE: u64 = 0x2_0000 + PES as u64 * 0x1_0000;

#[derive(Default)]
pub(super) struct Embedder {
    pub(super) kicks: Mutex<Vec<(usize, usize)>>,
    pub(super) wakes: Mutex<Vec<usize>>,
    pub(super) memory: Mutex<Vec<u8>>,
    pub(super) faults: Mutex<Vec<(u8, CommandError)>>,
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
