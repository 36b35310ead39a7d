//! What a call will cost, as far as can be told before its answer: what this model's answers use, times how far this caller's
//! forecasts were off, with a margin.
//!
//! It is held of token limits at admission, and corrected by the settlement. A bound that a client names (`max_tokens`) is no forecast:
//! nearly all answers stay far below it. Where the gateway sends bodies along, no more is held than that ([`super::most_tokens`]).

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::Mutex;

use super::{ModelId, Usage};
use crate::clock::Micros;
use crate::expression::Used;
use crate::limit::AccountKey;
use crate::record::{Reading, write_number};

/// Models that are remembered: configured ones are fewer.
const MODELS: usize = 1024;
const CALLERS: usize = 65_536;
/// Bytes of JSON a token of a prompt.
const BYTES_A_TOKEN: f32 = 4.0;
/// The prompt of a model of which nothing is known costs at most this many tokens: what makes a request longer is mostly an image
/// or a sound, and no text.
const UNKNOWN_PROMPT: f32 = 16_384.0;
/// What an answer of a model of which nothing is known is taken to be.
const UNKNOWN_ANSWER: f32 = 1_000.0;
/// A prompt counts at most so many times the usual one, and this many tokens.
const LONG_PROMPT: f32 = 4.0;
const SLACK: f32 = 256.0;
/// What is remembered of a model's answers, a second of one caller's answers later; and of a caller's, an answer later.
const MODEL_MEMORY: f32 = 0.995;
const CALLER_MEMORY: f32 = 0.97;
/// So many forecasts count as met from a caller's start, so that one odd first answer does not decide.
const MET: f32 = 4.0;
/// How far a caller's answers may be from the model's.
const SHARE: (f32, f32) = (0.5, 8.0);
/// What one answer weighs in the error.
const ERROR_WEIGHT: f32 = 0.02;
/// What one call weighs in the time that calls run.
const TIME_WEIGHT: f32 = 0.1;

/// What is known of the answers of models and callers. It is soft: what is lost of it is learned again.
#[derive(Debug)]
pub struct Forecasts {
    models: Table<Model>,
    callers: Table<Caller>,
    /// How long calls of models run.
    times: Table<CallTime>,
    margin: f32,
    /// Whether anything was learned since it was written down.
    have_learned: AtomicBool,
}

/// What one call will cost, in tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Forecast {
    /// To be held: the guess with its margin; at least 1.
    pub want: u64,
    /// By the model alone.
    pub prior: f32,
    /// By model and caller.
    pub guess: f32,
}

/// Whose call it is: of the same caller, where one is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Calling {
    pub model: ModelId,
    /// That in which the tokens count.
    pub account: AccountKey,
}

/// Decayed sums of what a model's answers used.
#[derive(Clone, Copy, Debug)]
struct Model {
    answers: f32,
    output: f32,
    input: f32,
    /// The mean square of what was used by what was guessed, less one.
    error: f32,
}

/// Decayed sums of what a caller's answers used, and what was forecast by their models.
#[derive(Clone, Copy, Debug, Default)]
struct Caller {
    used: f32,
    forecast: f32,
    last: Micros,
}

/// The decayed mean of how long calls run, in seconds; 0 where it is not known.
#[derive(Clone, Copy, Debug, Default)]
struct CallTime(f32);

/// Values by key, in sets of [`WAYS`]: of a full set the one that was not used for longest goes.
#[derive(Debug)]
struct Table<V> {
    sets: Box<[Mutex<[Entry<V>; WAYS]>]>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Entry<V> {
    /// 0 where there is none.
    key: u64,
    used: Micros,
    value: V,
}

/// A value that outlives the process.
trait Recorded: Sized {
    fn write(&self, record: &mut Vec<u8>);
    fn read(record: &mut Reading<'_>) -> Option<Self>;
}

const WAYS: usize = 4;
/// How records are written; another number is another way.
const VERSION: u8 = 1;
const MODEL_RECORDS: u8 = 0;
const CALLER_RECORDS: u8 = 1;
const TIME_RECORDS: u8 = 2;

// === impl Forecasts ===

impl Forecasts {
    /// What is added to a guess, in its usual errors: more refuses more that would have fit, and lets through less that does not.
    pub const MARGIN: f32 = 0.3;

