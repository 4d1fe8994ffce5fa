//! Expressions, read by the rules of mathematics and written out for exmex, whose own rules are others: to it -x^2 is
//! (-x)^2 and 2^3^2 is (2^3)^2, and of 1e3 it knows nothing.
//!
//! ```text
//!  sum     = product  { (+ | -) product }
//!  product = signed   { (* | /) signed }
//!  signed  = (+ | -) signed | power
//!  power   = value [ ^ signed ]                      so ^ groups to the right, and before the sign on its left
//!  value   = number | x | PI … | name ( sum [, sum] ) | ( sum )
//! ```

use tidemill_core::nearest::{did_you_mean, nearest};

/// Functions of one value.
const OF_ONE: [&str; 26] = [
    "abs", "signum", "sin", "cos", "tan", "asin", "acos", "atan", "sinh", "cosh", "tanh", "asinh", "acosh", "atanh",
    "floor", "round", "ceil", "trunc", "fract", "exp", "sqrt", "cbrt", "ln", "log2", "log10", "log",
];
/// Functions of two values. To exmex they are operators.
const OF_TWO: [&str; 3] = ["atan2", "min", "max"];
const CONSTANTS: [&str; 6] = ["PI", "π", "E", "e", "TAU", "τ"];
/// Deeper ones are refused: nobody types them, and each level takes its part of the stack. Parentheses are two levels.
const MAX_DEPTH: usize = 200;

/// Writes an expression with every parenthesis that its meaning needs to exmex.
///
/// # Errors
/// What is wrong with it and at which character, for people.
pub(super) fn for_exmex(text: &str) -> Result<String, String> {
    let mut reader = Reader { text, place: 0, depth: 0 };
    let sum = reader.sum()?;
    match reader.rest().chars().next() {
        None => Ok(sum),
        Some(')') => Err(format!("the ) at {} closes nothing", reader.here())),
        Some(_) => Err(reader.unexpected("an operator (+ - * / ^)")),
    }
}

/// Comes through the text from the left.
struct Reader<'a> {
    text: &'a str,
    /// In bytes.
    place: usize,
    depth: usize,
}

impl<'a> Reader<'a> {
    fn sum(&mut self) -> Result<String, String> {
        self.chain(&['+', '-'], Self::product)
    }

    fn product(&mut self) -> Result<String, String> {
        self.chain(&['*', '/'], Self::signed)
    }

    /// What stands between operators of one rank, grouped to the left, each with parentheses of its own: to exmex - comes
    /// before + and / before *, and of sqrt(x+1+2) it adds 1 and 2 first and takes the root of that sum.
    fn chain(
        &mut self,
        operators: &[char],
        next: impl Fn(&mut Self) -> Result<String, String>,
    ) -> Result<String, String> {
        let mut all = next(self)?;
        let mut groups = 0;
        while let Some(operator) = self.rest().chars().next().filter(|next| operators.contains(next)) {
            self.place += 1;
            all.push(operator);
            all.push_str(&next(self)?);
            all.push(')');
            groups += 1;
        }
        all.insert_str(0, &"(".repeat(groups));
        Ok(all)
    }

    fn signed(&mut self) -> Result<String, String> {
        self.deeper(|reader| {
            if reader.takes('-') {
                return Ok(format!("(-({}))", reader.signed()?));
            }
            if reader.takes('+') { reader.signed() } else { reader.power() }
        })
    }

    fn power(&mut self) -> Result<String, String> {
        let base = self.value()?;
        if self.takes('^') { Ok(format!("({base}^({}))", self.signed()?)) } else { Ok(base) }
    }

    fn value(&mut self) -> Result<String, String> {
        let rest = self.rest();
        match rest.chars().next() {
            Some('(') => Ok(format!("({})", self.in_parentheses(1)?.remove(0))),
            Some(first) if first.is_ascii_digit() || first == '.' => self.number(),
            Some(first) if first.is_alphabetic() => self.named(),
            _ => Err(self.unexpected("a number, x, a function or a parenthesis")),
        }
    }

    /// Written without an exponent, as exmex reads numbers.
    fn number(&mut self) -> Result<String, String> {
        let rest = self.rest();
        let digits = |text: &str| text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
        let mut end = digits(rest);
        if rest[end..].starts_with('.') {
            end += 1 + digits(&rest[end + 1..]);
        }
        if let Some(exponent) = rest[end..].strip_prefix(['e', 'E']) {
            let unsigned = exponent.strip_prefix(['+', '-']).unwrap_or(exponent);
            if digits(unsigned) > 0 {
                end = rest.len() - unsigned.len() + digits(unsigned);
            }
        }
        let number = &rest[..end];
        match number.parse::<f64>() {
            Ok(value) if value.is_finite() => {
                self.place += end;
                Ok(value.to_string())
            }
            Ok(_) => Err(format!("{number} at {} is too large", self.here())),
            Err(_) => Err(self.unexpected("a number, x, a function or a parenthesis")),
        }
    }

