//! A VM's console: a PL011 (Arm DDI 0183), as far as its drivers can tell.
//!
//! Whole lines are printed on the machine's console, each with the VM's name, up to a quota. Input
//! comes from there by lines too.

use alloc::collections::VecDeque;
use alloc::string::String;

use spin::Mutex;
use vgic::epoch::CpuPin;

use super::controller::Controller;
use crate::console;
use crate::cpu::clock::now;
use crate::cpu::this_cpu::ThisCpu;
use crate::println;
use crate::snapshot::state;

/// Address of the registers, as on QEMU's `virt` board.
pub(crate) const BASE: u64 = 0x0900_0000;
/// Bytes of the registers.
pub(crate) const SIZE: u64 = 0x1000;
/// SPI, as on QEMU's `virt` board, unless the VM's wiring names another.
pub(crate) const SPI: u32 = 33;

/// Offsets of the registers.
mod register {
    pub(super) const DATA: u64 = 0x00;
    pub(super) const FLAGS: u64 = 0x18;
    pub(super) const CONTROL: u64 = 0x30;
    pub(super) const MASK: u64 = 0x38;
    pub(super) const RAW_STATUS: u64 = 0x3c;
    pub(super) const MASKED_STATUS: u64 = 0x40;
    pub(super) const CLEAR: u64 = 0x44;
    /// `UARTPeriphID0` to `UARTPCellID3`.
    pub(super) const IDENTIFICATION: u64 = 0xfe0;
}

/// Identification: part 011 of Arm's, revision 1, and the class of a PrimeCell.
const IDENTIFICATION: [u8; 8] = [0x11, 0x10, 0x14, 0x00, 0x0d, 0xf0, 0x05, 0xb1];

/// `UARTFR`: receive FIFO empty; transmit FIFO empty.
const RXFE: u32 = 1 << 4;
const TXFE: u32 = 1 << 7;

/// Interrupts: receive, transmit.
const RX: u32 = 1 << 4;
const TX: u32 = 1 << 5;
/// Interrupts that the registers have room for.
const INTERRUPTS: u32 = 0x7ff;

/// `UARTCR` after a reset: receive and transmit enabled.
const CONTROL_RESET: u32 = 0x300;

/// Bytes after which a line ends by itself.
const WIDTH: usize = 240;

/// Lines that a VM may write in one life. Further lines are dropped: the log has an end.
const QUOTA: u32 = 50_000;

/// Bytes of input that wait for the guest. Further input is dropped.
const INPUT: usize = 1024;

/// Console of one VM.
pub(crate) struct Console {
    /// Index of the VM, and its name.
    vm: usize,
    name: String,
    state: Mutex<State>,
}

struct State {
    control: u32,
    mask: u32,
    /// Raw interrupts. That of received bytes is not stored: it is there while bytes are.
    raw: u32,
    line: String,
    lines_left: u32,
    input: VecDeque<u8>,
}

impl State {
    /// Returns the raw interrupts.
    fn raw(&self) -> u32 {
        self.raw | if self.input.is_empty() { 0 } else { RX }
    }

    /// Returns the level of the interrupt line.
    fn level(&self) -> bool {
        self.raw() & self.mask != 0
    }
}

impl Console {
    /// Returns the console of the VM of this index and name, after a reset.
    pub(crate) fn new(vm: usize, name: &str) -> Self {
        let state = State {
            control: CONTROL_RESET,
            mask: 0,
            raw: 0,
            // Large enough for every line and all input: accesses allocate nothing.
            line: String::with_capacity(WIDTH),
            lines_left: QUOTA,
            input: VecDeque::with_capacity(INPUT),
        };
        Self {
            vm,
            name: name.into(),
            state: Mutex::new(state),
        }
    }

    /// Resets the registers, and prints what is left of a line. The line is low from then on.
    pub(crate) fn reset(&self) {
        let mut state = self.state.lock();
        self.end_line(&mut state);
        state.input.clear();
        (state.control, state.mask, state.raw) = (CONTROL_RESET, 0, 0);
        state.lines_left = QUOTA;
    }

    /// Returns true if the registers are at this address.
    pub(crate) fn claims(&self, address: u64) -> bool {
        (BASE..BASE + SIZE).contains(&address)
    }

