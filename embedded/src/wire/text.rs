//! The four-letter words: commands that people and monitoring tools send over a plain connection.

/// A four-letter word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "each variant is named after its word")]
pub enum Word {
    Conf,
    Cons,
    Crst,
    Dirs,
    Dump,
    Envi,
    Hash,
    Isro,
    Mntr,
    Ruok,
    Srst,
    Srvr,
    Stat,
    Wchc,
    Wchp,
    Wchs,
}

impl Word {
    /// The word that these bytes spell, if any. A word is sent in place of a frame's length. Read as a length, every
    /// word exceeds [`MAX_FRAME`](super::MAX_FRAME), so words and lengths cannot be confused.
    pub fn from_bytes(bytes: [u8; 4]) -> Option<Word> {
        Some(match &bytes {
            b"conf" => Word::Conf,
            b"cons" => Word::Cons,
            b"crst" => Word::Crst,
            b"dirs" => Word::Dirs,
            b"dump" => Word::Dump,
            b"envi" => Word::Envi,
            b"hash" => Word::Hash,
            b"isro" => Word::Isro,
            b"mntr" => Word::Mntr,
            b"ruok" => Word::Ruok,
            b"srst" => Word::Srst,
            b"srvr" => Word::Srvr,
            b"stat" => Word::Stat,
            b"wchc" => Word::Wchc,
            b"wchp" => Word::Wchp,
            b"wchs" => Word::Wchs,
            _ => return None,
        })
    }
}
