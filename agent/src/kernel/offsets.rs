//! Where the running kernel keeps what the tracker reads, from its own type information (BTF).

use btf_rs::{Btf, Type};

use super::KernelError;

/// BTF of the running kernel.
const VMLINUX: &str = "/sys/kernel/btf/vmlinux";

/// Offsets in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Offsets {
    /// `struct sock_common`, `skc_net`.
    pub(super) skc_net: u32,
    /// `struct net`, `ns.inum`.
    pub(super) net_inum: u32,
    /// `struct sock_common`, `skc_state`.
    pub(super) skc_state: u32,
    /// `struct inet_sock`, `inet_sport`.
    pub(super) inet_sport: u32,
}

impl Offsets {
    /// Reads them from the running kernel; takes some milliseconds.
    ///
    /// # Errors
    /// The kernel has no BTF (`CONFIG_DEBUG_INFO_BTF`), or a field has moved to where we do not find it.
    pub(super) fn read() -> Result<Self, KernelError> {
        let btf = Btf::from_file(VMLINUX).map_err(|e| KernelError::op("read", VMLINUX, e))?;
        let offset = |path: &str| offset(&btf, path);
        Ok(Self {
            skc_net: offset("sock_common.skc_net")?,
            net_inum: offset("net.ns.inum")?,
            skc_state: offset("sock_common.skc_state")?,
            inet_sport: offset("inet_sock.inet_sport")?,
        })
    }
}

/// Offset of a field such as `net.ns.inum`: a struct, and names of members inside each other.
fn offset(btf: &Btf, path: &str) -> Result<u32, KernelError> {
    let missing = || KernelError::op("find", path, format!("{VMLINUX} has no such field"));
    let fail = |e: btf_rs::Error| KernelError::op("find", path, e);
    let mut names = path.split('.');
    let mut here = btf
        .resolve_types_by_name(names.next().unwrap_or_default())
        .map_err(fail)?
        .into_iter()
        .find(|t| matches!(t, Type::Struct(s) if !s.members.is_empty()))
        .ok_or_else(missing)?;
    let mut bits = 0;
    for name in names {
        let (at, inner) = member(btf, &here, name).map_err(fail)?.ok_or_else(missing)?;
        bits += at;
        here = inner;
    }
    Ok(bits / 8)
}

/// Bit offset and type of a member, also inside anonymous structs and unions.
fn member(btf: &Btf, of: &Type, name: &str) -> btf_rs::Result<Option<(u32, Type)>> {
    let (Type::Struct(s) | Type::Union(s)) = of else { return Ok(None) };
    for m in &s.members {
        let inner = bare(btf, btf.resolve_chained_type(m)?)?;
        let found = btf.resolve_name(m)?;
        if found == name {
            return Ok(Some((m.bit_offset(), inner)));
        }
        if found.is_empty()
            && let Some((at, inner)) = member(btf, &inner, name)?
        {
            return Ok(Some((m.bit_offset() + at, inner)));
        }
    }
    Ok(None)
}

/// The type without typedefs and qualifiers.
fn bare(btf: &Btf, mut t: Type) -> btf_rs::Result<Type> {
    while let Type::Typedef(_) | Type::Const(_) | Type::Volatile(_) | Type::TypeTag(_) = t {
        let Some(inner) = t.as_btf_type() else { break };
        t = btf.resolve_chained_type(inner)?;
    }
    Ok(t)
}
