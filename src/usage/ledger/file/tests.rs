use super::*;
use crate::test_util::Scratch;

const START: Micros = Micros(1_800_000_000_000_000);
const AGE: Duration = Duration::from_secs(3600);

/// A line of 43 bytes.
fn line(serial: u32) -> String {
    format!("{{\"time\":\"2027-01-15T08:00:00.000Z\",\"n\":{}}}\n", serial + 10)
}

fn options(path: &Path) -> Options {
    Options { path: path.to_owned(), max_size: 100, max_age: AGE, keep: 0, waits: Waits::default() }
}

fn open(path: &Path) -> LogFile {
    LogFile::open(options(path), START).unwrap()
}

/// Appends what has to be taken whole.
fn append(file: &mut LogFile, text: &str, now: Micros) {
    let Appended { taken, trouble } = file.append(text.as_bytes(), now);
    assert!(taken == text.len() && trouble.is_none(), "{taken} {trouble:?}");
}

fn later(duration: Duration) -> Micros {
    START.saturating_add(duration)
}

/// The files of the folder, with what stands in them.
fn files(folder: &Path) -> Vec<(String, String)> {
    let read =
        |path: PathBuf| (path.file_name().unwrap().to_str().unwrap().to_owned(), fs::read_to_string(&path).unwrap());
    let mut files: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| read(entry.unwrap().path())).collect();
    files.sort();
    files
}

fn named(rows: &[(&str, String)]) -> Vec<(String, String)> {
    rows.iter().map(|(name, text)| ((*name).to_owned(), text.clone())).collect()
}

#[test]
fn a_full_file_is_rotated_before_it_would_be_larger() {
    let folder = Scratch::new();
    let mut file = open(&folder.path("u.log"));
    for serial in 0..5 {
        append(&mut file, &line(serial), START);
    }
    let expected = named(&[
        ("u.log", line(4)),
        ("u.log.20270115T080000.000Z", line(0) + &line(1)),
        ("u.log.20270115T080000.001Z", line(2) + &line(3)),
    ]);
    assert_eq!(files(&folder.0), expected, "two of 43 bytes are no more than 100, and no name is taken twice");
}

#[test]
fn a_line_that_is_larger_than_a_file_is_alone_in_one() {
    let folder = Scratch::new();
    let (mut file, long) = (open(&folder.path("u.log")), "x".repeat(500) + "\n");
    append(&mut file, &line(0), START);
    append(&mut file, &long, START);
    append(&mut file, &line(1), START);
    let texts: Vec<String> = files(&folder.0).into_iter().map(|(_, text)| text).collect();
    assert_eq!(texts, [line(1), line(0), long]);
}

/// Whether lines come then or not, and whatever process wrote the first.
#[test]
fn an_old_file_is_rotated_and_an_empty_one_is_not() {
    let folder = Scratch::new();
    let path = folder.path("u.log");
    let mut file = open(&path);
    assert_eq!(file.due(), None);
    append(&mut file, "", later(AGE * 2));
    append(&mut file, &line(0), START);
    let mut again = open(&path);
    assert_eq!(again.due(), Some(later(AGE)), "by its first line");
    append(&mut again, "", later(AGE - Duration::from_millis(1)));
    assert_eq!(files(&folder.0), named(&[("u.log", line(0))]));
    append(&mut again, "", later(AGE));
    assert_eq!(files(&folder.0), named(&[("u.log", String::new()), ("u.log.20270115T090000.000Z", line(0))]));
}

#[test]
fn of_rotated_files_the_newest_are_kept_and_nothing_else_is_removed() {
    let folder = Scratch::new();
    let strangers =
        ["u.log.1", "u.log.20270115T080000.000Z.gz", "u.logs", "other.log.20270115T080000.000Z", "u.log.2027"];
    strangers.iter().for_each(|name| fs::write(folder.path(name), "").unwrap());
    let mut file = LogFile::open(Options { keep: 2, ..options(&folder.path("u.log")) }, START).unwrap();
    for serial in 0..9 {
        append(&mut file, &line(serial), later(Duration::from_secs(serial.into())));
    }
    let left: Vec<String> = files(&folder.0).into_iter().map(|(name, _)| name).collect();
    let mut expected =
        [&strangers[..], &["u.log", "u.log.20270115T080006.000Z", "u.log.20270115T080008.000Z"]].concat();
    expected.sort_unstable();
    assert_eq!(left, expected);
}

/// By its name it is the oldest.
#[test]
fn what_was_rotated_is_kept_though_the_clock_was_set_back() {
    let folder = Scratch::new();
    let mut file = LogFile::open(Options { keep: 1, max_size: 1, ..options(&folder.path("u.log")) }, START).unwrap();
    append(&mut file, &line(0), START);
    append(&mut file, &line(1), later(AGE / 2));
    append(&mut file, &line(2), START);
    assert_eq!(files(&folder.0), named(&[("u.log", line(2)), ("u.log.20270115T080000.000Z", line(1))]));
}

