//! Puts the kernel programs where the agent embeds them.
fn main() {
    let out = std::path::PathBuf::from(std::env::var_os("OUT_DIR").unwrap());
    println!("cargo::rerun-if-env-changed=DRAINCTL_EBPF_DIR");
    if let Some(d) = std::env::var_os("DRAINCTL_EBPF_DIR") {
        println!("cargo::rerun-if-changed={}/track", d.display());
        println!("cargo::rerun-if-changed={}/gate", d.display());
    }
    for n in ["track", "gate"] {
        let b = std::env::var_os("DRAINCTL_EBPF_DIR")
            .map(|d| std::fs::read(std::path::Path::new(&d).join(n)).unwrap())
            .unwrap_or_default();
        std::fs::write(out.join(format!("{n}.o")), b).unwrap();
    }
}
