//! Messages about a guest's mistakes. A guest may make the same mistake for ever: most are counted
//! only.

use core::fmt;

use spin::Mutex;

use super::message_limit::MessageLimit;
use crate::cpu::clock;
use crate::println;

/// Seconds of a window of [`MessageLimit`].
const WINDOW: u64 = 10;

static LIMIT: Mutex<MessageLimit> = Mutex::new(MessageLimit::new());

/// Prints a message about a guest's mistake, or counts it.
#[cold]
pub(super) fn print(message: fmt::Arguments<'_>) {
    let admitted = LIMIT
        .lock()
        .admit(clock::now(), WINDOW * clock::frequency());
    if let Some(left_out) = admitted {
        print_left_out(left_out);
        println!("{message}");
    }
}

/// Prints the number of messages left out since the last one.
pub(crate) fn finish() {
    let left_out = LIMIT.lock().take_left_out();
    print_left_out(left_out);
}

fn print_left_out(count: u64) {
    if count != 0 {
        println!("hyp: {count} messages about the guest left out");
    }
}
