use super::*;

fn fault(source: &str) -> CompileError {
    match TokenCost::compile(source) {
        Ok(_) => panic!("`{source}` compiles"),
        Err(error) => error,
    }
}

fn tokens(source: &str, used: Used) -> Result<u64, CostError> {
    TokenCost::compile(source).unwrap().tokens(&used, "llm/qwen3")
}

#[test]
fn a_cost_is_whole_tokens_and_a_fraction_counts_whole() {
    let used = Used { cached: 4, reasoning: 30, ..Used::new(10, 101) };
    for (source, expected) in [
        ("usage.total", 111),
        ("usage.input + 3 * usage.output", 313),
        ("usage['input'] - usage.cached + usage.reasoning", 36),
        ("0", 0),
        ("2u", 2),
        // As in CEL, whole numbers divide without a rest.
        ("usage.output / 10", 10),
        ("double(usage.output) / 10.0", 11),
        ("0.1 * double(usage.input)", 1),
        ("0.0 * double(usage.input) + 0.001", 1),
        ("-0.0", 0),
        ("1e300", u64::MAX),
        ("(usage.output > 100 ? 2 : 1) * usage.output", 202),
        ("(model.name == \"qwen3\" ? 5 : 1) * usage.output", 505),
        ("model.namespace == \"llm\" ? usage.total : 7", 111),
        ("model.name in ['a', 'b'] ? 1 : 2.5", 3),
        ("model.name.startsWith(\"qwen\") ? 1 : 2", 1),
        ("{\"qwen3\": 2, \"granite\": 3}[model.name] * usage.input", 20),
        ("[usage.input, usage.output].exists(n, n > 100) ? 9 : 8", 9),
        ("int(\"7\") + size(model.name)", 12),
    ] {
        assert_eq!(tokens(source, used), Ok(expected), "{source}");
    }
}

#[test]
fn what_is_no_number_of_tokens_is_no_value() {
    let failed = |text: &str| Err(CostError::Unknown(EvalError::Failed(text.to_owned())));
    let beyond = |text: &str| Err(CostError::Beyond(EvalError::Failed(text.to_owned())));
    let impossible = |text: &str| Err(CostError::Impossible(EvalError::Failed(text.to_owned())));
    for (source, used, expected) in [
        ("usage.output == 4 ? usage.output - usage.input : 1", Used::new(5, 4), impossible("yields less than 0")),
        ("usage.output == 4 ? double(usage.output) - 4.5 : 1.0", Used::new(5, 4), impossible("yields less than 0")),
        ("100 / usage.output", Used::new(5, 0), failed("division by zero")),
        (
            "usage.output == 4 ? double(usage.input) / 0.0 : 1.0",
            Used::new(5, 4),
            beyond("yields a number that is not finite"),
        ),
        (
            "usage.output == 4 ? double(usage.input) / 0.0 : 1.0",
            Used::new(0, 4),
            impossible("yields what is not a number"),
        ),
        (
            "usage.output == 4 ? 1.0 - double(usage.input) / 0.0 : 1.0",
            Used::new(5, 4),
            impossible("yields less than 0"),
        ),
        ("usage.output == 50 ? usage.total * 922337203685477580 : 1", Used::new(50, 50), beyond("arithmetic overflow")),
        ("usage.output == 4 ? uint(usage.output) - 100u : 1u", Used::new(5, 4), impossible("arithmetic overflow")),
        (
            "usage.output == 4 ? uint(usage.output) * 18446744073709551615u : 1u",
            Used::new(5, 4),
            beyond("arithmetic overflow"),
        ),
        (
            "usage.output == 4 ? usage.input * -9223372036854775807 : 1",
            Used::new(5, 4),
            impossible("arithmetic overflow"),
        ),
        (
            "usage.output == 4 ? -9223372036854775807 - usage.input : 1",
            Used::new(5, 4),
            impossible("arithmetic overflow"),
        ),
        ("usage.output == 4 ? 9223372036854775807 + usage.input : 1", Used::new(5, 4), beyond("arithmetic overflow")),
        ("usage.output == 4 ? uint(usage.output - 5) : 1u", Used::new(5, 4), impossible("`uint` failed")),
        ("usage.output == 4 ? uint(0.0 / 0.0) : 1u", Used::new(5, 4), impossible("`uint` failed")),
        ("usage.output == 50 ? int(double(usage.total) * 1e17) : 1", Used::new(50, 50), beyond("`int` failed")),
        ("usage.output == 4 ? uint(100.0 / 0.0) : 1u", Used::new(5, 4), impossible("`uint` failed")),
        ("uint(model.name)", Used::new(5, 4), failed("`uint` failed")),
        ("usage.total > 5 ? int(model.name) : 1", Used::new(5, 4), failed("`int` failed")),
        (
            "{\"llm\": 1}[model.name]",
            Used::new(5, 5),
            Err(CostError::Unknown(EvalError::Missing("a computed key".to_owned()))),
        ),
    ] {
        let compiled = TokenCost::compile(source);
        // The samples know no model, and have an answer that fits.
        let value = compiled.map_err(|error| error.message).map(|cost| cost.tokens(&used, "a/b"));
        assert_eq!(value, Ok(expected), "{source}");
    }
    // What no number holds is as large as one can be.
    let huge = Used { total: u64::MAX, ..Used::default() };
    assert_eq!(tokens("usage.total", huge), Ok(i64::MAX as u64));
    assert_eq!(tokens("2.0 * double(usage.total)", huge), Ok(u64::MAX));
}

