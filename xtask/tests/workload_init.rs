//! The first process of the built-in guest, a script.

const INIT: &str = include_str!("../../hyp/guests/workload/init");

/// A mount on a directory that is not there fails, and the guest goes on without it.
#[test]
fn every_mount_point_is_made_before() {
    let mut made: Vec<&str> = Vec::new();
    let mut mounted = 0;
    for line in INIT.lines() {
        let words: Vec<_> = line.split_whitespace().collect();
        match words[..] {
            ["/busybox", "mkdir", "-p", ..] => made.extend(&words[3..]),
            ["mount", "-t", _, _, place] => {
                assert!(made.contains(&place), "{place} is mounted and not made");
                mounted += 1;
            }
            _ => {}
        }
    }
    assert!(mounted > 3, "{mounted} mounts");
    assert!(made.contains(&"/tmp"));
}
