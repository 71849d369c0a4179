//! Files of the emulator's host, by semihosting. QEMU has to allow it to programs
//! (`-semihosting-config userspace=on`).
//!
//! The emulator reads and writes memory behind the kernel's back: every buffer is touched before.

use std::ffi::CString;

use anyhow::{Context, Result, anyhow};
use semihosting::fs::File;
use semihosting::io::{Read, Write};

/// Bytes of one transfer.
const PIECE: usize = 64 << 10;

/// Reads a file. Returns `None` if there is none.
pub(crate) fn read(path: &str) -> Result<Option<Vec<u8>>> {
    let Ok(mut file) = File::open(&CString::new(path)?) else {
        return Ok(None);
    };
    let mut content = Vec::new();
    let mut piece = vec![1; PIECE];
    loop {
        let read = file.read(&mut piece);
        let read = read
            .map_err(|error| anyhow!("{error:?}"))
            .with_context(|| path.to_owned())?;
        if read == 0 {
            return Ok(Some(content));
        }
        content.extend_from_slice(&piece[..read]);
    }
}

/// Writes a file.
pub(crate) fn write(path: &str, content: &[u8]) -> Result<()> {
    let mut file = File::create(&CString::new(path)?)
        .map_err(|error| anyhow!("{error:?}"))
        .with_context(|| path.to_owned())?;
    for piece in content.chunks(PIECE) {
        let written = file.write_all(piece);
        written
            .map_err(|error| anyhow!("{error:?}"))
            .with_context(|| path.to_owned())?;
    }
    Ok(())
}
