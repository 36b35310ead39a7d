//! Plays the rows and prints a line of the table for each.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crate::Result;
use crate::books;
use crate::client::{Request, Response};
use crate::processes::Processes;
use crate::rows::Row;
use crate::setup::Gate;

const REPORTED_WITHIN: Duration = Duration::from_secs(10);

/// Counts what was let through, to know how many usage reports there must be.
struct Usage {
    tiergate: SocketAddr,
    /// Reports that this tiergate has settled, less the answers that were let through by then.
    settled_before: i64,
    admitted: i64,
}

/// The columns that are known before anything is sent.
struct Widths {
    who: usize,
    model: usize,
    sent: usize,
}

/// Says whether every row was as it should be.
pub fn play(gate: &Gate, rows: &[Row], processes: &Processes) -> Result<bool> {
    let mut usage = Usage { tiergate: gate.tiergate, settled_before: settled(gate.tiergate)?, admitted: 0 };
    let widths = Widths::of(rows);
    widths.print(["who", "model", "what was sent", "status", "why"]);
    let mut failed = 0;
    for row in rows {
        if row.after_restart {
            usage.all_reported()?;
            gate.restart(processes)?;
            usage.settled_before = settled(gate.tiergate)? - usage.admitted;
        }
        failed += u32::from(!as_it_should_be(&play_row(gate, row, &mut usage, &widths)));
        processes.check()?;
    }
    failed += u32::from(!as_it_should_be(&usage.all_reported()));
    println!("\n{} rows, {failed} not as they should be; {} answers charged", rows.len(), usage.admitted);
    failed += u32::from(!as_it_should_be(&books::compare(gate, usage.admitted.unsigned_abs())));
    Ok(failed == 0)
}

fn as_it_should_be(outcome: &Result<()>) -> bool {
    if let Err(fault) = outcome {
        println!("    NOT AS IT SHOULD BE: {fault}");
    }
    outcome.is_ok()
}

fn play_row(gate: &Gate, row: &Row, usage: &mut Usage, widths: &Widths) -> Result<()> {
    if row.at_once {
        return play_at_once(gate, row, usage, widths);
    }
    let (mut outcome, mut last) = (Ok(()), None);
    for _ in 0..row.times {
        if row.after_usage {
            outcome = outcome.and_then(|()| usage.all_reported());
        }
        let response = row.send(gate)?;
        usage.admitted += i64::from(response.status == 200 && !row.is_shown);
        outcome = outcome.and_then(|()| row.judge(&response));
        last = Some(response);
    }
    if let Some(response) = &last {
        row.print(response, row.times, widths);
    }
    outcome
}

fn play_at_once(gate: &Gate, row: &Row, usage: &mut Usage, widths: &Widths) -> Result<()> {
    let answers: Result<Vec<Response>> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..row.times).map(|_| scope.spawn(|| row.send(gate))).collect();
        threads.into_iter().map(|thread| thread.join().map_err(|_| "a thread panicked")?).collect()
    });
    let (passed, others): (Vec<_>, Vec<_>) = answers?.into_iter().partition(|response| response.status == 200);
    usage.admitted += passed.len() as i64;
    if let Some(response) = others.last() {
        row.print(response, row.times - 1, widths);
    }
    match passed.len() {
        1 => others.iter().try_for_each(|response| row.judge(response)),
        number => Err(format!("{number} passed, expected 1").into()),
    }
}

/// How many answers tiergate has charged by a report: as it says, or by an estimate where it tells no usage.
fn settled(tiergate: SocketAddr) -> Result<i64> {
    let metrics = Request::get("/metrics").send(tiergate)?.body;
    let results = ["result=\"settled\"} ", "result=\"estimated\"} "];
    // One for each channel.
    let of_name = metrics.lines().filter(|line| line.starts_with("tiergate_usage_reports_total{"));
    let values = of_name.filter_map(|line| results.iter().find_map(|result| line.split_once(result)));
    values.map(|(_, value)| Ok(value.trim().parse::<i64>()?)).sum()
}

// === impl Usage ===

impl Usage {
    /// Reports come after the answer, on their own; waits for those of all answers so far.
    fn all_reported(&self) -> Result<()> {
        let expected = self.settled_before + self.admitted;
        let deadline = Instant::now() + REPORTED_WITHIN;
        loop {
            let settled = settled(self.tiergate)?;
            if settled >= expected {
                return Ok(());
            }
            if Instant::now() > deadline {
                return Err(format!("{settled} usage reports settled after 10 seconds, expected {expected}").into());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

// === impl Row ===

impl Row {
    fn send(&self, gate: &Gate) -> Result<Response> {
        let sent = self.request.send(gate.envoy);
        Ok(sent.map_err(|error| format!("{}, {}: no answer: {error}", self.who, self.sent))?)
    }

    fn judge(&self, response: &Response) -> Result<()> {
        if response.status != self.status {
            let body = response.body.trim();
            return Err(format!("status {}, expected {}: {body}", response.status, self.status).into());
        }
        if response.code().as_deref() != self.code {
            return Err(format!("code {:?}, expected {:?}", response.code(), self.code).into());
        }
        let fault = self.holds.iter().find_map(|condition| condition(response));
        fault.map_or(Ok(()), |fault| Err(fault.into()))
    }

    fn print(&self, response: &Response, times: u32, widths: &Widths) {
        let status = match times {
            1 => response.status.to_string(),
            times => format!("{} x{times}", response.status),
        };
        let mut why = response.code().unwrap_or_else(|| "-".to_owned());
        if let Some(seconds) = response.header("retry-after") {
            why += &format!(", retry after {seconds} s");
        }
        widths.print([self.who, self.model, self.sent, &status, &why]);
        let text = response.detail().or_else(|| response.content());
        if let Some(text) = text.filter(|_| self.quotes) {
            println!("    \"{text}\"");
        }
    }
}

// === impl Widths ===

impl Widths {
    fn of(rows: &[Row]) -> Self {
        let width = |column: fn(&Row) -> &str| rows.iter().map(|row| column(row).chars().count()).max().unwrap_or(0);
        Self { who: width(|row| row.who), model: width(|row| row.model), sent: width(|row| row.sent) }
    }

    fn print(&self, [who, model, sent, status, why]: [&str; 5]) {
        let Self { who: w, model: m, sent: s } = *self;
        println!("{who:w$}  {model:m$}  {sent:s$}  {status:6}  {why}");
    }
}