    /// Reads a register, and calls `set_line` if that changes the level of the interrupt line.
    pub(crate) fn read(&self, address: u64, set_line: impl FnOnce(bool)) -> u64 {
        let value = self.change(set_line, |state| {
            let offset = address - BASE;
            match offset {
                register::DATA => state.input.pop_front().map_or(0, u32::from),
                register::FLAGS if state.input.is_empty() => TXFE | RXFE,
                register::FLAGS => TXFE,
                register::CONTROL => state.control,
                register::MASK => state.mask,
                register::RAW_STATUS => state.raw(),
                register::MASKED_STATUS => state.raw() & state.mask,
                register::IDENTIFICATION.. => {
                    let index = (offset - register::IDENTIFICATION) as usize / 4;
                    IDENTIFICATION[index % IDENTIFICATION.len()].into()
                }
                _ => 0,
            }
        });
        value.into()
    }

    /// Writes a register, and calls `set_line` if that changes the level of the interrupt line.
    pub(crate) fn write(&self, address: u64, value: u64, set_line: impl FnOnce(bool)) {
        let value = value as u32;
        self.change(set_line, |state| match address - BASE {
            register::DATA => {
                self.transmit(state, value as u8);
                // The byte is gone at once: there is room for another.
                state.raw |= TX;
            }
            register::CONTROL => state.control = value & 0xffff,
            register::MASK => state.mask = value & INTERRUPTS,
            register::CLEAR => state.raw &= !value,
            _ => {}
        });
    }

    /// Gives the guest input, and calls `set_line` if that raises the interrupt line.
    pub(crate) fn receive(&self, bytes: impl Iterator<Item = u8>, set_line: impl FnOnce(bool)) {
        self.change(set_line, |state| {
            let room = INPUT - state.input.len();
            state.input.extend(bytes.take(room));
        });
    }

    /// Takes the registers and the bytes on their way, and leaves the registers as after a reset.
    pub(crate) fn take(&self) -> state::Console {
        let mut state = self.state.lock();
        let taken = state::Console {
            control: state.control,
            mask: state.mask,
            raw: state.raw,
            line: state.line.clone(),
            lines_left: state.lines_left,
            input: state.input.clone(),
        };
        // Nothing of the line is printed: whoever has the state prints it.
        state.line.clear();
        taken
    }

    /// Sets the registers and the bytes on their way. Returns false, and changes nothing, if they
    /// are not those of a console.
    #[must_use]
    pub(crate) fn set(&self, saved: &state::Console) -> bool {
        // A line of the full width has ended.
        let fits = saved.line.len() < WIDTH
            && saved.line.bytes().all(is_printed)
            && saved.input.len() <= INPUT
            && saved.lines_left <= QUOTA
            && (saved.mask | saved.raw) & !INTERRUPTS == 0;
        if fits {
            let mut state = self.state.lock();
            (state.control, state.mask, state.raw) = (saved.control, saved.mask, saved.raw);
            state.line.clear();
            state.line.push_str(&saved.line);
            state.lines_left = saved.lines_left;
            state.input.clear();
            state.input.extend(&saved.input);
        }
        fits
    }

    /// Calls `set_line` with the level of the interrupt line: another interrupt controller has come
    /// in the place of the one that had it.
    pub(crate) fn repeat(&self, set_line: impl FnOnce(bool)) {
        let state = self.state.lock();
        set_line(state.level());
    }

    /// Calls `work`, and `set_line` if that changes the level of the interrupt line: under the
    /// lock, so that the last change counts.
    fn change<R>(&self, set_line: impl FnOnce(bool), work: impl FnOnce(&mut State) -> R) -> R {
        let mut state = self.state.lock();
        let before = state.level();
        let result = work(&mut state);
        if state.level() != before {
            set_line(state.level());
        }
        result
    }

    fn transmit(&self, state: &mut State, byte: u8) {
        match console::attached() {
            Some(vm) if vm == self.vm => return console::write(byte),
            _ => {}
        }
        if is_printed(byte) {
            state.line.push(char::from(byte));
        }
        if byte == b'\n' || state.line.len() == WIDTH {
            // A slow console takes the time of the vCPU that writes.
            let here = ThisCpu::get().here;
            here.serve(now());
            self.end_line(state);
            here.end_service(now());
        }
    }

    /// Prints the line, unless it is empty or the quota is used up.
    fn end_line(&self, state: &mut State) {
        if !state.line.is_empty() && state.lines_left > 0 {
            state.lines_left -= 1;
            println!("{}: {}", self.name, state.line);
        }
        state.line.clear();
    }
}

/// Returns true if a byte that the guest writes is a part of its line.
fn is_printed(byte: u8) -> bool {
    matches!(byte, b' '..=b'~' | b'\t')
}

/// Sets the interrupt line of the console of the VM with this interrupt controller.
pub(crate) fn set_line(vgic: &Controller, pin: &CpuPin<'_>, high: bool) {
    let set = vgic.set_spi_line(pin, vgic.host().vm().wiring.console, high);
    debug_assert!(set.is_ok(), "{set:?}");
}