#[test]
fn costs_that_say_what_cannot_be_do_not_compile() {
    const LIMITS: Option<&str> = Some("write another limit");
    for (source, message, remedy) in [
        ("", "is empty", None),
        ("usage.input +", "does not compile", None),
        ("usage.inputs", "`usage.inputs`, which no answer has", Some("did you mean `usage.input`?")),
        ("usage['outputs'] + 1", "`usage.outputs`", Some("did you mean `usage.output`?")),
        ("usage.price", "`usage.price`", Some("there are input, output, cached, reasoning, total")),
        ("usage.?price.orValue(1)", "`usage.price`", Some("there are input")),
        ("usage.input.tokens", "`tokens` in `usage.input`, which has no members", None),
        ("model.nam == 'a' ? 1 : 2", "`model.nam`", Some("did you mean `model.name`?")),
        ("model.id == 'a' ? 1 : 2", "`model.id`", Some("there are namespace, name")),
        (
            "usge.input + 1",
            "`usge`, which is not known here; costs see `usage` and `model`",
            Some("did you mean `usage`?"),
        ),
        ("input + 1", "`input`, which is not known here", None),
        ("auth.identity.tier == 'free' ? 1 : 2", "`auth`, which is not supported", LIMITS),
        ("request.path == '/' ? 1 : 2", "`request`, which is not supported", LIMITS),
        ("pow(usage.input, 2)", "`pow`, which is not a function", None),
        ("usage.input * 1.5", "multiplies a whole number and a number with a fraction", Some("`double(…)`")),
        ("usage.input + '1'", "adds a whole number and a text", None),
        ("(model.name == 'a' ? 1.5 : 1) * usage.input", "multiplies a number with a fraction and", Some("`double(…)`")),
        ("[usage.input * 1.5][0]", "multiplies", None),
        ("usage * 3", "multiplies a list or mapping", None),
        ("-model.name", "negates a text", None),
        ("usage.input - true", "subtracts true or false", None),
        ("usage.input ? 1 : 2", "takes for a condition a whole number, which cannot be", None),
        ("usage.input > 3", "yields true or false, not a number", Some("`usage.input + 3 * usage.output`")),
        ("model.name", "yields a text, not a number", None),
        ("usage", "yields a list or mapping, not a number", None),
        ("size(usage.input)", "calls `size` with a whole number, which cannot be", None),
        ("double(usage.input > 1)", "calls `double` with true or false", None),
        ("usage.input > 'a' ? 1 : 2", "compares a number with a text", None),
        ("usage.input > true ? 1 : 2", "compares true or false", None),
        ("!usage.input ? 1 : 2", "takes for a condition a whole number", None),
        ("model.name && true ? 1 : 2", "takes for a condition a text", None),
        ("usage.input in 'abc' ? 1 : 2", "looks into a text", None),
        ("usage.input.contains('a') ? 1 : 2", "calls `contains` with a whole number", None),
        ("usage.input > 3 ? 1 : 'a'", "yields a text", None),
        ("[1].map(n, n)", "yields a list or mapping", None),
        ("usage.input / 0", "has no value for any answer: division by zero", None),
        ("-1 - usage.input", "for an answer of 100 tokens to a prompt of 1000: yields less than 0", None),
        ("1.0 / 0.0", "tokens to a prompt of 1000: yields a number that is not finite", None),
        ("usage.output - 10", "of 1 tokens to a prompt of 1: yields less than 0", Some("? usage.output - 100 : 0`")),
        ("usage.input - usage.output", "of 1000 tokens to a prompt of 100: yields less than 0", None),
        ("usage.total * 9223372036854775807", "arithmetic overflow", Some("say what such an answer counts")),
        ("uint(usage.output) - 1u", "of 0 tokens to a prompt of 1: arithmetic overflow", Some("usage.output > 100")),
        ("uint(usage.output - 1)", "of 0 tokens to a prompt of 1: `uint` failed", None),
        (
            "double(usage.input) / double(usage.output)",
            "of 0 tokens to a prompt of 1: yields a number that is not",
            None,
        ),
        ("model.name.matches(string(usage.output)) ? 1 : 2", "a regular expression that is computed", None),
    ] {
        let error = fault(source);
        assert!(error.message.contains(message), "{source}: {error}");
        if let Some(expected) = remedy {
            assert!(error.remedy.as_ref().is_some_and(|remedy| remedy.contains(expected)), "{source}: {error:?}");
        }
    }
}

