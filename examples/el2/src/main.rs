//! A minimal hypervisor at EL2 that embeds `vgic`, to be read and copied. `docs/embedding.md` of
//! the library explains the calls, `docs/embedder-duties.md` the rest.
//!
//! Two VMs with two vCPUs each share two CPUs of QEMU. A vCPU has time slices on whichever CPU is
//! free. The guests ([`guest`]) send SGIs, use the virtual timer, have the hypervisor raise an SPI
//! and the ITS an LPI, and sleep by WFI. `cargo run --release` ends with a line for each VM.
#![no_std]
#![no_main]
extern crate alloc;

#[macro_use]
mod machine;
mod guest;
mod vm;

use alloc::{collections::VecDeque, sync::Arc};
use core::fmt::{self, Write};
use core::sync::atomic::{AtomicU64, Ordering::*};

use smccc::{Smc, psci};
use spin::{Mutex, Once};
use talc::{TalcLock, source::Claim};
use vgic::{Cpu, cpu_interface::ich::Ich, epoch::Domain, intid::CpuId};
use vm::Vcpu;

const CPUS: u64 = 2;
const VMS: u64 = 2;

// SAFETY: the 64 MiB are mapped before the first allocation, and nobody else uses them.
#[global_allocator]
static HEAP: TalcLock<Mutex<()>, Claim> =
    TalcLock::new(unsafe { Claim::new(0x4400_0000 as *mut u8, 64 << 20) });

#[repr(align(4096))]
struct Table([u64; 512]);

/// Stage 1 of EL2, by identity: 1 GiB of devices, never executed, then write-back RAM.
static STAGE_1: Table = table(1 << 54 | 1 << 10 | 1 << 2 | 1, 1 << 30 | 1 << 10 | 3 << 8 | 1);
/// Stage 2 of both VMs: the RAM, by identity. All else traps, the vGIC's frames too. A hypervisor
/// whose guests do not trust each other maps a VM's own RAM only.
static STAGE_2: Table = table(0, 1 << 30 | 1 << 10 | 3 << 8 | 3 << 6 | 0xf << 2 | 1);

const fn table(first: u64, second: u64) -> Table {
    let mut table = Table([0; 512]);
    (table.0[0], table.0[1]) = (first, second);
    table
}

/// Starts every CPU: the stacks are below the heap.
#[unsafe(naked)]
#[unsafe(no_mangle)]
extern "C" fn boot() -> ! {
    core::arch::naked_asm!(
        "mrs x0, mpidr_el1",
        "and x0, x0, #0xff",
        "mov x1, #0x44000000",
        "sub x1, x1, x0, lsl #16",
        "mov sp, x1",
        "b   {main}",
        main = sym main,
    )
}

/// vCPUs that are on no CPU.
static QUEUE: Mutex<VecDeque<Vcpu>> = Mutex::new(VecDeque::new());
/// VMs that have not ended.
static RUNNING: AtomicU64 = AtomicU64::new(VMS);

extern "C" fn main(number: u64) -> ! {
    // The library's atomic operations need the MMU and the caches.
    msr!(mair_el2, 0x00ff); // attribute 0 is write-back memory, attribute 1 Device-nGnRnE
    msr!(tcr_el2, 1 << 31 | 1 << 23 | 3 << 12 | 1 << 10 | 1 << 8 | 25); // 39 bits, 4 KiB pages
    msr!(ttbr0_el2, &raw const STAGE_1 as u64);
    msr!(vttbr_el2, &raw const STAGE_2 as u64);
    machine::barrier();
    msr!(sctlr_el2, 0x30c5_183d);
    machine::start(number);

    static DOMAIN: Once<Domain> = Once::new();
    let domain = DOMAIN.call_once(Domain::new);
    let local = domain.register(CpuId(number as u16)).unwrap();
    // SAFETY: this is EL2, `start` has set ICC_SRE_EL2, and the value stays on its CPU.
    let cpu = Cpu::new(local, unsafe { Ich::new() });
    if number == 0 {
        (0..VMS).for_each(|index| vm::create(domain, &cpu.pin(), index));
        for other in 1..CPUS {
            psci::cpu_on::<Smc>(other, boot as *const () as u64, 0).unwrap();
        }
    }
    loop {
        schedule(&cpu);
    }
}

/// Runs the next runnable vCPU for a time slice, or sleeps.
fn schedule(cpu: &Cpu<Ich>) {
    let mut queue = QUEUE.lock();
    let Some(next) = queue.iter().position(Vcpu::is_runnable) else {
        let deadline = queue.iter().map(Vcpu::deadline).min();
        drop(queue);
        machine::set_timer(machine::time_in(1000).min(deadline.unwrap_or(u64::MAX)));
        machine::sleep();
        machine::set_timer(u64::MAX);
        return while machine::take_interrupt().is_some() {};
    };
    let mut vcpu = queue.remove(next).unwrap();
    drop(queue);

    if !vcpu.vm.off.load(Acquire) {
        vcpu.run(cpu);
    }
    if !vcpu.vm.off.load(Acquire) {
        QUEUE.lock().push_back(vcpu);
    } else if let Some(vm) = Arc::into_inner(vcpu.vm) {
        // The last of its vCPUs is gone.
        vm.finish(&cpu.pin());
        if RUNNING.fetch_sub(1, AcqRel) == 1 {
            let _ = psci::system_off::<Smc>();
        }
    }
}

/// The board's PL011.
struct Console;

impl Write for Console {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        text.bytes().for_each(|byte| machine::write(0x0900_0000, u32::from(byte)));
        Ok(())
    }
}

#[panic_handler]
fn panic(info: &core::panic::PanicInfo<'_>) -> ! {
    let _ = writeln!(Console, "@el2 {info}");
    let _ = psci::system_off::<Smc>();
    loop {}
}
