//! The devices that the client emulates: a console, a clock whose alarm drives an SPI, and the
//! device of guests that are saved and restored, which drives lines and asks for hops.

use std::sync::{Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail};
use kvm_bindings as kvm;
use kvm_ioctls::VmFd;

use crate::console;

/// Address of the PL011.
pub(crate) const UART: u64 = 0x0900_0000;
/// Address of the PL031.
pub(crate) const CLOCK: u64 = 0x0901_0000;
/// INTID of the PL031's SPI.
pub(crate) const CLOCK_INTID: u32 = 34;

/// Registers of the PL011.
const UART_DATA: u64 = UART;
const UART_FLAGS: u64 = UART + 0x18;

/// Registers of the PL031.
const CLOCK_DATA: u64 = CLOCK;
const CLOCK_MATCH: u64 = CLOCK + 0x4;
const CLOCK_MASK: u64 = CLOCK + 0x10;
const CLOCK_RAW_STATUS: u64 = CLOCK + 0x14;
const CLOCK_CLEAR: u64 = CLOCK + 0x1c;

/// Register by which the guest asks to be saved and restored.
const HOP: u64 = 0x0b00_0000;
/// Registers by which the guest raises and lowers the line of the SPI whose INTID it writes.
const HOP_RAISE: u64 = HOP + 0x8;
const HOP_LOWER: u64 = HOP + 0x10;

/// Consequence of a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Effect {
    /// None beyond the device.
    None,
    /// A line of the console is complete.
    Line,
    /// The guest asks to be saved and restored.
    Hop,
}

/// Devices of a machine, which all its vCPUs share.
#[derive(Default)]
pub(crate) struct Board {
    state: Mutex<State>,
}

/// State of the devices.
#[derive(Default)]
struct State {
    /// Beginning of a line of the console.
    line: Vec<u8>,
    /// The alarm is due, and it is let through to the line.
    due: bool,
    unmasked: bool,
}

impl Board {
    /// Reads a register.
    pub(crate) fn read(&self, address: u64, bytes: &mut [u8]) -> Result<()> {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let value = match address {
            UART_FLAGS => 0,
            CLOCK_DATA => now()?,
            CLOCK_RAW_STATUS => state.due.into(),
            CLOCK_MASK => state.unmasked.into(),
            _ => bail!("a read of {address:#x}"),
        };
        for (byte, of_value) in bytes.iter_mut().zip(value.to_le_bytes()) {
            *byte = of_value;
        }
        Ok(())
    }

    /// Writes a register.
    pub(crate) fn write(&self, vm: &VmFd, address: u64, bytes: &[u8]) -> Result<Effect> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let low = bytes.first().copied().context("an empty write")?;
        match address {
            UART_DATA if low == b'\n' => {
                console::say(&String::from_utf8_lossy(&state.line));
                state.line.clear();
                return Ok(Effect::Line);
            }
            UART_DATA => state.line.push(low),
            HOP => return Ok(Effect::Hop),
            HOP_RAISE => set_line(vm, word(bytes)?, true)?,
            HOP_LOWER => set_line(vm, word(bytes)?, false)?,
            CLOCK_MATCH => state.due |= word(bytes)? == now()?,
            CLOCK_MASK => state.unmasked = low & 1 != 0,
            CLOCK_CLEAR => state.due &= low & 1 == 0,
            _ => bail!("a write of {address:#x}"),
        }

        set_line(vm, CLOCK_INTID, state.due && state.unmasked)?;
        Ok(Effect::None)
    }
}

/// Reads a word that is written.
fn word(bytes: &[u8]) -> Result<u32> {
    Ok(u32::from_le_bytes(bytes.try_into().context("a word")?))
}

/// Sets the level of an SPI's line.
fn set_line(vm: &VmFd, intid: u32, level: bool) -> Result<()> {
    let line = kvm::KVM_ARM_IRQ_TYPE_SPI << kvm::KVM_ARM_IRQ_TYPE_SHIFT | intid;
    Ok(vm.set_irq_line(line, level)?)
}

/// Returns the clock's time, in seconds.
fn now() -> Result<u32> {
    let since = SystemTime::now().duration_since(UNIX_EPOCH)?;
    Ok(since.as_secs() as u32)
}
