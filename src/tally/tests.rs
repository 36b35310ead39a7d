use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use clap::Parser as _;
use serde_json::{Value, json};

use super::*;
use crate::args::{Cli, Command};
use crate::test_util::Scratch;
use crate::usage::ledger::{Line, Quality};

/// 2027-01-15T08:00:00Z
const START: Micros = Micros(1_800_000_000_000_000);

fn line(user: &str, total: i64) -> Line {
    Line {
        time: START,
        user: user.into(),
        tier: "free".into(),
        namespace: "llm".into(),
        model: "qwen3".into(),
        input: Some(total / 2),
        output: Some(total - total / 2),
        total,
        quality: Quality::Final,
        ..Line::default()
    }
}

fn text(lines: &[Line]) -> String {
    lines.iter().map(|line| serde_json::to_string(line).unwrap() + "\n").collect()
}

/// Whether all was read, or why nothing was; what is printed, and what is told.
fn usage(paths: &[PathBuf], flags: &[&str]) -> (Result<bool, String>, String, String) {
    let paths = paths.iter().map(|path| path.to_str().unwrap());
    let words = ["tiergate", "usage"].into_iter().chain(flags.iter().copied()).chain(paths);
    let Command::Usage(args) = Cli::try_parse_from(words).unwrap().command else { panic!("it sums") };
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let ended = run(&args, &mut out, &mut err).map_err(|error| error.to_string());
    (ended, String::from_utf8(out).unwrap(), String::from_utf8(err).unwrap())
}

/// What is printed of a log with this text, all of which can be read.
fn of(text: &str, flags: &[&str]) -> String {
    let folder = Scratch::new();
    let path = folder.path("u.log");
    fs::write(&path, text).unwrap();
    let (ended, out, err) = usage(&[path], flags);
    assert_eq!((ended, &*err), (Ok(true), ""), "{out}");
    out
}

#[test]
fn corrections_are_in_the_sums_and_are_no_calls() {
    let estimate = Line { input: None, output: None, quality: Quality::Estimate, ..line("ann", 100) };
    let correction = Line { input: Some(20), output: Some(40), total: -40, correction: true, ..line("ann", 0) };
    let unsettled = Line { quality: Quality::Unsettled, ..line("bob", 9) };
    let better = |quality| {
        let corrects = Some(Quality::Unsettled);
        Line { quality, input: None, output: None, correction: true, corrects, ..line("bob", -1) }
    };
    let counted = better(Quality::Counted);
    let last = Line { corrects: None, ..better(Quality::Final) };
    let unsettled = Line { input: None, output: None, ..unsettled };
    let lines = [estimate, line("bob", 8), correction, unsettled.clone(), counted, unsettled.clone(), unsettled];
    let out = of(&text(&lines), &[]);
    let expected = "\
user   calls  estimated  unsettled  input  output  cached  reasoning  total
ann        1          0          0     20      40       0          0     60
bob        4          1          2      4       4       0          0     34
(all)      5          1          2     24      44       0          0     94
";
    assert_eq!(out, expected);
    // A call that was unsettled, and is estimated, becomes exact; and one at once.
    let all = [&lines[..], &[last, better(Quality::Final)]].concat();
    let out = of(&text(&all), &["--format", "csv"]);
    assert_eq!(out.lines().nth(2), Some("bob,4,0,1,4,4,0,0,32"));
}

