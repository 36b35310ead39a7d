//! Plays a tour of requests through a real Envoy that asks tiergate about each, and prints who got what, and why.
//!
//! `make run` builds what it needs and starts it; `make run ONCE=1` exits after the tour, with 0 only if every row is as
//! it should be; `make run KUBE=1` plays the same rows on a real API server. Everything it starts ends with it.

mod accounts;
mod books;
mod client;
mod play;
mod processes;
mod rows;
mod scratch;
mod setup;
mod source;

use std::error::Error;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;

use accounts::Tokens;
use processes::Processes;
use scratch::Scratch;
use setup::Gate;

/// Errors cross a thread on their way to the user.
type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

#[derive(Clone, Parser)]
#[command(about = "Plays a tour of requests through a real Envoy and tiergate")]
struct Args {
    /// Exit after the tour: with 0 if every row was as it should be, else with 1
    #[arg(long)]
    once: bool,

    /// Play it on a cluster: a real etcd and kube-apiserver with the manifests applied, in place of the folder. They are
    /// those of KUBEBUILDER_ASSETS, else Go builds them, the first time in minutes
    #[arg(long)]
    kube: bool,

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
    match prepared(Args::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("tour: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Servers end before the folder goes that one of them writes to.
fn prepared(args: Args) -> Result<bool> {
    let scratch = Scratch::create()?;
    let processes = Processes::default();
    let outcome = run(args, &processes, scratch.path());
    processes.stop();
    outcome
}

/// Says whether every row was as it should be.
#[tokio::main(flavor = "current_thread")]
async fn run(args: Args, processes: &Processes, scratch: &Path) -> Result<bool> {
    let mut interrupted = signal(SignalKind::interrupt())?;
    let mut terminated = signal(SignalKind::terminate())?;
    let stopped = async {
        tokio::select! {
            _ = interrupted.recv() => {}
            _ = terminated.recv() => {}
        }
    };
    tokio::pin!(stopped);

    let played = in_thread({
        let (args, processes, scratch) = (args.clone(), processes.clone(), scratch.to_owned());
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

fn tour(args: &Args, processes: &Processes, scratch: &Path) -> Result<bool> {
    let (gate, tokens) = setup::start(args, processes, scratch)?;
    println!();
    let all_as_expected = play::play(&gate, &rows::rows(&tokens), processes)?;
    if !all_as_expected {
        println!("\nNot every row is as it should be. {}", processes.logs());
    }
    if !args.once {
        print_curl_lines(&gate, &tokens);
    }
    Ok(all_as_expected)
}

fn print_curl_lines(gate: &Gate, tokens: &Tokens) {
    let Gate { envoy, tiergate, kubeconfig, .. } = gate;
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
    if let Some(kubeconfig) = kubeconfig {
        println!(
            r#"# the cluster is yours: the premium user's next request is refused, 401
kubectl --kubeconfig {} delete serviceaccount judy-14f2a9d0 -n maas-default-gateway-tier-premium"#,
            kubeconfig.display()
        );
    }
}
