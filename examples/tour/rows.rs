//! The rows of the tour: who sends what, and what should come of it.

use crate::accounts::Tokens;
use crate::client::{Request, Response};

/// Ten words, so that with `max_tokens: 50` the sample model's answer costs sixty tokens.
const TEN_WORDS: &str = "one two three four five six seven eight nine ten";

/// The same words and tokens, as the other APIs have them.
const COMPLETIONS: &str = r#"{"prompt":"WORDS","max_tokens":50}"#;
const MESSAGES: &str = r#"{"messages":[{"role":"user","content":"WORDS"}],"max_tokens":50,"stream":true}"#;
const RESPONSES: &str = r#"{"input":"WORDS","max_output_tokens":50,"stream":true}"#;
const GEMINI: &str = r#"{"contents":[{"parts":[{"text":"WORDS"}]}],"generationConfig":{"maxOutputTokens":50}}"#;
const EMBEDDINGS: &str = r#"{"input":"WORDS"}"#;
/// The sample model keeps its usage to itself, so the call is charged by an estimate.
const UNTOLD: &str =
    r#"{"messages":[{"role":"user","content":"WORDS"}],"max_tokens":50,"stream":true,"sample":{"usage":"never"}}"#;
/// Fifty words, each an event after a moment, so that there is time to leave.
const SLOW: &str = r#"{"messages":[{"role":"user","content":"WORDS"}],"max_tokens":50,"stream":true,"sample":{"pause_ms":20,"text":"WORDS WORDS WORDS WORDS WORDS"}}"#;

/// One line of the table.
pub struct Row {
    pub who: &'static str,
    pub model: &'static str,
    pub sent: &'static str,
    pub request: Request,
    /// How often the request is sent, without a pause.
    pub times: u32,
    /// Whether all are sent at once. Then one of them passes, and the others get what the row says.
    pub at_once: bool,
    pub status: u16,
    /// The code in the body of a refusal.
    pub code: Option<&'static str>,
    /// What else must hold of the answer.
    pub holds: Vec<Condition>,
    /// Whether tiergate itself answers: then no usage is reported.
    pub is_shown: bool,
    /// Whether all usage so far must have been reported first.
    pub after_usage: bool,
    /// Whether tiergate is started anew before it.
    pub after_restart: bool,
    /// Whether the text of the answer is worth a line.
    pub quotes: bool,
}

/// `None` if the answer is good, else what is wrong with it.
pub type Condition = fn(&Response) -> Option<String>;

