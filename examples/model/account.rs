//! What the model itself says that it sent, for whoever wants to compare it with what was charged.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use serde_json::json;

use crate::asked::Asked;
use crate::manner::Told;

/// A file with a line for each answer, or none.
#[derive(Clone, Default)]
pub struct Account {
    file: Option<Arc<Mutex<File>>>,
    /// Answers that have begun and are not over.
    running: Arc<AtomicU64>,
}

/// One answer. Its line is written when it is dropped: at its end, or when nobody takes it any more.
pub struct Entry {
    account: Account,
    id: String,
    /// How many answers ran when it began, with itself.
    running: u64,
    dialect: &'static str,
    stream: bool,
    status: u16,
    /// Whether the whole answer tells what it cost.
    told: bool,
    /// Tokens of the prompt, those among them from a cache, and of the answer's those of reasoning, which come first.
    input: u64,
    cached: u64,
    reasoning: u64,
    /// Tokens of the answer that were sent so far, and bytes.
    output: u64,
    bytes: usize,
    /// Whether all of it was sent.
    ended: bool,
}

// === impl Account ===

impl Account {
    pub fn open(path: Option<&Path>) -> std::io::Result<Self> {
        let file = path.map(|path| OpenOptions::new().create(true).append(true).open(path)).transpose()?;
        Ok(Account { file: file.map(|file| Arc::new(Mutex::new(file))), ..Account::default() })
    }

    /// An answer of this status, of which nothing was sent yet. An error that tells no usage has none.
    pub fn begin(&self, id: &str, asked: &Asked, status: u16) -> Entry {
        let is_free = asked.is_free();
        let tokens = |number: u64| if is_free { 0 } else { number };
        Entry {
            account: self.clone(),
            id: id.to_owned(),
            running: self.running.fetch_add(1, Ordering::SeqCst) + 1,
            dialect: asked.api.name(),
            stream: asked.stream,
            status,
            told: asked.manner.usage != Told::Never,
            input: tokens(asked.input),
            cached: tokens(asked.cached()),
            reasoning: tokens(asked.manner.reasoning),
            output: 0,
            bytes: 0,
            ended: false,
        }
    }
}

// === impl Entry ===

impl Entry {
    /// So many bytes more were sent, and so many tokens by now.
    pub fn sent(&mut self, bytes: usize, output: u64, ended: bool) {
        self.bytes += bytes;
        (self.output, self.ended) = (output, ended);
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.account.running.fetch_sub(1, Ordering::SeqCst);
        let Some(file) = &self.account.file else { return };
        let line = json!({
            "x-request-id": self.id,
            "running": self.running,
            "dialect": self.dialect,
            "stream": self.stream,
            "status": self.status,
            "told": self.told,
            "input": self.input,
            "output": self.output,
            "cached": self.cached,
            "reasoning": self.reasoning.min(self.output),
            "bytes": self.bytes,
            "ended": self.ended,
        });
        let line = line.to_string() + "\n";
        let mut file = file.lock().unwrap_or_else(PoisonError::into_inner);
        // One write, so that a line is whole or missing.
        if let Err(error) = file.write_all(line.as_bytes()) {
            eprintln!("model: the account is not written: {error}");
        }
    }
}
