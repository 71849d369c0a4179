//! The choice of `hyp` between direct injection and list registers.

#[path = "../../hyp/src/vm/choice.rs"]
mod choice;

use choice::{Choice, Note};

/// Notes events, and returns the choices that they have made.
fn choices(choice: &Choice, notes: &[Note], times: usize) -> Vec<bool> {
    let all = notes.iter().cycle().take(notes.len() * times);
    all.filter_map(|&note| choice.note(note)).collect()
}

#[test]
fn a_vcpu_begins_with_list_registers_and_earns_direct_injection_by_msis() {
    let choice = Choice::default();
    assert_eq!(choices(&choice, &[Note::Msi], 63), []);
    assert!(!choice.is_direct());
    assert_eq!(choices(&choice, &[Note::Msi], 1), [true]);
    assert!(choice.is_direct());
}

#[test]
fn a_vcpu_that_sleeps_after_each_msi_earns_nothing() {
    let choice = Choice::default();
    assert_eq!(choices(&choice, &[Note::Msi, Note::Rest], 10_000), []);
    // One MSI more for each sleep is what the sleep costs.
    let even = [Note::Msi, Note::Msi, Note::Rest];
    assert_eq!(choices(&choice, &even, 10_000), []);
}

#[test]
fn more_msis_than_that_earn_it() {
    let choice = Choice::default();
    let busy = [Note::Msi, Note::Msi, Note::Msi, Note::Rest];
    assert_eq!(choices(&choice, &busy, 61), []);
    assert_eq!(choices(&choice, &busy, 1), [true]);
}

#[test]
fn a_direct_vcpu_goes_back_after_a_term_and_has_to_earn_it_again() {
    let choice = Choice::default();
    assert_eq!(choices(&choice, &[Note::Msi], 64), [true]);
    // Injections of devices that are not direct change nothing.
    assert_eq!(choices(&choice, &[Note::Rest, Note::Msi], 1023), []);
    assert_eq!(choices(&choice, &[Note::Rest], 1), [false]);
    // The first one ends the rest.
    assert_eq!(choices(&choice, &[Note::Msi], 64), []);
    assert_eq!(choices(&choice, &[Note::Msi], 1), [true]);
}

#[test]
fn a_vcpu_that_never_rests_stays_direct() {
    let choice = Choice::default();
    assert_eq!(choices(&choice, &[Note::Msi], 1_000_000), [true]);
    assert!(choice.is_direct());
}
