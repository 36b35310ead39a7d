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

/// What a shell would make of a line is not known; what is taken in its place is said.
#[test]
fn what_only_a_shell_could_tell_is_noted() {
    let (printed, held) = ("is what a command prints", "is what a variable holds");
    for (line, path, notes) in [
        ("curl http://h/a -H \"Authorization: Bearer $(oc whoami -t)\"", "/a", &[][..]),
        ("curl http://h/a -d \"$(cat \"my file\")\" -d @body.json", "/a", &[]),
        ("curl http://h/a -d '$(kept) | `as` $it; stands'", "/a", &[]),
        ("curl http://h/a 2>/dev/null > out 2>&1 <<< \"a b\"", "/a", &[]),
        ("curl http://h/a;", "/a", &[]),
        ("curl http://h/a | jq -r '.a | .b'", "/a", &["what follows `|` is another command"]),
        ("curl http://h/a && curl http://h/b", "/a", &["what follows `&&`"]),
        ("curl http://h/a || echo no", "/a", &["what follows `||`"]),
        ("curl http://h/a; echo", "/a", &["what follows `;`"]),
        ("curl http://h/a\necho", "/a", &["what follows the end of the line"]),
        ("curl http://h/a?b=c&d=e", "/a?b=c", &["put the URL into quotes"]),
        ("curl \"http://h/a?b=c&d=e\"", "/a?b=c&d=e", &[]),
        ("curl http://h/$(echo a)/b", "/unknown/b", &["a part of the URL", printed]),
        ("curl http://h/`echo a`/b", "/unknown/b", &["a part of the URL", printed]),
        ("curl \"$HOST/a/${MODEL:-my model}\"", "/a/${MODEL:-my_model}", &["a part of the URL", held]),
        ("curl http://h/a -X $METHOD", "/a", &["a part of the method", held]),
        ("curl http://h/a -H \"X-Team: $(id -un)\"", "/a", &["a part of header `x-team`", printed]),
        ("curl -G http://h/a -d @q -d \"b=$B\"", "/a?b=$B", &["query is in a file", "a part of the query", held]),
        ("curl -G http://h/a --data-urlencode q@file", "/a", &["query is in a file"]),
    ] {
        let sent = parse(line).unwrap_or_else(|error| panic!("{line}: {error}"));
        let told = sent.unknown.join("\n");
        assert_eq!(sent.path, path, "{line}");
        assert!(notes.iter().all(|note| told.contains(note)) && notes.is_empty() == told.is_empty(), "{line}: {told}");
    }
    assert_eq!(parse("curl $URL").unwrap_err(), CurlError::UnknownUrl(HELD));
    assert_eq!(parse("curl http://$(cat host)").unwrap_err(), CurlError::UnknownUrl(PRINTED));
    assert_eq!(parse("curl http://h/$(a").unwrap_err(), CurlError::Words);
}

proptest::proptest! {
    #[test]
    fn no_line_panics(line in "curl( (-|--)?[a-zA-Z@:;/?#%.$(){}<>|&`\\\\'\"=é\n -]{0,24}){0,6}") {
        if let Ok(sent) = parse(&line) {
            proptest::prop_assert!(sent.path.starts_with('/'), "{}", sent.path);
        }
    }
}
