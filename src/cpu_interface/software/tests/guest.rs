//! Tests of the guest's side, rule by rule.

use super::*;
use crate::cpu_interface::{
    priority::IDLE,
    software::{SPURIOUS, Trapped},
    vmcr,
};

const EOI_MODE: u64 = 1 << 1;
const CBPR: u64 = 1 << 0;
const LPI: u32 = 8192;

/// Checks rows of list registers, group enables, (IAR0, IAR1) and (HPPIR0, HPPIR1).
#[test]
fn the_most_urgent_pending_interrupt_of_an_enabled_group_is_signalled() {
    type Row<'a> = (&'a [ListRegister], (bool, bool), (u32, u32), (u32, u32));
    let both = (true, true);
    const NONE: u32 = SPURIOUS;
    let rows: &[Row] = &[
        (&[], both, (NONE, NONE), (NONE, NONE)),
        (&[lr(P | G1, 32, 0x80)], both, (NONE, 32), (NONE, 32)),
        (&[lr(P, 32, 0x80)], both, (32, NONE), (32, NONE)),
        // A lower priority is more urgent, in any register.
        (
            &[
                lr(P | G1, 32, 0x80),
                lr(P | G1, 33, 0x78),
                lr(P | G1, 34, 0x90),
            ],
            both,
            (NONE, 33),
            (NONE, 33),
        ),
        // A choice of the model: the lowest register of equally urgent interrupts.
        (
            &[lr(P | G1, 40, 0x80), lr(P, 32, 0x80), lr(P | G1, 39, 0x80)],
            both,
            (NONE, 40),
            (NONE, 40),
        ),
        // The most urgent interrupt hides the other group's interrupts.
        (
            &[lr(P | G1, 32, 0x80), lr(P, 33, 0x40)],
            both,
            (33, NONE),
            (33, NONE),
        ),
        // A disabled group hides nothing.
        (
            &[lr(P | G1, 32, 0x80), lr(P, 33, 0x40)],
            (false, true),
            (NONE, 32),
            (NONE, 32),
        ),
        (
            &[lr(P | G1, 32, 0x40), lr(P, 33, 0x80)],
            (true, false),
            (33, NONE),
            (33, NONE),
        ),
        (
            &[lr(P | G1, 32, 0)],
            (false, false),
            (NONE, NONE),
            (NONE, NONE),
        ),
        // Active, and pending and active, interrupts are not acknowledged.
        (
            &[
                lr(A | G1, 32, 0),
                lr(P | A | G1, 33, 0),
                lr(P | G1, 34, 0xf0),
            ],
            both,
            (NONE, 34),
            (NONE, 34),
        ),
        // An LPI is signalled like any other interrupt.
        (&[lr(P | G1, LPI, 0xa0)], both, (NONE, LPI), (NONE, LPI)),
        // Every mask masks the least urgent priority, but the interrupt is pending.
        (&[lr(P | G1, 32, 0xf8)], both, (NONE, NONE), (NONE, 32)),
    ];

    for &(registers, (group0, group1), iar, hppir) in rows {
        let interface = || {
            let cpu = with_list_registers(registers);
            cpu.write_igrpen0(group0);
            cpu.write_igrpen1(group1);
            cpu
        };

        let cpu = interface();
        assert_eq!(
            (cpu.read_hppir0(), cpu.read_hppir1()),
            hppir,
            "{registers:?}"
        );
        assert_eq!(cpu.vfiq(), iar.0 != NONE, "{registers:?}");
        assert_eq!(cpu.virq(), iar.1 != NONE, "{registers:?}");
        assert_eq!(cpu.read_iar0(), iar.0, "{registers:?}");
        assert_eq!(interface().read_iar1(), iar.1, "{registers:?}");
    }
}

