//! A hostile guest.
//!
//! All its vCPUs act at random, as the seed says, on the registers of the interrupt controller, the
//! ITS, the vCPUs, and the hypervisor's calls and traps. From time to time each vCPU sets its
//! controller up anew, so that there is something to spoil again. The attack ends with the machine.
#![expect(unsafe_code)]
// UNSAFETY: instructions that a well-behaved guest has no use for.

use core::arch::asm;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::cpu::{self, MAX_VCPUS};
use crate::gic::{self, GICD, GICR, GICR_SIZE, GITS, GITS_SIZE, LPIS, redistributor};
use crate::its::{self, Command, QUEUE_SIZE};
use crate::memory::{self, read8, read16, read32, read64, write8, write16, write32, write64};
use crate::random::Random;
use crate::{mrs, msr, println, psci, start, vectors};

/// Actions between two set-ups.
const ACTIONS_PER_SET_UP: usize = 300;

/// Interrupts of an unchanging level after which the vCPU continues with another action.
const STORM: u64 = 200;

static RUNNING: AtomicBool = AtomicBool::new(false);
static SEED: AtomicU64 = AtomicU64::new(0);

/// Actions of all vCPUs.
static DONE: AtomicU64 = AtomicU64::new(0);
/// Interrupts of all vCPUs.
static INTERRUPTS: AtomicU64 = AtomicU64::new(0);
/// Exceptions of all vCPUs.
static EXCEPTIONS: AtomicU64 = AtomicU64::new(0);

/// Timer interrupts in a row, by vCPU.
static TICKS: [AtomicU64; MAX_VCPUS] = [const { AtomicU64::new(0) }; MAX_VCPUS];

/// Instructions that are written before they are executed, by vCPU.
static CODE: [[AtomicU64; 8]; MAX_VCPUS] = [const { [const { AtomicU64::new(0) }; 8] }; MAX_VCPUS];

/// Returns true if this guest is the attacker.
pub(crate) fn is_running() -> bool {
    RUNNING.load(Ordering::Relaxed)
}

/// Counts an exception of the calling vCPU.
pub(crate) fn count_exception() {
    EXCEPTIONS.fetch_add(1, Ordering::Relaxed);
}

/// Attacks for ever.
pub(crate) fn run(seed: u64) -> ! {
    SEED.store(seed, Ordering::Relaxed);
    RUNNING.store(true, Ordering::Relaxed);
    gic::start_distributor(|_| 0);
    attack()
}

/// Attacks on the calling vCPU.
fn attack() -> ! {
    let index = cpu::index();
    let vcpus = gic::count_redistributors();
    vectors::enable();
    // A vCPU that is turned off and on again does something else than before.
    let stream = index as u64 | DONE.load(Ordering::Relaxed) << 8;
    let mut attack = Attack {
        random: Random::new(SEED.load(Ordering::Relaxed), stream),
        index,
        vcpus,
    };

    let mut told = 0;
    loop {
        attack.set_up();
        for _ in 0..ACTIONS_PER_SET_UP {
            vectors::fill(attack.random.next());
            attack.act();
            DONE.fetch_add(1, Ordering::Relaxed);
            let now = cpu::now();
            if index == 0 && now - told > cpu::frequency() / 4 {
                told = now;
                let [done, interrupts, exceptions] =
                    [&DONE, &INTERRUPTS, &EXCEPTIONS].map(|count| count.load(Ordering::Relaxed));
                println!("@attacker done={done} interrupts={interrupts} exceptions={exceptions}");
            }
        }
    }
}

/// Takes an interrupt, and does not always end it as it should be ended.
pub(crate) fn interrupt() {
    INTERRUPTS.fetch_add(1, Ordering::Relaxed);
    let dice = cpu::now();
    let mut intid = gic::acknowledge();
    if intid == 1023 {
        intid = mrs!("S3_0_C12_C8_0"); // ICC_IAR0_EL1
        msr!("S3_0_C12_C8_1", intid); // ICC_EOIR0_EL1
        return;
    }

    let ticks = &TICKS[cpu::index()];
    if intid == gic::TIMER {
        if ticks.fetch_add(1, Ordering::Relaxed) > STORM {
            ticks.store(0, Ordering::Relaxed);
            gic::stop_timer();
        }
        gic::end(intid, false);
        gic::deactivate(intid);
        return;
    }

    if !dice.is_multiple_of(16) {
        msr!("S3_0_C12_C12_1", intid); // ICC_EOIR1_EL1
    }
    if dice % 32 < 20 {
        gic::deactivate(intid);
    }
}

