//! `tiergate limits`: the accounts of a serving process, asked on its admin port.

mod ask;
mod print;

#[cfg(test)]
mod tests;

use std::io::{self, Write};

use serde_json::{Map, Value, json};

pub use self::ask::AskError;

use self::ask::{Answer, Ask};
use crate::args::{AdminArgs, ChangeArgs, Limits, LimitsOutput, ListAccounts, WhichAccount};

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum LimitsError {
    #[error(transparent)]
    Ask(#[from] AskError),
    #[error("{0}")]
    Refused(String),
    #[error("say who you are with --by: there is no $USER")]
    Nobody,
    #[error("cannot print: {0}")]
    Output(#[from] io::Error),
}

/// Does what `args` ask for, and prints what became of it; `false` if there is no such account, or it has nothing of the limit.
///
/// # Errors
///
/// The process cannot be asked, or does not take what was asked.
pub fn run(args: &Limits, out: &mut impl Write, told: &mut impl Write) -> Result<bool, LimitsError> {
    let (admin, answer) = match args {
        Limits::List(list) => (&list.admin, ask(&list.admin)?.get(&path(list))?),
        Limits::Show(show) => (&show.admin, ask(&show.admin)?.post("/limits/find", &which(&show.which).into())?),
        Limits::Reset(reset) => (&reset.admin, change("reset", &reset.which, &reset.change, None, &reset.admin)?),
        Limits::Grant(grant) => {
            (&grant.admin, change("grant", &grant.which, &grant.change, Some(grant.hits.get()), &grant.admin)?)
        }
    };
    let Some(found) = found(answer)? else {
        writeln!(told, "tiergate: there is no such account, or it has used nothing of the limit")?;
        return Ok(false);
    };
    let printed = match (admin.output, args) {
        (LimitsOutput::Json, _) => writeln!(out, "{}", serde_json::to_string_pretty(&found).map_err(io::Error::from)?),
        (LimitsOutput::Table, Limits::List(_)) => print::accounts(&found, out),
        (LimitsOutput::Table, Limits::Show(_)) => print::account(&found, out),
        (LimitsOutput::Table, Limits::Reset(_) | Limits::Grant(_)) => print::changes(&found, out),
    };
    // A closed pipe, as of `| head`, is no reason to fail: what was asked for is done.
    drop(printed);
    Ok(true)
}

fn ask(admin: &AdminArgs) -> Result<Ask<'_>, AskError> {
    Ask::new(&admin.admin)
}

/// What was found; `None` where nothing was.
fn found(Answer { status, body }: Answer) -> Result<Option<Value>, LimitsError> {
    let why = body.get("error").and_then(Value::as_str);
    match (status, why) {
        (200, _) => Ok(Some(body)),
        (404, Some(_)) => Ok(None),
        (_, why) => {
            let why = why.unwrap_or("it gave no reason");
            Err(LimitsError::Refused(format!("tiergate does not take that ({status}): {why}")))
        }
    }
}

fn path(ListAccounts { search, after, most, .. }: &ListAccounts) -> String {
    let mut path = format!("/limits?most={most}");
    for (name, value) in [("search", search), ("after", after)] {
        if let Some(value) = value {
            path.push_str(&format!("&{name}={}", encoded(value)));
        }
    }
    path
}

fn encoded(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    text.bytes().map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") }).collect()
}

fn which(WhichAccount { values, id }: &WhichAccount) -> Map<String, Value> {
    let (name, value) = match id {
        Some(id) => ("account", json!(id)),
        None => ("values", json!(values)),
    };
    Map::from_iter([(name.to_owned(), value)])
}

fn change(
    action: &str,
    account: &WhichAccount,
    change: &ChangeArgs,
    hits: Option<u64>,
    admin: &AdminArgs,
) -> Result<Answer, LimitsError> {
    let mut body = which(account);
    let by = change.by().ok_or(LimitsError::Nobody)?;
    body.extend([("reason".to_owned(), json!(change.reason)), ("by".to_owned(), json!(by))]);
    let limit = change.limit.as_ref().map(|limit| ("limit".to_owned(), json!(limit)));
    let counts = change.counts.map(|counts| ("counts".to_owned(), json!(counts.name())));
    body.extend(limit.into_iter().chain(counts).chain(hits.map(|hits| ("hits".to_owned(), json!(hits)))));
    Ok(ask(admin)?.post(&format!("/limits/{action}"), &body.into())?)
}
