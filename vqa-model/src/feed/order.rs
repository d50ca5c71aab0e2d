//! What a GPU needs to know beforehand about the order of a batch, to compute equal states only once and to sum
//! gradients without contention.

use tch::Tensor;

use crate::feed::padded_sizes::Size;

/// Which states of a recurrent network are shared between questions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SharedStates {
    /// Questions that begin alike share the states of their common words: the network reads forwards only.
    Beginnings,
    /// None: each question has its own.
    Nothing,
}

/// Where the words and the images of a batch of B questions of T words about N images occur. All tensors are of 32-bit
/// integers, on the device.
///
/// The states of step t of a recurrent network belong to the distinct beginnings of t + 1 words, in an order in which
/// the children of a state, one word longer, are consecutive. Each distinct word of the batch has one or more rows: a
/// row is read by at most 32 states, so that no gradient is the sum of many more values than another. The rows of a
/// word are consecutive.
#[derive(Debug)]
pub struct BatchOrder {
    /// `[T]` how many states each step has, M in all. Some may be padding, which belongs to no question.
    pub(crate) steps: Vec<i64>,
    /// [M] the row that each state reads.
    pub(crate) rows: Tensor,
    /// [M] each state's parent, among the states of the step before.
    pub(crate) parents: Tensor,
    /// [M - states of the first step] the parent of each state after the first step, among all M.
    pub(crate) parent_places: Tensor,
    /// [M + T] for each step, where each state's children begin among the states of the next step, and where the last
    /// ones end. The children of the last step's states are questions, in `last_questions`.
    pub(crate) child_starts: Tensor,
    /// `[B]` the questions, by their last states.
    pub(crate) last_questions: Tensor,
    /// `[B]` the last state of each question, among those of the last step.
    pub(crate) last_states: Tensor,
    /// [R] the word of each row. It is padding for the first row, and for those that only round R up.
    pub(crate) row_words: Tensor,
    /// [R + 1] where each row's readers begin in `readers`. Padding has none.
    pub(crate) row_starts: Tensor,
    /// [M] the states that read a row, row by row; the rest have no meaning.
    pub(crate) readers: Tensor,
    /// [R] the distinct words; the rest have no meaning.
    pub(crate) words: Tensor,
    /// [R + 1] where the rows of each distinct word begin; the rest have no rows.
    pub(crate) word_starts: Tensor,
    /// `[B]` the image of each question.
    pub(crate) question_images: Tensor,
    /// [N + 1] where each image's questions begin in `image_questions`.
    pub(crate) image_starts: Tensor,
    /// `[B]` the questions, image by image.
    pub(crate) image_questions: Tensor,
}

/// How many states at most read a row.
pub(crate) const MAX_READERS: usize = 32;

/// The questions of a batch, and what they are about.
#[derive(Clone, Copy)]
pub(crate) struct BatchQuestions<'a> {
    /// [B, T].
    pub(crate) tokens: &'a [i64],
    pub(crate) max_len: usize,
    /// The id of padding.
    pub(crate) padding: i64,
    /// `[B]`, below `n_images`.
    pub(crate) image_rows: &'a [i64],
    pub(crate) n_images: usize,
}

/// The states of a batch.
struct States {
    /// A question that each state is a beginning of, step by step and state by state.
    questions: Vec<Vec<usize>>,
    parents: Vec<Vec<i32>>,
    /// The questions, by their last states.
    last_questions: Vec<usize>,
    last_states: Vec<i32>,
}

