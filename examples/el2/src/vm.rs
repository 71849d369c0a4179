//! A VM and its vCPUs: the vGIC, the services that it requires, time slices, traps, and the end.

use alloc::sync::Arc;
use core::fmt::Write;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering::*};

use vgic::cpu_interface::ich::Ich;
use vgic::epoch::{CpuPin, Domain};
use vgic::intid::{Affinity, CpuId, IntId, VcpuId};
use vgic::mmio::{DataAbort, MmioOutcome};
use vgic::sysreg::SysReg;
use vgic::{BadAddress, Blocked, Config, Cpu, Host, PhysicalInterrupt, PinnedCpu, Vgic};

use crate::machine::{self, EL2_TIMER, SystemRegisters, VIRTUAL_TIMER};
use crate::{CPUS, Console, QUEUE, guest};

/// Bytes of a VM's RAM.
pub const RAM_SIZE: u64 = 2 << 20;
/// Microseconds of a time slice.
const SLICE: u64 = 500;
/// The virtual timer's PPI, both the guest's and the physical one.
const TIMER: IntId = IntId::ppi(VIRTUAL_TIMER).unwrap();

pub struct Vm {
    index: u64,
    gic: Vgic<Machine>,
    pub off: AtomicBool,
    /// Times that a vCPU slept, and that one went on on another CPU.
    idle: AtomicU64,
    moves: AtomicU64,
}

/// The machine, as a VM's vGIC uses it.
struct Machine {
    ram: u64,
    woken: [AtomicBool; 2],
}

impl Machine {
    fn check_ram(&self, gpa: u64, length: usize) -> Result<(), BadAddress> {
        let offset = gpa.checked_sub(self.ram).ok_or(BadAddress)?;
        let end = offset.checked_add(length as u64).ok_or(BadAddress)?;
        if end <= RAM_SIZE { Ok(()) } else { Err(BadAddress) }
    }
}

impl Host for Machine {
    fn kick(&self, cpu: CpuId, _vcpu: VcpuId) {
        machine::kick(cpu.0.into());
    }

    fn wake(&self, vcpu: VcpuId) {
        self.woken[vcpu.index()].store(true, Release);
        (0..CPUS).for_each(machine::kick); // one of them may sleep
    }

    fn read_memory(&self, gpa: u64, buffer: &mut [u8]) -> Result<(), BadAddress> {
        self.check_ram(gpa, buffer.len())?;
        (gpa..).zip(buffer).for_each(|(address, byte)| *byte = machine::read(address));
        Ok(())
    }

    fn write_memory(&self, gpa: u64, bytes: &[u8]) -> Result<(), BadAddress> {
        self.check_ram(gpa, bytes.len())?;
        (gpa..).zip(bytes).for_each(|(address, byte)| machine::write(address, *byte));
        Ok(())
    }

    /// Deactivates the timer's interrupt when no list register does: its vCPU is put, for one.
    fn deactivate(&self, physical: PhysicalInterrupt) {
        if let PhysicalInterrupt::Ppi { cpu, intid } = physical {
            machine::write(machine::gicr(cpu.0.into(), 0x380), 1_u32 << intid.raw());
        }
    }

    fn is_pending(&self, physical: PhysicalInterrupt) -> bool {
        matches!(physical, PhysicalInterrupt::Ppi { cpu, intid }
            if machine::read::<u32>(machine::gicr(cpu.0.into(), 0x200)) & 1 << intid.raw() != 0)
    }
}

/// Creates a VM with two vCPUs, which are powered on and runnable.
pub fn create(domain: &Domain, pin: &CpuPin<'_>, index: u64) {
    let ram = 0x4800_0000 + index * RAM_SIZE;
    let affinities = [Affinity::new(0, 0, 0, 0), Affinity::new(0, 0, 0, 1)];
    let config = Config::new(affinities.into()).with_its(guest::GITS);
    let gic = Vgic::new(domain, config, Machine { ram, woken: Default::default() }).unwrap();
    let (off, idle, moves) = Default::default();
    let vm = Arc::new(Vm { index, gic, off, idle, moves });
    for id in [0, 1].map(|number| VcpuId::new(number).unwrap()) {
        vm.gic.power_on(id);
        vm.gic.connect_ppi(pin, id, TIMER, TIMER).unwrap();
        let system = SystemRegisters {
            elr_el2: guest::entry as *const () as u64,
            spsr_el2: 0b1111 << 6 | 0b0101, // EL1, interrupts masked
            sctlr_el1: 0x30d0_0800,         // the bits that are RES1
            vmpidr_el2: 1 << 31 | id.index() as u64,
            ..Default::default()
        };
        let mut general = [0; 32];
        general[0] = ram;
        let vm = vm.clone();
        QUEUE.lock().push_back(Vcpu { vm, id, general, system, blocked: false, last: None });
    }
}

impl Vm {
    /// Takes the VM apart. All its vCPUs have been put.
    pub fn finish(self, pin: &CpuPin<'_>) {
        let refs = self.gic.teardown(pin).unwrap().references;
        let [sgi, timer, spi, lpi, _] = guest::shared(self.gic.host().ram);
        let Self { index, idle, moves, .. } = &self;
        let _one_at_a_time = QUEUE.lock();
        let _ = writeln!(
            Console,
            "@el2 vm{index} sgi={sgi:?} timer={timer:?} spi={spi:?} lpi={lpi:?} idle={idle:?} \
             moves={moves:?} refs={refs}"
        );
    }
}

