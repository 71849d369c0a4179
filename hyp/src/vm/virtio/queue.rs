//! A split virtqueue, as its device sees it (Virtual I/O Device version 1.2, 2.7).

use core::sync::atomic::{Ordering, fence};

use rand_chacha::rand_core::RngCore;

use crate::snapshot::state::VirtioQueue;
use crate::vm::memory::GuestMemory;

/// Most places of the queue.
pub(crate) const PLACES: u16 = 8;

/// Most bytes of entropy that a request is given, whatever it asks for.
const MOST: usize = 256;

/// Bytes of a descriptor, and of a place in the used ring.
const DESCRIPTOR: u64 = 16;
const USED: u64 = 8;

/// Offset of a ring's places, behind its flags and index.
const RING: u64 = 4;

/// Flags of a descriptor.
const NEXT: u16 = 1 << 0;
const WRITE: u16 = 1 << 1;
const INDIRECT: u16 = 1 << 2;

/// Flag of the available ring: the driver wants no interrupt.
const NO_INTERRUPT: u16 = 1 << 0;

/// The driver has broken the rules.
#[derive(Debug)]
pub(crate) struct Broken;

/// Fills the requests that are available with entropy. Returns true if the driver wants to be
/// interrupted for it.
///
/// # Errors
/// The rings are not where they are said to be, or not well-formed.
pub(crate) fn serve(
    queue: &mut VirtioQueue,
    memory: &GuestMemory,
    random: &mut impl RngCore,
) -> Result<bool, Broken> {
    let mut served = false;
    // The driver may add requests all the time, and notifies of each.
    for _ in 0..PLACES {
        let available = read_16(memory, at(queue.driver, 2)?)?;
        if available == queue.next {
            break;
        }
        // Acquire: pairs with the driver's barrier between the ring's place and its index.
        fence(Ordering::Acquire);
        let place = u64::from(queue.next % queue.size);
        let head = read_16(memory, at(queue.driver, RING + 2 * place)?)?;
        let bytes = fill(queue, memory, head, random)?;

        let used = at(queue.device, RING + USED * place)?;
        write(memory, used, &u32::from(head).to_le_bytes())?;
        write(memory, at(used, 4)?, &bytes.to_le_bytes())?;
        queue.next = queue.next.wrapping_add(1);
        // Release: pairs with the driver's barrier between the index and the ring's place.
        fence(Ordering::Release);
        write(memory, at(queue.device, 2)?, &queue.next.to_le_bytes())?;
        served = true;
    }

    // SeqCst: the driver enables interrupts and then looks at the index.
    fence(Ordering::SeqCst);
    Ok(served && read_16(memory, queue.driver)? & NO_INTERRUPT == 0)
}

/// Fills the buffers of a chain of descriptors. Returns the number of bytes.
fn fill(
    queue: &VirtioQueue,
    memory: &GuestMemory,
    head: u16,
    random: &mut impl RngCore,
) -> Result<u32, Broken> {
    let (mut index, mut filled) = (head, 0);
    // A chain has as many descriptors as the queue has places, at most.
    for _ in 0..queue.size {
        if index >= queue.size {
            return Err(Broken);
        }
        let mut descriptor = [0; DESCRIPTOR as usize];
        let place = at(queue.descriptors, DESCRIPTOR * u64::from(index))?;
        memory.read(place, &mut descriptor).ok_or(Broken)?;
        let all = u128::from_le_bytes(descriptor);
        let (address, length) = (all as u64, (all >> 64) as u32);
        let (flags, next) = ((all >> 96) as u16, (all >> 112) as u16);
        if flags & INDIRECT != 0 {
            return Err(Broken);
        }

        if flags & WRITE != 0 {
            let mut bytes = [0; MOST];
            let length = (length as usize).min(MOST - filled);
            let bytes = bytes.get_mut(..length).ok_or(Broken)?;
            random.fill_bytes(bytes);
            write(memory, address, bytes)?;
            filled += length;
        }
        if flags & NEXT == 0 {
            return Ok(filled as u32);
        }
        index = next;
    }
    Err(Broken)
}

/// Returns the address `offset` bytes behind another.
fn at(address: u64, offset: u64) -> Result<u64, Broken> {
    address.checked_add(offset).ok_or(Broken)
}

fn read_16(memory: &GuestMemory, address: u64) -> Result<u16, Broken> {
    let mut bytes = [0; 2];
    memory.read(address, &mut bytes).ok_or(Broken)?;
    Ok(u16::from_le_bytes(bytes))
}

fn write(memory: &GuestMemory, address: u64, bytes: &[u8]) -> Result<(), Broken> {
    memory.write(address, bytes).ok_or(Broken)
}
