//! `compute.factorize`: prime factors.

mod middle;

use num_prime::nt_funcs::{factorize64, is_prime64};
use tidemill_core::failure::Failure;
use tidemill_core::task::{About, Arguments, Compute, Cost, Invalid, Stop, Task};

use crate::NoOptions;

/// Factors unsigned 64-bit integers.
#[derive(Clone, Copy, Debug)]
pub struct Factorize;

impl Task for Factorize {
    type Input = u64;
    type Options = NoOptions;
    type Output = Vec<u64>;
    type Plan = ();

    fn about(&self) -> About {
        About {
            name: "compute.factorize",
            summary: "Find the prime factors of whole numbers",
            details: "An input is an unsigned 64-bit integer, the output is the list of its prime factors, ascending, \
                      each as often as it divides. 1 has none; 0 is refused.",
            examples: &[
                "tidemill run compute.factorize 37016767 59639200",
                "tidemill run compute.factorize --range 1000000..2000000 --format ndjson",
            ],
            arguments: Arguments::Values,
            makes_files: false,
        }
    }

    fn plan(&self, _options: NoOptions) -> Result<(), Invalid> {
        Ok(())
    }

    fn check(&self, (): &(), input: &u64) -> Result<(), Invalid> {
        if *input == 0 {
            return Err(Invalid("0 has no prime factors; the smallest number allowed is 1".into()));
        }
        Ok(())
    }

    fn cost(&self, (): &()) -> Cost {
        Cost::micros(1)
    }
}

impl Compute for Factorize {
    fn run(&self, (): &(), number: u64, _stop: &Stop<'_>) -> Result<Vec<u64>, Failure> {
        Ok(factors(number))
    }
}

/// The prime factors of `number`, ascending, with multiplicity; none for 0 and 1.
///
/// Small primes are divided out first, and most rests are small enough for [`middle`]: 140 ns a number of the classic
/// load, 620 ns with num-prime for every rest. num-prime does the large ones: a deterministic primality test, and
/// Pollard's rho and relatives for what is composite.
pub fn factors(number: u64) -> Vec<u64> {
    let mut found = Vec::with_capacity(8);
    if number < 2 {
        return found;
    }
    let rest = divide_small(number, &mut found);
    match u32::try_from(rest) {
        Ok(1) => {}
        Ok(rest) if rest < middle::LIMIT => middle::divide(rest, &mut found),
        _ if is_prime64(rest) => found.push(rest),
        _ => found.extend(factorize64(rest).into_iter().flat_map(|(prime, power)| std::iter::repeat_n(prime, power))),
    }
    found
}

/// An odd prime, and what tells its multiples without dividing: `n` is one exactly if `n · inverse` (mod 2^64) is at
/// most `greatest`, and then that product is the quotient.
///
/// # Source
/// T. Granlund and P. L. Montgomery, "Division by Invariant Integers using Multiplication", PLDI 1994, section 9.
struct OddPrime {
    prime: u64,
    inverse: u64,
    greatest: u64,
}

impl OddPrime {
    /// `number` divided by it, where it divides.
    fn quotient(&self, number: u64) -> Option<u64> {
        let quotient = number.wrapping_mul(self.inverse);
        (quotient <= self.greatest).then_some(quotient)
    }
}

/// How many odd primes are divided out; the first left out is [`AFTER_SMALL`].
const SMALL: usize = 53;
const AFTER_SMALL: u64 = 257;

static SMALL_PRIMES: [OddPrime; SMALL] = small_primes();

const fn small_primes() -> [OddPrime; SMALL] {
    let mut primes = [const { OddPrime { prime: 0, inverse: 0, greatest: 0 } }; SMALL];
    let (mut count, mut candidate) = (0, 3u64);
    while count < SMALL {
        let mut divisor = 3;
        while divisor * divisor <= candidate && !candidate.is_multiple_of(divisor) {
            divisor += 2;
        }
        if divisor * divisor > candidate {
            // Newton's iteration doubles the correct bits each time: 3 at the start, 96 after five.
            let (mut inverse, mut step) = (candidate, 0);
            while step < 5 {
                inverse = inverse.wrapping_mul(2u64.wrapping_sub(candidate.wrapping_mul(inverse)));
                step += 1;
            }
            primes[count] = OddPrime { prime: candidate, inverse, greatest: u64::MAX / candidate };
            count += 1;
        }
        candidate += 2;
    }
    primes
}