#[test]
fn rows_are_of_what_is_asked_for() {
    let at = |hours: u64| START.saturating_add(Duration::from_secs(hours * 3600));
    let lines = [
        Line { time: at(0), ..line("ann", 1) },
        Line { time: at(1), model: "granite".into(), ..line("ann", 2) },
        Line { time: at(30), ..line("bob", 4) },
        Line { time: at(24 * 20), tier: "".into(), ..line("bob", 8) },
    ];
    let rows = |by: &str| {
        let out = of(&text(&lines), &["--by", by, "--format", "csv"]);
        let short = |line: &str| line.replace("calls,estimated,unsettled,input,output,cached,reasoning,", "");
        out.lines().map(short).collect::<Vec<_>>().join(" | ")
    };
    for (by, expected) in [
        ("user", "user,total | ann,2,0,0,1,2,0,0,3 | bob,2,0,0,6,6,0,0,12"),
        ("tier", "tier,total | ,1,0,0,4,4,0,0,8 | free,3,0,0,3,4,0,0,7"),
        ("namespace,model", "namespace,model,total | llm,granite,1,0,0,1,1,0,0,2 | llm,qwen3,3,0,0,6,7,0,0,13"),
        (
            "month,user",
            "month,user,total | 2027-01,ann,2,0,0,1,2,0,0,3 | 2027-01,bob,1,0,0,2,2,0,0,4 | 2027-02,bob,1,0,0,4,4,0,0,8",
        ),
        ("day", "day,total | 2027-01-15,2,0,0,1,2,0,0,3 | 2027-01-16,1,0,0,2,2,0,0,4 | 2027-02-04,1,0,0,4,4,0,0,8"),
        (
            "hour,hour",
            "hour,total | 2027-01-15T08:00Z,1,0,0,0,1,0,0,1 | 2027-01-15T09:00Z,1,0,0,1,1,0,0,2 | 2027-01-16T14:00Z,1,0,0,2,2,0,0,4 | 2027-02-04T08:00Z,1,0,0,4,4,0,0,8",
        ),
    ] {
        assert_eq!(rows(by), expected, "{by}");
    }
}

#[test]
fn a_span_has_its_begin_and_not_its_end() {
    let at = |seconds: u64| START.saturating_add(Duration::from_secs(seconds));
    let lines: Vec<Line> = [0, 1, 2, 3].map(|second| Line { time: at(second), ..line("ann", 1 << second) }).into();
    let total = |flags: &[&str]| {
        let page: Value = serde_json::from_str(&of(&text(&lines), &[flags, &["--format", "json"]].concat())).unwrap();
        page["all"]["total"].as_i64().unwrap()
    };
    assert_eq!(total(&[]), 15);
    assert_eq!(total(&["--since", "2027-01-15T08:00:01Z", "--until", "2027-01-15T09:00:03+01:00"]), 2 + 4);
    assert_eq!(total(&["--since", "2027-01-15"]), 15);
    assert_eq!(total(&["--until", "2027-01-15"]), 0);
    assert_eq!(total(&["--since", "24h", "--until", "2027-01-16"]), 15, "that is before");
    let (ended, ..) = usage(&[PathBuf::from("-")], &["--since", "2027-01-15", "--until", "2027-01-15"]);
    assert_eq!(ended, Err("--since has to be before --until".to_owned()));
}

#[test]
fn a_log_is_summed_with_its_rotated_files_and_no_file_twice() {
    let folder = Scratch::new();
    let log = folder.path("u.log");
    for (total, name) in ["u.log", "u.log.20270115T080000.000Z", "u.log.1", "u.log-20270115"].iter().enumerate() {
        fs::write(folder.path(name), text(&[line("ann", 1 << total)])).unwrap();
    }
    for stranger in ["u.logs", "u.log.old", "v.log", ".hidden"] {
        fs::write(folder.path(stranger), text(&[line("stranger", 1_000)])).unwrap();
    }
    fs::hard_link(&log, folder.path("u.log.2")).unwrap();
    let total = |paths: &[PathBuf]| {
        let (ended, out, err) = usage(paths, &["--format", "json"]);
        assert_eq!((ended, &*err), (Ok(true), ""));
        let page: Value = serde_json::from_str(&out).unwrap();
        page["all"]["total"].as_i64().unwrap()
    };
    assert_eq!(total(std::slice::from_ref(&log)), 15);
    assert_eq!(total(&[folder.path("u.log.1"), log.clone(), log.clone(), folder.path("u.log.2")]), 15);
    assert_eq!(total(&[folder.path("u.log.1")]), 4);
    fs::create_dir(folder.path("u.log.3")).unwrap();
    assert_eq!(total(&[folder.0.clone(), log]), 15 + 3_000, "of a folder every file that is not hidden");
}

