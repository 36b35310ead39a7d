//! Accounts as operators see them.

use super::reserve::World;
use super::*;
use crate::limit::{AccountName, Change, Changed};
use crate::rules::Counts;
use crate::test_util::{ES256, claims};

const ROUTES: &str = "---
apiVersion: kuadrant.io/v1
kind: AuthPolicy
metadata: {name: auth, namespace: ns}
spec:
  targetRef: {group: gateway.networking.k8s.io, kind: Gateway, name: gw}
  rules: {authentication: {anybody: {anonymous: {}}}}
---
apiVersion: kuadrant.io/v1
kind: RateLimitPolicy
metadata: {name: limits, namespace: ns}
spec:
  targetRef: {group: gateway.networking.k8s.io, kind: Gateway, name: gw}
  limits:
";

/// Anybody may call, with these limits.
fn limited(limits: &str) -> Gate {
    gate(compile_text(&format!("{ONE_ROUTE}{}{limits}", ROUTES.trim_start_matches("---\n"))), settings())
}

fn by(user: &str) -> Call {
    let mut call = Call::path("/x");
    call.headers.insert("x-user".to_owned(), user.to_owned());
    call
}

const BY_USER: &str =
    "    user: {rates: [{limit: 3, window: 1h}], counters: [{expression: 'request.headers[\"x-user\"]'}]}\n";
const FOR_ALL: &str = "    all: {rates: [{limit: 9, window: 1h}]}\n";
const IN_SHADOW: &str =
    "    trial: {rates: [{limit: 1, window: 1h}], counters: [{expression: 'request.headers[\"x-user\"]'}]}\n";

fn found(gate: &Gate, search: Option<&str>) -> Vec<Account> {
    let query = AccountsQuery { search: search.map(str::to_owned), after: None, most: 100 };
    let mut accounts = gate.accounts(&query, Nanos(0)).accounts;
    accounts.sort_by_key(|account| account.name.as_ref().map(|name| name.values.clone()));
    accounts
}

/// What an account is called, and what it used of which limit.
type Told = (Option<AccountName>, Vec<(String, u64)>);

fn told(accounts: &[Account]) -> Vec<Told> {
    let cells = |account: &Account| {
        account.cells.iter().map(|(name, stands)| (name.limit.to_string(), stands.standing.used())).collect()
    };
    accounts.iter().map(|account| (account.name.as_deref().cloned(), cells(account))).collect()
}

fn used(limit: &str, used: u64) -> (String, u64) {
    (format!("ns/limits/{limit}"), used)
}

fn called(value: &str) -> Option<AccountName> {
    Some(AccountName::new([value], false))
}

#[tokio::test]
async fn accounts_are_called_by_what_they_count_under() {
    let gate = limited(&[BY_USER, FOR_ALL].concat());
    for user in ["alice", "bob", "alice"] {
        assert_eq!(code(&by(user), &gate).await, None);
    }
    let all = Some(AccountName::new(["ns/limits/all"], true));
    let expected = [
        (called("alice"), vec![used("user", 2)]),
        (called("bob"), vec![used("user", 1)]),
        (all.clone(), vec![used("all", 3)]),
    ];
    assert_eq!(told(&found(&gate, None)), expected);
    assert_eq!(told(&found(&gate, Some("li"))), [expected[0].clone(), expected[2].clone()]);
    assert_eq!(found(&gate, Some("nobody")).len(), 0);
    // By its exact values an account is found although its name is forgotten.
    let key = gate.account_of(&["bob".to_owned()]);
    assert_eq!(gate.account(key, Nanos(0)).unwrap().key, found(&gate, Some("bob"))[0].key);
    assert_eq!(gate.account_of(&["ns/limits/all".to_owned()]), found(&gate, Some("ns/limits/all"))[0].key);
}

#[tokio::test]
async fn pages_go_through_all_accounts() {
    let gate = limited(BY_USER);
    for number in 0..25 {
        assert_eq!(code(&by(&format!("user-{number}")), &gate).await, None);
    }
    for search in [None, Some("user-".to_owned())] {
        let (mut seen, mut after) = (Vec::new(), None);
        loop {
            let page = gate.accounts(&AccountsQuery { search: search.clone(), after, most: 10 }, Nanos(0));
            seen.extend(page.accounts.iter().map(|account| account.key));
            after = page.next;
            if after.is_none() {
                break;
            }
        }
        seen.sort_unstable();
        seen.dedup();
        assert_eq!(seen.len(), 25, "{search:?}");
    }
}

