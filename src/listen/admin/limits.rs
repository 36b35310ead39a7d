//! Accounts on the admin port: to look at, and to change. docs/accounts.md has the requests and answers.
//!
//! What changes something is a POST of JSON. Besides what the whole port refuses, a page cannot have a browser send JSON without asking
//! first; nothing here answers that question.

use std::convert::Infallible;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, Path, RawQuery, Request, State};
use axum::http::{HeaderMap, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::AdminPages;
use crate::gate::{Account, AccountsPage, AccountsQuery, CellName, ChangeOutcome, LimitsMeant};
use crate::limit::{AccountKey, AccountName, Change, Changed, Standing, Stands};
use crate::printable::{masked, printable_line};
use crate::respond::RateBody;
use crate::rules::Counts;

/// Values may be long: longer than any header that they come from.
const MAX_BODY: usize = 1024 * 1024;
/// Accounts on one page, where nobody says how many; and at most.
const PAGE: usize = 100;
const MOST: usize = 1_000;
/// The longest reason, and name of who gives it, in bytes.
const REASON: usize = 1_024;
const BY: usize = 256;

/// Which account is meant: by its id, or by the values that it counts under.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Which {
    account: Option<String>,
    values: Option<Vec<String>>,
}

/// What is to be changed, why, and who says so.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ChangeBody {
    account: Option<String>,
    values: Option<Vec<String>>,
    /// `namespace/policy/limit`; all, where it is not given.
    limit: Option<String>,
    /// `requests`, `tokens` or `calls`: only limits that count these.
    counts: Option<String>,
    /// How many are given back.
    hits: Option<u64>,
    reason: String,
    by: String,
}

/// An account, as JSON.
#[derive(Serialize)]
struct AccountBody<'a> {
    account: String,
    #[serde(flatten)]
    name: NameBody<'a>,
    limits: Vec<CellBody<'a>>,
}

#[derive(Serialize)]
struct NameBody<'a> {
    /// `None` where it was forgotten.
    values: Option<Vec<&'a str>>,
    /// Whether all callers share the account.
    #[serde(skip_serializing_if = "is_false")]
    shared: bool,
    /// Whether the values are longer than what is known of them.
    #[serde(skip_serializing_if = "is_false")]
    cut: bool,
}

#[derive(Serialize)]
struct CellBody<'a> {
    #[serde(flatten)]
    rate: RateBody<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    route: Option<&'a str>,
    #[serde(skip_serializing_if = "is_false")]
    shadow: bool,
}

/// Why a request is not carried out.
type Refusal = (StatusCode, String);

/// The routes, below those of the port.
pub(super) fn routes() -> Router<AdminPages> {
    Router::new()
        .route("/limits", get(list))
        .route("/limits/{id}", get(show))
        .route("/limits/find", post(find))
        .route("/limits/reset", post(reset))
        .route("/limits/grant", post(grant))
        .layer(axum::middleware::from_fn(of_json))
        .layer(DefaultBodyLimit::max(MAX_BODY))
}

/// Takes what is posted as JSON alone.
async fn of_json(request: Request, next: Next) -> Result<Response, Infallible> {
    if request.method() != Method::POST {
        return Ok(next.run(request).await);
    }
    if !is_json(request.headers()) {
        return Ok(refuse((StatusCode::UNSUPPORTED_MEDIA_TYPE, "send `content-type: application/json`".into())));
    }
    Ok(next.run(request).await)
}

fn is_json(headers: &HeaderMap) -> bool {
    let kind = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    kind.split(';').next().is_some_and(|kind| kind.trim().eq_ignore_ascii_case("application/json"))
}

fn refuse((status, why): Refusal) -> Response {
    (status, axum::Json(json!({ "error": why }))).into_response()
}

/// `?search=`, `?after=` and `?most=`.
async fn list(State(pages): State<AdminPages>, RawQuery(query): RawQuery) -> Response {
    let query = match accounts_query(query.as_deref().unwrap_or_default()) {
        Ok(query) => query,
        Err(refusal) => return refuse(refusal),
    };
    let AccountsPage { accounts, next } = pages.gate.accounts(&query, pages.clock.now());
    let accounts: Vec<_> = accounts.iter().map(AccountBody::of).collect();
    axum::Json(json!({ "accounts": accounts, "next": next.map(id) })).into_response()
}

fn accounts_query(query: &str) -> Result<AccountsQuery, Refusal> {
    let mut asked = AccountsQuery { most: PAGE, ..AccountsQuery::default() };
    for (name, value) in query.split('&').filter(|pair| !pair.is_empty()).map(pair) {
        match &*name {
            "search" => asked.search = Some(value).filter(|text| !text.is_empty()),
            "after" => asked.after = Some(account(&value)?),
            "most" => {
                let number = value.parse().ok().filter(|number| (1..=MOST).contains(number));
                asked.most = number.ok_or_else(|| bad(format!("`most` has to be a number from 1 to {MOST}")))?;
            }
            _ => return Err(bad("there are `search`, `after` and `most`")),
        }
    }
    Ok(asked)
}

