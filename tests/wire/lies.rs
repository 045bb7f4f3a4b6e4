//! The lies, and what must become of each.
//!
//! A lie that is told once is survived: the request is granted. If every answer is a lie, the request ends in time. A
//! guard that reads `Held` has its node on the honest server. Often a request is granted all the same: whatever an answer
//! does not tell is read again by other requests.

use self::Always::{Either, Granted, Refused};
use crate::liar::About::{Answer, Answers, Handshake, Reconnect};
use crate::liar::{About, CREATE, DELETE, GET_CHILDREN, GET_DATA, Honest, MULTI, PING, Tell, Told, frame};
use crate::lying::Scene::{self, Behind, Free, Multi, Semaphore};
use crate::raw::{Bytes, Fields};

pub struct Row {
    pub name: &'static str,
    pub about: About,
    pub always: Always,
    pub scenes: &'static [Scene],
    pub tell: Tell,
    /// The request may fail with an error, also if the lie is told once.
    pub fails: bool,
    /// The client panics about it. The library catches that.
    pub panics: bool,
    /// The library believes it, and two may hold: nothing shows that it is a lie.
    pub deceives: bool,
}

/// Whether a request is granted if every answer is a lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Always {
    Granted,
    Refused,
    /// It depends on the moment.
    Either,
}