#[test]
fn what_cannot_be_read_is_told_by_its_place_and_costs_no_line_beside_it() {
    let folder = Scratch::new();
    let path = folder.path("u\u{1b}.log");
    let good = text(&[line("ann", 1)]);
    let (half, negative) = (good.get(..40).unwrap(), good.replace("\"total\":1", "\"total\":-1"));
    let long = format!("{{\"user\":\"{}\"}}\n", "x".repeat(3 << 20));
    let zeros = "\0".repeat(5) + "\n";
    let huge = good.replace("\"total\":1", "\"total\":9223372036854775808");
    let fraction = good.replace("\"total\":1", "\"total\":2.5");
    let nothing = good.replace(",\"total\":1", "");
    let early = good.replace("2027-", "1927-");
    let hostile = good.replace("\"total\":1", "\"total\":\"\\u001b[2J password=hunter2x \\u202e\"");
    let other = "{\"time\":\"2027-01-15T08:00:00Z\",\"message\":\"a log of something else\"}\n".to_owned();
    let parts = [
        half, "\n", &good, &negative, "\n", &long, &zeros, &huge, &fraction, &nothing, &early, &hostile, &other, &good,
        half,
    ];
    fs::write(&path, parts.concat()).unwrap();
    let (ended, out, err) = usage(&[path], &["--format", "json"]);
    assert_eq!(ended, Ok(false));
    let page: Value = serde_json::from_str(&out).unwrap();
    assert_eq!((&page["all"]["total"], &page["all"]["calls"]), (&json!(1), &json!(3)));
    assert_eq!(page["not_read"], json!({"files": 0, "lines": 10}));
    let name = folder.path("u\\u{1b}.log").display().to_string();
    let told: Vec<&str> = err.lines().map(|line| line.strip_prefix(&name).unwrap_or(line)).collect();
    let expected = [
        ":1: not read: it is cut off",
        ":5: not read: longer than 1048576 bytes",
        ":6: not read: zeros, as a crash of the machine leaves them",
        ":7: not read: invalid value: integer `9223372036854775808`, expected i64 (column 169)",
        ":8: not read: invalid type: floating point `2.5`, expected i64 (column 153)",
        ":9: not read: missing field `total` (column 186)",
        ":10: not read: a `time` before 1970 (column 34)",
        ":11: not read: invalid type: string \"\\u{1b}[2J password=(a secret) \\u{202e}\", expected i64 (column 186)",
        ":12: not read: missing field `user` (column 67)",
        ":14: not read: it is cut off",
        "not read: 0 files, 10 lines",
    ];
    assert_eq!(told, expected, "{err}");
}

/// A file that ends within a line, and goes on.
#[test]
fn a_line_that_is_being_written_is_waited_for() {
    struct Growing(Vec<Vec<u8>>);
    impl io::Read for Growing {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let piece = self.0.pop().unwrap_or_default();
            buffer[..piece.len()].copy_from_slice(&piece);
            Ok(piece.len())
        }
    }
    let whole = text(&[line("ann", 1), line("bob", 2)]);
    let first = whole.find('\n').unwrap();
    for cut in [1, first, first + 1, first + 2, whole.len() - 1] {
        let (before, after) = whole.as_bytes().split_at(cut);
        let growing = Growing(vec![after.to_vec(), Vec::new(), before.to_vec()]);
        let mut totals = Vec::new();
        read(BufReader::new(growing), |_, entry| totals.push(entry.unwrap().total)).unwrap();
        // Behind a whole line the file may as well be at its end.
        let is_end = before.ends_with(b"\n");
        assert_eq!(totals, if is_end { vec![1] } else { vec![1, 2] }, "{cut}");
    }
}

#[test]
fn a_file_that_is_no_usage_log_is_told_in_ten_lines() {
    let folder = Scratch::new();
    let path = folder.path("u.log");
    fs::write(&path, "level=info\n".repeat(1_000)).unwrap();
    let (ended, _, err) = usage(&[path], &[]);
    assert_eq!((ended, err.lines().count()), (Ok(false), 12), "{err}");
    assert!(err.contains("u.log: not read: 990 more lines\nnot read: 0 files, 1000 lines\n"), "{err}");
}

#[test]
fn files_that_cannot_be_read_are_told() {
    let folder = Scratch::new();
    let log = folder.path("u.log");
    fs::write(&log, text(&[line("ann", 1)])).unwrap();
    fs::write(folder.path("u.log.1.gz"), b"\x1f\x8b\x08\0").unwrap();
    std::os::unix::fs::symlink("/nonexistent", folder.path("u.log.2")).unwrap();
    let (ended, out, err) = usage(&[log], &["--format", "csv"]);
    assert_eq!(ended, Ok(false));
    assert!(out.contains("ann,1,0,0,0,1,0,0,1"), "{out}");
    assert!(err.contains("u.log.1.gz: not read: it is compressed: `zcat FILE | tiergate usage -` reads it\n"), "{err}");
    assert!(err.contains("u.log.2: not read: No such file or directory"), "{err}");
    assert!(err.ends_with("not read: 2 files, 0 lines\n"), "{err}");
    let empty = Scratch::new();
    let (ended, out, _) = usage(std::slice::from_ref(&empty.0), &[]);
    assert_eq!((ended, &*out), (Err("nothing was summed: there is no usage log that can be read".to_owned()), ""));
}

