//! Images without a registry: what a pod's sandbox runs, an nginx put together from Debian's packages, and a gRPC
//! server. None of them has a shell.

use std::{fs, path::Path, process::Command};

use anyhow::{Context as _, Result};
use serde_json::json;

use super::folder;
use crate::{
    image::oci::{self, Image, Layer},
    peers::{self, Stamp},
    shell::{Shell, ask},
    workspace::Workspace,
};

/// nginx, and the libraries that it is linked with.
const NGINX: [&str; 7] =
    ["nginx", "nginx-common", "libc6", "libcrypt1", "libpcre2-8-0", "libssl3", "zlib1g"];

/// nginx wants to know the user that its workers run as.
const PASSWD: &str = "root:x:0:0:root:/:/\nwww-data:x:33:33:www-data:/:/\n";
const GROUP: &str = "root:x:0:\nwww-data:x:33:\n";

/// Writes archives that containerd imports to `target/kube/images`.
pub(super) fn prepare(shell: &Shell, workspace: &Workspace, agent: &Path) -> Result<()> {
    let images = folder(workspace).join("images");
    fs::create_dir_all(&images)?;
    fs::copy(agent, images.join("drainctl.tar"))?;
    nginx(shell, workspace, &images)?;
    let mut pause = Layer::new();
    pause.program("pause", &folder(workspace).join("bin/pause"))?;
    write(&images, "pause", pause, &["/pause"])?;
    let mut grpc = Layer::new();
    grpc.folder("tmp", 0o1777)?;
    grpc.program("grpc-server", &peers::folder(workspace).join("go/grpc_server"))?;
    write(&images, "grpc", grpc, &["/grpc-server", "--port=50051", "--executed=/tmp/executed"])
}

/// Unpacks the packages, without what their scripts would do: an image of the files as Debian ships them.
fn nginx(shell: &Shell, workspace: &Workspace, images: &Path) -> Result<()> {
    let policy = ask(Command::new("apt-cache").arg("policy").args(NGINX).env("LC_ALL", "C"));
    let policy = policy.context("apt-cache does not know nginx")?;
    let folder = folder(workspace).join("nginx");
    fs::create_dir_all(&folder)?;
    let stamp = Stamp::new(&folder, policy);
    if stamp.is_current() && images.join("nginx.tar").is_file() {
        return Ok(());
    }
    shell.stage(format_args!("nginx's image, from Debian's packages {}", NGINX.join(", ")));
    let (packages, root) = (folder.join("packages"), folder.join("root"));
    for folder in [&packages, &root] {
        let _ = fs::remove_dir_all(folder);
        fs::create_dir_all(folder)?;
    }
    let mut apt = Command::new("apt-get");
    // apt's own user may not write here.
    apt.args(["-q", "-o", "APT::Sandbox::User=root", "download"]).args(NGINX);
    shell.run(apt.current_dir(&packages))?;
    for package in fs::read_dir(&packages)? {
        shell.run(Command::new("dpkg").arg("-x").arg(package?.path()).arg(&root))?;
    }
    for folder in ["usr/share/doc", "usr/share/man", "usr/share/lintian", "etc"] {
        let _ = fs::remove_dir_all(root.join(folder));
    }
    let mut layer = Layer::new();
    layer.tree(&root)?;
    for (path, mode) in [("run", 0o755), ("tmp", 0o1777)] {
        layer.folder(path, mode)?;
    }
    layer.folder("etc", 0o755)?;
    layer.file("etc/passwd", 0o644, PASSWD.as_bytes())?;
    layer.file("etc/group", 0o644, GROUP.as_bytes())?;
    write(images, "nginx", layer, &["/usr/sbin/nginx", "-g", "daemon off;"])?;
    stamp.write()
}

fn write(images: &Path, name: &str, layer: Layer, entrypoint: &[&str]) -> Result<()> {
    let image = Image {
        architecture: "amd64",
        layer,
        entrypoint: entrypoint.iter().map(|word| (*word).to_owned()).collect(),
        env: Vec::new(),
        labels: json!({}),
    };
    let layout = images.join(name);
    oci::write(&layout, &format!("drainctl.test/{name}:1"), vec![image])?;
    oci::verify(&layout).with_context(|| format!("read the image {name} back"))?;
    oci::archive(&layout, &images.join(format!("{name}.tar")))?;
    Ok(fs::remove_dir_all(&layout)?)
}
