//! Random changes of the path.

use std::collections::BTreeMap;

use proptest::prelude::*;

use crate::common::gicv4::Version;
use crate::{DEVICE, Direct, EVENTS, LPI};

/// A step of a random test.
#[derive(Clone, Copy, Debug)]
enum Step {
    Msi(u32),
    LateMsi(u32),
    Serve(usize),
    Visit(usize),
    Put,
    Vcpu(usize, bool),
    Device(bool),
    Move(u32, usize),
    /// From vCPU 0 to a vCPU.
    Sgi(usize, u32),
    /// Enables an SGI of a vCPU, or disables it; by a vCPU.
    EnableSgi(usize, usize, u32, bool),
    /// The guest asks for SGIs without an active state, or with one.
    Ask(bool),
    Save,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        6 => (0..EVENTS).prop_map(Step::Msi),
        2 => (0..EVENTS).prop_map(Step::LateMsi),
        2 => (0..2_usize).prop_map(Step::Serve),
        3 => (0..2_usize).prop_map(Step::Visit),
        1 => Just(Step::Put),
        3 => (0..2_usize, any::<bool>()).prop_map(|(n, on)| Step::Vcpu(n, on)),
        3 => any::<bool>().prop_map(Step::Device),
        2 => (0..EVENTS, 0..2_usize).prop_map(|(event, n)| Step::Move(event, n)),
        4 => (0..2_usize, 1..3_u32).prop_map(|(n, sgi)| Step::Sgi(n, sgi)),
        2 => (0..2_usize, 0..2_usize, 1..3_u32, any::<bool>())
            .prop_map(|(by, n, sgi, on)| Step::EnableSgi(by, n, sgi, on)),
        2 => any::<bool>().prop_map(Step::Ask),
        1 => Just(Step::Save),
    ];
    prop::collection::vec(step, 1..60)
}

/// Returns the key of an SGI of a vCPU.
const fn key(n: usize, sgi: u32) -> u32 {
    100 * (n as u32 + 1) + sgi
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    /// Changes the path at random. No MSI and no SGI is lost, and none delivered twice.
    #[test]
    fn a_change_of_the_path_neither_loses_nor_doubles(v4_1 in any::<bool>(), steps in steps()) {
        let version = if v4_1 { Version::V4_1 } else { Version::V4_0 };
        let (this, start) = Direct::started(version, 2);
        let its = start(&this);
        for n in 0..2 {
            this.enable_sgi(n, n, u32::MAX, true);
            this.serve(n);
        }
        // For each LPI, and each SGI of each vCPU, its MSIs less its deliveries, and whether an MSI
        // is newer than the last delivery.
        let mut open: BTreeMap<u32, (u32, bool)> = BTreeMap::new();
        let answer = |open: &mut BTreeMap<u32, (u32, bool)>, n: usize| {
            for intid in this.serve(n) {
                let key = if intid < 16 { key(n, intid) } else { intid };
                let (left, newer) = open.get_mut(&key).expect("an MSI was sent");
                *left = left.checked_sub(1).unwrap_or_else(|| panic!("{key} comes twice"));
                *newer = false;
            }
        };

        for step in steps {
            match step {
                Step::Msi(event) => {
                    let (left, newer) = open.entry(LPI + event).or_default();
                    *left += 1;
                    *newer = true;
                    this.msi(event);
                }
                Step::LateMsi(event) => {
                    let (left, newer) = open.entry(LPI + event).or_default();
                    *left += 1;
                    *newer = true;
                    this.model.send_to_busy_cpu(DEVICE, event);
                }
                Step::Serve(n) => answer(&mut open, n),
                Step::Visit(n) => {
                    // Into the guest, where nothing is taken, and out.
                    this.machine.enter(n);
                    this.machine.exit(n);
                }
                Step::Put => this.machine.put_all(),
                Step::Vcpu(n, on) => this.set_vcpu(n, on).unwrap(),
                Step::Device(on) => this.set_device(on).unwrap(),
                // A physical LPI that is pending goes along with its event, in hardware.
                Step::Move(event, n) => its.movi(DEVICE.into(), event.into(), n as u64),
                Step::Sgi(n, sgi) => {
                    let (left, newer) = open.entry(key(n, sgi)).or_default();
                    *left += 1;
                    *newer = true;
                    this.sgi(0, n, sgi.into());
                }
                Step::EnableSgi(by, n, sgi, on) => this.enable_sgi(by, n, 1 << sgi, on),
                Step::Ask(without) => this.ask(without),
                Step::Save => {
                    let _ = this.machine.save();
                    this.machine.advance();
                }
            }
            this.handle_doorbells();
        }

        this.handle_lpis();
        for n in 0..2 {
            this.enable_sgi(n, n, u32::MAX, true);
        }
        for n in [0, 1, 0, 1] {
            answer(&mut open, n);
        }
        for (lpi, (_, newer)) in open {
            prop_assert!(!newer, "{lpi} is lost");
        }
        this.finish();
    }
}
