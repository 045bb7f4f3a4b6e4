//! The fault proxy, in front of a server that echoes.

use std::time::{Duration, Instant};
#[cfg(target_os = "linux")]
use std::{fs::File, process::Command};

use lockkeeper_embedded::Proxy;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::mpsc;
use tokio::time::timeout;

/// How long to wait for bytes that must not arrive. A byte on loopback takes a thousandth of this.
const MOMENT: Duration = Duration::from_millis(100);
/// How long something may take that takes milliseconds when nothing is wrong.
const LIMIT: Duration = Duration::from_secs(20);

/// An echo server behind a proxy, a connected client, and a channel that gets a message for each connection that has
/// ended on the server.
async fn echo() -> (Proxy, TcpStream, mpsc::UnboundedReceiver<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let target = listener.local_addr().expect("its address").to_string();
    let (sender, ended) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let sender = sender.clone();
            tokio::spawn(async move {
                let (mut from, mut to) = stream.split();
                let _ = tokio::io::copy(&mut from, &mut to).await;
                let _ = sender.send(());
            });
        }
    });
    let proxy = Proxy::start(target).await.expect("a port");
    let mut client = TcpStream::connect(proxy.address()).await.expect("connected");
    assert_eq!(echo_byte(&mut client, b'a').await, b'a');
    (proxy, client, ended)
}

async fn echo_byte(client: &mut TcpStream, byte: u8) -> u8 {
    client.write_all(&[byte]).await.expect("sent");
    client.read_u8().await.expect("echoed")
}

#[tokio::test]
async fn a_black_hole_holds_both_directions_and_then_delivers() {
    let (proxy, mut client, _ended) = echo().await;
    proxy.black_hole(true);
    client.write_all(b"b").await.expect("sent");
    assert!(timeout(MOMENT, client.read_u8()).await.is_err(), "nothing must arrive");
    proxy.black_hole(false);
    assert_eq!(client.read_u8().await.expect("echoed"), b'b');
}

#[tokio::test]
async fn a_cut_resets_connections_and_the_next_one_works() {
    let (proxy, mut client, mut ended) = echo().await;
    proxy.cut();
    let error = client.read_u8().await.expect_err("reset");
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    assert_eq!(ended.recv().await, Some(()));
    let mut again = TcpStream::connect(proxy.address()).await.expect("connected");
    assert_eq!(echo_byte(&mut again, b'c').await, b'c');
    assert_eq!(proxy.accepted(), 2);
}

#[tokio::test]
async fn a_half_open_connection_is_closed_on_the_server_side_only() {
    let (proxy, mut client, mut ended) = echo().await;
    proxy.half_open();
    assert_eq!(ended.recv().await, Some(()), "the server side must be closed");
    client.write_all(b"d").await.expect("the client must not notice");
    assert!(
        timeout(MOMENT, client.read_u8()).await.is_err(),
        "nothing must arrive, and the connection must stay open"
    );
    proxy.cut();
    assert!(client.read_u8().await.is_err());
}

#[tokio::test]
async fn delayed_bytes_arrive_later_and_in_order() {
    let (proxy, mut client, _ended) = echo().await;
    let delay = Duration::from_millis(30);
    proxy.delay(delay);
    let begun = Instant::now();
    for byte in b'e'..b'h' {
        assert_eq!(echo_byte(&mut client, byte).await, byte);
    }
    assert!(begun.elapsed() >= 6 * delay, "three bytes must be delayed in both directions");
}

#[tokio::test]
async fn discarded_replies_are_counted_and_requests_arrive() {
    let (proxy, mut client, mut ended) = echo().await;
    proxy.drop_replies_then_cut();
    client.write_all(b"f").await.expect("sent");
    let counted = async {
        while proxy.dropped_bytes() == 0 {
            tokio::task::yield_now().await
        }
    };
    timeout(LIMIT, counted).await.expect("the reply must be counted");
    assert!(timeout(MOMENT, client.read_u8()).await.is_err(), "nothing must arrive");
    assert_eq!(proxy.dropped_bytes(), 1);
    proxy.cut();
    assert!(client.read_u8().await.is_err());
    assert_eq!(ended.recv().await, Some(()));
}

