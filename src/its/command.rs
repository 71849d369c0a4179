//! Encoding of ITS commands: 32 bytes each, four little-endian doublewords (IHI 0069, 5.3).

use crate::error::CommandError;
use crate::vm::its::device::Itt;

/// Bytes of one command.
pub(crate) const COMMAND_SIZE: usize = 32;

/// A decoded command.
///
/// The numbers are the guest's claims: decoding has only extracted the fields.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Command {
    /// `MAPD`: maps a device, or unmaps a device.
    Mapd { device: u32, itt: Itt, valid: bool },
    /// `MAPC`: maps a collection to the redistributor `rdbase`, or unmaps a collection.
    Mapc { icid: u16, rdbase: u64, valid: bool },
    /// `MAPTI`: maps an event to an LPI and a collection. `MAPI`: uses the EventID as the INTID.
    Mapti {
        device: u32,
        event: u32,
        intid: u32,
        icid: u16,
    },
    /// `MOVI`: moves an event, with the pending state, to another collection.
    Movi { device: u32, event: u32, icid: u16 },
    /// `MOVALL`: moves the pending LPIs of one redistributor to another.
    Movall { from: u64, to: u64 },
    /// `INT`: makes an event's interrupt pending.
    Int { device: u32, event: u32 },
    /// `CLEAR`: withdraws an event's pending state.
    Clear { device: u32, event: u32 },
    /// `DISCARD`: unmaps an event and withdraws the pending state.
    Discard { device: u32, event: u32 },
    /// `INV`: reads the configuration of an event's interrupt again.
    Inv { device: u32, event: u32 },
    /// `INVALL`: reads the configuration of a collection's interrupts again.
    Invall { icid: u16 },
    /// `SYNC`: waits for the effects of earlier commands on a redistributor.
    Sync,
}

/// The four doublewords of a command.
#[derive(Clone, Copy)]
pub(crate) struct Packet([u64; 4]);

impl Packet {
    /// Converts the bytes of a command in guest memory.
    pub(crate) fn new(bytes: &[u8; COMMAND_SIZE]) -> Self {
        let mut words = [0; 4];
        let (chunks, _) = bytes.as_chunks();
        for (word, chunk) in words.iter_mut().zip(chunks) {
            *word = u64::from_le_bytes(*chunk);
        }
        Self(words)
    }

    /// Returns the command number.
    pub(crate) fn number(self) -> u8 {
        self.0[0] as u8
    }

    /// Returns the DeviceID field.
    fn device(self) -> u32 {
        (self.0[0] >> 32) as u32
    }

    /// Returns the EventID field.
    fn event(self) -> u32 {
        self.0[1] as u32
    }

    /// Returns the ICID field.
    fn icid(self) -> u16 {
        self.0[2] as u16
    }

    /// Returns the V bit.
    fn valid(self) -> bool {
        self.0[2] >> 63 != 0
    }

    /// Returns the `RDbase` field of `word`, bits 51:16: a processor number, since `GITS_TYPER.PTA`
    /// is 0.
    fn rdbase(word: u64) -> u64 {
        (word >> 16) & ((1 << 36) - 1)
    }

    /// Decodes the command. Cases `error.commands_zero` and `error.virtual_commands`.
    ///
    /// # Errors
    /// [`CommandError::Unknown`] for a command number that GICv3 does not define.
    pub(crate) fn decode(self) -> Result<Command, CommandError> {
        let (device, event, icid) = (self.device(), self.event(), self.icid());
        Ok(match self.number() {
            0x01 => Command::Movi {
                device,
                event,
                icid,
            },
            0x03 => Command::Int { device, event },
            0x04 => Command::Clear { device, event },
            0x05 => Command::Sync,
            0x08 => Command::Mapd {
                device,
                itt: Itt::new(self.0[2], (self.0[1] as u8 & 0x1f).wrapping_add(1)),
                valid: self.valid(),
            },
            0x09 => Command::Mapc {
                icid,
                rdbase: Self::rdbase(self.0[2]),
                valid: self.valid(),
            },
            0x0a => Command::Mapti {
                device,
                event,
                intid: (self.0[1] >> 32) as u32,
                icid,
            },
            0x0b => Command::Mapti {
                device,
                event,
                intid: event,
                icid,
            },
            0x0c => Command::Inv { device, event },
            0x0d => Command::Invall { icid },
            0x0e => Command::Movall {
                from: Self::rdbase(self.0[2]),
                to: Self::rdbase(self.0[3]),
            },
            0x0f => Command::Discard { device, event },
            _ => return Err(CommandError::Unknown),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decode(words: [u64; 4]) -> Result<Command, CommandError> {
        let mut bytes = [0; COMMAND_SIZE];
        for (word, bytes) in words.iter().zip(bytes.chunks_exact_mut(8)) {
            bytes.copy_from_slice(&word.to_le_bytes());
        }
        Packet::new(&bytes).decode()
    }

    #[test]
    fn every_field_of_every_command() {
        let dev = 0xdddd_dddd_0000_0000_u64;
        let (device, event, icid) = (0xdddd_dddd, 0xeeee_eeee, 0xcccc);
        let ids = 0x1111_1111_eeee_eeee;
        // Reserved bits around the fields are set too.
        let coll = 0x7fff_ffff_ffff_cccc;
        let cases = [
            (
                [dev | 0xaa01, ids, coll, !0],
                Command::Movi {
                    device,
                    event,
                    icid,
                },
            ),
            ([dev | 3, ids, !0, !0], Command::Int { device, event }),
            ([dev | 4, ids, !0, !0], Command::Clear { device, event }),
            ([5, !0, !0, !0], Command::Sync),
            (
                [dev | 8, !0xf, 1 << 63 | 0xff, 0],
                Command::Mapd {
                    device,
                    itt: Itt::new(0, 17),
                    valid: true,
                },
            ),
            (
                [dev | 8, 7, !0 >> 1, 0],
                Command::Mapd {
                    device,
                    itt: Itt::new(0x000f_ffff_ffff_ff00, 8),
                    valid: false,
                },
            ),
            (
                [9, !0, 0xfff0_0000_0003_cccc, !0],
                Command::Mapc {
                    icid,
                    rdbase: 3,
                    valid: true,
                },
            ),
            (
                [9, !0, coll, !0],
                Command::Mapc {
                    icid,
                    rdbase: 0xf_ffff_ffff,
                    valid: false,
                },
            ),
            (
                [dev | 0xa, ids, coll, !0],
                Command::Mapti {
                    device,
                    event,
                    intid: 0x1111_1111,
                    icid,
                },
            ),
            (
                [dev | 0xb, ids, coll, !0],
                Command::Mapti {
                    device,
                    event,
                    intid: event,
                    icid,
                },
            ),
            ([dev | 0xc, ids, !0, !0], Command::Inv { device, event }),
            ([0xd, !0, coll, !0], Command::Invall { icid }),
            (
                [0xe, !0, 0x0002_0000, 0x0001_0000],
                Command::Movall { from: 2, to: 1 },
            ),
            ([dev | 0xf, ids, !0, !0], Command::Discard { device, event }),
        ];
        for (words, command) in cases {
            assert_eq!(decode(words), Ok(command), "{words:x?}");
        }
    }

    #[test]
    fn other_numbers_are_unknown() {
        for number in [0, 2, 6, 7, 0x10, 0x20, 0x22, 0x29, 0xff] {
            assert_eq!(
                decode([number, 0, 0, 0]),
                Err(CommandError::Unknown),
                "{number:#x}"
            );
        }
    }
}