#[test]
fn a_file_that_was_moved_away_removed_or_emptied_is_begun_anew() {
    let folder = Scratch::new();
    let path = folder.path("u.log");
    let mut file = open(&path);
    append(&mut file, &line(0), START);
    fs::rename(&path, folder.path("u.log.1")).unwrap();
    append(&mut file, &line(1), START);
    assert_eq!(files(&folder.0), named(&[("u.log", line(1)), ("u.log.1", line(0))]));
    fs::remove_file(&path).unwrap();
    append(&mut file, &line(2), START);
    File::options().write(true).open(&path).unwrap().set_len(0).unwrap();
    append(&mut file, &line(3), START);
    append(&mut file, &line(4), START);
    assert_eq!(files(&folder.0), named(&[("u.log", line(3) + &line(4)), ("u.log.1", line(0))]));
}

#[test]
fn only_its_owner_can_read_it() {
    use std::os::unix::fs::PermissionsExt;
    let folder = Scratch::new();
    let path = folder.path("u.log");
    append(&mut open(&path), &line(0), START);
    assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
}

/// A rotation renames the file, and not a link to it.
#[test]
fn a_link_is_followed_once() {
    let folder = Scratch::new();
    let link = folder.path("link.log");
    std::os::unix::fs::symlink(folder.path("u.log"), &link).unwrap();
    fs::write(folder.path("u.log"), line(0) + &line(1)).unwrap();
    append(&mut open(&link), &line(2), START);
    assert!(link.is_symlink());
    assert_eq!(fs::read_to_string(folder.path("u.log")).unwrap(), line(2));
}

#[test]
fn what_no_line_can_be_appended_to_is_an_error() {
    let folder = Scratch::new();
    let pipe = folder.path("pipe");
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    for (path, why) in [
        (pipe, "it is a pipe, and has to be a file"),
        (folder.0.clone(), "it is a folder, and has to be a file"),
        (folder.path("gone/u.log"), "No such file or directory"),
    ] {
        let error = LogFile::open(options(&path), START).unwrap_err().to_string();
        assert!(error.contains(why), "{error}");
    }
}

/// Wherever a full disk or a crash cuts what is written, every line is read once, and at most one piece is none.
#[test]
fn a_cut_line_is_ended_and_written_again() {
    let whole: String = (0..3).map(line).collect();
    for cut in 0..=whole.len() {
        let folder = Scratch::new();
        let path = folder.path("u.log");
        fs::write(&path, &whole.as_bytes()[..cut]).unwrap();
        let mut file = LogFile::open(Options { max_size: 1_000, ..options(&path) }, START).unwrap();
        let kept = taken(whole.as_bytes(), cut);
        append(&mut file, whole.get(kept..).unwrap(), START);
        append(&mut file, &line(9), START);
        let text = fs::read_to_string(&path).unwrap();
        let is_line = |text: &&str| serde_json::from_str::<serde_json::Value>(text).is_ok();
        let (lines, pieces): (Vec<&str>, Vec<&str>) = text.lines().filter(|line| !line.is_empty()).partition(is_line);
        assert_eq!(lines, [0, 1, 2, 9].map(|serial| line(serial).trim_end().to_owned()), "{cut}");
        assert!(pieces.len() <= 1 && text.ends_with('\n'), "{cut}: {text}");
    }
}

/// As a disk that takes so many bytes.
struct Disk(usize);

impl Write for Disk {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let taken = bytes.len().min(self.0);
        self.0 -= taken;
        if taken == 0 { Err(io::ErrorKind::StorageFull.into()) } else { Ok(taken) }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_disk_takes_what_it_has_room_for() {
    let (done, result) = write(&mut Disk(10), &[0; 25]);
    assert_eq!((done, result.unwrap_err().kind()), (10, io::ErrorKind::StorageFull));
    let (done, result) = write(&mut Disk(25), &[0; 25]);
    assert!(done == 25 && result.is_ok());
}

#[test]
fn a_full_device_takes_nothing_and_is_not_rotated() {
    let mut file = open(Path::new("/dev/full"));
    for _ in 0..3 {
        let Appended { taken, trouble } = file.append(line(0).repeat(9).as_bytes(), START);
        let trouble = trouble.unwrap();
        assert_eq!((taken, trouble.doing, trouble.error.kind()), (0, Doing::Writing, io::ErrorKind::StorageFull));
    }
    assert!(Path::new("/dev/full").exists());
}

#[test]
fn a_folder_that_goes_is_told_and_one_that_comes_back_is_used() {
    let folder = Scratch::new();
    let (inner, path) = (folder.path("inner"), folder.path("inner/u.log"));
    fs::create_dir(&inner).unwrap();
    let mut file = open(&path);
    append(&mut file, &line(0), START);
    fs::remove_dir_all(&inner).unwrap();
    let Appended { taken, trouble } = file.append(line(1).as_bytes(), START);
    assert_eq!((taken, trouble.unwrap().doing), (0, Doing::Opening));
    fs::create_dir(&inner).unwrap();
    append(&mut file, &line(1), START);
    assert_eq!(fs::read_to_string(&path).unwrap(), line(1));
}