    #[must_use]
    pub fn new(margin: f32) -> Self {
        let (models, callers, times) = (Table::new(MODELS), Table::new(CALLERS), Table::new(MODELS));
        Forecasts { models, callers, times, margin, have_learned: AtomicBool::new(false) }
    }

    /// What a call will cost whose body has so many bytes, where that is known.
    #[must_use]
    pub fn forecast(&self, calling: Calling, bytes: Option<u64>) -> Forecast {
        let model = self.models.get(calling.model.hash()).unwrap_or_default();
        let caller = self.callers.get(calling.key()).unwrap_or_default();
        let prior = model.prior(bytes);
        let guess = prior * caller.share(prior);
        let margin = 1.0 + self.margin * model.error.min(4.0).sqrt();
        // A float that is too large becomes the largest number.
        Forecast { want: ((guess * margin).ceil() as u64).max(1), prior, guess }
    }

    /// What prompt and answer have of `forecast`, which was told of a call of `model` whose body has so many bytes. The prompt is as
    /// long as the model's, and the rest is the answer's. Less than the model's calls cost is less of both.
    #[must_use]
    pub fn split(&self, model: ModelId, bytes: Option<u64>, forecast: Forecast) -> Used {
        let Forecast { want, prior, guess } = forecast;
        let prompt = self.models.get(model.hash()).unwrap_or_default().prompt(bytes);
        let whole = prompt.ceil() as u64;
        // What is bounded is the prompt of that body, and the rest is the bound of its answers.
        let is_bounded = (want as f32) < guess;
        let in_proportion = (f64::from(prompt) * want as f64 / f64::from(prior)) as u64;
        Used::split(want, if is_bounded { whole } else { whole.min(in_proportion) })
    }

    /// How long calls of `model` run, where that is known.
    #[must_use]
    pub fn call_time(&self, model: ModelId) -> Option<Duration> {
        let CallTime(seconds) = self.times.get(model.hash())?;
        Duration::try_from_secs_f32(seconds).ok().filter(|time| !time.is_zero())
    }

    /// Learns how long a call of `model` ran.
    pub fn ran(&self, model: ModelId, time: Duration, now: Micros) {
        let seconds = time.as_secs_f32();
        self.times.change(model.hash(), now, |CallTime(mean)| {
            *mean = if *mean == 0.0 { seconds } else { *mean + TIME_WEIGHT * (seconds - *mean) };
        });
        self.have_learned.store(true, Ordering::Relaxed);
    }

    /// Learns what a call cost, for which `forecast` was told.
    pub fn learn(&self, calling: Calling, forecast: Forecast, usage: &Usage, now: Micros) {
        let Some(total) = usage.tokens() else { return };
        let output = usage.output.or_else(|| Some(total.saturating_sub(usage.input?))).unwrap_or(total);
        let (total, output) = (total as f32, output.min(total) as f32);
        let since = self.callers.change(calling.key(), now, |caller| caller.learn(total, forecast.prior, now));
        self.models.change(calling.model.hash(), now, |model| model.learn(total, output, forecast.guess, since));
        self.have_learned.store(true, Ordering::Relaxed);
    }

    /// What was learned, as [`Forecasts::read`] reads it, in parts of about so many bytes at most; `None` if nothing was since the last
    /// time.
    #[must_use]
    pub fn records(&self, most: usize) -> Option<Vec<Vec<u8>>> {
        if !self.have_learned.swap(false, Ordering::Relaxed) {
            return None;
        }
        let mut parts = self.models.records(MODEL_RECORDS, most);
        parts.extend(self.callers.records(CALLER_RECORDS, most));
        parts.extend(self.times.records(TIME_RECORDS, most));
        Some(parts)
    }

