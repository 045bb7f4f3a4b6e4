//! The decoder decodes or rejects any bytes without panicking, and what it decodes is not larger than its input.

use lockkeeper_embedded::wire::{Request, Word, decode};

pub fn check(bytes: &[u8]) {
    if let Ok(request) = decode::connect_request(bytes) {
        assert!(request.password.len() <= bytes.len());
    }
    if let Some(prefix) = bytes.first_chunk() {
        let _ = Word::from_bytes(*prefix);
    }
    match decode::request(bytes) {
        Err(_) => {
            // A malformed request for authentication is not answered.
            let is_auth = bytes.get(4..8) == Some(&100_i32.to_be_bytes());
            assert!(bytes.len() < 8 || is_auth, "a request with a complete header must be decoded");
        }
        Ok((xid, request)) => {
            assert_eq!(xid.to_be_bytes(), bytes[..4]);
            // Each operation takes at least nine bytes.
            match request {
                Request::Multi(writes) => assert!(writes.len() <= bytes.len() / 9),
                Request::MultiRead(reads) => assert!(reads.len() <= bytes.len() / 9),
                _ => {}
            }
        }
    }
}
