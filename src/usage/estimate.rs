//! What an answer cost of which only its bytes are known.
//!
//! A client that leaves early, a stream that says no usage, an answer that is too long for the gateway to read: the report
//! still has the bytes of the request and of the answer. What a byte stands for is learned by model, from the answers of which
//! the usage is known; streams apart from whole answers, since a token of a stream takes some fifty times the bytes.

use std::collections::HashMap;

use parking_lot::Mutex;

use super::{ModelId, Report};
use crate::clock::Nanos;
use crate::expression::Used;

/// Models that are remembered. Of more the one that was learned of longest ago is forgotten.
const MODELS: usize = 1024;
/// What all answers before weigh when another is learned of.
const MEMORY: f64 = 0.98;
/// So many bytes at the usual rate count as learned from the start, so that one odd first answer does not decide.
const PRIOR: f64 = 500.0;
/// The prompt of a model of which nothing is known costs at most this many tokens: what makes a request longer is mostly an
/// image or a sound, and no text.
const UNKNOWN_PROMPT: f64 = 16_384.0;
/// Tokens a byte, of text and of events as models send them (each token in JSON of about 100 bytes).
const TEXT: f64 = 0.25;
const EVENTS: f64 = 0.01;

/// What is known of models' answers.
#[derive(Debug, Default)]
pub(super) struct Rates {
    models: Mutex<HashMap<ModelId, Model>>,
}

#[derive(Debug, Default)]
struct Model {
    prompt: Rate,
    whole: Rate,
    streamed: Rate,
    learned: Nanos,
}

/// Decayed sums.
#[derive(Clone, Copy, Debug, Default)]
struct Rate {
    tokens: f64,
    bytes: f64,
}

// === impl Rates ===

impl Rates {
    /// Learns from an answer whose usage is known.
    pub(super) fn learn(&self, model: ModelId, report: &Report, now: Nanos) {
        let Some(total) = report.usage.tokens() else { return };
        // Without a part for the prompt all is the answer's: the sum is right, for requests as long as those before.
        let output = report.usage.output.or_else(|| Some(total.saturating_sub(report.usage.input?))).unwrap_or(total);
        let input = total.saturating_sub(output);
        let mut models = self.models.lock();
        if models.len() >= MODELS && !models.contains_key(&model) {
            let oldest = models.iter().min_by_key(|(_, known)| known.learned).map(|(model, _)| *model);
            oldest.and_then(|model| models.remove(&model));
        }
        let known = models.entry(model).or_default();
        known.learned = now;
        known.prompt.learn(input, report.request_bytes);
        // Embeddings have many bytes, and the prompt alone costs.
        if output > 0 {
            known.answer_mut(report.streamed).learn(output, report.bytes);
        }
    }

    /// What an answer used whose usage is not known, or that of its prompt alone; at least one token.
    pub(super) fn estimate(&self, model: ModelId, report: &Report) -> Used {
        let models = self.models.lock();
        let unknown = Model::default();
        let known = models.get(&model).unwrap_or(&unknown);
        let (prompt, answered) = (known.prompt(report), report.bytes.unwrap_or(0));
        let answer = match report.streamed {
            true => known.streamed.of(answered, EVENTS),
            false => known.whole.of(answered, TEXT),
        };
        // A float that is too large becomes the largest number.
        Used::estimated(((prompt + answer).ceil() as u64).max(1), prompt.ceil() as u64)
    }

    /// Likewise, of its prompt alone; 0 where nothing of that is known.
    pub(super) fn prompt(&self, model: ModelId, report: &Report) -> u64 {
        let models = self.models.lock();
        models.get(&model).unwrap_or(&Model::default()).prompt(report).ceil() as u64
    }
}

// === impl Model ===

impl Model {
    /// What the prompt used, in tokens.
    fn prompt(&self, report: &Report) -> f64 {
        let sent = report.request_bytes.unwrap_or(0);
        match report.usage.input {
            Some(input @ 1..) => input as f64,
            _ if self.prompt.bytes > 0.0 => self.prompt.of(sent, TEXT),
            _ => self.prompt.of(sent, TEXT).min(UNKNOWN_PROMPT),
        }
    }

    fn answer_mut(&mut self, streamed: bool) -> &mut Rate {
        if streamed { &mut self.streamed } else { &mut self.whole }
    }
}

// === impl Rate ===

impl Rate {
    fn learn(&mut self, tokens: u64, bytes: Option<u64>) {
        if let Some(bytes @ 1..) = bytes {
            self.tokens = self.tokens * MEMORY + tokens as f64;
            self.bytes = self.bytes * MEMORY + bytes as f64;
        }
    }

    /// The tokens that so many bytes stand for, where a byte is `usual`ly that part of one.
    fn of(&self, bytes: u64, usual: f64) -> f64 {
        bytes as f64 * (self.tokens + PRIOR * usual) / (self.bytes + PRIOR)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::usage::Usage;

    /// Sequence 34: ten thousand names of models.
    #[test]
    fn what_is_remembered_does_not_grow() {
        let rates = Rates::default();
        let usage = Usage { input: Some(1), output: Some(1), ..Usage::default() };
        let report = Report { usage, bytes: Some(400), ..Report::default() };
        for n in 0..10_000 {
            rates.learn(ModelId::of(&format!("a/{n}")), &report, Nanos(n));
        }
        let models = rates.models.lock();
        assert_eq!(models.len(), MODELS);
        let [gone, known] = [9_999 - MODELS, 9_999].map(|n| models.contains_key(&ModelId::of(&format!("a/{n}"))));
        assert_eq!((gone, known), (false, true), "the oldest goes");
    }
}