#[test]
fn priority_0xff_is_never_pending() {
    let cpu = open(Vtr {
        priority_bits: 8,
        ..NEOVERSE
    });
    cpu.write_lr(0, lr(P | G1, 32, 0xff));
    assert_eq!(cpu.read_hppir1(), SPURIOUS);
    cpu.write_lr(0, lr(P | G1, 32, 0xfe));
    assert_eq!(cpu.read_hppir1(), 32);
    assert!(cpu.virq());
}

#[test]
fn a_disabled_interface_signals_nothing() {
    let cpu = with_list_registers(&[lr(P | G1, 32, 0x80), lr(A | G1, 33, 0)]);
    cpu.write_hcr(0);
    assert!(!cpu.virq() && !cpu.vfiq());
    assert_eq!(cpu.read_iar1(), SPURIOUS);
    assert_eq!(cpu.read_hppir1(), 32);
    // Only signals stop: an end of interrupt still takes effect.
    cpu.write_apr(true, 0, 1);
    cpu.write_eoir1(33);
    assert_eq!(cpu.read_elrsr(), 0b1110);
}

#[test]
fn the_priority_mask_is_exclusive_and_truncated() {
    let cpu = with_list_registers(&[lr(P | G1, 32, 0x80)]);
    for (written, read, signalled) in [
        (0x00, 0x00, false),
        (0x80, 0x80, false),
        (0x87, 0x80, false),
        (0x88, 0x88, true),
        (0xff, 0xf8, true),
    ] {
        cpu.write_pmr(written).unwrap();
        assert_eq!(cpu.read_pmr(), Ok(read));
        assert_eq!(cpu.virq(), signalled, "{written:#x}");
        assert_eq!(cpu.read_hppir1(), 32);
        assert_eq!(cpu.read_vmcr() >> vmcr::VPMR_SHIFT, u64::from(read));
    }
}

#[test]
fn acknowledge_activates_and_end_of_interrupt_undoes_it() {
    for group1 in [false, true] {
        let group = if group1 { G1 } else { 0 };
        let cpu = with_list_registers(&[lr(P | group, 32, 0xa0)]);

        // The other group's register acknowledges nothing and changes nothing.
        let other = if group1 {
            cpu.read_iar0()
        } else {
            cpu.read_iar1()
        };
        assert_eq!(other, SPURIOUS);
        assert_eq!(cpu.read_lr(0), lr(P | group, 32, 0xa0));

        let intid = if group1 {
            cpu.read_iar1()
        } else {
            cpu.read_iar0()
        };
        assert_eq!(intid, 32);
        assert_eq!(cpu.read_lr(0), lr(A | group, 32, 0xa0));
        assert_eq!(cpu.read_apr(group1, 0), 1 << (0xa0 >> 3));
        assert_eq!(cpu.read_apr(!group1, 0), 0);
        assert_eq!(cpu.read_rpr(), Ok(0xa0));
        assert!(!cpu.virq() && !cpu.vfiq());

        if group1 {
            cpu.write_eoir1(32);
        } else {
            cpu.write_eoir0(32);
        }
        assert_eq!(cpu.read_lr(0), lr(group, 32, 0xa0));
        assert_eq!(cpu.read_apr(group1, 0), 0);
        assert_eq!(cpu.read_rpr(), Ok(IDLE));
        assert_eq!(eoi_count(&cpu), 0);
    }
}

#[test]
fn pending_and_active_waits_for_its_deactivation() {
    let cpu = with_list_registers(&[lr(P | G1, 32, 0xa0)]);
    assert_eq!(cpu.read_iar1(), 32);
    // Raised again while active: the hypervisor sets pending too.
    cpu.write_lr(0, lr(P | A | G1, 32, 0x40));
    assert!(!cpu.virq());
    assert_eq!(cpu.read_iar1(), SPURIOUS);
    cpu.write_lr(0, lr(P | A | G1, 32, 0xa0));
    cpu.write_eoir1(32);
    assert_eq!(cpu.read_lr(0), lr(P | G1, 32, 0xa0));
    assert!(cpu.virq());
    assert_eq!(cpu.read_iar1(), 32);
    cpu.write_eoir1(32);
    assert_eq!(cpu.read_elrsr(), 0b1111);
}

