//! Typed tasks behind the untyped [`Kind`] and [`Job`]: JSON gets its types here, and outputs become JSON again.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use schemars::JsonSchema;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::value::{RawValue, to_raw_value};

use super::{About, Compute, Cost, Engine, Hands, Invalid, Job, Kind, Lane, Schemas, Stop, Task, Tools, Wait, Waiting};
use crate::compute;
use crate::failure::Failure;

/// A task, and how it is run.
pub(super) struct Typed<T, By> {
    pub(super) task: Arc<T>,
    pub(super) by: By,
}

/// How a typed task is run: the one difference between [`Compute`] and [`Wait`].
pub(super) trait Runs<T: Task>: Copy + Send + Sync + 'static {
    fn engine(self, task: &T, plan: &T::Plan) -> Engine;
    fn device(self, task: &T, plan: &T::Plan) -> String;
    fn compute(self, task: &T, plan: &T::Plan, input: T::Input, stop: &Stop<'_>) -> Result<T::Output, Failure>;
    fn runs_together(self, task: &T, plan: &T::Plan) -> bool;
    fn compute_together(
        self,
        task: &T,
        plan: &T::Plan,
        inputs: Vec<T::Input>,
        stop: &Stop<'_>,
    ) -> Vec<Result<T::Output, Failure>>;
    fn room(self, task: &T, plan: &T::Plan, input: &T::Input) -> usize;
    fn wait(
        self,
        task: Arc<T>,
        plan: Arc<T::Plan>,
        input: T::Input,
        tools: Tools,
    ) -> BoxFuture<'static, Result<T::Output, Failure>>;
}

#[derive(Clone, Copy)]
pub(super) struct ByComputing;

impl<T: Compute> Runs<T> for ByComputing {
    fn engine(self, _task: &T, _plan: &T::Plan) -> Engine {
        Engine::Compute
    }

    fn device(self, task: &T, plan: &T::Plan) -> String {
        task.device(plan)
    }

    fn compute(self, task: &T, plan: &T::Plan, input: T::Input, stop: &Stop<'_>) -> Result<T::Output, Failure> {
        task.run(plan, input, stop)
    }

    fn runs_together(self, task: &T, plan: &T::Plan) -> bool {
        task.runs_together(plan)
    }

    fn compute_together(
        self,
        task: &T,
        plan: &T::Plan,
        inputs: Vec<T::Input>,
        stop: &Stop<'_>,
    ) -> Vec<Result<T::Output, Failure>> {
        task.run_together(plan, inputs, stop)
    }

    fn room(self, _task: &T, _plan: &T::Plan, _input: &T::Input) -> usize {
        0
    }

    fn wait(
        self,
        task: Arc<T>,
        _plan: Arc<T::Plan>,
        _input: T::Input,
        _tools: Tools,
    ) -> BoxFuture<'static, Result<T::Output, Failure>> {
        let failure = Failure::permanent("engine", format!("{} computes; it does not wait", task.about().name));
        Box::pin(std::future::ready(Err(failure)))
    }
}

#[derive(Clone, Copy)]
pub(super) struct ByWaiting;

impl<T: Wait> Runs<T> for ByWaiting {
    fn engine(self, task: &T, plan: &T::Plan) -> Engine {
        Engine::Wait(task.hands(plan))
    }

    fn device(self, task: &T, plan: &T::Plan) -> String {
        task.device(plan)
    }

    fn compute(self, task: &T, _plan: &T::Plan, _input: T::Input, _stop: &Stop<'_>) -> Result<T::Output, Failure> {
        Err(Failure::permanent("engine", format!("{} waits; it does not compute", task.about().name)))
    }

    fn runs_together(self, _task: &T, _plan: &T::Plan) -> bool {
        false
    }

    fn compute_together(
        self,
        task: &T,
        plan: &T::Plan,
        inputs: Vec<T::Input>,
        stop: &Stop<'_>,
    ) -> Vec<Result<T::Output, Failure>> {
        inputs.into_iter().map(|input| self.compute(task, plan, input, stop)).collect()
    }

    fn room(self, task: &T, plan: &T::Plan, input: &T::Input) -> usize {
        task.room(plan, input)
    }

    fn wait(
        self,
        task: Arc<T>,
        plan: Arc<T::Plan>,
        input: T::Input,
        tools: Tools,
    ) -> BoxFuture<'static, Result<T::Output, Failure>> {
        Box::pin(task.run(plan, input, tools))
    }
}

impl<T: Task, By: Runs<T>> Kind for Typed<T, By> {
    fn about(&self) -> About {
        self.task.about()
    }

    fn schemas(&self) -> Schemas {
        Schemas {
            input: schemars::schema_for!(T::Input),
            options: schemars::schema_for!(T::Options),
            output: schemars::schema_for!(T::Output),
        }
    }

    fn prepare(&self, options: &RawValue) -> Result<Arc<dyn Job>, Invalid> {
        let options = parse::<T::Options>(options)?;
        let plan = Arc::new(self.task.plan(options)?);
        Ok(Arc::new(Planned { task: Arc::clone(&self.task), plan, by: self.by }))
    }
}

