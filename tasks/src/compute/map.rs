//! `compute.map`: an expression of x, over many numbers.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use exmex::{Express as _, FlatEx};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize, Serializer};
use tidemill_core::failure::Failure;
use tidemill_core::lock::lock;
use tidemill_core::task::{About, Arguments, Compute, Cost, Invalid, Lane, Stop, Task};

use super::expression::for_exmex;
use crate::vision::Engine;

/// Longer expressions are refused: nobody types them, and parsing them would take its time.
pub(super) const MAX_EXPRESSION_BYTES: usize = 4096;
/// Whole numbers are exact in a 64-bit float up to here.
const MAX_EXACT: f64 = 9_007_199_254_740_992.0;
/// Expressions that are kept as they were read. The longest may have a megabyte each.
const KEPT: usize = 8;

/// Evaluates an expression for each number.
#[derive(Clone, Default)]
pub struct Map {
    engine: Option<Arc<dyn Engine>>,
    /// What was read lately. To read `x*x - 2*x` exmex moves a megabyte about, which takes it longer than
    /// everything else that a batch of one item needs in a process.
    recent: Arc<Mutex<VecDeque<Read>>>,
}

/// A text, and the expression that it is.
type Read = (String, Arc<FlatEx<f64>>);

impl std::fmt::Debug for Map {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Map").field("has_engine", &self.engine.is_some()).finish()
    }
}

/// Options of a batch.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Options {
    /// The expression, of `x` alone: `x*x - 2*x`. It knows + - * / ^, parentheses, PI, E, TAU and the usual
    /// functions (sin, cos, exp, ln, sqrt, abs, floor, round, min, max …), each with its values in parentheses. First
    /// come powers, from the right (2^3^2 is 2^9), then signs (-x^2 is -(x^2)), * and /, + and -, each from the left.
    pub expr: String,
    /// Where it is computed: `cpu` (every core), `cuda` or `cuda:0` (each chunk as one tensor; needs tidemill-vision and
    /// a GPU).
    #[serde(default = "cpu")]
    pub device: String,
}

fn cpu() -> String {
    "cpu".into()
}

/// The parsed expression.
#[derive(Debug)]
pub struct Plan {
    /// As it was written.
    pub text: String,
    /// As it is evaluated.
    pub expression: Arc<FlatEx<f64>>,
    /// `cpu` or `cuda:N`.
    pub device: String,
}

impl Plan {
    /// Whether it runs on the CPU.
    pub fn is_on_cpu(&self) -> bool {
        self.device == "cpu"
    }
}

/// A value; written without a fraction where it has none.
#[derive(Clone, Copy, Debug, PartialEq, JsonSchema)]
#[schemars(transparent)]
pub struct Value(pub f64);

impl Value {
    /// Takes what the expression gave.
    ///
    /// # Errors
    /// Where it is not a finite number, which JSON cannot say.
    pub fn finite(value: f64, text: &str, x: f64) -> Result<Self, Failure> {
        if value.is_finite() {
            return Ok(Self(value));
        }
        let what = if value.is_nan() { "not a number" } else { "infinite" };
        Err(Failure::permanent("not_finite", format!("{text} is {what} for x = {x}")))
    }
}

impl Serialize for Value {
    #[expect(clippy::cast_possible_truncation, reason = "the condition keeps it within ±2^53")]
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Self(value) = *self;
        if value.fract() == 0.0 && value.abs() < MAX_EXACT {
            serializer.serialize_i64(value as i64)
        } else {
            serializer.serialize_f64(value)
        }
    }
}

impl Task for Map {
    type Input = f64;
    type Options = Options;
    type Output = Value;
    type Plan = Plan;

    fn about(&self) -> About {
        About {
            name: "compute.map",
            summary: "Evaluate an expression of x for each number",
            details: "An input is a number, the output is the value of the expression for it. The expression is parsed \
                      once per batch and knows arithmetic only. Numbers are 64-bit floats: whole numbers are exact up \
                      to 2^53. A value that is not finite (a division by zero) is that item's failure. On a GPU a chunk is \
                      computed as one tensor.",
            examples: &[
                "tidemill run compute.map 1 2 3 8 10 -o expr='x*x - 2*x'",
                "tidemill run compute.map --range 0..1000000 -o expr='sqrt(x)' --format ndjson",
            ],
            arguments: Arguments::Values,
            makes_files: false,
        }
    }

