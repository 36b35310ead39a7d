//! What no honest peer sends. Each case is a test of its own, and all of them are played to one process.

mod bodies;
mod checks;
mod frames;
mod manifests;
mod paths;
mod places;
mod slow;
mod tokens;
mod unfinished;

use std::net::SocketAddr;

use envoy_types::pb::envoy::service::auth::v3::{CheckRequest, CheckResponse};
use tokio::sync::OnceCell;

use crate::envoy::{Gateway, chat, gateway};
use crate::support::{Connection, Folder, Tiergate, generous_manifests, get};
use crate::wire::{channel, check, check_request, http, outcome, premium};

/// Every case: a test by its own name, and a part of the run of all.
macro_rules! cases {
    ($($module:ident::$case:ident),* $(,)?) => {
        $(
            #[tokio::test]
            async fn $case() {
                let world = World::start();
                $module::$case(&world).await;
                world.serves().await;
            }
        )*

        async fn every_case(world: &World) {
            $(
                println!("{} {}", stringify!($module), stringify!($case));
                $module::$case(world).await;
                world.serves().await;
            )*
        }
    };
}

cases! {
    paths::paths_reach_the_model_they_name_or_none_over_http1,
    paths::paths_reach_the_model_they_name_or_none_over_http2,
    paths::raw_bytes_of_a_path_and_methods_in_lower_case_are_refused_over_http2,
    checks::a_check_above_the_bound_is_refused_and_the_connection_serves_on,
    checks::ten_thousand_headers_in_a_check_are_decided,
    checks::duplicated_headers_in_a_check_are_refused,
    checks::header_names_in_capitals_are_the_same_names,
    checks::headers_that_models_believe_reach_none,
    checks::invalid_utf8_is_refused_and_the_process_lives,
    checks::duplicated_headers_get_through_no_gateway,
    checks::ten_thousand_headers_get_through_no_gateway,
    frames::ten_thousand_headers_of_a_call_are_refused,
    frames::header_names_in_capitals_are_no_http2,
    frames::a_rapid_reset_is_sent_away_and_others_are_served,
    frames::a_rapid_reset_of_the_gateway_reaches_no_other_caller,
    frames::a_flood_of_continuations_is_ended,
    frames::a_flood_of_settings_and_pings_stops_nobody_else,
    frames::what_is_not_http2_is_ended,
    slow::a_peer_that_says_nothing_is_closed,
    slow::a_preface_that_is_not_finished_is_closed,
    slow::a_message_that_is_not_finished_ends,
    slow::the_callers_deadline_is_honoured,
    slow::a_thousand_promised_messages_take_no_memory,
    slow::a_head_that_is_not_finished_is_closed,
    slow::a_body_that_is_not_finished_is_refused,
    places::one_address_has_half_of_the_places_and_they_come_back,
    places::a_new_gateway_is_served_beside_connections_that_fill_every_place,
    places::probes_are_answered_beside_connections_that_trickle,
    places::who_was_answered_stays_beside_connections_that_ask_for_nothing,
    unfinished::a_thousand_messages_without_their_last_byte_take_little_memory,
    unfinished::ten_thousand_calls_that_say_nothing_take_little_memory,
    unfinished::a_thousand_checks_in_flight_are_all_decided,
    tokens::a_token_with_alg_none_is_refused,
    tokens::a_token_with_hs256_and_the_public_key_is_refused,
    tokens::a_token_with_a_foreign_kid_is_refused,
    tokens::a_token_with_crit_is_refused,
    tokens::a_token_that_brings_its_own_key_or_no_algorithm_is_refused,
    tokens::a_token_with_ten_thousand_groups_is_refused,
    tokens::json_of_a_thousand_levels_in_a_token_is_refused,
    bodies::ten_thousand_groups_are_looked_up,
    bodies::json_of_a_thousand_levels_is_refused,
    bodies::a_body_above_the_bound_is_refused,
    manifests::a_manifest_of_ten_mebibytes_is_live,
    manifests::a_hundred_thousand_objects_are_live,
    manifests::aliases_that_explode_are_refused,
    manifests::a_file_that_cannot_be_read_keeps_its_objects,
    manifests::a_folder_that_is_removed_changes_nothing_and_may_come_back,
}

const QWEN: &str = "/llm/qwen3/v1/chat/completions";

/// A tiergate whose limits nobody reaches, and an Envoy for the cases that need one.
struct World {
    manifests: Folder,
    tiergate: Tiergate,
    token: String,
    gateway: OnceCell<Gateway>,
}

impl World {
    fn start() -> Self {
        let manifests = generous_manifests();
        // A line for each refusal would be most of what the cases do.
        let tiergate = Tiergate::start(&manifests.0, &["--log", "info,tiergate::decision=warn"]);
        World { manifests, tiergate, token: premium(), gateway: OnceCell::new() }
    }

    fn grpc(&self) -> SocketAddr {
        self.tiergate.grpc
    }

    fn bearer(&self) -> String {
        format!("Bearer {}", self.token)
    }

    async fn gateway(&self) -> SocketAddr {
        self.gateway.get_or_init(|| gateway(self.grpc())).await.address
    }

    async fn check(&self, request: CheckRequest) -> CheckResponse {
        check(&channel(&self.tiergate).await, request).await
    }

    async fn outcome(&self, request: CheckRequest) -> (i32, String) {
        let response = self.check(request).await;
        let (status, code) = outcome(&response);
        (status, code.to_owned())
    }

    /// A good request passes, over new connections.
    async fn serves(&self) {
        assert_eq!(self.outcome(check_request(http(QWEN, Some(&self.bearer())))).await.0, 200);
        assert_eq!(get(self.tiergate.http, "/livez").await.status, 200);
        if let Some(gateway) = self.gateway.get() {
            let answer = chat(&mut Connection::open(gateway.address).await, QWEN, &self.token).await;
            assert_eq!(answer.status, 200, "{}", answer.body);
        }
    }

    fn memory(&self) -> u64 {
        self.tiergate.memory()
    }
}

/// The growth that is allowed: the folder of a hundred thousand objects is read, twice, and the allocator keeps some of it.
const GROWTH: u64 = 256 * 1024;

#[tokio::test]
async fn the_process_lives_through_all_of_them_in_one_run() {
    let world = World::start();
    world.gateway().await;
    world.serves().await;
    let before = world.memory();
    every_case(&world).await;
    let after = world.memory();
    println!("resident memory: {before} KiB before, {after} KiB after");
    assert!(after < before + GROWTH, "{before} KiB before, {after} KiB after");
}