    /// Notes that what was written down was not kept.
    pub fn put_back(&self) {
        self.have_learned.store(true, Ordering::Relaxed);
    }

    /// Takes over what was learned. `None` if it is anything else.
    pub fn read(&self, records: &[u8]) -> Option<()> {
        let mut records = Reading::of(records, VERSION)?;
        match records.byte()? {
            MODEL_RECORDS => self.models.read(records),
            CALLER_RECORDS => self.callers.read(records),
            TIME_RECORDS => self.times.read(records),
            _ => None,
        }
    }
}

impl Default for Forecasts {
    fn default() -> Self {
        Forecasts::new(Self::MARGIN)
    }
}

// === impl Forecast ===

impl Forecast {
    /// The same of a call that can cost no more than `most`. What is learned by it stays as it was: a short answer that was asked for
    /// says nothing of others.
    #[must_use]
    pub fn at_most(self, most: u64) -> Self {
        Forecast { want: self.want.min(most).max(1), ..self }
    }
}

// === impl Calling ===

impl Calling {
    fn key(self) -> u64 {
        // The account is a keyed hash: nobody can choose which ones meet.
        (self.account.0 as u64) ^ self.model.hash()
    }
}

// === impl Model ===

impl Default for Model {
    fn default() -> Self {
        Model { answers: 0.0, output: 0.0, input: 0.0, error: 1.0 }
    }
}

impl Model {
    /// What a call of this model costs whose body has so many bytes.
    fn prior(&self, bytes: Option<u64>) -> f32 {
        let answer = if self.is_known() { self.output / self.answers } else { UNKNOWN_ANSWER };
        self.prompt(bytes) + answer
    }

    /// Of it, the prompt.
    #[inline]
    fn prompt(&self, bytes: Option<u64>) -> f32 {
        let prompt = bytes.map(|bytes| bytes as f32 / BYTES_A_TOKEN);
        if !self.is_known() {
            return prompt.unwrap_or(0.0).min(UNKNOWN_PROMPT);
        }
        let input = self.input / self.answers;
        prompt.map_or(input, |prompt| prompt.min(LONG_PROMPT * input + SLACK))
    }

    #[inline]
    fn is_known(&self) -> bool {
        self.answers >= 1.0
    }

    /// Learns from an answer of a caller whose last one was so many seconds before. A caller who calls often has one vote a second.
    fn learn(&mut self, total: f32, output: f32, guess: f32, since: f32) {
        let vote = since.clamp(0.02, 1.0);
        let memory = MODEL_MEMORY.powf(vote);
        self.answers = self.answers * memory + vote;
        self.output = self.output * memory + vote * output;
        self.input = self.input * memory + vote * (total - output);
        let off = (total / guess.max(1.0)).min(8.0) - 1.0;
        self.error += ERROR_WEIGHT * (off * off - self.error);
    }
}

// === impl Caller ===

impl Caller {
    /// How much more, or less, this caller's answers cost than the model's.
    fn share(&self, prior: f32) -> f32 {
        let met = MET * prior;
        ((self.used + met) / (self.forecast + met)).clamp(SHARE.0, SHARE.1)
    }

    /// Learns what an answer used; how many seconds ago the last one was.
    fn learn(&mut self, total: f32, prior: f32, now: Micros) -> f32 {
        let since = now.0.saturating_sub(self.last.0) as f32 / 1e6;
        self.used = self.used * CALLER_MEMORY + total.min(SHARE.1 * prior);
        self.forecast = self.forecast * CALLER_MEMORY + prior;
        self.last = now;
        since
    }
}

// === impl Table ===

impl<V: Copy + Default> Table<V> {
    fn new(entries: usize) -> Self {
        Table { sets: (0..entries / WAYS).map(|_| Mutex::default()).collect() }
    }

