//! A minimal client that sends single requests and exposes the raw replies. Tests use it to compare servers and to send
//! what no regular client sends.

#![allow(dead_code, reason = "each test binary uses only a part of this module")]

pub mod words;

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::Duration;

/// How long a reply may take. It only stops tests that would hang: no passing test waits this long.
const LIMIT: Duration = Duration::from_secs(20);

/// A connection, with or without a session.
pub struct Raw {
    stream: TcpStream,
    pub session: i64,
    pub password: Vec<u8>,
    pub timeout_ms: i32,
    xid: i32,
    /// The highest transaction id seen in a reply.
    pub zxid: i64,
    /// The events received before the last reply: kind, path and transaction id.
    pub events: Vec<(i32, String, i64)>,
}

/// The header and body of a reply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    pub xid: i32,
    pub zxid: i64,
    pub error: i32,
    pub body: Vec<u8>,
}

impl Raw {
    /// Connects and creates a session.
    pub fn connect(address: SocketAddr, timeout_ms: i32) -> io::Result<Raw> {
        Raw::resume(address, timeout_ms, 0, &[0; 16], 0)
    }

    /// Connects and resumes a session. If the server refuses, `session` is zero afterwards.
    pub fn resume(
        address: SocketAddr,
        timeout_ms: i32,
        session: i64,
        password: &[u8],
        seen: i64,
    ) -> io::Result<Raw> {
        let mut raw = Raw::open(address)?;
        raw.zxid = seen;
        raw.handshake(timeout_ms, session, password)?;
        Ok(raw)
    }

    /// Connects without sending anything.
    pub fn open(address: SocketAddr) -> io::Result<Raw> {
        Raw::over(TcpStream::connect(address)?)
    }

    /// Uses an existing connection, without sending anything.
    pub fn over(stream: TcpStream) -> io::Result<Raw> {
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(LIMIT))?;
        let password = Vec::new();
        Ok(Raw { stream, session: 0, password, timeout_ms: 0, xid: 0, zxid: 0, events: Vec::new() })
    }

    /// Sends a connect request and reads the reply.
    pub fn handshake(&mut self, timeout_ms: i32, session: i64, password: &[u8]) -> io::Result<()> {
        let request = Bytes::default()
            .int(0)
            .long(self.zxid)
            .int(timeout_ms)
            .long(session)
            .buffer(password)
            .bool(false);
        self.send_frame(&request.0)?;
        let reply = self.receive_frame()?;
        let mut reply = Fields(&reply);
        reply.int();
        self.timeout_ms = reply.int();
        self.session = reply.long();
        self.password = reply.buffer().unwrap_or_default();
        Ok(())
    }

    /// Sends a request and reads its reply. Stores the events that come first.
    pub fn ask(&mut self, kind: i32, body: &[u8]) -> io::Result<Reply> {
        self.xid += 1;
        self.ask_as(self.xid, kind, body)
    }

    /// Like `ask`, with the given request number.
    pub fn ask_as(&mut self, xid: i32, kind: i32, body: &[u8]) -> io::Result<Reply> {
        self.send(xid, kind, body)?;
        self.events.clear();
        loop {
            let reply = self.receive()?;
            if reply.xid == -1 {
                let mut event = Fields(&reply.body);
                let (kind, _state) = (event.int(), event.int());
                self.events.push((kind, event.string().unwrap_or_default(), reply.zxid));
            } else {
                assert_eq!(reply.xid, xid, "replies must come in the order of their requests");
                self.zxid = self.zxid.max(reply.zxid);
                return Ok(reply);
            }
        }
    }

    /// Sends a ping and reads its reply, which comes after all pending events.
    pub fn ping(&mut self) -> io::Result<Reply> {
        self.ask_as(-2, 11, &[])
    }

    pub fn send(&mut self, xid: i32, kind: i32, body: &[u8]) -> io::Result<()> {
        self.send_frame(&Bytes::default().int(xid).int(kind).bytes(body).0)
    }

    pub fn send_frame(&mut self, frame: &[u8]) -> io::Result<()> {
        let length = i32::try_from(frame.len()).expect("a frame shorter than 2 GiB");
        self.send_bytes(&Bytes::default().int(length).bytes(frame).0)
    }

    pub fn send_bytes(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes)
    }

    pub fn receive(&mut self) -> io::Result<Reply> {
        let frame = self.receive_frame()?;
        let mut fields = Fields(&frame);
        let (xid, zxid, error) = (fields.int(), fields.long(), fields.int());
        Ok(Reply { xid, zxid, error, body: fields.0.to_vec() })
    }

    pub fn receive_frame(&mut self) -> io::Result<Vec<u8>> {
        let mut length = [0; 4];
        self.stream.read_exact(&mut length)?;
        let mut frame = vec![0; usize::try_from(i32::from_be_bytes(length)).expect("a length")];
        self.stream.read_exact(&mut frame)?;
        Ok(frame)
    }

    /// Reads everything until the server closes the connection.
    pub fn receive_all(&mut self) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        self.stream.read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    /// Waits for the server to close or reset the connection. Returns `false` if it sends something or nothing happens.
    pub fn is_closed(&mut self) -> bool {
        match self.stream.read(&mut [0]) {
            Ok(count) => count == 0,
            Err(error) => !matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut),
        }
    }

    /// A second handle for the same connection.
    pub fn try_clone(&self) -> io::Result<Raw> {
        Ok(Raw {
            stream: self.stream.try_clone()?,
            session: self.session,
            password: self.password.clone(),
            timeout_ms: self.timeout_ms,
            xid: self.xid,
            zxid: self.zxid,
            events: Vec::new(),
        })
    }

    /// Shuts down the connection for all its handles.
    pub fn shutdown(&self) {
        // An error means that the connection has already ended.
        let _ = self.stream.shutdown(Shutdown::Both);
    }

    pub fn set_limit(&self, limit: Duration) {
        self.stream.set_read_timeout(Some(limit)).expect("a limit");
    }
}

