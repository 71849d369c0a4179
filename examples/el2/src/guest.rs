//! The guests' program, at EL1. It masks interrupts, and takes them by reading `ICC_IAR1_EL1`.
//!
//! vCPU 0 sets its timer, waits for it, and sends vCPU 1 an SGI, an SPI and an LPI. vCPU 1 answers
//! by an SGI once it has all three. Nothing but the RAM of the VM is written.

use core::sync::atomic::{AtomicU64, Ordering::SeqCst};

use crate::machine::{barrier, read, sleep, write};
use crate::vm::RAM_SIZE;

const GICD: u64 = 0x0800_0000;
pub const GITS: u64 = 0x0808_0000;
const GICR: u64 = 0x080a_0000;
/// Device of the hypervisor's, whose SPI a write raises.
pub const DOORBELL: u64 = 0x0a00_0000;
pub const SPI: u32 = 40;
const SGI: u32 = 1;
const TIMER: u32 = 27;
const LPI: u32 = 8192;
const ROUNDS: u64 = 100;

/// Returns the numbers of SGIs, timer interrupts, SPIs and LPIs taken, and of vCPUs ready.
pub fn shared(ram: u64) -> &'static [AtomicU64; 5] {
    // SAFETY: the RAM begins with them.
    unsafe { &*(ram as *const [AtomicU64; 5]) }
}

/// Starts every vCPU, with the address of the RAM in `x0`. The stacks are at the RAM's end.
#[unsafe(naked)]
pub extern "C" fn entry() -> ! {
    core::arch::naked_asm!(
        "mrs x1, mpidr_el1",
        "and x1, x1, #0xff",
        "add x2, x0, {size}",
        "sub x2, x2, x1, lsl #16",
        "mov sp, x2",
        "b   {main}",
        size = const RAM_SIZE,
        main = sym main,
    )
}

extern "C" fn main(ram: u64, vcpu: u64) -> ! {
    let gicr = GICR + vcpu * 0x2_0000;
    write(gicr + 0x14, 0_u32); // GICR_WAKER
    write(gicr + 0x1_0080, u32::MAX); // GICR_IGROUPR0
    write(gicr + 0x1_0100, 1_u32 << SGI | 1 << TIMER); // GICR_ISENABLER0
    write(ram + 0x1_0000, 1_u8); // the first LPI is enabled
    write(gicr + 0x70, (ram + 0x1_0000) | 13); // GICR_PROPBASER: 14 bits of INTID
    write(gicr + 0x78, ram + 0x2_0000 + vcpu * 0x1_0000); // GICR_PENDBASER
    write(gicr, 1_u32); // GICR_CTLR.EnableLPIs
    msr!(icc_pmr_el1, 0xff);
    msr!(icc_igrpen1_el1, 1);
    if vcpu == 0 {
        write(GICD, 0x12_u32); // GICD_CTLR: affinity routing, Group 1
        write(GICD + 0x84, 1_u32 << 8); // GICD_IGROUPR1
        write(GICD + 0xc08, 2_u32 << 16); // GICD_ICFGR2: an edge
        write(GICD + 0x6000 + 8 * u64::from(SPI), 1_u64); // GICD_IROUTER40: vCPU 1
        write(GICD + 0x104, 1_u32 << 8); // GICD_ISENABLER1
        write(GITS + 0x100, 1 << 63 | (ram + 0x4_0000)); // GITS_BASER0
        write(GITS + 0x108, 1 << 63 | (ram + 0x5_0000)); // GITS_BASER1
        write(GITS + 0x80, 1 << 63 | (ram + 0x7_0000)); // GITS_CBASER: one page
        write(GITS, 1_u32); // GITS_CTLR
        command(ram, [0x09, 0, 1 << 63 | 1 << 16]); // MAPC collection 0 to vCPU 1
        command(ram, [0x08, 0, 1 << 63 | (ram + 0x6_0000)]); // MAPD device 0, with two events
        command(ram, [0x0a, u64::from(LPI) << 32, 0]); // MAPTI its event 0 to the LPI
    }
    let ready = &shared(ram)[4];
    ready.fetch_add(1, SeqCst);
    while ready.load(SeqCst) < 2 {}
    for round in 1..=ROUNDS {
        let sgis = 2 * round;
        if vcpu == 0 {
            msr!(cntv_cval_el0, mrs!(cntvct_el0) + mrs!(cntfrq_el0) / 1000);
            msr!(cntv_ctl_el0, 1);
            // Without sleeping, it is preempted at the end of its time slice.
            take_until(ram, round % 2 == 0, |[_, timers, ..]| timers == round);
            send_sgi(1);
            write(DOORBELL, 0_u32);
            command(ram, [0x03, 0, 0]); // INT device 0, event 0
            take_until(ram, true, |[taken, ..]| taken == sgis);
        } else {
            take_until(ram, true, |taken| taken[..4] == [sgis - 1, round, round, round]);
            send_sgi(0);
        }
    }
    if vcpu == 0 {
        // SAFETY: to the hypervisor an HVC is the VM's end.
        unsafe { core::arch::asm!("hvc #0") }
    }
    loop {
        sleep();
    }
}

/// Takes and counts interrupts until the counts are as wished, and sleeps between them, or does
/// not.
fn take_until(ram: u64, sleeps: bool, wished: impl Fn([u64; 5]) -> bool) {
    while !wished(shared(ram).each_ref().map(|count| count.load(SeqCst))) {
        let intid = mrs!(icc_iar1_el1) as u32;
        barrier();
        let Some(index) = [SGI, TIMER, SPI, LPI].iter().position(|&known| known == intid) else {
            if sleeps {
                sleep();
            }
            continue;
        };
        if intid == TIMER {
            msr!(cntv_ctl_el0, 0); // the line falls before the interrupt ends
            barrier();
        }
        shared(ram)[index].fetch_add(1, SeqCst);
        msr!(icc_eoir1_el1, intid.into());
    }
}

fn send_sgi(vcpu: u64) {
    barrier();
    msr!(icc_sgi1r_el1, u64::from(SGI) << 24 | 1 << vcpu);
    barrier();
}

/// Has the ITS execute a command.
fn command(ram: u64, [first, second, third]: [u64; 3]) {
    let at: u64 = read(GITS + 0x88); // GITS_CWRITER
    write(ram + 0x7_0000 + at, [first, second, third, 0]);
    let next = (at + 32) % 4096;
    write(GITS + 0x88, next);
    while read::<u64>(GITS + 0x90) != next {} // GITS_CREADR
}
