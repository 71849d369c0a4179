//! Limit on messages that a guest can cause at will.

/// Messages that are printed in a window of time.
const BURST: u32 = 10;

/// Counts messages, and admits the first few of each window.
#[derive(Debug, Default)]
pub(crate) struct MessageLimit {
    /// Beginning of the window.
    since: u64,
    /// Messages admitted in the window.
    admitted: u32,
    /// Messages left out since the last one that was admitted.
    left_out: u64,
}

impl MessageLimit {
    /// Makes a limit that has seen no message.
    pub(crate) const fn new() -> Self {
        Self {
            since: 0,
            admitted: 0,
            left_out: 0,
        }
    }

    /// Counts a message at time `now`, with windows of `window`. If it may be printed, returns the
    /// number of messages left out before it.
    pub(crate) fn admit(&mut self, now: u64, window: u64) -> Option<u64> {
        if now.saturating_sub(self.since) >= window {
            self.since = now;
            self.admitted = 0;
        }
        if self.admitted == BURST {
            self.left_out += 1;
            return None;
        }
        self.admitted += 1;
        Some(self.take_left_out())
    }

    /// Takes the number of messages left out since the last one that was admitted.
    pub(crate) fn take_left_out(&mut self) -> u64 {
        core::mem::take(&mut self.left_out)
    }
}