#[rustfmt::skip]
pub fn rows() -> Vec<Row> {
    vec![
        // Connect requests.
        lie("garbage instead of a handshake", Handshake, Refused, |_| now(b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec())),
        lie("a handshake of negative length", Handshake, Refused, |_| now(vec![0xff; 4])),
        lie("an empty handshake", Handshake, Refused, |_| now(vec![0; 4])),
        lie("a handshake that is cut", Handshake, Refused, |honest| now(frame(&honest.frame[..10]))),
        lie("no handshake", Handshake, Refused, |_| Told::default()),
        lie("another version of the protocol", Handshake, Refused, |honest| replaced(honest, 0, &7_i32.to_be_bytes())),
        lie("a session timeout of zero", Handshake, Either, |honest| replaced(honest, 4, &[0; 4])),
        lie("a negative session timeout", Handshake, Refused, |honest| replaced(honest, 4, &(-1_i32).to_be_bytes())),
        lie("a session timeout of weeks", Handshake, Granted, |honest| replaced(honest, 4, &i32::MAX.to_be_bytes())).deceives(),
        lie("the session zero", Handshake, Refused, |honest| replaced(honest, 8, &[0; 8])),
        lie("a negative session", Handshake, Granted, |honest| replaced(honest, 8, &(-1_i64).to_be_bytes())),
        lie("no password", Handshake, Refused, |honest| now(frame(&Bytes(honest.frame[..16].to_vec()).int(0).bool(false).0))),
        lie("a password of negative length", Handshake, Refused, |honest| replaced(honest, 16, &(-1_i32).to_be_bytes())),
        lie("a password longer than the handshake", Handshake, Refused, |honest| replaced(honest, 16, &i32::MAX.to_be_bytes())),
        lie("a long password", Handshake, Granted, |honest| now(frame(&Bytes(honest.frame[..16].to_vec()).buffer(&[7; 1000]).bool(false).0))),
        lie("a read-only server", Handshake, Refused, |honest| replaced(honest, 36, &[1])),
        lie("a read-only server, perhaps", Handshake, Refused, |honest| replaced(honest, 36, &[9])),
        lie("a handshake twice", Handshake, Refused, |honest| now(frame(&honest.frame).repeat(2))),
        lie("another session after a reconnect", Reconnect, Either, |honest| replaced(honest, 8, &42_i64.to_be_bytes())),
        lie("another session timeout after a reconnect", Reconnect, Either, |honest| replaced(honest, 4, &1_i32.to_be_bytes())),
        lie("garbage after a reconnect", Reconnect, Either, |_| now(vec![0x7f; 100])),
        lie("no handshake after a reconnect", Reconnect, Either, |_| Told::default()),
        // Frames.
        lie("no answer", Answers, Refused, |_| Told::default()).fails(),
        lie("a frame of negative length", Answers, Refused, |_| now(i32::MIN.to_be_bytes().to_vec())),
        lie("a frame of two gigabytes", Answers, Refused, |honest| now([&i32::MAX.to_be_bytes()[..], &honest.frame].concat())),
        lie("an empty frame", Answers, Refused, |_| now(vec![0; 4])),
        lie("half of a header", Answers, Refused, |honest| now(frame(&honest.frame[..7]))),
        lie("only the header", Answers, Refused, |honest| now(frame(honest.header()))).on(&[Free, Semaphore]).panics(),
        lie("half of the body", Answers, Refused, |honest| now(frame(&honest.frame[..16 + honest.body().len() / 2]))).on(&[Free, Behind, Semaphore, Multi]).panics(),
        lie("more than the body", Answers, Either, |honest| now(frame(&[&honest.frame[..], &[7; 100]].concat()))).on(&[Free, Behind, Semaphore, Multi]),
        lie("a body of zeros", Answers, Refused, |honest| success(honest, Bytes(vec![0; honest.body().len()]))).on(&[Free, Behind, Semaphore, Multi]).panics(),
        lie("a body of ones", Answers, Refused, |honest| success(honest, Bytes(vec![0xff; honest.body().len()]))).on(&[Free, Behind, Semaphore, Multi]).panics(),
        lie("an xid that was never sent", Answers, Refused, |honest| replaced(honest, 0, &4711_i32.to_be_bytes())),
        lie("the xid zero", Answers, Refused, |honest| replaced(honest, 0, &[0; 4])),
        lie("the xid of an event", Answers, Refused, |honest| replaced(honest, 0, &(-1_i32).to_be_bytes())),
        lie("the xid of a ping", Answers, Refused, |honest| replaced(honest, 0, &(-2_i32).to_be_bytes())),
        lie("the xid of an authentication", Answers, Refused, |honest| replaced(honest, 0, &(-4_i32).to_be_bytes())),
        lie("the xid of watches that are set again", Answers, Refused, |honest| replaced(honest, 0, &(-8_i32).to_be_bytes())),
        lie("every answer twice", Answers, Refused, |honest| now(frame(&honest.frame).repeat(2))),
        lie("answers in another order", Answers, Either, |honest| Told { now: Vec::new(), later: frame(&honest.frame) }).on(&[Free, Behind, Semaphore, Multi]),
        lie("a transaction long ago", Answers, Granted, |honest| replaced(honest, 4, &1_i64.to_be_bytes())),
        lie("a negative transaction", Answers, Granted, |honest| replaced(honest, 4, &i64::MIN.to_be_bytes())),
        lie("the last transaction of all", Answers, Either, |honest| replaced(honest, 4, &i64::MAX.to_be_bytes())),
        lie("no answer to a ping", Answer(PING), Refused, |_| Told::default()),
        lie("every ping answered twice", Answer(PING), Refused, |honest| now(frame(&honest.frame).repeat(2))),
        lie("a ping answered with an error", Answer(PING), Granted, |honest| failed(honest, -9999)),
        // Error codes.
        lie("an error that does not exist", Answers, Refused, |honest| failed(honest, -9999)).on(&[Free, Behind, Semaphore, Multi]),
        lie("a positive error", Answers, Refused, |honest| failed(honest, 17)).on(&[Free, Behind, Semaphore, Multi]),
        lie("the smallest error", Answers, Refused, |honest| failed(honest, i32::MIN)),
        lie("connection loss", Answers, Refused, |honest| failed(honest, -4)),
        lie("the session has expired", Answers, Refused, |honest| failed(honest, -112)),
        lie("the session has moved", Answers, Refused, |honest| failed(honest, -118)),
        lie("too many requests", Answers, Refused, |honest| failed(honest, -127)).fails(),
        lie("nothing exists", Answers, Refused, |honest| failed(honest, -101)).on(&[Free, Behind, Semaphore, Multi]).deceives(),
        lie("success", Answer(DELETE), Either, |honest| success(honest, Bytes::default())),
        lie("a node that cannot be deleted", Answer(DELETE), Granted, |honest| failed(honest, -9999)),
        // The answer to a create.
        lie("a node in another directory", Answer(CREATE), Granted, |honest| created(honest, "/elsewhere/x0000000001")),
        lie("a node that was not asked for", Answer(CREATE), Granted, |honest| created(honest, &format!("{}x0000000001", directory(honest)))),
        lie("a node without a number", Answer(CREATE), Granted, |honest| created(honest, prefix(honest))).panics(),
        lie("a number that is text", Answer(CREATE), Granted, |honest| created(honest, &format!("{}abcdefghij", prefix(honest)))),
        lie("a negative number", Answer(CREATE), Granted, |honest| created(honest, &format!("{}-000000005", prefix(honest)))),
        lie("a number of twenty digits", Answer(CREATE), Granted, |honest| created(honest, &format!("{}99999999999999999999", prefix(honest)))),
        lie("the largest number", Answer(CREATE), Granted, |honest| created(honest, &format!("{}9223372036854775807", prefix(honest)))),
        lie("the number of another node", Answer(CREATE), Granted, |honest| created(honest, &format!("{}0000009999", prefix(honest)))),
        lie("a number of one digit", Answer(CREATE), Granted, |honest| created(honest, &format!("{}7", prefix(honest)))),
        lie("no path", Answer(CREATE), Granted, |honest| created(honest, "")).panics(),
        lie("a path that is not UTF-8", Answer(CREATE), Granted, |honest| success(honest, Bytes::default().buffer(&[0xff; 60]).bytes(stat(honest)))),
        lie("a path of negative length", Answer(CREATE), Granted, |honest| success(honest, Bytes::default().int(-7).bytes(honest.body()))).panics(),
        lie("a path of two gigabytes", Answer(CREATE), Granted, |honest| success(honest, Bytes::default().int(i32::MAX).bytes(honest.body()))),
        lie("a path without a stat", Answer(CREATE), Granted, |honest| success(honest, Bytes::default().string(path(honest)))),
        lie("a negative stat", Answer(CREATE), Granted, |honest| success(honest, Bytes::default().string(path(honest)).bytes(&[0xff; 68]))),
        lie("a stat of zeros", Answer(CREATE), Granted, |honest| success(honest, Bytes::default().string(path(honest)).bytes(&[0; 68]))),
        // Lists.
        lie("a list of nothing", Answer(GET_CHILDREN), Refused, |honest| listed(honest, |_| Vec::new())).on(&[Free, Multi]),
        lie("a list of negative length", Answer(GET_CHILDREN), Refused, |honest| success(honest, Bytes::default().int(-3).bytes(stat(honest)))).on(&[Free, Multi]),
        lie("a list that is longer than its frame", Answer(GET_CHILDREN), Refused, |honest| success(honest, Bytes::default().int(1 << 20).bytes(honest.body()))).on(&[Free, Multi]),
        lie("a list of 400,000 other nodes", Answer(GET_CHILDREN), Refused, |honest| listed(honest, |_| (0..400_000).map(|number| format!("{number:06}")).collect())),
        lie("a list of 50,000 contenders ahead", Answer(GET_CHILDREN), Refused, |honest| listed(honest, |names| {
            names.into_iter().chain((0..50_000).map(|number| format!("{number:032x}__lock__-{number:09}"))).collect()
        })).fails(),
        lie("a list of 10,000 contenders behind", Answer(GET_CHILDREN), Granted, |honest| listed(honest, |names| {
            names.into_iter().chain((0..10_000).map(|number| format!("{number:032x}__lock__{:010}", number + 1_000_000))).collect()
        })),
        lie("a contender ahead that does not exist", Answer(GET_CHILDREN), Granted, |honest| listed(honest, |mut names| {
            names.push(format!("{:032x}__lock__0000000000", 7));
            names
        })).on(&[Behind]),
        lie("every name twice", Answer(GET_CHILDREN), Granted, |honest| listed(honest, |names| [names.clone(), names].concat())).on(&[Free, Behind, Multi, Semaphore]),
        lie("strange names", Answer(GET_CHILDREN), Granted, |honest| listed(honest, |mut names| {
            let strange = ["", ".", "..", "/", "a/b", "0000000000", "-0000000001", "__lock__", "__rlock__0000000000", "\u{0}", "ü0000000000"];
            names.extend(strange.map(String::from));
            names.push("n".repeat(100_000));
            names
        })).on(&[Free, Behind, Multi]),
        lie("names that are not UTF-8", Answer(GET_CHILDREN), Refused, |honest| success(honest, Bytes::default().int(1).buffer(&[0xc3, 0x28]).bytes(stat(honest)))).on(&[Free, Multi]),
        lie("a name of negative length", Answer(GET_CHILDREN), Refused, |honest| success(honest, Bytes::default().int(1).int(-9).bytes(stat(honest)))).on(&[Free, Multi]),
        lie("a name of two gigabytes", Answer(GET_CHILDREN), Refused, |honest| success(honest, Bytes::default().int(1).int(i32::MAX).bytes(stat(honest)))).on(&[Free, Multi]),
        lie("a list with a negative stat", Answer(GET_CHILDREN), Granted, |honest| success(honest, Bytes(honest.body()[..honest.body().len().saturating_sub(68)].to_vec()).bytes(&[0xff; 68]))).on(&[Free, Multi]),
        lie("a list without the contender ahead", Answer(GET_CHILDREN), Granted, |honest| listed(honest, |mut names| {
            names.sort_by_key(|name| name[name.len() - 10..].to_owned());
            names.split_off(names.len().saturating_sub(1))
        })).on(&[Behind]).deceives(),
        // Events, in front of the answers.
        lie("an event that nobody waits for", Answer(GET_CHILDREN), Granted, |honest| event(honest, &Bytes::default().int(2).int(3).string("/nobody/waits").0)),
        lie("an event of an unknown kind", Answer(GET_CHILDREN), Refused, |honest| event(honest, &Bytes::default().int(99).int(3).string("/").0)),
        lie("an event of a negative kind", Answer(GET_CHILDREN), Refused, |honest| event(honest, &Bytes::default().int(-1).int(3).string("/").0)),
        lie("an event in an unknown state", Answer(GET_CHILDREN), Refused, |honest| event(honest, &Bytes::default().int(3).int(77).string("/").0)),
        lie("an event without a path", Answer(GET_CHILDREN), Granted, |honest| event(honest, &Bytes::default().int(3).int(3).int(-1).0)),
        lie("an event whose path is no path", Answer(GET_CHILDREN), Granted, |honest| event(honest, &Bytes::default().int(1).int(3).string("üü").0)),
        lie("an event whose path is not UTF-8", Answer(GET_CHILDREN), Refused, |honest| event(honest, &Bytes::default().int(3).int(3).buffer(&[0xfe; 9]).0)),
        lie("an event that is cut", Answer(GET_CHILDREN), Refused, |honest| event(honest, &[0, 0, 0])),
        lie("a hundred events that nobody waits for", Answer(CREATE), Granted, |honest| {
            let one = frame(&Bytes::default().int(-1).long(9).int(0).int(3).int(3).string("/nobody").0);
            now([one.repeat(100), frame(&honest.frame)].concat())
        }),
        lie("the contender ahead is gone", Answer(GET_DATA), Granted, |honest| {
            let path = Fields(&honest.request).string().unwrap_or_default();
            let gone = Bytes::default().int(-1).long(9).int(0).int(2).int(3).string(&path);
            now([frame(&honest.frame), frame(&gone.0)].concat())
        }).on(&[Behind]).deceives(),
        // Nodes that are read: a watched contender, and the number of permits.
        lie("a node without a stat", Answer(GET_DATA), Either, |honest| success(honest, Bytes::default().buffer(b"1"))).on(&[Behind, Semaphore]).panics(),
        lie("a node of nothing", Answer(GET_DATA), Either, |honest| success(honest, Bytes::default())).on(&[Behind, Semaphore]).panics(),
        lie("a node with a negative stat", Answer(GET_DATA), Either, |honest| success(honest, Bytes::default().buffer(b"1").bytes(&[0xff; 68]))).on(&[Behind, Semaphore]),
        lie("data longer than its frame", Answer(GET_DATA), Either, |honest| success(honest, Bytes::default().int(i32::MAX).bytes(b"1").bytes(stat(honest)))).on(&[Behind, Semaphore]),
        lie("a negative number of permits", Answer(GET_DATA), Refused, |honest| success(honest, Bytes::default().buffer(b"-1").bytes(stat(honest)))).on(&[Semaphore]).fails(),
        lie("a large number of permits", Answer(GET_DATA), Granted, |honest| success(honest, Bytes::default().buffer(&[b'9'; 40]).bytes(stat(honest)))).on(&[Semaphore]).fails(),
        lie("a number of permits that is not UTF-8", Answer(GET_DATA), Granted, |honest| success(honest, Bytes::default().buffer(&[0xff; 9]).bytes(stat(honest)))).on(&[Semaphore]).fails(),
        lie("a megabyte instead of a number of permits", Answer(GET_DATA), Granted, |honest| success(honest, Bytes::default().buffer(&vec![b'1'; 1 << 20]).bytes(stat(honest)))).on(&[Semaphore]).fails(),
        // Transactions: heartbeats, the take of a permit, the nodes of a multi-lock. Without heartbeats, what is granted
        // at the beginning is lost at the end of the session.
        lie("a heartbeat without results", Answer(MULTI), Either, |honest| success(honest, over())),
        lie("a heartbeat that is cut", Answer(MULTI), Either, |honest| success(honest, Bytes(honest.body()[..5].to_vec()))),
        lie("a heartbeat that fails", Answer(MULTI), Either, |honest| failed(honest, -9999)),
        lie("no heartbeat is answered", Answer(MULTI), Either, |_| Told::default()),
        lie("a transaction without results", Answer(MULTI), Either, |honest| success(honest, over())).on(&[Semaphore, Multi]),
        lie("a transaction whose results have no end", Answer(MULTI), Either, |honest| success(honest, Bytes::default().int(13).bool(false).int(0))).on(&[Semaphore, Multi]),
        lie("a transaction with other results", Answer(MULTI), Either, |honest| success(honest, Bytes(Bytes::default().int(2).bool(false).int(0).0.repeat(3)).bytes(&over().0))).on(&[Semaphore, Multi]),
        lie("a transaction with too many results", Answer(MULTI), Either, |honest| success(honest, Bytes(Bytes::default().int(13).bool(false).int(0).0.repeat(1000)).bytes(&over().0))).on(&[Semaphore, Multi]),
        lie("a transaction with an unknown operation", Answer(MULTI), Either, |honest| success(honest, Bytes::default().int(4711).bool(false).int(0).bytes(&over().0))).on(&[Semaphore, Multi]),
        lie("a transaction whose end is neither true nor false", Answer(MULTI), Either, |honest| success(honest, Bytes::default().int(-1).bytes(&[9]).int(-1))).on(&[Semaphore, Multi]),
        lie("a transaction that failed without an error", Answer(MULTI), Either, |honest| success(honest, Bytes(Bytes::default().int(-1).bool(false).int(0).int(0).0.repeat(3)).bytes(&over().0))).on(&[Semaphore, Multi]),
        lie("a transaction whose hundredth operation failed", Answer(MULTI), Either, |honest| {
            let error = |code| Bytes::default().int(-1).bool(false).int(code).int(code).0;
            success(honest, Bytes([error(0).repeat(99), error(-101)].concat()).bytes(&over().0))
        }).on(&[Semaphore, Multi]),
        lie("a transaction with nodes that were not asked for", Answer(MULTI), Either, |honest| {
            let one = Bytes::default().int(15).bool(false).int(0).string("/elsewhere/x0000000001").bytes(&[1; 68]).0;
            success(honest, Bytes(one.repeat(2)).bytes(&over().0))
        }).on(&[Semaphore, Multi]),
    ]
}

