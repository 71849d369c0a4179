//! A guest's general registers while the hypervisor runs.

/// `x0` to `x30`, as the vectors save them.
///
/// The guest's other registers stay in the CPU: a vCPU never leaves it.
#[repr(C, align(16))]
#[derive(Clone, Debug)]
pub(crate) struct Frame {
    /// The registers by number.
    pub(crate) x: [u64; 31],
    _pad: u64,
}

impl Frame {
    /// Size on the stack.
    pub(crate) const SIZE: usize = size_of::<Self>();

    /// All registers zero.
    pub(crate) const fn new() -> Self {
        Self {
            x: [0; 31],
            _pad: 0,
        }
    }
}
