//! What the model itself says that it sent, for whoever wants to compare it with what was charged.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use serde_json::json;

/// A file with a line for each answer, or none.
#[derive(Clone, Default)]
pub struct Account(Option<Arc<Mutex<File>>>);

/// One answer. Its line is written when it is dropped: at its end, or when nobody takes it any more.
pub struct Entry {
    account: Account,
    id: String,
    input: u64,
    /// Tokens of the answer that were sent so far.
    output: u64,
    /// Whether all of it was sent.
    ended: bool,
}

// === impl Account ===

impl Account {
    pub fn open(path: Option<&Path>) -> std::io::Result<Self> {
        let file = path.map(|path| OpenOptions::new().create(true).append(true).open(path)).transpose()?;
        Ok(Account(file.map(|file| Arc::new(Mutex::new(file)))))
    }

    pub fn begin(&self, id: &str, input: u64) -> Entry {
        Entry { account: self.clone(), id: id.to_owned(), input, output: 0, ended: false }
    }
}

// === impl Entry ===

impl Entry {
    /// So many tokens were sent by now.
    pub fn sent(&mut self, output: u64, ended: bool) {
        (self.output, self.ended) = (output, ended);
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        let Some(file) = &self.account.0 else { return };
        let Entry { id, input, output, ended, .. } = self;
        let line = json!({"x-request-id": id, "input": input, "output": output, "ended": ended}).to_string() + "\n";
        let mut file = file.lock().unwrap_or_else(PoisonError::into_inner);
        // One write, so that a line is whole or missing.
        if let Err(error) = file.write_all(line.as_bytes()) {
            eprintln!("model: the account is not written: {error}");
        }
    }
}
