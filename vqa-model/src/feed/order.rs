//! What a GPU needs to know beforehand about the order of a batch, to add up gradients without waiting in line.

use tch::Tensor;

/// Where the words and the images of a batch of B questions of T words about N images occur. All are 32-bit integers, on the
/// device.
///
/// Each distinct word of the batch has one or more rows: a row is read at [`MAX_READERS`] positions at most, so that no
/// gradient is the sum of many more numbers than another. Rows of a word follow each other. A position is that of a word in
/// [T, B].
#[derive(Debug)]
pub struct BatchOrder {
    /// [T, B] the row that is read at each position.
    pub(crate) rows: Tensor,
    /// [R] the word of each row, which is padding for the first one, and for those that are there to make R a round number.
    pub(crate) row_words: Tensor,
    /// [R + 1] where each row's positions begin in `positions`. Padding has none.
    pub(crate) row_starts: Tensor,
    /// [T B] the positions that read a row, row by row; the rest are of no meaning.
    pub(crate) positions: Tensor,
    /// [R] the distinct words; the rest are of no meaning.
    pub(crate) words: Tensor,
    /// [R + 1] where the rows of each distinct word begin; the rest have none.
    pub(crate) word_starts: Tensor,
    /// `[B]` the image of each question.
    pub(crate) question_images: Tensor,
    /// [N + 1] where each image's questions begin in `image_questions`.
    pub(crate) image_starts: Tensor,
    /// `[B]` the questions, image by image.
    pub(crate) image_questions: Tensor,
}

/// Positions that read a row, at most.
pub(crate) const MAX_READERS: usize = 32;

/// R is a multiple of it, so that most batches have the same.
const ROUND: usize = 256;

impl BatchOrder {
    /// All of it in one piece: of tokens [B, T], whose padding is `padding`, and of the questions' images, which are below
    /// `n_images`.
    pub(crate) fn numbers(
        tokens: &[i64],
        max_len: usize,
        padding: i64,
        image_rows: &[i64],
        n_images: usize,
    ) -> Vec<i32> {
        let n_questions = image_rows.len();
        let position = |token: usize| token % max_len * n_questions + token / max_len;
        let mut read: Vec<(i64, i32)> = tokens
            .iter()
            .enumerate()
            .map(|(i, &word)| (word, position(i) as i32))
            .filter(|&(word, _)| word != padding)
            .collect();
        read.sort_unstable();

        let mut rows = vec![0; tokens.len()];
        let (mut row_words, mut row_starts) = (vec![padding as i32], vec![0, 0]);
        let (mut words, mut word_starts) = (Vec::new(), vec![1]);
        for of_word in read.chunk_by(|a, b| a.0 == b.0) {
            for of_row in of_word.chunks(MAX_READERS) {
                of_row.iter().for_each(|&(_, position)| rows[position as usize] = row_words.len() as i32);
                row_words.push(of_row[0].0 as i32);
                row_starts.push(row_starts[row_starts.len() - 1] + of_row.len() as i32);
            }
            words.push(of_word[0].0 as i32);
            word_starts.push(row_words.len() as i32);
        }
        let n_rows = row_words.len().next_multiple_of(ROUND);
        let fill = |numbers: &mut Vec<i32>, len: usize, by: i32| numbers.resize(len, by);
        fill(&mut row_words, n_rows, padding as i32);
        let end = row_starts[row_starts.len() - 1];
        fill(&mut row_starts, n_rows + 1, end);
        fill(&mut words, n_rows, padding as i32);
        let end = word_starts[word_starts.len() - 1];
        fill(&mut word_starts, n_rows + 1, end);
        let mut positions: Vec<i32> = read.iter().map(|&(_, position)| position).collect();
        fill(&mut positions, tokens.len(), 0);

        let mut image_starts = vec![0; n_images + 1];
        image_rows.iter().for_each(|&image| image_starts[image as usize + 1] += 1);
        (0..n_images).for_each(|image| image_starts[image + 1] += image_starts[image]);
        let mut image_questions: Vec<i32> = (0..n_questions as i32).collect();
        image_questions.sort_by_key(|&question| image_rows[question as usize]);
        let question_images: Vec<i32> = image_rows.iter().map(|&image| image as i32).collect();

        [rows, positions, question_images, image_questions, image_starts, row_words, words, row_starts, word_starts]
            .concat()
    }

