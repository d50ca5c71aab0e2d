//! Generates questions of made-up words, with beginnings, lengths and repetitions like VQA2.0's.

use std::sync::LazyLock;

use rand::distr::{Distribution, weighted::WeightedIndex};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use vqa_data::questions::import::QUESTION_BEGINNINGS;

/// The question types of VQA2.0's annotations, most frequent first.
static TYPES: LazyLock<Vec<&str>> = LazyLock::new(|| {
    let mut types = QUESTION_BEGINNINGS.to_vec();
    types.insert(5, NO_TYPE);
    types
});

/// The type of the questions that begin with anything else.
const NO_TYPE: &str = "none of the above";

/// How many of a hundred questions are of each type: three frequent ones, and a tail down to a tenth of one.
static TYPE_SHARES: LazyLock<WeightedIndex<f64>> = LazyLock::new(|| {
    let tail = (3..TYPES.len()).map(|nth| 4.5 * 0.94f64.powi(nth as i32 - 3));
    WeightedIndex::new([9.5, 9.0, 8.0].into_iter().chain(tail)).expect("shares are positive")
});

/// How many of a hundred questions have three words, four, and so on.
static LENGTHS: LazyLock<WeightedIndex<f64>> = LazyLock::new(|| {
    let shares = [5.0, 15.0, 24.0, 21.0, 14.0, 8.5, 5.0, 3.0, 1.5, 1.0, 0.6, 0.4, 0.25, 0.15];
    WeightedIndex::new(shares).expect("shares are positive")
});

const N_WORDS: usize = 18_000;

/// The probability that a question is drawn from the popular ones, and how many of these there are.
const POPULAR: f64 = 0.3;
const N_POPULAR: f64 = 40_000.0;

/// Draws a question, and returns its type and text. Of several hundred thousand, a third are drawn more than once.
pub fn question(rng: &mut impl Rng) -> (&'static str, String) {
    if rng.random_bool(POPULAR) {
        // The n-th popular question is asked about 1/sqrt(n) times as often as the first one.
        let nth = (N_POPULAR * rng.random::<f64>().powi(2)) as u64;
        return new_question(&mut ChaCha8Rng::seed_from_u64(nth));
    }
    new_question(rng)
}

fn new_question(rng: &mut impl Rng) -> (&'static str, String) {
    let question_type = TYPES[TYPE_SHARES.sample(rng)];
    let beginning = if question_type == NO_TYPE { "" } else { question_type };
    let mut words: Vec<String> = beginning.split_whitespace().map(str::to_owned).collect();
    let n_words = (3 + LENGTHS.sample(rng)).max(words.len() + 1);
    words.resize_with(n_words, || word(zipf(rng, N_WORDS)));
    words[0][..1].make_ascii_uppercase();
    (question_type, words.join(" ") + "?")
}

/// Draws a number below `n`, following Zipf's law: the n-th most frequent word of a language is about 1/n as frequent
/// as the first.
pub fn zipf(rng: &mut impl Rng, n: usize) -> usize {
    ((n as f64).powf(rng.random::<f64>()) - 1.0) as usize
}

/// The n-th made-up word.
pub fn word(mut n: usize) -> String {
    const SYLLABLES: [&str; 20] = [
        "ba", "ce", "di", "fo", "gu", "ha", "je", "ki", "lo", "mu", "na", "pe", "ri", "so", "tu", "va", "we", "xi",
        "yo", "zu",
    ];
    let mut word = String::new();
    loop {
        word.push_str(SYLLABLES[n % 20]);
        n /= 20;
        if n == 0 {
            return word;
        }
    }
}