impl States {
    fn new(batch: BatchQuestions, shared: SharedStates) -> States {
        let BatchQuestions { tokens, max_len, image_rows, .. } = batch;
        let text = |question: usize| &tokens[question * max_len..][..max_len];
        let mut order: Vec<usize> = (0..image_rows.len()).collect();
        if shared == SharedStates::Beginnings {
            order.sort_by_key(|&question| text(question));
        }
        let begin_alike =
            |a: usize, b: usize, len: usize| shared == SharedStates::Beginnings && text(a)[..len] == text(b)[..len];
        // For each question in order, its state in the step before.
        let mut before: Vec<i32> = match shared {
            SharedStates::Beginnings => vec![0; order.len()],
            // So that parents have the same indices in all steps, in whichever direction they are read.
            SharedStates::Nothing => (0..order.len() as i32).collect(),
        };
        let (mut questions, mut parents) = (Vec::new(), Vec::new());
        for step in 0..max_len {
            let (mut of_step, mut their_parents): (Vec<usize>, Vec<i32>) = (Vec::new(), Vec::new());
            for (i, &question) in order.iter().enumerate() {
                if i == 0 || !begin_alike(order[i - 1], question, step + 1) {
                    of_step.push(question);
                    their_parents.push(before[i]);
                }
                before[i] = of_step.len() as i32 - 1;
            }
            questions.push(of_step);
            parents.push(their_parents);
        }
        let mut last_states = vec![0; order.len()];
        order.iter().zip(&before).for_each(|(&question, &state)| last_states[question] = state);
        States { questions, parents, last_questions: order, last_states }
    }
}

/// Returns where the items of each of `n_groups` groups begin, and where the last ones end, given each item's group.
fn starts(groups: &[i32], n_groups: usize) -> Vec<i32> {
    let mut starts = vec![0; n_groups + 1];
    groups.iter().for_each(|&group| starts[group as usize + 1] += 1);
    (0..n_groups).for_each(|group| starts[group + 1] += starts[group]);
    starts
}

impl BatchOrder {
    /// Returns the integers of all tensors in one vector, and how many states each step has. `fit` is called with the
    /// number of states of a step, or of rows, and returns the number to pad them to, which must not be smaller.
    pub(crate) fn numbers(
        batch: BatchQuestions,
        shared: SharedStates,
        fit: &mut dyn FnMut(Size, usize) -> usize,
    ) -> (Vec<i32>, Vec<i64>) {
        let BatchQuestions { tokens, max_len, padding, image_rows, n_images } = batch;
        let states = States::new(batch, shared);
        let of_step = |(step, questions): (usize, &Vec<usize>)| fit(Size::States(step), questions.len());
        let steps: Vec<usize> = states.questions.iter().enumerate().map(of_step).collect();
        let n_states: usize = steps.iter().sum();
        let fill = |numbers: &mut Vec<i32>, len: usize, by: i32| numbers.resize(len, by);

        let mut parents = Vec::with_capacity(n_states);
        let (mut parent_places, mut child_starts) = (Vec::new(), Vec::with_capacity(n_states + max_len));
        // For each word that is read, the word and the state.
        let mut read: Vec<(i64, i32)> = Vec::with_capacity(n_states);
        for (step, &n) in steps.iter().enumerate() {
            let first = parents.len();
            let word = |&question: &usize| tokens[question * max_len + step];
            let words = states.questions[step].iter().map(word);
            read.extend(words.zip(first as i32..).filter(|&(word, _)| word != padding));
            parents.extend_from_slice(&states.parents[step]);
            fill(&mut parents, first + n, 0);
            if step > 0 {
                let before = (first - steps[step - 1]) as i32;
                parent_places.extend(parents[first..].iter().map(|parent| before + parent));
            }
            let children = match states.parents.get(step + 1) {
                Some(children) => starts(children, n),
                None => {
                    let of_questions: Vec<i32> =
                        states.last_questions.iter().map(|&question| states.last_states[question]).collect();
                    starts(&of_questions, n)
                }
            };
            child_starts.extend(children);
        }
        read.sort_unstable();

        let mut rows = vec![0; n_states];
        let (mut row_words, mut row_starts) = (vec![padding as i32], vec![0, 0]);
        let (mut words, mut word_starts) = (Vec::new(), vec![1]);
        for of_word in read.chunk_by(|a, b| a.0 == b.0) {
            for of_row in of_word.chunks(MAX_READERS) {
                of_row.iter().for_each(|&(_, state)| rows[state as usize] = row_words.len() as i32);
                row_words.push(of_row[0].0 as i32);
                row_starts.push(row_starts[row_starts.len() - 1] + of_row.len() as i32);
            }
            words.push(of_word[0].0 as i32);
            word_starts.push(row_words.len() as i32);
        }
        let n_rows = fit(Size::Rows, row_words.len());
        fill(&mut row_words, n_rows, padding as i32);
        let end = row_starts[row_starts.len() - 1];
        fill(&mut row_starts, n_rows + 1, end);
        fill(&mut words, n_rows, padding as i32);
        let end = word_starts[word_starts.len() - 1];
        fill(&mut word_starts, n_rows + 1, end);
        let mut readers: Vec<i32> = read.iter().map(|&(_, state)| state).collect();
        fill(&mut readers, n_states, 0);

        let question_images: Vec<i32> = image_rows.iter().map(|&image| image as i32).collect();
        let mut image_questions: Vec<i32> = (0..image_rows.len() as i32).collect();
        image_questions.sort_by_key(|&question| image_rows[question as usize]);
        let last_questions: Vec<i32> = states.last_questions.iter().map(|&question| question as i32).collect();
        let numbers = [
            rows,
            parents,
            readers,
            parent_places,
            child_starts,
            last_questions,
            states.last_states,
            question_images,
            image_questions,
            starts(&image_rows.iter().map(|&image| image as i32).collect::<Vec<_>>(), n_images),
            row_words,
            words,
            row_starts,
            word_starts,
        ];
        (numbers.concat(), steps.iter().map(|&n| n as i64).collect())
    }

