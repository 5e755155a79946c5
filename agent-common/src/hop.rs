//! The hop mark: an experimental TCP option (RFC 6994) in the SYN of a connection that carries a straggler.

/// Length of the option in bytes: kind, length, experiment id, token.
pub const LEN: usize = 12;

/// Experimental option (RFC 4727).
const KIND: u8 = 254;
/// Tells our experiment from others (RFC 6994 §3).
const EXPERIMENT: [u8; 2] = [0xdc, 0x71];

const END: u8 = 0;
const NO_OPERATION: u8 = 1;
const TCP: u8 = 6;
const TCP_HEADER: usize = 20;
const IPV6_HEADER: usize = 40;

/// The option with this token, as it stands in the header.
#[inline(always)]
pub const fn option(token: u64) -> [u8; LEN] {
    let [t0, t1, t2, t3, t4, t5, t6, t7] = token.to_be_bytes();
    [KIND, LEN as u8, EXPERIMENT[0], EXPERIMENT[1], t0, t1, t2, t3, t4, t5, t6, t7]
}

/// The token in a SYN as the kernel saves it (`TCP_SAVED_SYN`): from the IP header to the end of the TCP header.
///
/// # Errors
/// [`NotASyn`]: these bytes are no such headers, so that nothing can be said.
pub fn token(syn: &[u8]) -> Result<Option<u64>, NotASyn> {
    let options = options(tcp(syn).ok_or(NotASyn)?).ok_or(NotASyn)?;
    Ok(find(options))
}

/// Bytes that are not an IP and a TCP header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotASyn;

/// From the TCP header on.
fn tcp(packet: &[u8]) -> Option<&[u8]> {
    match packet.first()? >> 4 {
        4 => {
            let header = usize::from(packet[0] & 0xf) * 4;
            (packet.get(9) == Some(&TCP)).then_some(packet.get(header..)?)
        }
        // The kernel saves from the network header on; extension headers are rare in a SYN, and a SYN that has
        // some cannot be judged by the offset of the TCP header.
        6 if packet.get(6) == Some(&TCP) => packet.get(IPV6_HEADER..),
        _ => None,
    }
}

/// The options of a TCP header.
fn options(tcp: &[u8]) -> Option<&[u8]> {
    let header = usize::from(tcp.get(12)? >> 4) * 4;
    tcp.get(TCP_HEADER..header)
}

/// Looks for our option; stops where the options end or make no sense, as the kernel does
/// (`tcp_parse_options`).
fn find(mut options: &[u8]) -> Option<u64> {
    loop {
        match *options {
            [] | [END, ..] => return None,
            [NO_OPERATION, ref rest @ ..] => options = rest,
            [KIND, len, e0, e1, ref rest @ ..] if len as usize == LEN && [e0, e1] == EXPERIMENT => {
                return rest.first_chunk().map(|token| u64::from_be_bytes(*token));
            }
            [_, len, ..] if len >= 2 => options = options.get(usize::from(len)..)?,
            _ => return None,
        }
    }
}
