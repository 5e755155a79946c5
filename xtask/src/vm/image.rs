//! What a machine boots: the kernel proper, and an initramfs that finds the way to this machine's files.

use std::{
    fs,
    io::Write as _,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, bail, ensure};

use super::packages::Files;
use crate::shell::ask;

/// What init needs before it can see the host's files.
const MODULES: [&str; 3] = ["virtio_pci", "virtiofs", "overlay"];
/// Names under which init calls busybox.
const APPLETS: [&str; 7] = ["sh", "mount", "insmod", "mkdir", "switch_root", "cat", "sleep"];

/// The first program in the machine. The host's files are read-only below an overlay in memory, so that
/// nothing that is done in the machine reaches the host.
const INIT: &str = "#!/bin/sh
export PATH=/bin
mount -t proc proc /proc
mount -t devtmpfs dev /dev
while read module; do insmod \"/m/$module\"; done </m/order
mount -t virtiofs host /host
mount -t tmpfs -o size=80% tmpfs /memory
mkdir /memory/upper /memory/work
mount -t overlay -o lowerdir=/host,upperdir=/memory/upper,workdir=/memory/work overlay /new
for word in $(cat /proc/cmdline); do
    case $word in drainctl_guest=*) script=${word#drainctl_guest=} ;; esac
done
exec switch_root /new /bin/sh \"$script\"
";

/// Files to boot from.
pub(super) struct Image {
    /// `uname -r`.
    pub(super) release: String,
    /// The kernel as an ELF file, which QEMU starts without going through a boot loader.
    pub(super) vmlinux: PathBuf,
    pub(super) initramfs: PathBuf,
    /// Folder of modules, for the machine to load more.
    pub(super) modules: PathBuf,
}

/// Makes what is not there yet.
///
/// # Errors
/// The kernel is compressed in a way that we do not know, or a tool is missing.
pub(super) fn make(files: &Files) -> Result<Image> {
    let image = Image {
        release: files.release.clone(),
        vmlinux: files.root.join("vmlinux"),
        initramfs: files.root.join("initramfs"),
        modules: files.root.join("lib/modules").join(&files.release),
    };
    if !image.vmlinux.exists() {
        let bzimage = fs::read(&files.bzimage)
            .with_context(|| format!("read {}", files.bzimage.display()))?;
        let vmlinux = decompress(payload(&bzimage)?)?;
        put(&image.vmlinux, &vmlinux)?;
    }
    // Always: it is made in a moment, and its program changes.
    put(&image.initramfs, &initramfs(files)?)?;
    Ok(image)
}

/// Writes a file so that it is whole or not there.
fn put(path: &Path, bytes: &[u8]) -> Result<()> {
    let part = path.with_extension("part");
    fs::write(&part, bytes).with_context(|| format!("write {}", part.display()))?;
    fs::rename(&part, path).with_context(|| format!("write {}", path.display()))
}

/// The compressed kernel inside a bzImage (Documentation/arch/x86/boot.rst: `setup_sects`, `payload_offset`,
/// `payload_length`), without the length of the whole that the kernel's build appends.
fn payload(bzimage: &[u8]) -> Result<&[u8]> {
    let word = |at: usize| {
        let bytes = bzimage.get(at..at + 4)?;
        Some(u32::from_le_bytes(bytes.try_into().ok()?) as usize)
    };
    let find = || {
        let setup_sectors = usize::from(*bzimage.get(0x1f1)?);
        let start = (setup_sectors + 1) * 512 + word(0x248)?;
        bzimage.get(start..(start + word(0x24c)?).checked_sub(4)?)
    };
    find().context("this is no bzImage of Linux 2.6.24 or newer")
}

fn decompress(payload: &[u8]) -> Result<Vec<u8>> {
    let tool = match payload {
        [0x02, 0x21, 0x4c, 0x18, ..] => "lz4",
        [0x28, 0xb5, 0x2f, 0xfd, ..] => "zstd",
        _ => bail!("the kernel is compressed neither by lz4 nor by zstd"),
    };
    let vmlinux = filter(Command::new(tool).arg("-dc"), payload)?;
    ensure!(vmlinux.starts_with(b"\x7fELF"), "what {tool} made of the kernel is no ELF file");
    Ok(vmlinux)
}

/// What a command makes of `input`.
fn filter(command: &mut Command, input: &[u8]) -> Result<Vec<u8>> {
    let program = command.get_program().to_string_lossy().into_owned();
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .with_context(|| format!("start {program}"))?;
    let mut stdin = child.stdin.take().context("its input is piped")?;
    let input = input.to_vec();
    let writer = std::thread::spawn(move || stdin.write_all(&input));
    let output = child.wait_with_output().with_context(|| format!("run {program}"))?;
    let written = writer.join().is_ok_and(|written| written.is_ok());
    ensure!(written && output.status.success(), "{program} failed");
    Ok(output.stdout)
}

/// A cpio archive of busybox, the modules and init.
fn initramfs(files: &Files) -> Result<Vec<u8>> {
    let tree = files.root.join("initramfs.tree");
    let _ = fs::remove_dir_all(&tree); // One that was left behind by a power cut.
    fill(&tree, files).with_context(|| format!("fill {}", tree.display()))?;
    let pack = "find . | cpio --quiet -o -H newc";
    let packed = Command::new("sh").args(["-c", pack]).current_dir(&tree).output();
    let packed = packed.context("run cpio")?;
    ensure!(packed.status.success(), "cpio failed: {}", String::from_utf8_lossy(&packed.stderr));
    fs::remove_dir_all(&tree)?;
    Ok(packed.stdout)
}

fn fill(tree: &Path, files: &Files) -> Result<()> {
    for folder in ["bin", "proc", "dev", "host", "memory", "new", "m"] {
        fs::create_dir_all(tree.join(folder))?;
    }
    fs::copy("/bin/busybox", tree.join("bin/busybox")).context("copy /bin/busybox")?;
    for applet in APPLETS {
        symlink("busybox", tree.join("bin").join(applet))?;
    }
    let mut order = Vec::new();
    for module in modules(files)? {
        let name = module.file_name().context("a module has a name")?.to_string_lossy();
        let name = name.trim_end_matches(".xz").to_owned();
        let bytes = fs::read(&module).with_context(|| format!("read {}", module.display()))?;
        let packed = module.extension().is_some_and(|extension| extension == "xz");
        let bytes = if packed { filter(Command::new("xz").arg("-dc"), &bytes)? } else { bytes };
        fs::write(tree.join("m").join(&name), bytes)?;
        order.push(name + "\n");
    }
    fs::write(tree.join("m/order"), order.concat())?;
    fs::write(tree.join("init"), INIT)?;
    let executable = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    fs::set_permissions(tree.join("init"), executable)?;
    Ok(())
}

/// The modules, each behind those that it needs.
fn modules(files: &Files) -> Result<Vec<PathBuf>> {
    let mut all = Vec::new();
    for module in MODULES {
        let mut modprobe = Command::new("modprobe");
        modprobe.arg("-d").arg(&files.root).args(["-S", &files.release]);
        let lines = ask(modprobe.args(["--show-depends", module]));
        let lines = lines.with_context(|| format!("modprobe does not know {module}"))?;
        let paths = lines.lines().filter_map(|line| line.strip_prefix("insmod "));
        for path in paths.map(|path| PathBuf::from(path.trim())) {
            if !all.contains(&path) {
                all.push(path);
            }
        }
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_compressed_kernel_is_found_in_a_bzimage() {
        let mut bzimage = vec![0; 4096];
        bzimage[0x1f1] = 1;
        bzimage[0x248..0x24c].copy_from_slice(&16_u32.to_le_bytes());
        bzimage[0x24c..0x250].copy_from_slice(&8_u32.to_le_bytes());
        bzimage[1040..1048].copy_from_slice(b"kernSIZE");
        assert_eq!(payload(&bzimage).expect("it is there"), b"kern");
        assert!(payload(&bzimage[..1043]).is_err(), "it is cut off");
        assert!(payload(b"MZ").is_err());
    }

    #[test]
    fn init_is_valid_shell() {
        let check = Command::new("sh").args(["-n", "-c", INIT]).status();
        assert!(check.is_ok_and(|status| status.success()));
    }
}
