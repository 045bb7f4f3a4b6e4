//! Parses the servers of an address, and finds out why none of them grants a session: the client reports only that it
//! has tried them all.

use std::net::SocketAddr;
use std::time::Duration;

use async_net::TcpStream;
use futures::future::join_all;
use tokio::time::timeout;

#[cfg(feature = "tls")]
use super::handshake;
use crate::machine::path_rules::check_path;

/// One server of an address.
pub(crate) struct Server<'a> {
    host: &'a str,
    port: u16,
    /// Whether to connect with TLS, if the address says so.
    #[cfg_attr(not(feature = "tls"), allow(dead_code))]
    secure: Option<bool>,
}

/// The servers of an address that the client accepts. For an address that it rejects, the result is meaningless.
pub(crate) fn servers(address: &str) -> impl Iterator<Item = Server<'_>> {
    address.split(',').filter_map(|server| {
        let (server, secure) = without_scheme(server);
        let server = server.split_once('/').map_or(server, |(server, _chroot)| server);
        let (host, port) = match server.strip_prefix('[') {
            Some(server) => server.split_once(']')?,
            None => server.rsplit_once(':').unwrap_or((server, "")),
        };
        let port = match port.trim_start_matches(':') {
            "" => 2181,
            port => port.parse().ok()?,
        };
        Some(Server { host, port, secure })
    })
}

/// The address without spaces around its servers. The client would take them as a part of a name, which then cannot be
/// resolved.
pub(crate) fn without_spaces(address: &str) -> String {
    address.split(',').map(str::trim).collect::<Vec<_>>().join(",")
}

/// Refuses what the client accepts, but cannot use: it would connect to the other servers only, or never. `secure` is for
/// servers that do not say whether to use TLS.
pub(crate) fn check(address: &str, secure: bool) -> Result<(), String> {
    for server in servers(address) {
        server.check_name(secure)?;
    }
    match chroot(address) {
        "" => Ok(()),
        chroot => check_path(chroot).map_err(|invalid| format!("its chroot is invalid: {}", invalid.reason)),
    }
}

/// The chroot at the end of an address that the client accepts; empty for none.
pub(crate) fn chroot(address: &str) -> &str {
    let (server, _) = without_scheme(address.rsplit(',').next().unwrap_or_default());
    let chroot = server.find('/').map_or("", |start| &server[start..]);
    if chroot == "/" { "" } else { chroot }
}

/// A server of an address, and whether its scheme says to use TLS, if it has one.
fn without_scheme(server: &str) -> (&str, Option<bool>) {
    let schemes = [("tcp+tls://", true), ("tcp://", false)];
    let scheme = |(prefix, secure)| Some((server.strip_prefix(prefix)?, Some(secure)));
    schemes.into_iter().find_map(scheme).unwrap_or((server, None))
}

impl Server<'_> {
    /// Tries a connection, and describes why the server grants no session. `secure` is for an address that does not say
    /// whether to use TLS.
    #[cfg_attr(not(feature = "tls"), allow(unused_variables))]
    async fn diagnose(self, secure: bool) -> String {
        let Server { host, port, .. } = self;
        let problem = match timeout(CONNECT_LIMIT, TcpStream::connect((host, port))).await {
            #[cfg(feature = "tls")]
            Ok(Ok(stream)) if self.secure.unwrap_or(secure) => {
                let shown = timeout(CONNECT_LIMIT, handshake::describe(stream, host)).await;
                shown.unwrap_or_else(|_| "it takes connections, and does not answer in TLS".to_owned())
            }
            Ok(Ok(_)) => "it takes connections, and gives no session".to_owned(),
            Ok(Err(error)) => error.to_string(),
            Err(_) => format!("no connection within {CONNECT_LIMIT:?}"),
        };
        format!("{host}:{port}: {problem}")
    }

    /// Checks that the host's name can be one, and with TLS that it can be verified.
    #[cfg_attr(not(feature = "tls"), allow(unused_variables))]
    fn check_name(&self, secure: bool) -> Result<(), String> {
        let host = self.host;
        if host.contains(|c: char| c.is_whitespace() || c.is_control()) {
            return Err(format!("{host:?} is not the name of a host"));
        }
        #[cfg(feature = "tls")]
        if self.secure.unwrap_or(secure) && rustls_pki_types::ServerName::try_from(host).is_err() {
            return Err(format!("TLS cannot verify the host name {host:?}"));
        }
        Ok(())
    }
}

/// Describes why none of the servers of an address grants a session.
pub(crate) async fn diagnose(address: &str, secure: bool) -> String {
    join_all(servers(address).map(|server| server.diagnose(secure))).await.join("; ")
}

/// Finds the addresses of all servers, as far as their names can be resolved. An IPv4 address is not written as an IPv6
/// address.
pub(crate) async fn resolve(address: &str) -> Vec<SocketAddr> {
    let resolve = async |server: Server<'_>| async_net::resolve((server.host, server.port)).await;
    let resolved = join_all(servers(address).map(resolve)).await;
    let canonical = |it: SocketAddr| SocketAddr::new(it.ip().to_canonical(), it.port());
    resolved.into_iter().flatten().flatten().map(canonical).collect()
}

/// How long to wait for a connection to each server, and then for what it shows.
const CONNECT_LIMIT: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_are_found_in_every_form_of_an_address() {
        let address = "zk1,tcp://zk2:2182,tcp+tls://zk3:2183,[::1]:2184,tcp+tls://[::2]/app/of/mine";
        let found: Vec<_> = servers(address).map(|it| (it.host, it.port, it.secure)).collect();
        let expected = [
            ("zk1", 2181, None),
            ("zk2", 2182, Some(false)),
            ("zk3", 2183, Some(true)),
            ("::1", 2184, None),
            ("::2", 2181, Some(true)),
        ];
        assert_eq!(found, expected);
    }

    #[test]
    fn spaces_around_servers_do_not_matter() {
        assert_eq!(without_spaces(" zk1:2181, zk2:2181 ,\tzk3/app\n"), "zk1:2181,zk2:2181,zk3/app");
        assert_eq!(without_spaces("zk1/a b"), "zk1/a b", "a chroot may have spaces");
    }

    #[test]
    fn what_no_server_can_be_reached_by_is_refused() {
        for (address, reason) in [
            ("zk1 zk2", "\"zk1 zk2\" is not the name of a host"),
            ("zk1,zk\u{7f}2:2181", "\"zk\\u{7f}2\" is not the name of a host"),
            (
                "zk1/🔒",
                "its chroot is invalid: it contains a character that ZooKeeper does not allow in paths",
            ),
        ] {
            assert_eq!(check(address, false), Err(reason.to_owned()), "{address}");
        }
        assert!(check(&format!("zk1/{}", "a".repeat(32 * 1024)), false).is_err());
        for address in ["zk1", "zk1:2181,[::1]:2181", "tcp://zk1,zk2:2182/", "zk1/app of mine"] {
            assert_eq!(check(address, false), Ok(()), "{address}");
        }
    }

    #[test]
    fn the_chroot_is_what_follows_the_last_server() {
        for (address, expected) in [
            ("zk1", ""),
            ("zk1:2181,zk2:2181", ""),
            ("zk1:2181/", ""),
            ("zk1,zk2:2181/app", "/app"),
            ("tcp://zk1,tcp+tls://zk2", ""),
            ("tcp://zk1,tcp+tls://[::1]:2184/app/of/mine", "/app/of/mine"),
        ] {
            assert_eq!(chroot(address), expected, "{address}");
        }
    }
}