/// Checks rows of binary points, `CBPR`, the group of an interrupt that runs at priority 0x98, the
/// resulting running priority, the pending interrupt's group, and the least urgent priority that
/// preempts.
#[test]
fn preemption_compares_group_priorities() {
    for (bpr0, bpr1, ctlr, running, rpr, pending, preempts) in [
        // Minimum binary points: every implemented bit counts.
        (2, 3, 0, G1, 0x98, G1, 0x90),
        (2, 3, 0, 0, 0x98, 0, 0x90),
        // Coarser binary points.
        (3, 3, 0, 0, 0x90, 0, 0x88),
        (2, 5, 0, G1, 0x80, G1, 0x78),
        (4, 3, 0, 0, 0x80, 0, 0x78),
        (2, 7, 0, G1, 0x80, G1, 0x78),
        // The pending interrupt's group decides.
        (2, 6, 0, 0, 0x98, G1, 0x78),
        (2, 6, 0, G1, 0x80, 0, 0x78),
        (5, 3, 0, G1, 0x98, 0, 0x78),
        (5, 3, 0, G1, 0x98, G1, 0x90),
        // A common binary point for both groups.
        (2, 6, CBPR, G1, 0x98, G1, 0x90),
        (2, 6, CBPR, 0, 0x98, G1, 0x90),
        (5, 3, CBPR, G1, 0x80, G1, 0x78),
        (5, 3, CBPR, 0, 0x80, 0, 0x78),
    ] {
        let row = (bpr0, bpr1, ctlr, running, pending);
        let cpu = open(NEOVERSE);
        cpu.write_bpr0(bpr0);
        cpu.write_bpr1(bpr1);
        cpu.write_ctlr(ctlr).unwrap();

        cpu.write_lr(0, lr(P | running, 32, 0x98));
        let intid = if running == G1 {
            cpu.read_iar1()
        } else {
            cpu.read_iar0()
        };
        assert_eq!((intid, cpu.read_rpr()), (32, Ok(rpr)), "{row:?}");

        for priority in (0..0xf8).step_by(8) {
            cpu.write_lr(1, lr(P | pending, 33, priority));
            let signals = (cpu.virq(), cpu.vfiq());
            let expected = priority <= preempts;
            assert_eq!(
                signals,
                (expected && pending == G1, expected && pending == 0),
                "{row:?} {priority:#x}"
            );
        }
    }

    // Without group priority bits, no interrupt of Group 0 preempts another interrupt.
    let cpu = open(NEOVERSE);
    cpu.write_bpr0(7);
    cpu.write_lr(0, lr(P, 32, 0x98));
    assert_eq!(cpu.read_iar0(), 32);
    assert_eq!(cpu.read_rpr(), Ok(0));
    cpu.write_lr(1, lr(P, 33, 0));
    assert!(!cpu.vfiq());
    cpu.write_eoir0(32);
    assert!(cpu.vfiq());
}

#[test]
fn only_the_most_urgent_can_be_signalled() {
    let cpu = with_list_registers(&[lr(P, 32, 0x78)]);
    cpu.write_bpr1(7);
    assert_eq!(cpu.read_iar0(), 32);
    // INTID 34 would preempt by the split of Group 0.
    cpu.write_lr(2, lr(P, 34, 0x70));
    assert!(cpu.vfiq());
    // INTID 33 is more urgent, but does not preempt by the split of Group 1.
    cpu.write_lr(1, lr(P | G1, 33, 0x60));
    assert!(!cpu.virq() && !cpu.vfiq());
    assert_eq!((cpu.read_iar0(), cpu.read_iar1()), (SPURIOUS, SPURIOUS));
}

