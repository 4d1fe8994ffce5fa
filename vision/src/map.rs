//! Expressions of x over many numbers at once: exmex parses, libtorch computes.
//!
//! ```text
//!  "x*x - 2*x" ──► exmex ──► operators in order        x: one tensor [n], f64, on the device
//!                  (constants folded, on the CPU)      │ a kernel an operator
//!                                                      ▼
//!                                                      values: [n]
//! ```
//!
//! The operators are those that exmex itself gives to 64-bit floats, with their priorities: a tensor gives what the
//! same expression gives number by number. Where libtorch's function of a name differs (it rounds halves to even), the
//! one here follows Rust's.

use std::num::ParseFloatError;
use std::str::FromStr;
use std::sync::{Mutex, PoisonError};

use exmex::{BinOp, Express as _, FlatEx, FloatOpsFactory, MakeOperators, Operator};
use tch::{Kind, TchError, Tensor};
use tidemill_core::failure::Failure;

use crate::device::Device;
use crate::torch;

/// An expression over [`Operand`]s.
type Expression = FlatEx<Operand, TensorOperators>;
type Computed = Result<Tensor, TchError>;

/// Computes expressions over tensors. Keeps the last one parsed, as chunk after chunk has the same.
#[derive(Debug, Default)]
pub(crate) struct Mapper {
    last: Mutex<Option<Expression>>,
}

impl Mapper {
    /// The expression's value for each `x`.
    ///
    /// # Errors
    /// Where the text is no expression of `x` (permanent) or the device failed (another batch's memory may be free by
    /// the next attempt).
    pub(crate) fn map(&self, text: &str, device: Device, xs: &[f64]) -> Result<Vec<f64>, Failure> {
        let expression = self.expression(text)?;
        let failed =
            |error: TchError| Failure::transient("device", format!("{device} failed: {}", torch::reason(&error)));
        let x = Tensor::f_from_slice(xs).and_then(|x| x.f_to_device(torch::device(device))).map_err(failed)?;
        match expression.eval_relaxed(&[Operand::Tensor(x)]).map_err(|error| unreadable(text, &error))? {
            Operand::Number(number) => Ok(vec![number; xs.len()]),
            Operand::Tensor(values) => {
                values.f_to_device(tch::Device::Cpu).and_then(|values| Vec::try_from(&values)).map_err(failed)
            }
            Operand::Failed(reason) => Err(Failure::transient("device", format!("{device} failed: {reason}"))),
        }
    }

    fn expression(&self, text: &str) -> Result<Expression, Failure> {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(expression) = last.as_ref().filter(|expression| expression.unparse() == text) {
            return Ok(expression.clone());
        }
        let expression = Expression::parse(text).map_err(|error| unreadable(text, &error))?;
        Ok(last.insert(expression).clone())
    }
}

fn unreadable(text: &str, error: &exmex::ExError) -> Failure {
    Failure::permanent("expression", format!("cannot compute {text:?}: {error}"))
}

/// What the operators work on. Errors travel in it, since exmex's operators cannot fail.
#[derive(Debug)]
enum Operand {
    /// The same for every `x`: what stands in the text. Among themselves numbers stay on the CPU.
    Number(f64),
    /// One for each `x`.
    Tensor(Tensor),
    /// An operator failed on the device; why.
    Failed(String),
}

impl Clone for Operand {
    fn clone(&self) -> Self {
        match self {
            Self::Number(number) => Self::Number(*number),
            Self::Tensor(tensor) => Self::Tensor(tensor.shallow_clone()),
            Self::Failed(reason) => Self::Failed(reason.clone()),
        }
    }
}

impl Default for Operand {
    fn default() -> Self {
        Self::Number(0.0)
    }
}

impl FromStr for Operand {
    type Err = ParseFloatError;

    fn from_str(text: &str) -> Result<Self, ParseFloatError> {
        text.parse().map(Self::Number)
    }
}

impl From<Computed> for Operand {
    fn from(computed: Computed) -> Self {
        computed.map_or_else(|error| Self::Failed(torch::reason(&error)), Self::Tensor)
    }
}

