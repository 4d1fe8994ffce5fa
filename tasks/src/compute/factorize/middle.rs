//! Rests of up to eight digits, from which the smallest primes are already divided out: what nearly every number that
//! people factor leaves.
//!
//! Primes are told by two powers, and what is left is divided by the primes up to its root. That takes 75 ns a number of
//! the classic load on top of the small primes; num-prime, with three witnesses, squfof and rho, took 540 ns.

use super::{AFTER_SMALL, SMALL, SMALL_PRIMES};

/// The first prime that the table leaves out.
const AFTER_TABLE: u32 = 10_007;

/// Rests from here on have factors that the table does not know; the test for primes is right below it only.
pub(super) const LIMIT: u32 = AFTER_TABLE * AFTER_TABLE;

/// The primes from [`AFTER_SMALL`] to [`AFTER_TABLE`].
const COUNT: usize = 1229 - 1 - SMALL;

/// Below this it is quicker to divide than to ask first whether the rest is prime (145 ns a number in place of 175).
const DIVIDE_AT_ONCE: u32 = 1500 * 1500;

/// As [`super::OddPrime`], for 32 bits: 14 KB of them stay in the nearest cache.
struct MiddlePrime {
    prime: u32,
    inverse: u32,
    greatest: u32,
}

static PRIMES: [MiddlePrime; COUNT] = primes();

const fn primes() -> [MiddlePrime; COUNT] {
    let mut primes = [const { MiddlePrime { prime: 0, inverse: 0, greatest: 0 } }; COUNT];
    let (mut count, mut candidate) = (0, AFTER_SMALL as u32);
    while count < COUNT {
        let mut small = 0;
        while small < SMALL && !candidate.is_multiple_of(SMALL_PRIMES[small].prime as u32) {
            small += 1;
        }
        if small == SMALL {
            primes[count] =
                MiddlePrime { prime: candidate, inverse: inverse(candidate), greatest: u32::MAX / candidate };
            count += 1;
        }
        candidate += 2;
    }
    primes
}

/// What `odd` is to be multiplied with for 1 (mod 2^32).
const fn inverse(odd: u32) -> u32 {
    // Newton's iteration doubles the correct bits each time: 5 at the start, 40 after three.
    let (mut inverse, mut step) = (odd.wrapping_mul(3) ^ 2, 0);
    while step < 3 {
        inverse = inverse.wrapping_mul(2u32.wrapping_sub(odd.wrapping_mul(inverse)));
        step += 1;
    }
    inverse
}

/// Moves the factors of `rest` into `found`. It is less than [`LIMIT`] and has none below [`AFTER_SMALL`].
pub(super) fn divide(mut rest: u32, found: &mut Vec<u64>) {
    if rest >= DIVIDE_AT_ONCE && is_prime(rest) {
        found.push(rest.into());
        return;
    }
    for middle in &PRIMES {
        if middle.prime * middle.prime > rest {
            break;
        }
        loop {
            let quotient = rest.wrapping_mul(middle.inverse);
            if quotient > middle.greatest {
                break;
            }
            rest = quotient;
            found.push(middle.prime.into());
        }
    }
    if rest > 1 {
        // No smaller square is left: what is left is prime.
        found.push(rest.into());
    }
}

/// Composite numbers below [`LIMIT`], without factors below [`AFTER_SMALL`], whose powers look like a prime's. The tests
/// find them anew.
static FALSE_PRIMES: [u32; 43] = [
    721_801, 873_181, 1_373_653, 1_530_787, 1_987_021, 2_284_453, 3_116_107, 3_363_121, 5_044_033, 5_173_601,
    6_140_161, 6_787_327, 9_863_461, 10_084_177, 11_541_307, 13_694_761, 15_978_007, 16_070_429, 16_853_077,
    16_879_501, 18_366_937, 18_443_701, 25_326_001, 27_331_921, 27_509_653, 27_664_033, 28_527_049, 32_676_481,
    36_307_981, 45_175_201, 46_094_401, 54_029_741, 55_318_957, 55_729_957, 56_479_897, 56_810_137, 61_832_377,
    63_388_033, 66_096_253, 74_927_161, 80_375_707, 94_502_701, 95_451_361,
];

/// Whether `rest` is prime; it keeps to the bounds of [`divide`].
fn is_prime(rest: u32) -> bool {
    looks_prime(rest) && FALSE_PRIMES.binary_search(&rest).is_err()
}

