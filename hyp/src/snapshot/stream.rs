//! The file of a snapshot, written and read from its beginning to its end.

use alloc::boxed::Box;
use alloc::ffi::CString;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::hash::Hasher;

use semihosting::fs::File;
use semihosting::io::{self, Read, Write};
use serde::{Deserialize, Serialize};
use twox_hash::XxHash64;

use super::VERSION;
use super::state::{Identity, State};
use crate::cpu::clock::{now, ticks};
use crate::cpu::hyp_timer;

/// First bytes of the file. The version follows.
const MARK: [u8; 6] = *b"hyp-vm";

/// Bytes of the largest identity or state.
const MOST: usize = 1 << 28;

/// Kinds of records.
mod kind {
    pub(super) const IDENTITY: u32 = 1;
    pub(super) const PAGES: u32 = 2;
    pub(super) const STATE: u32 = 3;
    pub(super) const END: u32 = 4;
}

/// Head of a record: its kind, and two numbers that depend on the kind.
struct Head {
    kind: u32,
    /// Number of pages, or of bytes that follow.
    count: u32,
    /// First page, or the hash at the end.
    number: u64,
}

impl Head {
    const SIZE: usize = 16;

    fn to_bytes(&self) -> [u8; Self::SIZE] {
        let mut bytes = [0; Self::SIZE];
        bytes[..4].copy_from_slice(&self.kind.to_le_bytes());
        bytes[4..8].copy_from_slice(&self.count.to_le_bytes());
        bytes[8..].copy_from_slice(&self.number.to_le_bytes());
        bytes
    }

    fn read(bytes: [u8; Self::SIZE]) -> Self {
        let all = u128::from_le_bytes(bytes);
        Self {
            kind: all as u32,
            count: (all >> 32) as u32,
            number: (all >> 64) as u64,
        }
    }
}

/// A record that has been read. Pages are still to be taken ([`Reader::take`]).
pub(crate) enum Record {
    Identity(Identity),
    Pages {
        /// Number of the first page of RAM.
        first: u64,
        count: u32,
    },
    State(Box<State>),
    /// The end of a file that is as it was written.
    End,
}

/// File that is being written.
pub(crate) struct Writer {
    file: File,
    hash: XxHash64,
    /// Bytes so far.
    pub(crate) bytes: u64,
}

impl Writer {
    /// Creates the file, or empties it.
    ///
    /// # Errors
    /// Why the host refuses.
    pub(crate) fn create(path: &CString) -> Result<Self, String> {
        let mut writer = Self {
            file: File::create(path).map_err(of_host)?,
            hash: XxHash64::with_seed(0),
            bytes: 0,
        };
        writer.put(&MARK)?;
        writer.put(&VERSION.to_le_bytes())?;
        Ok(writer)
    }

    /// Writes the identity.
    ///
    /// # Errors
    /// Why the host refuses.
    pub(crate) fn identity(&mut self, identity: &Identity) -> Result<(), String> {
        self.blob(kind::IDENTITY, identity)
    }

    /// Writes the state.
    ///
    /// # Errors
    /// Why the host refuses.
    pub(crate) fn state(&mut self, state: &State) -> Result<(), String> {
        self.blob(kind::STATE, state)
    }

    /// Writes `count` pages from page number `first` on, which are in `bytes`.
    ///
    /// # Errors
    /// Why the host refuses.
    pub(crate) fn pages(&mut self, first: u64, count: u32, bytes: &[u8]) -> Result<(), String> {
        self.head(kind::PAGES, count, first)?;
        self.put(bytes)
    }

    /// Ends the file, and returns its length in bytes.
    ///
    /// # Errors
    /// Why the host refuses.
    pub(crate) fn finish(mut self) -> Result<u64, String> {
        let hash = self.hash.finish();
        self.head(kind::END, 0, hash)?;
        Ok(self.bytes)
    }

    fn blob(&mut self, kind: u32, value: &impl Serialize) -> Result<(), String> {
        let bytes = postcard::to_allocvec(value).expect("plain data has a binary form");
        self.head(kind, bytes.len() as u32, 0)?;
        self.put(&bytes)
    }