impl Read for Raw {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.stream.read(buffer)
    }
}

/// A builder for messages.
#[derive(Clone, Debug, Default)]
pub struct Bytes(pub Vec<u8>);

impl Bytes {
    pub fn bytes(mut self, bytes: &[u8]) -> Self {
        self.0.extend_from_slice(bytes);
        self
    }

    pub fn int(self, value: i32) -> Self {
        self.bytes(&value.to_be_bytes())
    }

    pub fn long(self, value: i64) -> Self {
        self.bytes(&value.to_be_bytes())
    }

    pub fn bool(self, value: bool) -> Self {
        self.bytes(&[value.into()])
    }

    pub fn buffer(self, value: &[u8]) -> Self {
        self.int(i32::try_from(value.len()).expect("short")).bytes(value)
    }

    pub fn string(self, value: &str) -> Self {
        self.buffer(value.as_bytes())
    }

    pub fn strings(self, values: &[String]) -> Self {
        let start = self.int(i32::try_from(values.len()).expect("few"));
        values.iter().fold(start, |bytes, value| bytes.string(value))
    }

    /// An access control list, as triples of permissions, scheme and id.
    pub fn acl(self, list: &[(i32, String, String)]) -> Self {
        let start = self.int(i32::try_from(list.len()).expect("few"));
        list.iter().fold(start, |bytes, (perms, scheme, id)| bytes.int(*perms).string(scheme).string(id))
    }

    /// The body of a `create` with all permissions for everyone.
    pub fn create(path: &str, data: &[u8], flags: i32) -> Self {
        let open = [(31, "world".to_owned(), "anyone".to_owned())];
        Bytes::default().string(path).buffer(data).acl(&open).int(flags)
    }

    /// The body of a request with a path and a watch flag.
    pub fn path(path: &str, watch: bool) -> Self {
        Bytes::default().string(path).bool(watch)
    }
}

/// A parser for messages. It panics if a message is malformed, which no server may send.
pub struct Fields<'a>(pub &'a [u8]);

impl Fields<'_> {
    fn array<const N: usize>(&mut self) -> [u8; N] {
        let (taken, rest) = self.0.split_first_chunk().expect("the server sends whole replies");
        self.0 = rest;
        *taken
    }

    pub fn int(&mut self) -> i32 {
        i32::from_be_bytes(self.array())
    }

    pub fn long(&mut self) -> i64 {
        i64::from_be_bytes(self.array())
    }

    pub fn bool(&mut self) -> bool {
        self.array::<1>()[0] != 0
    }

    pub fn buffer(&mut self) -> Option<Vec<u8>> {
        let length = usize::try_from(self.int()).ok()?;
        let (taken, rest) = self.0.split_at(length);
        self.0 = rest;
        Some(taken.to_vec())
    }

    pub fn string(&mut self) -> Option<String> {
        self.buffer().map(|bytes| String::from_utf8(bytes).expect("UTF-8"))
    }

    pub fn strings(&mut self) -> Vec<String> {
        (0..self.int()).map(|_| self.string().expect("a string")).collect()
    }
}
