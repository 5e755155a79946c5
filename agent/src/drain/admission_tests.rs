use super::*;

fn cidr(text: &str) -> Cidr {
    text.parse().expect(text)
}

fn cidrs(texts: &[&str]) -> Vec<Cidr> {
    texts.iter().copied().map(cidr).collect()
}

fn request(ignore: &[&str], allow: &[&str], fail: &[&str]) -> AdmissionRequest {
    AdmissionRequest {
        ignore: cidrs(ignore),
        allow: cidrs(allow),
        fail_health_from: cidrs(fail),
        keep_clients: None,
    }
}

#[test]
fn prefixes_as_they_are_written_and_shown() {
    let table = [
        ("10.0.0.0/8", "10.0.0.0/8"),
        ("192.0.2.7", "192.0.2.7/32"),
        ("2001:db8::/32", "2001:db8::/32"),
        ("::1", "::1/128"),
        ("::ffff:10.0.0.0/104", "10.0.0.0/8"),
        ("::ffff:192.0.2.7", "192.0.2.7/32"),
        ("::/1", "::/1"),
    ];
    for (text, shown) in table {
        assert_eq!(cidr(text).to_string(), shown, "{text}");
    }
}

#[test]
fn what_is_no_prefix_says_what_would_be() {
    for text in
        ["", "10.0.0.0/33", "10.0.0/8", "host", "2001:db8::/129", "10.0.0.0/", "/8", "1.2.3.4:80"]
    {
        let error = text.parse::<Cidr>().expect_err(text).to_string();
        assert!(error.contains("for example 10.0.0.0/8"), "{text}: {error}");
    }
    for (text, meant) in [
        ("10.1.2.3/8", "10.0.0.0/8"),
        ("2001:db8::1/32", "2001:db8::/32"),
        ("::ffff:10.1.0.0/104", "10.0.0.0/8"),
    ] {
        let error = text.parse::<Cidr>().expect_err(text).to_string();
        assert!(error.ends_with(&format!("the network it lies in is {meant}")), "{error}");
    }
}

#[test]
fn the_longest_prefix_decides() {
    let admission = request(
        &["10.0.0.0/8", "2001:db8::/32"],
        &["10.1.0.0/16", "10.2.3.4"],
        &["10.1.2.0/24", "2001:db8:1::/48", "::/1"],
    );
    let admission = admission.validate().unwrap();
    let table = [
        ("10.9.9.9", Some(List::Ignore)),
        ("10.1.9.9", Some(List::Allow)),
        ("10.1.2.9", Some(List::FailHealthFrom)),
        ("10.2.3.4", Some(List::Allow)),
        ("10.2.3.5", Some(List::Ignore)),
        ("::ffff:10.1.9.9", Some(List::Allow)),
        ("192.0.2.1", None),
        ("2001:db8::1", Some(List::Ignore)),
        ("2001:db8:1::1", Some(List::FailHealthFrom)),
        ("::1", Some(List::FailHealthFrom)),
        ("fe80::1", None),
    ];
    for (client, list) in table {
        assert_eq!(admission.list_of(client.parse().unwrap()), list, "{client}");
    }
}

#[test]
fn options_that_make_no_drain() {
    let many: Vec<String> = (0..=64).map(|i| format!("10.0.{i}.0/24")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    #[rustfmt::skip]
    let table = [
        (request(&["10.0.0.0/8"], &["10.0.0.0/8"], &[]), "10.0.0.0/8 is named by --ignore and by --allow: leave it out of one of them"),
        (request(&[], &["::ffff:1.2.3.4"], &["1.2.3.4"]), "1.2.3.4/32 is named by --allow and by --fail-health-from: leave it out of one of them"),
        (request(&["0.0.0.0/0"], &[], &[]), "--ignore 0.0.0.0/0 would ignore everybody"),
        (request(&[], &["::/0"], &[]), "--allow ::/0 would let everybody in"),
        (request(&[], &[], &["0.0.0.0/0"]), "--fail-health-from 0.0.0.0/0 would refuse everybody from the first moment on: that is --quiet 0s"),
        (request(&many, &[], &[]), "--ignore names 65 prefixes: at most 64 are possible"),
        (AdmissionRequest { keep_clients: Some(Duration::from_secs(1)), ..Default::default() }, "--keep-clients 1s is too short: at least 2s is possible"),
    ];
    for (request, expected) in table {
        let error = request.validate().expect_err(expected).to_string();
        assert!(error.starts_with(expected), "{error}");
    }
    assert!(request(&many[..64], &[], &[]).validate().is_ok());
}

#[test]
fn what_is_said_twice_is_said_once_and_order_means_nothing() {
    let first = request(&["10.0.0.0/8", "::1", "10.0.0.0/8"], &[], &[]).validate().unwrap();
    let second = request(&["::1", "10.0.0.0/8"], &[], &[]).validate().unwrap();
    assert_eq!(first, second);
    assert!(first.contradictions(&second).is_empty());
}

#[test]
fn contradictions_name_the_options() {
    let none = Admission::default();
    let keep = AdmissionRequest {
        keep_clients: Some(Duration::from_secs(600)),
        ..request(&["10.0.0.0/8"], &[], &[])
    };
    let keep = keep.validate().unwrap();
    let expected = ["--ignore is empty, not 10.0.0.0/8", "--keep-clients is not set, not 10m"];
    assert_eq!(none.contradictions(&keep), expected);
    assert!(none.is_empty() && !none.lets_in() && keep.lets_in() && keep.has_lists());
    assert!(!request(&["10.0.0.0/8"], &[], &["::1"]).validate().unwrap().lets_in());
}
