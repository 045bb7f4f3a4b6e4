//! The nodes that clients watch, from the servers' four-letter word `wchp`.

use std::collections::BTreeSet;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, lookup_host};
use tokio::time::timeout;

/// The watched nodes, as full paths. The error says why a server does not tell. A server that is not in the address is
/// not asked.
pub async fn watched(address: &str) -> Result<BTreeSet<String>, String> {
    let mut watched = BTreeSet::new();
    for server in servers(address) {
        let silent = |why: String| format!("{server} does not answer the word wchp: {why}");
        let addresses = lookup_host(&server).await.map_err(|error| silent(error.to_string()))?;
        let addresses: Vec<SocketAddr> = addresses.collect();
        watched.append(&mut watched_at(&addresses).await.map_err(silent)?);
    }
    Ok(watched)
}

/// The same for the addresses of one name, which can stand for several servers.
async fn watched_at(addresses: &[SocketAddr]) -> Result<BTreeSet<String>, String> {
    let (mut watched, mut answers, mut refusal) = (BTreeSet::new(), 0, "it has no address".to_owned());
    for address in addresses {
        let answer = match timeout(LIMIT, ask(*address)).await {
            Ok(Ok(answer)) => answer,
            // Nobody is there, as at `::1` of a server that listens at 127.0.0.1.
            Ok(Err(error)) if error.kind() == io::ErrorKind::ConnectionRefused => {
                refusal = error.to_string();
                continue;
            }
            // A server that takes only TLS closes the connection.
            Ok(Err(error)) => return Err(error.to_string()),
            Err(_) => return Err(format!("nothing within {LIMIT:?}")),
        };
        // A server that refuses says so in a sentence.
        if let Some(line) = answer.lines().find(|line| !line.is_empty() && !line.starts_with(['/', '\t'])) {
            return Err(line.to_owned());
        }
        watched.extend(answer.lines().filter(|line| line.starts_with('/')).map(str::to_owned));
        answers += 1;
    }
    if answers == 0 { Err(refusal) } else { Ok(watched) }
}

const LIMIT: Duration = Duration::from_secs(2);

async fn ask(server: SocketAddr) -> io::Result<String> {
    let mut stream = TcpStream::connect(server).await?;
    stream.write_all(b"wchp").await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    Ok(answer)
}

/// The servers of an address, with their ports.
fn servers(address: &str) -> Vec<String> {
    let server = |server: &str| {
        let host = server.split_once("://").map_or(server, |(_scheme, host)| host);
        let host = host.split_once('/').map_or(host, |(host, _chroot)| host);
        match host.rsplit_once(':') {
            Some((_, port)) if port.parse::<u16>().is_ok() => host.to_owned(),
            Some(_) | None => format!("{host}:2181"),
        }
    };
    address.split(',').map(server).collect()
}

#[cfg(test)]
mod tests {
    use tokio::net::{TcpListener, TcpSocket};

    use super::*;

    #[test]
    fn servers_have_ports_and_no_chroot() {
        assert_eq!(servers("zk1:2182,zk2/app"), ["zk1:2182", "zk2:2181"]);
        assert_eq!(servers("[::1]:2182"), ["[::1]:2182"]);
        assert_eq!(servers("tcp://zk1"), ["zk1:2181"]);
        assert_eq!(servers("zk1:2182,tcp://zk2,tcp://zk3:2183/app"), ["zk1:2182", "zk2:2181", "zk3:2183"]);
    }

    /// A server whose clients watch this node.
    async fn server(node: &'static str) -> SocketAddr {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a free port");
        let address = listener.local_addr().expect("an address");
        tokio::spawn(async move {
            while let Ok((mut client, _)) = listener.accept().await {
                let mut word = [0; 4];
                client.read_exact(&mut word).await.expect("read");
                assert_eq!(&word, b"wchp");
                client.write_all(format!("{node}\n\t0x1\n").as_bytes()).await.expect("written");
            }
        });
        address
    }

    #[tokio::test]
    async fn each_server_of_a_name_is_asked() {
        // Bound, and nobody listens.
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.bind(([127, 0, 0, 1], 0).into()).expect("a port");
        let nobody = socket.local_addr().expect("an address");
        let (one, two) = (server("/a").await, server("/b").await);
        let both = Ok(["/a", "/b"].map(str::to_owned).into());
        assert_eq!(watched_at(&[one, nobody, two]).await, both);
        assert_eq!(watched(&format!("{one},tcp://{two}/app")).await, both);
        let refused = watched_at(&[nobody]).await.expect_err("nobody answers");
        assert!(refused.contains("refused"), "{refused}");
        assert!(watched(&format!("{one},{nobody}")).await.is_err(), "that server was not asked");
    }
}
