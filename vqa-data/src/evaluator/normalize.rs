//! The official evaluator's answer normalisation and accuracy, quirks included.
//!
//! Source: `PythonEvaluationTools/vqaEvaluation/vqaEval.py` of GT-Vision-Lab/VQA, as of March 2021, under Python 3.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::LazyLock;

use crate::python_text::{is_digit, lower, split, strip};

/// The evaluator's punctuation. It does not include `'`, `:`, `.` and others.
const PUNCTUATION: [char; 21] =
    [';', '/', '[', ']', '"', '{', '}', '(', ')', '=', '+', '\\', '_', '-', '>', '<', '@', '`', ',', '?', '!'];

/// At most this many periods are removed: the evaluator passes `re.UNICODE`, which is 32, where `re.sub` expects a
/// count.
const MAX_PERIODS: usize = 32;

const NUMBERS: [(&str, &str); 12] = [
    ("none", "0"),
    ("zero", "0"),
    ("one", "1"),
    ("two", "2"),
    ("three", "3"),
    ("four", "4"),
    ("five", "5"),
    ("six", "6"),
    ("seven", "7"),
    ("eight", "8"),
    ("nine", "9"),
    ("ten", "10"),
];

const ARTICLES: [&str; 3] = ["a", "an", "the"];

/// The evaluator's contractions: pairs of a spelling and its replacement, which mostly adds missing apostrophes.
const CONTRACTIONS: &str = "\
aint ain't|arent aren't|cant can't|couldve could've|couldnt couldn't|couldn'tve couldn't've|\
couldnt've couldn't've|didnt didn't|doesnt doesn't|dont don't|hadnt hadn't|hadnt've hadn't've|\
hadn'tve hadn't've|hasnt hasn't|havent haven't|hed he'd|hed've he'd've|he'dve he'd've|hes he's|howd how'd|\
howll how'll|hows how's|Id've I'd've|I'dve I'd've|Im I'm|Ive I've|isnt isn't|itd it'd|itd've it'd've|\
it'dve it'd've|itll it'll|let's let's|maam ma'am|mightnt mightn't|mightnt've mightn't've|\
mightn'tve mightn't've|mightve might've|mustnt mustn't|mustve must've|neednt needn't|notve not've|\
oclock o'clock|oughtnt oughtn't|ow's'at 'ow's'at|'ows'at 'ow's'at|'ow'sat 'ow's'at|shant shan't|\
shed've she'd've|she'dve she'd've|she's she's|shouldve should've|shouldnt shouldn't|\
shouldnt've shouldn't've|shouldn'tve shouldn't've|somebody'd somebodyd|somebodyd've somebody'd've|\
somebody'dve somebody'd've|somebodyll somebody'll|somebodys somebody's|someoned someone'd|\
someoned've someone'd've|someone'dve someone'd've|someonell someone'll|someones someone's|\
somethingd something'd|somethingd've something'd've|something'dve something'd've|\
somethingll something'll|thats that's|thered there'd|thered've there'd've|there'dve there'd've|\
therere there're|theres there's|theyd they'd|theyd've they'd've|they'dve they'd've|theyll they'll|\
theyre they're|theyve they've|twas 'twas|wasnt wasn't|wed've we'd've|we'dve we'd've|weve we've|\
werent weren't|whatll what'll|whatre what're|whats what's|whatve what've|whens when's|whered where'd|\
wheres where's|whereve where've|whod who'd|whod've who'd've|who'dve who'd've|wholl who'll|whos who's|\
whove who've|whyll why'll|whyre why're|whys why's|wont won't|wouldve would've|wouldnt wouldn't|\
wouldnt've wouldn't've|wouldn'tve wouldn't've|yall y'all|yall'll y'all'll|y'allll y'all'll|\
yall'd've y'all'd've|y'alld've y'all'd've|y'all'dve y'all'd've|youd you'd|youd've you'd've|\
you'dve you'd've|youll you'll|youre you're|youve you've";

static CONTRACTION_OF: LazyLock<HashMap<&str, &str>> =
    LazyLock::new(|| CONTRACTIONS.split('|').filter_map(|pair| pair.split_once(' ')).collect());

/// Normalises an answer as the official evaluator does: line breaks and tabs to spaces, trimmed, then
/// punctuation, then digits, articles and contractions.
///
/// ```
/// use vqa_data::evaluator::normalize_answer;
/// assert_eq!(normalize_answer("The Two dogs."), "2 dogs");
/// assert_eq!(normalize_answer("1,000"), "1000");
/// assert_eq!(normalize_answer("dont"), "don't");
/// ```
pub fn normalize_answer(answer: &str) -> Cow<'_, str> {
    // Most answers are one lower-case word or number, and already normalised.
    if !answer.is_empty()
        && answer.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit())
        && digit_or_contraction(answer).is_none()
        && !ARTICLES.contains(&answer)
    {
        return Cow::Borrowed(answer);
    }
    Cow::Owned(process(&clean(answer)))
}

/// The evaluator's two steps after [`clean`]: punctuation; then case, digits, articles and contractions.
pub(crate) fn process(answer: &str) -> String {
    process_digits_and_articles(&process_punctuation(answer))
}

/// The evaluator's first step, on every answer: line breaks and tabs to spaces, trimmed.
pub(crate) fn clean(answer: &str) -> Cow<'_, str> {
    let trimmed = strip(answer);
    if trimmed.contains(['\n', '\t']) { Cow::Owned(trimmed.replace(['\n', '\t'], " ")) } else { Cow::Borrowed(trimmed) }
}

/// `processPunctuation`. A punctuation mark is deleted if it stands next to a space anywhere in the text, or if the
/// text has a comma between digits; otherwise it becomes a space. Then periods that no digit follows are deleted.
fn process_punctuation(text: &str) -> String {
    let has_digit_comma = text.match_indices(',').any(|(comma, _)| {
        text[..comma].chars().next_back().is_some_and(is_digit)
            && text[comma + 1..].chars().next().is_some_and(is_digit)
    });
    let mut out = text.to_owned();
    for mark in PUNCTUATION {
        if text.contains(mark) {
            let beside_space = text.contains(&format!("{mark} ")) || text.contains(&format!(" {mark}"));
            out = out.replace(mark, if beside_space || has_digit_comma { "" } else { " " });
        }
    }
    let mut n_removed = 0;
    let mut kept = String::with_capacity(out.len());
    let mut characters = out.chars().peekable();
    while let Some(character) = characters.next() {
        let before_digit = characters.peek().copied().is_some_and(is_digit);
        if character == '.' && !before_digit && n_removed < MAX_PERIODS {
            n_removed += 1;
        } else {
            kept.push(character);
        }
    }
    kept
}

/// `processDigitArticle`: lower-case; number words to digits, articles dropped, apostrophes put back.
fn process_digits_and_articles(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for word in split(&lower(text)) {
        if ARTICLES.contains(&word) {
            continue;
        }
        if !out.is_empty() {
            out.push(' ');
        }
        out.push_str(digit_or_contraction(word).unwrap_or(word));
    }
    out
}

fn digit_or_contraction(word: &str) -> Option<&'static str> {
    NUMBERS
        .iter()
        .find_map(|&(name, digits)| (name == word).then_some(digits))
        .or_else(|| CONTRACTION_OF.get(word).copied())
}