impl Operand {
    fn each(self, number: fn(f64) -> f64, tensor: fn(&Tensor) -> Computed) -> Self {
        match self {
            Self::Number(x) => Self::Number(number(x)),
            Self::Tensor(x) => tensor(&x).into(),
            Self::Failed(_) => self,
        }
    }

    fn with(self, other: Self, number: fn(f64, f64) -> f64, tensor: fn(&Tensor, &Tensor) -> Computed) -> Self {
        match (self, other) {
            (Self::Failed(reason), _) | (_, Self::Failed(reason)) => Self::Failed(reason),
            (Self::Number(a), Self::Number(b)) => Self::Number(number(a, b)),
            (Self::Tensor(a), Self::Tensor(b)) => tensor(&a, &b).into(),
            (Self::Tensor(a), Self::Number(b)) => beside(&a, b).and_then(|b| tensor(&a, &b)).into(),
            (Self::Number(a), Self::Tensor(b)) => beside(&b, a).and_then(|a| tensor(&a, &b)).into(),
        }
    }
}

/// A number as a tensor without dimensions, on the tensor's device.
///
/// As a scalar libtorch would take its short cuts: on CUDA it multiplies by 1/3 instead of dividing by 3, so that 49/49 is
/// not 1, and the power 0.5 becomes a square root, which differs at minus infinity.
fn beside(tensor: &Tensor, number: f64) -> Computed {
    Tensor::f_full([0_i64; 0], number, (Kind::Double, tensor.device()))
}

/// exmex's operators for floats, over tensors.
#[derive(Clone, Debug)]
struct TensorOperators;

impl MakeOperators<Operand> for TensorOperators {
    fn make<'a>() -> Vec<Operator<'a, Operand>> {
        FloatOpsFactory::<f64>::make().iter().filter_map(over_tensors).collect()
    }
}

/// The operator with the same name, priority and meaning, `None` for one that is not known here.
fn over_tensors<'a>(operator: &Operator<'a, f64>) -> Option<Operator<'a, Operand>> {
    let name = operator.repr();
    if let Some(number) = operator.constant() {
        return Some(Operator::make_constant(name, Operand::Number(number)));
    }
    let binary = |BinOp { prio, is_commutative, .. }| Some(BinOp { apply: binary(name)?, prio, is_commutative });
    match (operator.bin(), operator.has_unary()) {
        (Ok(known), true) => Some(Operator::make_bin_unary(name, binary(known)?, unary(name)?)),
        (Ok(known), false) => Some(Operator::make_bin(name, binary(known)?)),
        (Err(_), _) => Some(Operator::make_unary(name, unary(name)?)),
    }
}

/// The operator of that name between two operands.
fn binary(name: &str) -> Option<fn(Operand, Operand) -> Operand> {
    let apply: fn(Operand, Operand) -> Operand = match name {
        "^" => |a, b| a.with(b, f64::powf, Tensor::f_pow),
        "*" => |a, b| a.with(b, |a, b| a * b, Tensor::f_mul),
        "/" => |a, b| a.with(b, |a, b| a / b, Tensor::f_div),
        "+" => |a, b| a.with(b, |a, b| a + b, Tensor::f_add),
        "-" => |a, b| a.with(b, |a, b| a - b, Tensor::f_sub),
        "atan2" => |y, x| y.with(x, f64::atan2, Tensor::f_atan2),
        // f: as Rust's, they give the other number where one is none.
        "min" => |a, b| a.with(b, f64::min, Tensor::f_fmin),
        "max" => |a, b| a.with(b, f64::max, Tensor::f_fmax),
        _ => return None,
    };
    Some(apply)
}