fn lie(name: &'static str, about: About, always: Always, tell: Tell) -> Row {
    Row { name, about, always, scenes: &[Free], tell, fails: false, panics: false, deceives: false }
}

impl Row {
    fn on(self, scenes: &'static [Scene]) -> Row {
        Row { scenes, ..self }
    }

    fn fails(self) -> Row {
        Row { fails: true, ..self }
    }

    fn panics(self) -> Row {
        Row { panics: true, ..self }
    }

    fn deceives(self) -> Row {
        Row { deceives: true, ..self }
    }
}

fn now(bytes: Vec<u8>) -> Told {
    Told { now: bytes, later: Vec::new() }
}

/// The honest answer with other bytes at this position.
fn replaced(honest: &Honest, at: usize, bytes: &[u8]) -> Told {
    let mut frame_told = honest.frame.clone();
    if let Some(place) = frame_told.get_mut(at..at + bytes.len()) {
        place.copy_from_slice(bytes);
    }
    now(frame(&frame_told))
}

/// An error instead of the honest answer.
fn failed(honest: &Honest, code: i32) -> Told {
    now(frame(&Bytes(honest.frame[..12].to_vec()).int(code).0))
}

/// Another body, if the request has succeeded.
fn success(honest: &Honest, body: Bytes) -> Told {
    match honest.is_success() {
        true => now(frame(&Bytes(honest.header().to_vec()).bytes(&body.0).0)),
        false => now(frame(&honest.frame)),
    }
}