    fn head(&mut self, kind: u32, count: u32, number: u64) -> Result<(), String> {
        let head = Head {
            kind,
            count,
            number,
        };
        self.put(&head.to_bytes())
    }

    fn put(&mut self, bytes: &[u8]) -> Result<(), String> {
        self.file.write_all(bytes).map_err(of_host)?;
        self.hash.write(bytes);
        self.bytes += bytes.len() as u64;
        Ok(())
    }
}

/// File that is being read. Nothing in it is believed before the end has been reached.
pub(crate) struct Reader {
    file: File,
    hash: XxHash64,
    /// True if the file is being written: its end is waited for.
    grows: bool,
}

impl Reader {
    /// Opens the file. Returns `None` if there is none.
    pub(crate) fn open(path: &CString) -> Option<Self> {
        let file = File::open(path).ok()?;
        Some(Self {
            file,
            hash: XxHash64::with_seed(0),
            grows: false,
        })
    }

    /// Waits for the file, and opens it.
    pub(crate) fn wait(path: &CString) -> Self {
        loop {
            if let Some(mut reader) = Self::open(path) {
                reader.grows = true;
                return reader;
            }
            nap();
        }
    }

    /// Reads the header.
    ///
    /// # Errors
    /// Why the file is refused.
    pub(crate) fn header(&mut self) -> Result<(), String> {
        let (mut mark, mut version) = (MARK, [0; 2]);
        self.take(&mut mark)?;
        self.take(&mut version)?;
        let version = u16::from_le_bytes(version);
        if mark != MARK {
            return Err("it is no snapshot".into());
        }
        if version != VERSION {
            return Err(format!(
                "it is of version {version}, and version {VERSION} is wanted"
            ));
        }
        Ok(())
    }

    /// Reads the next record.
    ///
    /// # Errors
    /// Why the file is refused.
    pub(crate) fn next(&mut self) -> Result<Record, String> {
        let so_far = self.hash.finish();
        let mut head = [0; Head::SIZE];
        self.take(&mut head)?;
        let Head {
            kind,
            count,
            number,
        } = Head::read(head);
        match kind {
            kind::IDENTITY => self.blob(count).map(Record::Identity),
            kind::PAGES => Ok(Record::Pages {
                first: number,
                count,
            }),
            kind::STATE => self.blob(count).map(Box::new).map(Record::State),
            kind::END if number == so_far => Ok(Record::End),
            _ => Err(damaged()),
        }
    }

    /// Reads as many bytes as `buffer` has.
    ///
    /// # Errors
    /// Why the file is refused.
    pub(crate) fn take(&mut self, buffer: &mut [u8]) -> Result<(), String> {
        let mut rest = &mut *buffer;
        while !rest.is_empty() {
            let read = self.file.read(rest).map_err(of_host)?;
            match read {
                0 if self.grows => nap(),
                0 => return Err(damaged()),
                _ => {}
            }
            rest = rest.get_mut(read..).unwrap_or_default();
        }
        self.hash.write(buffer);
        Ok(())
    }

    fn blob<T: for<'de> Deserialize<'de>>(&mut self, length: u32) -> Result<T, String> {
        let length = length as usize;
        let mut bytes = Vec::new();
        if length > MOST || bytes.try_reserve_exact(length).is_err() {
            return Err(damaged());
        }
        bytes.resize(length, 0);
        self.take(&mut bytes)?;
        postcard::from_bytes(&bytes).map_err(|_| damaged())
    }
}

/// Leaves the host's time to the machine that writes the file.
fn nap() {
    const MICROSECONDS: u64 = 500;
    hyp_timer::sleep_until(now() + ticks(MICROSECONDS));
}

/// Returns the reason to refuse a file that is not as it was written.
pub(crate) fn damaged() -> String {
    "it is damaged".into()
}

fn of_host(error: io::Error) -> String {
    format!("the host says {error:?}")
}
