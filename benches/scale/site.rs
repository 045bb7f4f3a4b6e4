//! What the harness does and sees on the server, by a client of its own: strangers' nodes, and counts.

use std::io::ErrorKind;
use std::time::Duration;

use futures::future::try_join_all;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::sleep;
use zookeeper_client::{Acls, Client, CreateMode};

use crate::process::{Dialect, Kind};
use crate::{Result, floors};

/// A client of the server that is measured. Cheap to clone.
#[derive(Clone)]
pub struct Site {
    pub address: String,
    client: Client,
}

impl Site {
    pub async fn connect(address: String) -> Result<Site> {
        let client = floors::connect(&address).await?;
        Ok(Site { address, client })
    }

    /// Makes directories, and their missing parents.
    pub async fn make(&self, directories: &[String]) -> Result<()> {
        for some in directories.chunks(AT_ONCE) {
            try_join_all(some.iter().map(|directory| floors::make_directory(&self.client, directory)))
                .await?;
        }
        Ok(())
    }

    /// Puts strangers' nodes in the way of all later contenders at `path`, and returns the nodes.
    pub async fn obstruct(&self, kind: Kind, dialect: Dialect, path: &str) -> Result<Vec<String>> {
        let limit = match kind {
            Kind::Permit { limit } => limit,
            Kind::Lock | Kind::Reader => return self.strangers(&[stranger(kind, dialect, path)]).await,
        };
        self.store_limit(path, limit).await?;
        let leases: Vec<String> = (0..limit).map(|lease| format!("{path}/{lease:032x}")).collect();
        self.create(&leases, CreateMode::Ephemeral).await
    }

    /// Stores the number of permits of a semaphore, as kazoo does.
    pub async fn store_limit(&self, path: &str, limit: u32) -> Result<()> {
        self.client.set_data(path, limit.to_string().as_bytes(), None).await?;
        Ok(())
    }

    /// Creates contenders' nodes, in this order, from names without their sequence numbers.
    pub async fn strangers(&self, prefixes: &[String]) -> Result<Vec<String>> {
        self.create(prefixes, CreateMode::EphemeralSequential).await
    }

    async fn create(&self, paths: &[String], mode: CreateMode) -> Result<Vec<String>> {
        let (mut nodes, options) = (Vec::new(), mode.with_acls(Acls::anyone_all()));
        for some in paths.chunks(AT_ONCE) {
            // The calls send the requests, in order.
            let created: Vec<_> = some.iter().map(|path| self.client.create(path, b"", &options)).collect();
            for (path, (_, number)) in some.iter().zip(try_join_all(created).await?) {
                let is_sequence = matches!(mode, CreateMode::EphemeralSequential);
                nodes.push(if is_sequence { format!("{path}{number}") } else { path.clone() });
            }
        }
        Ok(nodes)
    }

    pub async fn delete(&self, node: &str) -> Result<()> {
        Ok(self.client.delete(node, None).await?)
    }

    pub async fn delete_all(&self, nodes: &[String]) -> Result<()> {
        for some in nodes.chunks(AT_ONCE) {
            try_join_all(some.iter().map(|node| self.client.delete(node, None))).await?;
        }
        Ok(())
    }

    /// How many children a node has. A missing node has none.
    pub async fn children(&self, path: &str) -> Result<usize> {
        let stat = self.client.check_stat(path).await?;
        Ok(stat.map_or(0, |stat| usize::try_from(stat.num_children).unwrap_or_default()))
    }

    /// How many children all these nodes have.
    pub async fn children_of_all(&self, paths: &[String]) -> Result<usize> {
        let mut count = 0;
        for some in paths.chunks(AT_ONCE) {
            count += try_join_all(some.iter().map(|path| self.children(path))).await?.iter().sum::<usize>();
        }
        Ok(count)
    }

    /// Returns when the server has this many children below `path`, and tells `seen` the numbers before.
    pub async fn until_children(
        &self,
        path: &str,
        is_enough: impl Fn(usize) -> bool,
        mut seen: impl FnMut(usize),
    ) -> Result<()> {
        loop {
            let count = self.children(path).await?;
            seen(count);
            if is_enough(count) {
                return Ok(());
            }
            sleep(POLL).await;
        }
    }

    /// The number of the server's last write.
    pub async fn last_write(&self) -> Result<i64> {
        let mut stream = TcpStream::connect(&self.address).await?;
        stream.write_all(b"srvr").await?;
        let mut answer = String::new();
        match stream.read_to_string(&mut answer).await {
            // The server may close the connection in this way after its answer.
            Err(error) if error.kind() != ErrorKind::ConnectionReset => return Err(error.into()),
            _ => {}
        }
        let number = answer.lines().find_map(|line| line.strip_prefix("Zxid: 0x"));
        Ok(i64::from_str_radix(number.ok_or("no answer to srvr")?, 16)?)
    }
}

/// The name, without its number, of a foreign node that blocks contenders of this kind.
pub fn stranger(kind: Kind, dialect: Dialect, path: &str) -> String {
    match (dialect, kind) {
        (Dialect::Kazoo, _) => format!("{path}/00000000000000000000000000000000__lock__"),
        (Dialect::Curator, Kind::Reader) => format!("{path}/_c_{NIL}-__WRIT__"),
        (Dialect::Curator, _) => format!("{path}/_c_{NIL}-lock-"),
    }
}

const NIL: &str = "00000000-0000-0000-0000-000000000000";

/// Requests that are sent before the first is answered.
const AT_ONCE: usize = 500;

const POLL: Duration = Duration::from_millis(1);