#[rustfmt::skip] // a table reads better as one
pub fn rows(by: &Tokens) -> Vec<Row> {
    vec![
        Row::chat("jland (premium)", "llm/qwen3", "a valid token").bearer(&by.jland).holds(usage_is_readable),

        Row::chat("nobody", "llm/qwen3", "no token").refused(401, "TG-TOKEN-MISSING").holds(challenges),
        Row::chat("nobody", "llm/qwen3", "garbage for a token").bearer("garbage").refused(401, "TG-TOKEN-MALFORMED").holds(challenges),
        Row::chat("jland (premium)", "llm/qwen3", "a token for another audience").bearer(&by.other_audience).refused(401, "TG-TOKEN-AUDIENCE").holds(challenges),
        Row::chat("jland (premium)", "llm/qwen3", "an expired token").bearer(&by.expired).refused(401, "TG-TOKEN-EXPIRED").holds(challenges),
        Row::chat("jland (premium)", "llm/qwen3", "a token signed by somebody else").bearer(&by.foreign).refused(401, "TG-TOKEN-SIGNATURE").holds(challenges),
        Row::chat("mallory (premium)", "llm/qwen3", "a token of a deleted ServiceAccount").bearer(&by.deleted).refused(401, "TG-TOKEN-SUBJECT-GONE").holds(challenges),

        Row::chat("erin (free)", "llm/qwen3", "a valid token").bearer(&by.erin).refused(403, "TG-ACCESS-DENIED").holds(names_the_missing_grant).quoted(),
        Row::chat("grace (premium)", "llm/draft", "a model without annotation").bearer(&by.grace).refused(403, "TG-ACCESS-DENIED").quoted(),
        Row::chat("lena (free)", "llm/granite", "60 tokens of 100 in 1m, 64 at once: one passes").bearer(&by.lena).sixty_tokens(false).at_once(64).refused(429, "TG-LIMIT-TOKENS").holds(says_when_to_retry),

        Row::chat("frank (free)", "llm/granite", "a model for all tiers").bearer(&by.frank),
        Row::chat("grace (premium)", "llm/granite", "a model for all tiers").bearer(&by.grace),
        Row::chat("ivan (enterprise)", "llm/granite", "a model for all tiers").bearer(&by.ivan),
        Row::chat("ivan (enterprise)", "lab/phi", "a model granted by a RoleBinding").bearer(&by.ivan),
        Row::chat("grace (premium)", "lab/phi", "a model granted by a RoleBinding").bearer(&by.grace).refused(403, "TG-ACCESS-DENIED"),

        Row::chat("alice (free)", "llm/granite", "five requests of five in 2m").bearer(&by.alice).times(5).after_usage(),
        Row::chat("alice (free)", "llm/granite", "the sixth").bearer(&by.alice).refused(429, "TG-LIMIT-REQUESTS").holds(says_when_to_retry),
        Row::chat("alice (free)", "-", "GET /v1/limits").bearer(&by.alice).shown().holds(all_requests_are_used),
        Row::chat("nobody", "-", "GET /v1/limits, no token").shown().refused(401, "TG-TOKEN-MISSING").holds(challenges),
        Row::chat("bob (free)", "llm/granite", "the first of another user").bearer(&by.bob),

        Row::chat("ivan (enterprise)", "lab/atlas", "two of the lab's three in 2m").bearer(&by.ivan).times(2),
        Row::chat("mona (enterprise)", "lab/atlas", "the third, of another user").bearer(&by.mona),
        Row::chat("mona (enterprise)", "lab/atlas", "the fourth: her own limit has 49 left").bearer(&by.mona).refused(429, "TG-LIMIT-REQUESTS").holds(says_when_to_retry).quoted(),

        Row::chat("ivan (enterprise)", "lab/nova", "60 tokens of the lab's 100 a month").bearer(&by.ivan).sixty_tokens(false),
        Row::chat("mona (enterprise)", "lab/nova", "60 more, of another user: not this month").bearer(&by.mona).sixty_tokens(false).after_usage().refused(429, "TG-LIMIT-TOKENS").holds(says_not_to_retry).quoted(),
        Row::chat("mona (enterprise)", "lab/nova", "again, after tiergate was started anew").bearer(&by.mona).sixty_tokens(false).after_restart().refused(429, "TG-LIMIT-TOKENS").holds(says_not_to_retry),

        Row::chat("carol (free)", "llm/granite", "60 tokens of 100 in 1m, JSON").bearer(&by.carol).sixty_tokens(false),
        Row::chat("carol (free)", "llm/granite", "60 more of the 40 that are left").bearer(&by.carol).sixty_tokens(false).after_usage().refused(429, "TG-LIMIT-TOKENS").holds(says_when_to_retry),
        Row::chat("dave (free)", "llm/granite", "60 tokens of 100 in 1m, SSE").bearer(&by.dave).sixty_tokens(true).holds(streams_usage),
        Row::chat("dave (free)", "llm/granite", "60 more of the 40 that are left").bearer(&by.dave).sixty_tokens(true).after_usage().refused(429, "TG-LIMIT-TOKENS").holds(says_when_to_retry),

        Row::chat("ivan (enterprise)", "llm/qwen3", "completions").bearer(&by.ivan).api("/v1/completions", COMPLETIONS).holds(sixty_in_openai),
        Row::chat("ivan (enterprise)", "llm/qwen3", "Anthropic's Messages, SSE").bearer(&by.ivan).api("/v1/messages", MESSAGES).holds(sixty_in_messages),
        Row::chat("ivan (enterprise)", "llm/qwen3", "OpenAI's Responses, SSE").bearer(&by.ivan).api("/v1/responses", RESPONSES).holds(sixty_in_openai),
        Row::chat("ivan (enterprise)", "llm/qwen3", "Gemini").bearer(&by.ivan).api("/v1beta/models/qwen3:generateContent", GEMINI).holds(sixty_in_gemini),
        Row::chat("ivan (enterprise)", "llm/qwen3", "Gemini, SSE").bearer(&by.ivan).api("/v1beta/models/qwen3:streamGenerateContent?alt=sse", GEMINI).holds(sixty_in_gemini),
        Row::chat("ivan (enterprise)", "llm/qwen3", "embeddings").bearer(&by.ivan).api("/v1/embeddings", EMBEDDINGS).holds(ten_in_openai),

        Row::chat("heidi (premium)", "llm/qwen3", "a stream whose model tells no usage").bearer(&by.heidi).api("/v1/chat/completions", UNTOLD).holds(streams_no_usage),
        Row::chat("heidi (premium)", "llm/qwen3", "a stream that is left after ten events").bearer(&by.heidi).api("/v1/chat/completions", SLOW).leaves_after(10).holds(is_cut),

        Row::chat("erin (free)", "-", "/llm//m").bearer(&by.erin).path("/llm//m").refused(400, "TG-PATH-NOT-CANONICAL"),
        Row::chat("erin (free)", "-", "/llm/a%2Fb/v1/…").bearer(&by.erin).path("/llm/a%2Fb/v1/chat/completions").refused(400, "TG-PATH-NOT-CANONICAL"),
        Row::chat("erin (free)", "-", "/llm/granite;x=1/v1/…").bearer(&by.erin).path("/llm/granite;x=1/v1/chat/completions").refused(400, "TG-PATH-NOT-CANONICAL"),
        Row::chat("erin (free)", "llm/qwen3", "/llm/granite/../qwen3/v1/…").bearer(&by.erin).path("/llm/granite/../qwen3/v1/chat/completions").refused(403, "TG-ACCESS-DENIED"),
        Row::chat("erin (free)", "-", "/llm/unknown/v1/…").bearer(&by.erin).path("/llm/unknown/v1/chat/completions").refused(404, "TG-ROUTE-UNKNOWN"),

        Row::chat("heidi (premium)", "llm/qwen3", "x-maas-username, X-MaaS-Group").bearer(&by.heidi)
            .header("x-maas-username", "root").header("X-MaaS-Group", "system:masters").holds(model_saw_no_identity).quoted(),
    ]
}

