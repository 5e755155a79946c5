//! One virtual machine: a kernel over this machine's files.

use std::{
    fs,
    io::{BufRead as _, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};

use super::image::Image;

/// Memory of the machine in MiB; what programs write to files is in it too.
const MEMORY: u32 = 4096;
/// How long a machine may take for everything. It is slow: an instruction costs some ten of ours.
const LIMIT: Duration = Duration::from_secs(3 * 3600);
/// How often a machine is booted that ends before the script begins: QEMU's emulation does not always bear how a kernel
/// rewrites its own code (docs/kernels.md). Nothing of ours has run there then.
const BOOTS: u32 = 3;
/// How long the file server may take to begin.
const SERVER_LIMIT: Duration = Duration::from_secs(10);
/// Where Debian and others have it.
const VIRTIOFSD: [&str; 2] = ["/usr/lib/qemu/virtiofsd", "/usr/libexec/virtiofsd"];

/// The file server sees the whole machine, read-only, in a mount namespace of its own that ends with it.
const SERVE: &str = r#"
mount --make-rprivate / && mount --bind / "$2" && mount -o remount,ro,bind "$2" &&
exec "$1" --socket-path="$3" -o source="$2" -o cache=always -o sandbox=chroot -o xattr
"#;

/// What the guest does before the script: what an init system does elsewhere.
const PRELUDE: &str = r#"
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LANG=C.UTF-8
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev
mkdir -p /dev/pts /dev/shm
mount -t devpts devpts /dev/pts
mount -t tmpfs tmpfs /dev/shm
mount -t tmpfs tmpfs /run
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mount -t bpf bpf /sys/fs/bpf
ip link set lo up
"#;

/// What the kernel is told. An emulated processor is slow as it is: its clock is read without asking the machine for it (a
/// device behind a lock), and it needs no care for what only real ones leak.
const WORDS: &str = "console=ttyS0 panic=-1 quiet loglevel=1 tsc=reliable clocksource=tsc mitigations=off nowatchdog rcupdate.rcu_expedited=1";

/// A kernel that can be booted, again and again.
pub(super) struct Machine {
    image: Image,
}

/// What came out of a machine.
pub(super) struct Output {
    /// What the script printed.
    pub(super) lines: Vec<String>,
    /// Whether it ended with exit code 0. A machine that crashes or hangs has not.
    pub(super) passed: bool,
    /// Whether it began.
    pub(super) began: bool,
}

impl Machine {
    /// Checks that machines can be run here.
    pub(super) fn new(image: Image) -> Result<Self> {
        let server = VIRTIOFSD.iter().any(|path| Path::new(path).is_file());
        ensure!(server, "there is no virtiofsd at {}", VIRTIOFSD.join(" or "));
        Ok(Self { image })
    }

    /// `uname -r`.
    pub(super) fn release(&self) -> &str {
        &self.image.release
    }

    /// Boots, runs a shell script as root, and ends.
    ///
    /// # Errors
    /// The machine could not be started.
    pub(super) fn run(&self, script: &str) -> Result<Output> {
        for _ in 1..BOOTS {
            let output = self.run_once(script)?;
            if output.began {
                return Ok(output);
            }
            println!("The machine ended before anything of ours ran in it: it is booted again.");
        }
        self.run_once(script)
    }

    fn run_once(&self, script: &str) -> Result<Output> {
        let scratch = Scratch::new()?;
        // A word that no test prints by chance.
        let word = format!("drainctl-vm-{:08x}", std::process::id());
        let (beginning, ending) = (format!("{word}-begins"), format!("{word}-ended"));
        let guest = scratch.0.join("guest.sh");
        let script = self.script(script, &beginning, &ending);
        fs::write(&guest, script).context("write the guest's script")?;
        let _files = Killed(self.serve(&scratch)?);
        let mut machine = self.boot(&scratch, &guest)?;
        let stdout = machine.0.stdout.take().context("its output is piped")?;
        let watchdog = Watchdog::new(machine.0.id());
        let mut output = Output { lines: Vec::new(), passed: false, began: false };
        for line in BufReader::new(stdout).split(b'\n') {
            let line = line.context("read from the machine")?;
            let line = String::from_utf8_lossy(&line).trim_end().to_owned();
            if let Some(code) = line.strip_prefix(&ending) {
                output.passed = code.trim() == "0";
                break;
            }
            if line == beginning {
                output.began = true;
                continue;
            }
            println!("{line}");
            output.lines.push(line);
        }
        watchdog.calm();
        let _ = machine.0.wait();
        Ok(output)
    }

    fn script(&self, script: &str, beginning: &str, ending: &str) -> String {
        let modules = quoted_path(&self.image.modules);
        let release = quoted(self.release());
        format!(
            "{PRELUDE}mkdir -p /usr/lib/modules/{release}\n\
             mount --bind {modules} /usr/lib/modules/{release}\n\
             echo\necho {beginning}\n( {script}\n)\necho\necho {ending} $?\necho o >/proc/sysrq-trigger\nsleep 60\n"
        )
    }

    fn serve(&self, scratch: &Scratch) -> Result<Child> {
        let program = VIRTIOFSD.iter().find(|path| Path::new(path).is_file());
        let program = program.context("find virtiofsd")?;
        let (root, socket) = (scratch.0.join("root"), scratch.socket());
        fs::create_dir(&root).context("make a folder to show this machine's files in")?;
        let mut command = Command::new("unshare");
        command.args(["--mount", "sh", "-c", SERVE, "serve", program]).arg(root).arg(&socket);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut server = command.spawn().context("start virtiofsd")?;
        let began = Instant::now();
        while !socket.exists() {
            let ended = server.try_wait().context("ask for virtiofsd")?;
            let late = began.elapsed() > SERVER_LIMIT;
            if ended.is_some() || late {
                let _ = server.kill();
                let _ = server.wait();
                anyhow::bail!("virtiofsd did not begin to serve");
            }
            thread::sleep(Duration::from_millis(20));
        }
        Ok(server)
    }

    /// Hardware virtualization is not even tried, so that a run means the same everywhere.
    fn boot(&self, scratch: &Scratch, guest: &Path) -> Result<Killed> {
        let memory = format!("memory-backend-memfd,id=m,size={MEMORY}M,share=on");
        let socket = format!("socket,id=c0,path={}", scratch.socket().display());
        let words = format!("{WORDS} drainctl_guest={}", guest.display());
        let mut qemu = Command::new("qemu-system-x86_64");
        qemu.args(["-M", "q35", "-accel", "tcg,thread=multi", "-cpu", "qemu64", "-smp", "2"])
            .args(["-m", &MEMORY.to_string(), "-nodefaults", "-no-user-config"])
            .args(["-display", "none", "-no-reboot", "-serial", "stdio"])
            .arg("-kernel")
            .arg(&self.image.vmlinux)
            .arg("-initrd")
            .arg(&self.image.initramfs)
            .args(["-append", &words, "-object", &memory, "-numa", "node,memdev=m"])
            .args(["-chardev", &socket, "-device"])
            .arg("vhost-user-fs-pci,chardev=c0,tag=host,queue-size=1024")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit());
        qemu.spawn().map(Killed).context("start qemu-system-x86_64")
    }
}