/// Attack of one vCPU.
struct Attack {
    random: Random,
    index: usize,
    vcpus: usize,
}

impl Attack {
    /// Makes everything work, for the actions that follow.
    fn set_up(&mut self) {
        cpu::mask();
        start::set_vectors();
        gic::start_cpu(self.random.one_in(2));
        if self.random.one_in(4) {
            gic::start_distributor(|_| 0);
        }
        if self.random.one_in(2) {
            self.set_up_its();
        }
        cpu::unmask();
    }

    /// Fills the command queue with the commands that take an ITS longest.
    fn set_up_its(&mut self) {
        write32(its::CTLR, 0);
        // Another vCPU may turn the ITS on again at the same time.
        for (register, value) in [
            (its::BASER0, 1 << 63 | its::DEVICES | 2 << 8),
            (its::BASER1, 1 << 63 | its::COLLECTIONS | 2 << 8),
            (its::CBASER, 1 << 63 | its::QUEUE | (QUEUE_SIZE / 4096 - 1)),
        ] {
            write64(register, value);
        }

        let mut at = 0;
        let devices = 4;
        for device in 0..devices {
            at = its::put(at, its::mapd(device, 10, true));
        }
        for collection in 0..self.vcpus as u64 {
            at = its::put(at, its::mapc(collection, collection, true));
        }
        for event in 0..512 {
            let lpi = gic::FIRST_LPI + self.random.below(LPIS);
            let device = self.random.below(devices);
            at = its::put(at, its::mapti(device, event, lpi, event % 2));
            at = its::put(at, its::int(device, event));
        }

        while at != 0 && at < QUEUE_SIZE / 8 {
            let command = self.random_command();
            at = its::put(at, command);
        }
        cpu::publish();
        write32(its::CTLR, 1);
        write64(its::CWRITER, at);
    }

    /// Returns a command that is likely to be valid.
    fn random_command(&mut self) -> Command {
        let random = &mut self.random;
        let device = random.below(6);
        let event = random.below(1024);
        let lpi = gic::FIRST_LPI + random.below(LPIS);
        let collection = random.below(6);
        let target = random.below(self.vcpus as u64 + 1);

        match random.below(16) {
            0 => its::mapd(device, 1 + random.below(16), random.one_in(2)),
            1 => its::mapc(collection, target, !random.one_in(4)),
            2..=5 => its::mapti(device, event, lpi, collection),
            6 => its::movi(device, event, collection),
            7..=9 => its::int(device, event),
            // CLEAR, DISCARD, INV, INVALL, MOVALL
            10 => [0x04 | device << 32, event, 0, 0],
            11 => [0x0f | device << 32, event, 0, 0],
            12 => [0x0c | device << 32, event, 0, 0],
            13 => [0x0d, 0, collection, 0],
            14 => [0x0e, 0, target << 16, random.below(self.vcpus as u64) << 16],
            _ => [
                random.next() & 0x1f | random.next() << 32,
                random.next(),
                random.next(),
                random.next(),
            ],
        }
    }

    /// Performs one action.
    fn act(&mut self) {
        match self.random.below(64) {
            0..=19 => self.access_registers(),
            20 => self.raise_everything(),
            21 => self.change_groups(),
            22 => self.change_routes_and_priorities(),
            23..=26 => self.send_sgis(),
            27..=31 => self.queue_commands(),
            32 => write64(
                its::CWRITER,
                read64(its::CREADR).wrapping_sub(32) % QUEUE_SIZE,
            ),
            33..=34 => self.change_lpi_tables(),
            35 => self.change_its_tables(),
            36..=37 => self.raise_endless_level(),
            38..=41 => self.access_unmapped(),
            42..=43 => self.access_without_syndrome(),
            44 => self.jump_to_unmapped(),
            45..=47 => self.call_firmware(),
            48..=50 => self.read_system_register(),
            51..=54 => self.write_cpu_interface(),
            55..=57 => self.sleep(),
            58 => self.hog_cpu(),
            59 => write32(GICD + gic::CTLR, gic::GICD_ENABLED),
            60 => self.use_streaming_vectors(),
            61 if self.index != 0 && self.random.one_in(20) => psci::cpu_off(),
            _ => self.power_on_other(),
        }
    }

