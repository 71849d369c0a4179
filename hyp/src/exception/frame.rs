//! A guest's general registers while the hypervisor runs.

/// `x0` to `x30`, as the vectors save them. The other registers stay in the CPU until it gives the
/// vCPU up ([`Context`](crate::vcpu::context::Context)).
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