/// Powers of 3 as far as they are looked up, which is for four bits.
const POWERS_OF_3: [u32; 16] = {
    let (mut powers, mut power) = ([1; 16], 1);
    while power < 16 {
        powers[power] = 3 * powers[power - 1];
        power += 1;
    }
    powers
};

/// Euler's criterion: for a prime `n`, `a^((n-1)/2)` is 1 (mod n) if `a` is a square and -1 if it is none. For 2 and 3
/// the remainders of `n` by 8 and by 12 say which.
///
/// Both powers are raised side by side, which hides most of the second one's time: 80 ns, 55 ns for 2 alone, which is
/// fooled ten times as often.
fn looks_prime(n: u32) -> bool {
    let montgomery = Montgomery { n: n.into(), negated_inverse: inverse(n).wrapping_neg() };
    let (n, exponent) = (u64::from(n), (n - 1) / 2);
    let one = (1 << 32) % n;
    let mut bit = exponent.ilog2() - 3;
    let first_bits = exponent >> bit;
    let mut of_2 = (one << first_bits) % n;
    let mut of_3 = one * u64::from(POWERS_OF_3[first_bits as usize]) % n;
    while bit > 0 {
        bit -= 1;
        let is_set = (exponent >> bit) & 1;
        of_2 = montgomery.square(of_2) << is_set;
        of_3 = montgomery.square(of_3);
        of_3 = if is_set == 1 { 3 * of_3 } else { of_3 };
    }
    let expected = |is_square| if is_square { one } else { n - one };
    of_2 % n == expected(matches!(n % 8, 1 | 7)) && of_3 % n == expected(matches!(n % 12, 1 | 11))
}

/// Multiplication without division, of numbers that stand for their 2^32-fold (mod n).
///
/// Squares are less than 2n and are not reduced further. The largest value squared is three times one, and
/// `(6n)² < 2^32 · n` holds up to n = 119,304,647, more than [`LIMIT`].
///
/// # Source
/// P. L. Montgomery, "Modular Multiplication Without Trial Division", Mathematics of Computation 44 (1985).
struct Montgomery {
    n: u64,
    negated_inverse: u32,
}

impl Montgomery {
    fn square(&self, value: u64) -> u64 {
        let square = value * value;
        let multiple = u64::from((square as u32).wrapping_mul(self.negated_inverse));
        (square + multiple * self.n) >> 32
    }
}

#[cfg(test)]
mod tests {
    use num_prime::nt_funcs::is_prime64;

    use super::*;

    fn has_small_factor(number: u32) -> bool {
        SMALL_PRIMES.iter().any(|small| number.is_multiple_of(small.prime as u32))
    }

    /// The least power of 2 that is 1 (mod prime).
    fn order_of_2(prime: u32) -> u32 {
        let (mut order, mut power) = (1, 2);
        while power != 1 {
            (order, power) = (order + 1, 2 * power % prime);
        }
        order
    }

    #[test]
    fn the_table_ends_where_it_says() {
        assert_eq!(u64::from(PRIMES[0].prime), AFTER_SMALL);
        let last = &PRIMES[COUNT - 1];
        assert_eq!(last.prime, 9973);
        assert!((last.prime + 1..AFTER_TABLE).all(|number| !is_prime64(number.into())));
        assert!(PRIMES.iter().all(|middle| middle.prime.wrapping_mul(middle.inverse) == 1));
    }

    #[test]
    fn exactly_the_false_primes_that_are_listed_look_prime() {
        // 2^(n-1) = 1 (mod p), for a prime factor p of n, only if the order of 2 divides n - 1, and so n / p - 1.
        let mut fooled: Vec<u32> = Vec::new();
        for MiddlePrime { prime, .. } in &PRIMES {
            let cofactors = (1..LIMIT.div_ceil(*prime)).step_by(order_of_2(*prime) as usize).skip(1);
            let candidates = cofactors.map(|cofactor| prime * cofactor);
            fooled.extend(candidates.filter(|n| n % 2 == 1 && !has_small_factor(*n) && looks_prime(*n)));
        }
        fooled.sort_unstable();
        fooled.dedup();

        assert_eq!(fooled, FALSE_PRIMES);
    }

    #[test]
    fn primes_are_told_from_composites() {
        let odd = (AFTER_SMALL as u32..LIMIT).step_by(998);
        for number in odd.filter(|number| !has_small_factor(*number)) {
            assert_eq!(is_prime(number), is_prime64(number.into()), "{number}");
        }
    }
}
