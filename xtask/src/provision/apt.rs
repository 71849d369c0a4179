//! Debian packages without root: a private state of apt's, and unpacking instead of installing.
//!
//! The mirrors and the keyring are those of this machine's own apt configuration; only the
//! suites differ (a machine has no arm64 lists, and rarely backports).

use std::cell::OnceCell;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

use crate::process::{self, Show};
use crate::project::Scratch;
use crate::{console, project};

/// The release whose kernels the guest boots.
const GUEST_RELEASE: &str = "bookworm";

/// The release whose backports follow the stable compiler.
const COMPILER_RELEASE: &str = "trixie";

/// The paths of Debian's archive key, by release of Debian.
const KEYRINGS: [&str; 2] = [
    "/usr/share/keyrings/debian-archive-keyring.gpg",
    "/usr/share/keyrings/debian-archive-keyring.pgp",
];

/// The machine that packages are for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum For {
    /// This machine: its installed packages count as present.
    Host,
    /// The arm64 guest: nothing is installed.
    Guest,
    /// This machine's compiler, which may be newer than anything else here.
    Compiler,
}

/// A package at a version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Package {
    /// The package's name.
    pub(crate) name: String,
    /// The version, as Debian writes it.
    pub(crate) version: String,
}

/// apt, opened when something is first wanted from it.
#[derive(Debug)]
pub struct Lazy {
    whose: For,
    apt: OnceCell<Apt>,
}

impl Lazy {
    /// Defers opening apt for a machine.
    pub fn new(whose: For) -> Self {
        Self {
            whose,
            apt: OnceCell::new(),
        }
    }

    /// Opens apt, or returns it opened.
    pub(crate) fn get(&self) -> Result<&Apt> {
        match self.apt.get() {
            Some(apt) => Ok(apt),
            None => {
                let apt = Apt::open(self.whose)?;
                Ok(self.apt.get_or_init(|| apt))
            }
        }
    }
}

/// apt with a state of its own, gone when dropped.
#[derive(Debug)]
pub(crate) struct Apt {
    state: Scratch,
    /// The release whose packages these are.
    release: String,
}

impl Apt {
    /// Makes the private state and fetches the package lists.
    pub(crate) fn open(whose: For) -> Result<Self> {
        let state = project::scratch()?;
        for directory in ["lists/partial", "archives/partial"] {
            fs::create_dir_all(state.path().join(directory))?;
        }
        fs::write(state.path().join("status"), "")?;
        let targets = targets("apt-get")?;
        let mirrors = Mirrors::of(&targets)?;
        let release = match whose {
            For::Host => mirrors.installed.to_owned(),
            For::Guest => GUEST_RELEASE.to_owned(),
            For::Compiler => COMPILER_RELEASE.to_owned(),
        };
        fs::write(state.path().join("sources.list"), mirrors.sources(&release))?;
        fs::write(
            state.path().join("apt.conf"),
            configuration(state.path(), whose),
        )?;
        let apt = Self { state, release };
        console::detail("reading Debian's package lists");
        // A mirror without one of the suites still serves the others; a package that is missing in
        // the end is reported by name when it is asked for.
        let update = process::finish(apt.get().arg("update"), Show::OnFailure)?;
        if !update.success {
            update.stderr.lines().for_each(console::detail);
        }
        Ok(apt)
    }

    /// Lists the versions of a package, newest first, each with its `Depends` line.
    pub(crate) fn versions(&self, package: &str) -> Result<Vec<(Package, String)>> {
        let shown = process::run(self.cache().arg("show").arg(package), Show::OnFailure)
            .with_context(|| format!("no package {package} on this machine's Debian mirror"))?;
        Ok(stanzas(&shown))
    }

    /// Lists the packages to install from backports for `package`, itself included.
    pub(crate) fn missing_for(&self, package: &str) -> Result<Vec<Package>> {
        let plan = process::run(
            self.get()
                .args([
                    "install",
                    "--simulate",
                    "--no-install-recommends",
                    "--target-release",
                ])
                .arg(format!("{}-backports", self.release))
                .arg(package),
            Show::OnFailure,
        )?;
        Ok(planned(&plan))
    }

    /// Downloads packages (apt checks their hashes) and unpacks them all into `into`.
    pub(crate) fn unpack(&self, packages: &[Package], into: &Path) -> Result<()> {
        ensure!(!packages.is_empty(), "nothing to fetch");
        let downloads = self.state.path().join("downloads");
        fs::create_dir_all(&downloads)?;
        let wanted = packages.iter().map(|p| format!("{}={}", p.name, p.version));
        process::run(
            self.get()
                .current_dir(&downloads)
                .args(["--quiet", "download"])
                .args(wanted),
            Show::Lines,
        )?;
        for entry in fs::read_dir(&downloads)? {
            let archive = entry?.path();
            let mut dpkg = Command::new("dpkg");
            process::run(
                dpkg.arg("--extract").arg(&archive).arg(into),
                Show::OnFailure,
            )?;
        }
        fs::remove_dir_all(&downloads)?;
        Ok(())
    }

