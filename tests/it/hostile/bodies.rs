//! Bodies for the tier lookup.

use serde_json::json;

use crate::support::{Connection, post};

use super::World;

pub(super) async fn ten_thousand_groups_are_looked_up(world: &World) {
    let mut groups: Vec<String> = (0..10_000).map(|at| format!("group-{at}")).collect();
    let answer = post(world.tiergate.http, "/v1/tiers/lookup", &json!({"groups": groups}).to_string()).await;
    assert_eq!((answer.status, &answer.json()["error"]), (404, &json!("not_found")));
    groups.push("premium-users".to_owned());
    let answer = post(world.tiergate.http, "/v1/tiers/lookup", &json!({"groups": groups}).to_string()).await;
    assert_eq!((answer.status, &answer.json()["tier"]), (200, &json!("premium")));
}

pub(super) async fn json_of_a_thousand_levels_is_refused(world: &World) {
    let (lists, objects) = ("[".repeat(1000), "{\"groups\":".repeat(1000));
    for body in [format!("{{\"groups\":{lists}"), format!("{{\"x\":{lists}"), objects, lists] {
        let answer = post(world.tiergate.http, "/v1/tiers/lookup", &body).await;
        assert_eq!((answer.status, &answer.json()["error"]), (400, &json!("bad_request")));
    }
}

pub(super) async fn a_body_above_the_bound_is_refused(world: &World) {
    let mut connection = Connection::open(world.tiergate.http).await;
    connection.write(b"POST /v1/tiers/lookup HTTP/1.1\r\nhost: a\r\ncontent-length: 5242880\r\n\r\n").await;
    // A byte above the bound, of five times as many that were announced: who goes on may be reset before reading the answer.
    connection.write(&vec![b' '; (1 << 20) + 1]).await;
    assert_eq!(connection.answer().await.status, 413);
}
