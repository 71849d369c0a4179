//! A guest's ITS driver, as far as tests need one.

use std::cell::Cell;

use super::{GITS, Machine, RAM, TestHost};

pub const DEVICE_TABLE: u64 = RAM + 0x1_0000;
pub const COLLECTION_TABLE: u64 = RAM + 0x2_0000;
const QUEUE: u64 = RAM + 0x3_0000;
/// Commands in the queue of 64 KiB.
const QUEUE_COMMANDS: u64 = 0x1_0000 / 32;
/// LPI configuration: a byte for each, from INTID 8192 on.
pub const PROPERTIES: u64 = RAM + 0x10_0000;
/// Pending tables, 64 KiB apart.
pub const PENDING: u64 = RAM + 0x20_0000;
const VALID: u64 = 1 << 63;

pub struct Driver<'a> {
    pub machine: &'a Machine,
    next: Cell<u64>,
}

impl<'a> Driver<'a> {
    /// Sets up the tables and the queue, enables LPIs on every vCPU, enables the ITS, and maps
    /// collection n to vCPU n.
    pub fn new(machine: &'a Machine) -> Self {
        let driver = Self {
            machine,
            next: Cell::new(0),
        };

        let vcpus = machine.vm.vcpu_count();
        for n in 0..vcpus {
            let gicr = machine.gicr(n);
            machine.write64(n, gicr + 0x70, PROPERTIES | 16);
            machine.write64(n, gicr + 0x78, pending_table(n));
            machine.write(n, gicr, 1);
        }

        machine.write64(0, GITS + 0x100, VALID | DEVICE_TABLE | 0xf);
        machine.write64(0, GITS + 0x108, VALID | COLLECTION_TABLE);
        machine.write64(0, GITS + 0x80, VALID | QUEUE | 0xf);
        machine.write(0, GITS, 1);

        for n in 0..vcpus as u64 {
            driver.mapc(n, Some(n));
        }
        machine.advance();
        driver
    }

    /// Queues a command and waits for its execution.
    pub fn send(&self, command: [u64; 4]) {
        self.send_all(&[command]);
    }

    /// Queues commands and waits for their execution.
    pub fn send_all(&self, commands: &[[u64; 4]]) {
        self.post(commands);
        self.wait();
    }

    /// Queues commands and rings, without waiting for their execution.
    pub fn post(&self, commands: &[[u64; 4]]) {
        self.post_from(0, commands);
    }

    /// Queues commands and rings on CPU `n`.
    pub fn post_from(&self, n: usize, commands: &[[u64; 4]]) {
        commands.iter().for_each(|command| self.queue(*command));
        self.machine.write64(n, GITS + 0x88, self.end());
    }

    /// Returns `GITS_CWRITER`, the offset of the end of the queued commands.
    fn end(&self) -> u64 {
        self.next.get() % QUEUE_COMMANDS * 32
    }

    /// Returns whether all queued commands have been executed. A read of `GITS_CREADR` executes a
    /// slice.
    pub fn is_done(&self) -> bool {
        self.machine.read64(0, GITS + 0x90) == self.end()
    }

    /// Queues a command without ringing. Returns the value of `GITS_CWRITER` to ring with.
    pub fn prepare(&self, command: [u64; 4]) -> u64 {
        self.queue(command);
        self.end()
    }

    fn queue(&self, command: [u64; 4]) {
        let at = QUEUE + self.next.get() % QUEUE_COMMANDS * 32;
        write_commands(self.machine.vm.host(), at, &[command]);
        self.next.set(self.next.get() + 1);
    }

    /// Polls `GITS_CREADR` as a driver does.
    pub fn wait(&self) {
        for _ in 0..100_000 {
            if self.is_done() {
                return;
            }
        }
        panic!("the queue is stuck");
    }

    pub fn mapd(&self, device: u64, event_bits: u64) {
        let itt = VALID | itt(device);
        self.send([0x08 | device << 32, event_bits - 1, itt, 0]);
    }

    pub fn unmap_device(&self, device: u64) {
        self.send([0x08 | device << 32, 0, 0, 0]);
    }

    pub fn mapc(&self, icid: u64, vcpu: Option<u64>) {
        let target = vcpu.map_or(0, |vcpu| VALID | vcpu << 16);
        self.send([0x09, 0, target | icid, 0]);
    }

    pub fn mapti(&self, device: u64, event: u64, intid: u64, icid: u64) {
        self.send([0x0a | device << 32, event | intid << 32, icid, 0]);
    }

    pub fn movi(&self, device: u64, event: u64, icid: u64) {
        self.send([0x01 | device << 32, event, icid, 0]);
    }

    pub fn movall(&self, from: u64, to: u64) {
        self.send([0x0e, 0, from << 16, to << 16]);
    }

    pub fn int(&self, device: u64, event: u64) {
        self.send([0x03 | device << 32, event, 0, 0]);
    }

    pub fn clear(&self, device: u64, event: u64) {
        self.send([0x04 | device << 32, event, 0, 0]);
    }

    pub fn discard(&self, device: u64, event: u64) {
        self.send([0x0f | device << 32, event, 0, 0]);
    }

    pub fn inv(&self, device: u64, event: u64) {
        self.send([0x0c | device << 32, event, 0, 0]);
    }

    pub fn invall(&self, icid: u64) {
        self.send([0x0d, 0, icid, 0]);
    }

    pub fn sync(&self, vcpu: u64) {
        self.send([0x05, 0, vcpu << 16, 0]);
    }

    /// Writes an LPI's configuration byte. The guest still has to invalidate the LPI.
    pub fn configure(&self, intid: u64, priority: u8, enabled: bool) {
        let byte = priority | u8::from(enabled);
        self.machine
            .vm
            .host()
            .write_ram(PROPERTIES + intid - 8192, &[byte]);
    }

    /// Maps (device, event) to an LPI of collection `icid`, and enables the LPI.
    pub fn map(&self, device: u64, event: u64, intid: u64, icid: u64) {
        self.configure(intid, 0xa0, true);
        self.mapti(device, event, intid, icid);
    }
}

/// Writes commands to RAM, and returns their bytes.
pub fn write_commands(host: &TestHost, at: u64, commands: &[[u64; 4]]) -> u64 {
    let words = commands.iter().flatten();
    let bytes: Vec<u8> = words.flat_map(|word| word.to_le_bytes()).collect();
    host.write_ram(at, &bytes);
    bytes.len() as u64
}

/// Returns the address of a device's translation table, which 16 devices further share.
pub fn itt(device: u64) -> u64 {
    RAM + 0x80_0000 + device % 16 * 0x8_0000
}

pub fn pending_table(vcpu: usize) -> u64 {
    PENDING + vcpu as u64 * 0x1_0000
}
