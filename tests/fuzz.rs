//! The fuzz targets on stable Rust: each takes its whole corpus, and then mutations of it for a few seconds.
//!
//! `TIERGATE_FUZZ_SECONDS` says how many, `TIERGATE_FUZZ_SEED` which mutations. `make fuzz` runs the same targets under
//! libFuzzer.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that panics has failed, which is what it is for"
)]

use std::collections::BTreeSet;
use std::os::unix::fs::FileExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

#[path = "../fuzz/src/lib.rs"]
mod targets;

/// Longer inputs take long, and reach nothing more.
const MAX_LENGTH: usize = 16 * 1024;

#[test]
fn a_canonical_path_has_one_reading() {
    Target::new("path", targets::path).drive(&["not text", "canonical", "refused"]);
}

#[test]
fn a_check_request_of_any_bytes_gets_a_whole_answer() {
    Target::new("check_request", targets::check_request).drive(&[
        "not a CheckRequest",
        "allowed",
        "TG-REQUEST-INVALID",
        "TG-PATH-NOT-CANONICAL",
        "TG-TOKEN-MISSING",
        "TG-TOKEN-MALFORMED",
        "TG-TOKEN-AUDIENCE",
        "TG-TOKEN-SUBJECT-GONE",
        "TG-ACCESS-DENIED",
        "TG-ROUTE-UNKNOWN",
        "TG-LIMIT-REQUESTS",
        "TG-UNAVAILABLE-GATEWAY",
        "TG-POLICY-MODEL",
    ]);
}

#[test]
fn a_rate_limit_request_of_any_bytes_charges_only_what_was_sealed() {
    Target::new("rate_limit_request", targets::rate_limit_request).drive(&[
        "not a RateLimitRequest",
        "refused",
        "charged nothing",
        "charged",
        "within limits",
        "not told enough",
    ]);
}

#[test]
fn manifests_of_any_text_open_nothing() {
    Target::new("manifests", targets::manifests).drive(&["not text", "not manifests", "in error", "good", "nothing"]);
}

#[test]
fn an_expression_of_any_text_compiles_or_not_and_evaluates_in_time() {
    Target::new("cel", targets::cel).drive(&["not text", "does not compile", "general", "direct", "cost"]);
}

#[test]
fn no_token_is_accepted_but_those_that_our_keys_signed() {
    Target::new("jwt", targets::jwt).drive(&[
        "not text",
        "accepted",
        "TG-TOKEN-MALFORMED",
        "TG-TOKEN-EXPIRED",
        "TG-TOKEN-NOT-YET",
        "TG-TOKEN-ISSUER",
        "TG-TOKEN-SIGNATURE",
        "TG-TOKEN-REJECTED",
    ]);
}

struct Target {
    name: &'static str,
    run: fn(&[u8]) -> &'static str,
    /// Holds the input that runs: a stack that overflows ends the process before anything can be said.
    last: PathBuf,
    corpus: Vec<(String, Vec<u8>)>,
}

