//! Whether the API server is there at all: one that hangs keeps its watches open, and they say nothing.

use std::time::Duration;

use futures_util::pin_mut;
use kube::Client;
use tokio::sync::mpsc::Sender;
use tokio::time::{sleep, timeout};

use super::event::ClusterEvent;
use crate::apiserver::connection::reason;

/// How often the server is asked whether it is there, and how long it has to answer.
const BEAT: Duration = Duration::from_secs(2);
const ANSWER: Duration = Duration::from_secs(3);
/// How much longer, so that an answer is read that came while this thread compiled.
const GRACE: Duration = Duration::from_millis(500);

/// Asks the server, over and over, whether it is there; says so each time that it is, and once when it is not any more.
pub(super) async fn heartbeat(client: &Client, events: &Sender<ClusterEvent>) {
    let mut well = true;
    loop {
        let answer = ask(client).await;
        let now = answer.is_ok();
        if (now != well || now) && events.send(ClusterEvent::Heartbeat(answer)).await.is_err() {
            return;
        }
        well = now;
        sleep(BEAT).await;
    }
}

/// Whether it answers, or why that is no answer.
async fn ask(client: &Client) -> Result<(), String> {
    let asked = client.apiserver_version();
    pin_mut!(asked);
    let answer = match timeout(ANSWER, &mut asked).await {
        Err(_) => timeout(GRACE, asked).await,
        answer => answer,
    };
    match answer {
        Err(_) => Err(format!("no answer within {} s", ANSWER.as_secs())),
        // A refusal is an answer.
        Ok(Ok(_)) => Ok(()),
        Ok(Err(kube::Error::Api(status))) if status.code < 500 => Ok(()),
        Ok(Err(error)) => Err(reason(&error)),
    }
}