    /// From [`BatchOrder::numbers`] on a device, of B questions of T words about N images.
    pub(crate) fn new(numbers: &Tensor, n_questions: i64, max_len: i64, n_images: i64) -> BatchOrder {
        let n_positions = n_questions * max_len;
        let mut end = 0;
        let mut next = |len: i64| {
            end += len;
            numbers.narrow(0, end - len, len)
        };
        let [rows, positions] = [n_positions; 2].map(&mut next);
        let [question_images, image_questions] = [n_questions; 2].map(&mut next);
        let image_starts = next(n_images + 1);
        let fixed = 2 * (n_positions + n_questions) + n_images + 1;
        let n_rows = (numbers.size()[0] - fixed - 2) / 4;
        let [row_words, words] = [n_rows; 2].map(&mut next);
        let [row_starts, word_starts] = [n_rows + 1; 2].map(&mut next);
        BatchOrder {
            rows: rows.view([max_len, n_questions]),
            row_words,
            row_starts,
            positions,
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

    fn numbers(tensor: &Tensor) -> Vec<i32> {
        Vec::try_from(tensor.contiguous().view([-1])).unwrap()
    }

    proptest! {
        /// Every position but padding's reads a row of its word, and is found again by way of the word's rows; every
        /// question by way of its image.
        #[test]
        fn what_is_read_is_found_again(
            n_questions in 1usize..80,
            max_len in 1usize..5,
            n_words in 1i64..6,
            n_images in 1usize..9,
            seed: u64,
        ) {
            let number = |i: usize, below: i64| (vqa_data::random::split_mix_64(seed ^ i as u64) % below as u64) as i64;
            let tokens: Vec<i64> = (0..n_questions * max_len).map(|i| number(i, n_words + 1)).collect();
            let image_rows: Vec<i64> = (0..n_questions).map(|i| number(i + 1_000_000, n_images as i64)).collect();
            let all = BatchOrder::numbers(&tokens, max_len, n_words, &image_rows, n_images);
            let order = BatchOrder::new(&Tensor::from_slice(&all), n_questions as i64, max_len as i64, n_images as i64);
            let [rows, row_words, row_starts, positions] =
                [&order.rows, &order.row_words, &order.row_starts, &order.positions].map(numbers);
            prop_assert_eq!(row_words.len() % ROUND, 0);
            let word_at = |position: usize| tokens[position % n_questions * max_len + position / n_questions];
            let mut found: Vec<(i64, usize)> = Vec::new();
            let (words, word_starts) = (numbers(&order.words), numbers(&order.word_starts));
            for (word, of_word) in words.iter().zip(word_starts.windows(2)) {
                for row in of_word[0] as usize..of_word[1] as usize {
                    prop_assert_eq!(row_words[row], *word);
                    let readers = &positions[row_starts[row] as usize..row_starts[row + 1] as usize];
                    prop_assert!(!readers.is_empty() && readers.len() <= MAX_READERS);
                    found.extend(readers.iter().map(|&position| (i64::from(*word), position as usize)));
                    prop_assert!(readers.iter().all(|&position| rows[position as usize] == row as i32));
                }
            }
            found.sort_unstable();
            let mut expected: Vec<(i64, usize)> = (0..tokens.len()).map(|position| (word_at(position), position)).collect();
            expected.retain(|&(word, _)| word != n_words);
            expected.sort_unstable();
            prop_assert_eq!(found, expected);
            for (position, &row) in rows.iter().enumerate() {
                prop_assert_eq!(i64::from(row_words[row as usize]), word_at(position));
            }

            let [starts, questions] = [&order.image_starts, &order.image_questions].map(numbers);
            let mut seen = Vec::new();
            for (image, range) in starts.windows(2).enumerate() {
                for &question in &questions[range[0] as usize..range[1] as usize] {
                    prop_assert_eq!(image_rows[question as usize], image as i64);
                    seen.push(question);
                }
            }
            seen.sort_unstable();
            prop_assert_eq!(seen, (0..n_questions as i32).collect::<Vec<_>>());
        }
    }
}
