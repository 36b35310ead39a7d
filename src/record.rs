//! Bytes of what outlives the process. Whoever reads them trusts nothing: what cannot be is `None`.

/// What is left to be read of a record.
#[derive(Debug)]
pub struct Reading<'a>(&'a [u8]);

// === impl Reading ===

impl<'a> Reading<'a> {
    /// Of a blob whose first byte says how the rest is written, if that is this `version`.
    #[must_use]
    pub fn of(blob: &'a [u8], version: u8) -> Option<Self> {
        let (first, rest) = blob.split_first()?;
        (*first == version).then_some(Reading(rest))
    }

    /// Whether nothing is left.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The next bytes, as they are.
    pub fn bytes<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (taken, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*taken)
    }

    /// The next byte.
    pub fn byte(&mut self) -> Option<u8> {
        self.bytes().map(|[byte]| byte)
    }

    /// Eight bytes: of hashes, and others that are seldom small.
    pub fn word(&mut self) -> Option<u64> {
        self.bytes().map(u64::from_be_bytes)
    }

    /// A number, as [`write_number`] writes it.
    pub fn number(&mut self) -> Option<u64> {
        let mut number = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            let bits = u64::from(byte & 0x7f);
            if (bits << shift) >> shift != bits {
                return None;
            }
            number |= bits << shift;
            if byte < 0x80 {
                return Some(number);
            }
        }
        None
    }
}

/// Seven bits a byte, the lowest first (LEB128): most numbers are small.
pub fn write_number(bytes: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        bytes.push(number as u8 | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_is_read_as_it_was_written_and_nothing_else_is_one() {
        for number in [0, 1, 127, 128, 1 << 51, u64::MAX - 1, u64::MAX] {
            let mut bytes = Vec::new();
            write_number(&mut bytes, number);
            let mut reading = Reading(&bytes);
            assert_eq!((reading.number(), reading.is_empty()), (Some(number), true), "{number}");
            assert_eq!(Reading(&bytes[..bytes.len() - 1]).number(), None, "{number} without its end");
        }
        for none in [&[][..], &[0x80; 10], &[0xff; 10], &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2]] {
            assert_eq!(Reading(none).number(), None, "{none:?}");
        }
        assert!(Reading::of(&[2, 1], 1).is_none() && Reading::of(&[], 1).is_none());
    }
}
