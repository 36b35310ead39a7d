//! Secrets in text of others: what looks like one is not shown.
//!
//! Names of models and ordinary words are never taken for one: a key has a known beginning and a length and mix of characters
//! that names do not have.

use std::borrow::Cow;
use std::sync::LazyLock;

use base64::Engine;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use regex::{Captures, Regex};

/// What stands in a secret's place.
const HIDDEN: &str = "(a secret)";

/// The first alternative that fits is taken. Names of its groups say what is left standing and what is looked at more closely.
static SECRET: LazyLock<Regex> = LazyLock::new(|| {
    let pattern = [
        // `password=…`, also percent-encoded. A value goes on over slashes: Base64 has them.
        r#"(?<named>(?:password|passwd|passphrase|pwd|secret|token|api[_-]?key|access[_-]?key|authorization)(?:=|%3d))(?<value>"[^"]*"|'[^']*'|[^\s&;,"'`)}\]]+)"#,
        // A JSON Web Token begins with `{"` in Base64, and ends with the segment of the path, or the word, that it is in. What
        // is before it is left: looking for it from every letter on would take time that grows with the square of the length.
        r#"(?-i:eyJ)[^\s/&;,"'`)]*"#,
        r"(?<basic>(?-u:\b)basic(?: |%20|\+)+)(?<pair>[a-z0-9+/_-]{2,}={0,2})",
        r"(?<bearer>(?-u:\b)bearer(?: |%20|\+)+)(?<opaque>[a-z0-9._~+/-]{16,}=*)",
        // OpenAI and whoever copies it, Hugging Face, Groq, NVIDIA, GitHub, GitLab, Slack, OpenShift, Google, AWS.
        r"(?-u:\b)(?<key>(?-i:sk-|sk_|hf_|gsk_|nvapi-|gh[opsur]_|github_pat_|glpat-|xox[abprs]-|sha256~|AIza|AKIA|ASIA)(?<random>[a-z0-9_-]{16,}))",
        // `https://user:password@host`
        r"(?<scheme>://)[^\s/@:]*:[^\s/@]+@",
    ];
    let pattern = format!("(?i){}", pattern.join("|"));
    #[expect(clippy::expect_used, reason = "the pattern is a constant, and a test uses it")]
    Regex::new(&pattern).expect("a regular expression")
});

/// With or without padding, in either alphabet.
const BASE64: [GeneralPurpose; 2] = {
    let config = GeneralPurposeConfig::new()
        .with_decode_padding_mode(DecodePaddingMode::Indifferent)
        .with_decode_allow_trailing_bits(true);
    [GeneralPurpose::new(&alphabet::STANDARD, config), GeneralPurpose::new(&alphabet::URL_SAFE, config)]
};

/// `text` without what looks like a secret: JSON Web Tokens, API keys by how they begin, values of names such as `password=`,
/// Basic and Bearer credentials, and those in URLs.
#[must_use]
pub fn masked(text: &str) -> Cow<'_, str> {
    SECRET.replace_all(text, |found: &Captures<'_>| {
        let group = |name| found.name(name).map(|group| group.as_str());
        let whole = found.get_match().as_str();
        match (group("named"), group("value"), group("basic"), group("pair"), group("bearer"), group("opaque")) {
            (Some(_), Some(value), ..) if is_placeholder(value) => whole.to_owned(),
            (Some(name), ..) => format!("{name}{HIDDEN}"),
            (_, _, Some(_), Some(pair), ..) if !is_pair(pair) => whole.to_owned(),
            (_, _, Some(scheme), ..) => format!("{scheme}{HIDDEN}"),
            (.., Some(_), Some(opaque)) if !opaque.bytes().any(|byte| byte.is_ascii_digit()) => whole.to_owned(),
            (.., Some(scheme), _) => format!("{scheme}{HIDDEN}"),
            _ if group("random").is_some_and(|random| !is_random(random)) => whole.to_owned(),
            _ if group("scheme").is_some() => format!("://{HIDDEN}@"),
            _ => HIDDEN.to_owned(),
        }
    })
}

/// A variable, a blank to fill in, a comparison (`token=="x"`), or what is hidden already.
fn is_placeholder(value: &str) -> bool {
    value.starts_with(['$', '<', '=', '(', '{'])
}

/// `name:password` in Base64 (RFC 7617), which `basic authentication` is not; be it before the next segment of a path.
fn is_pair(text: &str) -> bool {
    let decoded = |text: &str| BASE64.iter().find_map(|base64| base64.decode(text).ok());
    let is_one = |text| decoded(text).is_some_and(|bytes| bytes.contains(&b':') && std::str::from_utf8(&bytes).is_ok());
    is_one(text) || text.split('/').next().is_some_and(is_one)
}