/// Its name is noted when it is new, not by each request: what a request would have to do for it, the second one does not.
#[tokio::test]
async fn names_are_noted_of_new_accounts_alone() {
    let gate = limited(BY_USER);
    for (at, is_new) in [true, false, false].into_iter().enumerate() {
        let decision = by("alice").on(&gate, Nanos(0)).await;
        assert_eq!(decision.evidence.is_new_account, is_new, "{at}");
    }
    let refused = by("alice").on(&gate, Nanos(0)).await;
    assert!(refused.outcome.is_err() && !refused.evidence.is_new_account);
    // Two accounts at once: one of them is new.
    let gate = limited(&[BY_USER, FOR_ALL].concat());
    for (user, is_new) in [("alice", true), ("alice", false), ("bob", true)] {
        assert_eq!(by(user).on(&gate, Nanos(0)).await.evidence.is_new_account, is_new, "{user}");
    }
}

#[tokio::test]
async fn an_account_that_only_a_report_will_make_has_a_name() {
    let world = World::new(1_000, 3600, "tiergate.io/token-admission: positive");
    let mut call = Call::path("/v1/chat/completions");
    call.headers.insert("x-user".to_owned(), "ada".to_owned());
    let granted = call.on(&world.gate, Nanos(0)).await.outcome.unwrap();
    assert_eq!(world.gate.limits.accounts(), 0);
    let report = Report { usage: Usage { total: Some(30), ..Usage::default() }, ..Report::default() };
    world
        .gate
        .reports(UsageMetrics::default())
        .take(&granted.reservation, &report, crate::usage::Channel::RateLimit, Nanos(0))
        .await;
    let accounts = found(&world.gate, Some("ada"));
    assert_eq!((accounts.len(), accounts[0].cells[0].1.standing.used()), (1, 30));
}

