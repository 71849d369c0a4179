//! A VM's console: the part of a PL011 that writing needs (Arm DDI 0183).
//!
//! Whole lines come out on the machine's console, each with the VM's name, so many and no more.

use alloc::string::String;

use spin::Mutex;

use crate::println;

/// Where the registers are, as on QEMU's `virt` board.
const BASE: u64 = 0x0900_0000;
const SIZE: u64 = 0x1000;

/// `UARTDR`: what is written goes out.
const DATA: u64 = 0;
/// `UARTFR`: nothing to receive, all transmitted.
const FLAGS: u64 = 0x18;
const IDLE: u64 = 1 << 7 | 1 << 4;

/// Bytes after which a line ends by itself.
const WIDTH: usize = 240;

/// Lines that a VM may write; what follows is dropped, for writing takes time that all share.
const QUOTA: u32 = 500;

/// One VM's console.
pub(super) struct Console {
    /// The VM's.
    index: usize,
    text: Mutex<Text>,
}

struct Text {
    line: String,
    left: u32,
}

impl Console {
    pub(super) fn new(index: usize) -> Self {
        let text = Text {
            // All that it ever needs: nothing is allocated on a VM's request.
            line: String::with_capacity(WIDTH),
            left: QUOTA,
        };
        Self {
            index,
            text: Mutex::new(text),
        }
    }

    /// Whether the registers are at this address.
    pub(super) fn claims(&self, address: u64) -> bool {
        (BASE..BASE + SIZE).contains(&address)
    }

    /// Reads a register.
    pub(super) fn read(&self, address: u64) -> u64 {
        if address - BASE == FLAGS { IDLE } else { 0 }
    }

    /// Writes a register.
    pub(super) fn write(&self, address: u64, value: u64) {
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
