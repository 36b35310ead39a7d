use super::*;

/// Method, scheme, host, path and headers.
fn told(line: &str) -> (String, String, String, String, Vec<(String, String)>) {
    let Sent { method, scheme, host, path, headers, .. } = parse(line).unwrap();
    (method, scheme, host, path, headers)
}

#[test]
fn a_line_is_the_request_that_curl_would_send() {
    let json = ("content-type", "application/json");
    let bearer = ("authorization", "Bearer a.b.c");
    for (line, method, host, path, headers) in [
        ("curl http://h/llm/m", "GET", "h", "/llm/m", vec![]),
        ("/usr/bin/curl h", "GET", "h", "/", vec![]),
        ("curl https://h:443/a", "GET", "h", "/a", vec![]),
        ("curl https://h:8443/a#b", "GET", "h:8443", "/a", vec![]),
        ("curl 'http://h?a=b'", "GET", "h", "/?a=b", vec![]),
        ("curl -d '{}' http://h/a", "POST", "h", "/a", vec![]),
        ("curl http://h/a --data-binary @body.json -o out -w '%{http_code}'", "POST", "h", "/a", vec![]),
        ("curl -sSkXPUT --url http://h/a", "PUT", "h", "/a", vec![]),
        ("curl -G -d a=b --data-urlencode c=d 'http://h/a?x=y'", "GET", "h", "/a?x=y&a=b&c=d", vec![]),
        ("curl -I http://h/a", "HEAD", "h", "/a", vec![]),
        ("curl -T file http://h/a", "PUT", "h", "/a", vec![]),
        ("curl -F a=@b http://h/a", "POST", "h", "/a", vec![]),
        ("curl --json '{}' http://h/a", "POST", "h", "/a", vec![json, ("accept", "application/json")]),
        ("curl -H 'Authorization: Bearer a.b.c' http://h/a", "GET", "h", "/a", vec![bearer]),
        ("curl --oauth2-bearer a.b.c http://h/a", "GET", "h", "/a", vec![bearer]),
        ("curl -u me:secret http://h/a", "GET", "h", "/a", vec![("authorization", "Basic (credentials)")]),
        ("curl http://me:secret@h/a", "GET", "h", "/a", vec![("authorization", "Basic (credentials)")]),
        ("curl -H Host:models -H Accept: -H 'X-Empty;' http://h/a", "GET", "models", "/a", vec![("x-empty", "")]),
        (
            "curl -A agent -e from -b a=b http://h",
            "GET",
            "h",
            "/",
            vec![("user-agent", "agent"), ("referer", "from"), ("cookie", "a=b")],
        ),
        ("curl http://h/a/./b/../c", "GET", "h", "/a/c", vec![]),
        ("curl http://h/../a/..", "GET", "h", "/", vec![]),
        ("curl --path-as-is http://h/a/../c", "GET", "h", "/a/../c", vec![]),
        ("curl http://h//a//b", "GET", "h", "//a//b", vec![]),
        ("curl \\\n  -X POST \\\n  http://h/a", "POST", "h", "/a", vec![]),
        ("curl -- http://h/a", "GET", "h", "/a", vec![]),
    ] {
        let headers: Vec<_> = headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let (got_method, _, got_host, got_path, got_headers) = told(line);
        assert_eq!((&*got_method, &*got_host, &*got_path, got_headers), (method, host, path, headers), "{line}");
    }
    assert_eq!(told("curl https://h/").1, "https");
}

#[test]
fn what_cannot_be_followed_is_named_without_its_value() {
    for (line, expected) in [
        ("", CurlError::NotCurl),
        ("wget http://h", CurlError::NotCurl),
        ("curl 'http://h", CurlError::Words),
        ("curl", CurlError::NoUrl),
        ("curl -X POST", CurlError::NoUrl),
        ("curl http://h http://i", CurlError::SeveralUrls),
        ("curl --next http://h", CurlError::Unknown("--next".to_owned())),
        ("curl --oauth2-bearer=secret http://h", CurlError::Unknown("--oauth2-bearer".to_owned())),
        ("curl -sZ http://h", CurlError::Unknown("-Z".to_owned())),
        ("curl http://h -H", CurlError::NoValue("-H".to_owned())),
        ("curl http://h --url", CurlError::NoValue("--url".to_owned())),
        ("curl -H @headers http://h", CurlError::Header("@headers".to_owned())),
        ("curl -H 'Authorization secret' http://h", CurlError::Header("Authorization".to_owned())),
    ] {
        assert_eq!(parse(line).unwrap_err(), expected, "{line}");
    }
}

proptest::proptest! {
    #[test]
    fn no_line_panics(line in "curl( (-|--)?[a-zA-Z@:;/?#%.\\\\'\"=é -]{0,24}){0,6}") {
        if let Ok(sent) = parse(&line) {
            proptest::prop_assert!(sent.path.starts_with('/'), "{}", sent.path);
        }
    }
}
