//! Plays a tour of requests through a real Envoy that asks tiergate about each, and prints who got what, and why.
//!
//! `make run` builds what it needs and starts it; `make run ONCE=1` exits after the tour, with 0 only if every row is as
//! it should be. Everything it starts ends with it.

mod accounts;
mod client;
mod play;
mod processes;
mod rows;
mod setup;

use std::error::Error;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;

use accounts::{Scratch, Tokens};
use processes::Processes;

/// Errors cross a thread on their way to the user.
type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

#[derive(Clone, Parser)]
#[command(about = "Plays a tour of requests through a real Envoy and tiergate")]
struct Args {
    /// Exit after the tour: with 0 if every row was as it should be, else with 1
    #[arg(long)]
    once: bool,

    /// The Envoy binary [default: what scripts/envoy.sh installs]
    #[arg(long, env = "TIERGATE_ENVOY")]
    envoy: Option<PathBuf>,

    /// Where Envoy listens for requests; port 0, here and below, takes any free one
    #[arg(long, default_value = "127.0.0.1:10000")]
    listen: SocketAddr,

    /// Where Envoy's admin interface listens
    #[arg(long, default_value = "127.0.0.1:9901")]
    listen_admin: SocketAddr,

    /// Where tiergate listens for Envoy's calls
    #[arg(long, default_value = "127.0.0.1:50051")]
    listen_grpc: SocketAddr,

    /// Where tiergate listens for probes and metrics
    #[arg(long, default_value = "127.0.0.1:8080")]
    listen_http: SocketAddr,

    /// Where the sample model listens
    #[arg(long, default_value = "127.0.0.1:8000")]
    listen_model: SocketAddr,
}

fn main() -> ExitCode {
    let processes = Processes::default();
    let outcome = run(Args::parse(), &processes);
    processes.stop();
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("tour: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Says whether every row was as it should be.
#[tokio::main(flavor = "current_thread")]
async fn run(args: Args, processes: &Processes) -> Result<bool> {
    let mut interrupted = signal(SignalKind::interrupt())?;
    let mut terminated = signal(SignalKind::terminate())?;
    let stopped = async {
        tokio::select! {
            _ = interrupted.recv() => {}
            _ = terminated.recv() => {}
        }
    };
    tokio::pin!(stopped);

    // Here and not in the thread, which a signal leaves behind: the keys in it must go.
    let scratch = Scratch::create()?;
    let played = in_thread({
        let (args, processes, scratch) = (args.clone(), processes.clone(), scratch.path().to_owned());
        move || tour(&args, &processes, &scratch)
    });
    let all_as_expected = tokio::select! {
        played = played => played.map_err(|_| "the tour panicked: see above")??,
        () = &mut stopped => return Err("stopped before the end of the tour".into()),
    };
    if args.once {
        return Ok(all_as_expected);
    }
    println!("\nEverything keeps running. Ctrl-C ends it.");
    loop {
        tokio::select! {
            () = &mut stopped => return Ok(all_as_expected),
            () = tokio::time::sleep(Duration::from_secs(1)) => processes.check()?,
        }
    }
}

/// The tour blocks; a thread of its own leaves signals free to end it at any point.
fn in_thread<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> oneshot::Receiver<T> {
    let (sender, receiver) = oneshot::channel();
    std::thread::spawn(move || sender.send(work()));
    receiver
}

fn tour(args: &Args, processes: &Processes, scratch: &std::path::Path) -> Result<bool> {
    let (gate, tokens) = setup::start(args, processes, scratch)?;
    println!();
    let all_as_expected = play::play(&gate, &rows::rows(&tokens), processes)?;
    if !all_as_expected {
        println!("\nNot every row is as it should be. {}", processes.logs());
    }
    if !args.once {
        print_curl_lines(gate.envoy, gate.tiergate, &tokens);
    }
    Ok(all_as_expected)
}

fn print_curl_lines(envoy: SocketAddr, tiergate: SocketAddr, tokens: &Tokens) {
    let (premium, free) = (&tokens.curl_premium, &tokens.curl_free);
    println!(
        r#"
To try it yourself, paste these three lines and then any of the others:

GATEWAY=http://{envoy}; BODY='{{"messages":[{{"role":"user","content":"hello there"}}]}}'
PREMIUM={premium}
FREE={free}

# a premium user may call qwen3; the answer names the headers that reached the model
curl -i $GATEWAY/llm/qwen3/v1/chat/completions -H "Authorization: Bearer $PREMIUM" -H 'Content-Type: application/json' -d "$BODY"
# a free user may not: 403
curl -i $GATEWAY/llm/qwen3/v1/chat/completions -H "Authorization: Bearer $FREE" -H 'Content-Type: application/json' -d "$BODY"
# but may call granite, five times in two minutes
for i in 1 2 3 4 5 6; do curl -s -o /dev/null -w '%{{http_code}}\n' $GATEWAY/llm/granite/v1/chat/completions -H "Authorization: Bearer $FREE" -H 'Content-Type: application/json' -d "$BODY"; done
# a stream
curl -N $GATEWAY/llm/qwen3/v1/chat/completions -H "Authorization: Bearer $PREMIUM" -H 'Content-Type: application/json' -d "${{BODY%?}},\"stream\":true}}"
# what tiergate counted
curl -s http://{tiergate}/metrics | grep ^tiergate_"#
    );
}