#[test]
fn costs_are_bounded_as_other_expressions_are() {
    crate::source::on_large_stack(|| {
        // At once, however they are nested.
        for around in ["-(", "int(", "(0 < 1 ? 1 : 0) + (", "size([", "1 + ("] {
            let close = if around.ends_with('[') { "])" } else { ")" };
            let deep = format!("{}1{}", around.repeat(14), close.repeat(14));
            assert!(TokenCost::compile(&deep).is_ok(), "{deep}");
        }
        let deeper = format!("{}usage.input{}", "int(".repeat(32), ")".repeat(32));
        assert!(TokenCost::compile(&deeper).is_ok());
        for text in [format!("1{}", " + 1".repeat(500)), format!("{}1{}", "(".repeat(99), ")".repeat(99))] {
            assert!(fault(&text).message.contains("at most"));
        }
    })
    .unwrap();
}

/// What answers used is known to costs alone.
#[test]
fn other_expressions_see_no_usage() {
    let error = fails_to_compile("usage.input > 3");
    assert!(error.message.contains("`usage`, which is not supported"), "{error}");
    assert!(error.remedy.unwrap().contains("`tiergate.io/cost.<limit>`"));
    let error = fails_to_compile("model.name == 'a'");
    assert!(error.remedy.unwrap().contains("`request.path`"));
}

proptest! {
    /// Whatever an answer used, a cost is a number of tokens or has none, and no more than it was asked for is whole.
    #[test]
    fn no_usage_panics(input: u64, output: u64, cached: u64, total: u64, most: u64) {
        let used = Used { input, output, cached, reasoning: 0, total };
        let capped = used.at_most(most);
        prop_assert!([capped.input, capped.output, capped.cached, capped.total].iter().all(|number| *number <= most));
        for source in ["usage.input + 3 * usage.output", "double(usage.total) * 1.5", "usage.input - usage.cached"] {
            let value = tokens(source, used);
            let capped = tokens(source, used.at_most(1 << 40));
            prop_assert!(value.is_ok() || value.is_err_and(|error| !error.to_string().is_empty()));
            prop_assert!(source.contains('-') || capped.is_ok());
        }
    }
}

fn sources() -> impl Strategy<Value = String> {
    let leaf = prop::sample::select(vec![
        "usage.input",
        "usage.output",
        "usage['cached']",
        "model.name",
        "2",
        "0.5",
        "3u",
        "'a'",
        "true",
        "[1]",
    ]);
    leaf.prop_map(str::to_owned).prop_recursive(3, 8, 3, |inner| {
        let operator = prop::sample::select(vec!["+", "-", "*", "/", "%", "==", "<", "&&", "in"]);
        let function = prop::sample::select(vec!["double", "int", "uint", "string", "size", "-", "!"]);
        prop_oneof![
            4 => (inner.clone(), operator, inner.clone()).prop_map(|(a, operator, b)| format!("({a} {operator} {b})")),
            2 => (function, inner.clone()).prop_map(|(function, a)| format!("{function}({a})")),
            1 => (inner.clone(), inner.clone(), inner).prop_map(|(a, b, c)| format!("({a} ? {b} : {c})")),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4_000, ..ProptestConfig::default() })]

    /// Types are told when a cost is compiled, and not while an answer is settled.
    #[test]
    fn a_cost_that_compiles_does_not_fail_by_its_types(source in sources(), input in 0_u64..9, output in 0_u64..9) {
        let Ok(cost) = TokenCost::compile(&source) else { return Ok(()) };
        if let Err(error) = cost.tokens(&Used::new(input, output), "llm/a") {
            // A text may be no number, and a number too large.
            let expected = [
                "less than 0",
                "not finite",
                "not a number",
                "division by zero",
                "overflow",
                "`double` failed",
                "`int` failed",
                "`uint` failed",
            ];
            let error = error.to_string();
            prop_assert!(expected.iter().any(|text| error.contains(text)), "{} {}", source, error);
        }
    }
}
