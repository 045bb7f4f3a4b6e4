//! Whatever bytes come, the decoder says what they are or that they are nothing, and does not make more of them than
//! there is.

#![no_main]

use libfuzzer_sys::fuzz_target;
use lockkeeper_embedded::wire::{Request, Word, decode};

fuzz_target!(|bytes: &[u8]| {
    if let Ok(request) = decode::connect_request(bytes) {
        assert!(request.password.len() <= bytes.len());
    }
    if let Some(prefix) = bytes.first_chunk() {
        let _ = Word::from_bytes(*prefix);
    }
    match decode::request(bytes) {
        Err(_) => assert!(bytes.len() < 8, "every whole header can be answered"),
        Ok((xid, request)) => {
            assert_eq!(xid.to_be_bytes(), bytes[..4]);
            // An operation of these takes nine bytes at least.
            match request {
                Request::Multi(writes) => assert!(writes.len() <= bytes.len() / 9),
                Request::MultiRead(reads) => assert!(reads.len() <= bytes.len() / 9),
                _ => {}
            }
        }
    }
});
