//! A `StreamAccessLogsMessage`, an entry at a time. All of its entries decoded at once would take some hundred times its size, of
//! entries that are empty.

use hyper::body::Bytes;
use prost::DecodeError;
use prost::bytes::Buf;
use prost::encoding::{DecodeContext, WireType, decode_key, decode_varint, skip_field};

/// What a message holds.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Part {
    /// An encoded `HTTPAccessLogEntry`.
    Http(Bytes),
    /// An entry of a connection.
    Tcp,
}

/// The fields of a message that have a length, with their tags. After one that cannot be read there is none.
struct Fields(Bytes);

/// `http_logs` and `tcp_logs`; the other field is `identifier`, which is not needed.
const HTTP_LOGS: u32 = 2;
const TCP_LOGS: u32 = 3;
/// `log_entry` of either.
const LOG_ENTRY: u32 = 1;

/// What `message` holds, up to where it cannot be read.
pub(super) fn parts(message: Bytes) -> impl Iterator<Item = Result<Part, String>> + Send {
    Fields(message).flat_map(|field| {
        let (entries, error) = match field {
            Ok((tag @ (HTTP_LOGS | TCP_LOGS), logs)) => (Some((tag, Fields(logs))), None),
            Ok(_) => (None, None),
            Err(why) => (None, Some(Err(why))),
        };
        entries.into_iter().flat_map(|(tag, entries)| entries.filter_map(move |entry| part(tag, entry))).chain(error)
    })
}

fn part(tag: u32, entry: Result<(u32, Bytes), String>) -> Option<Result<Part, String>> {
    match entry {
        Ok((LOG_ENTRY, entry)) if tag == HTTP_LOGS => Some(Ok(Part::Http(entry))),
        Ok((LOG_ENTRY, _)) => Some(Ok(Part::Tcp)),
        Ok(_) => None,
        Err(why) => Some(Err(why)),
    }
}

// === impl Fields ===

impl Fields {
    /// The next field, or nothing for one that has no length.
    fn field(&mut self) -> Result<Option<(u32, Bytes)>, DecodeError> {
        let (tag, wire_type) = decode_key(&mut self.0)?;
        if wire_type != WireType::LengthDelimited {
            skip_field(wire_type, tag, &mut self.0, DecodeContext::default())?;
            return Ok(None);
        }
        let mut rest = self.0.clone();
        let length = decode_varint(&mut rest)?;
        // Says what is wrong where it is longer than what is there.
        skip_field(wire_type, tag, &mut self.0, DecodeContext::default())?;
        let length = usize::try_from(length).unwrap_or(usize::MAX).min(rest.len());
        Ok(Some((tag, rest.split_to(length))))
    }
}

impl Iterator for Fields {
    type Item = Result<(u32, Bytes), String>;

    fn next(&mut self) -> Option<Self::Item> {
        while self.0.has_remaining() {
            match self.field() {
                Ok(Some(field)) => return Some(Ok(field)),
                Ok(None) => {}
                Err(error) => {
                    self.0.clear();
                    return Some(Err(error.to_string()));
                }
            }
        }
        None
    }
}
