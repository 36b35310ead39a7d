//! The command line.

use std::path::Path;

use crate::support::{Folder, KEYS, Tiergate, root, run, tiergate};

fn check(dir: &Path, flags: &[&str]) -> (Option<i32>, String) {
    run(tiergate(&["check"]).arg(dir).args(flags))
}

#[test]
fn the_seeds_manifests_load_and_so_does_the_deployed_policy() {
    let mut all = Folder::new();
    for entry in std::fs::read_dir(root("tests/data/manifests")).unwrap() {
        let path = entry.unwrap().path();
        let (name, text) = (path.file_name().unwrap().to_str().unwrap(), std::fs::read_to_string(&path).unwrap());
        let alone = Folder::new();
        alone.file(name, &text);
        let (code, printed) = check(&alone.0, &[]);
        assert_eq!(code, Some(0), "{name}: {printed}");
        // Its Gateway has one of the other policies already.
        if name == "deployed.yaml" {
            assert!(printed.contains("deployed.yaml:20:33: warning[cache-key-unsafe]"), "{printed}");
            assert!(printed.contains("tokens that differ only in case"), "{printed}");
        } else if !name.starts_with("deployed") {
            all.file(name, &text);
        }
    }
    let (code, printed) = check(&all.0, &[]);
    assert_eq!(code, Some(0), "{printed}");
    assert!(printed.contains("tier `stier`, which is not in the tier mapping"), "{printed}");
    all = Folder::new();
    let (code, printed) = check(&all.0, &[]);
    assert_eq!(code, Some(2), "{printed}");
    assert!(printed.contains("holds no manifest"), "{printed}");
}

#[test]
fn check_prints_every_problem_with_its_place_and_remedy() {
    let folder = Folder::new();
    folder.file("one.yaml", "a: [1\n");
    folder.file(
        "two.yaml",
        "apiVersion: kuadrant.io/v1
kind: RateLimitPolicy
metadata: {name: a, namespace: b}
spec:
  targetRef: {group: gateway.networking.k8s.io, kind: Gateway, name: g}
  limits:
    free:
      rates:
        - limit: 5
          window: 1d
      when:
        - predicate: auth.identity.tier.splitt(',')
      countres: []
",
    );
    let (code, printed) = check(&folder.0, &[]);
    assert_eq!(code, Some(1));
    for expected in [
        "one.yaml:1:4: error[yaml-syntax]: is not YAML",
        "two.yaml:10:19: error[value-invalid]: RateLimitPolicy b/a: spec.limits.free.rates[0].window: `1d` is not a duration",
        "days are not a unit here; write 24h",
        "two.yaml:12:22: error[expression-invalid]: RateLimitPolicy b/a: spec.limits.free.when[0].predicate",
        "did you mean `split`?",
        "two.yaml:13:7: error[field-unknown]: RateLimitPolicy b/a: spec.limits.free.countres: is not a field that is known here",
        "did you mean `counters`?",
    ] {
        assert!(printed.contains(expected), "{expected}\n{printed}");
    }
    // The name that it had first still works.
    for flags in [&["--format", "json"][..], &["--output", "json"], &["-o", "json"]] {
        let (code, json) = check(&folder.0, flags);
        let json: serde_json::Value = serde_json::from_str(&json).unwrap();
        let codes: Vec<_> = json["problems"].as_array().unwrap().iter().map(|p| p["code"].as_str().unwrap()).collect();
        assert_eq!(codes, ["yaml-syntax", "value-invalid", "expression-invalid", "field-unknown"], "{json}");
        assert_eq!(code, Some(1));
    }
    let (code, github) = check(&folder.0, &["--format", "github"]);
    assert_eq!((code, github.lines().count()), (Some(1), 4), "{github}");
    assert!(github.lines().all(|line| line.starts_with("::error file=")), "{github}");
}

#[test]
fn the_exit_code_tells_warnings_errors_and_what_was_not_checked_apart() {
    let (bad, good) = (root("tests/data/lint/tier-unknown/bad"), root("tests/data/lint/tier-unknown/good"));
    for (folder, flags, expected) in [
        (&good, &[][..], 0),
        (&good, &["--deny-warnings"], 0),
        (&bad, &[], 0),
        (&bad, &["--deny-warnings"], 1),
        (&bad, &["--format", "yaml"], 2),
        (&bad, &["--envoy", "/nonexistent.yaml"], 2),
        (&root("nonexistent"), &[], 2),
    ] {
        let (code, printed) = check(folder, flags);
        assert_eq!(code, Some(expected), "{} {flags:?}: {printed}", folder.display());
    }
    let (code, denied) = run(tiergate(&["check"]).arg(&bad).env("TIERGATE_DENY_WARNINGS", "true"));
    assert_eq!(code, Some(1), "{denied}");
    let (code, nothing) = run(&mut tiergate(&["check"]));
    assert_eq!(code, Some(2), "{nothing}");
}

/// The folder that the README, the tour and everybody who tries tiergate starts from.
#[test]
fn the_examples_and_the_shipped_envoy_configurations_are_clean() {
    let examples = root("examples/manifests");
    for file in ["envoy/tiergate.yaml", "envoy/report-by-call.yaml", "envoy/lua.yaml"] {
        let envoy = root(file);
        let flags = ["--grant-from-annotation", "--deny-warnings", "--envoy", envoy.to_str().unwrap()];
        let (code, printed) = check(&examples, &flags);
        let (limits, summary) = printed.split_at(printed.len() - "28 objects: 0 errors, 0 warnings\n".len());
        assert_eq!((code, summary), (Some(0), "28 objects: 0 errors, 0 warnings\n"), "{file}");
        let lines: Vec<&str> = limits.lines().collect();
        assert!(lines[0] == "counters of the limits in force:" && lines.len() == 7, "{limits}");
        assert!(lines[1..].iter().all(|line| line.ends_with("): one for each auth.identity.userid")), "{limits}");
    }
}

