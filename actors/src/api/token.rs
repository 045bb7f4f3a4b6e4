//! The number that tells a resource which holder came later.

use std::fmt;
use std::num::TryFromIntError;
use std::str::FromStr;

use thiserror::Error;

/// A number that tells a resource which of two conflicting holders came later, across all processes: the id of the
/// ZooKeeper transaction that created the holder's node (`czxid`).
///
/// A resource that remembers the largest token it has seen and rejects smaller ones is safe from a holder that was
/// paused past the end of its lease. Tokens keep growing even when the lock's directory is deleted and created again.
///
/// A token is opaque: only its order has a meaning. Of two holders of one path that exclude each other, the later one
/// has the larger token. The two are equal only if they share a node that [lingers][linger], or are permits that were
/// taken one after the other under one node of the semaphore's queue: such holders are of one process. So a resource
/// accepts a token that equals the stored one, as `stored <= token` does. Tokens of different paths are not to be
/// compared, because one transaction may create nodes on several of them. The difference of two tokens means nothing.
///
/// It converts to what a resource stores: `u64` and `i64`, text in decimal and hexadecimal, and, with the feature
/// `serde`, a number. ZooKeeper's ids are positive numbers of 63 bits, so a token of ZooKeeper always fits into an `i64`.
///
/// ```
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # use lockkeeper_actors::api::token::FencingToken;
/// let token: FencingToken = "0x1983b55853639c0a".parse()?;
/// let stored = i64::try_from(token)?; // a column of the type BIGINT
/// assert_eq!(FencingToken::try_from(stored)?, token);
/// assert_eq!(format!("{token} {token:#x}"), "1838512463858080778 0x1983b55853639c0a");
/// assert!(token < FencingToken::from(u64::MAX));
/// # Ok(())
/// # }
/// ```
///
/// [linger]: https://docs.rs/lockkeeper/latest/lockkeeper/struct.LockOptions.html#method.linger
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FencingToken(u64);

/// A text that is not a fencing token.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error(
    "{text:?} is not a fencing token: a number below 2^64 is expected, in decimal, or hexadecimal after `0x`"
)]
#[non_exhaustive]
pub struct InvalidToken {
    /// The text.
    pub text: String,
}

impl FencingToken {
    pub(crate) fn new(czxid: i64) -> FencingToken {
        FencingToken(czxid as u64)
    }

    /// The token as a number, to store with the protected resource.
    pub fn as_u64(self) -> u64 {
        self.0
    }
}

impl From<u64> for FencingToken {
    fn from(number: u64) -> FencingToken {
        FencingToken(number)
    }
}

impl From<FencingToken> for u64 {
    fn from(token: FencingToken) -> u64 {
        token.0
    }
}

impl TryFrom<i64> for FencingToken {
    type Error = TryFromIntError;

    /// Refuses a negative number.
    fn try_from(number: i64) -> Result<FencingToken, TryFromIntError> {
        number.try_into().map(FencingToken)
    }
}

impl TryFrom<FencingToken> for i64 {
    type Error = TryFromIntError;

    /// Fails only for a token that did not come from ZooKeeper.
    fn try_from(token: FencingToken) -> Result<i64, TryFromIntError> {
        token.0.try_into()
    }
}

impl FromStr for FencingToken {
    type Err = InvalidToken;

    /// Reads what [`Display`](fmt::Display) and `{:#x}` write.
    fn from_str(text: &str) -> Result<FencingToken, InvalidToken> {
        let (digits, radix) = match text.strip_prefix("0x") {
            Some(digits) => (digits, 16),
            None => (text, 10),
        };
        // `from_str_radix` accepts a sign.
        let number = Some(digits).filter(|digits| !digits.starts_with('+'));
        let number = number.and_then(|digits| u64::from_str_radix(digits, radix).ok());
        number.map(FencingToken).ok_or_else(|| InvalidToken { text: text.to_owned() })
    }
}

impl fmt::Display for FencingToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::LowerHex for FencingToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::LowerHex::fmt(&self.0, f)
    }
}

impl fmt::UpperHex for FencingToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::UpperHex::fmt(&self.0, f)
    }
}

/// As a number. Some readers of JSON, such as JavaScript's, round numbers above 2^53: send them the text instead.
#[cfg(feature = "serde")]
impl serde::Serialize for FencingToken {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u64(self.0)
    }
}

#[cfg(feature = "serde")]
impl<'de> serde::Deserialize<'de> for FencingToken {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<FencingToken, D::Error> {
        u64::deserialize(deserializer).map(FencingToken)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: [u64; 5] = [0, 1, i64::MAX as u64, i64::MAX as u64 + 1, u64::MAX];

    #[test]
    fn a_token_survives_every_way_of_storing_it() {
        for number in LIMITS {
            let token = FencingToken::from(number);
            assert_eq!(u64::from(token), number);
            assert_eq!(token.to_string(), number.to_string());
            assert_eq!(token.to_string().parse(), Ok(token));
            assert_eq!(format!("{token:#x}").parse(), Ok(token));
            assert_eq!(format!("{token:#X}").parse(), Ok(token));
            assert_eq!(format!("{token:x} {token:X}"), format!("{number:x} {number:X}"));
            match i64::try_from(token) {
                Ok(signed) => assert_eq!(FencingToken::try_from(signed), Ok(token)),
                Err(_) => assert!(number > i64::MAX as u64),
            }
        }
    }

    #[test]
    fn tokens_have_the_order_of_their_numbers() {
        assert!(LIMITS.map(FencingToken::from).is_sorted());
        assert!(FencingToken::from(u64::MAX) > FencingToken::from(i64::MAX as u64));
    }

    #[test]
    fn what_is_no_token_is_refused_with_the_text() {
        for text in
            ["", "0x", "+1", "-1", "0x+1", "0x-1", " 1", "1 ", "ff", "1_000", "0X1", "18446744073709551616"]
        {
            let error = text.parse::<FencingToken>().expect_err(text);
            assert_eq!(error, InvalidToken { text: text.to_owned() });
            assert!(error.to_string().starts_with(&format!("{text:?} is not a fencing token")), "{error}");
        }
        assert!("0x10000000000000000".parse::<FencingToken>().is_err());
    }

    #[test]
    fn a_negative_number_is_no_token() {
        for number in [-1, i64::MIN] {
            assert!(FencingToken::try_from(number).is_err());
        }
    }
}