// === impl Row ===

impl Row {
    /// A request for a few tokens that should be let through.
    fn chat(who: &'static str, model: &'static str, sent: &'static str) -> Self {
        let request = Request {
            method: "POST",
            path: format!("/{model}/v1/chat/completions"),
            headers: vec![("content-type", "application/json".to_owned())],
            body: body("hello", 1, false),
            leaves_after: None,
        };
        let (status, code, holds) = (200, None, Vec::new());
        Self {
            who,
            model,
            sent,
            request,
            times: 1,
            at_once: false,
            status,
            code,
            holds,
            is_shown: false,
            after_usage: false,
            after_restart: false,
            quotes: false,
        }
    }

    fn bearer(self, token: &str) -> Self {
        self.header("authorization", &format!("Bearer {token}"))
    }

    fn header(mut self, name: &'static str, value: &str) -> Self {
        self.request.headers.push((name, value.to_owned()));
        self
    }

    fn path(mut self, path: &str) -> Self {
        path.clone_into(&mut self.request.path);
        self
    }

    /// The stream does not ask for its usage: the gateway has to.
    fn sixty_tokens(mut self, stream: bool) -> Self {
        self.request.body = body(TEN_WORDS, 50, stream);
        self
    }

    /// In another API's words.
    fn api(mut self, path: &str, body: &str) -> Self {
        self.request.path = format!("/{}{path}", self.model);
        self.request.body = body.replace("WORDS", TEN_WORDS);
        self
    }

    /// Asks for the caller's limits.
    fn shown(mut self) -> Self {
        self.request.method = "GET";
        self.request.body.clear();
        self.is_shown = true;
        self.path("/v1/limits")
    }

    fn times(mut self, times: u32) -> Self {
        self.times = times;
        self
    }

