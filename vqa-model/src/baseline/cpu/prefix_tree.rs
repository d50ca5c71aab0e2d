//! The distinct prefixes of a batch's questions.

use crate::baseline::cpu::tree::Tree;

/// The prefixes of a batch's questions as a tree, with a level for each token. Questions that start with the same
/// tokens share the nodes of those tokens, and a recurrent network needs to visit each node only once.
///
/// Questions are padded at the front, so those of equal length share their padding as well, and equal questions share
/// a leaf.
#[derive(Debug)]
pub(super) struct PrefixTree {
    tree: Tree,
    /// For each node, the index of its token in `words`.
    tokens: Vec<usize>,
    /// The distinct tokens, ascending.
    words: Vec<i64>,
    /// For each question, the index of its leaf within the last level.
    leaves: Vec<i64>,
}

impl PrefixTree {
    /// Builds the tree of questions of `len` tokens each.
    pub(super) fn new(tokens: &[i64], len: usize) -> PrefixTree {
        assert!(len > 0, "a question has tokens");
        let mut words = tokens.to_vec();
        words.sort_unstable();
        words.dedup();
        let mut questions: Vec<(&[i64], usize)> = tokens.chunks_exact(len).zip(0..).collect();
        questions.sort_unstable();

        let mut parents: Vec<Vec<usize>> = vec![Vec::new(); len];
        let mut tokens: Vec<Vec<usize>> = vec![Vec::new(); len];
        let mut leaves = vec![0; questions.len()];
        let mut previous: &[i64] = &[];
        for (question, index) in questions {
            let n_shared = question.iter().zip(previous).take_while(|(a, b)| a == b).count();
            for t in n_shared..len {
                let parent = if t == 0 { 0 } else { parents[t - 1].len() - 1 };
                parents[t].push(parent);
                tokens[t].push(words.binary_search(&question[t]).expect("every token is a word"));
            }
            leaves[index] = parents[len - 1].len() as i64 - 1;
            previous = question;
        }
        PrefixTree { tree: Tree::new(parents), tokens: tokens.concat(), words, leaves }
    }

    pub(super) fn tree(&self) -> &Tree {
        &self.tree
    }

    /// For each node, the index of its token among the words.
    pub(super) fn tokens(&self) -> &[usize] {
        &self.tokens
    }

    /// The distinct tokens, ascending.
    pub(super) fn words(&self) -> &[i64] {
        &self.words
    }

    /// For each question, the index of its leaf within the last level.
    pub(super) fn leaves(&self) -> &[i64] {
        &self.leaves
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// The path to its leaf spells out each question, and no two nodes have the same prefix.
        #[test]
        fn every_question_is_a_path(
            questions in prop::collection::vec(prop::collection::vec(0i64..4, 5), 0..40)
        ) {
            let prefixes = PrefixTree::new(&questions.concat(), 5);
            let tree = prefixes.tree();
            let spelled = |mut node: usize| {
                let mut tokens: Vec<i64> = (0..5).rev().map(|_| {
                    let token = prefixes.words()[prefixes.tokens()[node]];
                    node = tree.parent(node);
                    token
                }).collect();
                tokens.reverse();
                tokens
            };
            let last = tree.last_level().start;
            for (question, &leaf) in questions.iter().zip(prefixes.leaves()) {
                prop_assert_eq!(question, &spelled(last + leaf as usize));
            }
            let mut distinct: Vec<&[i64]> = questions.iter().flat_map(|q| (1..=5).map(|n| &q[..n])).collect();
            distinct.sort();
            distinct.dedup();
            prop_assert_eq!(distinct.len(), tree.len());
            prop_assert_eq!(prefixes.tokens().len(), tree.len());
            for t in 0..4 {
                let children: Vec<usize> = tree.children(t).into_iter().flatten().collect();
                prop_assert_eq!(children, tree.level(t + 1).collect::<Vec<_>>());
                for (node, range) in tree.level(t).zip(tree.children(t)) {
                    prop_assert!(range.into_iter().all(|child| tree.parent(child) == node));
                }
            }
        }
    }
}
