//! The switch: a vCPU onto a CPU, and off it.
#![expect(unsafe_code)]
// UNSAFETY: enters the guest, and uses the context of the vCPU that the calling CPU runs.

use aarch64_cpu::asm::barrier;
use scheduler::Here;
use vgic::intid::VcpuId;

use super::context::stop_timers;
use super::power::PowerState;
use super::{Vcpu, deferred, spinning};
use crate::cpu::clock::now;
use crate::cpu::this_cpu::{Loaded, ThisCpu};
use crate::cpu::virtual_lines;
use crate::exception::enter_guest;
use crate::exception::frame::Frame;
use crate::schedule;
use crate::vm::Extent;
use crate::vm::choice::Note;
use crate::vm::controller::Controller;
use crate::vm::lifetime::{self, End};

/// Reason why a CPU gives its vCPU up.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Leave {
    /// Another vCPU's turn has come, or the CPU has to start or kill a VM.
    Preempted,
    /// The vCPU waits for an interrupt.
    Blocked,
    /// The vCPU powers itself off.
    Off,
    /// The vCPU was suspended, and resumes in its reset state.
    Resumed,
    /// The vCPU ends its VM's run.
    End(End),
    /// The VM is ending, or being saved.
    Ended,
}

/// Enters a vCPU that the calling CPU, whose data is `cpu`, has picked. Returns only if the vCPU
/// cannot run: then it has been given up.
pub(crate) fn try_enter(cpu: &ThisCpu, here: Here<'_>, vcpu: &'static Vcpu) {
    load_and_enter(cpu, here, vcpu);
    put_aside(here, vcpu);
}

/// Enters a vCPU. Returns if it cannot run.
fn load_and_enter(cpu: &ThisCpu, here: Here<'_>, vcpu: &'static Vcpu) {
    let (vm, id) = (vcpu.vm, vcpu.id);
    let Some(vgic) = vm.vgic().filter(|_| vm.lifetime.is_alive()) else {
        return;
    };
    // SAFETY: this CPU has picked the vCPU.
    let context = unsafe { vcpu.context() };
    // SAFETY: until the kernel is loaded, only the first vCPU is on, and it is here. Afterwards
    // nothing is copied.
    if vcpu.power.has_start() && !unsafe { vm.load_slice() } {
        return;
    }
    if let Some((entry, argument)) = vcpu.power.take_start() {
        power_on(cpu, vgic, id);
        vcpu.delay.cancel();
        context.start(entry, argument);
    }
    if !context.is_started {
        return;
    }

    vm.activate(cpu.shared.index, vcpu);
    let frame = context.restore();
    cpu.set_loaded(Some(Loaded { vcpu, vgic }));
    schedule::set_timer(cpu);
    if vm.extent == Extent::Whole {
        // Those that came while the CPU had no vCPU, and that nobody was given.
        vgic.host().deactivate_ppis(cpu.shared.index);
    }
    {
        let pin = cpu.vgic_cpu.pin();
        cpu.ledger.open(&pin, vm);
        if let Some(changes) = &vm.changes {
            changes.look(vgic, &pin);
        }
        // After a put.
        vcpu.note(vgic, &pin, Note::Rest);
        if vgic.has_deferred() {
            deferred::advance(cpu, vgic, &pin);
        }
        vcpu.delay.load();
        vcpu.delay.end();
        (vgic.enter(&pin, id)).expect("the vCPU is on, and on no other CPU");
        if vm.has_gicv2() {
            virtual_lines::set(vgic.virtual_lines(&pin, id));
        }
    }
    if vcpu.entity.is_brief() {
        // The way here may have been longer than the turn, in which the vCPU has to get ahead.
        here.restart_turn(now());
        if let Some(event) = here.next_event() {
            // Not instead of an earlier look at deferred work.
            cpu.timer.set_earlier(event);
        }
    }
    // SAFETY: stage 2 and the vCPU's registers have just been set.
    unsafe { enter_guest(frame) }
}

