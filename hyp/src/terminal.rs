//! The machine's console as the terminal of VMs with a part of the machine.
//!
//! Every line of a VM is printed with the VM's name before it. Input is read by lines, too: what
//! follows `NAME: ` is typed on the console of the VM of that name. A line that begins with `!` is
//! a command to the hypervisor: `!kill NAME`, `!start NAME`, `!save NAME`, `!migrate NAME`,
//! `!list`, and `!attach NAME`, after which all input is the VM's, as it is typed, and its output
//! is printed as it comes, until Ctrl-].

use alloc::string::String;

use spin::Mutex;
use vgic::epoch::CpuPin;

use crate::vm::lifetime::Wish;
use crate::vm::{self, Vm, console as vm_console};
use crate::{console, println};

/// Bytes of the longest line of input.
const WIDTH: usize = 1024;

/// Ctrl-].
const DETACH: u8 = 0x1d;

/// Line that is being typed.
static LINE: Mutex<String> = Mutex::new(String::new());

/// Prepares the terminal: input allocates nothing from then on.
pub(crate) fn start() {
    LINE.lock().reserve(WIDTH);
}

/// Takes the bytes that have been typed on the machine's console.
#[cold]
pub(crate) fn receive(pin: &CpuPin<'_>) {
    while let Some(byte) = console::read() {
        match console::attached() {
            Some(_) if byte == DETACH => {
                console::attach(None);
                println!("\nhyp: detached");
            }
            Some(vm) => type_on(vm::all()[vm], pin, [byte].into_iter()),
            None => type_line(byte, pin),
        }
    }
}

/// Takes a byte of a line.
fn type_line(byte: u8, pin: &CpuPin<'_>) {
    let mut line = LINE.lock();
    match byte {
        b'\r' | b'\n' => {
            execute(&line, pin);
            line.clear();
        }
        b' '..=b'~' if line.len() < WIDTH => line.push(char::from(byte)),
        _ => {}
    }
}

/// Executes a line.
fn execute(line: &str, pin: &CpuPin<'_>) {
    if let Some(command) = line.strip_prefix('!') {
        let done = command_of(command);
        if done.is_none() {
            println!("hyp: not understood: {line}");
        }
    } else if let Some((name, text)) = line.split_once(": ") {
        match find(name) {
            Some(vm) => type_on(vm, pin, text.bytes().chain([b'\n'])),
            None => println!("hyp: there is no VM {name}"),
        }
    }
}

/// Executes a command. Returns `None` if there is no such command, or no such VM.
fn command_of(command: &str) -> Option<()> {
    match command.split_once(' ') {
        None if command == "list" => {
            for vm in vm::all() {
                let state = if vm.lifetime.is_dead() {
                    "dead"
                } else {
                    "alive"
                };
                println!("hyp: {}: {state}, {} vCPUs", vm.name, vm.vcpus().len());
            }
        }
        Some(("kill", name)) => find(name)?.lifetime.wish(Wish::Death),
        Some(("migrate", name)) => find(name)?.lifetime.wish(Wish::Migration),
        Some(("save", name)) => find(name)?.lifetime.wish(Wish::Snapshot),
        Some(("start", name)) => find(name)?.lifetime.wish(Wish::Life),
        Some(("attach", name)) => {
            let vm = find(name)?;
            println!("hyp: attached to {name}; Ctrl-] detaches");
            console::attach(Some(vm.index));
        }
        _ => return None,
    }
    Some(())
}

fn find(name: &str) -> Option<&'static Vm> {
    vm::all().iter().copied().find(|vm| vm.name == name)
}

/// Types bytes on the console of a VM, if it lives.
fn type_on(vm: &Vm, pin: &CpuPin<'_>, bytes: impl Iterator<Item = u8>) {
    if let Some(console) = vm.console.as_ref().filter(|_| !vm.lifetime.is_dead()) {
        console.receive(bytes, |high| {
            // A VM that is being saved gets the level afterwards.
            if let Some(vgic) = vm.vgic() {
                vm_console::set_line(vgic, pin, high);
            }
        });
    }
}
