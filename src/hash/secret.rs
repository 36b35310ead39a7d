//! The one secret that keys are made of, and another one while it is changed.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use aws_lc_rs::hmac;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;

/// 32 bytes that nobody else knows. Each key is derived from them for one purpose, so that none tells anything of another.
#[derive(Clone)]
pub struct Secret(hmac::Key);

/// One secret, or two while the one takes the place of the other.
#[derive(Clone, Debug)]
pub struct Secrets {
    /// What everything new is made with.
    pub first: Secret,
    /// What others made with this one is read as well; never the same as the first.
    pub second: Option<Secret>,
}

/// Why a file gives no secret. What it holds is not told.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// It cannot be read.
    #[error("cannot be read: {0}")]
    Unreadable(#[from] io::Error),
    /// It holds something else, or too little of it.
    #[error(
        "has to hold one secret, or two, each a line of 32 random bytes in Base64, as `openssl rand -base64 32` writes them: {0}"
    )]
    Malformed(String),
}

/// In bytes.
const LENGTH: usize = 32;
/// Far more than a secret takes; what is larger is something else, and not read to its end.
const LONGEST: u64 = 1024;

// === impl Secret ===

impl Secret {
    /// A secret of this process alone.
    ///
    /// # Panics
    ///
    /// The operating system has no randomness.
    #[must_use]
    pub fn random() -> Self {
        Secret::of(&super::random())
    }

    /// The secret that a text is: 32 bytes in Base64, with white space before and after it.
    ///
    /// # Errors
    ///
    /// It is no Base64, or another number of bytes.
    fn parse(text: &[u8]) -> Result<Self, String> {
        let bytes = STANDARD.decode(text.trim_ascii()).map_err(|_| "it is no Base64")?;
        let number = bytes.len();
        let secret = bytes.try_into().map_err(|_| format!("it is {number} bytes"))?;
        Ok(Secret::of(&secret))
    }

    /// Whether both are the same.
    #[must_use]
    pub fn is(&self, other: &Secret) -> bool {
        let tag = |secret: &Secret| secret.key::<LENGTH>("comparison", &[]);
        tag(self) == tag(other)
    }

    /// The key for one purpose, and in it for `of` alone: the same in every process that has this secret. At most 32 bytes.
    #[must_use]
    pub fn key<const N: usize>(&self, purpose: &str, of: &[u8]) -> [u8; N] {
        const { assert!(N <= LENGTH, "a longer key would end in zeros") };
        let mut context = hmac::Context::with_key(&self.0);
        // No purpose has a zero byte, so that none is the beginning of another.
        for part in [purpose.as_bytes(), &[0], of] {
            context.update(part);
        }
        let mut key = [0; N];
        key.iter_mut().zip(context.sign().as_ref()).for_each(|(to, from)| *to = *from);
        key
    }

    /// The secret that these bytes are.
    #[must_use]
    pub fn of(bytes: &[u8; LENGTH]) -> Self {
        Secret(hmac::Key::new(hmac::HMAC_SHA256, bytes))
    }
}

// === impl Secrets ===

impl Secrets {
    /// The secrets in a file.
    ///
    /// # Errors
    ///
    /// The file cannot be read, or holds none: see [`Secrets::parse`].
    pub fn read(path: &Path) -> Result<Self, SecretError> {
        let mut bytes = Vec::new();
        File::open(path)?.take(LONGEST).read_to_end(&mut bytes)?;
        Self::parse(&bytes)
    }

    /// The secrets that a text holds: one or two lines, each of 32 bytes in Base64. Lines of white space count for nothing.
    ///
    /// # Errors
    ///
    /// A line is no Base64, or another number of bytes; there are more than two, or two that are the same.
    pub fn parse(text: &[u8]) -> Result<Self, SecretError> {
        let malformed = SecretError::Malformed;
        let lines: Vec<&[u8]> =
            text.split(|byte| *byte == b'\n').filter(|line| !line.trim_ascii().is_empty()).collect();
        let secret = |(at, line): (usize, &&[u8])| {
            Secret::parse(line).map_err(|why| malformed(format!("line {}: {why}", at + 1)))
        };
        // Their number first: of a file that is something else it tells more than its first line.
        if lines.len() > 2 {
            return Err(malformed(format!("it has {} lines", lines.len())));
        }
        let mut secrets = lines.iter().enumerate().map(secret);
        let first = secrets.next().ok_or_else(|| malformed("it is empty".to_owned()))??;
        let second = secrets.next().transpose()?;
        if second.as_ref().is_some_and(|second| second.is(&first)) {
            return Err(malformed("both lines are the same".to_owned()));
        }
        Ok(Secrets { first, second })
    }