#[tokio::test]
async fn a_refusing_proxy_closes_new_connections_and_keeps_open_ones() {
    let (proxy, mut client, _ended) = echo().await;
    proxy.refuse(true);
    let mut refused = TcpStream::connect(proxy.address()).await.expect("accepted, and closed");
    assert!(matches!(refused.read(&mut [0]).await, Ok(0) | Err(_)));
    assert_eq!(echo_byte(&mut client, b'g').await, b'g');
}

/// A proxy in front of a server that answers nothing, a connected client, and the server's end of its connection.
async fn silent() -> (Proxy, TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let proxy = Proxy::start(listener.local_addr().expect("its address").to_string()).await.expect("a port");
    let mut client = TcpStream::connect(proxy.address()).await.expect("connected");
    let (mut server, _) = listener.accept().await.expect("accepted");
    // Otherwise the proxy may still be about to find out that it is connected.
    client.write_all(b"a").await.expect("sent");
    assert_eq!(server.read_u8().await.expect("delivered"), b'a');
    (proxy, client, server)
}

fn reset(stream: TcpStream) {
    stream.set_zero_linger().expect("an open socket");
}

#[tokio::test]
async fn a_black_hole_holds_the_reset_of_either_side() {
    let (proxy, mut client, server) = silent().await;
    proxy.black_hole(true);
    reset(server);
    assert!(timeout(MOMENT, client.read_u8()).await.is_err(), "the client must not notice");
    proxy.black_hole(false);
    assert_eq!(client.read_u8().await.expect_err("reset").kind(), std::io::ErrorKind::ConnectionReset);

    let (proxy, client, mut server) = silent().await;
    proxy.black_hole(true);
    reset(client);
    assert!(timeout(MOMENT, server.read_u8()).await.is_err(), "the server must not notice");
    proxy.black_hole(false);
    assert!(server.read_u8().await.is_err(), "closed");
}

