//! `hyp`'s entropy device against its guest: registers and rings are claims.

/// The state of the device, as `hyp/src/snapshot/state.rs` has it.
mod snapshot {
    pub(crate) mod state {
        #[derive(Clone)]
        pub(crate) struct Virtio {
            pub(crate) command: u16,
            pub(crate) bar: u32,
            pub(crate) msix_control: u16,
            pub(crate) vectors: [[u32; 4]; 2],
            pub(crate) pending: u32,
            pub(crate) feature_select: u32,
            pub(crate) driver_feature_select: u32,
            pub(crate) driver_features: [u32; 2],
            pub(crate) status: u8,
            pub(crate) config_vector: u16,
            pub(crate) queue_select: u16,
            pub(crate) queue_vector: u16,
            pub(crate) is_enabled: bool,
            pub(crate) queue: VirtioQueue,
        }

        #[derive(Clone, Default)]
        pub(crate) struct VirtioQueue {
            pub(crate) size: u16,
            pub(crate) descriptors: u64,
            pub(crate) driver: u64,
            pub(crate) device: u64,
            pub(crate) next: u16,
        }
    }
}

/// Guest memory at address 0.
mod vm {
    pub(crate) mod memory {
        use std::cell::RefCell;

        pub(crate) struct GuestMemory(pub(crate) RefCell<Vec<u8>>);

        impl GuestMemory {
            pub(crate) fn read(&self, gpa: u64, buffer: &mut [u8]) -> Option<()> {
                let memory = self.0.borrow();
                let start = usize::try_from(gpa).ok()?;
                let bytes = memory.get(start..start.checked_add(buffer.len())?)?;
                buffer.copy_from_slice(bytes);
                Some(())
            }

            pub(crate) fn write(&self, gpa: u64, bytes: &[u8]) -> Option<()> {
                let mut memory = self.0.borrow_mut();
                let start = usize::try_from(gpa).ok()?;
                let place = memory.get_mut(start..start.checked_add(bytes.len())?)?;
                place.copy_from_slice(bytes);
                Some(())
            }
        }
    }
}

mod pci {
    pub(crate) struct Window {
        pub(crate) bus: u64,
    }
}

#[path = "."]
mod virtio {
    pub(crate) const WINDOW: crate::pci::Window = crate::pci::Window { bus: 0x1000_0000 };

    #[path = "../../hyp/src/vm/virtio/function.rs"]
    pub(crate) mod function;
    #[path = "../../hyp/src/vm/virtio/queue.rs"]
    pub(crate) mod queue;
}

use std::cell::RefCell;

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};
use snapshot::state::VirtioQueue;
use virtio::function::Function;
use virtio::queue::{Broken, serve};
use vm::memory::GuestMemory;

const DESCRIPTORS: u64 = 0x1000;
const DRIVER: u64 = 0x2000;
const DEVICE: u64 = 0x3000;
const BUFFER: u64 = 0x4000;

const NEXT: u16 = 1;
const WRITE: u16 = 2;

fn queue() -> VirtioQueue {
    VirtioQueue {
        size: 8,
        descriptors: DESCRIPTORS,
        driver: DRIVER,
        device: DEVICE,
        next: 0,
    }
}

fn memory() -> GuestMemory {
    GuestMemory(RefCell::new(vec![0; 0x8000]))
}

/// Writes a descriptor.
fn describe(memory: &GuestMemory, index: u64, address: u64, length: u32, flags: u16, next: u16) {
    let mut bytes = address.to_le_bytes().to_vec();
    bytes.extend(length.to_le_bytes());
    bytes.extend(flags.to_le_bytes());
    bytes.extend(next.to_le_bytes());
    memory.write(DESCRIPTORS + 16 * index, &bytes).unwrap();
}

/// Makes chains available that begin with these descriptors.
fn offer(memory: &GuestMemory, heads: &[u16]) {
    for (place, head) in (0..).zip(heads) {
        let place = DRIVER + 4 + 2 * place;
        memory.write(place, &head.to_le_bytes()).unwrap();
    }
    let index = heads.len() as u16;
    memory.write(DRIVER + 2, &index.to_le_bytes()).unwrap();
}

fn read<const N: usize>(memory: &GuestMemory, address: u64) -> [u8; N] {
    let mut bytes = [0; N];
    memory.read(address, &mut bytes).unwrap();
    bytes
}

fn random() -> ChaCha8Rng {
    ChaCha8Rng::seed_from_u64(7)
}