#[tokio::test]
async fn the_second_call_of_the_classic_setup_names_accounts_too() {
    let gate = limited(BY_USER);
    let mut facts = Facts::default();
    for (entry, value) in [
        ("request.method", "POST"),
        ("request.path", "/x"),
        ("request.host", "m"),
        ("request.headers", r#"{"x-user": "alice"}"#),
        ("auth.identity", "null"),
        ("auth", "{}"),
    ] {
        facts.tell(entry, value).unwrap();
    }
    gate.take(&facts, Nanos(0)).await.outcome.unwrap();
    assert_eq!(told(&found(&gate, Some("alice"))), [(called("alice"), vec![used("user", 1)])]);
}

#[tokio::test]
async fn what_may_be_a_secret_is_no_name_and_long_names_are_cut() {
    let by_token =
        "    user: {rates: [{limit: 3, window: 1h}], counters: [{expression: 'request.headers[\"authorization\"]'}]}\n";
    let gate = limited(by_token);
    let token = ES256.sign(&claims("team", "alice"));
    assert_eq!(code(&Call::path("/x").bearer(&token), &gate).await, None);
    assert_eq!(told(&found(&gate, None))[0].0, called("(not shown)"));
    assert_eq!(found(&gate, Some(&format!("Bearer {token}"))).len(), 1, "who knows it finds it");
    let gate = limited(BY_USER);
    let (secret, long) = ("sk-canary0123456789abcdef", "x".repeat(4 * 1024));
    let odd = "a:b/{c}\n\u{1b}[2J";
    for user in [secret, &long, odd] {
        assert_eq!(code(&by(user), &gate).await, None);
    }
    assert_eq!(found(&gate, Some("canary0123")).len(), 0);
    let cut = found(&gate, Some(&long));
    let name = cut[0].name.as_ref().unwrap();
    assert!(cut.len() == 1 && name.is_cut && name.values[0].len() == AccountName::LONGEST);
    assert_eq!(told(&found(&gate, Some(odd)))[0].0, called(odd));
}

/// What became of a change: each limit with what was used before and after.
fn done(outcome: ChangeOutcome) -> Vec<(String, u64, u64)> {
    let ChangeOutcome::Done { changed, .. } = outcome else { panic!("{outcome:?}") };
    let told = |(name, Changed { before, after, .. }): (CellName, Changed)| {
        (name.limit.to_string(), before.used(), after.used())
    };
    changed.into_iter().map(told).collect()
}

#[tokio::test]
async fn an_operator_resets_and_grants_one_limit_or_all() {
    let text = format!("{ONE_ROUTE}{}{BY_USER}{IN_SHADOW}", ROUTES.trim_start_matches("---\n"));
    let text = text.replace("name: limits,", "name: limits, annotations: {tiergate.io/shadow: trial},");
    let gate = gate(compile_text(&text), settings());
    for _ in 0..3 {
        assert_eq!(code(&by("alice"), &gate).await, None);
    }
    assert_eq!(code(&by("alice"), &gate).await, Some(Code::LimitRequests));
    let key = gate.account_of(&["alice".to_owned()]);
    let cells = gate.account(key, Nanos(0)).unwrap().cells;
    assert_eq!(cells.iter().map(|(name, _)| name.in_shadow).collect::<Vec<_>>(), [true, false]);
    let change = |name, change| gate.change(key, LimitsMeant { name, counts: None }, change, Nanos(0));
    let user = |before, after| ("ns/limits/user".to_owned(), before, after);
    assert_eq!(done(change(Some("ns/limits/user"), Change::Grant(2))), [user(3, 1)]);
    for expected in [None, None, Some(Code::LimitRequests)] {
        assert_eq!(code(&by("alice"), &gate).await, expected);
    }
    assert_eq!(done(change(None, Change::Reset)), [("ns/limits/trial".to_owned(), 1, 0), user(3, 0)]);
    assert_eq!(code(&by("alice"), &gate).await, None);
    assert!(matches!(change(Some("ns/limits/other"), Change::Reset), ChangeOutcome::NoLimit));
    let nobody = gate.account_of(&["nobody".to_owned()]);
    assert!(matches!(gate.change(nobody, LimitsMeant::default(), Change::Reset, Nanos(0)), ChangeOutcome::NoAccount));
    assert!(gate.account(nobody, Nanos(0)).is_none());
}

#[tokio::test]
async fn what_each_route_counts_is_told_by_route() {
    let gate = annotated("gateway-rate-limits", "tiergate.io/counter-scope: route");
    let name = user(&gate, "free", 0);
    let token = token("free", &name);
    assert_eq!(code(&Call::chat("granite").bearer(&token), &gate).await, None);
    let key = gate.account_of(std::slice::from_ref(&name));
    let account = gate.account(key, Nanos(0)).unwrap();
    let routes: Vec<_> =
        account.cells.iter().map(|(cell, stands)| (cell.route.as_deref(), stands.standing.used())).collect();
    let route = Call::chat("granite").bearer(&token).on(&gate, Nanos(0)).await.evidence.route.unwrap();
    assert_eq!(routes, [(Some(&*route), 1)]);
}

/// An account may count in very many limits: the page ends where its cells are enough, and the next one goes on.
#[tokio::test]
async fn a_page_of_accounts_is_bounded_by_its_cells_too() {
    let of = |at: usize| BY_USER.replace("user:", &format!("l{at:04}:"));
    let gate = limited(&(0..2_000).map(of).collect::<String>());
    for at in 0..7 {
        assert_eq!(code(&by(&format!("user-{at}")), &gate).await, None);
    }
    let (mut after, mut pages) = (None, Vec::new());
    loop {
        let page = gate.accounts(&AccountsQuery { search: None, after, most: 100 }, Nanos(0));
        let cells: usize = page.accounts.iter().map(|account| account.cells.len()).sum();
        pages.push((page.accounts.len(), cells));
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    assert_eq!(pages, [(5, AccountsPage::MOST_CELLS), (2, 4_000)]);
}

/// Two policies of different kinds may have one name, and their limits too.
#[tokio::test]
async fn of_two_limits_of_one_name_what_they_count_tells_them_apart() {
    let requests = format!("{ONE_ROUTE}{}{BY_USER}", ROUTES.trim_start_matches("---\n"));
    let of = requests.find("apiVersion: kuadrant.io/v1\nkind: RateLimitPolicy").unwrap();
    let tokens = requests.split_at(of).1.replace("kind: RateLimitPolicy", "kind: TokenRateLimitPolicy");
    let all = format!("{requests}---\n{tokens}");
    // A call that holds tokens has used them.
    let reserving = Reserving::default();
    let gate = gate(compile_text(&all), DecisionSettings { reserving, ..settings() });
    let mut chat = by("alice");
    chat.path = "/v1/chat/completions".to_owned();
    chat.method = "POST";
    assert_eq!(code(&chat, &gate).await, None);
    let key = gate.account_of(&["alice".to_owned()]);
    let of = |counts| {
        let limits = LimitsMeant { name: Some("ns/limits/user"), counts };
        let ChangeOutcome::Done { changed, .. } = gate.change(key, limits, Change::Reset, Nanos(0)) else {
            return Vec::new();
        };
        changed.into_iter().map(|(name, _)| name.counts.unwrap()).collect()
    };
    assert_eq!(of(Some(Counts::Tokens)), [Counts::Tokens]);
    assert_eq!(of(Some(Counts::Requests)), [Counts::Requests]);
    assert_eq!(of(Some(Counts::Calls)), []);
    assert_eq!(of(None).len(), 2);
}