    /// Whether `secret` is one of them.
    #[must_use]
    pub fn has(&self, secret: &Secret) -> bool {
        [Some(&self.first), self.second.as_ref()].into_iter().flatten().any(|known| known.is(secret))
    }
}

impl From<Secret> for Secrets {
    fn from(first: Secret) -> Self {
        Secrets { first, second: None }
    }
}

/// It is nobody's to see.
impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret")
    }
}

/// Whether users that neither own the file nor are of its group can read it.
#[must_use]
pub fn is_open_to_others(path: &Path) -> bool {
    path.metadata().is_ok_and(|metadata| metadata.permissions().mode() & 0o004 != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 32 letters.
    const TEXT: &[u8] = b"QUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUE=";

    #[test]
    fn keys_are_the_same_of_one_secret_and_different_for_each_purpose() {
        let (one, again) = (Secret::parse(TEXT).unwrap(), Secret::parse(&[TEXT, b"\n"].concat()).unwrap());
        let key: [u8; 32] = one.key("a", b"1");
        assert_eq!(key, again.key("a", b"1"));
        let others = [one.key("b", b"1"), one.key("a", b"2"), one.key("a1", b""), Secret::random().key("a", b"1")];
        assert!(!others.contains(&key));
    }

    /// 32 other letters.
    const OTHER: &[u8] = b"QkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkI=";

    #[test]
    fn a_file_has_one_secret_or_two() {
        let [one, other] = [TEXT, OTHER].map(|text| Secret::parse(text).unwrap());
        let read = |text: &[&[u8]]| Secrets::parse(&text.concat()).unwrap();
        for alone in [&[TEXT][..], &[b" ", TEXT, b"\r\n\n"]] {
            let secrets = read(alone);
            assert!(secrets.first.is(&one) && secrets.second.is_none());
            assert!(secrets.has(&one) && !secrets.has(&other));
        }
        for both in [&[TEXT, b"\n", OTHER][..], &[b"\n", TEXT, b"\r\n\r\n", OTHER, b"\r\n"]] {
            let secrets = read(both);
            assert!(secrets.first.is(&one) && secrets.second.as_ref().is_some_and(|second| second.is(&other)));
            assert!(secrets.has(&one) && secrets.has(&other) && !secrets.has(&Secret::random()));
        }
    }

    #[test]
    fn what_is_no_secret_says_why_and_not_what_it_is() {
        for (text, why) in [
            (&b""[..], "it is empty"),
            (b" \n\n", "it is empty"),
            (b"QUFB", "line 1: it is 3 bytes"),
            (&[TEXT, TEXT].concat()[..], "line 1: it is no Base64"),
            (&[b'A'; 88], "line 1: it is 66 bytes"),
            (&[b'A'; 32], "line 1: it is 24 bytes"),
            (&[0xff; 32], "line 1: it is no Base64"),
            (&[TEXT, b"\nQUFB\n"].concat(), "line 2: it is 3 bytes"),
            (&[TEXT, b"\n", TEXT].concat(), "both lines are the same"),
            (&[TEXT, b"\n", OTHER, b"\nQUFB"].concat(), "it has 3 lines"),
        ] {
            let error = Secrets::parse(text).unwrap_err().to_string();
            assert!(error.ends_with(&format!("writes them: {why}")), "{error}");
            assert!(!error.contains("QUFB"), "{error}");
        }
        assert_eq!(format!("{:?}", Secret::parse(TEXT).unwrap()), "Secret");
        assert_eq!(format!("{:?}", Secrets::parse(TEXT).unwrap()), "Secrets { first: Secret, second: None }");
    }
}
