//! The options that `hyp` reads from the command line of a VM's kernel.

extern crate alloc;

#[path = "../../hyp/src/vm/options.rs"]
mod options;

use options::{Direct, ExtendedRange, Options, are_in, are_saves_in};

#[test]
fn options_are_words_with_a_prefix() {
    assert!(are_in("quiet hyp.vcpus=3"));
    assert!(!are_in("quiet hyperv=1 x=hyp.daemon"));
}

#[test]
fn what_is_not_the_hypervisors_is_the_guests() {
    let options = Options::parse("console=ttyAMA0 hyp.vcpus=3 quiet hyp.daemon hyperv=1").unwrap();
    assert_eq!(options.arguments, "console=ttyAMA0 quiet hyperv=1");
    assert_eq!(options.vcpus, Some(3));
    assert!(options.is_daemon);
}

#[test]
fn every_option_is_read() {
    let text = "hyp.name=web hyp.memory=512 hyp.events=99 hyp.weight=300 hyp.slowdown=4 \
                hyp.pci=00:02.0,01:1f.7 hyp.saved=20 hyp.seed=7 \
                hyp.direct=switch hyp.snapshot=saved hyp.incoming=coming hyp.kvm=attributes hyp.rng \
                hyp.espis=96 hyp.eppis=32 hyp.wired=extended hyp.extrange=show";
    let options = Options::parse(text).unwrap();
    assert_eq!(options.name.as_deref(), Some("web"));
    assert_eq!((options.memory, options.weight), (512, 300));
    assert_eq!((options.events, options.slowdown), (99, 4));
    assert_eq!((options.saved, options.seed), (Some(20), 7));
    assert_eq!(options.snapshot.as_deref(), Some("saved"));
    assert_eq!(options.kvm.as_deref(), Some("attributes"));
    assert_eq!(options.incoming.as_deref(), Some("coming"));
    assert!(options.has_entropy);
    assert_eq!((options.extended_spis, options.extended_ppis), (96, 32));
    assert!(options.is_wired_by_extended);
    assert_eq!(options.extended_range, ExtendedRange::Shown);
    assert_eq!(options.direct, Direct::Switch);
    assert_eq!(options.functions, [2 << 3, 1 << 8 | 31 << 3 | 7]);
    assert_eq!(options.arguments, "");
}

#[test]
fn a_command_line_with_options_is_told_apart() {
    assert!(options::are_in("quiet hyp.bad"));
    assert!(!options::are_in("quiet hyper hyp"));
}

#[test]
fn a_guest_with_the_whole_machine_has_options_of_its_own() {
    let text = "quiet hyp.its=2 hyp.saved=5 hyp.seed=9";
    assert!(are_saves_in(text) && !are_saves_in("hyp.its=2"));
    let options = Options::of_machine(text).unwrap();
    assert_eq!((options.saved, options.seed), (Some(5), 9));
    let options = Options::of_machine("hyp.espis=32 hyp.eppis=64 hyp.extrange=assume").unwrap();
    assert_eq!((options.extended_spis, options.extended_ppis), (32, 64));
    assert_eq!(options.extended_range, ExtendedRange::Assumed);
    let error = Options::of_machine("hyp.saved=0").unwrap_err();
    assert!(error.to_string().starts_with("hyp.saved=0: give a number"));
    let options = Options::of_machine("hyp.direct=off quiet").unwrap();
    assert_eq!(options.direct, Direct::Off);
    for (word, direct) in [("on", Direct::On), ("auto", Direct::Auto)] {
        let options = Options::of_machine(&format!("hyp.direct={word}")).unwrap();
        assert_eq!(options.direct, direct);
    }
    let error = Options::of_machine("hyp.direct=switch").unwrap_err();
    assert_eq!(
        error.to_string(),
        "hyp.direct=switch: only a VM with a part of the machine can hold its devices' MSIs back"
    );
}

#[test]
fn a_guest_has_a_gicv3_or_a_gicv2() {
    assert!(!Options::parse("hyp.gic=3").unwrap().has_gicv2);
    for options in [Options::parse, Options::of_machine] {
        assert!(
            options("hyp.gic=2 hyp.direct=auto quiet")
                .unwrap()
                .has_gicv2
        );
    }
}

#[test]
fn nothing_has_its_defaults() {
    let options = Options::parse("").unwrap();
    assert_eq!((options.memory, options.weight), (16, 100));
    assert_eq!(options.slowdown, 1);
    assert_eq!((options.name, options.vcpus), (None, None));
    assert_eq!((options.saved, options.direct), (None, Direct::Auto));
    assert!(!options.has_gicv2);
    assert!(!options.is_daemon && options.functions.is_empty());
    assert_eq!((options.extended_spis, options.extended_ppis), (0, 0));
    assert!(!options.is_wired_by_extended);
    assert_eq!(options.extended_range, ExtendedRange::AsSaid);
}

#[track_caller]
fn assert_refused(word: &str, reason: &str) {
    let error = Options::parse(&format!("quiet {word}")).unwrap_err();
    assert_eq!(error.to_string(), reason);
}

#[test]
fn a_bad_option_is_named() {
    for word in [
        "hyp.",
        "hyp.its=2",
        "hyp.name=",
        "hyp.name=a:b",
        "hyp.pci=0:32.0",
        "hyp.pci=00:01.8",
        "hyp.pci=00:20.0",
        "hyp.pci=",
        "hyp.daemon=1",
        "hyp.direct",
        "hyp.direct=maybe",
        "hyp.wired=all",
        "hyp.extrange=1",
        "hyp.gic",
        "hyp.gic=4",
    ] {
        assert_refused(word, &format!("cannot understand {word}"));
    }
}

#[test]
fn a_bad_number_is_named_with_its_range() {
    for (word, last) in [
        ("hyp.memory=0", 1 << 20),
        ("hyp.memory=1m", 1 << 20),
        ("hyp.vcpus=4096", 4095),
        ("hyp.vcpus=4294967296", 4095),
        ("hyp.events=65537", 65_536),
        ("hyp.weight=0", 10_000),
        ("hyp.slowdown=65", 64),
    ] {
        let range = format!("give a number from 1 to {last}");
        assert_refused(word, &format!("{word}: {range}"));
    }
}
