//! What the feature `serde` adds.

use lockkeeper::FencingToken;

#[test]
fn a_token_is_a_number_in_json() {
    for number in [0, 1, i64::MAX as u64, i64::MAX as u64 + 1, u64::MAX] {
        let text = serde_json::to_string(&FencingToken::from(number)).expect("a number");
        assert_eq!(text, number.to_string());
        assert_eq!(serde_json::from_str::<FencingToken>(&text).expect("a number"), number.into());
    }
}

#[test]
fn what_is_no_token_is_refused() {
    for text in ["-1", "\"1\"", "1.5", "18446744073709551616", "null"] {
        assert!(serde_json::from_str::<FencingToken>(text).is_err(), "{text}");
    }
}
