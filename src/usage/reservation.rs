//! Reservations: what Check promised, sealed so that nobody else can make or change one, and only who holds the key can
//! read one.
//!
//! The sealed form is AES-256-GCM over a fixed layout, in URL-safe Base64. It travels through Envoy's dynamic metadata
//! and comes back in the usage report. An answer of Check is to stay below 1,024 bytes, so the form is short.

use std::collections::HashSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use arc_swap::ArcSwap;
use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use siphasher::sip::SipHasher13;
use smallvec::SmallVec;

use super::Forecast;
use super::outstanding::Outstanding;
use crate::clock::Micros;
use crate::hash::{self, Secret, Secrets};
use crate::limit::{self, AccountKey, CellId, Instance};
use crate::rules::LimitKind;

/// The layout; another number is another layout.
const VERSION: u8 = 4;
/// What a name may have. Longer ones are left out, or cut: they go to metrics and the usage log only.
const MAX_NAME: usize = 255;
/// Instance and serial number, behind what is sealed. Of the number six bytes: a million a second for nine years.
const NAME: usize = 8 + 6;
/// More limits than that apply to no request.
const MAX_HOLDS: usize = 64;
/// Longer texts are none of ours: they are refused unread.
const MAX_SEALED: usize = 5120;

/// What one Check admitted.
#[derive(Clone, Debug, PartialEq)]
pub struct Reservation {
    /// When, on the clock of the store that holds the cells.
    pub minted: Micros,
    /// Who made it.
    pub instance: Instance,
    /// Tells the reservations of one instance apart. It rises with time.
    pub serial: u64,
    /// Whether a model writes for the request, so that an answer without usage has cost something.
    pub is_call: bool,
    /// Whether a limit of it has a cost of its own: then not all holds are in tokens.
    pub is_priced: bool,
    /// The decision that it comes from, where a usage log is kept; else no names are known either.
    pub decision: Option<u64>,
    /// The tier that was enforced, for metrics; empty if there was none.
    pub tier: Arc<str>,
    /// The model that was asked for, for estimates and metrics.
    pub model: ModelId,
    /// Its name, where a usage log is kept or the cost of a limit looks at it; else empty.
    pub model_name: Arc<str>,
    /// The caller's name, and the route's, where a usage log is kept; else empty.
    pub user: Arc<str>,
    pub route_name: Arc<str>,
    /// The hash of the route that it was asked on, where limits count for each; else 0.
    pub route: u64,
    pub forecast: Forecast,
    pub holds: SmallVec<[Hold; 2]>,
}

/// What a [`Reservation`] is to say.
#[derive(Clone, Copy, Debug, Default)]
pub struct Terms<'a> {
    pub is_call: bool,
    pub is_priced: bool,
    pub decision: Option<u64>,
    pub tier: &'a str,
    pub model: ModelId,
    pub model_name: &'a str,
    pub user: &'a str,
    pub route_name: &'a str,
    pub route: u64,
    pub forecast: Forecast,
    pub holds: &'a [Hold],
}

/// A model's name, short enough to travel: the same in every process. Nothing is let through by it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct ModelId(u64);

/// What one rate of a limit took, or held. How much it allows is not said: what it allows when the report comes counts, so that no
/// report takes a change of it back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hold {
    /// What the limit counts.
    pub kind: LimitKind,
    /// Whether it refuses nobody.
    pub shadow: bool,
    pub of: limit::Hold,
}

/// Seals and opens reservations.
pub struct Sealer {
    instance: Instance,
    keys: ArcSwap<Keys>,
    next: AtomicU64,
    /// Where what is sealed is remembered, if somebody asked for that.
    outstanding: OnceLock<Outstanding>,
    /// What opens besides, whatever secrets are adopted.
    kept: OnceLock<Key>,
    /// Instances of before, whose reservations are settled here.
    earlier: OnceLock<HashSet<Instance>>,
}

/// Of the secrets that are in use.
struct Keys {
    /// What seals.
    first: Key,
    /// What opens as well, while one secret takes the place of another.
    second: Option<Key>,
}

