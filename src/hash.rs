//! Hashes that callers cannot choose: of tokens and of counter values, to 128 bits under a key that they do not know.

mod secret;

use std::hash::{BuildHasherDefault, Hasher};

use siphasher::sip128::{Hasher128, SipHasher13};

pub use self::secret::{Secret, SecretError, Secrets, is_open_to_others};

/// Hashes under keys of its own. SipHash-1-3 rather than 2-4: tokens are long, and half the rounds still leave no
/// known way to a collision for who does not know the key.
pub struct KeyedHasher {
    one: [u8; 16],
    /// Another key, so that no text is ever taken for a list.
    list: [u8; 16],
}

/// A map's hasher for keys that are hashes already: it takes the low half of a `u128`, or a `u64`. Hashing again would only cost.
#[derive(Debug, Default)]
pub struct Prehashed(u64);

pub(crate) type Unhashed = BuildHasherDefault<Prehashed>;

// === impl KeyedHasher ===

impl KeyedHasher {
    /// One whose hashes no other process makes.
    ///
    /// # Panics
    ///
    /// The operating system has no randomness: nothing could be kept apart safely.
    #[must_use]
    pub fn random() -> Self {
        KeyedHasher { one: random(), list: random() }
    }

    /// The hasher for one purpose: its hashes are the same in every process that has this secret.
    #[must_use]
    pub fn derived(secret: &Secret, purpose: &str) -> Self {
        KeyedHasher { one: secret.key(purpose, b"one"), list: secret.key(purpose, b"list") }
    }

    /// The hasher of these keys.
    #[must_use]
    pub fn of(keys: [u8; 32]) -> Self {
        let (one, list) = keys.split_at(16);
        let key = |half: &[u8]| half.try_into().unwrap_or_default();
        KeyedHasher { one: key(one), list: key(list) }
    }

    /// Its keys, for where they outlive the process and nobody else can read them.
    #[must_use]
    pub fn keys(&self) -> [u8; 32] {
        let mut keys = [0; 32];
        keys.iter_mut().zip(self.one.iter().chain(&self.list)).for_each(|(to, from)| *to = *from);
        keys
    }

    /// The hash of one text.
    #[must_use]
    pub fn hash(&self, text: &str) -> u128 {
        SipHasher13::new_with_key(&self.one).hash(text.as_bytes()).as_u128()
    }

    /// The hash of a list of texts. Each is hashed with its length, so that no two lists look alike.
    #[must_use]
    pub fn hash_list(&self, texts: impl IntoIterator<Item: AsRef<str>>) -> u128 {
        let mut hasher = SipHasher13::new_with_key(&self.list);
        for text in texts {
            let text = text.as_ref();
            hasher.write_usize(text.len());
            hasher.write(text.as_bytes());
        }
        hasher.finish128().as_u128()
    }
}

/// The key is nobody's to see.
impl std::fmt::Debug for KeyedHasher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("KeyedHasher")
    }
}

/// Random bytes.
///
/// # Panics
///
/// The operating system has no randomness.
#[must_use]
pub fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    let filled = aws_lc_rs::rand::fill(&mut bytes);
    assert!(filled.is_ok(), "the operating system has no randomness");
    bytes
}

// === impl Prehashed ===

impl Hasher for Prehashed {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        // Only such keys are hashed here; this keeps any other key correct, if slow.
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }

    fn write_u128(&mut self, value: u128) {
        self.0 = value as u64;
    }

    fn write_u64(&mut self, value: u64) {
        self.0 = value;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_told_apart_by_the_bounds_of_their_texts() {
        let keys = KeyedHasher::random();
        assert_ne!(keys.hash_list(["ab", "c"]), keys.hash_list(["a", "bc"]));
        assert_ne!(keys.hash_list(["a", ""]), keys.hash_list(["a"]));
        assert_eq!(keys.hash_list(["a", "b"]), keys.hash_list(["a", "b"]));
        assert_ne!(keys.hash_list(["a"]), keys.hash("a"));
        assert_ne!(keys.hash("a"), KeyedHasher::random().hash("a"));
    }

    #[test]
    fn hashes_of_one_secret_are_the_same_for_one_purpose() {
        let secret = Secret::random();
        let of = |purpose| KeyedHasher::derived(&secret, purpose);
        assert_eq!(of("accounts").hash("a"), of("accounts").hash("a"));
        assert_eq!(of("accounts").hash_list(["a", "b"]), of("accounts").hash_list(["a", "b"]));
        assert_ne!(of("accounts").hash("a"), of("others").hash("a"));
        assert_ne!(of("accounts").hash_list(["a"]), of("accounts").hash("a"));
        let again = KeyedHasher::of(of("accounts").keys());
        assert_eq!(of("accounts").hash("a"), again.hash("a"));
        assert_eq!(of("accounts").hash_list(["a"]), again.hash_list(["a"]));
    }
}