/// A word of 16 letters and digits and more, or small letters, capitals and digits in one. Names that Kubernetes takes have no
/// capitals, and those of models have shorter words.
fn is_random(text: &str) -> bool {
    let has = |of: fn(&u8) -> bool| text.as_bytes().iter().any(of);
    let mixed = has(u8::is_ascii_lowercase) && has(u8::is_ascii_uppercase) && has(u8::is_ascii_digit);
    mixed || text.split(['-', '_']).any(|word| word.len() >= 16)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_not_shown_wherever_they_stand() {
        for (text, expected) in [
            ("/llm/eyJhbGciOi.payload.signature/v1", "/llm/(a secret)/v1"),
            ("/llm/x-eyJhbGciOi.p.%2es/v1", "/llm/x-(a secret)/v1"),
            ("token=eyJhbGciOi.p.s&a=1", "token=(a secret)&a=1"),
            ("/v1/sk-proj-Ab3_9xK-abcdefgh/chat", "/v1/(a secret)/chat"),
            ("/v1/sk-ant-api03-AbCd3fGh1jKlMn0p/chat", "/v1/(a secret)/chat"),
            ("/v1/sk-0123456789abcdef/chat", "/v1/(a secret)/chat"),
            ("sk-or-v1-00112233445566778899aabbccddeeff", "(a secret)"),
            ("key hf_AbCdEfGhIjKlMnOpQr here", "key (a secret) here"),
            ("gsk_abcdefghijklmnopqrst", "(a secret)"),
            ("ghp_abcdefghijklmnopqrstuvwxyz0123456789", "(a secret)"),
            ("sha256~AbCdEfGhIjKlMnOp-QrStUv", "(a secret)"),
            ("AKIAIOSFODNN7EXAMPLE", "(a secret)"),
            ("/a/ASIAIOSFODNN7EXAMPLE/b", "/a/(a secret)/b"),
            ("AIzaSyA-1234567890abcdefghijklmnopqrstu", "(a secret)"),
            ("password=hunter2", "password=(a secret)"),
            ("/login;password=hunter2;a=b", "/login;password=(a secret);a=b"),
            ("?a=b&PASSWORD=x&c=d", "?a=b&PASSWORD=(a secret)&c=d"),
            ("/x/password%3Dhunter2", "/x/password%3D(a secret)"),
            ("db_password='two words' x", "db_password=(a secret) x"),
            ("api_key=abc,api-key=def;apikey=ghi", "api_key=(a secret),api-key=(a secret);apikey=(a secret)"),
            ("access_token=ab/cd==", "access_token=(a secret)"),
            ("x-api-key=abc", "x-api-key=(a secret)"),
            ("client_secret=s3 ok", "client_secret=(a secret) ok"),
            ("Authorization: Basic dXNlcjpwYXNz", "Authorization: Basic (a secret)"),
            ("/a/basic%20YTpi/b", "/a/basic%20(a secret)"),
            ("Bearer abcdefghijklmnop0", "Bearer (a secret)"),
            ("/proxy/https://me:pa55@host/x", "/proxy/https://(a secret)@host/x"),
            ("sk-0123456789abcdef und sk-fedcba9876543210", "(a secret) und (a secret)"),
            ("ünï password=é x", "ünï password=(a secret) x"),
        ] {
            assert_eq!(masked(text), expected, "{text}");
            assert_eq!(masked(&masked(text)), expected, "twice: {text}");
        }
    }

    #[test]
    fn words_and_names_of_models_stay() {
        for text in [
            "",
            "/llm/qwen3/v1/chat/completions",
            "/llm/sk-learn-7b/v1",
            "/llm/sk-learn-gradient-boosting-7b-instruct/v1",
            "/llm/task-0123456789abcdef/v1",
            "/llm/meta-llama-3-70b-instruct-awq-int4/v1",
            "/llm/hf_llama-3-8b-instruct-q4/v1",
            "system:serviceaccount:maas-default-gateway-tier-premium:jland-78028f6d",
            "max_tokens=100&token_type=x&tokens=5",
            "the token has expired: password, secret, api_key",
            "basic authentication, basic questions and basics",
            "Bearer authentication-is-required",
            "Bearer realm=\"tiergate\"",
            "auth.identity.token==\"x\"",
            "curl -H 'token=$TOKEN' --token=<token>",
            "AKIA and ASIA, a sketch, risk-averse",
            "sha256:0123456789abcdef0123456789abcdef",
            "https://host:8080/a@b",
            "00c0ffee-0000000000000001",
        ] {
            assert_eq!(masked(text), text);
        }
    }

    #[test]
    fn hostile_text_takes_time_that_grows_with_its_length() {
        let times = |times: usize| {
            let parts = ["-AKIA0123456789ABCDEF.", "basic ", "password=\"", "eyJ://a:b", "bearer+"];
            let texts = parts.map(|part| part.repeat(times));
            let started = std::time::Instant::now();
            texts.iter().for_each(|text| drop(masked(text)));
            started.elapsed()
        };
        let (few, many) = (times(500), times(16_000));
        // 32 times as much; the square would be a thousand times.
        assert!(many < few * 200 + std::time::Duration::from_millis(50), "{few:?}, {many:?}");
    }
}