    fn plan(&self, options: Options) -> Result<Plan, Invalid> {
        let Options { expr: text, device } = options;
        if text.len() > MAX_EXPRESSION_BYTES {
            return Err(Invalid(format!("expr: has {} bytes; at most {MAX_EXPRESSION_BYTES} are allowed", text.len())));
        }
        let device = device_name(&device)
            .ok_or_else(|| Invalid(format!("device: {device:?} is not among cpu, cuda and cuda:N")))?;
        let expression =
            self.read(&text).map_err(|problem| Invalid(format!("expr: cannot read {text:?}: {problem}")))?;
        Ok(Plan { text, expression, device })
    }

    fn cost(&self, plan: &Plan) -> Cost {
        // An operator takes some 10 ns, and a few characters.
        Cost::micros(1 + plan.text.len() as u64 / 256).even()
    }

    fn lane(&self, plan: &Plan) -> Lane {
        if plan.is_on_cpu() { Lane::Cpu } else { Lane::Vision }
    }
}

/// The one name that outcomes give a device: `cpu` or `cuda:N`.
fn device_name(device: &str) -> Option<String> {
    if device == "cpu" {
        return Some(cpu());
    }
    let index: u8 = if device == "cuda" { 0 } else { device.strip_prefix("cuda:")?.parse().ok()? };
    Some(format!("cuda:{index}"))
}

impl Compute for Map {
    fn run(&self, plan: &Plan, x: f64, _stop: &Stop<'_>) -> Result<Value, Failure> {
        if !plan.is_on_cpu() {
            let values = self.on_device(plan, &[x])?;
            return Value::finite(values[0], &plan.text, x);
        }
        let variables: &[f64] = if plan.expression.var_names().is_empty() { &[] } else { &[x] };
        let value = plan
            .expression
            .eval(variables)
            .map_err(|error| Failure::permanent("expression", format!("{} for x = {x}: {error}", plan.text)))?;
        Value::finite(value, &plan.text, x)
    }

    fn runs_together(&self, plan: &Plan) -> bool {
        !plan.is_on_cpu()
    }

    fn run_together(&self, plan: &Plan, xs: Vec<f64>, stop: &Stop<'_>) -> Vec<Result<Value, Failure>> {
        // Reading the inputs of a chunk took its time. Where nobody waits any more, the device is left to others.
        if stop.is_asked() {
            return vec![Err(Failure::stopped()); xs.len()];
        }
        match self.on_device(plan, &xs) {
            Ok(values) => xs.iter().zip(values).map(|(x, value)| Value::finite(value, &plan.text, *x)).collect(),
            Err(failure) => vec![Err(failure); xs.len()],
        }
    }

    fn device(&self, plan: &Plan) -> String {
        if plan.is_on_cpu() || self.engine.is_some() { plan.device.clone() } else { "none".into() }
    }
}

impl Map {
    /// Computes on a GPU by that engine; without one on the CPU only.
    pub fn new(engine: Option<Arc<dyn Engine>>) -> Self {
        Self { engine, ..Self::default() }
    }

    /// The expression, unless something is wrong with it, which the error tells.
    fn read(&self, text: &str) -> Result<Arc<FlatEx<f64>>, String> {
        if let Some((_, expression)) = lock(&self.recent).iter().find(|(known, _)| known == text) {
            return Ok(Arc::clone(expression));
        }
        let for_exmex = for_exmex(text)?;
        // What exmex does not expect may panic; that must not be the end of the process.
        let parsed = std::panic::catch_unwind(|| exmex::parse::<f64>(&for_exmex));
        let parsed = parsed.map_err(|_| "it cannot be computed".to_owned())?.map_err(|error| error.to_string())?;
        let expression = Arc::new(parsed);
        let mut recent = lock(&self.recent);
        recent.truncate(KEPT - 1);
        recent.push_front((text.to_owned(), Arc::clone(&expression)));
        Ok(expression)
    }

