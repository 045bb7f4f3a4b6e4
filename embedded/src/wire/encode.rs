//! Encodes replies. Each function appends one complete frame.

use super::{Acl, ConnectReply, Data, ErrorCode, EventKind, Id, OpResult, Reply, Stat};

/// The `xid` of a watch event.
const NOTIFICATION: i32 = -1;
/// The session state in a watch event. Servers never send another one.
const SYNC_CONNECTED: i32 = 3;

/// Appends the reply to a connect request.
pub fn connect_reply(reply: &ConnectReply, out: &mut Vec<u8>) {
    frame(out, |out| {
        out.int(0);
        out.int(reply.timeout_ms);
        out.long(reply.session);
        out.buffer(Some(&reply.password));
        if reply.tells_read_only {
            out.bool(false);
        }
    });
}

/// Appends the reply to a request.
pub fn reply(xid: i32, zxid: i64, result: &Result<Reply, ErrorCode>, out: &mut Vec<u8>) {
    frame(out, |out| {
        out.int(xid);
        out.long(zxid);
        match result {
            Ok(body) => {
                out.int(0);
                out.body(body);
            }
            Err(error) => out.int(*error as i32),
        }
    });
}

/// Appends a watch event.
pub fn event(kind: EventKind, path: &str, zxid: i64, out: &mut Vec<u8>) {
    frame(out, |out| {
        out.int(NOTIFICATION);
        out.long(zxid);
        out.int(0);
        out.int(kind as i32);
        out.int(SYNC_CONNECTED);
        out.string(path);
    });
}

fn frame(out: &mut Vec<u8>, content: impl FnOnce(&mut Output<'_>)) {
    let start = out.len();
    out.extend_from_slice(&[0; 4]);
    content(&mut Output(out));
    let length = out.len() - start - 4;
    out[start..start + 4].copy_from_slice(&length_of(length).to_be_bytes());
}

/// Converts a length. It does not overflow in practice, because replies are far smaller than 2 GiB.
fn length_of(length: usize) -> i32 {
    i32::try_from(length).unwrap_or(i32::MAX)
}

struct Output<'a>(&'a mut Vec<u8>);

impl Output<'_> {
    fn int(&mut self, value: i32) {
        self.0.extend_from_slice(&value.to_be_bytes());
    }

    fn long(&mut self, value: i64) {
        self.0.extend_from_slice(&value.to_be_bytes());
    }

    fn bool(&mut self, value: bool) {
        self.0.push(value.into());
    }

    fn buffer(&mut self, value: Option<&[u8]>) {
        match value {
            None => self.int(-1),
            Some(bytes) => {
                self.int(length_of(bytes.len()));
                self.0.extend_from_slice(bytes);
            }
        }
    }

    fn string(&mut self, value: &str) {
        self.buffer(Some(value.as_bytes()));
    }

    fn strings<S: AsRef<str>>(&mut self, values: &[S]) {
        self.int(length_of(values.len()));
        for value in values {
            self.string(value.as_ref());
        }
    }

    fn data(&mut self, data: &Data) {
        self.buffer(data.as_deref());
    }

    fn id(&mut self, id: &Id) {
        self.string(&id.scheme);
        self.string(&id.id);
    }

    fn acl(&mut self, acl: &[Acl]) {
        self.int(length_of(acl.len()));
        for entry in acl {
            self.int(entry.perms);
            self.id(&entry.id);
        }
    }

    fn stat(&mut self, stat: &Stat) {
        self.long(stat.czxid);
        self.long(stat.mzxid);
        self.long(stat.ctime);
        self.long(stat.mtime);
        self.int(stat.version);
        self.int(stat.cversion);
        self.int(stat.aversion);
        self.long(stat.ephemeral_owner);
        self.int(stat.data_length);
        self.int(stat.num_children);
        self.long(stat.pzxid);
    }

    fn body(&mut self, reply: &Reply) {
        match reply {
            Reply::Empty => {}
            Reply::Path(path) => self.string(path),
            Reply::PathStat(path, stat) => {
                self.string(path);
                self.stat(stat);
            }
            Reply::Stat(stat) => self.stat(stat),
            Reply::Data(data, stat) => {
                self.data(data);
                self.stat(stat);
            }
            Reply::Children(names) | Reply::Paths(names) => self.strings(names),
            Reply::ChildrenStat(names, stat) => {
                self.strings(names);
                self.stat(stat);
            }
            Reply::Acl(acl, stat) => {
                self.acl(acl);
                self.stat(stat);
            }
            Reply::Number(number) => self.int(*number),
            Reply::Clients(ids) => {
                self.int(length_of(ids.len()));
                ids.iter().for_each(|id| self.id(id));
            }
            Reply::Multi(results) => {
                results.iter().for_each(|result| self.result(result));
                self.header(-1, true, -1);
            }
        }
    }

    fn result(&mut self, result: &OpResult) {
        match result {
            OpResult::Create(path) => {
                self.header(1, false, 0);
                self.string(path);
            }
            OpResult::CreateStat(path, stat) => {
                self.header(15, false, 0);
                self.string(path);
                self.stat(stat);
            }
            OpResult::Delete => self.header(2, false, 0),
            OpResult::SetData(stat) => {
                self.header(5, false, 0);
                self.stat(stat);
            }
            OpResult::SetAcl(stat) => {
                self.header(7, false, 0);
                self.stat(stat);
            }
            OpResult::Check => self.header(13, false, 0),
            OpResult::GetData(data, stat) => {
                self.header(4, false, 0);
                self.data(data);
                self.stat(stat);
            }
            OpResult::GetChildren(names) => {
                self.header(8, false, 0);
                self.strings(names);
            }
            OpResult::Error(code) => {
                self.header(-1, false, *code);
                self.int(*code);
            }
        }
    }

    fn header(&mut self, kind: i32, done: bool, error: i32) {
        self.int(kind);
        self.bool(done);
        self.int(error);
    }
}
