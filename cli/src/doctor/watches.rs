//! The nodes that clients watch, from the servers' four-letter word `wchp`.

use std::collections::BTreeSet;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// The watched nodes, as full paths. The error says why a server does not tell.
pub async fn watched(address: &str) -> Result<BTreeSet<String>, String> {
    let mut watched = BTreeSet::new();
    for server in servers(address) {
        let answer = match timeout(LIMIT, ask(&server)).await {
            Ok(Ok(answer)) => answer,
            // A server that takes only TLS closes the connection.
            Ok(Err(error)) => return Err(format!("{server} does not answer the word wchp: {error}")),
            Err(_) => return Err(format!("{server} does not answer the word wchp within {LIMIT:?}")),
        };
        // A server that refuses says so in a sentence.
        if let Some(line) = answer.lines().find(|line| !line.is_empty() && !line.starts_with(['/', '\t'])) {
            return Err(format!("{server} does not answer the word wchp: {line}"));
        }
        watched.extend(answer.lines().filter(|line| line.starts_with('/')).map(str::to_owned));
    }
    Ok(watched)
}

const LIMIT: Duration = Duration::from_secs(2);

async fn ask(server: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(server).await?;
    stream.write_all(b"wchp").await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    Ok(answer)
}

/// The servers of an address, with their ports.
fn servers(address: &str) -> Vec<String> {
    let hosts = address.split_once("://").map_or(address, |(_, hosts)| hosts);
    let hosts = hosts.split_once('/').map_or(hosts, |(hosts, _chroot)| hosts);
    let with_port = |host: &str| match host.rsplit_once(':') {
        Some((_, port)) if port.parse::<u16>().is_ok() => host.to_owned(),
        Some(_) | None => format!("{host}:2181"),
    };
    hosts.split(',').map(with_port).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_have_ports_and_no_chroot() {
        assert_eq!(servers("zk1:2182,zk2/app"), ["zk1:2182", "zk2:2181"]);
        assert_eq!(servers("[::1]:2182"), ["[::1]:2182"]);
        assert_eq!(servers("tcp://zk1"), ["zk1:2181"]);
    }
}
