//! The emulated machine: the same for both hypervisors, and a run of it.

use std::fmt;
use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use super::build::Programs;
use xtask::console;
use xtask::kvm::Host;
use xtask::process::{POLL, interrupted};
use xtask::provision::qemu::Qemu;

/// QEMU's arguments for the machine, which the report names.
pub(crate) const FLAGS: &str = "-machine virt,gic-version=3,virtualization=on -cpu neoverse-n1 \
     -accel tcg,thread=single -icount shift=0,sleep=off -m 512M -smp 4";

/// QEMU's arguments for the machine with a GICv4. The SMMU is for devices that are passed through.
pub(crate) const DIRECT_FLAGS: &str = "-machine virt,gic-version=4,virtualization=on,iommu=smmuv3 \
     -cpu neoverse-n1 -accel tcg,thread=single -icount shift=0,sleep=off -m 512M -smp 4";

/// Argument that reduces the machine to one CPU, for hyp: its vCPUs go to any CPU that is idle.
const ONE_CPU: [&str; 2] = ["-smp", "1"];

/// Arguments that let the client of /dev/kvm write the map of the kernel's code to a file.
pub(crate) const CLIENTS_FILES: [&str; 2] = [
    "-semihosting-config",
    "enable=on,target=native,userspace=on",
];

/// The beginning of each line of the console of a VM with a part of the machine.
const VM: &str = "vm0: ";

/// The address at which hyp's boot loader puts the guest; hyp moves it to its place.
pub(crate) const MODULE: u64 = 0x4840_0000;

/// The longest run. On a machine that is not busy it takes a minute.
const LIMIT: Duration = Duration::from_secs(400);

/// The beginning of a line of the console that tells of progress.
const PROGRESS: &str = "guest: ";

/// The way of MSIs to a vCPU, on a machine with a GICv4.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Delivery {
    /// The hypervisor takes each MSI and injects it.
    ListRegisters,
    /// The hypervisor injects it, for a vCPU that has a virtual PE.
    VirtualPe,
    /// The ITS sends it to the virtual PE.
    Direct,
}

impl fmt::Display for Delivery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::ListRegisters => "list registers",
            Self::VirtualPe => "list registers, virtual PEs",
            Self::Direct => "direct injection",
        })
    }
}

/// The set-up that the runs have in common.
pub(crate) struct Run<'a> {
    qemu: &'a Qemu,
    plugin: &'a Path,
    scratch: &'a Path,
}

/// The outcome of a run.
pub(crate) struct Counted {
    /// The plugin's counts, as it wrote them.
    pub(crate) counts: String,
    /// The lines of the console.
    pub(crate) console: Vec<String>,
}

impl<'a> Run<'a> {
    /// Sets runs up with a plugin, whose output goes to `scratch`.
    pub(crate) fn new(qemu: &'a Qemu, plugin: &'a Path, scratch: &'a Path) -> Self {
        Self {
            qemu,
            plugin,
            scratch,
        }
    }

    /// Runs the guest under hyp. A device that sends messages when it is told to stands for the
    /// devices of a machine.
    pub(crate) fn under_hyp(&self, programs: &Programs) -> Result<Counted> {
        self.run_hyp(programs, "", &["-device", "edu"])
    }

    /// Runs the guest under hyp, with one CPU for its two vCPUs.
    pub(crate) fn under_hyp_on_one_cpu(&self, programs: &Programs) -> Result<Counted> {
        self.run_hyp(programs, ",bootargs=hyp.vcpus=2", &ONE_CPU)
    }

    /// Runs the guest under hyp, with a part of the machine: a CPU for each vCPU, and no device.
    pub(crate) fn under_hyp_with_a_part(&self, programs: &Programs) -> Result<Counted> {
        self.run_hyp(programs, ",bootargs=hyp.vcpus=4", &[])
    }

    /// Runs hyp with `options` of the guest's module and more arguments for QEMU.
    fn run_hyp(&self, programs: &Programs, options: &str, more: &[&str]) -> Result<Counted> {
        self.run(FLAGS, |command| add_hyp(command, programs, options, more))
    }

    /// Runs the guest under hyp on a machine with a GICv4: with the whole machine, and with one CPU
    /// and the device.
    pub(crate) fn under_hyp_by(&self, programs: &Programs, delivery: Delivery) -> Result<String> {
        let option = match delivery {
            Delivery::ListRegisters => "hyp.direct=off",
            Delivery::VirtualPe | Delivery::Direct => "hyp.direct=on",
        };
        let whole = self.run(DIRECT_FLAGS, |command| {
            let more = ["-device", "edu", "-append", option];
            add_hyp(command, programs, "", &more)
        })?;
        let one_cpu = self.run(DIRECT_FLAGS, |command| {
            // A vCPU has a virtual PE if the VM has a device.
            let options = format!(",bootargs=hyp.vcpus=2 hyp.pci=00:01.0 {option}");
            add_hyp(command, programs, &options, &["-device", "edu"]).args(ONE_CPU)
        })?;
        Ok(whole.counts + &one_cpu.counts)
    }

    /// Runs the guest under the KVM of a Linux kernel on a machine with a GICv4. For direct
    /// injection MSIs come from a device that is passed through, otherwise from user space.
    pub(crate) fn under_kvm_by(&self, host: &Host, delivery: Delivery) -> Result<String> {
        let map = self.map();
        let (parameter, word) = match delivery {
            Delivery::ListRegisters => ("kvm-arm.vgic_v4_enable=0", "measured"),
            Delivery::VirtualPe => ("kvm-arm.vgic_v4_enable=1", "measured"),
            Delivery::Direct => ("kvm-arm.vgic_v4_enable=1", "passed-through"),
        };
        let counted = self.run(DIRECT_FLAGS, |command| {
            command.args(CLIENTS_FILES).args(["-device", "edu"]);
            host.boot_with(command, parameter, &format!("{word} {}", map.display()));
            command
        })?;
        Ok(counted.counts)
    }

