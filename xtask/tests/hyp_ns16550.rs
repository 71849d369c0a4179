//! The hypervisor's driver of a 16550, on memory in place of registers.

#![expect(unsafe_code)]
// UNSAFETY: gives the driver memory as its registers.

#[path = "../../hyp/src/console/ns16550.rs"]
mod ns16550;

use ns16550::Ns16550;

/// Bytes of the eight registers, four each at most.
const SIZE: usize = 32;

/// Registers, and bits of the line's status.
const DATA: usize = 0;
const INTERRUPT_ENABLE: usize = 1;
const LINE_STATUS: usize = 5;
const HAS_BYTE: u8 = 1;
const HAS_ROOM: u8 = 1 << 5;

/// Registers as SPCR can tell them: the distance of two as a power of two, and bytes of an access.
const LAYOUTS: [(u32, u32); 4] = [(0, 1), (2, 1), (1, 2), (2, 4)];

/// Runs `test` on the driver of registers that `prepare` has filled, by number, and returns the
/// registers.
fn registers(
    (shift, width): (u32, u32),
    prepare: &[(usize, u8)],
    test: impl FnOnce(&mut Ns16550),
) -> impl Fn(usize) -> u8 {
    let mut memory = Box::new([0u32; SIZE / 4]);
    let base = memory.as_mut_ptr().cast::<u8>();
    for &(register, value) in prepare {
        // SAFETY: the memory has room for eight registers.
        unsafe { base.add(register << shift).write(value) };
    }
    // SAFETY: memory is there for as long as the driver.
    test(&mut unsafe { Ns16550::new(base.expose_provenance(), shift, width) });
    move |register| {
        let bytes = memory.iter().flat_map(|word| word.to_le_bytes());
        bytes.clone().nth(register << shift).unwrap()
    }
}

#[test]
fn a_byte_is_sent_once_there_is_room() {
    for layout in LAYOUTS {
        let ready = [(LINE_STATUS, HAS_ROOM)];
        let found = registers(layout, &ready, |uart| uart.write(b'x'));
        assert_eq!(found(DATA), b'x', "{layout:?}");
        assert_eq!(found(LINE_STATUS), HAS_ROOM, "{layout:?}");
    }
}

#[test]
fn a_byte_is_taken_if_there_is_one() {
    for layout in LAYOUTS {
        let come = [(LINE_STATUS, HAS_BYTE), (DATA, b'y')];
        let _ = registers(layout, &come, |uart| assert_eq!(uart.read(), Some(b'y')));
        let none = [(LINE_STATUS, HAS_ROOM), (DATA, b'y')];
        let _ = registers(layout, &none, |uart| assert_eq!(uart.read(), None));
    }
}

#[test]
fn listening_enables_the_interrupt_of_a_byte_that_comes() {
    for layout in LAYOUTS {
        let found = registers(layout, &[], Ns16550::listen);
        assert_eq!(found(INTERRUPT_ENABLE), 1, "{layout:?}");
    }
}
