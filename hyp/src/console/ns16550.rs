//! A 16550 that the firmware has set up: its registers for data, and those that say when.
#![expect(unsafe_code)]
// UNSAFETY: accesses registers at the address that the device tree gives.

use core::ptr;

/// Numbers of registers.
const DATA: usize = 0;
const INTERRUPT_ENABLE: usize = 1;
const MODEM_CONTROL: usize = 4;
const LINE_STATUS: usize = 5;

/// `IER`: interrupt when a byte has come.
const RECEIVED: u32 = 1;

/// `MCR`: lets the interrupt out, where this bit gates it.
const OUT2: u32 = 1 << 3;

/// `LSR`: a byte has come; there is room for one to send.
const HAS_BYTE: u32 = 1;
const HAS_ROOM: u32 = 1 << 5;

/// A 16550 in memory.
pub(crate) struct Ns16550 {
    base: usize,
    /// Distance of two registers, as a power of two.
    shift: u32,
    /// Bytes of an access: 1, 2 or 4.
    width: u32,
}

impl Ns16550 {
    /// Returns the device whose registers begin at `base`.
    ///
    /// # Safety
    /// A 16550 with registers of this width at this distance is mapped at `base`, for as long as
    /// the result lives.
    pub(crate) unsafe fn new(base: usize, shift: u32, width: u32) -> Self {
        Self { base, shift, width }
    }

    /// Sends a byte once there is room for it.
    pub(crate) fn write(&mut self, byte: u8) {
        while self.get(LINE_STATUS) & HAS_ROOM == 0 {
            core::hint::spin_loop();
        }
        self.set(DATA, byte.into());
    }

    /// Takes a byte that has come, if there is one.
    pub(crate) fn read(&mut self) -> Option<u8> {
        (self.get(LINE_STATUS) & HAS_BYTE != 0).then(|| self.get(DATA) as u8)
    }

    /// Has the device interrupt when a byte has come.
    pub(crate) fn listen(&mut self) {
        self.set(MODEM_CONTROL, self.get(MODEM_CONTROL) | OUT2);
        self.set(INTERRUPT_ENABLE, RECEIVED);
    }

    fn get(&self, register: usize) -> u32 {
        let address = self.base + (register << self.shift);
        // SAFETY: by the promise to `new`, a register of this width is there.
        unsafe {
            match self.width {
                1 => ptr::read_volatile(address as *const u8).into(),
                2 => ptr::read_volatile(address as *const u16).into(),
                _ => ptr::read_volatile(address as *const u32),
            }
        }
    }

    fn set(&mut self, register: usize, value: u32) {
        let address = self.base + (register << self.shift);
        // SAFETY: by the promise to `new`, a register of this width is there.
        unsafe {
            match self.width {
                1 => ptr::write_volatile(address as *mut u8, value as u8),
                2 => ptr::write_volatile(address as *mut u16, value as u16),
                _ => ptr::write_volatile(address as *mut u32, value),
            }
        }
    }
}
