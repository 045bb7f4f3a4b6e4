//! A client that sends one request at a time, knows nothing, and shows everything: for comparing servers, and for
//! saying what no proper client says.

#![allow(dead_code, reason = "every test binary uses a part of it")]

pub mod words;

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::Duration;

/// How long an answer may take. No test waits for this to pass; it only ends those that would hang.
const LIMIT: Duration = Duration::from_secs(20);

/// A connection with a session, or on its way to one.
pub struct Raw {
    stream: TcpStream,
    pub session: i64,
    pub password: Vec<u8>,
    pub timeout_ms: i32,
    xid: i32,
    /// The newest transaction seen in a reply.
    pub zxid: i64,
    /// Events that came before the last reply: kind, path, transaction.
    pub events: Vec<(i32, String, i64)>,
}

/// A reply's header and body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    pub xid: i32,
    pub zxid: i64,
    pub error: i32,
    pub body: Vec<u8>,
}

impl Raw {
    /// Connects, and makes a session.
    pub fn connect(address: SocketAddr, timeout_ms: i32) -> io::Result<Raw> {
        Raw::resume(address, timeout_ms, 0, &[0; 16], 0)
    }

    /// Connects to a session. It was refused if `session` is zero then.
    pub fn resume(
        address: SocketAddr,
        timeout_ms: i32,
        session: i64,
        password: &[u8],
        seen: i64,
    ) -> io::Result<Raw> {
        let mut raw = Raw::open(address)?;
        raw.zxid = seen;
        raw.greet(timeout_ms, session, password)?;
        Ok(raw)
    }

    /// Connects, and says nothing yet.
    pub fn open(address: SocketAddr) -> io::Result<Raw> {
        Raw::over(TcpStream::connect(address)?)
    }

    /// The same over a connection that is there already.
    pub fn over(stream: TcpStream) -> io::Result<Raw> {
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(LIMIT))?;
        let password = Vec::new();
        Ok(Raw { stream, session: 0, password, timeout_ms: 0, xid: 0, zxid: 0, events: Vec::new() })
    }

    pub fn greet(&mut self, timeout_ms: i32, session: i64, password: &[u8]) -> io::Result<()> {
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

    /// Sends a request and reads up to its answer.
    pub fn ask(&mut self, kind: i32, body: &[u8]) -> io::Result<Answer> {
        self.xid += 1;
        self.ask_as(self.xid, kind, body)
    }

    /// The same with a number of choice.
    pub fn ask_as(&mut self, xid: i32, kind: i32, body: &[u8]) -> io::Result<Answer> {
        self.send(xid, kind, body)?;
        self.events.clear();
        loop {
            let answer = self.receive()?;
            if answer.xid == -1 {
                let mut event = Fields(&answer.body);
                let (kind, _state) = (event.int(), event.int());
                self.events.push((kind, event.string().unwrap_or_default(), answer.zxid));
            } else {
                assert_eq!(answer.xid, xid, "answers come in the order of their requests");
                self.zxid = self.zxid.max(answer.zxid);
                return Ok(answer);
            }
        }
    }

    /// A ping, and with it all events that are on their way.
    pub fn ping(&mut self) -> io::Result<Answer> {
        self.ask_as(-2, 11, &[])
    }

    pub fn send(&mut self, xid: i32, kind: i32, body: &[u8]) -> io::Result<()> {
        self.send_frame(&Bytes::default().int(xid).int(kind).bytes(body).0)
    }

    pub fn send_frame(&mut self, frame: &[u8]) -> io::Result<()> {
        let length = i32::try_from(frame.len()).expect("a frame");
        self.send_bytes(&Bytes::default().int(length).bytes(frame).0)
    }

    pub fn send_bytes(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes)
    }

    pub fn receive(&mut self) -> io::Result<Answer> {
        let frame = self.receive_frame()?;
        let mut fields = Fields(&frame);
        let (xid, zxid, error) = (fields.int(), fields.long(), fields.int());
        Ok(Answer { xid, zxid, error, body: fields.0.to_vec() })
    }

    pub fn receive_frame(&mut self) -> io::Result<Vec<u8>> {
        let mut length = [0; 4];
        self.stream.read_exact(&mut length)?;
        let mut frame = vec![0; usize::try_from(i32::from_be_bytes(length)).expect("a length")];
        self.stream.read_exact(&mut frame)?;
        Ok(frame)
    }

    /// Everything up to the end of the connection.
    pub fn receive_all(&mut self) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        self.stream.read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    /// Whether the server ends the connection, in whatever way, without another word.
    pub fn is_closed(&mut self) -> bool {
        match self.stream.read(&mut [0]) {
            Ok(count) => count == 0,
            Err(error) => !matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut),
        }
    }

    /// A second handle of the same connection.
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

    /// Ends the connection under all its handles.
    pub fn shutdown(&self) {
        // It may have ended already.
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

/// Bytes in the making.
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

    /// An access control list, as permissions, scheme and id.
    pub fn acl(self, list: &[(i32, String, String)]) -> Self {
        let start = self.int(i32::try_from(list.len()).expect("few"));
        list.iter().fold(start, |bytes, (perms, scheme, id)| bytes.int(*perms).string(scheme).string(id))
    }

    /// The body of a `create`, open to all.
    pub fn create(path: &str, data: &[u8], flags: i32) -> Self {
        let open = [(31, "world".to_owned(), "anyone".to_owned())];
        Bytes::default().string(path).buffer(data).acl(&open).int(flags)
    }

    /// The body of a request for a path and a watch.
    pub fn path(path: &str, watch: bool) -> Self {
        Bytes::default().string(path).bool(watch)
    }
}

/// Bytes being read. It panics on what no server may send.
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
