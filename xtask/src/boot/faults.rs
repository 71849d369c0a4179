//! Lines by which a Linux kernel says that something is wrong, though it may go on.
//!
//! A guest that warns, oopses or stalls has not run well, whatever it prints of success afterwards.

/// Texts of such lines, each with a kernel's own message.
const FAULTS: [&str; 19] = [
    // WARN_ON() and lockdep.
    "WARNING:",
    // BUG_ON(), KASAN, soft lockups, lockups of workqueues.
    "BUG:",
    "kernel BUG at",
    // die(), and the messages before it.
    "Oops",
    "Internal error:",
    "Unable to handle kernel",
    "Kernel panic",
    // Any of the above may have dumped its stack while its first line was lost.
    "Call trace:",
    // The taint of a dump, and the moment of a taint by a module.
    "Tainted:",
    "taints kernel",
    "tainting kernel",
    // Stalls and lockups.
    "detected stall",
    "self-detected stall",
    "kthread starved for",
    "hard LOCKUP",
    "blocked for more than",
    // Interrupts without a handler, and a GIC that does not answer.
    "nobody cared",
    "gone fishing",
    "ITS queue timeout",
];

/// Returns true if the line of the console tells of a fault of the kernel.
pub(crate) fn is_fault(line: &str) -> bool {
    FAULTS.iter().any(|fault| line.contains(fault))
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// Lines that kernels have printed.
    pub(crate) const FAULTS: [&str; 22] = [
        "[    0.000000] WARNING: CPU: 0 PID: 0 at drivers/irqchip/irq-gic-v3-its.c:5347 \
         its_init+0x5a4/0x620",
        "[    0.000000] CPU: 0 UID: 0 PID: 0 Comm: swapper/0 Tainted: G        W          \
         6.12.57+deb13-cloud-arm64 #1",
        "[    0.000000] Call trace:",
        "[   28.042117] watchdog: BUG: soft lockup - CPU#2 stuck for 26s! [kworker/2:1:48]",
        "[   12.345678] BUG: sleeping function called from invalid context at mm/slab.h:268",
        "[   12.345678] BUG: spinlock bad magic on CPU#0, swapper/0/1",
        "[   35.000000] BUG: workqueue lockup - pool cpus=1 node=0 flags=0x0 nice=0 stuck for 31s!",
        "[    1.000000] kernel BUG at mm/slub.c:4412!",
        "[    1.000000] Internal error: Oops: 0000000096000004 [#1] SMP",
        "[    1.000000] Internal error: synchronous external abort: 96000010 [#1] SMP",
        "[    1.000000] Unable to handle kernel NULL pointer dereference at virtual address 0",
        "[    1.000000] Kernel panic - not syncing: Attempted to kill init! exitcode=0x00000100",
        "[   60.000000] rcu: INFO: rcu_preempt detected stalls on CPUs/tasks:",
        "[   21.000000] rcu: INFO: rcu_sched self-detected stall on CPU",
        "[   60.000000] rcu: rcu_preempt kthread starved for 5250 jiffies! g-1143 f0x2 \
         RCU_GP_WAIT_FQS(5) ->state=0x402 ->cpu=1",
        "[   40.000000] watchdog: Watchdog detected hard LOCKUP on cpu 1",
        "[  242.000000] INFO: task kworker/u8:1:45 blocked for more than 120 seconds.",
        "[    9.000000] irq 33: nobody cared (try booting with the \"irqpoll\" option)",
        "[    0.000000] GICv3: RWP timeout, gone fishing",
        "[    1.000000] ITS queue timeout (12640 12577)",
        "[    3.000000] evil: module verification failed: signature and/or required key missing - \
         tainting kernel",
        "[    3.000000] evil: loading out-of-tree module taints kernel.",
    ];

    /// Lines of good boots that share words with faults.
    const GOOD: [&str; 8] = [
        "[    0.000000] Kernel command line: console=ttyAMA0 earlycon panic=-1 panic_on_warn=1 \
         oops=panic",
        "[    0.000000] ITS [mem 0x08080000-0x0809ffff]",
        "[    0.000000] GICv3: CPU0: found redistributor 0 region 0:0x00000000080a0000",
        "[    0.000000] ITS: Using hypervisor restricted LPI range [32768]",
        "[    0.000000] rcu: Hierarchical RCU implementation.",
        "[    0.100000] SMP: Total of 4 processors activated.",
        "[    0.000000] CPU features: detected: Spectre-BHB",
        "@workload step=rebind status=ok ms=412 cycles=6",
    ];

    #[test]
    fn a_kernels_complaints_are_faults_and_its_other_lines_are_not() {
        for line in FAULTS {
            assert!(is_fault(line), "{line}");
        }
        for line in GOOD {
            assert!(!is_fault(line), "{line}");
        }
    }

    #[test]
    fn every_text_is_in_a_line() {
        for text in super::FAULTS {
            assert!(FAULTS.iter().any(|line| line.contains(text)), "{text}");
        }
    }
}
