//! Until when a certificate is valid (RFC 5280, section 4.1.2.5). An agent that does not accept ours may close the
//! connection before it can say why, and then this is what we know.

use std::time::SystemTime;

const INTEGER: u8 = 0x02;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;
const SEQUENCE: u8 = 0x30;
/// `[0]`, the version, which the oldest certificates do not have.
const VERSION: u8 = 0xa0;

/// Whether the certificate (DER) is not valid any more. Of what cannot be read it is not said.
pub(super) fn has_expired(certificate: &[u8], now: SystemTime) -> bool {
    let now: String = humantime::format_rfc3339_seconds(now).to_string();
    let now: String = now.chars().filter(char::is_ascii_digit).collect();
    not_after(certificate).is_some_and(|last| last < now)
}

/// `notAfter` as YYYYMMDDhhmmss.
fn not_after(certificate: &[u8]) -> Option<String> {
    let (certificate, _) = expect(certificate, SEQUENCE)?;
    let (mut rest, _) = expect(certificate, SEQUENCE)?;
    if rest.first() == Some(&VERSION) {
        rest = expect(rest, VERSION)?.1;
    }
    for tag in [INTEGER, SEQUENCE, SEQUENCE] {
        rest = expect(rest, tag)?.1; // serialNumber, signature, issuer
    }
    let (validity, _) = expect(rest, SEQUENCE)?;
    let (_, _, after) = element(validity)?;
    let (tag, time, _) = element(after)?;
    let digits: String = std::str::from_utf8(time).ok()?.trim_end_matches('Z').into();
    match tag {
        GENERALIZED_TIME => Some(digits),
        // Two digits are 1950 to 2049.
        UTC_TIME => Some(format!("{}{digits}", if digits.as_str() < "50" { "20" } else { "19" })),
        _ => None,
    }
}

/// The content of the first element, if it has this tag, and what follows it.
fn expect(der: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    let (is, content, rest) = element(der)?;
    (is == tag).then_some((content, rest))
}

/// Tag and content of the first element, and what follows it.
fn element(der: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (&tag, rest) = der.split_first()?;
    let (&short, rest) = rest.split_first()?;
    let (length, rest) = match short {
        0..=0x7f => (usize::from(short), rest),
        0x81..=0x83 => {
            let (bytes, rest) = rest.split_at_checked(usize::from(short & 0x7f))?;
            (bytes.iter().fold(0, |sum, byte| sum << 8 | usize::from(*byte)), rest)
        }
        _ => return None,
    };
    let (content, rest) = rest.split_at_checked(length)?;
    Some((tag, content, rest))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn der(tag: u8, content: &[&[u8]]) -> Vec<u8> {
        let content = content.concat();
        let length = content.len() as u8;
        let head = if length < 0x80 { vec![tag, length] } else { vec![tag, 0x81, length] };
        [head, content].concat()
    }

    fn certificate(time: &[u8], with_version: bool, issuer: usize) -> Vec<u8> {
        let version = der(VERSION, &[&der(INTEGER, &[&[2]])]);
        let validity = der(SEQUENCE, &[&der(UTC_TIME, &[b"000101000000Z"]), time]);
        let fields: [&[u8]; 5] = [
            if with_version { &version } else { &[] },
            &der(INTEGER, &[&[1]]),
            &der(SEQUENCE, &[]),
            &der(SEQUENCE, &[&vec![0; issuer]]),
            &validity,
        ];
        der(SEQUENCE, &[&der(SEQUENCE, &fields)])
    }

    #[test]
    fn the_end_of_a_certificate() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000); // 2023-11-14
        let table = [
            (der(UTC_TIME, &[b"231114000000Z"]), true),
            (der(UTC_TIME, &[b"231115000000Z"]), false),
            (der(UTC_TIME, &[b"990101000000Z"]), true),
            (der(GENERALIZED_TIME, &[b"20501231235959Z"]), false),
            (der(GENERALIZED_TIME, &[b"20010101000000Z"]), true),
            (der(SEQUENCE, &[]), false),
        ];
        for (time, expired) in table {
            for (with_version, issuer) in [(true, 10), (false, 10), (true, 150)] {
                let certificate = certificate(&time, with_version, issuer);
                if certificate.len() > 255 {
                    continue;
                }
                assert_eq!(has_expired(&certificate, now), expired, "{time:?}");
                let cut = &certificate[..certificate.len() - 1];
                assert!(!has_expired(cut, now), "half of one says nothing");
            }
        }
        assert!(!has_expired(&[], now));
    }
}