/// The operator or function of that name before one operand.
fn unary(name: &str) -> Option<fn(Operand) -> Operand> {
    let apply: fn(Operand) -> Operand = match name {
        "+" => |x| x,
        "-" => |x| x.each(|x| -x, Tensor::f_neg),
        "abs" => |x| x.each(f64::abs, Tensor::f_abs),
        "signum" => |x| x.each(f64::signum, signum),
        "sin" => |x| x.each(f64::sin, Tensor::f_sin),
        "cos" => |x| x.each(f64::cos, Tensor::f_cos),
        "tan" => |x| x.each(f64::tan, Tensor::f_tan),
        "asin" => |x| x.each(f64::asin, Tensor::f_asin),
        "acos" => |x| x.each(f64::acos, Tensor::f_acos),
        "atan" => |x| x.each(f64::atan, Tensor::f_atan),
        "sinh" => |x| x.each(f64::sinh, Tensor::f_sinh),
        "cosh" => |x| x.each(f64::cosh, Tensor::f_cosh),
        "tanh" => |x| x.each(f64::tanh, Tensor::f_tanh),
        "asinh" => |x| x.each(f64::asinh, Tensor::f_asinh),
        "acosh" => |x| x.each(f64::acosh, Tensor::f_acosh),
        "atanh" => |x| x.each(f64::atanh, Tensor::f_atanh),
        "floor" => |x| x.each(f64::floor, Tensor::f_floor),
        "round" => |x| x.each(f64::round, round),
        "ceil" => |x| x.each(f64::ceil, Tensor::f_ceil),
        "trunc" => |x| x.each(f64::trunc, Tensor::f_trunc),
        "fract" => |x| x.each(f64::fract, Tensor::f_frac),
        "exp" => |x| x.each(f64::exp, Tensor::f_exp),
        "sqrt" => |x| x.each(f64::sqrt, Tensor::f_sqrt),
        "cbrt" => |x| x.each(f64::cbrt, cbrt),
        "ln" | "log" => |x| x.each(f64::ln, Tensor::f_log),
        "log2" => |x| x.each(f64::log2, Tensor::f_log2),
        "log10" => |x| x.each(f64::log10, Tensor::f_log10),
        _ => return None,
    };
    Some(apply)
}

/// 1 with the sign of x, also for zeros; libtorch's `sign` gives 0 there.
fn signum(x: &Tensor) -> Computed {
    let sign = beside(x, 1.0)?.f_copysign(x)?;
    x.f_where_self(&x.f_isnan()?, &sign)
}

/// Halves away from zero; libtorch's `round` takes them to the even neighbour.
fn round(x: &Tensor) -> Computed {
    // The largest number below one half: a half itself would lift 0.49999999999999994 to 1.
    let half = beside(x, 0.5 - f64::EPSILON / 4.0)?.f_copysign(x)?;
    x.f_add(&half)?.f_trunc()
}