/// A name and its value, as a form sends them.
fn pair(text: &str) -> (String, String) {
    let (name, value) = text.split_once('=').unwrap_or((text, ""));
    (decoded(name), decoded(value))
}

fn decoded(text: &str) -> String {
    let (bytes, mut out, mut at) = (text.as_bytes(), Vec::with_capacity(text.len()), 0);
    while let Some(byte) = bytes.get(at) {
        let escaped = bytes.get(at + 1..at + 3).filter(|_| *byte == b'%');
        let escaped = escaped.and_then(|digits| u8::from_str_radix(str::from_utf8(digits).ok()?, 16).ok());
        out.push(escaped.unwrap_or(if *byte == b'+' { b' ' } else { *byte }));
        at += if escaped.is_some() { 3 } else { 1 };
    }
    String::from_utf8_lossy(&out).into_owned()
}

async fn show(State(pages): State<AdminPages>, Path(asked): Path<String>) -> Response {
    match account(&asked) {
        Ok(key) => shown(&pages, key),
        Err(refusal) => refuse(refusal),
    }
}

async fn find(State(pages): State<AdminPages>, body: Bytes) -> Response {
    let key = read::<Which>(&body).and_then(|Which { account, values }| meant(&pages, account, values));
    match key {
        Ok(key) => shown(&pages, key),
        Err(refusal) => refuse(refusal),
    }
}

fn shown(pages: &AdminPages, key: AccountKey) -> Response {
    match pages.gate.account(key, pages.clock.now()) {
        Some(account) => axum::Json(AccountBody::of(&account)).into_response(),
        None => refuse(no_account()),
    }
}

async fn reset(State(pages): State<AdminPages>, body: Bytes) -> Response {
    let asked = read::<ChangeBody>(&body).and_then(|asked| match asked.hits {
        None => Ok((asked, Change::Reset)),
        Some(_) => Err(bad("a reset gives everything back: `hits` is for a grant")),
    });
    asked.and_then(|(asked, change)| changed(&pages, asked, change)).unwrap_or_else(refuse)
}

async fn grant(State(pages): State<AdminPages>, body: Bytes) -> Response {
    let asked = read::<ChangeBody>(&body).and_then(|asked| match asked.hits {
        Some(_) if asked.limit.is_none() => {
            Err(bad("say with `limit` of which: a number of requests is none of tokens"))
        }
        Some(hits @ 1..) => Ok((asked, Change::Grant(hits))),
        _ => Err(bad("`hits` has to be a number of requests or tokens, 1 at least")),
    });
    asked.and_then(|(asked, change)| changed(&pages, asked, change)).unwrap_or_else(refuse)
}

/// Carries a change out, and tells it in the log.
fn changed(pages: &AdminPages, asked: ChangeBody, change: Change) -> Result<Response, Refusal> {
    let ChangeBody { account, values, limit, counts, hits: _, reason, by } = asked;
    let said = |what: &str, text: &str, longest: usize| match text.trim() {
        "" => Err(bad(format!("`{what}` is empty: changes are told in the log with who and why"))),
        text if text.len() > longest => Err(bad(format!("`{what}` is longer than {longest} bytes"))),
        text => Ok(printable_line(&masked(text)).into_owned()),
    };
    let (reason, by) = (said("reason", &reason, REASON)?, said("by", &by, BY)?);
    let key = meant(pages, account, values)?;
    let counted = |text: &str| Counts::named(text).ok_or_else(|| bad("`counts` is `requests`, `tokens` or `calls`"));
    let limits = LimitsMeant { name: limit.as_deref(), counts: counts.as_deref().map(counted).transpose()? };
    let action = match change {
        Change::Reset => "reset",
        Change::Grant(_) => "grant",
    };
    let (name, changed) = match pages.gate.change(key, limits, change, pages.clock.now()) {
        ChangeOutcome::Done { name, changed } => (name, changed),
        ChangeOutcome::NoAccount => return Err(no_account()),
        ChangeOutcome::NoLimit => return Err(no_limit()),
    };
    for (cell, changed) in &changed {
        tell(&Told { action, account: &id(key), name: name.as_deref(), by: &by, reason: &reason }, cell, changed);
    }
    pages.metrics.limits_changed(action);
    let changes: Vec<_> = changed.iter().map(|(cell, changed)| change_body(cell, changed)).collect();
    let name = NameBody::of(name.as_deref());
    Ok(axum::Json(json!({ "account": id(key), "values": name.values, "changed": changes })).into_response())
}

/// What all lines of one change say.
struct Told<'a> {
    action: &'static str,
    account: &'a str,
    name: Option<&'a AccountName>,
    by: &'a str,
    reason: &'a str,
}

