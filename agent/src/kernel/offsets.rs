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
    /// `struct sock_common`, `skc_cookie`.
    pub(super) skc_cookie: u32,
}

/// What the retire programs read besides, offsets in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct RetireOffsets {
    /// `struct sock`, `sk_user_data`.
    pub(super) sk_user_data: u32,
    /// `struct sock_common`, `skc_flags`.
    pub(super) sk_flags: u32,
    /// Not an offset: the number of the bit `SOCK_ZEROCOPY` in `sk_flags` (`enum sock_flags`).
    pub(super) sock_zerocopy: u32,
    /// `struct tcp_sock`, `copied_seq`.
    pub(super) copied_seq: u32,
    /// `struct tcp_sock`, `snd_una`.
    pub(super) snd_una: u32,
    /// `struct tcp_sock`, `write_seq`.
    pub(super) write_seq: u32,
    /// `struct sock`, `sk_wmem_queued`.
    pub(super) sk_wmem_queued: u32,
    /// `struct sock`, `sk_sndbuf`.
    pub(super) sk_sndbuf: u32,
    /// `struct inet_connection_sock`, `icsk_ack.lrcvtime`.
    pub(super) lrcvtime: u32,
    /// `struct tcp_sock`, `lsndtime`.
    pub(super) lsndtime: u32,
    /// `struct tcp_sock`, `bytes_acked`.
    pub(super) bytes_acked: u32,
    /// `struct tcp_sock`, `bytes_received`.
    pub(super) bytes_received: u32,
    /// `struct tcp_sock`, `snd_nxt`.
    pub(super) snd_nxt: u32,
    /// `struct tcp_sock`, `notsent_lowat`.
    pub(super) notsent_lowat: u32,
    /// `struct net`, `ipv4.sysctl_tcp_notsent_lowat`.
    pub(super) net_notsent_lowat: u32,
}

impl Offsets {
    /// Reads them from the running kernel; takes some milliseconds.
    ///
    /// # Errors
    /// The kernel has no BTF (`CONFIG_DEBUG_INFO_BTF`), or a field has moved to where we do not find it.
    pub(super) fn read() -> Result<Self, KernelError> {
        let btf = vmlinux()?;
        let offset = |path: &str| offset(&btf, path);
        Ok(Self {
            skc_net: offset("sock_common.skc_net")?,
            net_inum: offset("net.ns.inum")?,
            skc_state: offset("sock_common.skc_state")?,
            inet_sport: offset("inet_sock.inet_sport")?,
            skc_cookie: offset("sock_common.skc_cookie")?,
        })
    }
}

impl RetireOffsets {
    /// Reads them from the running kernel; takes some milliseconds.
    ///
    /// # Errors
    /// As [`Offsets::read`].
    pub(super) fn read() -> Result<Self, KernelError> {
        let btf = vmlinux()?;
        let offset = |path: &str| offset(&btf, path);
        Ok(Self {
            sk_user_data: offset("sock.sk_user_data")?,
            sk_flags: offset("sock_common.skc_flags")?,
            sock_zerocopy: enumerator(&btf, "sock_flags", "SOCK_ZEROCOPY")?,
            copied_seq: offset("tcp_sock.copied_seq")?,
            snd_una: offset("tcp_sock.snd_una")?,
            write_seq: offset("tcp_sock.write_seq")?,
            sk_wmem_queued: offset("sock.sk_wmem_queued")?,
            sk_sndbuf: offset("sock.sk_sndbuf")?,
            lrcvtime: offset("inet_connection_sock.icsk_ack.lrcvtime")?,
            lsndtime: offset("tcp_sock.lsndtime")?,
            bytes_acked: offset("tcp_sock.bytes_acked")?,
            bytes_received: offset("tcp_sock.bytes_received")?,
            snd_nxt: offset("tcp_sock.snd_nxt")?,
            notsent_lowat: offset("tcp_sock.notsent_lowat")?,
            net_notsent_lowat: offset("net.ipv4.sysctl_tcp_notsent_lowat")?,
        })
    }
}

