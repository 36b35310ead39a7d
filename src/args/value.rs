//! What the values of flags and variables have to be. Each error says what would have been right.

use std::net::SocketAddr;
use std::num::NonZeroU64;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use jiff::Timestamp;
use jiff::civil::Date;
use jiff::tz::TimeZone;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;

use super::Admin;
use crate::clock::Micros;
use crate::gate::LimitsPath;
use crate::manifest::parse_duration;
use crate::request::{is_dns1123_label, is_dns1123_subdomain};

/// What is watched or read has to be there: `serve` does not wait for it.
pub(super) fn folder(text: &str) -> Result<PathBuf, String> {
    there(text, "a folder", Path::is_dir)
}

pub(super) fn file(text: &str) -> Result<PathBuf, String> {
    there(text, "a file", |path| !path.is_dir())
}

/// What is appended to need not be there yet.
pub(super) fn appended(text: &str) -> Result<PathBuf, String> {
    let path = PathBuf::from(text);
    match text.is_empty() || path.is_dir() {
        true => Err("has to be a file: it is something else".to_owned()),
        false => Ok(path),
    }
}

/// Folders and files that are read once; `-` is standard input.
pub(super) fn manifests(text: &str) -> Result<PathBuf, String> {
    if text == "-" { Ok(PathBuf::from(text)) } else { there(text, "a folder or file", |_| true) }
}

fn there(text: &str, what: &str, is_one: fn(&Path) -> bool) -> Result<PathBuf, String> {
    let path = Path::new(text);
    let wrong = |why: &str| format!("has to be {what}: {why}");
    path.metadata().map_err(|error| wrong(&error.to_string()))?;
    if is_one(path) { Ok(path.to_owned()) } else { Err(wrong("it is something else")) }
}

pub(super) fn namespaced(text: &str) -> Result<String, String> {
    match text.split_once('/') {
        Some((namespace, name)) if is_dns1123_label(namespace) && is_dns1123_subdomain(name) => Ok(text.to_owned()),
        _ => Err("has to be namespace/name, of an object's lower-case names".to_owned()),
    }
}

/// The beginning of namespaces' names.
pub(super) fn instance(text: &str) -> Result<String, String> {
    let why = "has to be a name of lower-case letters, digits and inner hyphens, 63 at most";
    if is_dns1123_label(text) { Ok(text.to_owned()) } else { Err(why.to_owned()) }
}

pub(super) fn url(text: &str) -> Result<String, String> {
    let rest = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"));
    let is_host = |rest: &str| !rest.is_empty() && !rest.starts_with('/') && rest.bytes().all(|b| b.is_ascii_graphic());
    let why = "has to be a URL such as https://kubernetes.default.svc";
    if rest.is_some_and(is_host) { Ok(text.to_owned()) } else { Err(why.to_owned()) }
}

pub(super) fn address(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| "has to be an address and a port, such as 127.0.0.1:8080 or [::]:8080".to_owned())
}

pub(super) fn address_or_off(text: &str) -> Result<Admin, String> {
    if text == "off" {
        return Ok(Admin(None));
    }
    let address = address(text).map_err(|_| "has to be an address such as 127.0.0.1:8081, or off".to_owned());
    address.map(|address| Admin(Some(address)))
}

/// Where the admin port of a serving process is.
pub(super) fn admin_url(text: &str) -> Result<String, String> {
    let authority = text.strip_prefix("http://").map(|rest| rest.strip_suffix('/').unwrap_or(rest));
    let is_authority = |text: &str| {
        let port = text.rsplit_once(':').filter(|(host, _)| !host.is_empty());
        let is_port = port.is_some_and(|(_, port)| port.parse::<u16>().is_ok());
        is_port && text.bytes().all(|byte| byte.is_ascii_graphic() && !b"/?#@".contains(&byte))
    };
    let why = "has to be a URL such as http://127.0.0.1:8081";
    if authority.is_some_and(is_authority) { Ok(text.to_owned()) } else { Err(why.to_owned()) }
}

pub(super) fn account_id(text: &str) -> Result<String, String> {
    let is_id = text.len() == 32 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    let why = "has to be an account's id, 32 hexadecimal digits";
    if is_id { Ok(text.to_owned()) } else { Err(why.to_owned()) }
}

pub(super) fn limits_path(text: &str) -> Result<LimitsPath, String> {
    LimitsPath::new(text).ok_or_else(|| "has to be a path such as /v1/limits, or off".to_owned())
}

