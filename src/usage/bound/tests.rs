use super::*;

const CHAT_PATH: &str = "/llm/qwen3/v1/chat/completions";
const COMPLETIONS_PATH: &str = "/llm/qwen3/v1/completions";
const RESPONSES_PATH: &str = "/llm/qwen3/v1/responses";
const MESSAGES_PATH: &str = "/llm/qwen3/v1/messages";
const GEMINI_PATH: &str = "/llm/qwen3/v1beta/models/qwen3:generateContent";
const OLLAMA_PATH: &str = "/llm/qwen3/api/chat";

/// What the bound is beyond the prompt.
fn output(path: &str, body: &str) -> Option<u64> {
    let prompt = (body.len() as u64).div_ceil(4);
    most_tokens(path, Body::whole(body.as_bytes())).map(|most| most - prompt)
}

#[test]
fn each_api_has_its_names() {
    for (path, body, expected) in [
        (CHAT_PATH, r#"{"max_tokens": 20}"#, 20),
        (CHAT_PATH, r#"{"messages": [{"content": "hi"}], "max_completion_tokens": 30, "stream": true}"#, 30),
        (CHAT_PATH, r#"{"n": 8, "max_tokens": 100}"#, 800),
        (COMPLETIONS_PATH, r#"{"prompt": "a", "max_tokens": 20}"#, 20),
        (COMPLETIONS_PATH, r#"{"prompt": "a", "max_tokens": 20, "best_of": 3, "n": 2}"#, 60),
        (COMPLETIONS_PATH, r#"{"prompt": "a", "max_tokens": 20, "max_completion_tokens": 30}"#, 30),
        (COMPLETIONS_PATH, r#"{"prompt": "a", "max_tokens": 30, "max_completion_tokens": 20}"#, 30),
        (RESPONSES_PATH, r#"{"input": "a", "max_output_tokens": 20}"#, 20),
        (MESSAGES_PATH, r#"{"messages": [], "max_tokens": 20, "thinking": {"budget_tokens": 7}}"#, 20),
        (GEMINI_PATH, r#"{"contents": [], "generationConfig": {"maxOutputTokens": 20}}"#, 20),
        (GEMINI_PATH, r#"{"generationConfig": {"topK": 1, "candidateCount": 4, "maxOutputTokens": 20}}"#, 80),
        ("/m/v1beta/models/m:streamGenerateContent", r#"{"generationConfig": {"maxOutputTokens": 9}}"#, 9),
        (OLLAMA_PATH, r#"{"options": {"num_predict": 20, "seed": 1}}"#, 20),
        ("/m/api/generate/", r#"{"prompt": "a", "options": {"num_predict": 5}}"#, 5),
    ] {
        assert_eq!(output(path, body), Some(expected), "{path} {body}");
    }
}

#[test]
fn the_prompt_of_a_bound_is_a_quarter_of_its_bytes() {
    let body = format!(r#"{{"max_tokens": 20, "messages": "{}"}}"#, "a".repeat(4_000));
    assert_eq!(most_tokens(CHAT_PATH, Body::whole(body.as_bytes())), Some(4_033_u64.div_ceil(4) + 20));
}

#[test]
fn of_several_names_the_greatest_counts_and_null_is_none() {
    for (body, expected) in [
        (r#"{"max_tokens": 20, "max_completion_tokens": 30}"#, Some(30)),
        (r#"{"max_tokens": 30, "max_completion_tokens": 20}"#, Some(30)),
        (r#"{"max_tokens": 30, "max_completion_tokens": null}"#, Some(30)),
        (r#"{"max_tokens": 30, "n": null, "best_of": 2}"#, Some(60)),
        (r#"{"max_tokens": null}"#, None),
        (r#"{"n": 3}"#, None),
        ("{}", None),
    ] {
        assert_eq!(output(CHAT_PATH, body), expected, "{body}");
    }
    assert_eq!(output(GEMINI_PATH, r#"{"generationConfig": null}"#), None);
}

/// A server of completions that does not know the name answers as long as it likes.
#[test]
fn a_name_that_completions_do_not_have_bounds_nothing_alone() {
    for value in ["20", "null", "\"20\""] {
        assert_eq!(output(COMPLETIONS_PATH, &format!(r#"{{"max_completion_tokens": {value}}}"#)), None, "{value}");
    }
    assert_eq!(output(CHAT_PATH, r#"{"max_completion_tokens": 20}"#), Some(20));
}

/// A server that is lax takes `"8"` for 8, and -1 for no bound.
#[test]
fn what_is_no_whole_number_above_0_leaves_a_doubt() {
    for value in ["0", "-1", "2.5", "8.0", "1e2", "18446744073709551616", "\"8\"", "true", "[8]", "{}"] {
        for body in [
            format!(r#"{{"max_tokens": {value}}}"#),
            format!(r#"{{"max_tokens": 20, "max_completion_tokens": {value}}}"#),
            format!(r#"{{"max_tokens": 20, "n": {value}}}"#),
        ] {
            assert_eq!(output(CHAT_PATH, &body), None, "{body}");
        }
    }
}

#[test]
fn huge_numbers_make_a_large_bound_and_do_not_wrap() {
    let huge = u64::MAX;
    for body in [
        format!(r#"{{"max_tokens": {huge}}}"#),
        format!(r#"{{"max_tokens": {huge}, "n": {huge}}}"#),
        format!(r#"{{"max_tokens": 2, "n": {huge}}}"#),
    ] {
        assert_eq!(most_tokens(CHAT_PATH, Body::whole(body.as_bytes())), Some(huge), "{body}");
    }
}

#[test]
fn what_is_not_one_json_object_has_no_bound() {
    for body in [
        &b""[..],
        b"null",
        b"20",
        br#"[{"max_tokens": 20}]"#,
        br#"{"max_tokens": 20"#,
        br#"{"max_tokens": 20} {}"#,
        br#"{"max_tokens": 20}x"#,
        br#"{max_tokens: 20}"#,
        br#"{"max_tokens": 20,}"#,
        b"\xef\xbb\xbf{\"max_tokens\": 20}",
        b"\x1f\x8b{\"max_tokens\": 20}",
        b"{\"max_tokens\xff\": 20}",
        b"{\0\"\0n\0\"\0:\x001\0}\0",
        b"max_tokens=20",
    ] {
        assert_eq!(most_tokens(CHAT_PATH, Body::whole(body)), None, "{}", String::from_utf8_lossy(body));
    }
}

#[test]
fn a_name_that_stands_there_twice_leaves_a_doubt() {
    for (path, body) in [
        (CHAT_PATH, r#"{"max_tokens": 20, "max_tokens": 100000}"#),
        (CHAT_PATH, r#"{"max_tokens": 20, "max_tokens": null}"#),
        (CHAT_PATH, r#"{"max_tokens": 20, "max\u005ftokens": 100000}"#),
        (CHAT_PATH, r#"{"max_tokens": 20, "n": 1, "n": 8}"#),
        (GEMINI_PATH, r#"{"generationConfig": {"maxOutputTokens": 20}, "generationConfig": {}}"#),
        (GEMINI_PATH, r#"{"generationConfig": {"maxOutputTokens": 20, "maxOutputTokens": 90}}"#),
    ] {
        assert_eq!(output(path, body), None, "{path} {body}");
    }
    // An escaped name is a name.
    assert_eq!(output(CHAT_PATH, r#"{"max\u005ftokens": 20}"#), Some(20));
    // What the bound does not look at may be anything.
    assert_eq!(output(CHAT_PATH, r#"{"max_tokens": 20, "a": 1, "a": 2, "b": {"max_tokens": 9, "n": 7}}"#), Some(20));
}

#[test]
fn a_name_of_another_api_or_spelling_leaves_a_doubt() {
    for (path, body) in [
        (CHAT_PATH, r#"{"max_tokens": 20, "max_output_tokens": 90}"#),
        (CHAT_PATH, r#"{"max_tokens": 20, "n_predict": 90}"#),
        (CHAT_PATH, r#"{"max_tokens": 20, "n_cmpl": 9}"#),
        (CHAT_PATH, r#"{"max_tokens": 20, "MAX_TOKENS": 90}"#),
        (CHAT_PATH, "{\"max_tokens\": 20, \"max_to\u{212a}en\u{17f}\": 90}"),
        (CHAT_PATH, r#"{"max_tokens": 20, "N": 9}"#),
        (CHAT_PATH, r#"{"max_tokens": 20, "options": {"num_predict": 90}}"#),
        (COMPLETIONS_PATH, r#"{"max_tokens": 20, "Prompt": ["a", "b"]}"#),
        (RESPONSES_PATH, r#"{"max_output_tokens": 20, "max_tokens": 90}"#),
        (MESSAGES_PATH, r#"{"max_tokens": 20, "n": 2}"#),
        (GEMINI_PATH, r#"{"generationConfig": {"maxOutputTokens": 20}, "generation_config": {}}"#),
        (GEMINI_PATH, r#"{"generationConfig": {"maxOutputTokens": 20, "max_output_tokens": 90}}"#),
        (OLLAMA_PATH, r#"{"options": {"num_predict": 20}, "Options": {}}"#),
        (OLLAMA_PATH, r#"{"options": {"num_predict": 20}, "max_tokens": 90}"#),
    ] {
        assert_eq!(output(path, body), None, "{path} {body}");
    }
}

/// Each prompt of a list is answered.
#[test]
fn completions_of_many_prompts_are_as_many_answers() {
    for (prompt, expected) in [
        (r#""a""#, Some(20)),
        ("null", Some(20)),
        (r#"["a", "b", "c"]"#, Some(60)),
        ("[1, 2, 3]", Some(20)),
        ("[[1, 2], [3]]", Some(40)),
        ("[]", None),
        (r#"["a", 1]"#, None),
        (r#"["a", ["b"]]"#, None),
        ("[1.5]", None),
        (r#"[["a"], [1]]"#, None),
        ("[[1], [[1]]]", None),
        (r#"{"a": 1}"#, None),
        ("1", None),
    ] {
        let body = format!(r#"{{"prompt": {prompt}, "max_tokens": 20}}"#);
        assert_eq!(output(COMPLETIONS_PATH, &body), expected, "{body}");
    }
}

/// A token of a small number is less than four bytes.
#[test]
fn the_tokens_of_a_prompt_that_stand_there_as_numbers_are_counted() {
    let tokens = |count: usize| vec!["1"; count].join(",");
    for (prompt, most) in
        [(format!("[{}]", tokens(1_000)), 1_000 + 20), (format!("[[{}],[{}]]", tokens(400), tokens(600)), 1_000 + 40)]
    {
        let body = format!(r#"{{"prompt": {prompt}, "max_tokens": 20}}"#);
        assert_eq!(most_tokens(COMPLETIONS_PATH, Body::whole(body.as_bytes())), Some(most));
    }
    // Those of large numbers are fewer than the bytes tell.
    assert_eq!(output(COMPLETIONS_PATH, r#"{"prompt": [100000, 100001], "max_tokens": 20}"#), Some(20));
}

#[test]
fn what_a_prompt_names_and_does_not_hold_leaves_no_bound() {
    const INLINE: &str = "data:image/png;base64,AAAA";
    let chat = |part: &str| {
        let body = format!(r#"{{"max_tokens": 20, "messages": [{{"role": "user", "content": [{part}]}}]}}"#);
        output(CHAT_PATH, &body)
    };
    let responses = |item: &str| output(RESPONSES_PATH, &format!(r#"{{"max_output_tokens": 20, "input": [{item}]}}"#));
    let messages = |part: &str| {
        let body = format!(r#"{{"max_tokens": 20, "messages": [{{"role": "user", "content": [{part}]}}]}}"#);
        output(MESSAGES_PATH, &body)
    };
    let gemini = |part: &str| {
        let config = r#""generationConfig": {"maxOutputTokens": 20}"#;
        output(GEMINI_PATH, &format!(r#"{{{config}, "contents": [{{"parts": [{part}]}}]}}"#))
    };
    for held in [
        chat(&format!(r#"{{"type": "image_url", "image_url": {{"url": "{INLINE}", "detail": "low"}}}}"#)),
        chat(r#"{"type": "file", "file": {"file_id": null, "file_data": "AAAA", "size": 1.5, "is": [true, -1]}}"#),
        chat(r#"{"type": "text", "text": "item_reference https://a.example/b file_id"}"#),
        responses(&format!(r#"{{"role": "user", "content": [{{"type": "input_image", "image_url": "{INLINE}"}}]}}"#)),
        responses(r#"{"type": "message", "id": "msg_1", "role": "assistant", "content": []}"#),
        messages(r#"{"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AAAA"}}"#),
        messages(r#"{"type": "tool_use", "id": "toolu_1", "name": "a", "input": {"id": 1}}"#),
        gemini(r#"{"inlineData": {"mimeType": "image/png", "data": "AAAA"}}, {"functionCall": {"id": "a"}}"#),
    ] {
        assert_eq!(held, Some(20));
    }
    for not_held in [
        chat(r#"{"type": "image_url", "image_url": {"url": "https://a.example/b.png"}}"#),
        chat(r#"{"type": "image_url", "image_url": null, "uuid": "a"}"#),
        chat(r#"{"type": "file", "file": {"file_id": "file-1"}}"#),
        chat(r#"{"type": "file", "file": {"FILE_ID": "file-1"}}"#),
        chat(r#"{"type": "text", "text": "a"}], "audio": {"id": "audio_1"}, "a": ["#),
        responses(r#"{"type": "item_reference", "id": "msg_1"}"#),
        responses(r#"{"type": "item\u005freference", "id": "msg_1"}"#),
        responses(r#"{"id": "msg_1"}"#),
        responses(r#"{"role": "user", "content": [{"type": "input_image", "image_url": "https://a.example/b.png"}]}"#),
        responses(r#"{"role": "user", "content": [{"type": "input_file", "file_id": "file-1"}]}"#),
        messages(r#"{"type": "image", "source": {"type": "url", "url": "https://a.example/b.png"}}"#),
        messages(r#"{"type": "document", "source": {"type": "file", "file_id": "file_1"}}"#),
        gemini(r#"{"fileData": {"mimeType": "image/png", "fileUri": "gs://a/b.png"}}"#),
        gemini(r#"{"file_data": {"file_uri": "gs://a/b.png"}}"#),
    ] {
        assert_eq!(not_held, None);
    }
}

#[test]
fn a_prompt_of_which_a_part_stands_elsewhere_has_no_bound() {
    for (path, elsewhere, longest) in [
        (RESPONSES_PATH, "previous_response_id", r#""max_output_tokens": 20"#),
        (RESPONSES_PATH, "conversation", r#""max_output_tokens": 20"#),
        (RESPONSES_PATH, "prompt", r#""max_output_tokens": 20"#),
        (GEMINI_PATH, "cachedContent", r#""generationConfig": {"maxOutputTokens": 20}"#),
        (COMPLETIONS_PATH, "prompt_embeds", r#""max_tokens": 20"#),
    ] {
        let of = |value: &str| output(path, &format!(r#"{{{longest}, "{elsewhere}": {value}}}"#));
        assert_eq!([of("null"), of(r#""r1""#), of("{}")], [Some(20), None, None], "{path} {elsewhere}");
    }
}

#[test]
fn a_path_of_no_known_api_has_no_bound() {
    for path in ["/llm/qwen3/v1/embeddings", "/llm/qwen3/generate", "/llm/qwen3/v1/chat/completions/batch", "/", ""] {
        assert_eq!(output(path, r#"{"max_tokens": 20}"#), None, "{path}");
    }
}

#[test]
fn what_is_large_or_deep_is_read_in_one_pass() {
    let deep = format!(r#"{{"max_tokens": 20, "a": {}1{}}}"#, "[".repeat(100_000), "]".repeat(100_000));
    assert_eq!(output(CHAT_PATH, &deep), Some(20));
    let names = |count: usize| {
        let names: Vec<String> = (0..count).map(|name| format!("\"m{name}\": 1")).collect();
        output(CHAT_PATH, &format!(r#"{{"max_tokens": 20, {}}}"#, names.join(", ")))
    };
    assert_eq!((names(MAX_NAMES - 1), names(MAX_NAMES)), (Some(20), None));
    let name = |length: usize| output(CHAT_PATH, &format!(r#"{{"max_tokens": 20, "{}": 1}}"#, "_".repeat(length)));
    assert_eq!((name(MAX_NAME), name(MAX_NAME + 1), name(250_000)), (Some(20), None, None));
    // A prompt is looked through, and is not so deep.
    let deep = format!(r#"{{"max_tokens": 20, "messages": {}1{}}}"#, "[".repeat(100_000), "]".repeat(100_000));
    assert_eq!(output(CHAT_PATH, &deep), None);
}