/// Read as a whole: the parser asks for its position at each type, which in a file are a quarter of a million system calls.
fn vmlinux() -> Result<Btf, KernelError> {
    let bytes = std::fs::read(VMLINUX).map_err(|e| KernelError::op("read", VMLINUX, e))?;
    Btf::from_bytes(&bytes).map_err(|e| KernelError::op("read", VMLINUX, e))
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

/// Value of a name in an enumeration.
fn enumerator(btf: &Btf, of: &str, name: &str) -> Result<u32, KernelError> {
    let fail = |e: btf_rs::Error| KernelError::op("find", name, e);
    for t in btf.resolve_types_by_name(of).map_err(fail)? {
        let Type::Enum(e) = t else { continue };
        for member in &e.members {
            if btf.resolve_name(member).map_err(fail)? == name {
                return Ok(member.val());
            }
        }
    }
    Err(KernelError::op("find", name, format!("{VMLINUX} has no such value in enum {of}")))
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Kinds of types (`include/uapi/linux/btf.h`).
    const INT: u32 = 1;
    const STRUCT: u32 = 4;
    const UNION: u32 = 5;
    const TYPEDEF: u32 = 8;
    const CONST: u32 = 10;

    const STRINGS: &str = "\0outer\0first\0deep\0inner\0inum\0int\0alias\0";

    /// Offset of a name in the strings.
    fn name(name: &str) -> u32 {
        if name.is_empty() {
            return 0;
        }
        STRINGS.find(&format!("\0{name}\0")).expect("in the strings") as u32 + 1
    }

    /// `struct btf_type`.
    fn kind(name_of: &str, kind: u32, members: u32, size_or_type: u32) -> Vec<u32> {
        vec![name(name_of), kind << 24 | members, size_or_type]
    }

    /// `struct btf_member`: name, type, offset in bits.
    fn members(all: &[(&str, u32, u32)]) -> Vec<u32> {
        all.iter().flat_map(|(n, t, bits)| [name(n), *t, *bits]).collect()
    }

    /// ```c
    /// struct inner { int first; int inum; };            // 2
    /// typedef const struct inner alias;                 // 3, 4
    /// struct outer {                                    // 7
    ///     int first;
    ///     struct { union { int deep; alias inner; }; }; // 6, 5
    /// };
    /// ```
    fn btf() -> Btf {
        let types = [
            [kind("int", INT, 0, 4), vec![32]].concat(),
            [kind("inner", STRUCT, 2, 8), members(&[("first", 1, 0), ("inum", 1, 32)])].concat(),
            kind("", CONST, 0, 2),
            kind("alias", TYPEDEF, 0, 3),
            [kind("", UNION, 2, 8), members(&[("deep", 1, 0), ("inner", 4, 0)])].concat(),
            [kind("", STRUCT, 1, 12), members(&[("", 5, 32)])].concat(),
            [kind("outer", STRUCT, 2, 16), members(&[("first", 1, 0), ("", 6, 32)])].concat(),
        ]
        .concat();
        let types: Vec<u8> = types.into_iter().flat_map(u32::to_ne_bytes).collect();
        // struct btf_header: magic, version, flags, and then its length and where the sections are.
        let mut blob = [&0xeb9f_u16.to_ne_bytes()[..], &[1, 0]].concat();
        let sections = [24, 0, types.len() as u32, types.len() as u32, STRINGS.len() as u32];
        blob.extend(sections.map(u32::to_ne_bytes).concat());
        blob.extend([&types, STRINGS.as_bytes()].concat());
        Btf::from_bytes(&blob).expect("valid BTF")
    }

    #[test]
    fn members_are_found_inside_others() {
        let btf = btf();
        for (path, expected) in [
            ("outer.first", 0),
            ("outer.deep", 8), // In an anonymous union in an anonymous struct.
            ("outer.inner.inum", 12), // And through a typedef and a qualifier.
            ("inner.inum", 4),
        ] {
            assert_eq!(offset(&btf, path).unwrap(), expected, "{path}");
        }
    }

    #[test]
    fn a_field_that_has_moved_is_an_error() {
        let btf = btf();
        for path in
            ["outer.inum", "outer.first.inum", "alias.inum", "nothing.inum", "outer.inner.deep"]
        {
            let error = offset(&btf, path).unwrap_err();
            assert!(error.to_string().contains(path), "{error}");
        }
    }
}
