//! What tiergate charged beside what the model says that it sent.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::Result;
use crate::processes::output;
use crate::setup::Gate;

const WRITTEN_WITHIN: Duration = Duration::from_secs(10);

/// Answers, and their tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Sum {
    answers: usize,
    tokens: i64,
}

/// Prints the sums of the usage log, and those of the model's account. An answer that told its usage is charged to the token; of the
/// others none is free.
pub fn compare(gate: &Gate, answers: u64) -> Result<()> {
    let answers = usize::try_from(answers)?;
    let (log, account) = (lines(&gate.usage_log, answers)?, lines(&gate.account, answers)?);
    println!("\nWhat was charged: tiergate usage --by tier,model");
    let mut usage = Command::new(&gate.binary);
    print!("{}", output(usage.args(["usage", "--by", "tier,model"]).arg(&gate.usage_log))?);

    let is_exact = |line: &&Value| line["quality"] == "final";
    let [charged, estimated] = halves(&log, is_exact, |line| number(line, "total"));
    let has_told = |line: &&Value| line["told"] == true && line["ended"] == true;
    let [told, untold] = halves(&account, has_told, |line| number(line, "input") + number(line, "output"));
    println!("\nBeside the model's own account          answers  charged  sent by the model");
    for (what, charged, sent) in
        [("they told their usage: exact", charged, told), ("they did not, or were left: estimated", estimated, untold)]
    {
        println!("{what:<38} {:>8} {:>8} {:>18}", charged.answers, charged.tokens, sent.tokens);
    }
    let is_free = log.iter().any(|line| number(line, "total") == 0);
    if charged != told || estimated.answers != untold.answers || is_free {
        let (log, account) = (gate.usage_log.display(), gate.account.display());
        return Err(format!("the usage log and the model's account differ: {log} {account}").into());
    }
    Ok(())
}

/// The sums of the lines that are so, and of the others.
fn halves(lines: &[Value], is_so: impl Fn(&&Value) -> bool, tokens: impl Fn(&Value) -> i64) -> [Sum; 2] {
    let sum = |lines: Vec<&Value>| Sum { answers: lines.len(), tokens: lines.into_iter().map(&tokens).sum() };
    let (so, others) = lines.iter().partition(is_so);
    [sum(so), sum(others)]
}

fn number(line: &Value, name: &str) -> i64 {
    line[name].as_i64().unwrap_or(0)
}

/// The lines of a file, once there are so many: what another process has written tells nobody.
fn lines(file: &Path, number: usize) -> Result<Vec<Value>> {
    let deadline = Instant::now() + WRITTEN_WITHIN;
    loop {
        let text = fs::read_to_string(file).unwrap_or_default();
        let lines: Vec<&str> = text.split_inclusive('\n').filter(|line| line.ends_with('\n')).collect();
        if lines.len() >= number {
            return Ok(lines.into_iter().map(serde_json::from_str).collect::<serde_json::Result<_>>()?);
        }
        if Instant::now() > deadline {
            let file = file.display();
            return Err(format!("{file} has {} lines after 10 seconds, expected {number}", lines.len()).into());
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}