    /// The values, computed as one tensor.
    fn on_device(&self, plan: &Plan, xs: &[f64]) -> Result<Vec<f64>, Failure> {
        let Some(engine) = &self.engine else {
            let reason = format!("this command computes on the cpu only, not on {}; tidemill-vision does", plan.device);
            return Err(Failure::permanent("no_engine", reason));
        };
        engine.map(plan.expression.unparse(), &plan.device, xs)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::value::RawValue;
    use tidemill_core::broker::NetworkWork;
    use tidemill_core::task::{Job, Register, raw, raw_word};
    use tokio_util::sync::CancellationToken;

    use super::*;
    use crate::vision::card::Card;
    use crate::vision::train::{Output, Training};
    use crate::vision::{Label, Pixels, Segmented};

    fn plan(expr: &str) -> Result<Plan, Invalid> {
        Map::default().plan(Options { expr: expr.into(), device: cpu() })
    }

    fn map(expr: &str, x: f64) -> Result<String, Failure> {
        let stop = CancellationToken::new();
        Map::default().run(&plan(expr).unwrap(), x, &Stop(&stop)).map(|value| serde_json::to_string(&value).unwrap())
    }

    #[test]
    fn the_values_of_the_catalogue_come_out() {
        let values: Vec<String> = [1.0, 2.0, 3.0, 8.0, 10.0].iter().map(|x| map("x*x - 2*x", *x).unwrap()).collect();
        assert_eq!(values, ["-1", "0", "3", "48", "80"]);
    }

    #[test]
    fn an_expression_that_was_read_lately_is_read_no_more_and_only_the_last_ones_are_kept() {
        let map = Map::default();
        let read = |expr: &str| map.plan(Options { expr: expr.into(), device: cpu() }).unwrap().expression;
        let first = read("x + 0");
        assert!(Arc::ptr_eq(&first, &read("x + 0")));
        for n in 1..=KEPT {
            assert_eq!(read(&format!("x + {n}")).eval(&[2.0]).unwrap(), 2.0 + n as f64);
        }
        assert_eq!(lock(&map.recent).len(), KEPT);
        assert!(!Arc::ptr_eq(&first, &read("x + 0")));
    }

    #[test]
    fn precedence_functions_and_constants_are_the_usual_ones() {
        assert_eq!(map("2+3*x^2", 2.0).unwrap(), "14");
        assert_eq!(map("-(x)", 2.5).unwrap(), "-2.5");
        assert_eq!(map("-x^2", 3.0).unwrap(), "-9");
        assert_eq!(map("sqrt(x)", 16.0).unwrap(), "4");
        assert_eq!(map("7", 1.0).unwrap(), "7");
    }

    #[test]
    fn a_value_that_json_cannot_say_is_the_items_failure() {
        let failure = map("1/x", 0.0).unwrap_err();
        assert_eq!((failure.kind.as_ref(), failure.message.as_str()), ("not_finite", "1/x is infinite for x = 0"));
        assert_eq!(map("x/x", 0.0).unwrap_err().message, "x/x is not a number for x = 0");
    }

    #[test]
    fn another_variable_or_no_expression_is_refused() {
        assert_eq!(
            plan("x+y*z").unwrap_err().0,
            "expr: cannot read \"x+y*z\": y at character 3 is not known; the only variable is x"
        );
        for bad in ["", "x +", "((x)", "system('ls')", &"(".repeat(5000)] {
            assert!(plan(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn deep_nesting_within_the_limit_harms_nobody() {
        let deep = format!("{}x{}", "(".repeat(2000), ")".repeat(2000));
        drop(plan(&deep));
    }

    /// Computes 1/x on `cuda:0`, the only device it has.
    struct Fake;

    #[async_trait::async_trait]
    impl Engine for Fake {
        async fn classify(&self, _card: &Card, _pixels: Pixels, _top: usize) -> Result<Vec<Label>, Failure> {
            unreachable!("compute.map classifies nothing")
        }

        async fn segment(&self, _card: &Card, _pixels: Pixels) -> Result<Segmented, Failure> {
            unreachable!("compute.map segments nothing")
        }

        async fn load(&self, _card: &Card) -> Result<(), Failure> {
            unreachable!("compute.map needs no model")
        }

        async fn train(&self, _training: Training) -> Result<Output, Failure> {
            unreachable!("compute.map trains nothing")
        }

        fn map(&self, expression: &str, device: &str, xs: &[f64]) -> Result<Vec<f64>, Failure> {
            assert_eq!(expression, "(1/x)");
            match device {
                "cuda:0" => Ok(xs.iter().map(|x| 1.0 / x).collect()),
                _ => Err(Failure::permanent("device", "there is no such device")),
            }
        }

        fn device(&self) -> String {
            "cpu".into()
        }

        fn work(&self) -> Vec<NetworkWork> {
            Vec::new()
        }

        async fn lost(&self) -> String {
            std::future::pending().await
        }
    }

    fn job(engine: Option<Arc<dyn Engine>>, device: &str) -> Arc<dyn Job> {
        let register = Register::default().compute(Map::new(engine));
        let options = serde_json::json!({"expr": "1/x", "device": device});
        register.find("compute.map").unwrap().prepare(&raw(&options)).unwrap()
    }

    /// What becomes of inputs that run together: the output, or the failure's kind.
    fn together(job: &dyn Job, inputs: &[&str]) -> Vec<String> {
        let stop = CancellationToken::new();
        let inputs: Vec<Box<RawValue>> = inputs.iter().map(|input| raw_word(input)).collect();
        let inputs: Vec<&RawValue> = inputs.iter().map(AsRef::as_ref).collect();
        let results = job.compute_together(&inputs, &Stop(&stop));
        results
            .into_iter()
            .map(|result| result.map_or_else(|failure| failure.kind.into(), |ok| ok.get().into()))
            .collect()
    }

    #[test]
    fn on_a_gpu_a_chunk_is_one_tensor_and_a_bad_item_harms_only_itself() {
        for device in ["cuda", "cuda:0"] {
            let job = job(Some(Arc::new(Fake)), device);

            assert!(job.runs_together());
            assert_eq!((job.lane(), job.device().as_str()), (Lane::Vision, "cuda:0"));
            assert_eq!(together(&*job, &["2", "0", "two", "-1"]), ["0.5", "not_finite", "invalid_input", "-1"]);
            assert!(together(&*job, &["{}"]) == ["invalid_input"]);
            let stop = CancellationToken::new();
            assert_eq!(job.compute(&raw(&4), &Stop(&stop)).unwrap().get(), "0.25", "alone it does as well");
        }
    }

    #[test]
    fn a_device_that_is_not_there_fails_every_item_that_it_was_asked_for() {
        let job = job(Some(Arc::new(Fake)), "cuda:1");

        assert_eq!(together(&*job, &["2", "two", "0"]), ["device", "invalid_input", "device"]);
    }

    #[test]
    fn a_chunk_for_which_nobody_waits_is_not_computed() {
        // There is no such device: who asked for it would be told so.
        let job = job(Some(Arc::new(Fake)), "cuda:1");
        let stop = CancellationToken::new();
        stop.cancel();

        let results = job.compute_together(&[&raw(&1), &raw(&2)], &Stop(&stop));

        let kinds: Vec<String> = results.into_iter().map(|result| result.unwrap_err().kind.into()).collect();
        assert_eq!(kinds, ["stopped", "stopped"]);
    }

    #[test]
    fn without_an_engine_a_gpu_is_out_of_reach_and_the_remedy_is_named() {
        let job = job(None, "cuda");
        let stop = CancellationToken::new();

        assert_eq!(job.device(), "none");
        let failure = job.compute_together(&[&raw(&1)], &Stop(&stop)).remove(0).unwrap_err();
        assert!(!failure.retryable && failure.message.contains("tidemill-vision"), "{failure}");
    }

    #[test]
    fn on_the_cpu_items_run_one_by_one_with_an_engine_or_without() {
        for engine in [None, Some(Arc::new(Fake) as Arc<dyn Engine>)] {
            let job = job(engine, "cpu");

            assert!(!job.runs_together());
            assert_eq!((job.lane(), job.device().as_str()), (Lane::Cpu, "cpu"));
        }
    }

    #[test]
    fn a_number_is_read_to_its_last_digit() {
        let register = Register::default().compute(Map::default());
        let job = register.find("compute.map").unwrap().prepare(&raw(&serde_json::json!({"expr": "x"}))).unwrap();
        let stop = CancellationToken::new();
        for number in ["31.245270191439438", "1e-30", "1.602176634e-19", "-0.1", "9007199254740993.5"] {
            let output = job.compute(&raw_word(number), &Stop(&stop)).unwrap();

            // The standard library reads the nearest number there is.
            assert_eq!(output.get().parse::<f64>(), number.parse::<f64>(), "{number}");
        }
    }

    #[test]
    fn an_unknown_device_is_refused() {
        let refused = Map::default().plan(Options { expr: "x".into(), device: "tpu".into() }).unwrap_err();
        assert_eq!(refused.0, "device: \"tpu\" is not among cpu, cuda and cuda:N");
    }
}