    /// Returns an `apt-get` command with this state.
    fn get(&self) -> Command {
        self.tool("apt-get")
    }

    /// Returns an `apt-cache` command with this state.
    fn cache(&self) -> Command {
        self.tool("apt-cache")
    }

    /// Returns a command of apt's with this state.
    fn tool(&self, name: &str) -> Command {
        let mut command = Command::new(name);
        command
            .arg("--config-file")
            .arg(self.state.path().join("apt.conf"))
            .env("LC_ALL", "C");
        command
    }
}

/// The things that apt fetches, and how a user without it supplies each.
const WITHOUT_APT: &str = "there is no apt here to fetch it. Supply it yourself:\n  \
    QEMU 9.2 or newer: qemu-system-aarch64 on the PATH\n  \
    valgrind: on the PATH\n  \
    a guest: `cargo xtask boot --kernel PATH`, with --initrd PATH if it wants one; such a guest \
    runs without the workload\n  \
    a Rust target: by rustup";

/// Asks this machine's apt for its lists.
fn targets(program: &str) -> Result<String> {
    let mut command = Command::new(program);
    command
        .args(["indextargets", "--format"])
        .arg(TARGET_FORMAT);
    process::run(&mut command, Show::OnFailure).context(WITHOUT_APT)
}

/// The format of `apt-get indextargets`: one line `suite component kind address` for each list.
const TARGET_FORMAT: &str = "$(RELEASE) $(COMPONENT) $(CREATED_BY) $(REPO_URI)";

/// The Debian mirrors that this machine uses.
#[derive(Debug)]
struct Mirrors<'a> {
    /// The suite that this machine has installed, such as `bookworm`.
    installed: &'a str,
    archive: &'a str,
    security: Option<&'a str>,
}

impl<'a> Mirrors<'a> {
    /// Finds the mirrors among apt's targets, printed in [`TARGET_FORMAT`].
    fn of(targets: &'a str) -> Result<Self> {
        let mut archive = None;
        let mut security = None;
        for line in targets.lines() {
            let [suite, "main", "Packages", address] = line.split(' ').collect::<Vec<_>>()[..]
            else {
                continue;
            };
            if suite.ends_with("-security") {
                security.get_or_insert(address);
            } else if DEBIAN_RELEASES.contains(&suite) {
                archive.get_or_insert((suite, address));
            }
        }
        let Some((installed, archive)) = archive else {
            bail!(
                "this machine's apt knows no Debian mirror ({}), so {WITHOUT_APT}",
                DEBIAN_RELEASES.join(", ")
            );
        };
        Ok(Self {
            installed,
            archive,
            security,
        })
    }

    /// Writes the sources.list of a release on these mirrors.
    fn sources(&self, release: &str) -> String {
        // Only the lists of packages: no translations, no desktop metadata.
        let options = match KEYRINGS.into_iter().find(|path| Path::new(path).exists()) {
            Some(path) => format!("[target=Packages signed-by={path}]"),
            None => "[target=Packages]".to_owned(),
        };
        let mut suites = vec![
            (self.archive, release.to_owned()),
            (self.archive, format!("{release}-updates")),
            (self.archive, format!("{release}-backports")),
        ];
        suites.extend(
            self.security
                .map(|address| (address, format!("{release}-security"))),
        );
        let line = |(address, suite)| format!("deb {options} {address} {suite} main\n");
        suites.into_iter().map(line).collect()
    }
}

/// The suites that are Debian's main archive, by their names in a sources.list.
const DEBIAN_RELEASES: [&str; 5] = ["bookworm", "trixie", "forky", "stable", "oldstable"];

