//! The distinct prefixes of a batch's questions.

use std::ops::Range;

/// The prefixes of a batch's questions as a tree, with a level for each token. Questions that start with the same
/// tokens share the nodes of these, and a recurrent network needs to visit each node only once.
///
/// Questions are padded in front, so those of equal length share their padding as well, and equal questions share a
/// leaf. Nodes are numbered level by level, and within a level in the order of their parents.
#[derive(Debug)]
pub(super) struct PrefixTree {
    /// The first node of each level, and the number of nodes.
    starts: Vec<usize>,
    /// For each node, its parent; 0 in the first level, whose nodes have none.
    parents: Vec<usize>,
    /// For each node, the index of its token in `words`.
    tokens: Vec<usize>,
    /// The distinct tokens, ascending.
    words: Vec<i64>,
    /// For each question, its node, counted from the first of the last level.
    leaves: Vec<i64>,
}

impl PrefixTree {
    /// The tree of questions of `len` tokens each.
    pub(super) fn new(tokens: &[i64], len: usize) -> PrefixTree {
        assert!(len > 0, "a question has tokens");
        let mut words = tokens.to_vec();
        words.sort_unstable();
        words.dedup();
        let mut questions: Vec<(&[i64], usize)> = tokens.chunks_exact(len).zip(0..).collect();
        questions.sort_unstable();

        let mut levels: Vec<Vec<(usize, usize)>> = vec![Vec::new(); len];
        let mut leaves = vec![0; questions.len()];
        let mut previous: &[i64] = &[];
        for (question, index) in questions {
            let n_shared = question.iter().zip(previous).take_while(|(a, b)| a == b).count();
            for t in n_shared..len {
                let parent = if t == 0 { 0 } else { levels[t - 1].len() - 1 };
                let word = words.binary_search(&question[t]).expect("every token is a word");
                levels[t].push((parent, word));
            }
            leaves[index] = levels[len - 1].len() as i64 - 1;
            previous = question;
        }

        let mut tree = PrefixTree { starts: vec![0], parents: Vec::new(), tokens: Vec::new(), words, leaves };
        let mut start_of_parents = 0;
        for level in levels {
            let start = tree.parents.len();
            tree.parents.extend(level.iter().map(|&(parent, _)| start_of_parents + parent));
            tree.tokens.extend(level.iter().map(|&(_, word)| word));
            tree.starts.push(tree.parents.len());
            start_of_parents = start;
        }
        tree
    }

    pub(super) fn n_levels(&self) -> usize {
        self.starts.len() - 1
    }

    pub(super) fn len(&self) -> usize {
        self.parents.len()
    }

    pub(super) fn level(&self, t: usize) -> Range<usize> {
        self.starts[t]..self.starts[t + 1]
    }

    pub(super) fn parent(&self, node: usize) -> usize {
        self.parents[node]
    }

    /// The index of a node's token among the words.
    pub(super) fn token(&self, node: usize) -> usize {
        self.tokens[node]
    }

    /// The distinct tokens, ascending.
    pub(super) fn words(&self) -> &[i64] {
        &self.words
    }

    /// For each question, its node, counted from the first of the last level.
    pub(super) fn leaves(&self) -> &[i64] {
        &self.leaves
    }

    /// For each node of level `t`, its children. Those of the last level have none.
    pub(super) fn children(&self, t: usize) -> Vec<Range<usize>> {
        let mut children = vec![0..0; self.level(t).len()];
        if t + 1 < self.n_levels() {
            let next = self.level(t + 1);
            let mut child = next.start;
            for (node, range) in self.level(t).zip(&mut children) {
                let first = child;
                while child < next.end && self.parents[child] == node {
                    child += 1;
                }
                *range = first..child;
            }
        }
        children
    }

    /// For each word, the nodes with it.
    pub(super) fn nodes_of_words(&self) -> Vec<Vec<usize>> {
        let mut nodes = vec![Vec::new(); self.words.len()];
        self.tokens.iter().enumerate().for_each(|(node, &word)| nodes[word].push(node));
        nodes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// The path from its leaf spells each question, and no two nodes have the same prefix.
        #[test]
        fn every_question_is_a_path(
            questions in prop::collection::vec(prop::collection::vec(0i64..4, 5), 0..40)
        ) {
            let tree = PrefixTree::new(&questions.concat(), 5);
            let spelled = |mut node: usize| {
                let mut tokens: Vec<i64> = (0..5).rev().map(|_| {
                    let token = tree.words()[tree.token(node)];
                    node = tree.parent(node);
                    token
                }).collect();
                tokens.reverse();
                tokens
            };
            let last = tree.level(4).start;
            for (question, &leaf) in questions.iter().zip(tree.leaves()) {
                prop_assert_eq!(question, &spelled(last + leaf as usize));
            }
            let mut prefixes: Vec<&[i64]> = questions.iter().flat_map(|q| (1..=5).map(|n| &q[..n])).collect();
            prefixes.sort();
            prefixes.dedup();
            prop_assert_eq!(prefixes.len(), tree.len());
            for t in 0..4 {
                let children: Vec<usize> = tree.children(t).into_iter().flatten().collect();
                prop_assert_eq!(children, tree.level(t + 1).collect::<Vec<_>>());
                for (node, range) in tree.level(t).zip(tree.children(t)) {
                    prop_assert!(range.into_iter().all(|child| tree.parent(child) == node));
                }
            }
            prop_assert_eq!(tree.nodes_of_words().into_iter().flatten().count(), tree.len());
        }
    }
}
