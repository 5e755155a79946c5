//! The hop mark in SYNs as the kernel saves them.

use drainctl_common::hop::{LEN, NotASyn, option, token};
use proptest::prelude::*;

/// A SYN with these options, which are padded.
fn syn(v6: bool, options: &[u8]) -> Vec<u8> {
    let mut options = options.to_vec();
    options.resize(options.len().next_multiple_of(4), 0);
    let ip = if v6 { [vec![0x60, 0, 0, 0, 0, 0, 6], vec![0; 33]].concat() } else { ip4() };
    let mut tcp = vec![0; 20];
    tcp[12] = (((20 + options.len()) / 4) as u8) << 4;
    [ip, tcp, options].concat()
}

fn ip4() -> Vec<u8> {
    let mut ip = vec![0; 20];
    (ip[0], ip[9]) = (0x45, 6);
    ip
}

#[test]
fn a_mark_is_found_among_other_options() {
    let ours = option(0x0123_4567_89ab_cdef);
    let mss = [2, 4, 5, 180];
    let other_experiment = [254, 12, 0xf9, 0x89, 1, 2, 3, 4, 5, 6, 7, 8];
    #[rustfmt::skip]
    let table = [
        ("alone", ours.to_vec(), true),
        ("after others", [&mss[..], &[1, 1], &ours].concat(), true),
        ("after another experiment", [&other_experiment[..], &ours].concat(), true),
        ("before others", [&ours[..], &mss].concat(), true),
        ("none", mss.to_vec(), false),
        ("another experiment", other_experiment.to_vec(), false),
        ("behind the end", [&[0][..], &ours].concat(), false),
        ("cut off", ours[..LEN - 4].to_vec(), false),
        ("an option without a length", [&[2, 0][..], &ours].concat(), false),
        ("no option at all", vec![], false),
    ];
    for v6 in [false, true] {
        for (description, options, found) in &table {
            let expected = found.then_some(0x0123_4567_89ab_cdef);
            assert_eq!(token(&syn(v6, options)), Ok(expected), "{description}");
        }
    }
}

#[test]
fn what_is_no_syn_is_said_to_be_none() {
    let udp = {
        let mut udp = syn(false, &option(1));
        udp[9] = 17;
        udp
    };
    for bytes in [vec![], vec![0x45], udp, syn(false, &[])[..30].to_vec()] {
        assert_eq!(token(&bytes), Err(NotASyn));
    }
}

proptest! {
    #[test]
    fn arbitrary_bytes_do_no_harm(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = token(&bytes);
    }

    #[test]
    fn arbitrary_options_do_no_harm(v6: bool, options in prop::collection::vec(any::<u8>(), 0..40)) {
        prop_assert!(token(&syn(v6, &options)).is_ok());
    }

    #[test]
    fn every_token_comes_back(v6: bool, number: u64, nops in 0..20_usize) {
        let options = [&vec![1; nops][..], &option(number)].concat();
        prop_assert_eq!(token(&syn(v6, &options)), Ok(Some(number)));
    }
}
