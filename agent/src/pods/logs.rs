//! Names of pods without asking anybody: the kubelet keeps a pod's logs in `/var/log/pods/NAMESPACE_NAME_UID`.

use std::{io, path::Path};

use super::pod::Pod;

/// Every pod that has a folder there, also those that are gone and not yet cleaned away.
///
/// # Errors
/// The folder is not there, or cannot be read.
pub(super) fn read(folder: &Path) -> io::Result<Vec<Pod>> {
    let entries = std::fs::read_dir(folder)?.flatten();
    Ok(entries.filter_map(|entry| parse(entry.file_name().to_str()?)).collect())
}

/// Takes the name of a folder apart. Neither namespaces nor names have underscores (RFC 1123).
fn parse(folder: &str) -> Option<Pod> {
    let mut parts = folder.splitn(3, '_');
    let (namespace, name, uid) = (parts.next()?, parts.next()?, parts.next()?);
    let whole = [namespace, name, uid].iter().all(|part| !part.is_empty()) && !uid.contains('_');
    whole.then(|| Pod {
        uid: uid.into(),
        namespace: namespace.into(),
        name: name.into(),
        ..Pod::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_become_pods() {
        let folder = tempfile::tempdir().unwrap();
        for name in [
            "kube-system_etcd-n1.example_d4f0a2c1b3e596877a8b9c0d1e2f3a4b",
            "default_web-0_f47ac10b-58cc-4372-a567-0e02b2c3d479",
            "lost+found",
            "_web_1",
            "a_b_c_d",
        ] {
            std::fs::create_dir(folder.path().join(name)).unwrap();
        }
        let mut pods = read(folder.path()).unwrap();
        pods.sort_by(|a, b| a.name.cmp(&b.name));
        let told: Vec<_> = pods.iter().map(|p| (p.full_name().to_string(), &*p.uid)).collect();
        let expected = [
            ("kube-system/etcd-n1.example", "d4f0a2c1b3e596877a8b9c0d1e2f3a4b"),
            ("default/web-0", "f47ac10b-58cc-4372-a567-0e02b2c3d479"),
        ];
        assert_eq!(told, expected.map(|(name, uid)| (name.to_owned(), uid)));
        assert!(read(&folder.path().join("missing")).is_err());
    }
}