    /// Splits up [`BatchOrder::numbers`], copied to a device, of B questions about N images.
    pub(crate) fn new(numbers: &Tensor, steps: &[i64], n_questions: i64, n_images: i64) -> BatchOrder {
        let (n_states, n_steps) = (steps.iter().sum::<i64>(), steps.len() as i64);
        let mut end = 0;
        let mut next = |len: i64| {
            end += len;
            numbers.narrow(0, end - len, len)
        };
        let [rows, parents, readers] = [n_states; 3].map(&mut next);
        let parent_places = next(n_states - steps[0]);
        let child_starts = next(n_states + n_steps);
        let [last_questions, last_states, question_images, image_questions] = [n_questions; 4].map(&mut next);
        let image_starts = next(n_images + 1);
        let fixed = 5 * n_states - steps[0] + n_steps + 4 * n_questions + n_images + 1;
        let n_rows = (numbers.size()[0] - fixed - 2) / 4;
        let [row_words, words] = [n_rows; 2].map(&mut next);
        let [row_starts, word_starts] = [n_rows + 1; 2].map(&mut next);
        BatchOrder {
            steps: steps.to_vec(),
            rows,
            parents,
            parent_places,
            child_starts,
            last_questions,
            last_states,
            row_words,
            row_starts,
            readers,
            words,
            word_starts,
            question_images,
            image_starts,
            image_questions,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn numbers(tensor: &Tensor) -> Vec<usize> {
        Vec::<i32>::try_from(tensor.contiguous().view([-1])).unwrap().into_iter().map(|n| n as usize).collect()
    }

    proptest! {
        /// Following the parents of a question's last state yields the question's words; every state is a child of its
        /// parent; every reader of a row is found through the row's word, and every question through its image.
        #[test]
        fn what_is_read_is_found_again(
            n_questions in 1usize..80,
            max_len in 1usize..5,
            n_words in 1i64..6,
            n_images in 1usize..9,
            shares in prop::bool::ANY,
            more in 0usize..5,
            seed: u64,
        ) {
            let number = |i: usize, below: i64| (vqa_data::random::split_mix_64(seed ^ i as u64) % below as u64) as i64;
            let tokens: Vec<i64> = (0..n_questions * max_len).map(|i| number(i, n_words + 1)).collect();
            let image_rows: Vec<i64> = (0..n_questions).map(|i| number(i + 1_000_000, n_images as i64)).collect();
            let batch = BatchQuestions { tokens: &tokens, max_len, padding: n_words, image_rows: &image_rows, n_images };
            let shared = if shares { SharedStates::Beginnings } else { SharedStates::Nothing };
            let (all, steps) = BatchOrder::numbers(batch, shared, &mut |_, n| n + more);
            let order = BatchOrder::new(&Tensor::from_slice(&all), &steps, n_questions as i64, n_images as i64);
            let [rows, parents, parent_places, row_words, row_starts, readers, child_starts, last_states] = [
                &order.rows, &order.parents, &order.parent_places, &order.row_words, &order.row_starts, &order.readers, &order.child_starts,
                &order.last_states,
            ].map(numbers);
            let first_of = |step: usize| steps[..step].iter().sum::<i64>() as usize;

            let mut beginnings = vec![std::collections::HashSet::new(); max_len];
            let mut is_read = vec![false; parents.len()];
            for (question, &last) in last_states.iter().enumerate() {
                let text = &tokens[question * max_len..][..max_len];
                let mut state = last;
                for step in (0..max_len).rev() {
                    let place = first_of(step) + state;
                    prop_assert_eq!(row_words[rows[place]] as i64, text[step]);
                    is_read[place] = text[step] != n_words;
                    beginnings[step].insert(&text[..=step]);
                    let parent = parents[place];
                    if step > 0 {
                        prop_assert_eq!(parent_places[place - steps[0] as usize], first_of(step - 1) + parent);
                        let starts = &child_starts[first_of(step - 1) + step - 1 + parent..];
                        prop_assert!((starts[0]..starts[1]).contains(&state));
                    }
                    state = parent;
                }
            }
            for (step, beginnings) in beginnings.iter().enumerate() {
                let n = if shares { beginnings.len() } else { n_questions };
                prop_assert_eq!(steps[step] as usize, n + more);
            }
            let last_starts = &child_starts[first_of(max_len - 1) + max_len - 1..];
            let last_questions = numbers(&order.last_questions);
            for (state, range) in last_starts.windows(2).enumerate() {
                prop_assert!(last_questions[range[0]..range[1]].iter().all(|&question| last_states[question] == state));
            }
            prop_assert_eq!(last_starts[last_starts.len() - 1], n_questions);

            let mut found: Vec<usize> = Vec::new();
            let (words, word_starts) = (numbers(&order.words), numbers(&order.word_starts));
            for (word, of_word) in words.iter().zip(word_starts.windows(2)) {
                for row in of_word[0]..of_word[1] {
                    prop_assert_eq!(row_words[row], *word);
                    let of_row = &readers[row_starts[row]..row_starts[row + 1]];
                    prop_assert!(!of_row.is_empty() && of_row.len() <= MAX_READERS);
                    prop_assert!(of_row.iter().all(|&state| rows[state] == row));
                    found.extend(of_row);
                }
            }
            found.sort_unstable();
            let expected: Vec<usize> = (0..is_read.len()).filter(|&state| is_read[state]).collect();
            prop_assert_eq!(found, expected);

            let [starts, questions] = [&order.image_starts, &order.image_questions].map(numbers);
            let mut seen = Vec::new();
            for (image, range) in starts.windows(2).enumerate() {
                prop_assert!(questions[range[0]..range[1]].iter().all(|&question| image_rows[question] == image as i64));
                seen.extend_from_slice(&questions[range[0]..range[1]]);
            }
            seen.sort_unstable();
            prop_assert_eq!(seen, (0..n_questions).collect::<Vec<_>>());
        }
    }
}
