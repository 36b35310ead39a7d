//! Reservations: what Check promised, sealed so that nobody else can make or change one, and only who holds the key can
//! read one.
//!
//! The sealed form is AES-256-GCM over a fixed layout, in URL-safe Base64. It travels through Envoy's dynamic metadata
//! and comes back in the usage report. An answer of Check is to stay below 1,024 bytes, so the form is short.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use siphasher::sip::SipHasher13;
use smallvec::SmallVec;

use crate::clock::Micros;
use crate::hash::{self, Secret};
use crate::limit::{AccountKey, CellId};

/// The layout; another number is another layout.
const VERSION: u8 = 3;
/// Version, minting time, whether it is a call, model, route, length of the tier's name; the name follows.
const HEAD: usize = 1 + 8 + 1 + 8 + 8 + 1;
/// A name that could be part of a namespace's is shorter. Longer ones are left out: they go to a metric only.
const MAX_TIER: usize = 63;
/// Account, cell.
const HOLD: usize = 16 + 8;
/// Instance and serial number, behind what is sealed.
const NAME: usize = 8 + 8;
/// More limits than that apply to no request.
const MAX_HOLDS: usize = 64;

/// What one Check admitted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reservation {
    /// When, on the clock of the store that holds the cells.
    pub minted: Micros,
    /// Who made it.
    pub instance: Instance,
    /// Tells the reservations of one instance apart. It rises with time.
    pub serial: u64,
    /// Whether a model writes for the request, so that an answer without usage has cost something.
    pub is_call: bool,
    /// The tier that was enforced, for metrics; empty if there was none.
    pub tier: Arc<str>,
    /// The model that was asked for, for estimates and metrics.
    pub model: ModelId,
    /// The hash of the route that it was asked on.
    pub route: u64,
    pub holds: SmallVec<[Hold; 2]>,
}

/// What a [`Reservation`] is to say.
#[derive(Clone, Copy, Debug, Default)]
pub struct Terms<'a> {
    pub is_call: bool,
    pub tier: &'a str,
    pub model: ModelId,
    pub route: u64,
    pub holds: &'a [Hold],
}

/// A model's name, short enough to travel: the same in every process. Nothing is let through by it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct ModelId(u64);

/// One run of a process that makes reservations: random, so that no two are alike.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Instance(pub u64);

/// One token limit that the usage will be charged to. How much it allows is not said: what it allows then counts, so that no report
/// takes a change of it back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hold {
    pub account: AccountKey,
    pub cell: CellId,
}

/// Seals and opens reservations.
pub struct Sealer {
    secret: Secret,
    instance: Instance,
    /// Of this instance.
    key: LessSafeKey,
    next: AtomicU64,
}

// === impl Sealer ===

impl Sealer {
    /// The sealer of a new instance, whose reservations can be read by all that have its secret.
    ///
    /// Each instance has a key of its own, so that a nonce, which is its serial number, is never used twice however often processes
    /// of one secret start: with AES-GCM one repeated nonce would give away the key of its tags.
    ///
    /// # Panics
    ///
    /// The operating system has no randomness.
    #[must_use]
    pub fn new(secret: &Secret) -> Self {
        let instance = Instance(u64::from_be_bytes(hash::random()));
        #[expect(clippy::expect_used, reason = "the key's length is that of the algorithm, and this is start-up")]
        let key = key(secret, instance).expect("a 32 byte key must fit AES-256");
        Sealer { secret: secret.clone(), instance, key, next: AtomicU64::new(0) }
    }

    /// A sealer whose reservations nobody else can read.
    ///
    /// # Panics
    ///
    /// The operating system has no randomness.
    #[must_use]
    pub fn random() -> Self {
        Sealer::new(&Secret::random())
    }

    /// Seals the terms, minted at that time of the store's clock.
    #[must_use]
    pub fn seal(&self, terms: &Terms<'_>, minted: Micros) -> String {
        // INVARIANT: a nonce is used once. The counter cannot wrap in the life of a process.
        let serial = self.next.fetch_add(1, Ordering::Relaxed);
        let mut sealed: SmallVec<[u8; 160]> = SmallVec::new();
        sealed.push(VERSION);
        sealed.extend_from_slice(&minted.0.to_be_bytes());
        sealed.push(u8::from(terms.is_call));
        sealed.extend_from_slice(&terms.model.0.to_be_bytes());
        sealed.extend_from_slice(&terms.route.to_be_bytes());
        let tier = if terms.tier.len() > MAX_TIER { "" } else { terms.tier }.as_bytes();
        sealed.push(u8::try_from(tier.len()).unwrap_or(0));
        sealed.extend_from_slice(tier);
        for hold in terms.holds.iter().take(MAX_HOLDS) {
            sealed.extend_from_slice(&hold.account.0.to_be_bytes());
            sealed.extend_from_slice(&hold.cell.0.to_be_bytes());
        }
        let tag = self.key.seal_in_place_separate_tag(nonce(serial), Aad::empty(), &mut sealed);
        // Sealing fails only for texts of many gigabytes. An empty reservation settles nothing, which is safe.
        let Ok(tag) = tag else { return String::new() };
        sealed.extend_from_slice(tag.as_ref());
        sealed.extend_from_slice(&self.instance.0.to_be_bytes());
        sealed.extend_from_slice(&serial.to_be_bytes());
        URL_SAFE_NO_PAD.encode(&sealed)
    }