struct Planned<T: Task, By> {
    task: Arc<T>,
    plan: Arc<T::Plan>,
    by: By,
}

impl<T: Task, By: Runs<T>> Planned<T, By> {
    fn input(&self, input: &RawValue) -> Result<T::Input, Invalid> {
        let input = parse::<T::Input>(input)?;
        self.task.check(&self.plan, &input)?;
        Ok(input)
    }

    /// Runs inputs at once; gives as many results as there are inputs, whatever the task does.
    fn outputs(&self, inputs: Vec<T::Input>, stop: &Stop<'_>) -> Vec<Result<T::Output, Failure>> {
        let count = inputs.len();
        if count == 0 {
            return Vec::new();
        }
        // As with a single item: the inputs were their own, plan and task are read only.
        let run = AssertUnwindSafe(|| self.by.compute_together(&self.task, &self.plan, inputs, stop));
        let failure = match std::panic::catch_unwind(run) {
            Ok(outputs) if outputs.len() == count => return outputs,
            Ok(outputs) => {
                Failure::permanent("output", format!("the task gave {} results for {count} items", outputs.len()))
            }
            Err(panic) => Failure::panicked(&compute::message_of(panic.as_ref())),
        };
        std::iter::repeat_with(|| Err(failure.clone())).take(count).collect()
    }
}

impl<T: Task, By: Runs<T>> Job for Planned<T, By> {
    fn engine(&self) -> Engine {
        self.by.engine(&self.task, &self.plan)
    }

    fn lane(&self) -> Lane {
        match (self.task.lane(&self.plan), self.engine()) {
            (Lane::Cpu, Engine::Wait(Hands::Many | Hands::AtMost(_))) => Lane::Wait,
            (lane, _) => lane,
        }
    }

    fn cost(&self) -> Cost {
        self.task.cost(&self.plan)
    }

    fn timeout(&self) -> Option<Duration> {
        self.task.timeout(&self.plan)
    }

    fn device(&self) -> String {
        self.by.device(&self.task, &self.plan)
    }

    fn input_from_word(&self, word: &str) -> Box<RawValue> {
        self.task.input_from_word(word)
    }

    fn check(&self, input: &RawValue) -> Result<(), Invalid> {
        self.input(input).map(drop)
    }

    fn compute(&self, input: &RawValue, stop: &Stop<'_>) -> Result<Box<RawValue>, Failure> {
        let input = self.input(input)?;
        // A panicking item leaves nothing behind: the input was its own, plan and task are read only.
        std::panic::catch_unwind(AssertUnwindSafe(|| self.by.compute(&self.task, &self.plan, input, stop)))
            .unwrap_or_else(|panic| Err(Failure::panicked(&compute::message_of(panic.as_ref()))))
            .and_then(encode)
    }

    fn runs_together(&self) -> bool {
        self.by.runs_together(&self.task, &self.plan)
    }

    fn compute_together(&self, inputs: &[&RawValue], stop: &Stop<'_>) -> Vec<Result<Box<RawValue>, Failure>> {
        let (mut good, mut places) = (Vec::with_capacity(inputs.len()), Vec::with_capacity(inputs.len()));
        let mut results = Vec::with_capacity(inputs.len());
        for (place, input) in inputs.iter().enumerate() {
            results.push(match self.input(input) {
                Ok(input) => {
                    good.push(input);
                    places.push(place);
                    Ok(RawValue::NULL.to_owned())
                }
                Err(invalid) => Err(invalid.into()),
            });
        }
        for (place, output) in places.into_iter().zip(self.outputs(good, stop)) {
            results[place] = output.and_then(encode);
        }
        results
    }

    fn wait(&self, input: &RawValue, tools: Tools) -> Waiting {
        let input = match self.input(input) {
            Ok(input) => input,
            Err(invalid) => return Waiting { room: 0, running: Box::pin(std::future::ready(Err(invalid.into()))) },
        };
        let room = self.by.room(&self.task, &self.plan, &input);
        let running = self.by.wait(Arc::clone(&self.task), Arc::clone(&self.plan), input, tools);
        Waiting { room, running: Box::pin(async move { running.await.and_then(encode) }) }
    }
}

/// Gives raw JSON its type; an error names the field's path.
fn parse<V: DeserializeOwned + JsonSchema>(json: &RawValue) -> Result<V, Invalid> {
    // What serde derives takes a list for a struct too, by the order of its fields, which nobody was promised. Only a list
    // pays for the look at the schema.
    if json.get().starts_with('[') && schemars::schema_for!(V).get("type").is_some_and(|kind| kind == "object") {
        return Err(Invalid("invalid type: array, expected an object".to_owned()));
    }
    // The plain parser first: it is several times as fast, and nearly every input is good.
    serde_json::from_str(json.get()).or_else(|_| {
        let mut deserializer = serde_json::Deserializer::from_str(json.get());
        serde_path_to_error::deserialize(&mut deserializer).map_err(|error| {
            let path = error.path().to_string();
            let reason = error.into_inner().to_string();
            // serde_json's "at line 1 column 7" counts within one item: noise to whoever wrote the file.
            let reason = reason.split(" at line ").next().unwrap_or(&reason);
            let reason = in_json_words(&path, reason);
            Invalid(if path == "." { reason } else { format!("{path}: {reason}") })
        })
    })
}

