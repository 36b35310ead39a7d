//! What a limit counts for an answer, where it does not count its tokens: CEL over what the answer used, and over its model.
//!
//! A cost is evaluated twice: on the estimate, before there is an answer, and on what the answer used, perhaps hours later. So it
//! sees what both know, and nothing of the request or its caller.

use std::collections::HashMap;
use std::sync::Arc;

use cel::ExecutionError;

use super::general::eval_error;
use super::types::Types;
use super::{CompileError, ENVIRONMENT, EvalError, cost, names, parse, types};

/// A compiled cost.
#[derive(Debug)]
pub struct TokenCost {
    source: Arc<str>,
    program: cel::Program,
    of_model: bool,
}

/// What an answer used, in tokens: `usage.*`. What nobody knows is 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Used {
    pub input: u64,
    pub output: u64,
    /// Of the input.
    pub cached: u64,
    /// Of the output.
    pub reasoning: u64,
    /// What a limit without a cost counts.
    pub total: u64,
}

/// Why an answer has no cost. No text holds anything of the caller's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CostError {
    /// It cannot be told: it asks for what is not there, or divides by zero.
    #[error(transparent)]
    Unknown(EvalError),
    /// It is told, and no answer can cost that: it is less than 0, or not a number; or too large where nobody can tell these apart.
    #[error(transparent)]
    Impossible(EvalError),
    /// It is told, and is larger than numbers are.
    #[error(transparent)]
    Beyond(EvalError),
}

/// Answers of many kinds: what has a value for none of them has one for no answer, and what none of them can cost is a slip. The last is
/// that of an embedding.
const SAMPLES: [Used; 4] = [Used::new(1000, 100), Used::new(100, 1000), Used::new(1, 1), Used::new(1, 0)];

// === impl TokenCost ===

impl TokenCost {
    /// Compiles `source`, on a thread with a large stack as [`super::Expression::compile`].
    ///
    /// # Errors
    ///
    /// It is too long or too deep, could take too long, or is not CEL; it names something else than `usage`, `model` and the
    /// functions that there are; it can be seen that it yields no number, that it fails for every answer, or that it is less than 0
    /// or beyond all numbers for a usual one.
    pub fn compile(source: &str) -> Result<Self, CompileError> {
        let program = parse(source)?;
        names::check_cost(&program)?;
        cost::check(program.expression()).map_err(CompileError::new)?;
        types::of(program.expression())?.check_number()?;
        let of_model = program.references().has_variable(names::MODEL);
        let cost = TokenCost { source: source.trim().into(), program, of_model };
        cost.try_out()?;
        Ok(cost)
    }

    /// Refuses what has no value for any sample, or one that no answer can cost. Of models nothing is known here.
    fn try_out(&self) -> Result<(), CompileError> {
        if self.of_model {
            return Ok(());
        }
        let (mut failed, mut fits) = (None, false);
        for sample in &SAMPLES {
            match self.tokens(sample, "") {
                Ok(_) => fits = true,
                Err(CostError::Beyond(error) | CostError::Impossible(error)) => return Err(impossible(sample, &error)),
                Err(CostError::Unknown(error)) => failed = failed.or(Some(error)),
            }
        }
        match failed.filter(|_| !fits) {
            Some(why) => Err(CompileError::new(format!("has no value for any answer: {why}"))),
            None => Ok(()),
        }
    }

    #[must_use]
    pub fn source(&self) -> &str {
        &self.source
    }

    /// Whether it looks at `model`.
    #[must_use]
    pub fn looks_at_model(&self) -> bool {
        self.of_model
    }

    /// What an answer of `model`, as `namespace/name`, counts that `used` so many tokens: a fraction counts whole, and what is more than
    /// the largest number is that.
    ///
    /// # Errors
    ///
    /// It has no value, or none that an answer can cost.
    pub fn tokens(&self, used: &Used, model: &str) -> Result<u64, CostError> {
        #[cfg(test)]
        EVALUATED.with(|times| times.set(times.get() + 1));
        let mut context = cel::Context::with_env(Arc::clone(&ENVIRONMENT));
        context.add_variable_from_value(names::USAGE, usage(used));
        if self.of_model {
            let (namespace, name) = model.split_once('/').unwrap_or(("", model));
            let model = [("namespace", namespace), ("name", name)].map(|(key, text)| (key, cel::Value::from(text)));
            context.add_variable_from_value(names::MODEL, HashMap::from(model));
        }
        match self.program.execute(&context) {
            Ok(value) => whole(&value),
            Err(error) => Err(kind(&error)(eval_error(&self.program, &error))),
        }
    }
}