/// The keys of one secret.
struct Key {
    secret: Secret,
    /// Of this instance.
    own: LessSafeKey,
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
        let keys = Keys { first: Key::of(secret, instance), second: None };
        let keys = ArcSwap::from_pointee(keys);
        let (outstanding, kept, earlier) = (OnceLock::new(), OnceLock::new(), OnceLock::new());
        Sealer { instance, keys, next: AtomicU64::new(0), outstanding, kept, earlier }
    }

    /// Seals with the first of `secrets` from now on, and opens what both have sealed. Whether what was sealed until now can be opened
    /// still.
    pub fn adopt(&self, secrets: &Secrets) -> bool {
        let of = |secret: &Secret| Key::of(secret, self.instance);
        // A key that comes back seals on with higher numbers: each instance has one counter for all its keys.
        let keys = Keys { first: of(&secrets.first), second: secrets.second.as_ref().map(of) };
        let before = self.keys.swap(Arc::new(keys));
        secrets.has(&before.first.secret)
    }

    /// Opens from now on what was sealed with `secret` as well; the first that was given stays.
    pub fn keep(&self, secret: &Secret) {
        let _ = self.kept.set(Key::of(secret, self.instance));
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
        let mut sealed: SmallVec<[u8; 256]> = SmallVec::new();
        terms.encode(minted, &mut sealed);
        let tag = self.keys.load().first.own.seal_in_place_separate_tag(nonce(serial), Aad::empty(), &mut sealed);
        // Sealing fails only for texts of many gigabytes. An empty reservation settles nothing, which is safe.
        let Ok(tag) = tag else { return String::new() };
        sealed.extend_from_slice(tag.as_ref());
        sealed.extend_from_slice(&self.instance.0.to_be_bytes());
        sealed.extend_from_slice(&serial.to_be_bytes()[2..]);
        let sealed = URL_SAFE_NO_PAD.encode(&sealed);
        // Without names there is no usage log.
        if terms.is_call
            && terms.decision.is_some()
            && let Some(outstanding) = self.outstanding.get()
        {
            outstanding.remember(serial, &sealed);
        }
        sealed
    }

    /// Has the calls that are sealed from now on remembered in `outstanding`; the first that was given stays.
    pub(super) fn remember_in(&self, outstanding: Outstanding) {
        let _ = self.outstanding.set(outstanding);
    }

    /// Has reservations opened that `earlier` instances made, since what they took is taken over; the first that were given stay.
    pub fn take_over(&self, earlier: impl IntoIterator<Item = Instance>) {
        let _ = self.earlier.set(earlier.into_iter().collect());
    }

    /// The calls that are remembered, if any are.
    pub(super) fn outstanding(&self) -> Option<&Outstanding> {
        self.outstanding.get()
    }

    /// The calls that have a line in the usage log without a report, which a report may correct still, in their order. `None` if no calls
    /// are remembered.
    #[must_use]
    pub fn unsettled_calls(&self) -> Option<Vec<u128>> {
        let instance = u128::from(self.instance.0) << 64;
        let mut calls = self.outstanding.get()?.unsettled(instance);
        calls.sort_unstable();
        Some(calls)
    }

    /// Who seals.
    #[must_use]
    pub fn instance(&self) -> Instance {
        self.instance
    }

    /// How many reservations were made: the serial number of the next one.
    #[must_use]
    pub fn made(&self) -> u64 {
        self.next.load(Ordering::Relaxed)
    }

    /// Opens what [`Sealer::seal`] of this instance made, or of an earlier one that it has taken over; anything else is `None`. What another
    /// instance made, a replica or a process whose memory is gone, is counted in that one's memory.
    #[must_use]
    pub fn open(&self, sealed: &str) -> Option<Reservation> {
        self.read(sealed).filter(|reservation| {
            let Reservation { instance, .. } = reservation;
            *instance == self.instance || self.earlier.get().is_some_and(|earlier| earlier.contains(instance))
        })
    }

    /// Opens what any instance made that has one of the secrets; anything else is `None`.
    #[must_use]
    pub fn read(&self, sealed: &str) -> Option<Reservation> {
        if sealed.len() > MAX_SEALED {
            return None;
        }
        let mut bytes = URL_SAFE_NO_PAD.decode(sealed).ok()?;
        let name: [u8; NAME] = bytes.split_off(bytes.len().checked_sub(NAME)?).try_into().ok()?;
        let name = name.iter().fold(0, |name, byte| name << 8 | u128::from(*byte));
        let (instance, serial) = (Instance((name >> 48) as u64), name as u64 & (u64::MAX >> 16));
        let open = |key: &Key, mut bytes: Vec<u8>| {
            let other;
            let key = if instance == self.instance {
                &key.own
            } else {
                other = key_of(&key.secret, instance)?;
                &other
            };
            let plain = key.open_in_place(nonce(serial), Aad::empty(), &mut bytes).ok()?;
            Reservation::decode(instance, serial, plain)
        };
        let keys = self.keys.load();
        match (&keys.second, self.kept.get()) {
            (None, None) => open(&keys.first, bytes),
            // Opening spoils what the other keys are to be tried on.
            (second, kept) => open(&keys.first, bytes.clone())
                .or_else(|| open(second.as_ref()?, bytes.clone()))
                .or_else(|| open(kept?, bytes)),
        }
    }
}