#[tokio::test]
async fn a_black_hole_hides_that_the_server_is_down() {
    // A socket that is bound and does not listen: connections to it are refused.
    let down = TcpSocket::new_v4().expect("a socket");
    down.bind("127.0.0.1:0".parse().expect("an address")).expect("a port");
    let proxy = Proxy::start(down.local_addr().expect("its address").to_string()).await.expect("a port");
    proxy.black_hole(true);
    let mut client = TcpStream::connect(proxy.address()).await.expect("accepted");
    assert!(timeout(MOMENT, client.read_u8()).await.is_err(), "the client must not notice");
    proxy.black_hole(false);
    assert_eq!(client.read_u8().await.expect_err("reset").kind(), std::io::ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn a_cut_resets_a_connection_that_has_just_been_accepted() {
    let (proxy, _client, _ended) = echo().await;
    // In a task: it runs after the proxy has accepted the connection, and before the connection's own task does.
    let cut = tokio::spawn(async move {
        let client = std::net::TcpStream::connect(proxy.address()).expect("connected");
        client.set_nonblocking(true).expect("a socket");
        let mut client = TcpStream::from_std(client).expect("a socket");
        while proxy.accepted() < 2 {
            tokio::task::yield_now().await;
        }
        proxy.refuse(true);
        proxy.cut();
        let end = timeout(LIMIT, client.read_u8()).await.expect("the connection stays open");
        assert!(end.is_err());
    });
    cut.await.expect("no panic");
}

#[tokio::test]
async fn a_delay_does_not_limit_how_much_is_under_way() {
    // If each read waited for the delay before the next one, this would take more than a minute.
    const SIZE: usize = 2 << 20;
    let (proxy, mut client, _ended) = echo().await;
    proxy.delay(Duration::from_millis(500));
    let (mut from, mut to) = client.split();
    let mut echoed = vec![0; SIZE];
    let sent: Vec<u8> = (0..SIZE).map(|at| (at / 1000) as u8).collect();
    let both = async { tokio::try_join!(to.write_all(&sent), from.read_exact(&mut echoed)) };
    timeout(LIMIT, both).await.expect("delayed once only").expect("an open connection");
    assert!(echoed == sent, "in order");
}

#[tokio::test]
async fn the_end_of_a_delay_delivers_what_is_under_way() {
    let (proxy, mut client, _ended) = echo().await;
    proxy.delay(Duration::MAX);
    client.write_all(b"h").await.expect("sent");
    assert!(timeout(MOMENT, client.read_u8()).await.is_err(), "nothing must arrive");
    proxy.delay(Duration::ZERO);
    assert_eq!(timeout(LIMIT, client.read_u8()).await.expect("delivered").expect("echoed"), b'h');
}

#[tokio::test]
async fn held_replies_hide_that_the_server_has_reset_the_connection() {
    let (proxy, mut client, server) = silent().await;
    proxy.hold_replies(true);
    reset(server);
    // The proxy cannot deliver this, and the client must not notice that either.
    for byte in b'i'..b'l' {
        client.write_all(&[byte]).await.expect("sent");
        assert!(timeout(MOMENT, client.read_u8()).await.is_err(), "the client must not notice {byte}");
    }
    proxy.hold_replies(false);
    assert_eq!(client.read_u8().await.expect_err("reset").kind(), std::io::ErrorKind::ConnectionReset);
}

#[cfg(target_os = "linux")]
#[test]
fn a_proxy_without_file_descriptors_waits_for_them() {
    const IN_CHILD: &str = "LOCKKEEPER_TEST_WITHOUT_FILES";
    if std::env::var_os(IN_CHILD).is_some() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        return runtime.block_on(wait_for_file_descriptors());
    }
    // The same test runs in a process that can have only a few.
    let mut child = Command::new("sh");
    child.args(["-c", "ulimit -n 32; exec \"$0\" \"$@\""]);
    child.arg(std::env::current_exe().expect("the path of this test"));
    child.args(["--exact", "a_proxy_without_file_descriptors_waits_for_them"]).env(IN_CHILD, "1");
    let output = child.output().expect("it starts");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && text.contains("1 passed"), "{text}");
}

#[cfg(target_os = "linux")]
async fn wait_for_file_descriptors() {
    let proxy = Proxy::start("127.0.0.1:1").await.expect("a port");
    let statistics = File::open("/proc/self/stat").expect("opened");
    let _client = std::net::TcpStream::connect(proxy.address()).expect("connected");
    let files: Vec<File> = std::iter::from_fn(|| File::open("/dev/null").ok()).collect();
    // How much is used in a second.
    let before = processor_time(&statistics);
    tokio::time::sleep(Duration::from_secs(1)).await;
    let used = processor_time(&statistics) - before;
    assert_eq!(proxy.accepted(), 0);
    // Trying again and again without a pause takes all the time that the machine has.
    assert!(used < 5, "{used} hundredths of a second");
    drop(files);
    let accepted = async {
        while proxy.accepted() == 0 {
            tokio::task::yield_now().await;
        }
    };
    timeout(LIMIT, accepted).await.expect("accepted");
}

/// The processor time that a process has used according to its `stat`, in hundredths of a second.
#[cfg(target_os = "linux")]
fn processor_time(stat: &File) -> u64 {
    let mut text = [0; 1024];
    let length = std::os::unix::fs::FileExt::read_at(stat, &mut text, 0).expect("read");
    let text = String::from_utf8_lossy(&text[..length]);
    let (_, fields) = text.rsplit_once(") ").expect("the name of the process");
    fields.split(' ').skip(11).take(2).map(|field| field.parse::<u64>().expect("a number")).sum()
}