#[test]
fn an_envoy_configuration_is_checked_with_or_without_a_folder() {
    let envoy = root("tests/data/lint/envoy-fail-open/bad/envoy/envoy.yaml");
    let (code, alone) = run(tiergate(&["check", "--deny-warnings", "--envoy"]).arg(&envoy));
    assert_eq!((code, alone.matches("envoy.yaml:").count()), (Some(1), 5), "{alone}");
    let (code, both) = check(&root("tests/data/lint/tier-unknown/bad"), &["--envoy", envoy.to_str().unwrap()]);
    assert_eq!((code, both.matches("error[envoy-fail-open]").count()), (Some(1), 5), "{both}");
    assert!(both.contains("warning[tier-unknown]"), "{both}");
}

#[test]
fn findings_are_explained_by_their_code() {
    let explain = |code: &[&str]| run(tiergate(&["check", "--explain"]).args(code));
    let (code, text) = explain(&["tier-unknown"]);
    assert_eq!(code, Some(0), "{text}");
    assert!(text.starts_with("tier-unknown: ") && text.contains("premum") && text.contains("Remedy: "), "{text}");
    let (code, all) = explain(&[]);
    assert_eq!(code, Some(0), "{all}");
    assert!(all.lines().filter(|line| line.starts_with("  ")).count() > 50, "{all}");
    let (code, text) = explain(&["tier-unkown"]);
    assert_eq!(code, Some(2), "{text}");
    assert!(text.contains("did you mean `tier-unknown`?"), "{text}");
}

#[test]
fn keys_are_private_and_not_overwritten() {
    use std::os::unix::fs::PermissionsExt;
    let folder = Folder::new();
    let keys = |flags: &[&str]| run(tiergate(&["token", "keys"]).arg(&folder.0).args(flags));
    for algorithm in ["es256", "rs256"] {
        assert_eq!(keys(&["--algorithm", algorithm, "--force"]).0, Some(0));
        let mode = std::fs::metadata(folder.0.join("signing-key.pem")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let jwks = std::fs::read_to_string(folder.0.join("jwks.json")).unwrap();
        assert!(jwks.contains(&algorithm.to_uppercase()) && !jwks.contains("\"d\""), "{jwks}");
    }
    let (code, again) = keys(&[]);
    assert!(code == Some(64) && again.contains("--force"), "{again}");
}

#[test]
fn a_token_is_only_made_for_an_account_that_is_there() {
    let create = |name: &str, namespace: &str, key: &Path| {
        let mut command = tiergate(&["token", "create", name, "-n", namespace]);
        run(command.arg("--signing-key").arg(key).arg("--manifests").arg(root("examples/manifests")))
    };
    let key = KEYS.0.join("signing-key.pem");
    let (code, made) = create("alice-12345678", "maas-default-gateway-tier-free", &key);
    assert_eq!((code, made.trim().split('.').count()), (Some(0), 3), "{made}");
    let (code, elsewhere) = create("alice-12345678", "default", &key);
    assert_eq!(code, Some(64));
    assert!(elsewhere.contains("did you mean maas-default-gateway-tier-free/alice-12345678?"), "{elsewhere}");
    let (_, no_key) = create("alice-12345678", "maas-default-gateway-tier-free", &KEYS.0.join("jwks.json"));
    assert!(no_key.contains("is not a private key"), "{no_key}");
}

#[test]
fn flags_have_environment_variables_and_wrong_ones_are_explained() {
    let (code, printed) = run(tiergate(&["check"]).env("TIERGATE_MANIFESTS", root("examples/manifests")));
    assert_eq!(code, Some(0), "{printed}");
    for command in [
        &["serve", "--help"][..],
        &["check", "--help"],
        &["token", "keys", "--help"],
        &["token", "create", "--help"],
        &["explain", "--help"],
        &["usage", "--help"],
    ] {
        let (_, help) = run(&mut tiergate(command));
        let flags = help.lines().filter(|line| line.trim_start().starts_with('-') && line.contains("--"));
        let own = flags.filter(|line| !line.contains("--help")).count();
        assert!(help.matches("TIERGATE_").count() >= own, "every flag has a variable:\n{help}");
    }
    let (_, wrong) = run(&mut tiergate(&["check", ".", "--tier-mapping", "no-slash"]));
    assert!(wrong.contains("namespace/name"), "{wrong}");
}

#[test]
fn what_serve_needs_is_named_when_it_is_missing() {
    let serve = |manifests: &Path, jwks: &Path| {
        let mut command = tiergate(&["serve", "--listen-grpc", "127.0.0.1:0", "--listen-http", "127.0.0.1:0"]);
        run(command.arg("--manifests").arg(manifests).arg("--jwks").arg(jwks))
    };
    let (jwks, manifests) = (KEYS.0.join("jwks.json"), root("examples/manifests"));
    for (result, code, name) in [
        (serve(Path::new("/nonexistent"), &jwks), 2, "/nonexistent"),
        (serve(&manifests, Path::new("/nonexistent.json")), 2, "/nonexistent.json"),
        (serve(&manifests, &root("Cargo.toml")), 64, "is not a JSON Web Key Set"),
    ] {
        assert_eq!(result.0, Some(code), "{}", result.1);
        assert!(result.1.contains(name), "{}", result.1);
    }
}

#[tokio::test]
async fn a_stop_signal_ends_the_process_cleanly() {
    for signal in ["TERM", "INT"] {
        let running = Tiergate::start(&root("examples/manifests"), &[]);
        running.signal(signal);
        let (status, _) = running.ended().await;
        assert!(status.success(), "{signal}: {status}");
    }
}