    /// Runs the guest under the KVM of a Linux kernel.
    pub(crate) fn under_kvm(&self, host: &Host) -> Result<String> {
        let map = self.map();
        let counted = self.run(FLAGS, |command| {
            command.args(CLIENTS_FILES);
            host.boot(command, &format!("measured {}", map.display()));
            command
        })?;
        Ok(counted.counts)
    }

    /// Runs a program that is loaded as an ELF file at EL2.
    pub(crate) fn alone(&self, elf: &Path) -> Result<String> {
        let counted = self.run(FLAGS, |command| command.arg("-kernel").arg(elf))?;
        Ok(counted.counts)
    }

    /// Returns the path of the map of the code, which is written before the first event.
    pub(crate) fn map(&self) -> PathBuf {
        self.scratch.join("map")
    }

    /// Runs the machine of these flags with the arguments that `add` adds.
    fn run(&self, flags: &str, add: impl FnOnce(&mut Command) -> &mut Command) -> Result<Counted> {
        let out = self.scratch.join("counts");
        let mut command = self.qemu.command()?;
        command
            .args(flags.split_whitespace())
            .args(["-nodefaults", "-display", "none", "-no-reboot"])
            .args(["-serial", "stdio", "-monitor", "none", "-plugin"])
            .arg(plugin_argument(
                self.plugin,
                &[("out", &out), ("map", &self.map())],
            ));
        add(&mut command);

        let console = watch_to_the_end(&mut command)?;
        let counts = fs::read_to_string(&out).context("the plugin left no counts")?;
        fs::remove_file(&out)?;
        Ok(Counted { counts, console })
    }
}

/// Adds hyp, the guest with `options` of its module, and more arguments.
fn add_hyp<'c>(
    command: &'c mut Command,
    programs: &Programs,
    options: &str,
    more: &[&str],
) -> &'c mut Command {
    let guest = programs.guest.display();
    let module = format!("guest-loader,addr={MODULE:#x},kernel={guest}{options}");
    command
        .arg("-kernel")
        .arg(&programs.hyp)
        .args(["-device", &module])
        .args(more)
}

/// Formats a plugin's argument, with the files that the plugin's own arguments name. QEMU splits it
/// at commas; a doubled one is part of a value.
pub(crate) fn plugin_argument(plugin: &Path, files: &[(&str, &Path)]) -> String {
    let quoted = |path: &Path| path.display().to_string().replace(',', ",,");
    let files = files
        .iter()
        .map(|(name, file)| format!(",{name}={}", quoted(file)));
    quoted(plugin) + &files.collect::<String>()
}

/// Runs the machine to the guest's end, and returns the lines of its console.
pub(crate) fn watch_to_the_end(command: &mut Command) -> Result<Vec<String>> {
    let console = watch(command)?;
    let failed = |line: &&String| line.contains("failed") || line.contains("panic");
    if let Some(line) = console.iter().find(failed) {
        bail!("the run failed: {line}");
    }
    ensure!(
        console.iter().any(|line| line == "guest: done"),
        "the guest did not come to its end: {}",
        console.last().map_or("it printed nothing", String::as_str)
    );
    Ok(console)
}

/// Runs the machine to its end, shows its progress, and returns the lines of its console.
fn watch(command: &mut Command) -> Result<Vec<String>> {
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        // Ctrl-C is for this program to answer: QEMU would end on its own.
        .process_group(0)
        .spawn()
        .context("cannot start QEMU")?;
    let output = child.stdout.take().context("QEMU has no output")?;
    thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let lines = BufReader::new(output).split(b'\n').map_while(Result::ok);
            let text = lines.map(|line| {
                let line = String::from_utf8_lossy(&line);
                let line = line.trim_end();
                line.strip_prefix(VM).unwrap_or(line).to_owned()
            });
            text.inspect(|line| {
                if let Some(progress) = line.strip_prefix(PROGRESS) {
                    console::detail(progress);
                }
            })
            .collect::<Vec<_>>()
        });
        let ended = supervise(&mut child);
        // QEMU goes on running in no case.
        let _ = child.kill();
        let _ = child.wait();
        let lines = reader.join().unwrap_or_default();
        ended.map(|()| lines)
    })
}

/// Waits for the end of QEMU.
fn supervise(child: &mut Child) -> Result<()> {
    let began = Instant::now();
    loop {
        if let Some(status) = child.try_wait()? {
            ensure!(
                status.success(),
                "QEMU failed: {status} (it has to be 9.1 or later to load the plugin)"
            );
            return Ok(());
        }
        if interrupted() {
            bail!("interrupted while the guest ran");
        }
        ensure!(
            began.elapsed() < LIMIT,
            "the guest did not finish in {} s",
            LIMIT.as_secs()
        );
        thread::sleep(POLL);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commas_in_paths_are_kept() {
        let argument = plugin_argument(
            Path::new("/a,b/p.so"),
            &[("out", Path::new("/c")), ("map", Path::new("/d"))],
        );
        assert_eq!(argument, "/a,,b/p.so,out=/c,map=/d");
    }

    #[test]
    fn the_console_is_read_and_a_failure_told() {
        let lines = watch(Command::new("sh").args(["-c", "printf 'a\\r\\nguest: b\\n'"]));
        assert_eq!(lines.unwrap(), ["a", "guest: b"]);
        assert!(watch(Command::new("sh").args(["-c", "exit 1"])).is_err());
    }
}
