//! Tests of the hypervisor's side: register fields, status, maintenance conditions, forbidden
//! programming.

extern crate std;

use std::panic::{AssertUnwindSafe, catch_unwind};

use super::*;
use crate::cpu_interface::{misr, software::Accesses, vmcr};

/// Runs `action`, and returns the message of its panic, or `None`.
fn panic_message(action: impl FnOnce()) -> Option<std::string::String> {
    let payload = catch_unwind(AssertUnwindSafe(action)).err()?;
    Some(match payload.downcast::<std::string::String>() {
        Ok(message) => *message,
        Err(payload) => (*payload.downcast::<&str>().expect("a panic message")).into(),
    })
}

#[track_caller]
fn assert_panics(with: &str, action: impl FnOnce()) {
    match panic_message(action) {
        Some(message) => assert!(message.contains(with), "{message:?} lacks {with:?}"),
        None => panic!("no panic; expected {with:?}"),
    }
}

#[test]
fn one_interface_can_move_to_another_thread() {
    fn assert_send<T: Send>(_: &T) {}
    assert_send(&SoftwareInterface::default());
}

#[test]
fn reset_is_closed_and_empty() {
    let cpu = SoftwareInterface::default();
    assert_eq!(cpu.read_hcr(), 0);
    assert_eq!(cpu.read_vmcr(), vmcr::reset(5));
    assert_eq!(cpu.read_elrsr(), 0b1111);
    assert_eq!(cpu.read_eisr(), 0);
    assert_eq!((cpu.read_apr(false, 0), cpu.read_apr(true, 0)), (0, 0));
    assert!(!cpu.virq() && !cpu.vfiq() && !cpu.maintenance());
}

#[test]
fn vtr_decodes_what_the_model_is_made_of() {
    // Neoverse: 4 list registers, 5 bits of priority and of preemption, 16-bit INTIDs, TDS. QEMU's
    // has 24-bit INTIDs.
    assert_eq!(Vtr::decode(0x9038_0003), NEOVERSE);
    assert_eq!(Vtr::decode(0x90b8_0003).id_bits, 24);
    // Each field alone.
    let plain = Vtr::decode(0x9010_0003);
    for (bit, expected) in [
        (
            1 << 18,
            Vtr {
                masks_direct_injection: true,
                ..plain
            },
        ),
        (
            1 << 19,
            Vtr {
                traps_dir: true,
                ..plain
            },
        ),
        (
            1 << 20,
            Vtr {
                direct_injection: true,
                ..plain
            },
        ),
        (
            1 << 21,
            Vtr {
                affinity3: true,
                ..plain
            },
        ),
        (
            1 << 22,
            Vtr {
                local_serrors: true,
                ..plain
            },
        ),
        (
            1 << 23,
            Vtr {
                id_bits: 24,
                ..plain
            },
        ),
        (
            2 << 23,
            Vtr {
                id_bits: 16,
                ..plain
            },
        ),
        (
            1 << 26,
            Vtr {
                preemption_bits: 6,
                ..plain
            },
        ),
        (
            1 << 29,
            Vtr {
                priority_bits: 6,
                ..plain
            },
        ),
        (
            0x1c,
            Vtr {
                list_registers: 32,
                ..plain
            },
        ),
    ] {
        assert_eq!(Vtr::decode(0x9010_0003 ^ bit), expected, "{bit:#x}");
    }

    for (preemption_bits, count) in [(5, 1), (6, 2), (7, 4)] {
        let vtr = Vtr {
            preemption_bits,
            priority_bits: 7,
            ..NEOVERSE
        };
        assert_eq!(vtr.apr_count(), count);
        let cpu = SoftwareInterface::new(vtr);
        for index in 0..count {
            cpu.write_apr(true, index, 1 << index);
            assert_eq!(cpu.read_apr(true, index), 1 << index);
            assert_eq!(cpu.read_ap1r(index), 1 << index);
            assert_eq!(cpu.read_ap0r(index), 0);
        }
        assert_panics("not implemented", || cpu.write_apr(false, count, 0));
    }
}