impl Target {
    fn new(name: &'static str, run: fn(&[u8]) -> &'static str) -> Self {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(name);
        let entries = std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path());
        let mut corpus: Vec<_> = entries
            .map(|path| (path.file_name().unwrap().to_string_lossy().into_owned(), std::fs::read(&path).unwrap()))
            .collect();
        corpus.sort();
        let last = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("fuzz-{name}.last"));
        Target { name, run, last, corpus }
    }

    /// Runs the corpus, which has to reach all of `outcomes`, and mutations of it, on the stack that requests have.
    fn drive(self, outcomes: &[&str]) {
        let worker = std::thread::Builder::new().stack_size(tiergate::listen::STACK);
        std::thread::scope(|scope| {
            let running = worker.spawn_scoped(scope, || self.drive_here(outcomes)).unwrap();
            if let Err(panic) = running.join() {
                std::panic::resume_unwind(panic);
            }
        });
    }

    fn drive_here(&self, outcomes: &[&str]) {
        let last = std::fs::File::create(&self.last).unwrap();
        let reached: BTreeSet<_> = self
            .corpus
            .iter()
            .map(|(name, input)| self.try_one(&last, input, &format!("corpus entry {name}")))
            .collect();
        let missing: Vec<_> = outcomes.iter().filter(|outcome| !reached.contains(*outcome)).collect();
        assert!(missing.is_empty(), "the corpus of `{}` reaches {reached:?}, and not {missing:?}", self.name);
        let until = Instant::now() + Duration::from_secs_f64(number("TIERGATE_FUZZ_SECONDS", 3.0));
        let (mut runs, first) = (0_u64, number("TIERGATE_FUZZ_SEED", 0_u64));
        while Instant::now() < until {
            let seed = first.wrapping_add(runs);
            self.try_one(&last, &Mutator(seed).mutated(&self.corpus), &format!("TIERGATE_FUZZ_SEED={seed}"));
            runs += 1;
        }
        println!("{}: {} corpus entries, {runs} mutations", self.name, self.corpus.len());
    }

    /// What `input` reaches; the test fails here, and says how to see it again.
    fn try_one(&self, last: &std::fs::File, input: &[u8], source: &str) -> &'static str {
        last.set_len(0).unwrap();
        last.write_all_at(input, 0).unwrap();
        catch_unwind(AssertUnwindSafe(|| (self.run)(input))).unwrap_or_else(|_| {
            let (name, file) = (self.name, self.last.display());
            // The same input has the same name, and another one another.
            let kept = format!("fuzz/corpus/{name}/found-{:016x}", Mutator::fingerprint(input));
            panic!(
                "target `{name}` failed on {source}.\nIts input, in Base64: {}\nTo see it again, and for good:\n    \
                 cp {file} {kept}\n    TIERGATE_FUZZ_SECONDS=0 cargo test --test fuzz\n    \
                 cargo +nightly fuzz run {name} {kept}",
                STANDARD.encode(input)
            )
        })
    }
}

fn number<T: std::str::FromStr>(variable: &str, default: T) -> T {
    match std::env::var(variable) {
        Ok(text) => text.parse().unwrap_or_else(|_| panic!("{variable} is no number: {text}")),
        Err(_) => default,
    }
}

/// Changes inputs. The same seed, on the same corpus, is the same change.
struct Mutator(u64);

impl Mutator {
    /// SplitMix64.
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound.max(1) as u64) as usize
    }

    fn fingerprint(input: &[u8]) -> u64 {
        input.iter().fold(Mutator(0), |mut sum, byte| Mutator(sum.next() ^ u64::from(*byte))).next()
    }

    fn mutated(mut self, corpus: &[(String, Vec<u8>)]) -> Vec<u8> {
        let mut input = corpus[self.below(corpus.len())].1.clone();
        for _ in 0..=self.below(4) {
            self.mutate(&mut input, corpus);
        }
        input.truncate(MAX_LENGTH);
        input
    }

    fn mutate(&mut self, input: &mut Vec<u8>, corpus: &[(String, Vec<u8>)]) {
        const INTERESTING: &[u8] = b"\0\x01\x7f\x80\xff%/\\;.,:\"'()[]{}!&|-#*@~ \n\t09azAZ";
        let at = self.below(input.len() + 1);
        let range = |mutator: &mut Self, length: usize| {
            let start = mutator.below(length + 1);
            start..(start + 1 + mutator.below(32)).min(length).max(start)
        };
        match self.below(8) {
            0 if at < input.len() => input[at] ^= 1 << self.below(8),
            1 if at < input.len() => input[at] = INTERESTING[self.below(INTERESTING.len())],
            2 => input.insert(at, INTERESTING[self.below(INTERESTING.len())]),
            3 => drop(input.drain(range(self, input.len()))),
            // A part of it once more, or of another entry.
            4 => {
                let part = input[range(self, input.len())].to_vec();
                drop(input.splice(at..at, part));
            }
            5 => {
                let other = &corpus[self.below(corpus.len())].1;
                let part = other[range(self, other.len())].to_vec();
                drop(input.splice(at..at, part));
            }
            6 => {
                let other = &corpus[self.below(corpus.len())].1;
                let from = self.below(other.len() + 1);
                input.truncate(at);
                input.extend_from_slice(&other[from..]);
            }
            // A part of it by as much of another entry: keys and values change places.
            _ => {
                let other = &corpus[self.below(corpus.len())].1;
                let (old, new) = (range(self, input.len()), range(self, other.len()));
                drop(input.splice(old, other[new].to_vec()));
            }
        }
    }
}
