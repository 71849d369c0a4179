//! A guest's general registers while the hypervisor runs.

/// `x0` to `x30`, as the vectors save them.
///
/// The guest with the whole machine keeps its other registers in the CPU: its vCPUs never leave
/// their CPUs.
#[repr(C, align(16))]
#[derive(Clone, Debug)]
pub(crate) struct Frame {
    /// Registers by number.
    pub(crate) x: [u64; 31],
    _pad: u64,
}

impl Frame {
    /// Bytes on the stack.
    pub(crate) const SIZE: usize = size_of::<Self>();

    /// Returns a frame of zeros.
    pub(crate) const fn new() -> Self {
        Self {
            x: [0; 31],
            _pad: 0,
        }
    }
}
