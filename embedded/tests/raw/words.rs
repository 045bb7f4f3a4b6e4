//! Sends four-letter words, and sets up two clients for them to report on.

use std::net::SocketAddr;

use super::{Bytes, Raw};

/// Creates two clients: one with an ephemeral node and watches on nodes and children, one with watches of every mode.
pub fn prepare(address: SocketAddr) -> [Raw; 2] {
    let [mut one, mut two] = [(); 2].map(|()| Raw::connect(address, 10_000).expect("connected"));
    let mut ask = |client: usize, kind, body: Bytes| {
        let client = if client == 1 { &mut one } else { &mut two };
        client.ask(kind, &body.0).expect("a reply");
    };
    ask(1, 1, Bytes::create("/e", b"", 1));
    ask(1, 3, Bytes::path("/w", true));
    ask(1, 4, Bytes::path("/e", true));
    ask(1, 8, Bytes::path("/", true));
    ask(1, 8, Bytes::path("/e", true));
    ask(2, 3, Bytes::path("/w", true));
    ask(2, 106, Bytes::default().string("/p").int(0));
    ask(2, 106, Bytes::default().string("/r").int(1));
    [one, two]
}

/// Sends a word and returns the complete response.
pub fn ask(address: SocketAddr, word: &str) -> String {
    let mut raw = Raw::open(address).expect("accepted");
    raw.send_bytes(word.as_bytes()).expect("sent");
    String::from_utf8(raw.receive_all().expect("a reply")).expect("text")
}

/// Replaces every number in a response by `#`. Hexadecimal numbers, versions and addresses count as one number.
pub fn shape(response: &str) -> String {
    let mut shape = String::new();
    let mut rest = response;
    while let Some(first) = rest.chars().next() {
        let number = match rest.strip_prefix("0x") {
            Some(digits) => rest.len() - digits.trim_start_matches(|c: char| c.is_ascii_hexdigit()).len(),
            // A dot is part of a number if it has digits on both sides.
            None if first.is_ascii_digit() => {
                let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
                rest[..end].trim_end_matches('.').len()
            }
            None => 0,
        };
        shape.push(if number > 0 { '#' } else { first });
        rest = &rest[number.max(first.len_utf8())..];
    }
    shape
}
