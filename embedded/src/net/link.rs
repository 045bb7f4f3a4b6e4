//! The outgoing side of a connection: what waits to be sent.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use crate::machine::SessionId;

/// How many bytes of buffer the outgoing side of an idle connection may keep.
const IDLE_BUFFER: usize = 8 << 10;

/// How to end a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cut {
    Close,
    Reset,
}

/// The outgoing side of a connection.
pub(super) struct Link {
    pub wake: Arc<Notify>,
    pub session: Option<SessionId>,
    pub ready: Vec<u8>,
    /// How many bytes of `ready` have been sent.
    pub sent: usize,
    pub ending: Option<Cut>,
    /// Frames held back by a delay, each with the time when it is to be sent.
    delayed: VecDeque<(Instant, Vec<u8>)>,
    /// The number of bytes of these frames.
    delayed_bytes: usize,
}

impl Link {
    pub fn new(wake: Arc<Notify>) -> Link {
        let (ready, delayed) = (Vec::new(), VecDeque::new());
        Link { wake, session: None, ready, sent: 0, ending: None, delayed, delayed_bytes: 0 }
    }

    /// Adds a frame that is to be sent after a delay.
    pub fn push(&mut self, now: Instant, delay: Duration, encode: impl FnOnce(&mut Vec<u8>)) {
        if delay.is_zero() && self.delayed.is_empty() {
            return encode(&mut self.ready);
        }
        let mut bytes = Vec::new();
        encode(&mut bytes);
        // Keep the order even if the delay has become shorter.
        let due = self.delayed.back().map_or(now + delay, |(earlier, _)| (now + delay).max(*earlier));
        self.delayed_bytes += bytes.len();
        self.delayed.push_back((due, bytes));
    }

    /// Makes the delayed frames ready whose time has come.
    pub fn take_due(&mut self, now: Instant) {
        while self.next_due().is_some_and(|due| due <= now) {
            if let Some((_, bytes)) = self.delayed.pop_front() {
                self.delayed_bytes -= bytes.len();
                self.ready.extend(bytes);
            }
        }
    }

    /// When the next delayed frame is to be sent.
    pub fn next_due(&self) -> Option<Instant> {
        self.delayed.front().map(|(due, _)| *due)
    }

    /// Empties the buffer after everything in it has been sent.
    pub fn discard_all(&mut self) {
        self.ready.clear();
        self.ready.shrink_to(IDLE_BUFFER);
        self.sent = 0;
    }

    /// Removes the sent bytes from the buffer once they are at least half of it. Otherwise the buffer would grow
    /// without limit for a client that always leaves some bytes unread.
    pub fn discard_sent(&mut self) {
        if self.sent * 2 >= self.ready.len() {
            self.ready.drain(..self.sent);
            self.sent = 0;
        }
    }

    /// How many bytes wait to be sent. It is asked for with every request, so it must not depend on how many frames
    /// wait.
    pub fn queued(&self) -> usize {
        self.ready.len() - self.sent + self.delayed_bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_bytes_that_wait_are_counted_until_they_are_sent() {
        let mut link = Link::new(Arc::default());
        let (now, second) = (Instant::now(), Duration::from_secs(1));
        link.push(now, Duration::ZERO, |out| out.extend(b"one"));
        link.push(now, 2 * second, |out| out.extend(b"two"));
        link.push(now, second, |out| out.extend(b"three"));
        link.push(now + second, Duration::ZERO, |out| out.extend(b"four"));
        assert_eq!(link.queued(), 15);
        link.take_due(now + second);
        link.sent = link.ready.len();
        assert_eq!((link.queued(), link.next_due()), (12, Some(now + 2 * second)));
        link.discard_all();
        link.take_due(now + 2 * second);
        assert_eq!((link.ready.as_slice(), link.queued()), (b"twothreefour".as_slice(), 12));
        link.sent = 6;
        link.discard_sent();
        assert_eq!((link.ready.as_slice(), link.queued()), (b"eefour".as_slice(), 6));
    }
}