#[test]
fn impossible_implementations_are_refused() {
    for vtr in [
        Vtr {
            list_registers: 0,
            ..NEOVERSE
        },
        Vtr {
            list_registers: 17,
            ..NEOVERSE
        },
        Vtr {
            priority_bits: 4,
            ..NEOVERSE
        },
        Vtr {
            preemption_bits: 6,
            ..NEOVERSE
        },
        Vtr {
            id_bits: 32,
            ..NEOVERSE
        },
    ] {
        assert_panics("not an architected", || drop(SoftwareInterface::new(vtr)));
    }
}

#[test]
fn unimplemented_priority_bits_read_as_zero() {
    for (priority_bits, stored) in [(5, 0xf8), (6, 0xfc), (7, 0xfe), (8, 0xff)] {
        let cpu = SoftwareInterface::new(Vtr {
            priority_bits,
            ..NEOVERSE
        });
        cpu.write_lr(0, lr(P | G1, 32, 0xff));
        assert_eq!(cpu.read_lr(0), lr(P | G1, 32, stored));
        cpu.write_vmcr(0xff << vmcr::VPMR_SHIFT);
        assert_eq!(cpu.read_vmcr() >> vmcr::VPMR_SHIFT, u64::from(stored));
    }
}

#[test]
fn vmcr_keeps_its_fields_and_nothing_else() {
    for preemption_bits in 5..=7 {
        let cpu = SoftwareInterface::new(Vtr {
            preemption_bits,
            priority_bits: 8,
            ..NEOVERSE
        });
        // RES0 bits vanish, VFIQEn stays, binary points stop at their minimum.
        cpu.write_vmcr(0);
        assert_eq!(cpu.read_vmcr(), vmcr::reset(preemption_bits));
        cpu.write_vmcr(!0);
        assert_eq!(cpu.read_vmcr(), 0xfffc_021b);
    }
}

#[test]
fn empty_registers_show_in_elrsr_or_eisr() {
    for (register, elrsr, eisr) in [
        (ListRegister::EMPTY, true, false),
        (lr(P, 32, 0), false, false),
        (lr(A, 32, 0), false, false),
        (lr(P | A, 32, 0), false, false),
        (lr(P | ListRegister::EOI, 32, 0), false, false),
        (lr(ListRegister::EOI, 32, 0), false, true),
        (hw(P, 32, 0, 42), false, false),
        (hw(0, 32, 0, 42), true, false),
        // With HW set, bit 41 belongs to the physical INTID.
        (hw(0, 32, 0, 0x200), true, false),
    ] {
        for index in 0..4 {
            let cpu = SoftwareInterface::default();
            for other in 0..4 {
                cpu.write_lr(other, lr(A, 100 + other as u32, 0));
            }

            cpu.write_lr(index, register);
            assert_eq!(cpu.read_elrsr(), u16::from(elrsr) << index, "{register:?}");
            assert_eq!(cpu.read_eisr(), u16::from(eisr) << index, "{register:?}");
        }
    }
}