/// At least 1.
pub(super) fn number<T: TryFrom<NonZeroU64>>(text: &str) -> Result<T, String> {
    let number = text.parse::<NonZeroU64>().ok().and_then(|number| T::try_from(number).ok());
    number.ok_or_else(|| "has to be a whole number, 1 at least".to_owned())
}

/// More than nothing, and no more than all.
pub(super) fn part(text: &str) -> Result<f64, String> {
    let part = text.parse().ok().filter(|part| *part > 0.0 && *part <= 1.0);
    part.ok_or_else(|| "has to be a number above 0 and up to 1, such as 0.9".to_owned())
}

pub(super) fn margin(text: &str) -> Result<f32, String> {
    let margin = text.parse().ok().filter(|margin| (0.0..=100.0).contains(margin));
    margin.ok_or_else(|| "has to be a number from 0 to 100, such as 0.3".to_owned())
}

pub(super) fn number_or_zero(text: &str) -> Result<usize, String> {
    text.parse().map_err(|_| "has to be a whole number, or 0".to_owned())
}

/// At least 1; with a unit of which each is 1,024 of the one before.
pub(super) fn bytes(text: &str) -> Result<u64, String> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at_checked(digits).unwrap_or_default();
    let unit = ["", "KiB", "MiB", "GiB", "TiB"]
        .iter()
        .zip(0..)
        .find_map(|(name, power)| (*name == unit).then_some(1 << (10 * power)));
    let bytes = unit.and_then(|unit: u64| number.parse::<u64>().ok()?.checked_mul(unit)).filter(|bytes| *bytes > 0);
    bytes.ok_or_else(|| "has to be a number of bytes such as 65536, 512KiB, 100MiB or 1GiB".to_owned())
}

pub(super) fn duration(text: &str) -> Result<Duration, String> {
    match parse_duration(text) {
        Some(duration) if !duration.is_zero() => Ok(duration),
        _ => Err("has to be a duration such as 90s, 10m or 1h30m".to_owned()),
    }
}

/// As long as it is remembered which reservations were settled.
pub(super) fn up_to_a_day(text: &str) -> Result<Duration, String> {
    const DAY: Duration = Duration::from_secs(24 * 3600);
    duration(text)
        .ok()
        .filter(|time| *time <= DAY)
        .ok_or_else(|| "has to be a duration up to 24h, such as 2h".to_owned())
}

pub(super) fn duration_or_none(text: &str) -> Result<Duration, String> {
    parse_duration(text).ok_or_else(|| "has to be a duration such as 500ms, 2s or 0s".to_owned())
}

/// A date in UTC, a time, or a duration before now.
pub(super) fn moment(text: &str) -> Result<Micros, String> {
    let ago = parse_duration(text).and_then(|ago| Timestamp::now().checked_sub(ago).ok());
    let date =
        || Some(text.parse::<Date>().ok().filter(|_| text.len() == 10)?.to_zoned(TimeZone::UTC).ok()?.timestamp());
    let time = ago.or_else(date).or_else(|| text.parse::<Timestamp>().ok());
    let micros = time.and_then(|time| u64::try_from(time.as_microsecond()).ok());
    let why = "has to be a date such as 2026-11-29, a time such as 2026-11-29T12:00:00Z, or a duration ago such as 24h";
    micros.map(Micros).ok_or_else(|| why.to_owned())
}

/// A word by itself has to be a level: the filter would take any other for the name of a module, and log nothing else.
pub(super) fn directives(text: &str) -> Result<String, String> {
    log_directives(text).map(|_| text.to_owned())
}

/// What `--log` says, or the file that it names.
///
/// # Errors
///
/// The file cannot be read, or these are no directives; the message says what would be right.
pub fn log_directives(text: &str) -> Result<String, String> {
    let text = match text.strip_prefix('@') {
        None => text.to_owned(),
        Some(path) => match std::fs::read_to_string(path) {
            Ok(text) => text.trim().to_owned(),
            Err(error) => return Err(format!("cannot read `{path}`: {error}")),
        },
    };
    // To the filter no word is a level too.
    let is_level = |word: &str| !word.is_empty() && LevelFilter::from_str(word).is_ok();
    let fine = text.split(',').map(str::trim).all(|word| word.contains(['=', '[']) || is_level(word))
        && EnvFilter::try_new(&text).is_ok();
    let why = "has to be a level (off, error, warn, info, debug or trace), or directives such as tiergate=debug";
    if fine { Ok(text) } else { Err(why.to_owned()) }
}
