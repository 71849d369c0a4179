//! `radix`: lookup against insertion, removal, growth and reclamation of nodes. No reader sees freed
//! memory, no value is put where readers cannot find it.
#![cfg(loom)]
#![allow(unsafe_code, reason = "the table takes raw pointers")]

use std::ptr::NonNull;

use loom::sync::Arc;
use loom::thread;
use loom_tests::check;
use vgic::epoch::Domain;
use vgic::intid::CpuId;
use vgic::radix::Radix;

static VALUES: [u32; 4] = [10, 11, 12, 13];

fn insert(table: &Radix<u32>, key: u32, guard: &crossbeam_epoch::Guard) {
    // SAFETY: the value is never freed.
    let inserted =
        unsafe { table.insert(key, NonNull::from(&VALUES[key as usize % 4]), guard) }.is_ok();
    assert!(inserted, "{key} is there already");
}

/// Neighbours in one node: the node lives as long as either is there, and dies once.
#[test]
fn growth_and_reclamation() {
    check(3, || {
        let table = Arc::new(Radix::<u32>::new(4));
        let domain = Arc::new(Domain::new());
        let other = thread::spawn({
            let (table, domain) = (table.clone(), domain.clone());
            move || {
                let local = domain.register(CpuId(1));
                let pin = local.pin();
                insert(&table, 1, pin.guard());
                assert_eq!(table.get(1, pin.guard()), Some(&11));
                assert!(table.remove(1, &VALUES[1], pin.guard()).is_some());
            }
        });
        let local = domain.register(CpuId(0));
        for _ in 0..2 {
            let pin = local.pin();
            insert(&table, 2, pin.guard());
            assert_eq!(table.get(2, pin.guard()), Some(&12));
            let found = table.get(1, pin.guard());
            assert!(found.is_none() || found == Some(&11));
            assert!(table.remove(2, &VALUES[2], pin.guard()).is_some());
        }
        other.join().unwrap();
        let pin = local.pin();
        assert!(table.next(0, pin.guard()).is_none());
    });
}