    fn at_once(mut self, times: u32) -> Self {
        (self.times, self.at_once) = (times, true);
        self
    }

    fn leaves_after(mut self, events: usize) -> Self {
        self.request.leaves_after = Some(events);
        self
    }

    fn after_usage(mut self) -> Self {
        self.after_usage = true;
        self
    }

    fn after_restart(mut self) -> Self {
        self.after_restart = true;
        self
    }

    fn refused(mut self, status: u16, code: &'static str) -> Self {
        (self.status, self.code) = (status, Some(code));
        self
    }

    fn holds(mut self, condition: Condition) -> Self {
        self.holds.push(condition);
        self
    }

    fn quoted(mut self) -> Self {
        self.quotes = true;
        self
    }
}

fn body(content: &str, max_tokens: u32, stream: bool) -> String {
    format!(r#"{{"messages":[{{"role":"user","content":"{content}"}}],"max_tokens":{max_tokens},"stream":{stream}}}"#)
}

fn challenges(response: &Response) -> Option<String> {
    response.header("www-authenticate").is_none().then(|| "no WWW-Authenticate".to_owned())
}

fn says_when_to_retry(response: &Response) -> Option<String> {
    match response.header("retry-after").map(str::parse::<u32>) {
        Some(Ok(1..)) => None,
        _ => Some("no Retry-After in seconds".to_owned()),
    }
}

/// OpenAI's clients give up at once.
fn says_not_to_retry(response: &Response) -> Option<String> {
    let says_so = response.header("x-should-retry").is_some_and(|header| header == "false");
    (!says_so || !response.body.contains("\"insufficient_quota\""))
        .then(|| "it does not say not to try again".to_owned())
}

fn all_requests_are_used(response: &Response) -> Option<String> {
    says(response, &["\"tier\":\"free\"", "\"limit\":5,\"window_seconds\":120,\"used\":5,\"left\":0"])
}

fn names_the_missing_grant(response: &Response) -> Option<String> {
    let detail = response.detail().unwrap_or_default();
    let missing = ["RoleBinding", "llminferenceservices", "qwen3"].into_iter().find(|word| !detail.contains(word));
    missing.map(|word| format!("the detail does not name `{word}`"))
}

fn usage_is_readable(response: &Response) -> Option<String> {
    (!response.body.contains("\"total_tokens\":2")).then(|| "no usage in the answer".to_owned())
}

fn streams_usage(response: &Response) -> Option<String> {
    let whole = response.body.contains("\"total_tokens\":60") && response.body.ends_with("data: [DONE]\n\n");
    (!whole).then(|| "not a stream that ends with its usage".to_owned())
}

fn streams_no_usage(response: &Response) -> Option<String> {
    let untold = response.body.ends_with("data: [DONE]\n\n") && !response.body.contains("total_tokens");
    (!untold).then(|| "not a whole stream without usage".to_owned())
}

fn is_cut(response: &Response) -> Option<String> {
    response.body.contains("[DONE]").then(|| "the stream was over before it was left".to_owned())
}

fn says(response: &Response, usage: &[&str]) -> Option<String> {
    let missing = usage.iter().find(|usage| !response.body.contains(**usage));
    missing.map(|usage| format!("no `{usage}` in the answer"))
}

fn sixty_in_openai(response: &Response) -> Option<String> {
    says(response, &["\"total_tokens\":60"])
}

fn ten_in_openai(response: &Response) -> Option<String> {
    says(response, &["\"total_tokens\":10"])
}

fn sixty_in_messages(response: &Response) -> Option<String> {
    says(response, &["\"input_tokens\":10", "\"usage\":{\"output_tokens\":50}"])
}

fn sixty_in_gemini(response: &Response) -> Option<String> {
    says(response, &["\"totalTokenCount\":60"])
}

/// The sample model answers with the names of the headers that it received.
fn model_saw_no_identity(response: &Response) -> Option<String> {
    if !response.body.contains("content-type") {
        return Some("the model did not name its headers".to_owned());
    }
    let leaked = ["authorization", "x-maas-"].into_iter().find(|name| response.body.contains(name));
    leaked.map(|name| format!("`{name}` reached the model"))
}
