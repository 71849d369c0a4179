//! The console. The standard output of a first process may lead nowhere.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::sync::OnceLock;

/// Prints a line.
pub(crate) fn say(line: &str) {
    write(format!("{line}\n").as_bytes());
}

/// Prints bytes. Failures are ignored, because there is no other output.
pub(crate) fn write(bytes: &[u8]) {
    static CONSOLE: OnceLock<Option<File>> = OnceLock::new();
    let open = || OpenOptions::new().write(true).open("/dev/console").ok();
    if let Some(mut console) = CONSOLE.get_or_init(open).as_ref() {
        let _ = console.write_all(bytes);
    }
}