pub struct Vcpu {
    pub vm: Arc<Vm>,
    id: VcpuId,
    /// `x0` to `x30`, and a zero for XZR.
    general: [u64; 32],
    system: SystemRegisters,
    /// The guest waits for an interrupt.
    blocked: bool,
    /// CPU of the last time slice.
    last: Option<CpuId>,
}

impl Vcpu {
    /// Returns true if the vCPU, which is on no CPU, has a reason to run.
    pub fn is_runnable(&self) -> bool {
        !self.blocked
            || self.vm.off.load(Acquire)
            || self.vm.gic.has_deferred()
            || self.vm.gic.host().woken[self.id.index()].swap(false, Acquire)
            || self.deadline() <= machine::time_in(0)
    }

    /// Returns the time at which the vCPU, which is on no CPU, is to run unless it is woken before:
    /// its timer is in memory, and interrupts nobody.
    pub fn deadline(&self) -> u64 {
        let ticks = self.system.cntv_ctl_el0 & 0b11 == 1;
        if ticks { self.system.cntv_cval_el0 } else { u64::MAX }
    }

    /// Runs the vCPU on the calling CPU for a time slice, or until it sleeps or ends.
    pub fn run(&mut self, cpu: &Cpu<Ich>) {
        let vm = self.vm.clone();
        let moved = self.last.replace(cpu.id()).is_some_and(|last| last != cpu.id());
        vm.moves.fetch_add(moved.into(), Relaxed);
        self.blocked = false;
        self.system.restore();
        machine::set_timer(machine::time_in(SLICE));

        let mut stays = true;
        while stays && !vm.off.load(Acquire) {
            let pin = cpu.pin();
            if vm.gic.has_deferred() {
                vm.gic.advance(&pin).unwrap();
            }
            vm.gic.enter(&pin, self.id).unwrap();
            drop(pin); // before the guest runs
            // SAFETY: the system registers are the vCPU's.
            let exit = unsafe { machine::enter_guest(&mut self.general) };
            let pin = cpu.pin();
            vm.gic.exit(&pin, self.id).unwrap(); // before all else
            stays = match exit {
                0 => self.trap(&pin),
                1 => self.take_interrupts(&pin),
                _ => panic!("a system error"),
            };
        }

        machine::set_timer(u64::MAX);
        self.system.save();
        msr!(cntv_ctl_el0, 0); // the line of the vCPU's timer is low, before the vCPU is put
        machine::barrier();
        vm.gic.vcpu_put(&cpu.pin(), self.id).unwrap();
    }

    /// Takes all pending physical interrupts. Returns false at the end of the time slice. A kick
    /// and a maintenance interrupt need no more than this exit.
    fn take_interrupts(&self, pin: &PinnedCpu<'_, Ich>) -> bool {
        let mut stays = true;
        while let Some(intid) = machine::take_interrupt() {
            if intid == VIRTUAL_TIMER {
                // It is still active: the guest deactivates it, or `Host::deactivate`.
                let _ = self.vm.gic.forward_ppi(pin, self.id, TIMER).unwrap();
            }
            stays &= intid != EL2_TIMER;
        }
        stays
    }

    /// Handles a trap. Returns false if the vCPU is to leave the CPU. A hypervisor for guests that
    /// it does not know injects an exception where this one panics.
    fn trap(&mut self, pin: &PinnedCpu<'_, Ich>) -> bool {
        let (syndrome, gic) = (mrs!(esr_el2), &self.vm.gic);
        match syndrome >> 26 {
            0x01 => {
                let blocked = gic.block(pin, self.id).unwrap();
                self.blocked = blocked == Blocked::Yes && !gic.has_deferred();
                self.vm.idle.fetch_add(self.blocked.into(), Relaxed);
            }
            0x16 => {
                self.vm.off.store(true, Release); // HVC: the guest has ended
                (0..CPUS).for_each(machine::kick);
            }
            0x18 => {
                let register = SysReg::from_syndrome(syndrome as u32).unwrap();
                let value = self.general[(syndrome >> 5 & 31) as usize];
                gic.sysreg_write(pin, self.id, register, value).unwrap();
            }
            0x24 => {
                let address = mrs!(hpfar_el2) >> 4 << 12 | mrs!(far_el2) & 0xfff;
                let access = DataAbort::from_esr(syndrome).expect("an access of one register");
                let register = access.register().unwrap_or(31);
                let outcome = if access.is_write() {
                    gic.mmio_write(pin, address, access.width(), self.general[register])
                } else {
                    gic.mmio_read(pin, self.id, address, access.width())
                };
                match outcome.unwrap() {
                    MmioOutcome::Done(value) if !access.is_write() => {
                        self.general[register] = access.load_result(value);
                        self.general[31] = 0;
                    }
                    MmioOutcome::Done(_) => {}
                    MmioOutcome::Retry => return true, // it traps again
                    // The only device besides the GIC: a write raises its SPI.
                    MmioOutcome::Unclaimed if address == guest::DOORBELL => {
                        let _ = gic.inject_spi(pin, IntId::spi(guest::SPI).unwrap()).unwrap();
                    }
                    MmioOutcome::Unclaimed => panic!("nothing is at {address:#x}"),
                }
            }
            _ => panic!("a trap: {syndrome:#x} at {:#x}", mrs!(elr_el2)),
        }
        msr!(elr_el2, mrs!(elr_el2) + 4); // after the instruction
        !self.blocked
    }
}