    /// Opens what [`Sealer::seal`] of this instance made; anything else is `None`. What another instance made, a replica or an earlier
    /// process, is counted in that one's memory.
    #[must_use]
    pub fn open(&self, sealed: &str) -> Option<Reservation> {
        self.read(sealed).filter(|reservation| reservation.instance == self.instance)
    }

    /// Opens what any instance made that has this secret; anything else is `None`.
    #[must_use]
    pub fn read(&self, sealed: &str) -> Option<Reservation> {
        let most = HEAD + MAX_TIER + MAX_HOLDS * HOLD + 16 + NAME;
        if sealed.len() > most * 4 / 3 + 4 {
            return None;
        }
        let mut bytes = URL_SAFE_NO_PAD.decode(sealed).ok()?;
        let name: [u8; NAME] = bytes.split_off(bytes.len().checked_sub(NAME)?).try_into().ok()?;
        let name = u128::from_be_bytes(name);
        let (instance, serial) = (Instance((name >> 64) as u64), name as u64);
        let other;
        let key = if instance == self.instance {
            &self.key
        } else {
            other = key(&self.secret, instance)?;
            &other
        };
        let plain = key.open_in_place(nonce(serial), Aad::empty(), &mut bytes).ok()?;
        Reservation::decode(instance, serial, plain)
    }
}

impl std::fmt::Debug for Sealer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Sealer")
    }
}

/// The key of one instance.
fn key(secret: &Secret, instance: Instance) -> Option<LessSafeKey> {
    let key: [u8; 32] = secret.key("reservations", &instance.0.to_be_bytes());
    UnboundKey::new(&AES_256_GCM, &key).ok().map(LessSafeKey::new)
}

fn nonce(serial: u64) -> Nonce {
    let mut nonce = [0; NONCE_LEN];
    nonce[NONCE_LEN - 8..].copy_from_slice(&serial.to_be_bytes());
    Nonce::assume_unique_for_key(nonce)
}

// === impl Reservation ===

impl Reservation {
    fn decode(instance: Instance, serial: u64, plain: &[u8]) -> Option<Self> {
        let (head, tail) = plain.split_at_checked(HEAD)?;
        let (version, times) = head.split_first()?;
        let (minted, rest) = times.split_at_checked(8)?;
        let (is_call @ ([0] | [1]), rest) = rest.split_at_checked(1)? else { return None };
        let (model, rest) = rest.split_at_checked(8)?;
        let (route, tier_length) = rest.split_at_checked(8)?;
        let (tier, holds) = tail.split_at_checked(usize::from(*tier_length.first()?))?;
        if *version != VERSION || holds.len() % HOLD != 0 {
            return None;
        }
        Some(Reservation {
            minted: Micros(u64::from_be_bytes(minted.try_into().ok()?)),
            instance,
            serial,
            is_call: is_call == [1],
            tier: str::from_utf8(tier).ok()?.into(),
            model: ModelId(u64::from_be_bytes(model.try_into().ok()?)),
            route: u64::from_be_bytes(route.try_into().ok()?),
            holds: holds.chunks_exact(HOLD).map(Hold::decode).collect::<Option<_>>()?,
        })
    }
}

// === impl ModelId ===

impl ModelId {
    /// Where no model was asked for.
    pub const NONE: Self = ModelId(0);

    /// That of `namespace/name`.
    #[must_use]
    pub fn of(name: &str) -> Self {
        ModelId(SipHasher13::new().hash(name.as_bytes()))
    }
}

// === impl Hold ===

impl Hold {
    fn decode(bytes: &[u8]) -> Option<Self> {
        let (account, cell) = bytes.split_at_checked(16)?;
        Some(Hold {
            account: AccountKey(u128::from_be_bytes(account.try_into().ok()?)),
            cell: CellId(u64::from_be_bytes(cell.try_into().ok()?)),
        })
    }
}
