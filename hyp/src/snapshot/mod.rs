//! Snapshots: a VM in a file of the host's.
//!
//! [`state`] has the VM as plain data, apart from behaviour, and [`stream`] the file, which is read
//! and written from its beginning to its end:
//!
//! | record | content |
//! |---|---|
//! | header | eight bytes: a mark, and the [`VERSION`] |
//! | identity | [`state::Identity`]: the machine and the VM that the snapshot is of |
//! | pages | pages of RAM that follow each other; those of zeros are left out |
//! | state | [`state::State`]: vCPUs, console, interrupt controller |
//! | end | a hash of all that comes before |
//!
//! The file is reached by semihosting, the channel of debuggers and emulators to their host (Arm's
//! `semihosting.rst`). A machine without it takes the first call for an undefined instruction.
//!
//! [`vm::snapshot`](crate::vm::snapshot) takes snapshots, and makes VMs of them.

pub(crate) mod state;
pub(crate) mod stream;

/// Version of the file, and of the types in [`state`].
pub(crate) const VERSION: u16 = 1;