#[test]
fn binary_points_have_minima_and_common_mode_aliases_them() {
    for preemption_bits in 5..=7 {
        let cpu = open(Vtr {
            preemption_bits,
            priority_bits: 7,
            ..NEOVERSE
        });
        let minimum = 7 - preemption_bits;

        for value in 0..=7 {
            cpu.write_ctlr(0).unwrap();
            cpu.write_bpr0(value);
            cpu.write_bpr1(value);
            assert_eq!(cpu.read_bpr0(), value.max(minimum));
            assert_eq!(cpu.read_bpr1(), value.max(minimum + 1));
            let fields = u64::from(cpu.read_bpr0()) << vmcr::VBPR0_SHIFT
                | u64::from(cpu.read_bpr1()) << vmcr::VBPR1_SHIFT;
            assert_eq!(cpu.read_vmcr() & 0x00fc_0000, fields);

            // In common mode Group 1 shows Group 0's binary point plus one and ignores writes.
            cpu.write_ctlr(CBPR).unwrap();
            cpu.write_bpr1(0);
            assert_eq!(cpu.read_bpr1(), (cpu.read_bpr0() + 1).min(7));
            cpu.write_ctlr(0).unwrap();
            assert_eq!(cpu.read_bpr1(), value.max(minimum + 1));
        }
    }
}

#[test]
fn control_registers_alias_vmcr() {
    let cpu = SoftwareInterface::default();
    let read = |bit| cpu.read_vmcr() & bit != 0;
    for on in [true, false] {
        cpu.write_igrpen0(on);
        assert_eq!((cpu.read_igrpen0(), cpu.read_igrpen1()), (on, false));
        assert_eq!((read(vmcr::VENG0), read(vmcr::VENG1)), (on, false));
    }
    for on in [true, false] {
        cpu.write_igrpen1(on);
        assert_eq!((cpu.read_igrpen0(), cpu.read_igrpen1()), (false, on));
        assert_eq!((read(vmcr::VENG0), read(vmcr::VENG1)), (false, on));
    }

    for ctlr in [CBPR, EOI_MODE, CBPR | EOI_MODE, 0] {
        cpu.write_ctlr(!3 | ctlr).unwrap();
        // 5 bits of priority, 16-bit INTIDs, Aff3 valid.
        assert_eq!(cpu.read_ctlr(), Ok(0x8400 | ctlr));
        assert_eq!(read(vmcr::VCBPR), ctlr & CBPR != 0);
        assert_eq!(read(vmcr::VEOIM), ctlr & EOI_MODE != 0);
    }

    let wide = SoftwareInterface::new(Vtr {
        id_bits: 24,
        priority_bits: 7,
        ..NEOVERSE
    });
    assert_eq!(wide.read_ctlr(), Ok(0x8e00));

    cpu.write_ap0r(0, 0x10);
    cpu.write_ap1r(0, 0x20);
    assert_eq!(
        (cpu.read_apr(false, 0), cpu.read_apr(true, 0)),
        (0x10, 0x20)
    );
    assert_eq!((cpu.read_ap0r(0), cpu.read_ap1r(0)), (0x10, 0x20));
}

/// Checks the effect of an end of interrupt on the register's state, `EOIcount` and the running
/// priority.
#[test]
fn end_of_interrupt_by_mode_class_and_place() {
    for (mode, intid, in_register, state, count, dropped) in [
        (0, 32, true, 0, 0, true),
        (0, 3, true, 0, 0, true),
        (0, LPI, true, 0, 0, true),
        (EOI_MODE, 32, true, A, 0, true),
        // An LPI has no separate deactivation.
        (EOI_MODE, LPI, true, 0, 0, true),
        // In no list register: counted, except for an LPI, or if the mode leaves the interrupt
        // active.
        (0, 32, false, A, 1, true),
        (0, LPI, false, A, 0, true),
        (EOI_MODE, 32, false, A, 0, true),
        (EOI_MODE, LPI, false, A, 0, true),
        // Special INTIDs do nothing.
        (0, 1020, false, A, 0, false),
        (0, 1023, false, A, 0, false),
        (EOI_MODE, 1023, false, A, 0, false),
    ] {
        let held = if in_register { intid } else { 100 };
        let cpu = with_list_registers(&[lr(P | G1, held, 0xa0)]);
        cpu.write_ctlr(mode).unwrap();
        assert_eq!(cpu.read_iar1(), held);
        cpu.write_eoir1(intid);
        let row = (mode, intid, in_register);
        assert_eq!(cpu.read_lr(0), lr(state | G1, held, 0xa0), "{row:?}");
        assert_eq!(eoi_count(&cpu), count, "{row:?}");
        assert_eq!(cpu.read_rpr() == Ok(IDLE), dropped, "{row:?}");
    }
}