    /// Returns a value that a register's writer might choose.
    fn random_value(&mut self) -> u64 {
        let random = self.random.next();
        match self.random.below(5) {
            0 => 0,
            1 => u64::MAX,
            2 => 1 << (random % 64),
            3 => random % 1024,
            _ => random,
        }
    }

    /// Returns an address in one of the controller's frames.
    fn random_register(&mut self) -> u64 {
        let redistributors = GICR_SIZE * self.vcpus as u64;
        let (base, size) = self.random.of(&[
            (GICD, 0x1000),
            (GICD, gic::GICD_SIZE),
            (GICR, redistributors),
            (redistributor(self.index), 0x100),
            (redistributor(self.index) + gic::SGI_FRAME, 0x1000),
            (GITS, GITS_SIZE),
            (GITS, 0x140),
        ]);
        base + self.random.below(size)
    }

    /// Reads or writes an address, by an access of a random width.
    fn access(&mut self, address: u64) {
        let (value, words) = (self.random_value(), self.random.one_in(2));
        match (self.random.below(8), words) {
            (0, _) => write8(address, value as u32),
            (1, _) => write16(address & !1, value as u32),
            (2, _) => write64(address & !7, value),
            (3 | 4, _) => write32(address & !3, value as u32),
            (5, true) => drop(read8(address)),
            (5, false) => drop(read16(address & !1)),
            (6, _) => drop(read32(address & !3)),
            _ => drop(read64(address & !7)),
        }
    }

    /// Accesses some registers.
    fn access_registers(&mut self) {
        for _ in 0..8 {
            let address = self.random_register();
            self.access(address);
        }
    }

    /// Makes every SPI pending, and every SGI and PPI of one vCPU.
    fn raise_everything(&mut self) {
        for word in gic::spi_words() {
            write32(GICD + gic::ISENABLER + word * 4, u32::MAX);
            write32(GICD + gic::ISPENDR + word * 4, u32::MAX);
        }
        let target = self.random.below(self.vcpus as u64) as usize;
        let private = redistributor(target) + gic::SGI_FRAME;
        write32(private + gic::ISENABLER, u32::MAX);
        write32(private + gic::ISPENDR, u32::MAX);
    }

    /// Changes the groups of SPIs, and the group enables.
    fn change_groups(&mut self) {
        for word in gic::spi_words() {
            let value = self.random_value() as u32;
            write32(GICD + gic::IGROUPR + word * 4, value);
        }
        for _ in 0..8 {
            let groups = self.random.below(4) as u32;
            write32(GICD + gic::CTLR, 1 << 4 | groups);
        }
        write32(GICD + gic::CTLR, gic::GICD_ENABLED);
    }

    /// Changes routes and priorities of SPIs.
    fn change_routes_and_priorities(&mut self) {
        for _ in 0..64 {
            let spi = self.random.below(1020);
            let target = self.random.below(self.vcpus as u64 + 1) as usize;
            write64(GICD + gic::IROUTER + spi * 8, cpu::affinity(target));
            let value = self.random_value() as u32;
            write32(GICD + gic::IPRIORITYR + (spi & !3), value);
        }
    }

    /// Sends SGIs to some vCPUs, to all, to none.
    fn send_sgis(&mut self) {
        for _ in 0..16 {
            let value = match self.random.below(3) {
                // All other vCPUs.
                0 => 1 << 40 | self.random.below(16) << 24,
                1 => self.random.below(16) << 24 | 0xffff,
                _ => self.random.next(),
            };
            match self.random.below(4) {
                0 => msr!("S3_0_C12_C11_7", value), // ICC_SGI0R_EL1
                1 => msr!("S3_0_C12_C11_6", value), // ICC_ASGI1R_EL1
                _ => gic::send_sgi(value),
            }
        }
    }

    /// Appends a few commands, wherever the queue is.
    fn queue_commands(&mut self) {
        let mut at = (read64(its::CWRITER) % QUEUE_SIZE) & !31;
        for _ in 0..self.random.below(64) {
            let command = self.random_command();
            at = its::put(at, command);
        }
        cpu::publish();
        write64(its::CWRITER, at);
    }

