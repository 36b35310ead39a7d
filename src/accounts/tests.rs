use super::*;

fn printed(print: fn(&Value, &mut Vec<u8>) -> io::Result<()>, found: &Value) -> String {
    let mut out = Vec::new();
    print(found, &mut out).unwrap();
    String::from_utf8(out).unwrap()
}

#[test]
fn names_do_nothing_to_the_terminal() {
    let limit = json!({"name": "a/b/c", "limit": 5, "used": 3, "left": 2, "reset_seconds": 72});
    let account = json!({"account": "0f", "values": ["a\u{1b}[2J\nb", "x".repeat(90)], "cut": true, "limits": [limit]});
    let text = printed(print::accounts, &json!({"accounts": [account], "next": "0f"}));
    let lines: Vec<&str> = text.lines().collect();
    assert!(lines[1].starts_with("a\\u{1b}[2J\\nb, xxx") && lines[1].contains("…  a/b/c     3     2   5"), "{text}");
    assert_eq!((lines.len(), lines[3]), (4, "there may be more: --after 0f"), "{text}");
}

#[test]
fn what_is_not_known_is_said_so() {
    let account = json!({"account": "0f", "values": null, "limits": []});
    let text = printed(print::accounts, &json!({"accounts": [account], "next": null}));
    assert!(text.contains("(forgotten)  -"), "{text}");
    assert_eq!(printed(print::accounts, &json!({"accounts": []})), "no account\n");
    let never = json!({"name": "a/b/c", "limit": 0, "used": 0, "left": 0, "reset_seconds": 0, "retry_after_seconds": null,
                       "window_seconds": 60, "route": "ns/r", "shadow": true, "algorithm": "token-bucket"});
    let text =
        printed(print::account, &json!({"account": "0f", "values": ["a/b/c"], "shared": true, "limits": [never]}));
    assert!(
        text.contains("(everybody) a/b/c") && text.contains("a/b/c on ns/r (shadow)") && text.ends_with("never\n"),
        "{text}"
    );
}

#[test]
fn a_search_is_sent_as_it_is_meant() {
    let (admin, output) = (String::new(), LimitsOutput::Table);
    let list = ListAccounts {
        search: Some("a:/{}\n%ü &".to_owned()),
        after: None,
        most: std::num::NonZeroUsize::MIN,
        admin: AdminArgs { admin, output },
    };
    assert_eq!(path(&list), "/limits?most=1&search=a%3A%2F%7B%7D%0A%25%C3%BC%20%26");
}
