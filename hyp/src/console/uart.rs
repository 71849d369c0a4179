//! The UARTs that can be the console.
#![expect(unsafe_code)]
// UNSAFETY: takes the device's registers at the address that the device tree gives.

use core::fmt::{self, Write};
use core::ptr::NonNull;

use arm_pl011_uart::{DataBits, Interrupts, LineConfig, PL011Registers, Parity, StopBits};
use safe_mmio::UniqueMmioPointer;

use super::ns16550::Ns16550;

/// Baud rate and clock in Hz of a PL011, until the guest's driver chooses others.
const LINE: (u32, u32) = (115_200, 24_000_000);

/// A kind of UART.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A PL011 that nobody may have set up.
    Pl011,
    /// The registers of a PL011 that Arm's Base System Architecture asks for. The firmware has set
    /// it up.
    Sbsa,
    /// A 16550 that the firmware has set up.
    Ns16550 {
        /// Distance of two registers, as a power of two.
        shift: u32,
        /// Bytes of an access.
        width: u32,
    },
}

/// A UART.
pub(super) enum Uart {
    Pl011(arm_pl011_uart::Uart<'static>),
    Ns16550(Ns16550),
}

impl Uart {
    /// Returns the UART of this kind whose registers are at `address`.
    ///
    /// # Safety
    /// Such a UART is mapped there for as long as the hypervisor runs, and only the guest uses it
    /// too.
    pub(super) unsafe fn new(kind: Kind, address: NonNull<u8>) -> Self {
        match kind {
            Kind::Pl011 | Kind::Sbsa => {
                let registers = address.cast::<PL011Registers>();
                // SAFETY: by the caller's promise. An access by the guest is like one by another
                // bus master.
                let registers = unsafe { UniqueMmioPointer::new(registers) };
                let mut uart = arm_pl011_uart::Uart::new(registers);
                if kind == Kind::Pl011 {
                    let line = LineConfig {
                        data_bits: DataBits::Bits8,
                        parity: Parity::None,
                        stop_bits: StopBits::One,
                    };
                    // The line settings are valid constants.
                    let _ = uart.enable(line, LINE.0, LINE.1);
                }
                Self::Pl011(uart)
            }
            Kind::Ns16550 { shift, width } => {
                // SAFETY: by the caller's promise.
                let uart = unsafe { Ns16550::new(address.addr().get(), shift, width) };
                Self::Ns16550(uart)
            }
        }
    }

    /// Sends a byte.
    pub(super) fn write(&mut self, byte: u8) {
        match self {
            Self::Pl011(uart) => uart.write_word(byte),
            Self::Ns16550(uart) => uart.write(byte),
        }
    }

    /// Takes a byte that has come, if there is one. A byte that was received wrongly is dropped.
    pub(super) fn read(&mut self) -> Option<u8> {
        match self {
            Self::Pl011(uart) => uart.read_word().ok().flatten(),
            Self::Ns16550(uart) => uart.read(),
        }
    }

    /// Has the UART interrupt when a byte has come.
    pub(super) fn listen(&mut self) {
        match self {
            Self::Pl011(uart) => uart.set_interrupt_masks(Interrupts::RXI | Interrupts::RTI),
            Self::Ns16550(uart) => uart.listen(),
        }
    }
}

impl Write for Uart {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        text.bytes().for_each(|byte| self.write(byte));
        Ok(())
    }
}
