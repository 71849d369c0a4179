//! The hypervisor's limit on messages that a guest causes.

#[path = "../../hyp/src/exception/message_limit.rs"]
mod message_limit;

use message_limit::MessageLimit;

#[test]
fn a_guest_that_repeats_a_mistake_prints_ten_lines_in_a_window_and_a_count() {
    let mut limit = MessageLimit::new();
    let admitted = (0..1000).filter_map(|now| limit.admit(now, 1000));
    assert_eq!(admitted.collect::<Vec<_>>(), [0; 10]);

    // The next window begins with the count.
    assert_eq!(limit.admit(1000, 1000), Some(990));
    assert_eq!(limit.admit(1001, 1000), Some(0));

    let left_out = (1002..1100).filter(|now| limit.admit(*now, 1000).is_none());
    assert_eq!(left_out.count(), 90);
    assert_eq!(limit.take_left_out(), 90);
    assert_eq!(limit.take_left_out(), 0);
}

#[test]
fn messages_that_are_far_apart_are_all_printed() {
    let mut limit = MessageLimit::new();
    assert!((1..100).all(|n| limit.admit(n * 100, 1000) == Some(0)));
}