    fn named(&mut self) -> Result<String, String> {
        let rest = self.rest();
        let name = &rest[..rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len())];
        let here = self.here();
        if name == "x" || CONSTANTS.contains(&name) {
            self.place += name.len();
            return Ok(name.to_owned());
        }
        let wanted = match name {
            _ if OF_ONE.contains(&name) => 1,
            _ if OF_TWO.contains(&name) => 2,
            _ => {
                let known = OF_ONE.into_iter().chain(OF_TWO).chain(CONSTANTS);
                let near = if name.chars().count() > 1 { did_you_mean(&nearest(name, known)) } else { String::new() };
                return Err(format!("{name} at {here} is not known; the only variable is x{near}"));
            }
        };
        self.place += name.len();
        if !self.rest().starts_with('(') {
            return Err(format!("{name} at {here} wants its value in parentheses: {name}(…)"));
        }
        let mut values = self.in_parentheses(wanted)?;
        match values.pop() {
            Some(second) if wanted == 2 => Ok(format!("(({}){name}({second}))", values.concat())),
            one => Ok(format!("{name}({})", one.unwrap_or_default())),
        }
    }

    /// So many values with commas between them.
    fn in_parentheses(&mut self, wanted: usize) -> Result<Vec<String>, String> {
        let opened = self.here();
        self.place += 1;
        let mut values = vec![self.deeper(Self::sum)?];
        while values.len() < wanted && self.takes(',') {
            values.push(self.deeper(Self::sum)?);
        }
        if values.len() == wanted && self.takes(')') {
            return Ok(values);
        }
        Err(match self.rest().chars().next() {
            None => format!("the ( at {opened} is not closed"),
            Some(',') => format!("the , at {} is one too many", self.here()),
            Some(')') => format!("a second value is missing before the ) at {}", self.here()),
            Some(_) => self.unexpected("an operator (+ - * / ^) or a )"),
        })
    }

    fn deeper<T>(&mut self, read: impl FnOnce(&mut Self) -> Result<T, String>) -> Result<T, String> {
        if self.depth == MAX_DEPTH {
            return Err(format!("at {} it is nested too deep", self.here()));
        }
        self.depth += 1;
        let read = read(self);
        self.depth -= 1;
        read
    }

    fn takes(&mut self, wanted: char) -> bool {
        let is_there = self.rest().starts_with(wanted);
        self.place += usize::from(is_there);
        is_there
    }

    /// What is left, from the next character that is no space.
    fn rest(&mut self) -> &'a str {
        let rest = self.text[self.place..].trim_start();
        self.place = self.text.len() - rest.len();
        rest
    }

    /// Where that is.
    fn here(&self) -> String {
        format!("character {}", self.text[..self.place].chars().count() + 1)
    }

    fn unexpected(&mut self, expected: &str) -> String {
        let rest = self.rest();
        match rest.chars().next() {
            None => format!("at its end {expected} is missing"),
            Some(first) => {
                let is_part = |c: &char| c.is_alphanumeric() || *c == '_' || *c == '.';
                let word: String = rest.chars().take_while(is_part).collect();
                let found = if word.is_empty() { first.to_string() } else { word };
                format!("{found} at {} stands where {expected} is expected", self.here())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use exmex::Express as _;
    use proptest::prelude::*;

    use super::*;

    fn value(text: &str, x: f64) -> f64 {
        let expression = exmex::parse::<f64>(&for_exmex(text).unwrap()).unwrap();
        expression.eval_relaxed(&[x]).unwrap()
    }

    #[test]
    fn powers_come_before_signs_and_group_to_the_right_and_the_others_to_the_left() {
        for (text, expected) in [
            ("-x^2", -9.0),
            ("--x^2", 9.0),
            ("(-x)^2", 9.0),
            ("2^-x", 0.125),
            ("2^3^2", 512.0),
            ("(2^3)^2", 64.0),
            ("exp(-x^2)", (-9.0_f64).exp()),
            ("2*-x", -6.0),
            ("x - -x", 6.0),
            ("-x*2 + +1", -5.0),
            ("1-2-x", -4.0),
            ("12/2/x", 2.0),
            ("x*2/4", 1.5),
            ("1/2*x", 1.5),
            ("1 + 1e16 - 1e16", 0.0),
            ("2*x^2*3", 54.0),
            ("-max(x, 5)^2", -25.0),
            ("min(max(x, 1), atan2(0, -1)) + 1", 4.0),
            ("max((x), (2 - 1) * 4)", 4.0),
            ("2^min(x, 2)", 4.0),
            ("sqrt(x+6+7)", 4.0),
            ("-(x+1+2)", -6.0),
            ("abs(x*2*-4)", 24.0),
            ("sqrt(x*x+3*3+4*4-2*9)", 4.0),
        ] {
            assert_eq!(value(text, 3.0), expected, "{text}: {:?}", for_exmex(text));
        }
    }

    /// An expression, what it is worth for `x`, and how its last operator ranks.
    #[derive(Clone, Debug)]
    struct Known {
        text: String,
        value: f64,
        rank: u8,
    }

    /// Expressions with no more parentheses than they need, and their values by Rust's own arithmetic.
    fn expressions(x: f64) -> impl Strategy<Value = Known> {
        let known = |text: String, value: f64, rank: u8| Known { text, value, rank };
        let number = (1u8..10).prop_map(move |n| known(n.to_string(), n.into(), 4));
        let leaf = prop_oneof![number, Just(known("x".into(), x, 4))];
        leaf.prop_recursive(6, 40, 2, move |part| {
            let within = |part: &Known, rank: u8| {
                if part.rank < rank { format!("({})", part.text) } else { part.text.clone() }
            };
            let of_two = (0u8..5, part.clone(), part.clone()).prop_map(move |(which, one, two)| {
                let (operator, rank, value) = match which {
                    0 => ('+', 1, one.value + two.value),
                    1 => ('-', 1, one.value - two.value),
                    2 => ('*', 2, one.value * two.value),
                    3 => ('/', 2, one.value / two.value),
                    _ => ('^', 3, one.value.powf(two.value)),
                };
                // Those of one rank group to the left, but powers to the right.
                let (left, right) = if rank == 3 { (4, 3) } else { (rank, rank + 1) };
                known(format!("{}{operator}{}", within(&one, left), within(&two, right)), value, rank)
            });
            let of_one = (0u8..4, part).prop_map(move |(which, one)| match which {
                0 => known(format!("sqrt({})", one.text), one.value.sqrt(), 4),
                1 => known(format!("abs({})", one.text), one.value.abs(), 4),
                2 => known(format!("sin({})", one.text), one.value.sin(), 4),
                _ => known(format!("-{}", within(&one, 3)), -one.value, 2),
            });
            prop_oneof![3 => of_two, 1 => of_one]
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]
        #[test]
        fn any_expression_has_the_value_that_it_has_by_hand(known in expressions(0.75)) {
            let found = value(&known.text, 0.75);
            let is_same = found == known.value || (found.is_nan() && known.value.is_nan());
            prop_assert!(is_same, "{} is {}, not {found}; {:?}", known.text, known.value, for_exmex(&known.text));
        }
    }

    #[test]
    fn the_longest_expressions_are_read() {
        let longest = vec!["x"; crate::compute::map::MAX_EXPRESSION_BYTES / 2].join("+");
        assert_eq!(value(&longest, 1.0), 2048.0);
    }

    #[test]
    fn numbers_are_read_as_they_are_written_everywhere() {
        for (text, expected) in [
            ("1e3", 1000.0),
            ("1.5E-3", 0.0015),
            ("2.e+2", 200.0),
            (".5", 0.5),
            ("1e308", 1e308),
            ("5e-324", 5e-324),
            ("E*2", 2.0 * std::f64::consts::E),
            ("\t2*π\n", std::f64::consts::TAU),
        ] {
            assert_eq!(value(text, 0.0), expected, "{text}");
        }
    }

    #[test]
    fn every_function_and_constant_of_exmex_is_known() {
        use exmex::MakeOperators as _;
        let (mut constants, mut of_one, mut of_two) = (Vec::new(), Vec::new(), Vec::new());
        for operator in exmex::FloatOpsFactory::<f64>::make() {
            let name = operator.repr();
            match (operator.constant(), operator.has_bin()) {
                (Some(_), _) => constants.push(name),
                (None, true) => of_two.push(name),
                (None, false) => of_one.push(name),
            }
        }
        of_two.retain(|name| name.len() > 1);
        assert_eq!((constants, of_one), (CONSTANTS.to_vec(), OF_ONE.to_vec()));
        assert_eq!(of_two, OF_TWO);
    }

    #[test]
    fn what_is_wrong_is_said_with_its_place() {
        for (text, problem) in [
            ("", "at its end a number, x, a function or a parenthesis is missing"),
            ("x +", "at its end a number, x, a function or a parenthesis is missing"),
            ("2x", "x at character 2 stands where an operator (+ - * / ^) is expected"),
            ("(x)(2)", "( at character 4 stands where an operator (+ - * / ^) is expected"),
            ("1.2.3", ".3 at character 4 stands where an operator (+ - * / ^) is expected"),
            ("π*2²", "² at character 4 stands where an operator (+ - * / ^) is expected"),
            ("x * / 2", "/ at character 5 stands where a number, x, a function or a parenthesis is expected"),
            ("((x)", "the ( at character 1 is not closed"),
            ("(x 2)", "2 at character 4 stands where an operator (+ - * / ^) or a ) is expected"),
            ("x)", "the ) at character 2 closes nothing"),
            ("sin x", "sin at character 1 wants its value in parentheses: sin(…)"),
            ("sin(x, 2)", "the , at character 6 is one too many"),
            ("min(x)", "a second value is missing before the ) at character 6"),
            ("x + y", "y at character 5 is not known; the only variable is x"),
            ("2*sqr(x)", "sqr at character 3 is not known; the only variable is x; did you mean sqrt?"),
            ("1e400", "1e400 at character 1 is too large"),
            (&"(".repeat(4000), "at character 101 it is nested too deep"),
        ] {
            assert_eq!(for_exmex(text).unwrap_err(), problem, "{text}");
        }
    }
}
