//! `snapshot`: replacing the topology against its readers.
#![cfg(loom)]

use loom::sync::Arc;
use loom::thread;
use loom_tests::{Machine, check};
use vgic::Config;
use vgic::config::RedistributorRegion;
use vgic::intid::{Affinity, CpuId, VcpuId};

/// A reader finds the vCPUs that were there, and the new one only as it is.
#[test]
fn readers_see_the_old_or_the_new() {
    check(2, || {
        let first = Affinity::new(0, 0, 0, 0);
        let second = Affinity::new(7, 0, 0, 1);
        let mut config = Config::new(vec![first]);
        config.spis = 0;
        config.max_vcpus = 2;
        config.redistributors = vec![RedistributorRegion {
            base: 0x080a_0000,
            count: 2,
        }];
        let machine = Arc::new(Machine::from_config(config));
        let other = thread::spawn({
            let machine = machine.clone();
            move || {
                let local = machine.domain.register(CpuId(1));
                let added = machine.vm.add_vcpu(&local.pin(), second);
                assert_eq!(added, Ok(VcpuId::new(1).unwrap()));
            }
        });
        let local = machine.domain.register(CpuId(0));
        for _ in 0..2 {
            let pin = local.pin();
            assert_eq!(machine.vm.find_vcpu(&pin, first), VcpuId::new(0));
            let found = machine.vm.find_vcpu(&pin, second);
            assert!(found.is_none() || found == VcpuId::new(1));
        }
        other.join().unwrap();
    });
}
