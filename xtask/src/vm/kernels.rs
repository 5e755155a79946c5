//! The kernels that people run, as Debian packages them.

/// A series of kernels.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Kernel {
    /// As on the command line and in the table.
    pub(crate) name: &'static str,
    /// The package's name begins so; `None`: the newest of the suite.
    pub(super) series: Option<&'static str>,
    /// Label of Debian's archive, and suite.
    pub(super) suite: (&'static str, &'static str),
}

const MAIN: &str = "Debian";
const SECURITY: &str = "Debian-Security";

/// Oldest first.
pub(crate) static KERNELS: [Kernel; 5] = [
    Kernel { name: "5.10", series: Some("5.10."), suite: (SECURITY, "bullseye-security") },
    Kernel { name: "6.1", series: Some("6.1."), suite: (SECURITY, "bookworm-security") },
    Kernel { name: "6.12", series: Some("6.12."), suite: (SECURITY, "bookworm-security") },
    Kernel { name: "6.18", series: Some("6.18."), suite: (MAIN, "trixie-backports") },
    Kernel { name: "newest", series: None, suite: (MAIN, "trixie-backports") },
];

/// The kernel with this name.
///
/// # Errors
/// There is none; the text lists those there are.
pub(super) fn parse(name: &str) -> Result<&'static Kernel, String> {
    KERNELS.iter().find(|kernel| kernel.name == name).ok_or_else(|| {
        let names: Vec<&str> = KERNELS.iter().map(|kernel| kernel.name).collect();
        format!("there is none of this name, only {}", names.join(", "))
    })
}

impl Kernel {
    /// The newest of these packages (`linux-image-VERSION-cloud-amd64`) that belongs to the series: its version.
    pub(super) fn newest<'a>(&self, packages: impl Iterator<Item = &'a str>) -> Option<&'a str> {
        let versions = packages.filter_map(|package| {
            package.strip_prefix("linux-image-")?.strip_suffix("-cloud-amd64")
        });
        versions
            .filter(|version| self.series.is_none_or(|series| version.starts_with(series)))
            // `linux-image-6.1-cloud-amd64` and `linux-image-cloud-amd64` are names for the newest, without files.
            .filter(|version| numbers(version).len() > 2)
            .max_by_key(|version| numbers(version))
    }
}

/// `6.1.0-56` → 6, 1, 0, 56.
fn numbers(version: &str) -> Vec<u32> {
    version.split(|c: char| !c.is_ascii_digit()).filter_map(|part| part.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_of_a_series_is_found() {
        let packages = [
            "linux-image-cloud-amd64",
            "linux-image-6.1-cloud-amd64",
            "linux-image-6.1.0-9-cloud-amd64",
            "linux-image-6.1.0-56-cloud-amd64",
            "linux-image-6.1.0-57-cloud-amd64-dbg",
            "linux-image-6.12.9+deb12-cloud-amd64",
            "linux-image-6.12.117+deb12-cloud-amd64",
            "linux-image-7.3.4+deb13-cloud-amd64",
        ];
        let newest = |name| parse(name).expect("known").newest(packages.into_iter());
        assert_eq!(newest("6.1"), Some("6.1.0-56"));
        assert_eq!(newest("6.12"), Some("6.12.117+deb12"));
        assert_eq!(newest("newest"), Some("7.3.4+deb13"));
        assert_eq!(newest("5.10"), None);
    }

    #[test]
    fn a_kernel_that_is_not_there_is_named() {
        let error = parse("4.19").expect_err("too old");
        assert!(error.contains("5.10, 6.1, 6.12, 6.18, newest"), "{error}");
    }
}