/// Powers a vCPU on, with a CPU interface in its reset state. No CPU has the vCPU.
fn power_on(cpu: &ThisCpu, vgic: &Controller, id: VcpuId) {
    if vgic.is_powered_on(id) {
        // It was suspended.
        let pin = cpu.vgic_cpu.pin();
        (vgic.enter(&pin, id)).expect("the vCPU is on, and on no CPU");
        // The exit reads the status of registers that the entry has written.
        barrier::isb(barrier::SY);
        let off = vgic.exit(&pin, id);
        let off = off.and_then(|()| vgic.power_off(&pin, id));
        off.expect("the vCPU has just been entered here");
    }
    vgic.host().deactivate_ppis(cpu.shared.index);
    vgic.power_on(id);
}

/// Gives up a vCPU that the calling CPU has picked and that cannot run.
fn put_aside(here: Here<'_>, vcpu: &'static Vcpu) {
    vcpu.entity.begin_wait();
    // A start that was requested before is seen here, and the end of a save. One that is requested
    // later is a wake-up.
    let can_run = vcpu.vm.lifetime.is_alive() && {
        // SAFETY: this CPU has picked the vCPU, and the VM is not stopped before this CPU answers a
        // rendezvous.
        vcpu.power.has_start() || unsafe { vcpu.context() }.is_started
    };
    if can_run || !here.block(None, now()) {
        schedule::kick(here.preempt(now(), false));
    }
}

/// Gives up the vCPU that the calling CPU runs, with its general registers in `frame`, and runs
/// others.
pub(crate) fn leave(cpu: &'static ThisCpu, loaded: Loaded, frame: &Frame, why: Leave) -> ! {
    let Loaded { vcpu, vgic } = loaded;
    let id = vcpu.id;
    // SAFETY: this CPU runs the vCPU.
    let context = unsafe { vcpu.context() };
    context.save(frame);
    let deadline = context.deadline(vcpu.vm.clock_offset());
    stop_timers();
    {
        let pin = cpu.vgic_cpu.pin();
        let gone = match why {
            Leave::Off | Leave::Resumed => vgic.power_off(&pin, id),
            _ => vgic.vcpu_put(&pin, id),
        };
        gone.expect("the vCPU has just left the guest here");
    }
    cpu.set_loaded(None);
    vcpu.el2_time.end();

    let here = cpu.here;
    match why {
        Leave::Preempted | Leave::Resumed => {
            vcpu.delay.begin();
            // The look at the guest's instructions is dear, and nobody asks beside few.
            let spins =
                why == Leave::Preempted && here.is_crowded() && spinning::is_spinning(vcpu.vm);
            schedule::kick(here.preempt(now(), spins));
        }
        Leave::Blocked => {
            // A timer that has fired already is one that the guest has masked.
            vcpu.delay
                .block(deadline.filter(|&deadline| deadline > now()));
            if !here.block(deadline, now()) {
                schedule::kick(here.preempt(now(), false));
            }
        }
        Leave::Off => {
            context.is_started = false;
            vcpu.power.power_off();
            if vgic.has_deferred() {
                hand_over_deferred(vcpu);
            }
            put_aside(here, vcpu);
        }
        Leave::End(end) => {
            // In the vCPU's time: a VM that ends again and again has no more than its share.
            here.serve(now());
            lifetime::end(cpu, vcpu.vm, end);
            put_aside(here, vcpu);
        }
        Leave::Ended => put_aside(here, vcpu),
    }
    schedule::run(cpu)
}

/// Wakes another vCPU of the VM, to do the deferred work of one that is off.
fn hand_over_deferred(off: &Vcpu) {
    let mut vcpus = off.vm.vcpus().iter();
    if let Some(other) = vcpus.find(|vcpu| vcpu.power.state() == PowerState::On) {
        schedule::wake(other);
    }
}