/// Checks rows of `ICH_HCR_EL2`, list registers, group enables and the bits of `ICH_MISR_EL2`.
#[test]
fn each_maintenance_condition_has_its_enable() {
    let count = 1 << hcr::EOI_COUNT_SHIFT;
    let one = [lr(P | G1, 32, 0)];
    let two = [lr(P | G1, 32, 0), lr(A | G1, 33, 0)];
    let ended = [lr(P, 32, 0), lr(ListRegister::EOI, 33, 0)];
    let again = [lr(P | A, 32, 0), lr(A, 33, 0)];
    type Row<'a> = (u64, &'a [ListRegister], (bool, bool), u64);
    let rows: &[Row] = &[
        (0, &one, (true, true), 0),
        (0, &[], (false, false), 0),
        // EOI needs no enable in ICH_HCR_EL2, only the EOI bit of the list register.
        (0, &ended, (true, true), misr::EOI),
        // Underflow: at most one valid register.
        (hcr::UIE, &[], (true, true), misr::U),
        (hcr::UIE, &one, (true, true), misr::U),
        (hcr::UIE, &two, (true, true), 0),
        // An empty register with an outstanding EOI is not valid.
        (hcr::UIE, &ended, (true, true), misr::U | misr::EOI),
        // No pending interrupt; pending and active does not count as pending.
        (hcr::NPIE, &[], (true, true), misr::NP),
        (hcr::NPIE, &one, (true, true), 0),
        (hcr::NPIE, &again, (true, true), misr::NP),
        // A pending interrupt of a disabled group is pending.
        (hcr::NPIE, &one, (false, false), 0),
        // Missed deactivations.
        (hcr::LRENPIE, &one, (true, true), 0),
        (count, &one, (true, true), 0),
        (hcr::LRENPIE | count, &one, (true, true), misr::LRENP),
        // Group enables.
        (hcr::VGRP0EIE, &one, (true, false), misr::VGRP0E),
        (hcr::VGRP0EIE, &one, (false, true), 0),
        (hcr::VGRP0DIE, &one, (false, true), misr::VGRP0D),
        (hcr::VGRP0DIE, &one, (true, false), 0),
        (hcr::VGRP1EIE, &one, (false, true), misr::VGRP1E),
        (hcr::VGRP1EIE, &one, (true, false), 0),
        (hcr::VGRP1DIE, &one, (true, false), misr::VGRP1D),
        (hcr::VGRP1DIE, &one, (false, true), 0),
    ];

    for &(value, registers, (group0, group1), expected) in rows {
        let cpu = with_list_registers(registers);
        cpu.write_igrpen0(group0);
        cpu.write_igrpen1(group1);
        cpu.write_hcr(hcr::EN | value);
        assert_eq!(cpu.misr(), expected, "{value:#x} {registers:?}");
        assert_eq!(cpu.maintenance(), expected != 0, "{value:#x} {registers:?}");
        // While the interface is disabled, the conditions hold, but the interrupt is not asserted.
        cpu.write_hcr(value);
        assert_eq!(cpu.misr(), expected);
        assert!(!cpu.maintenance());
    }
}

#[test]
fn a_register_refuses_what_it_must_not_hold() {
    let cpu = SoftwareInterface::default();
    for intid in [1020, 1021, 1022, 1023, 1024, 8191] {
        assert_panics("special or reserved", || cpu.write_lr(0, lr(P, intid, 0)));
        // An empty register holds no interrupt, with any values of its fields.
        cpu.write_lr(0, lr(0, intid, 0));
    }

    for pintid in [0, 15, 1020, 1023, 1024, 0x1fff] {
        assert_panics("cannot be deactivated", || {
            cpu.write_lr(0, hw(P, 32, 0, pintid))
        });
    }
    for pintid in [16, 31, 32, 1019] {
        cpu.write_lr(0, hw(P, 32, 0, pintid));
        cpu.write_lr(0, hw(A, 32, 0, pintid));
        assert_panics("physical distributor", || {
            cpu.write_lr(0, hw(P | A, 32, 0, pintid))
        });
    }

    for bit in (32..41).chain(42..48).chain(56..60) {
        assert_panics("reserved bits", || cpu.write_lr(0, lr(P | 1 << bit, 32, 0)));
    }

    cpu.write_lr(0, lr(P, 0xffff, 0));
    assert_panics("INTID bits", || cpu.write_lr(0, lr(P, 0x1_0000, 0)));
    let wide = SoftwareInterface::new(Vtr {
        id_bits: 24,
        ..NEOVERSE
    });
    wide.write_lr(0, lr(P, 0x1_0000, 0));
    assert_panics("INTID bits", || wide.write_lr(0, lr(P, 1 << 24, 0)));
    assert_panics("index", || cpu.write_lr(4, ListRegister::EMPTY));
}