#[test]
fn deactivation_by_mode_class_and_place() {
    for (mode, intid, in_register, state, count) in [
        (EOI_MODE, 32, true, 0, 0),
        (EOI_MODE, 32, false, A, 1),
        (EOI_MODE, LPI, true, A, 0),
        (EOI_MODE, LPI, false, A, 0),
        (EOI_MODE, 1023, false, A, 0),
        (0, 32, true, A, 0),
        (0, 32, false, A, 0),
    ] {
        let held = if in_register { intid } else { 100 };
        let cpu = with_list_registers(&[lr(A | G1, held, 0xa0)]);
        cpu.write_ctlr(mode).unwrap();
        cpu.write_apr(true, 0, 1);
        assert_eq!(cpu.write_dir(intid), Ok(()));

        let row = (mode, intid, in_register);
        assert_eq!(cpu.read_lr(0), lr(state | G1, held, 0xa0), "{row:?}");
        assert_eq!(eoi_count(&cpu), count, "{row:?}");
        // Deactivation never touches priorities.
        assert_eq!(cpu.read_apr(true, 0), 1);
    }
}

#[test]
fn deactivation_finds_active_registers_only_and_any_group() {
    let cpu = with_list_registers(&[lr(P | G1, 32, 0), lr(P | A, 33, 0), lr(A, 34, 0)]);
    cpu.write_ctlr(EOI_MODE).unwrap();
    for (intid, count) in [(32, 1), (33, 1), (34, 1), (34, 2)] {
        cpu.write_dir(intid).unwrap();
        assert_eq!(eoi_count(&cpu), count, "{intid}");
    }
    assert!(cpu.list_registers().eq([
        lr(P | G1, 32, 0),
        lr(P, 33, 0),
        lr(0, 34, 0),
        ListRegister::EMPTY
    ]));
}

#[test]
fn eoi_count_wraps_and_leaves_the_other_bits() {
    let cpu = open(NEOVERSE);
    cpu.write_ctlr(EOI_MODE).unwrap();
    cpu.write_hcr(hcr::EN | hcr::NPIE);
    for expected in (1..32).chain([0, 1]) {
        cpu.write_dir(77).unwrap();
        assert_eq!(
            cpu.read_hcr(),
            hcr::EN | hcr::NPIE | expected << hcr::EOI_COUNT_SHIFT
        );
    }
}

/// Checks the model's choices for UNPREDICTABLE sequences of the guest.
#[test]
fn a_wrong_end_of_interrupt_deactivates_nothing() {
    // No active priority: no effect, not even a count.
    let cpu = with_list_registers(&[lr(A | G1, 32, 0x40)]);
    cpu.write_eoir1(32);
    cpu.write_eoir1(99);
    assert_eq!((cpu.read_lr(0).is_active(), eoi_count(&cpu)), (true, 0));

    // The other group's register: a drop only.
    cpu.write_lr(0, lr(P | G1, 32, 0x40));
    assert_eq!(cpu.read_iar1(), 32);
    cpu.write_eoir0(32);
    assert_eq!(
        (cpu.read_rpr(), cpu.read_lr(0).is_active()),
        (Ok(IDLE), true)
    );

    // The preempted interrupt instead of the running interrupt: a drop only.
    let cpu = with_list_registers(&[lr(P | G1, 32, 0x80)]);
    assert_eq!(cpu.read_iar1(), 32);
    cpu.write_lr(1, lr(P | G1, 33, 0x40));
    assert_eq!(cpu.read_iar1(), 33);
    cpu.write_eoir1(32);
    assert_eq!(cpu.read_rpr(), Ok(0x80));
    assert!(cpu.read_lr(0).is_active() && cpu.read_lr(1).is_active());
}

