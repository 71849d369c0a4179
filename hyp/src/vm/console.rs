//! A VM's console: the registers of a PL011 that a writer needs (Arm DDI 0183).
//!
//! Whole lines are printed on the machine's console, each with the VM's name, up to a quota.

use alloc::string::String;

use spin::Mutex;

use crate::println;

/// Address of the registers, as on QEMU's `virt` board.
const BASE: u64 = 0x0900_0000;
const SIZE: u64 = 0x1000;

/// `UARTDR`: transmits a byte.
const DATA: u64 = 0;
/// `UARTFR`: receive FIFO empty, all transmitted.
const FLAGS: u64 = 0x18;
const IDLE: u64 = 1 << 7 | 1 << 4;

/// Bytes after which a line ends by itself.
const WIDTH: usize = 240;

/// Lines that a VM may write. Further lines are dropped, because printing takes time of every VM.
const QUOTA: u32 = 500;

/// Console of one VM.
pub(crate) struct Console {
    /// The VM's index.
    index: usize,
    text: Mutex<Text>,
}

struct Text {
    line: String,
    left: u32,
}

impl Console {
    pub(crate) fn new(index: usize) -> Self {
        let text = Text {
            // Large enough for every line: a VM's writes allocate nothing.
            line: String::with_capacity(WIDTH),
            left: QUOTA,
        };
        Self {
            index,
            text: Mutex::new(text),
        }
    }

    /// Returns true if the registers are at this address.
    pub(crate) fn claims(&self, address: u64) -> bool {
        (BASE..BASE + SIZE).contains(&address)
    }

    /// Reads a register.
    pub(crate) fn read(&self, address: u64) -> u64 {
        if address - BASE == FLAGS { IDLE } else { 0 }
    }

    /// Writes a register.
    pub(crate) fn write(&self, address: u64, value: u64) {
        if address - BASE != DATA {
            return;
        }
        let mut text = self.text.lock();
        let byte = value as u8;
        if matches!(byte, b' '..=b'~') {
            text.line.push(char::from(byte));
        }
        if byte == b'\n' || text.line.len() == WIDTH {
            if text.left > 0 {
                text.left -= 1;
                println!("vm{}: {}", self.index, text.line);
            }
            text.line.clear();
        }
    }
}
