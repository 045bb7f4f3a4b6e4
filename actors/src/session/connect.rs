//! Establishing a session, with retries.

use std::any::Any;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;

use crate::api::error::ConnectError;
use crate::machine::Moment;
use crate::machine::backoff::Backoff;
use crate::runtime::clock::Clock;
use crate::runtime::random::Randomness;
use crate::zookeeper::{Connect, Connected, Unconnected};

/// One round of connection attempts.
pub(crate) struct Connecting {
    pub connector: Arc<dyn Connect>,
    pub clock: Clock,
    /// How long the round may take.
    pub limit: Duration,
    /// Why the last attempt before this round failed, if there was one.
    pub last_error: Option<String>,
    pub randomness: Randomness,
}

impl Connecting {
    /// Tries until the time is over. Returns the result of the last attempt, and when that attempt began. A panic ends
    /// the round.
    pub async fn run(self) -> (Moment, Result<Connected, ConnectError>) {
        let (begun, address, timeout) = (self.clock.now(), self.connector.address().to_owned(), self.limit);
        let tried = caught(self.attempts()).await;
        tried.unwrap_or_else(|reason| (begun, Err(ConnectError::Unreachable { address, timeout, reason })))
    }

    async fn attempts(self) -> (Moment, Result<Connected, ConnectError>) {
        let Connecting { connector, clock, limit, mut last_error, randomness } = self;
        let deadline = tokio::time::Instant::now() + limit;
        let address = connector.address().to_owned();
        let mut tries = 0;
        loop {
            let begun = clock.now();
            match tokio::time::timeout_at(deadline, connector.connect()).await {
                Ok(Ok(connected)) => return (begun, Ok(connected)),
                Ok(Err(Unconnected::Address(reason))) => {
                    return (begun, Err(ConnectError::InvalidAddress { address, reason }));
                }
                Ok(Err(Unconnected::AuthFailed)) => {
                    return (begun, Err(ConnectError::AuthFailed { address }));
                }
                Ok(Err(Unconnected::Unreachable(reason))) => {
                    last_error = Some(reason);
                    let rest = tokio::time::Instant::now() + BETWEEN_ATTEMPTS.rest(tries, randomness.next());
                    tries = tries.saturating_add(1);
                    tokio::time::sleep_until(deadline.min(rest)).await;
                }
                Err(_) => {
                    let reason = last_error.unwrap_or_else(|| "no answer".to_owned());
                    return (begun, Err(ConnectError::Unreachable { address, timeout: limit, reason }));
                }
            }
        }
    }
}

/// The output of this future. An error describes a panic.
pub(super) async fn caught<T>(connecting: impl Future<Output = T>) -> Result<T, String> {
    let caught = AssertUnwindSafe(connecting).catch_unwind().await;
    caught.map_err(|panic| format!("connecting panicked: {}", panic_message(&*panic)))
}

fn panic_message(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no message")
}

/// The pauses between attempts in which every server failed.
const BETWEEN_ATTEMPTS: Backoff =
    Backoff { initial: Duration::from_millis(100), maximum: Duration::from_secs(1) };
