//! The four-letter words: questions that people and monitoring tools ask over a plain connection.

/// A four-letter word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "named after themselves")]
pub enum Word {
    Ruok,
    Srvr,
    Stat,
    Mntr,
    Cons,
    Isro,
    Dump,
    Wchs,
    Wchp,
    Conf,
}

impl Word {
    /// The word that these bytes spell. They stand where a length would; read as one they all exceed
    /// [`MAX_FRAME`](super::MAX_FRAME), so nothing is taken for the other.
    pub fn from_bytes(bytes: [u8; 4]) -> Option<Word> {
        Some(match &bytes {
            b"ruok" => Word::Ruok,
            b"srvr" => Word::Srvr,
            b"stat" => Word::Stat,
            b"mntr" => Word::Mntr,
            b"cons" => Word::Cons,
            b"isro" => Word::Isro,
            b"dump" => Word::Dump,
            b"wchs" => Word::Wchs,
            b"wchp" => Word::Wchp,
            b"conf" => Word::Conf,
            _ => return None,
        })
    }
}