    /// Turns LPIs off and on, with tables anywhere.
    fn change_lpi_tables(&mut self) {
        let frame = redistributor(self.random.below(self.vcpus as u64) as usize);
        write32(frame + gic::GICR_CTLR, 0);
        if self.random.one_in(2) {
            let (properties, pending) = (self.random_address(), self.random_address());
            write64(
                frame + gic::GICR_PROPBASER,
                properties & !0xfff | self.random.below(32),
            );
            write64(
                frame + gic::GICR_PENDBASER,
                pending & !0xffff | self.random.below(2) << 62,
            );
        }
        write32(frame + gic::GICR_CTLR, 1);
    }

    /// Gives the ITS another table or queue.
    fn change_its_tables(&mut self) {
        write32(its::CTLR, 0);
        let (register, value) = (
            self.random.of(&[its::BASER0, its::BASER1, its::CBASER]),
            self.random_value(),
        );
        let value = if self.random.one_in(2) {
            value
        } else {
            self.random_address() | 1 << 63 | value & 0xfff
        };
        write64(register, value);
        write32(its::CTLR, 1);
    }

    /// Returns an address, half of the time in RAM.
    fn random_address(&mut self) -> u64 {
        if self.random.one_in(2) {
            memory::RAM + self.random.below(memory::RAM_SIZE)
        } else {
            self.random.below(1 << 52)
        }
    }

    /// Raises the timer's line, which only [`interrupt`] lowers.
    fn raise_endless_level(&mut self) {
        self.make_timer_work();
        gic::set_timer(0);
    }

    /// Accesses an address without a device.
    fn access_unmapped(&mut self) {
        let address = self.random.below(1 << 39);
        if !(memory::RAM..memory::RAM + memory::RAM_SIZE).contains(&address) {
            self.access(address);
        }
    }

    /// Accesses registers by instructions that no syndrome describes.
    fn access_without_syndrome(&mut self) {
        let address = self.random_register() & !15;
        // SAFETY: there is no memory at the address, and what the instructions load is not used.
        unsafe {
            match self.random.below(5) {
                0 => asm!("ldp {}, {}, [{}]", out(reg) _, out(reg) _, in(reg) address),
                1 => asm!("stp xzr, xzr, [{}]", in(reg) address),
                2 => asm!("ldxr {}, [{}]", out(reg) _, in(reg) address),
                3 => asm!("ldr {}, [{}], #8", out(reg) _, inout(reg) address => _),
                _ => asm!("dc civac, {}", in(reg) address),
            }
        }
    }

    /// Jumps to an unmapped address. The exception handler returns behind the jump.
    fn jump_to_unmapped(&mut self) {
        let address = (0x80_0000_0000 - self.random.below(1 << 30)) & !3;
        // SAFETY: the exception handler continues behind the call.
        unsafe { asm!("blr {}", in(reg) address, out("x30") _, clobber_abi("C")) };
    }

    /// Calls the firmware, except for calls that end the attack.
    fn call_firmware(&mut self) {
        let function = self
            .random
            .of(&[0x8400_0000, 0xc400_0000, 0x8000_0000, 0x8600_0000])
            | self.random.below(32);
        // `SYSTEM_OFF`, `SYSTEM_RESET`, `SYSTEM_RESET2`: the same attacks would follow a reset.
        const ENDS: [u64; 3] = [8, 9, 18];
        const CPU_SUSPEND: u64 = 1;
        const CPU_OFF: u64 = 2;
        const SYSTEM_SUSPEND: u64 = 14;
        const POWER_DOWN: u64 = 1 << 16;
        let number = function & 0xffff;
        if ENDS.contains(&number) || number == CPU_OFF {
            return;
        }

        let mut arguments = [
            self.random.below(8),
            self.random_value(),
            self.random_value(),
        ];
        // These wait for an interrupt, as [`Self::sleep`] does, and may resume at an entry point.
        let entry = start::entry_of_others(attack);
        match number {
            CPU_SUSPEND if self.random.one_in(2) => {
                arguments = [POWER_DOWN, entry, 0];
                self.set_alarm();
            }
            CPU_SUSPEND => self.set_alarm(),
            SYSTEM_SUSPEND => {
                arguments[0] = entry;
                self.set_alarm();
            }
            _ => {}
        }
        psci::call(function, arguments);
        cpu::unmask();
    }