    fn set(&self, key: u64) -> Option<&Mutex<[Entry<V>; WAYS]>> {
        // Keys are hashes, of which the set takes other bits than the maps of accounts.
        let at = (key >> 32) as usize % self.sets.len().max(1);
        self.sets.get(at)
    }

    fn get(&self, key: u64) -> Option<V> {
        let set = self.set(key)?.lock();
        set.iter().find(|entry| entry.key == key).map(|entry| entry.value)
    }

    /// Changes the value of `key`, which is a new one if there is none.
    fn change<R: Default>(&self, key: u64, now: Micros, change: impl FnOnce(&mut V) -> R) -> R {
        let Some(mut set) = self.set(key).map(Mutex::lock) else { return R::default() };
        let known = set.iter().position(|entry| entry.key == key);
        let oldest = || set.iter().enumerate().min_by_key(|(_, entry)| entry.used).map_or(0, |(at, _)| at);
        let at = known.unwrap_or_else(oldest);
        let Some(entry) = set.get_mut(at) else { return R::default() };
        if known.is_none() {
            *entry = Entry { key, ..Entry::default() };
        }
        entry.used = now;
        change(&mut entry.value)
    }
}

impl<V: Copy + Default + Recorded> Table<V> {
    fn records(&self, kind: u8, most: usize) -> Vec<Vec<u8>> {
        let begin = || vec![VERSION, kind];
        let (mut parts, mut part) = (Vec::new(), begin());
        for set in &self.sets {
            let entries = *set.lock();
            for Entry { key, used, value } in entries.iter().filter(|entry| entry.key != 0) {
                part.extend_from_slice(&key.to_be_bytes());
                write_number(&mut part, used.0);
                value.write(&mut part);
            }
            if part.len() >= most {
                parts.push(std::mem::replace(&mut part, begin()));
            }
        }
        parts.push(part);
        parts
    }

    fn read(&self, mut records: Reading<'_>) -> Option<()> {
        while !records.is_empty() {
            let (key, used) = (records.word()?, Micros(records.number()?));
            let value = V::read(&mut records)?;
            self.change(key, used, |known| *known = value);
        }
        Some(())
    }
}

// === impl Recorded ===

impl Recorded for Model {
    fn write(&self, record: &mut Vec<u8>) {
        for number in [self.answers, self.output, self.input, self.error] {
            record.extend_from_slice(&number.to_be_bytes());
        }
    }

    fn read(record: &mut Reading<'_>) -> Option<Self> {
        let [answers, output, input, error] = [sum(record)?, sum(record)?, sum(record)?, sum(record)?];
        Some(Model { answers, output, input, error })
    }
}

impl Recorded for Caller {
    fn write(&self, record: &mut Vec<u8>) {
        for number in [self.used, self.forecast] {
            record.extend_from_slice(&number.to_be_bytes());
        }
        write_number(record, self.last.0);
    }

    fn read(record: &mut Reading<'_>) -> Option<Self> {
        let [used, forecast] = [sum(record)?, sum(record)?];
        Some(Caller { used, forecast, last: Micros(record.number()?) })
    }
}

impl Recorded for CallTime {
    fn write(&self, record: &mut Vec<u8>) {
        record.extend_from_slice(&self.0.to_be_bytes());
    }

