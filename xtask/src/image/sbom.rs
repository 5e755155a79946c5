//! What the programs are made of: a list of crates with versions, licences and hashes, as CycloneDX 1.5 has it.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
};

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use crate::{
    shell::{ask, host_cargo},
    workspace::Workspace,
};

/// Our packages that end up in the image: the programs, and the kernel programs inside them.
const ROOTS: [&str; 2] = ["drainctl-agent", "drainctl-ebpf"];

/// Lists what is linked into the agent and its command line.
///
/// # Errors
/// cargo does not say what they depend on.
pub(super) fn of_agent(workspace: &Workspace) -> Result<Vec<u8>> {
    let mut cargo = host_cargo(&workspace.root);
    cargo.args(["metadata", "--format-version", "1", "--locked"]);
    cargo.args(["--filter-platform", "x86_64-unknown-linux-gnu"]);
    let metadata = ask(&mut cargo).context("`cargo metadata --locked` does not work")?;
    let lock = fs::read_to_string(workspace.root.join("Cargo.lock"))?;
    let sbom = sbom(&serde_json::from_str(&metadata)?, &checksums(&lock))?;
    Ok(format!("{sbom:#}\n").into_bytes())
}

fn sbom(metadata: &Value, checksums: &BTreeMap<(String, String), String>) -> Result<Value> {
    let packages: BTreeMap<&str, &Value> = list(&metadata["packages"])
        .filter_map(|package| Some((package["id"].as_str()?, package)))
        .collect();
    let mut components = Vec::new();
    for id in linked(metadata)? {
        let package = packages.get(id).with_context(|| format!("no package {id}"))?;
        components.push(component(package, checksums));
    }
    components.sort_by_key(|component| component["purl"].to_string());
    Ok(json!({
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": { "component": {
            "type": "application",
            "name": "drainctl",
            "version": env!("CARGO_PKG_VERSION"),
        }},
        "components": components,
    }))
}

/// Ids of all packages that the roots need at run time, themselves included.
fn linked(metadata: &Value) -> Result<BTreeSet<&str>> {
    let nodes: BTreeMap<&str, &Value> = list(&metadata["resolve"]["nodes"])
        .filter_map(|node| Some((node["id"].as_str()?, node)))
        .collect();
    let roots = list(&metadata["packages"])
        .filter(|package| ROOTS.iter().any(|root| package["name"] == *root))
        .filter_map(|package| package["id"].as_str());
    let mut left: Vec<&str> = roots.collect();
    let mut found = BTreeSet::new();
    while let Some(id) = left.pop() {
        if !found.insert(id) {
            continue;
        }
        let node = nodes.get(id).with_context(|| format!("cargo resolves no {id}"))?;
        // What only builds or tests it is not in it.
        let is_linked = |dep: &&Value| list(&dep["dep_kinds"]).any(|kind| kind["kind"].is_null());
        let deps = list(&node["deps"]).filter(is_linked);
        left.extend(deps.filter_map(|dep| dep["pkg"].as_str()));
    }
    Ok(found)
}

fn component(package: &Value, checksums: &BTreeMap<(String, String), String>) -> Value {
    let text = |name: &str| package[name].as_str().unwrap_or_default().to_owned();
    let (name, version) = (text("name"), text("version"));
    let mut component = json!({
        "type": "library",
        "name": name,
        "version": version,
        "purl": format!("pkg:cargo/{name}@{version}"),
        "licenses": [{ "expression": text("license") }],
    });
    if let Some(hash) = checksums.get(&(name, version)) {
        component["hashes"] = json!([{ "alg": "SHA-256", "content": hash }]);
    }
    component
}

/// Hashes of the packages in a Cargo.lock, by name and version.
fn checksums(lock: &str) -> BTreeMap<(String, String), String> {
    let field = |package: &str, name: &str| {
        let line = package.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(" = "));
        line.map(|value| value.trim_matches('"').to_owned())
    };
    let packages = lock.split("[[package]]").skip(1);
    packages
        .filter_map(|package| {
            let key = (field(package, "name")?, field(package, "version")?);
            Some((key, field(package, "checksum")?))
        })
        .collect()
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_linked_is_listed_and_what_builds_it_is_not() {
        let package =
            |name: &str| json!({ "id": name, "name": name, "version": "1.0.0", "license": "MIT" });
        let dep = |name: &str, kind: Value| json!({ "pkg": name, "dep_kinds": [{ "kind": kind }] });
        let packages = ["drainctl-agent", "serde", "cc", "other"].map(package);
        let metadata = json!({
            "packages": packages,
            "resolve": { "nodes": [
                { "id": "drainctl-agent", "deps": [dep("serde", Value::Null), dep("cc", json!("build"))] },
                { "id": "serde", "deps": [] },
                { "id": "cc", "deps": [] },
                { "id": "other", "deps": [] },
            ]},
        });
        let lock = "[[package]]\nname = \"serde\"\nversion = \"1.0.0\"\nchecksum = \"abc\"\n";
        let sbom = sbom(&metadata, &checksums(lock)).expect("a list");
        let names: Vec<_> = list(&sbom["components"]).map(|found| &found["name"]).collect();
        assert_eq!(names, ["drainctl-agent", "serde"]);
        assert_eq!(sbom["components"][1]["hashes"][0]["content"], "abc");
        assert_eq!(sbom["components"][1]["purl"], "pkg:cargo/serde@1.0.0");
    }
}