#[test]
fn two_registers_must_not_hold_the_same_interrupt() {
    // Registers are written one at a time: a swap passes through a state that the guest must not
    // see.
    let cpu = with_list_registers(&[lr(P, 32, 0), lr(P, 33, 0)]);
    cpu.write_lr(0, lr(P, 33, 0));
    cpu.write_lr(1, lr(P, 32, 0));
    cpu.synchronize();
    assert_eq!(cpu.read_iar0(), 33);

    let same_vintid: &[(u64, u64)] = &[(P, P), (P, A), (A, P | A), (P | G1, P)];
    for &(one, other) in same_vintid {
        let cpu = with_list_registers(&[lr(one, 32, 0), lr(A, 40, 0), lr(other, 32, 8)]);
        let checks: [(&str, &dyn Fn()); 8] = [
            ("synchronize", &|| cpu.synchronize()),
            ("virq", &|| _ = cpu.virq()),
            ("misr", &|| _ = cpu.misr()),
            ("iar", &|| _ = cpu.read_iar1()),
            ("hppir", &|| _ = cpu.read_hppir0()),
            ("eoir0", &|| cpu.write_eoir0(40)),
            ("eoir1", &|| cpu.write_eoir1(40)),
            ("dir", &|| _ = cpu.write_dir(40)),
        ];
        for (name, check) in checks {
            let message = panic_message(check).expect(name);
            assert!(message.contains("same vINTID"), "{name}: {message}");
        }
        // An empty register's fields do not count.
        cpu.write_lr(2, lr(0, 32, 8));
        cpu.synchronize();
    }
    let cpu = with_list_registers(&[hw(P, 32, 0, 50), hw(A, 33, 0, 50)]);
    assert_panics("same pINTID", || cpu.synchronize());
    // Without HW, the field is no physical INTID.
    cpu.write_lr(1, lr(A, 33, 0));
    cpu.synchronize();
}

#[test]
fn hcr_refuses_bits_that_do_nothing_here() {
    let cpu = SoftwareInterface::default();
    cpu.write_hcr(hcr::EN | hcr::TDIR | hcr::TC | hcr::EOI_COUNT);
    cpu.write_hcr(hcr::TALL0 | hcr::TALL1);
    for bit in [8, 9, 13, 15, 16, 26, 32, 63] {
        assert_panics("without a function", || cpu.write_hcr(1 << bit));
    }
    let no_tdir = SoftwareInterface::new(Vtr {
        traps_dir: false,
        ..NEOVERSE
    });
    assert_panics("without a function", || no_tdir.write_hcr(hcr::TDIR));
}

#[test]
fn only_the_hypervisors_accesses_are_counted() {
    let cpu = open(NEOVERSE);
    let before = cpu.accesses();
    cpu.write_lr(0, lr(P | G1, 32, 0));
    cpu.write_lr(1, lr(P | G1, 33, 0));
    cpu.read_lr(1);
    cpu.read_elrsr();
    cpu.read_eisr();
    cpu.read_misr();
    cpu.read_hcr();
    cpu.write_hcr(hcr::EN);
    cpu.write_vmcr(cpu.read_vmcr());
    cpu.write_apr(false, 0, cpu.read_apr(true, 0));
    cpu.synchronize();

    let expected = Accesses {
        lr_reads: 1,
        lr_writes: 2,
        elrsr_reads: 1,
        eisr_reads: 1,
        misr_reads: 1,
        hcr_reads: 1,
        hcr_writes: 1,
        vmcr_reads: 1,
        vmcr_writes: 1,
        apr_reads: 1,
        apr_writes: 1,
        barriers: 1,
    };
    assert_eq!(cpu.accesses() - before, expected);
    assert_eq!(expected.total(), 12);

    // The guest's accesses and the model's inspection are not counted.
    let intid = cpu.read_iar1();
    cpu.write_eoir1(intid);
    assert_eq!(cpu.list_registers().count(), 4);
    assert_eq!(cpu.vtr(), NEOVERSE);
    assert_eq!(cpu.misr(), 0);
    assert_eq!(cpu.accesses() - before, expected);
}