fn event(honest: &Honest, body: &[u8]) -> Told {
    let event = Bytes::default().int(-1).long(9).int(0).bytes(body);
    now([frame(&event.0), frame(&honest.frame)].concat())
}

/// The end of the results of a transaction.
fn over() -> Bytes {
    Bytes::default().int(-1).bool(true).int(-1)
}

/// The stat at the end of a body.
fn stat(honest: &Honest) -> &[u8] {
    &honest.body()[honest.body().len().saturating_sub(68)..]
}

/// The path in the answer to a create. Empty if it has failed.
fn path(honest: &Honest) -> &str {
    let path = honest.body().get(4..honest.body().len().saturating_sub(68)).unwrap_or_default();
    std::str::from_utf8(path).unwrap_or_default()
}

fn prefix(honest: &Honest) -> &str {
    &path(honest)[..path(honest).len().saturating_sub(10)]
}

fn directory(honest: &Honest) -> &str {
    path(honest).rsplit_once('/').map_or("", |(directory, _)| &path(honest)[..=directory.len()])
}

fn created(honest: &Honest, path: &str) -> Told {
    success(honest, Bytes::default().string(path).bytes(stat(honest)))
}

fn listed(honest: &Honest, change: impl FnOnce(Vec<String>) -> Vec<String>) -> Told {
    match honest.is_success() {
        true => success(
            honest,
            Bytes::default().strings(&change(Fields(honest.body()).strings())).bytes(stat(honest)),
        ),
        false => now(frame(&honest.frame)),
    }
}