/// A process that ends when this is dropped.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A folder for one run.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Result<Self> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("drainctl-vm-{}-{number}", std::process::id());
        let folder = std::env::temp_dir().join(name);
        fs::create_dir(&folder).with_context(|| format!("make {}", folder.display()))?;
        Ok(Self(folder))
    }

    fn socket(&self) -> PathBuf {
        self.0.join("files.sock")
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // Nothing is mounted here outside of the file server's namespace.
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Ends a machine that takes too long.
struct Watchdog(std::sync::mpsc::Sender<()>);

impl Watchdog {
    fn new(pid: u32) -> Self {
        let (calm, calmed) = std::sync::mpsc::channel::<()>();
        thread::spawn(move || {
            if calmed.recv_timeout(LIMIT) == Err(std::sync::mpsc::RecvTimeoutError::Timeout) {
                let _ = Command::new("kill").args(["-9", &pid.to_string()]).status();
            }
        });
        Self(calm)
    }

    /// It has ended by itself.
    fn calm(self) {
        // The thread may have fired already.
        let _ = self.0.send(());
    }
}

/// A word for the guest's shell.
pub(super) fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

/// A path for the guest's shell.
pub(super) fn quoted_path(path: &Path) -> String {
    quoted(&path.to_string_lossy())
}