    fn read(record: &mut Reading<'_>) -> Option<Self> {
        sum(record).map(CallTime)
    }
}

/// A sum of what was used: a number, and none below 0.
fn sum(record: &mut Reading<'_>) -> Option<f32> {
    record.bytes().map(f32::from_be_bytes).filter(|sum| sum.is_finite() && *sum >= 0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000;

    #[test]
    fn what_was_learned_is_taken_over_and_anything_else_is_not() {
        let (learned, later) = (Forecasts::default(), Forecasts::default());
        assert!(learned.records(1).is_none(), "nothing yet");
        for account in 1..50 {
            answers(&learned, calling("a/m", account), &usage(100, 60 * account as u64), 5);
        }
        let records = learned.records(1_000).unwrap();
        assert!(learned.records(1_000).is_none(), "nothing since");
        assert!(records.len() > 2 && records.iter().all(|part| part.len() < 1_200));
        records.iter().for_each(|part| later.read(part).unwrap());
        for account in 1..60 {
            let of = |forecasts: &Forecasts| forecasts.forecast(calling("a/m", account), Some(400));
            assert_eq!(of(&learned), of(&later));
        }
        let model = &records[0];
        for (at, byte) in [(0, 2), (1, 2), (18, 0xff), (18, 0x80)] {
            let mut damaged = model.clone();
            damaged[at] = byte;
            assert_eq!(later.read(&damaged), None, "{at}: {byte}");
        }
        assert_eq!(later.read(&model[..model.len() - 1]), None);
    }

    fn calling(model: &str, account: u128) -> Calling {
        Calling { model: ModelId::of(model), account: AccountKey(account << 40 | account) }
    }

    fn usage(input: u64, output: u64) -> Usage {
        Usage { input: Some(input), output: Some(output), ..Usage::default() }
    }

    /// Answers of that usage, a second apart; the time after them.
    fn answers(forecasts: &Forecasts, calling: Calling, usage: &Usage, times: u64) -> Micros {
        for second in 0..times {
            let forecast = forecasts.forecast(calling, Some(400));
            forecasts.learn(calling, forecast, usage, Micros(second * SECOND));
        }
        Micros(times * SECOND)
    }

    #[test]
    fn a_model_of_which_nothing_is_known_is_taken_to_answer_a_thousand_tokens() {
        let forecasts = Forecasts::new(0.0);
        for (bytes, want) in [(None, 1_000), (Some(400), 1_100), (Some(4_000_000), 17_384), (Some(u64::MAX), 17_384)] {
            assert_eq!(forecasts.forecast(calling("a/m", 1), bytes).want, want, "{bytes:?}");
        }
        // With a margin of 0.3, of an error that nothing is known of.
        assert_eq!(Forecasts::default().forecast(calling("a/m", 1), None).want, 1_300);
    }

    #[test]
    fn a_bound_makes_what_is_held_smaller_and_nothing_else() {
        let forecast = Forecasts::default().forecast(calling("a/m", 1), None);
        for (most, want) in [(0, 1), (1, 1), (20, 20), (1_300, 1_300), (u64::MAX, 1_300)] {
            assert_eq!(forecast.at_most(most), Forecast { want, ..forecast });
        }
    }

    #[test]
    fn it_comes_near_what_the_models_answers_use() {
        let forecasts = Forecasts::default();
        answers(&forecasts, calling("a/m", 1), &usage(100, 60), 300);
        let forecast = forecasts.forecast(calling("a/m", 2), Some(400));
        assert!((150..=180).contains(&forecast.want), "{forecast:?}");
        // Another model's are not known.
        assert!(forecasts.forecast(calling("a/n", 2), Some(400)).want > 1_000);
    }

    #[test]
    fn a_caller_whose_answers_are_longer_holds_more_and_others_do_not() {
        let forecasts = Forecasts::new(0.0);
        let [usual, fat] = [calling("a/m", 1), calling("a/m", 2)];
        let now = answers(&forecasts, usual, &usage(100, 100), 300);
        // 200 in a moment: votes of a second in all are few.
        for _ in 0..200 {
            let forecast = forecasts.forecast(fat, Some(400));
            forecasts.learn(fat, forecast, &usage(100, 1_500), now);
        }
        let of = |calling| forecasts.forecast(calling, Some(400)).want;
        assert!(of(fat) > 1_000, "{}", of(fat));
        assert!(of(usual) < 260, "{}", of(usual));
    }

    /// Sequence 33: a thousand short answers, and then two hundred long ones.
    #[test]
    fn who_lulls_the_forecast_gains_half_of_it_once_and_moves_others_little() {
        let forecasts = Forecasts::new(0.0);
        let [usual, fat] = [calling("a/m", 1), calling("a/m", 2)];
        let now = answers(&forecasts, usual, &usage(100, 100), 600);
        let of = |calling| forecasts.forecast(calling, Some(400)).want;
        let before = of(usual);
        // A hundred calls a second, all of one caller: one vote a second.
        let send = |tokens: u64, count: u64, begin: Micros| {
            for call in 0..count {
                let now = Micros(begin.0 + call * SECOND / 100);
                let forecast = forecasts.forecast(fat, Some(400));
                forecasts.learn(fat, forecast, &usage(tokens / 2, tokens / 2), now);
                // Others go on, each second.
                if call % 100 == 0 {
                    let forecast = forecasts.forecast(usual, Some(400));
                    forecasts.learn(usual, forecast, &usage(100, 100), now);
                }
            }
            Micros(begin.0 + count * SECOND / 100)
        };
        let now = send(2, 1_000, now);
        let lulled = of(fat);
        assert!(lulled * 2 >= before * 9 / 10 && lulled < before, "{lulled} of {before}: the floor is a half");
        send(1_600, 200, now);
        assert!(of(fat) > 1_000, "{}", of(fat));
        assert!(of(usual).abs_diff(before) * 10 < before, "{} and {before} before", of(usual));
    }

    /// Whoever calls for less than others gets answers all the same: no cost of the answer alone is 0.
    #[test]
    fn a_forecast_below_the_models_is_one_of_a_shorter_prompt_and_a_shorter_answer() {
        let forecasts = Forecasts::new(0.0);
        let [usual, thrifty] = [calling("a/m", 1), calling("a/m", 2)];
        let now = answers(&forecasts, usual, &usage(100, 10), 300);
        let split = |calling: Calling| {
            let forecast = forecasts.forecast(calling, Some(400));
            forecasts.split(calling.model, Some(400), forecast)
        };
        let used = split(usual);
        assert!((99..=100).contains(&used.input) && (10..=11).contains(&used.output), "{used:?}");
        for _ in 0..300 {
            forecasts.learn(thrifty, forecasts.forecast(thrifty, Some(400)), &usage(40, 4), now);
        }
        let used = split(thrifty);
        assert!((45..60).contains(&used.input) && (4..=7).contains(&used.output), "{used:?}");
        // A bound says what the prompt is.
        let bounded = forecasts.forecast(usual, Some(400)).at_most(105);
        assert_eq!(forecasts.split(usual.model, Some(400), bounded), Used::new(100, 5));
        // A model that answers nothing: what it uses is its prompt.
        let embedding = calling("a/e", 1);
        answers(&forecasts, embedding, &usage(100, 0), 300);
        let forecast = forecasts.forecast(embedding, Some(400));
        assert_eq!(forecasts.split(embedding.model, Some(400), forecast), Used::new(100, 0));
    }

    #[test]
    fn an_image_is_no_text() {
        let forecasts = Forecasts::new(0.0);
        answers(&forecasts, calling("a/m", 1), &usage(100, 60), 300);
        let want = forecasts.forecast(calling("a/m", 2), Some(1 << 20)).want;
        assert!(want < 800, "{want}, not a quarter of its bytes");
    }

    /// Sequence 34: ten thousand models, each of a caller of its own.
    #[test]
    fn what_is_remembered_does_not_grow() {
        let forecasts = Forecasts::default();
        let size = |forecasts: &Forecasts| (forecasts.models.sets.len(), forecasts.callers.sets.len());
        let before = size(&forecasts);
        for n in 0..10_000 {
            let calling = calling(&format!("a/{n}"), n);
            forecasts.learn(calling, Forecast::default(), &usage(u64::MAX, u64::MAX), Micros(n as u64));
            assert!(forecasts.forecast(calling, None).want >= 1);
        }
        assert_eq!(size(&forecasts), before);
    }
}
