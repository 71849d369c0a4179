//! The entropy device: each read of it is a request that ends with an MSI.

use std::fs::File;
use std::io::Read;
use std::thread;

use crate::counts::Counts;
use crate::fault;

/// Bytes of one read.
const BYTES: usize = 64;

/// Starts the thread that reads, if there is a device.
pub(crate) fn start(counts: &Counts) -> bool {
    let has_driver = std::fs::read_to_string("/sys/class/misc/hw_random/rng_current");
    if has_driver.is_ok_and(|name| name.trim() == "none") {
        return false;
    }
    let Ok(mut device) = File::open("/dev/hwrng") else {
        return false;
    };
    let counts = counts.clone();
    thread::spawn(move || {
        let mut before = [0; BYTES];
        loop {
            let mut bytes = [0; BYTES];
            if let Err(error) = device.read_exact(&mut bytes) {
                return fault(format_args!("the entropy device: {error}"));
            }
            if bytes == before {
                fault("the entropy device repeats itself");
            }
            before = bytes;
            counts.add_random(BYTES as u64);
        }
    });
    true
}