#[test]
fn sums_are_right_beyond_what_a_line_can_hold() {
    let largest = text(&[line("ann", i64::MAX)]).repeat(4);
    let out = of(&largest, &["--format", "csv"]);
    let (half, all) = (4 * i128::from(i64::MAX / 2), 4 * i128::from(i64::MAX));
    assert_eq!(out.lines().nth(1).unwrap(), format!("ann,4,0,0,{half},{},0,0,{all}", all - half));
    let page = of(&largest, &["--format", "json"]);
    assert!(page.contains(&format!("\"total\": {all}")), "{page}");
    // The smallest is one more from 0.
    let least = of(&text(&[Line { total: i64::MIN, ..line("ann", 0) }]).repeat(2), &["--format", "csv"]);
    assert!(least.contains(&(2 * i128::from(i64::MIN)).to_string()), "{least}");
}

#[test]
fn no_name_is_a_formula_or_breaks_a_row() {
    for (name, cell) in [
        ("system:serviceaccount:llm:ann", "system:serviceaccount:llm:ann"),
        ("ünï@example.org", "ünï@example.org"),
        ("", ""),
        ("=1+1", "\"'=1+1\""),
        ("+1", "\"'+1\""),
        ("-1", "\"'-1\""),
        ("@SUM(A1)", "\"'@SUM(A1)\""),
        ("\t=1", "\"'\t=1\""),
        ("＝1", "\"'＝1\""),
        ("a;=1", "\"a;=1\""),
        ("a,b", "\"a,b\""),
        ("a \"b\"\nc", "\"a \"\"b\"\"\nc\""),
        (" a", "\" a\""),
    ] {
        let out = of(&text(&[line(name, 1)]), &["--format", "csv"]);
        let expected =
            format!("user,calls,estimated,unsettled,input,output,cached,reasoning,total\n{cell},1,0,0,0,1,0,0,1\n");
        assert_eq!(out, expected);
    }
}

#[test]
fn no_name_talks_to_the_terminal_or_widens_the_table() {
    let long = "x".repeat(5_000);
    let out = of(&text(&[line("a\u{1b}[2J\nb\u{202e}", 1), line(&long, 2), line("", 4)]), &[]);
    let names: Vec<&str> = out.lines().map(|line| line.split_whitespace().next().unwrap()).collect();
    assert_eq!(names, ["user", "-", "a\\u{1b}[2J\\nb\\u{202e}", &format!("{}…", "x".repeat(59)), "(all)"]);
    assert!(out.lines().all(|line| line.chars().count() < 140), "{out}");
    // Whoever wants the names has them from the others.
    let page: Value = serde_json::from_str(&of(&text(&[line(&long, 2)]), &["--format", "json"])).unwrap();
    assert_eq!(page["rows"][0]["user"], long);
}

/// As `| head` does, and as a full disk.
#[test]
fn a_reader_who_has_gone_is_no_error_and_a_full_disk_is_one() {
    struct Out(io::ErrorKind);
    impl Write for Out {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(self.0.into())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let folder = Scratch::new();
    let path = folder.path("u.log");
    fs::write(&path, text(&[line("ann", 1)])).unwrap();
    for format in ["table", "csv", "json"] {
        let words = ["tiergate", "usage", "--format", format, path.to_str().unwrap()];
        let Command::Usage(args) = Cli::try_parse_from(words).unwrap().command else { panic!("it sums") };
        assert!(run(&args, &mut Out(io::ErrorKind::BrokenPipe), &mut Vec::new()).unwrap(), "{format}");
        let full = run(&args, &mut Out(io::ErrorKind::StorageFull), &mut Vec::new());
        assert!(matches!(full, Err(TallyError::Output(_))), "{format}");
    }
}
