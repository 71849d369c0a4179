//! The console's input: `ping WORD` is answered, `stop` ends the program.

use std::io;
use std::thread;

use crate::counts::Counts;
use crate::fault;

/// Starts the thread that reads.
pub(crate) fn start(counts: &Counts) {
    let counts = counts.clone();
    thread::spawn(move || {
        for line in io::stdin().lines() {
            match line.as_deref().map(str::trim) {
                Ok("stop") => counts.end(),
                Ok(text) => match text.strip_prefix("ping ") {
                    Some(word) => println!("@witness pong={word}"),
                    None => fault(format_args!("not understood: {text}")),
                },
                Err(error) => fault(format_args!("the console: {error}")),
            }
        }
    });
}