/// Moves the factors below [`AFTER_SMALL`] into `found` and gives what is left, which is 1 or has none of them.
///
/// It first asks every prime whether it divides, without a branch, and then goes to those that do: 60 ns, 90 ns when it
/// divided as it went.
fn divide_small(number: u64, found: &mut Vec<u64>) -> u64 {
    let twos = number.trailing_zeros();
    found.extend(std::iter::repeat_n(2, twos as usize));
    let mut rest = number >> twos;
    let mut dividing = 0u64;
    for (place, small) in SMALL_PRIMES.iter().enumerate() {
        dividing |= u64::from(small.quotient(rest).is_some()) << place;
    }
    while dividing != 0 {
        let small = &SMALL_PRIMES[dividing.trailing_zeros() as usize];
        while let Some(quotient) = small.quotient(rest) {
            rest = quotient;
            found.push(small.prime);
        }
        dividing &= dividing - 1;
    }
    rest
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::scenario::Seeded;

    #[test]
    fn the_numbers_of_the_catalogue_come_out() {
        assert_eq!(factors(37_016_767), [73, 507_079]);
        assert_eq!(factors(59_639_200), [2, 2, 2, 2, 2, 5, 5, 127, 587]);
    }

    #[test]
    fn the_edges_are_right() {
        assert!(factors(1).is_empty());
        assert_eq!(factors(2), [2]);
        assert_eq!(factors(251), [251]);
        assert_eq!(factors(257), [257]);
        assert_eq!(factors(257 * 257), [257, 257]);
        assert_eq!(factors(1 << 63), [2; 63]);
        assert_eq!(factors(u64::MAX), [3, 5, 17, 257, 641, 65_537, 6_700_417]);
        assert_eq!(factors(18_446_744_073_709_551_557), [18_446_744_073_709_551_557]);
        assert_eq!(factors(4_294_967_291 * 4_294_967_279), [4_294_967_279, 4_294_967_291]);
        assert_eq!(factors(4_294_967_291 * 4_294_967_291), [4_294_967_291, 4_294_967_291]);
    }

    #[test]
    fn every_number_up_to_a_hundred_thousand_agrees_with_trial_division() {
        for number in 1..100_000u64 {
            let (mut rest, mut expected) = (number, Vec::new());
            for divisor in 2.. {
                if divisor * divisor > rest {
                    break;
                }
                while rest.is_multiple_of(divisor) {
                    expected.push(divisor);
                    rest /= divisor;
                }
            }
            expected.extend((rest > 1).then_some(rest));
            assert_eq!(factors(number), expected, "{number}");
        }
    }

    #[test]
    fn the_loads_of_the_catalogue_are_right_and_the_hard_cases_quick() {
        let mut chance = Seeded::new(1);
        let classic: Vec<u64> = (0..10_000).map(|_| chance.number(20_000..=100_000_000)).collect();
        let random: Vec<u64> = (0..1000).map(|_| chance.number(1..=u64::MAX)).collect();
        let mut large = || chance.number(1 << 31..=u64::from(u32::MAX));
        let mut prime = || std::iter::repeat_with(&mut large).find(|n| is_prime64(*n)).unwrap();
        let hard: Vec<u64> = (0..100).map(|_| prime() * prime()).collect();
        for number in classic.into_iter().chain(random) {
            let factors = factors(number);
            assert_eq!(factors.iter().product::<u64>(), number);
            assert!(factors.is_sorted() && factors.iter().all(|factor| is_prime64(*factor)), "{number}: {factors:?}");
        }
        let began = std::time::Instant::now();
        assert!(hard.iter().all(|number| factors(*number).len() == 2));
        assert!(began.elapsed().as_millis() < 100 * 100, "100 took {:?}", began.elapsed());
    }

    proptest! {
        #[test]
        fn factors_multiply_back_and_are_prime_and_ascend(number in 1u64..) {
            let factors = factors(number);
            prop_assert_eq!(factors.iter().product::<u64>(), number);
            prop_assert!(factors.is_sorted());
            prop_assert!(factors.iter().all(|factor| is_prime64(*factor)));
        }

        #[test]
        fn small_numbers_factors_multiply_back_and_are_prime_and_ascend(number in 20_000u64..1_000_000_000) {
            let factors = factors(number);
            prop_assert_eq!(factors.iter().product::<u64>(), number);
            prop_assert!(factors.is_sorted());
            prop_assert!(factors.iter().all(|factor| is_prime64(*factor)));
        }
    }
}
