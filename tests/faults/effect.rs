//! Shows that a fault has an effect, from outside the clients.

use std::time::Duration;

use futures::future::join_all;
use lockkeeper_embedded::Proxy;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};

use super::stage::{RECOVERY, Stage, within};

/// How many connections the proxies of a client had accepted at some moment.
pub struct Connections<'a> {
    proxies: &'a [Proxy],
    accepted: u64,
}

impl<'a> Connections<'a> {
    pub fn of(proxies: &'a [Proxy]) -> Connections<'a> {
        Connections { proxies, accepted: accepted(proxies) }
    }

    /// Those of every client.
    pub fn of_all(stage: &'a Stage) -> Vec<Connections<'a>> {
        stage.clients.iter().map(|client| Connections::of(&client.proxies)).collect()
    }

    /// Waits until the client has connected again. It does so only if it has lost its connection.
    pub async fn are_replaced(&self) {
        let again = within(RECOVERY, async || accepted(self.proxies) > self.accepted).await;
        assert!(again.is_some(), "the client keeps its connection");
    }

    pub async fn all_are_replaced(clients: &[Connections<'_>]) {
        join_all(clients.iter().map(Connections::are_replaced)).await;
    }
}

fn accepted(proxies: &[Proxy]) -> u64 {
    proxies.iter().map(Proxy::accepted).sum()
}

/// Asserts that nobody answers at these addresses.
pub async fn silence(addresses: impl IntoIterator<Item = String>) {
    for (address, answer) in ask_all(addresses, SILENCE).await {
        assert!(answer.is_none(), "{address} answers");
    }
}

/// Asserts that an answer from these addresses takes that long.
pub async fn slowness(addresses: impl IntoIterator<Item = String>, least: Duration) {
    for (address, answer) in ask_all(addresses, RECOVERY).await {
        let took = answer.unwrap_or_else(|| panic!("{address} does not answer"));
        assert!(took >= least, "{address} answers after {took:?}");
    }
}

/// Many times what an answer takes.
const SILENCE: Duration = Duration::from_millis(100);

/// How long each answer to a four-letter word takes; `None` if there is none within the limit.
async fn ask_all(
    addresses: impl IntoIterator<Item = String>,
    limit: Duration,
) -> Vec<(String, Option<Duration>)> {
    let ask = |address: String| async move {
        let (begun, mut answer) = (Instant::now(), Vec::new());
        let answered = async {
            let mut stream = TcpStream::connect(&address).await?;
            stream.write_all(b"srvr").await?;
            stream.read_to_end(&mut answer).await
        };
        let count = timeout(limit, answered).await.map_or(0, |count| count.unwrap_or(0));
        (address, (count > 0).then(|| begun.elapsed()))
    };
    join_all(addresses.into_iter().map(ask)).await
}