#[cfg(test)]
thread_local! {
    /// How often this thread has evaluated a cost.
    pub(crate) static EVALUATED: std::cell::Cell<u64> = const { std::cell::Cell::new(0) };
}

/// What is known of the value where there is this error.
fn kind(error: &ExecutionError) -> fn(EvalError) -> CostError {
    match error {
        // Numbers without a sign end at 0.
        ExecutionError::Overflow("sub", cel::Value::UInt(_), _) => CostError::Impossible,
        ExecutionError::Overflow("add" | "sub", cel::Value::Int(left), _) if *left < 0 => CostError::Impossible,
        ExecutionError::Overflow("mul", cel::Value::Int(left), cel::Value::Int(right))
            if (*left < 0) != (*right < 0) =>
        {
            CostError::Impossible
        }
        ExecutionError::Overflow(..) => CostError::Beyond,
        // So `int` says it of what is too large, and `uint` of what is below 0 or not a number, too.
        ExecutionError::FunctionError { function, message } if message.ends_with("integer overflow") => {
            if function == "uint" { CostError::Impossible } else { CostError::Beyond }
        }
        _ => CostError::Unknown,
    }
}

/// Why a cost is refused that no answer like `sample` can have.
fn impossible(sample: &Used, error: &EvalError) -> CompileError {
    let Used { input, output, .. } = sample;
    CompileError::new(format!("has no value for an answer of {output} tokens to a prompt of {input}: {error}"))
        .remedy("say what such an answer counts, as in `usage.output > 100 ? usage.output - 100 : 0`")
}

/// `usage`
fn usage(used: &Used) -> HashMap<&'static str, cel::Value> {
    let Used { input, output, cached, reasoning, total } = *used;
    let numbers = [input, output, cached, reasoning, total];
    let value = |(name, number)| (name, cel::Value::Int(i64::try_from(number).unwrap_or(i64::MAX)));
    names::NUMBERS.iter().copied().zip(numbers).map(value).collect()
}

/// The value of a cost, as tokens.
fn whole(value: &cel::Value) -> Result<u64, CostError> {
    let failed = |what: &str| EvalError::Failed(what.to_owned());
    let negative = || CostError::Impossible(failed("yields less than 0"));
    match value {
        cel::Value::Int(value) => u64::try_from(*value).map_err(|_| negative()),
        cel::Value::UInt(value) => Ok(*value),
        cel::Value::Float(value) if *value < 0.0 => Err(negative()),
        // A float that is too large becomes the largest number.
        cel::Value::Float(value) if value.is_finite() => Ok(value.ceil() as u64),
        cel::Value::Float(value) if value.is_nan() => Err(CostError::Impossible(failed("yields what is not a number"))),
        cel::Value::Float(_) => Err(CostError::Beyond(failed("yields a number that is not finite"))),
        _ => Err(CostError::Unknown(failed("yields no number"))),
    }
}

// === impl CostError ===

impl CostError {
    /// The same, of any expression.
    #[must_use]
    pub fn eval(&self) -> &EvalError {
        match self {
            CostError::Unknown(error) | CostError::Impossible(error) | CostError::Beyond(error) => error,
        }
    }
}

// === impl Used ===

impl Used {
    /// So many tokens of prompt and answer.
    #[must_use]
    pub const fn new(input: u64, output: u64) -> Self {
        Used { input, output, cached: 0, reasoning: 0, total: input.saturating_add(output) }
    }

    /// So many in all, of which the prompt has as many as `input` says, if there are so many.
    #[must_use]
    pub fn split(total: u64, input: u64) -> Self {
        let input = input.min(total);
        Used::new(input, total - input)
    }

    /// The same of what nobody has told: the model may have written something, so that no cost of the answer alone makes it free.
    #[must_use]
    pub fn estimated(total: u64, input: u64) -> Self {
        Used::split(total, input.min(total.saturating_sub(1)))
    }

    /// The same, where none of them is more than `most`.
    #[must_use]
    pub fn at_most(self, most: u64) -> Self {
        let Used { input, output, cached, reasoning, total } = self;
        let [input, output, cached, reasoning, total] =
            [input, output, cached, reasoning, total].map(|number| number.min(most));
        Used { input, output, cached, reasoning, total }
    }
}

// === impl Types ===

impl Types {
    /// Refuses what can be seen not to be a number, whichever way it is told.
    fn check_number(self) -> Result<(), CompileError> {
        match self.other_than(Types::NUMBERS) {
            None => Ok(()),
            Some(what) => Err(CompileError::new(format!("yields {what}, not a number"))
                .remedy("count tokens, as in `usage.input + 3 * usage.output`")),
        }
    }
}