impl std::fmt::Debug for Sealer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Sealer")
    }
}

// === impl Key ===

impl Key {
    /// # Panics
    ///
    /// Never: every key of AES-256 has the length of these.
    fn of(secret: &Secret, instance: Instance) -> Self {
        #[expect(clippy::expect_used, reason = "the key's length is that of the algorithm")]
        let own = key_of(secret, instance).expect("a 32 byte key must fit AES-256");
        Key { secret: secret.clone(), own }
    }
}

/// The key of one instance.
fn key_of(secret: &Secret, instance: Instance) -> Option<LessSafeKey> {
    let key: [u8; 32] = secret.key("reservations", &instance.0.to_be_bytes());
    UnboundKey::new(&AES_256_GCM, &key).ok().map(LessSafeKey::new)
}

fn nonce(serial: u64) -> Nonce {
    let mut nonce = [0; NONCE_LEN];
    nonce[NONCE_LEN - 8..].copy_from_slice(&serial.to_be_bytes());
    Nonce::assume_unique_for_key(nonce)
}

// === impl Terms ===

impl Terms<'_> {
    fn encode(&self, minted: Micros, sealed: &mut SmallVec<[u8; 256]>) {
        let Forecast { prior, guess, .. } = self.forecast;
        let is_named = self.decision.is_some();
        let has_model = !is_named && !self.model_name.is_empty();
        sealed.push(VERSION);
        sealed.extend_from_slice(&minted.0.to_be_bytes());
        let flags = u8::from(self.is_call) | u8::from(is_named) << 1 | u8::from(self.route != 0) << 2;
        sealed.push(flags | u8::from(has_model) << 3 | u8::from(self.is_priced) << 4);
        sealed.extend_from_slice(&self.model.0.to_be_bytes());
        if self.route != 0 {
            sealed.extend_from_slice(&self.route.to_be_bytes());
        }
        // Two digits of a forecast are enough to learn by: the upper half of a float has them.
        for forecast in [prior, guess] {
            sealed.extend_from_slice(&forecast.to_be_bytes()[..2]);
        }
        if let Some(decision) = self.decision {
            write_number(sealed, decision);
        }
        let names = if is_named { 4 } else { 1 + usize::from(has_model) };
        for name in [self.tier, self.model_name, self.user, self.route_name].into_iter().take(names) {
            let name = name.get(..name.floor_char_boundary(MAX_NAME)).unwrap_or_default();
            sealed.push(u8::try_from(name.len()).unwrap_or(0));
            sealed.extend_from_slice(name.as_bytes());
        }
        // The limits of a request count for few accounts, mostly for one.
        let mut account = None;
        for Hold { kind, shadow, of } in self.holds.iter().take(MAX_HOLDS) {
            let is_other = account != Some(of.account);
            let flags = u8::from(*kind == LimitKind::Tokens) | u8::from(is_other) << 1 | u8::from(*shadow) << 2;
            sealed.push(flags);
            if is_other {
                account = Some(of.account);
                sealed.extend_from_slice(&of.account.0.to_be_bytes());
            }
            sealed.extend_from_slice(&of.cell.0.to_be_bytes());
            write_number(sealed, of.held);
            // Mostly a little later; where there is none, wrapping leads back to it all the same.
            write_number(sealed, of.mark.0.wrapping_sub(minted.0));
        }
    }
}