/// Whoever wrote the JSON knows its words, not Rust's nor serde's.
fn in_json_words(path: &str, reason: &str) -> String {
    let name = path.rsplit(['.', ']']).next().filter(|name| !name.is_empty()).unwrap_or("…");
    if reason.ends_with(" variant, expected newtype variant") {
        return format!("its value is missing: {{\"{name}\": …}}");
    }
    if reason == "expected value" {
        return "a word in quotes is expected, one of those that it knows".to_owned();
    }
    if reason.ends_with(", expected unit") {
        return format!("it takes no value: \"{name}\"");
    }
    // What was found may be a text with anything in it; what was expected is ours.
    let Some((found, expected)) = reason.rsplit_once(", expected ") else { return reason.to_owned() };
    let found = match found {
        "invalid type: sequence" => "invalid type: array",
        "invalid type: map" => "invalid type: object",
        found => found,
    };
    let expected = match expected {
        "f32" | "f64" => "a number",
        // How large Rust's type is says nothing of what the task takes.
        "i8" | "i16" | "i32" | "i64" | "isize" | "u8" | "u16" | "u32" | "u64" | "usize" => match found {
            _ if found.starts_with("invalid type") => "a whole number",
            _ if !found.contains("`-") => "a smaller whole number",
            _ if expected.starts_with('u') => "a whole number of at least 0",
            _ => "a greater whole number",
        },
        "a sequence" => "an array",
        "a map" => "an object",
        "enum" => "a word that it knows, or an object of one such: {\"word\": …}",
        _ => match expected.strip_prefix("struct ") {
            Some(name) if name.bytes().all(|byte| byte.is_ascii_alphanumeric()) => "an object",
            _ => expected,
        },
    };
    format!("{found}, expected {expected}")
}

fn encode<O: Serialize>(output: O) -> Result<Box<RawValue>, Failure> {
    to_raw_value(&output).map_err(|error| Failure::permanent("output", format!("the output has no JSON form: {error}")))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::task::raw;

    #[derive(Debug, Serialize, serde::Deserialize, JsonSchema)]
    struct Fields {
        #[serde(default)]
        ratio: f64,
        #[serde(default)]
        count: u64,
        #[serde(default)]
        level: i8,
        #[serde(default)]
        names: Vec<String>,
        inner: Option<Box<Fields>>,
    }

    #[derive(Debug, serde::Deserialize, JsonSchema)]
    #[serde(rename_all = "lowercase")]
    enum Step {
        Blur(#[expect(dead_code, reason = "only read")] f64),
        Grayscale,
    }

    #[test]
    fn a_choice_with_a_value_too_few_or_too_many_is_told_how_it_is_written() {
        let says = |json: serde_json::Value| parse::<Vec<Step>>(&raw(&json)).unwrap_err().0;

        assert_eq!(says(json!(["blur"])), "[0].blur: its value is missing: {\"blur\": …}");
        assert_eq!(says(json!([{"grayscale": true}])), "[0].grayscale: it takes no value: \"grayscale\"");
        assert!(parse::<Vec<Step>>(&raw(&json!(["grayscale", {"blur": 1}]))).is_ok());
    }

    #[test]
    fn what_is_wrong_is_said_in_the_words_of_json() {
        let says = |json: serde_json::Value| parse::<Fields>(&raw(&json)).unwrap_err().0;

        assert_eq!(says(json!({"ratio": "x"})), "ratio: invalid type: string \"x\", expected a number");
        assert_eq!(says(json!({"ratio": {}})), "ratio: invalid type: object, expected a number");
        assert_eq!(says(json!({"count": []})), "count: invalid type: array, expected a whole number");
        assert_eq!(
            says(json!({"count": -1})),
            "count: invalid value: integer `-1`, expected a whole number of at least 0"
        );
        assert_eq!(says(json!({"level": 200})), "level: invalid value: integer `200`, expected a smaller whole number");
        assert_eq!(
            says(json!({"level": -200})),
            "level: invalid value: integer `-200`, expected a greater whole number"
        );
        assert_eq!(says(json!({"names": "a"})), "names: invalid type: string \"a\", expected an array");
        assert_eq!(says(json!({"inner": 7})), "inner: invalid type: integer `7`, expected an object");
        assert_eq!(says(json!([1])), "invalid type: array, expected an object");
        // What was found stays as it was found.
        let text = ", expected f64";
        assert_eq!(
            says(json!({"count": text})),
            format!("count: invalid type: string \"{text}\", expected a whole number")
        );
    }
}