fn tell(
    Told { action, account, name, by, reason }: &Told<'_>,
    cell: &CellName,
    Changed { before, after, .. }: &Changed,
) {
    let name = name.map(|name| name.values.join(", "));
    // Notices of limits may be silenced by their target, `tiergate::limit`, which is the start of more names than its own.
    tracing::warn!(
        target: "tiergate::accounts",
        action,
        by,
        reason,
        account.id = account,
        account.name = name.as_deref().map(printable_line).as_deref(),
        limit = &*cell.limit,
        counts = cell.counts.map(Counts::name),
        route = cell.route.as_deref(),
        used.before = before.used(),
        used.after = after.used(),
        left.before = before.remaining(),
        left.after = after.remaining(),
        "a limit was changed by hand"
    );
}

fn change_body(cell: &CellName, Changed { before, after, .. }: &Changed) -> Value {
    let state = |standing: &Standing| json!({ "used": standing.used(), "left": standing.remaining() });
    json!({
        "name": &*cell.limit,
        "counts": cell.counts.map(Counts::name),
        "route": cell.route.as_deref(),
        "limit": after.limit(),
        "before": state(before),
        "after": state(after),
        "given_back": before.used().saturating_sub(after.used()),
    })
}

// === what is asked ===

fn read<T: for<'d> Deserialize<'d>>(body: &[u8]) -> Result<T, Refusal> {
    // serde's words may repeat what was sent.
    serde_json::from_slice(body).map_err(|error| {
        let what =
            if error.is_data() { printable_line(&masked(&error.to_string())).into_owned() } else { "no JSON".into() };
        bad(format!("the body cannot be read: {what}"))
    })
}

fn meant(pages: &AdminPages, by_id: Option<String>, values: Option<Vec<String>>) -> Result<AccountKey, Refusal> {
    match (by_id, values) {
        (Some(id), None) => account(&id),
        (None, Some(values)) if !values.is_empty() => Ok(pages.gate.account_of(&values)),
        _ => Err(bad("say which account: `account` with its id, or `values` with all that it counts under")),
    }
}

/// The account of that id.
fn account(id: &str) -> Result<AccountKey, Refusal> {
    let is_id = id.len() == 32 && id.bytes().all(|byte| byte.is_ascii_hexdigit());
    let key = u128::from_str_radix(id, 16).ok().filter(|_| is_id);
    key.map(AccountKey).ok_or_else(|| bad("an account's id has 32 hexadecimal digits, as /limits lists them"))
}

fn id(AccountKey(key): AccountKey) -> String {
    format!("{key:032x}")
}

fn bad(why: impl Into<String>) -> Refusal {
    (StatusCode::BAD_REQUEST, why.into())
}

fn no_account() -> Refusal {
    let why = "there is no such account: nothing of its limits is used, or it was idle and is forgotten";
    (StatusCode::NOT_FOUND, why.to_owned())
}

fn no_limit() -> Refusal {
    (
        StatusCode::NOT_FOUND,
        "the account has used nothing of a limit of this name, namespace/policy/limit, that counts this".to_owned(),
    )
}

// === impl AccountBody ===

impl<'a> AccountBody<'a> {
    fn of(Account { key, name, cells }: &'a Account) -> Self {
        let limits = cells.iter().map(|(name, stands)| CellBody::of(name, stands)).collect();
        AccountBody { account: id(*key), name: NameBody::of(name.as_deref()), limits }
    }
}

impl<'a> NameBody<'a> {
    fn of(name: Option<&'a AccountName>) -> Self {
        let values = name.map(|name| name.values.iter().map(|value| &**value).collect());
        let (shared, cut) = name.map_or((false, false), |name| (name.is_shared, name.is_cut));
        NameBody { values, shared, cut }
    }
}

impl<'a> CellBody<'a> {
    fn of(name: &'a CellName, stands: &'a Stands) -> Self {
        let rate = RateBody::new(&name.limit, name.counts, &stands.quota, Ok(&stands.standing));
        CellBody { rate, route: name.route.as_deref(), shadow: name.in_shadow }
    }
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde passes it so")]
fn is_false(flag: &bool) -> bool {
    !flag
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_is_read_as_forms_send_it() {
        let asked =
            accounts_query("search=a%3Ab%2F+%7B%7D%0a%zz&most=7&after=000000000000000000000000000000fF").unwrap();
        assert_eq!(asked.search.as_deref(), Some("a:b/ {}\n%zz"));
        assert_eq!((asked.most, asked.after), (7, Some(AccountKey(255))));
        assert_eq!(accounts_query("").unwrap().most, PAGE);
        for wrong in [
            "most=0",
            "most=1001",
            "most=x",
            "limit=1",
            "after=1",
            "after=+0000000000000000000000000000001",
            "serach=x",
        ] {
            assert_eq!(accounts_query(wrong).unwrap_err().0, StatusCode::BAD_REQUEST, "{wrong}");
        }
    }
}