/// Writes apt's configuration for a private state in `state`.
fn configuration(state: &Path, whose: For) -> String {
    let state = state.display();
    let mut text = format!(
        "#clear APT::Update::Pre-Invoke;\n\
         #clear APT::Update::Post-Invoke;\n\
         #clear APT::Update::Post-Invoke-Success;\n\
         #clear DPkg::Post-Invoke;\n\
         APT::Sandbox::User \"root\";\n\
         Acquire::Languages \"none\";\n\
         Acquire::Retries \"3\";\n\
         Dir::State::lists \"{state}/lists\";\n\
         Dir::Cache \"{state}\";\n\
         Dir::Cache::archives \"{state}/archives\";\n\
         Dir::Etc::sourcelist \"{state}/sources.list\";\n\
         Dir::Etc::sourceparts \"/dev/null\";\n"
    );
    if whose == For::Guest {
        let _ = write!(
            text,
            "#clear APT::Architectures;\n\
             APT::Architecture \"arm64\";\n\
             APT::Architectures \"arm64\";\n\
             Dir::State::status \"{state}/status\";\n"
        );
    }
    text
}

/// Reads the stanzas of `apt-cache show`: a package at a version, and its `Depends` line.
fn stanzas(shown: &str) -> Vec<(Package, String)> {
    let stanza = |text: &str| {
        let field = |name| text.lines().find_map(|line| line.strip_prefix(name));
        let package = Package {
            name: field("Package: ")?.to_owned(),
            version: field("Version: ")?.to_owned(),
        };
        Some((package, field("Depends: ").unwrap_or_default().to_owned()))
    };
    shown.split("\n\n").filter_map(stanza).collect()
}

/// Reads the plan of `apt-get --simulate install`: lines `Inst NAME [OLD] (NEW ...`.
fn planned(plan: &str) -> Vec<Package> {
    let package = |line: &str| {
        let (name, rest) = line.strip_prefix("Inst ")?.split_once(' ')?;
        let version = rest.split_once('(')?.1.split_once(' ')?.0;
        Some(Package {
            name: name.to_owned(),
            version: version.to_owned(),
        })
    };
    plan.lines().filter_map(package).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TARGETS: &str = "\
nodistro main Packages https://third.example/x/
bookworm main Packages http://mirror.example/debian/
bookworm main Translations http://mirror.example/debian/
bookworm-updates main Packages http://mirror.example/debian/
bookworm-security main Packages http://mirror.example/debian-security/
";

    #[test]
    fn sources_follow_the_machine_and_nothing_else() {
        let list = Mirrors::of(TARGETS).unwrap().sources("bookworm");
        let suites: Vec<_> = list
            .lines()
            .map(|line| line.split("] ").nth(1).unwrap())
            .collect();
        assert_eq!(
            suites,
            [
                "http://mirror.example/debian/ bookworm main",
                "http://mirror.example/debian/ bookworm-updates main",
                "http://mirror.example/debian/ bookworm-backports main",
                "http://mirror.example/debian-security/ bookworm-security main",
            ]
        );
    }

    #[test]
    fn the_installed_release_is_found_and_security_may_be_absent() {
        let targets = "trixie main Packages mirror+file:/etc/apt/mirrors/debian.list\n";
        let mirrors = Mirrors::of(targets).unwrap();
        assert_eq!(mirrors.installed, "trixie");
        assert_eq!(mirrors.sources("bookworm").lines().count(), 3);
    }

    #[test]
    fn a_machine_without_apt_is_told_what_to_supply() {
        let error = targets("no-such-apt-get").unwrap_err().to_string();
        for word in ["--kernel", "--initrd", "qemu-system-aarch64", "valgrind"] {
            assert!(error.contains(word), "{error}");
        }
    }

    #[test]
    fn a_machine_without_a_debian_mirror_is_told_so() {
        let error = Mirrors::of("noble main Packages http://other.example/\n").unwrap_err();
        assert!(error.to_string().contains("no Debian mirror"), "{error}");
    }

    #[test]
    fn a_plan_names_new_and_upgraded_packages() {
        let plan = "\
Reading package lists...
Inst libslirp0 (4.7.0-1 Debian:12.15/oldstable [amd64])
Inst libc6 [2.36-9] (2.36-10 Debian:12.15/oldstable [amd64]) []
Conf libslirp0 (4.7.0-1 Debian:12.15/oldstable [amd64])
";
        let planned: Vec<_> = planned(plan)
            .into_iter()
            .map(|p| format!("{}={}", p.name, p.version))
            .collect();
        assert_eq!(planned, ["libslirp0=4.7.0-1", "libc6=2.36-10"]);
    }

    #[test]
    fn stanzas_carry_version_and_dependencies() {
        let shown = "Package: a\nVersion: 2\nDepends: b (= 2), c\n\nPackage: a\nVersion: 1\n";
        let stanzas = stanzas(shown);
        assert_eq!(stanzas.len(), 2);
        assert_eq!(
            (stanzas[0].0.version.as_str(), stanzas[0].1.as_str()),
            ("2", "b (= 2), c")
        );
        assert_eq!(stanzas[1].1, "");
    }
}