// === impl Reservation ===

impl Reservation {
    /// Which call it is, among those of all instances.
    #[must_use]
    pub fn call(&self) -> u128 {
        u128::from(self.instance.0) << 64 | u128::from(self.serial)
    }

    fn decode(instance: Instance, serial: u64, plain: &[u8]) -> Option<Self> {
        let mut rest = Plain(plain);
        let [VERSION] = rest.take()? else { return None };
        let minted = Micros(rest.number()?);
        let [flags @ 0..=31] = rest.take()? else { return None };
        let (is_call, is_named, is_routed) = (flags & 1 == 1, flags & 2 == 2, flags & 4 == 4);
        let (has_model, is_priced) = (is_named || flags & 8 == 8, flags & 16 == 16);
        let model = ModelId(rest.number()?);
        let route = if is_routed { rest.number()? } else { 0 };
        let forecast = Forecast { want: 0, prior: rest.float()?, guess: rest.float()? };
        let decision = if is_named { Some(rest.short_number()?) } else { None };
        let tier = rest.name()?;
        let mut named = |has_name| if has_name { rest.name() } else { Some(Arc::default()) };
        let (model_name, user, route_name) = (named(has_model)?, named(is_named)?, named(is_named)?);
        let mut holds = SmallVec::new();
        let mut account = None;
        while !rest.0.is_empty() {
            let hold = rest.hold(account, minted)?;
            account = Some(hold.of.account);
            holds.push(hold);
        }
        Some(Reservation {
            minted,
            instance,
            serial,
            is_call,
            is_priced,
            decision,
            tier,
            model,
            model_name,
            user,
            route,
            route_name,
            forecast,
            holds,
        })
    }
}

/// Seven bits a byte, the lowest first (LEB128): most numbers are small.
fn write_number(sealed: &mut SmallVec<[u8; 256]>, mut number: u64) {
    while number >= 0x80 {
        sealed.push(number as u8 | 0x80);
        number >>= 7;
    }
    sealed.push(number as u8);
}

/// What is left to be read of a reservation.
struct Plain<'a>(&'a [u8]);

// === impl Plain ===

impl Plain<'_> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (taken, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*taken)
    }

    fn number(&mut self) -> Option<u64> {
        self.take().map(u64::from_be_bytes)
    }

    /// The upper half of one.
    fn float(&mut self) -> Option<f32> {
        let [one, two] = self.take()?;
        Some(f32::from_be_bytes([one, two, 0, 0]))
    }

    /// As [`write_number`] writes it.
    fn short_number(&mut self) -> Option<u64> {
        let mut number = 0;
        for shift in (0..64).step_by(7) {
            let [byte] = self.take()?;
            number |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Some(number);
            }
        }
        None
    }

    fn name(&mut self) -> Option<Arc<str>> {
        let [length] = self.take()?;
        let (name, rest) = self.0.split_at_checked(usize::from(length))?;
        self.0 = rest;
        str::from_utf8(name).ok().map(Arc::from)
    }

    /// The next hold; of the account of the one before, where it says none.
    fn hold(&mut self, before: Option<AccountKey>, minted: Micros) -> Option<Hold> {
        let [flags @ 0..=7] = self.take()? else { return None };
        let kind = if flags & 1 == 1 { LimitKind::Tokens } else { LimitKind::Requests };
        let account = match flags & 2 {
            0 => before?,
            _ => AccountKey(u128::from_be_bytes(self.take()?)),
        };
        let (cell, held, after) = (CellId(self.number()?), self.short_number()?, self.short_number()?);
        let mark = Micros(minted.0.wrapping_add(after));
        Some(Hold { kind, shadow: flags & 4 == 4, of: limit::Hold { account, cell, held, mark } })
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

    /// Whether a model was asked for.
    #[must_use]
    pub fn is_known(self) -> bool {
        self != Self::NONE
    }

    /// The hash itself.
    #[must_use]
    pub fn hash(self) -> u64 {
        self.0
    }
}
