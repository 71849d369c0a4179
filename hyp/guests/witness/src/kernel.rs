//! The kernel's messages: a warning or worse is a fault.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::thread;

use crate::fault;

/// Bytes of the longest record.
const RECORD: usize = 8192;

/// Level of warnings; lower levels are worse.
const WARNING: u32 = 4;

/// The warning, once, of an interrupt that took long: an emulated CPU waits for the host's.
const SLOW: &str = "hrtimer: interrupt took";

/// Starts the thread that reads the messages from now on.
pub(crate) fn watch() {
    let opened = File::open("/dev/kmsg").and_then(|mut log| {
        log.seek(SeekFrom::End(0))?;
        Ok(log)
    });
    let mut log = match opened {
        Ok(log) => log,
        Err(error) => return fault(format_args!("no kernel messages: {error}")),
    };
    thread::spawn(move || {
        let mut record = [0; RECORD];
        // A read returns one record: `level,number,time,flags;text`.
        while let Ok(length) = log.read(&mut record) {
            let record = String::from_utf8_lossy(&record[..length]);
            let (head, text) = record.split_once(';').unwrap_or(("0", &record));
            let level = head.split(',').next().and_then(|it| it.parse::<u32>().ok());
            let is_bad = level.is_none_or(|level| level & 7 <= WARNING);
            if is_bad && !text.starts_with(SLOW) {
                fault(format_args!("the kernel says: {}", text.trim()));
            }
        }
        fault("the kernel's messages have come to an end");
    });
}
