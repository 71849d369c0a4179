//! LPIs that are enabled before the firmware starts, as a kernel that ran before may leave them.
//!
//! A program of a few instructions does so: QEMU enters it in place of the firmware, to which it
//! branches.

use super::machine::RAM;

/// The address of the program, in RAM that is the firmware's afterwards.
const PROGRAM: u64 = RAM + (240 << 20);

/// The end of the hypervisor's line about LPIs that it has disabled, behind the number of CPUs.
const TURNED_OFF: &str = " CPUs: LPIs were left enabled, and have been disabled";

/// Returns the program for so many CPUs. It writes 1 to each `GICR_CTLR`, whose redistributors are
/// 128 KiB apart, and branches to address 0, where the firmware is.
const fn program(cpus: u16) -> [u32; 8] {
    [
        0xd2a1_0140,                      // mov  x0, #0x080a0000
        0x5280_0021,                      // mov  w1, #1
        0x5280_0002 | (cpus as u32) << 5, // mov  w2, #cpus
        0xb900_0001,                      // str  w1, [x0]
        0x9140_8000,                      // add  x0, x0, #0x20000
        0x7100_0442,                      // subs w2, w2, #1
        0x54ff_ffa1,                      // b.ne str
        0xd61f_03e0,                      // br   xzr
    ]
}

/// Returns QEMU's arguments that put the program into RAM and have CPU 0 begin there.
pub(super) fn arguments(cpus: u16) -> Vec<String> {
    let words = program(cpus);
    let (pairs, _) = words.as_chunks::<2>();
    let places = (PROGRAM..).step_by(8);
    let data = pairs.iter().zip(places).map(|(&[low, high], place)| {
        let data = u64::from(high) << 32 | u64::from(low);
        format!("loader,addr={place:#x},data={data:#x},data-len=8")
    });
    let entry = format!("loader,addr={PROGRAM:#x},cpu-num=0");
    data.chain([entry])
        .flat_map(|device| ["-device".to_owned(), device])
        .collect()
}

/// Returns the number of CPUs whose LPIs the hypervisor has disabled, by its line.
pub(super) fn turned_off(line: &str) -> Option<u64> {
    let number = line.strip_prefix("hyp: ")?.strip_suffix(TURNED_OFF)?;
    number.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_program_is_entered_where_it_lies() {
        let arguments = arguments(4);
        assert_eq!(arguments.len(), 2 * (program(4).len() / 2 + 1));
        assert!(arguments[1].starts_with("loader,addr=0x4f000000,data=0x52800021d2a10140"));
        assert_eq!(
            arguments.last().unwrap(),
            "loader,addr=0x4f000000,cpu-num=0"
        );
    }

    #[test]
    fn the_hypervisors_line_is_read() {
        assert_eq!(turned_off(&format!("hyp: 12{TURNED_OFF}")), Some(12));
        assert_eq!(turned_off("hyp: 4 CPUs, 28 MiB at 0x82000000"), None);
    }
}
