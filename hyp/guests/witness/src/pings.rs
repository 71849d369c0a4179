//! Ping-pong between two CPUs: each pass wakes a thread that sleeps on the other one.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::thread;
use std::time::Duration;

use crate::counts::{Counts, stay_on};
use crate::fault;

/// Rest after a ball has come back: others want the CPU, too.
const REST: Duration = Duration::from_micros(500);

/// Starts the game of a CPU with another one.
pub(crate) fn start(counts: &Counts, cpu: usize, other: usize) {
    let (here, there) = match UnixStream::pair() {
        Ok(pair) => pair,
        Err(error) => return fault(format_args!("no sockets: {error}")),
    };
    thread::spawn(move || {
        stay_on(other);
        end(return_balls(there), other);
    });
    let counts = counts.clone();
    thread::spawn(move || {
        stay_on(cpu);
        end(serve(here, &counts, cpu), cpu);
    });
}

/// Reports the end of a side, which has none.
fn end(result: io::Result<()>, cpu: usize) {
    if let Err(error) = result {
        fault(format_args!("CPU {cpu} plays no more: {error}"));
    }
}

/// Serves balls, each with the next number, and takes them back.
fn serve(mut socket: UnixStream, counts: &Counts, cpu: usize) -> io::Result<()> {
    let mut ball = [0; 8];
    for number in 1_u64.. {
        socket.write_all(&number.to_le_bytes())?;
        socket.read_exact(&mut ball)?;
        let back = u64::from_le_bytes(ball);
        if back != !number {
            fault(format_args!(
                "ball {number} came back to CPU {cpu} as {back:#x}"
            ));
        }
        counts.ping(cpu);
        thread::sleep(REST);
    }
    Ok(())
}

/// Returns balls, with all bits turned over.
fn return_balls(mut socket: UnixStream) -> io::Result<()> {
    let mut ball = [0; 8];
    loop {
        socket.read_exact(&mut ball)?;
        let number = u64::from_le_bytes(ball);
        socket.write_all(&(!number).to_le_bytes())?;
    }
}