    /// Reads a system register by a random encoding.
    fn read_system_register(&mut self) {
        const MRS_X0: u64 = 0xd530_0000;
        const RET: u64 = 0xd65f_03c0;
        let encoding = self.random.below(1 << 15) << 5;

        let code = &CODE[self.index][0];
        code.store(MRS_X0 | encoding | RET << 32, Ordering::Relaxed);
        // SAFETY: the code is a read of a system register, and a return.
        unsafe {
            asm!(
                "dc cvau, {code}",
                "dsb ish",
                "ic ivau, {code}",
                "dsb ish",
                "isb",
                "blr {code}",
                code = in(reg) core::ptr::from_ref(code),
                out("x30") _,
                clobber_abi("C")
            );
        }
    }

    /// Writes a register of the CPU interface.
    fn write_cpu_interface(&mut self) {
        let value = self.random_value();
        let intid = self.random.of(&[0, 5, 27, 40, 500, 1020, 1023, 8192, 9000]);
        match self.random.below(12) {
            0 => msr!("S3_0_C4_C6_0", value & 0xff), // ICC_PMR_EL1
            1 => msr!("S3_0_C12_C12_3", value & 7),  // ICC_BPR1_EL1
            2 => msr!("S3_0_C12_C8_3", value & 7),   // ICC_BPR0_EL1
            3 => msr!("S3_0_C12_C12_4", value),      // ICC_CTLR_EL1
            4 => msr!("S3_0_C12_C12_6", value & 1),  // ICC_IGRPEN0_EL1
            5 => msr!("S3_0_C12_C12_7", value & 1),  // ICC_IGRPEN1_EL1
            6 => msr!("S3_0_C12_C12_1", intid),      // ICC_EOIR1_EL1
            7 => msr!("S3_0_C12_C8_1", intid),       // ICC_EOIR0_EL1
            8 => gic::deactivate(intid),
            9 => msr!("S3_0_C12_C9_0", value),  // ICC_AP1R0_EL1
            10 => msr!("S3_0_C12_C8_4", value), // ICC_AP0R0_EL1
            _ => drop(gic::acknowledge()),
        }

        if self.random.one_in(4) {
            msr!("S3_0_C4_C6_0", 0xff);
            msr!("S3_0_C12_C12_7", 1);
        }
        cpu::synchronize();
    }

    /// Waits for a timer interrupt.
    fn sleep(&mut self) {
        // Masked: the handler might otherwise take the timer for a storm and stop it before the
        // wait.
        self.set_alarm();
        cpu::wait();
        cpu::unmask();
    }

    /// Masks interrupts, and makes the timer interrupt soon.
    fn set_alarm(&mut self) {
        cpu::mask();
        self.make_timer_work();
        gic::set_timer(cpu::now() + self.random.below(cpu::frequency() / 1000));
    }

    /// Undoes all changes that keep the calling vCPU's timer interrupt from arriving.
    fn make_timer_work(&mut self) {
        let private = redistributor(self.index) + gic::SGI_FRAME;
        write32(private + gic::IGROUPR, u32::MAX);
        write32(private + gic::IPRIORITYR + 24, 0x8080_8080);
        write32(private + gic::ICACTIVER, u32::MAX);
        write32(private + gic::ISENABLER, 1 << gic::TIMER);
        write32(GICD + gic::CTLR, gic::GICD_ENABLED);
        msr!("S3_0_C12_C8_4", 0); // ICC_AP0R0_EL1
        msr!("S3_0_C12_C9_0", 0); // ICC_AP1R0_EL1
        msr!("S3_0_C4_C6_0", 0xff); // ICC_PMR_EL1
        msr!("S3_0_C12_C12_7", 1); // ICC_IGRPEN1_EL1
        cpu::synchronize();
    }

    /// Uses the turn up with interrupts masked.
    fn hog_cpu(&mut self) {
        cpu::mask();
        for _ in 0..self.random.below(10_000) {
            core::hint::spin_loop();
        }
        cpu::unmask();
    }

    /// Executes an instruction of SME, which traps or does not exist.
    fn use_streaming_vectors(&mut self) {
        // SAFETY: `rdsvl x0, #1` changes no other register.
        unsafe { asm!(".inst 0x04bf5820", out("x0") _) };
    }

    /// Turns another vCPU on if it is off, rarely at a useless address.
    fn power_on_other(&mut self) {
        let other = self.random.below(self.vcpus as u64) as usize;
        if self.index == 0 && self.random.one_in(200) {
            let entry = self.random_address() & !3;
            psci::cpu_on(cpu::affinity(other), entry);
        }
        start::power_on(other, attack);
    }
}