#[test]
fn deactivation_reaches_the_physical_interrupt_once() {
    let cpu = with_list_registers(&[hw(P | G1, 27, 0xa0, 30), lr(P | G1, 32, 0xb0)]);
    assert_eq!(cpu.read_iar1(), 27);
    assert!(cpu.take_deactivations().is_empty());
    cpu.write_eoir1(27);
    assert_eq!(cpu.take_deactivations(), [30]);
    assert!(cpu.take_deactivations().is_empty());

    // Not backed by hardware, and in no list register: no deactivation.
    assert_eq!(cpu.read_iar1(), 32);
    cpu.write_eoir1(32);
    cpu.write_ctlr(EOI_MODE).unwrap();
    cpu.write_dir(27).unwrap();
    assert!(cpu.take_deactivations().is_empty());

    // Split mode: deactivated by `ICC_DIR_EL1`, in the order of the writes.
    cpu.write_lr(0, hw(P | G1, 27, 0xa0, 30));
    cpu.write_lr(1, hw(P | G1, 40, 0x40, 50));
    assert_eq!((cpu.read_iar1(), cpu.read_iar1()), (40, SPURIOUS));
    cpu.write_eoir1(40);
    assert_eq!(cpu.read_iar1(), 27);
    cpu.write_eoir1(27);
    assert!(cpu.take_deactivations().is_empty());
    cpu.write_dir(27).unwrap();
    cpu.write_dir(40).unwrap();
    assert_eq!(cpu.take_deactivations(), [30, 50]);
}

#[test]
fn the_eoi_bit_asserts_a_maintenance_interrupt_after_deactivation() {
    for mode in [0, EOI_MODE] {
        let cpu = with_list_registers(&[lr(P | G1 | ListRegister::EOI, 32, 0xa0)]);
        cpu.write_ctlr(mode).unwrap();
        assert_eq!(cpu.read_iar1(), 32);
        assert!(!cpu.maintenance());
        cpu.write_eoir1(32);
        cpu.write_dir(32).unwrap();
        assert_eq!((cpu.read_eisr(), cpu.read_elrsr()), (0b0001, 0b1110));
        assert!(cpu.maintenance());
        cpu.write_lr(0, ListRegister::EMPTY);
        assert!(!cpu.maintenance());
    }
}

#[test]
fn trapped_accesses_change_nothing() {
    let cpu = with_list_registers(&[lr(A | G1, 32, 0xa0)]);
    cpu.write_ctlr(EOI_MODE).unwrap();
    let vmcr = cpu.read_vmcr();

    for (bit, common) in [(hcr::TDIR, false), (hcr::TC, true)] {
        cpu.write_hcr(hcr::EN | bit);
        assert_eq!(cpu.write_dir(32), Err(Trapped));
        assert_eq!(cpu.read_pmr() == Err(Trapped), common);
        assert_eq!(cpu.write_pmr(0xf8) == Err(Trapped), common);
        assert_eq!(cpu.read_ctlr() == Err(Trapped), common);
        assert_eq!(cpu.write_ctlr(EOI_MODE) == Err(Trapped), common);
        assert_eq!(cpu.read_rpr() == Err(Trapped), common);
        assert_eq!(
            (cpu.read_lr(0), cpu.read_vmcr()),
            (lr(A | G1, 32, 0xa0), vmcr)
        );
        assert_eq!(eoi_count(&cpu), 0);
    }

    assert_eq!(
        (cpu.write_pmr(0), cpu.write_ctlr(0)),
        (Err(Trapped), Err(Trapped))
    );
    assert_eq!(cpu.read_vmcr(), vmcr);
}
