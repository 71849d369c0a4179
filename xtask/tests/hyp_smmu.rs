//! Positions in the queues that the hypervisor shares with the SMMU, by the rules of IHI 0070, 3.5.

#[path = "../../hyp/src/smmu/queue.rs"]
mod queue;

use queue::Position;

#[test]
fn the_index_repeats_and_the_wrap_bit_changes_with_every_round() {
    for log2 in [0, 1, 3, 8, 19] {
        let size = 1 << log2;
        let mut position = Position::START;
        for step in 0..2 * size {
            assert_eq!(position.index(log2), step % size);
            assert_eq!(position.value(), u32::try_from(step).unwrap());
            position = position.next(log2);
        }
        assert_eq!(position, Position::START, "two rounds of {size}");
    }
}

#[test]
fn a_full_queue_is_not_an_empty_one() {
    let mut position = Position::START;
    for _ in 0..8 {
        position = position.next(3);
    }
    assert_ne!(position, Position::START);
    assert_eq!(position.index(3), Position::START.index(3));
}

#[test]
fn bits_beyond_the_position_are_no_part_of_it() {
    // `SMMU_EVENTQ_PROD.OVFLG` and `SMMU_CMDQ_CONS.ERR` are above.
    let position = Position::from_register(0x8a00_0009, 3);
    assert_eq!((position.value(), position.index(3)), (9, 1));
}
