//! The terminal's view of the console: all of it, but for the hypervisor's reports, which are lines
//! of several hundred numbers for programs to read. The log has them.

/// The beginnings of the lines that are left out.
const HIDDEN: [&[u8]; 2] = [b"@vgic {", b"@vms {"];

/// A filter of the console's bytes.
#[derive(Debug, Default)]
pub(crate) struct Screen {
    /// Bytes of a line that may turn out to be hidden.
    held: Vec<u8>,
    state: State,
}

/// The place in a line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    /// Too early to tell whether the line is hidden.
    #[default]
    Start,
    /// In a line that is shown.
    Shown,
    /// In a line that is hidden.
    Hidden,
}

impl Screen {
    /// Takes bytes of the console, and returns those that are to be shown now. A line is shown as
    /// it comes: a prompt has no end.
    pub(crate) fn pass(&mut self, bytes: &[u8]) -> Vec<u8> {
        let mut shown = Vec::with_capacity(bytes.len());
        for &byte in bytes {
            match self.state {
                State::Shown => shown.push(byte),
                State::Hidden => {}
                State::Start => {
                    self.held.push(byte);
                    let hidden = HIDDEN.iter().any(|start| self.held == *start);
                    if hidden {
                        self.held.clear();
                        self.state = State::Hidden;
                    } else if !HIDDEN.iter().any(|start| start.starts_with(&self.held)) {
                        shown.append(&mut self.held);
                        self.state = State::Shown;
                    }
                }
            }
            if byte == b'\n' {
                shown.append(&mut self.held);
                self.state = State::Start;
            }
        }
        shown
    }

    /// Returns the bytes that were held back, at the end of the console.
    pub(crate) fn rest(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.held)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONSOLE: &[u8] =
        b"hyp: off\r\n\r\n@vgic {\"injections\":{\"sgi\":1}}\r\n@vms {\"a\":1}\n\
        @workload final sgi=1\r\n@vgx\n# ";

    #[test]
    fn reports_are_left_out_and_nothing_else() {
        for size in [1, 2, 7, CONSOLE.len()] {
            let mut screen = Screen::default();
            let chunks = CONSOLE.chunks(size);
            let mut shown: Vec<u8> = chunks.flat_map(|bytes| screen.pass(bytes)).collect();
            shown.extend(screen.rest());
            assert_eq!(
                String::from_utf8(shown).unwrap(),
                "hyp: off\r\n\r\n@workload final sgi=1\r\n@vgx\n# ",
                "in pieces of {size}"
            );
        }
    }

    #[test]
    fn a_prompt_is_shown_at_once() {
        let mut screen = Screen::default();
        assert_eq!(screen.pass(b"# "), b"# ");
        assert_eq!(screen.pass(b"@vg"), b"@vg", "in the middle of a line");
        assert_eq!(screen.pass(b"\n@vg"), b"\n", "this may be a report");
        assert_eq!(screen.rest(), b"@vg");
    }
}
