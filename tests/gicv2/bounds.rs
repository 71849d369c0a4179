//! Bounded time: the largest work of one access of a GICv2's frames, in the library's own steps,
//! whatever the guest has prepared. The bounds are those of SECURITY.md.

use vgic::mmio::Width;
use vgic::trace::steps;

use crate::common::{GICD, Machine};
use crate::{
    CPENDSGIR, CTLR, DIR, EOIR, GICC, Guest, IAR, ITARGETSR, PMR, SGIR, SPENDSGIR, config,
};

/// Steps of an access of the CPU interface, or of an entry with what it leaves.
const INTERFACE: u64 = 200;
/// Steps of an access that changes what a CPU interface would take, with 988 SPIs of several
/// targets, and of the entry behind it.
const SHARED: u64 = 2_000;
/// Steps of a register with a byte for each interrupt, or of `GICD_SGIR`.
const BYTES: u64 = 100;

/// Returns the result of an operation that has to take at most `most` steps, and notes the largest
/// number.
fn measure<R>(most: u64, worst: &mut u64, operation: impl FnOnce() -> R) -> R {
    let before = steps();
    let result = operation();
    let taken = steps() - before;
    assert!(taken <= most, "{taken} steps, at most {most}");
    *worst = taken.max(*worst);
    result
}

#[test]
fn no_access_takes_long_with_every_interrupt_pending_and_active() {
    let guest = Guest(Machine::from_config(config(8)));
    let machine = &guest.0;
    (0..8).for_each(|n| machine.enter(n));
    let all = u32::MAX;
    for register in 0..32 {
        machine.write(0, GICD + 0xc00 + 8 * register, 0xaaaa_aaaa);
        machine.write(0, GICD + 0xc04 + 8 * register, 0xaaaa_aaaa);
        machine.write(0, GICD + 0x100 + 4 * register, all);
    }
    for intid in (32..1020).step_by(4) {
        let priorities = 0x1808_1000_u32.rotate_left(intid as u32 & 31);
        machine.write(0, GICD + 0x400 + intid, priorities);
        machine.write(0, ITARGETSR + intid, 0x0101_0101);
    }
    let (mut interface, mut bytes) = (0, 0);
    let access = |n: usize, gpa: u64, write: Option<u32>, most: u64, worst: &mut u64| {
        machine.exit(n);
        let value = measure(most, worst, || match write {
            Some(value) => {
                machine.write_as(n, gpa, Width::Word, value.into());
                0
            }
            None => machine.read(n, gpa),
        });
        measure(INTERFACE.max(most), worst, || machine.enter(n));
        value
    };

    for mode in [0, 1 << 9] {
        for n in 0..8 {
            access(n, CTLR, Some(mode | 7), INTERFACE, &mut interface);
            access(n, PMR, Some(0xf8), INTERFACE, &mut interface);
        }
        access(0, GICD, Some(3), 1_000, &mut 0);
        for register in 0..32 {
            let at = GICD + 0x200 + 4 * register;
            access(0, at, Some(all), 400, &mut 0);
            access(1, at + 0x100, Some(0x1111_1111), 400, &mut 0);
        }
        for sgi in 0..16 {
            for n in 0..8 {
                access(n, SGIR, Some(0xff << 16 | sgi), BYTES, &mut bytes);
            }
            let at = u64::from(sgi & !3);
            access(1, SPENDSGIR + at, Some(all), BYTES, &mut bytes);
            access(2, CPENDSGIR + at, Some(all), BYTES, &mut bytes);
        }
        for round in 0..60 {
            let taken = access(0, IAR, None, INTERFACE, &mut interface);
            access(0, GICC + 0x18, None, INTERFACE, &mut interface);
            access(
                1,
                ITARGETSR + 32 + round * 4,
                Some(0x0201_0402),
                BYTES,
                &mut bytes,
            );
            if round % 3 != 0 {
                access(0, EOIR, Some(taken), INTERFACE, &mut interface);
                access(3, DIR, Some(taken), INTERFACE, &mut interface);
            }
            access(
                0,
                CTLR,
                Some(mode | round as u32 & 7),
                INTERFACE,
                &mut interface,
            );
            access(0, CTLR, Some(mode | 7), INTERFACE, &mut interface);
        }
    }

    // Every SPI has several targets, and moves whenever an interface opens or closes.
    for intid in (32..1020).step_by(4) {
        machine.write(0, ITARGETSR + intid, all);
    }
    let mut shared = 0;
    for round in 0..64 {
        let n = round % 8;
        let mask = if round / 8 % 2 == 0 { 0 } else { 0xf8 };
        access(n, PMR, Some(mask), SHARED, &mut shared);
        access(n, IAR, None, SHARED, &mut shared);
        access(n, GICD + 0x420, Some(round as u32), SHARED, &mut shared);
        (0..8).for_each(|n| machine.bounce(n));
    }
    println!("interface {interface} steps, bytes {bytes}, shared {shared}");
    guest.finish();
}