/// The cube root, which libtorch does not have: a power, and one step of Newton's, so that 64 gives 4.
fn cbrt(x: &Tensor) -> Computed {
    let root = x.f_abs()?.f_pow(&beside(x, 1.0 / 3.0)?)?.f_copysign(x)?;
    let square = root.f_mul(&root)?;
    let step = square.f_mul(&root)?.f_sub(x)?.f_div(&square.f_mul(&beside(x, 3.0)?)?)?;
    // At zero and infinity there is no step, and none is needed.
    root.f_sub(&step)?.f_where_self(&step.f_isfinite()?, &root)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Numbers of every size, and those at which functions turn.
    fn numbers() -> Vec<f64> {
        let steps = (-400..=400).map(|step| f64::from(step) * 0.37 / 7.0);
        let whole = (-130..=130).map(f64::from);
        let halves = (-9..=9).map(|half| f64::from(half) / 2.0);
        let large = (-300..=300).step_by(12).flat_map(|power| [1.7 * 10f64.powi(power), -2.3 * 10f64.powi(power)]);
        let edges = [
            0.0,
            -0.0,
            1.0 - f64::EPSILON / 2.0,
            0.499_999_999_999_999_94,
            -0.499_999_999_999_999_94,
            4_503_599_627_370_495.5,
            -4_503_599_627_370_495.5,
            f64::MAX,
            f64::MIN,
            f64::MIN_POSITIVE,
            5e-324,
            f64::INFINITY,
            f64::NEG_INFINITY,
            f64::NAN,
        ];
        steps.chain(whole).chain(halves).chain(large).chain(edges).collect()
    }

    /// Checks that the tensor has what exmex computes number by number.
    fn agrees(mapper: &Mapper, text: &str) {
        let xs = numbers();
        let expression = exmex::parse::<f64>(text).unwrap();

        let values = mapper.map(text, Device::Cpu, &xs).unwrap();

        assert_eq!(values.len(), xs.len());
        for (x, value) in xs.into_iter().zip(values) {
            let expected = expression.eval_relaxed(&[x]).unwrap();
            let is_same = value == expected || value.is_nan() && expected.is_nan();
            let is_close = expected.is_finite() && (value - expected).abs() <= 1e-12 * expected.abs();
            // Rust's asinh and acosh double x on their way and overflow near the largest; libtorch's do not.
            let overflowed = matches!(text, "asinh(x)" | "acosh(x)") && expected.is_infinite() && x.abs() == f64::MAX;
            assert!(is_same || is_close || overflowed, "{text} for x = {x:e}: {value:e}, not {expected:e}");
        }
    }

    #[test]
    fn every_operator_of_floats_is_known_with_its_priority() {
        let known = FloatOpsFactory::<f64>::make();
        let ours = TensorOperators::make();

        let name = |operator: &Operator<f64>| operator.repr().to_owned();
        let our_name = |operator: &Operator<Operand>| operator.repr().to_owned();
        assert_eq!(ours.iter().map(our_name).collect::<Vec<_>>(), known.iter().map(name).collect::<Vec<_>>());
        for (ours, known) in ours.iter().zip(&known) {
            let priority = known.bin().ok().map(|known| (known.prio, known.is_commutative));
            assert_eq!(ours.bin().ok().map(|ours| (ours.prio, ours.is_commutative)), priority, "{}", known.repr());
            assert_eq!(ours.has_unary(), known.has_unary(), "{}", known.repr());
        }
    }

    #[test]
    fn every_operator_gives_over_a_tensor_what_it_gives_number_by_number() {
        let mapper = Mapper::default();
        for operator in FloatOpsFactory::<f64>::make() {
            let name = operator.repr();
            if operator.constant().is_some() {
                agrees(&mapper, name);
                agrees(&mapper, &format!("x * {name}"));
            }
            if operator.has_unary() {
                agrees(&mapper, &format!("{name}(x)"));
                agrees(&mapper, &format!("{name}(0.75)"));
            }
            if operator.has_bin() {
                for other in ["0", "0.5", "(-0.5)", "1", "(-1)", "2", "(-2)", "3", "49", "2.5", "(-7.25)"] {
                    agrees(&mapper, &format!("x {name} {other}"));
                    agrees(&mapper, &format!("{other} {name} x"));
                }
                agrees(&mapper, &format!("x {name} x"));
                agrees(&mapper, &format!("x {name} floor(x / 3)"));
            }
        }
    }

    #[test]
    fn operators_bind_as_they_do_number_by_number() {
        let mapper = Mapper::default();
        for text in [
            "x*x - 2*x",
            "-2*x^2 + 3*sin(x) / (1 + x*x) - 2^3*PI",
            "2*x/3*x/x^2 - -x",
            "max(min(x, 3), 0 - 3) + atan2(x, 1 + 2*3)",
            "sqrt(abs(x)) * ln(1 + x^2) - (1 - E)",
            "{x} + 1",
        ] {
            agrees(&mapper, text);
        }
    }

    #[test]
    fn whole_cubes_have_whole_roots() {
        let roots: Vec<f64> = (-2000..=2000).map(f64::from).collect();
        let cubes: Vec<f64> = roots.iter().map(|root| root * root * root).collect();

        assert_eq!(Mapper::default().map("cbrt(x)", Device::Cpu, &cubes).unwrap(), roots);
    }

    #[test]
    fn the_last_expression_is_kept_and_another_takes_its_place() {
        let mapper = Mapper::default();
        for (text, expected) in [("x + 1", [3.0, 4.0]), ("x + 1", [3.0, 4.0]), ("x * 2", [4.0, 6.0]), ("7", [7.0, 7.0])]
        {
            assert_eq!(mapper.map(text, Device::Cpu, &[2.0, 3.0]).unwrap(), expected);
            assert_eq!(mapper.last.lock().unwrap().as_ref().unwrap().unparse(), text);
        }
    }

    #[test]
    fn what_is_no_expression_of_x_fails_for_good() {
        for text in ["x +", "x + y", "system(x)"] {
            let failure = Mapper::default().map(text, Device::Cpu, &[1.0]).unwrap_err();
            assert_eq!((failure.kind.as_ref(), failure.retryable), ("expression", false), "{text}");
        }
    }
}