#[test]
fn a_request_is_filled_and_returned() {
    let memory = memory();
    describe(&memory, 3, BUFFER, 32, WRITE | NEXT, 5);
    describe(&memory, 5, BUFFER + 0x100, 16, WRITE, 0);
    offer(&memory, &[3]);
    let mut queue = queue();
    assert!(serve(&mut queue, &memory, &mut random()).unwrap());

    assert_eq!(queue.next, 1);
    assert_eq!(read::<2>(&memory, DEVICE + 2), [1, 0]);
    assert_eq!(read::<8>(&memory, DEVICE + 4), [3, 0, 0, 0, 48, 0, 0, 0]);
    assert_ne!(read::<32>(&memory, BUFFER), [0; 32]);
    assert_ne!(read::<16>(&memory, BUFFER + 0x100), [0; 16]);
    assert_eq!(read::<16>(&memory, BUFFER + 0x110), [0; 16]);
    assert!(!serve(&mut queue, &memory, &mut random()).unwrap(), "once");
}

#[test]
fn a_driver_that_polls_is_not_interrupted() {
    let memory = memory();
    describe(&memory, 0, BUFFER, 32, WRITE, 0);
    offer(&memory, &[0]);
    memory.write(DRIVER, &1_u16.to_le_bytes()).unwrap();
    let mut queue = queue();
    assert!(!serve(&mut queue, &memory, &mut random()).unwrap());
    assert_eq!(queue.next, 1);
}

#[test]
fn a_request_gets_no_more_than_the_most() {
    let memory = memory();
    describe(&memory, 0, BUFFER, u32::MAX, WRITE, 0);
    offer(&memory, &[0]);
    assert!(serve(&mut queue(), &memory, &mut random()).unwrap());
    assert_eq!(read::<4>(&memory, DEVICE + 8), 256_u32.to_le_bytes());
}

#[test]
fn a_chain_that_breaks_the_rules_breaks_the_device() {
    // In a circle, beyond the table, of a table of its own, into nowhere, past the last address.
    for (address, flags, next) in [
        (BUFFER, WRITE | NEXT, 0),
        (BUFFER, WRITE | NEXT, 8),
        (BUFFER, 4, 0),
        (0x8000, WRITE, 0),
        (u64::MAX, WRITE, 0),
    ] {
        let memory = memory();
        describe(&memory, 0, address, 32, flags, next);
        offer(&memory, &[0]);
        let served = serve(&mut queue(), &memory, &mut random());
        assert!(matches!(served, Err(Broken)), "{address:#x} {flags} {next}");
    }
    for head in [8, u16::MAX] {
        let memory = memory();
        offer(&memory, &[head]);
        assert!(serve(&mut queue(), &memory, &mut random()).is_err());
    }
}

#[test]
fn rings_that_are_nowhere_break_the_device() {
    for place in [0x7fff, 0x8000, u64::MAX - 1, u64::MAX] {
        let memory = memory();
        describe(&memory, 0, BUFFER, 32, WRITE, 0);
        offer(&memory, &[0]);
        for change in [
            |queue: &mut VirtioQueue, place| queue.descriptors = place,
            |queue: &mut VirtioQueue, place| queue.driver = place,
            |queue: &mut VirtioQueue, place| queue.device = place,
        ] {
            let mut queue = queue();
            change(&mut queue, place);
            assert!(
                serve(&mut queue, &memory, &mut random()).is_err(),
                "{place:#x}"
            );
        }
    }
}

#[test]
fn no_access_and_no_memory_stop_the_hypervisor() {
    let mut random = random();
    for _ in 0..200 {
        let memory = memory();
        random.fill_bytes(&mut memory.0.borrow_mut());
        let mut function = Function::new();
        for _ in 0..200 {
            let bytes = 1 << (random.next_u32() % 4);
            // Mostly registers that exist, and addresses with memory.
            let value = match random.next_u32() % 3 {
                0 => random.next_u64(),
                1 => u64::from(random.next_u32() % 0x8000),
                _ => u64::from(random.next_u32() % 16),
            };
            let offset = u64::from(random.next_u32() % 0x4000);
            let offset = if random.next_u32().is_multiple_of(2) {
                offset % 0x40
            } else {
                offset
            };
            match random.next_u32() % 4 {
                0 => function.write_config(offset % 0x1000, bytes, value),
                1 => {
                    let _ = function.read_config(offset % 0x1000);
                }
                2 => function.write_bar(offset, bytes, value, &memory, &mut random.clone()),
                _ => {
                    let _ = function.read_bar(offset);
                }
            }
            while let Some(message) = function.take_message() {
                let _ = (message.address, message.data);
            }
            let state = function.state();
            assert!(Function::of(&state).is_some(), "it can be restored");
            let _ = function.bar_offset(value);
        }
    }
}
