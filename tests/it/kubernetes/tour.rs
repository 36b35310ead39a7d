//! `make run KUBE=1`: the tour, on a cluster that it starts itself.

use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::cluster::BINARIES;
use crate::envoy::{TOUR, printed, tour};
use crate::support::{Folder, PATIENCE, Process};

/// Two of them would write to the same logs.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

fn tour_on_a_cluster(flags: &[&str]) -> Command {
    let mut command = tour(&[&["--kube"], flags].concat());
    command.env("KUBEBUILDER_ASSETS", &*BINARIES);
    command
}

/// The table, with its texts. How long to wait depends on when it was asked; and so do estimates, in the sums behind it.
fn rows(printed: &str) -> Vec<&str> {
    let lines = printed.lines().skip_while(|line| !line.starts_with("who "));
    let lines = lines.take_while(|line| !line.starts_with("What was charged"));
    lines.map(|line| line.split_once("retry after").map_or(line, |(before, _)| before)).collect()
}

#[test]
fn the_tour_on_a_cluster_has_the_rows_of_the_tour_of_the_folder() {
    let _turn = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let printed = printed(tour_on_a_cluster(&["--once"]));
    assert!(printed.contains("44 rows, 0 not as they should be"), "{printed}");
    assert_eq!(rows(&printed), rows(&TOUR));
}

/// Nothing of it can run any more then, so what it started has to notice.
#[test]
fn a_tour_that_is_killed_leaves_no_process_and_no_key() {
    let _turn = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let mut tour = Process(tour_on_a_cluster(&[]).stdout(Stdio::piped()).spawn().unwrap());
    let folder = std::env::temp_dir().join(format!("tiergate-tour-{}", tour.0.id()));
    let lines = BufReader::new(tour.0.stdout.take().unwrap()).lines().map_while(Result::ok);
    let said: Vec<String> = lines.take_while(|line| line != "minting tokens").collect();
    let named = folder.display().to_string();
    let of_the_tour = || -> Vec<String> {
        let processes = std::fs::read_dir("/proc").unwrap().flatten();
        let commands = processes.filter_map(|process| std::fs::read_to_string(process.path().join("cmdline")).ok());
        commands.filter(|command| command.contains(&named)).collect()
    };
    for name in ["/etcd\0", "/kube-apiserver\0"] {
        assert!(of_the_tour().iter().any(|command| command.contains(name)), "{name}: {said:?}");
    }
    assert!(folder.join("cluster/tokens.key").exists());
    drop(tour);
    let started = Instant::now();
    while folder.exists() || !of_the_tour().is_empty() {
        assert!(started.elapsed() < PATIENCE, "{named} is there, or {:?}", of_the_tour());
        // Processes of another one do not tell when they end.
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn an_api_server_that_does_not_start_is_told_with_its_last_words() {
    let _turn = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let folder = Folder::new();
    for (name, script) in
        [("etcd", "exec tail -f /dev/null"), ("kube-apiserver", "echo 'listen tcp: address already in use'; exit 3")]
    {
        let file = folder.file(name, &format!("#!/bin/sh\n{script}\n"));
        std::fs::set_permissions(file, std::fs::Permissions::from_mode(0o700)).unwrap();
    }
    let output = tour(&["--kube", "--once"]).env("KUBEBUILDER_ASSETS", &folder.0).output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.starts_with("tour: kube-apiserver ended (exit status: 3); the end of "), "{said}");
    assert!(said.ends_with("kube-apiserver.log:\n  listen tcp: address already in use\n\n"), "{said}");
}
