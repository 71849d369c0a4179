//! The other end of the guest's network: a service on the loopback interface, which QEMU's user
//! networking shows to the guest at 10.0.2.2.
//!
//! It speaks as much HTTP as the guest's wget: a GET is answered by the whole payload, a POST by
//! the MD5 of what was posted, in hexadecimal.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};

/// The longest body of a POST; the guest sends no more than the payload back.
const LONGEST_POST: u64 = 64 << 20;

/// The longest request line and headers.
const LONGEST_HEADER: u64 = 16 << 10;

/// The time after which a connection that stands still is given up.
const PATIENCE: Duration = Duration::from_secs(120);

/// Starts the service and returns its TCP port. It ends with the process.
pub(crate) fn serve(payload: Vec<u8>) -> Result<u16> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
        .context("cannot listen on the loopback interface")?;
    let port = listener.local_addr()?.port();
    let payload: Arc<[u8]> = payload.into();
    thread::spawn(move || {
        for connection in listener.incoming().flatten() {
            let payload = Arc::clone(&payload);
            // A guest that hangs up in the middle (its load is killed) is no error.
            thread::spawn(move || answer(&connection, &payload));
        }
    });
    Ok(port)
}

/// Reads a request and answers it.
fn answer(connection: &TcpStream, payload: &[u8]) -> io::Result<()> {
    connection.set_read_timeout(Some(PATIENCE))?;
    connection.set_write_timeout(Some(PATIENCE))?;
    let mut reader = BufReader::new(connection);
    let mut method = String::new();
    let mut length = 0;
    for line in reader.by_ref().take(LONGEST_HEADER).lines() {
        let line = line?;
        if line.is_empty() {
            break;
        }
        match line.split_once(": ") {
            Some((name, value)) if name.eq_ignore_ascii_case("content-length") => {
                length = value.parse().unwrap_or(0);
            }
            Some(_) => {}
            None => method = line,
        }
    }
    if method.starts_with("POST ") {
        let mut posted = Vec::new();
        reader
            .take(length)
            .take(LONGEST_POST)
            .read_to_end(&mut posted)?;
        respond(connection, md5_hex(&posted).as_bytes())
    } else {
        respond(connection, payload)
    }
}

/// Sends a response with a body.
fn respond(mut connection: &TcpStream, body: &[u8]) -> io::Result<()> {
    let length = body.len();
    write!(
        connection,
        "HTTP/1.1 200 OK\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n"
    )?;
    connection.write_all(body)?;
    connection.shutdown(Shutdown::Write)
}

/// Makes `size` bytes that compress badly and repeat nowhere; equal seeds make equal bytes.
pub(crate) fn pattern(size: usize, seed: u64) -> Vec<u8> {
    let mut state = seed;
    let words = (0..size.div_ceil(8)).flat_map(|_| {
        // SplitMix64.
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)).to_le_bytes()
    });
    words.take(size).collect()
}

/// Makes such a pattern of printable characters without line ends, for programs that cannot handle
/// every byte.
pub(crate) fn text_pattern(size: usize, seed: u64) -> Vec<u8> {
    let mut pattern = pattern(size, seed);
    pattern
        .iter_mut()
        .for_each(|byte| *byte = b'0' + (*byte & 0x3f));
    pattern
}

/// Returns the MD5 of some bytes as md5sum prints it.
pub(crate) fn md5_hex(bytes: &[u8]) -> String {
    format!("{:x}", md5::compute(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(port: u16, request: &[u8]) -> Vec<u8> {
        let mut connection = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap();
        connection.write_all(request).unwrap();
        let mut answer = Vec::new();
        connection.read_to_end(&mut answer).unwrap();
        let body = answer
            .windows(4)
            .position(|four| four == b"\r\n\r\n")
            .unwrap()
            + 4;
        answer.split_off(body)
    }

    #[test]
    fn the_payload_is_sent_and_its_return_summed() {
        let payload = pattern(100_000, 1);
        let port = serve(payload.clone()).unwrap();
        assert_eq!(
            ask(port, b"GET /payload HTTP/1.1\r\nHost: x\r\n\r\n"),
            payload
        );

        let mut post = b"POST /sum HTTP/1.1\r\nContent-Length: 100000\r\n\r\n".to_vec();
        post.extend(&payload);
        assert_eq!(ask(port, &post), md5_hex(&payload).as_bytes());
        *post.last_mut().unwrap() ^= 1;
        assert_ne!(ask(port, &post), md5_hex(&payload).as_bytes());
    }

    #[test]
    fn sums_look_like_md5sums() {
        assert_eq!(md5_hex(b""), "d41d8cd98f00b204e9800998ecf8427e");
    }

    #[test]
    fn patterns_are_reproducible_and_differ_by_seed() {
        assert_eq!(pattern(33, 5), pattern(33, 5));
        assert_eq!(pattern(33, 5).len(), 33);
        assert_ne!(pattern(33, 5), pattern(33, 6));
        assert!(text_pattern(999, 5).iter().all(u8::is_ascii_graphic));
    }
}
