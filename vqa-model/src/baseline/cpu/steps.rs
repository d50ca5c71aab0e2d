//! The steps that a recurrent network takes to read a batch's distinct texts.

use vqa_data::random::split_mix_64;

use crate::baseline::cpu::prefix_tree::PrefixTree;
use crate::baseline::cpu::tree::Tree;

/// The steps that one direction of a layer takes. Each node of a tree is a step, from the state of its parent and a row
/// of the layer's input.
pub(super) struct Steps {
    pub(super) tree: Tree,
    /// For each node, the row that it reads.
    pub(super) rows: Vec<usize>,
    /// For each row of the input of the layer above, the node whose state it holds.
    pub(super) outputs: Vec<usize>,
    /// For each text, the node whose state is the result.
    pub(super) results: Vec<usize>,
    /// For each node, a hash of what has been read up to it.
    pub(super) keys: Vec<u64>,
}

/// The steps of all layers, by direction: those of the first layer, which reads words, and those of each of the others,
/// which read the states of the layer below.
pub(super) struct Unrolled {
    first: Vec<Steps>,
    above: Vec<Steps>,
}

impl Unrolled {
    /// The steps of a network that reads texts forwards. A state of any layer depends only on the beginning of a text,
    /// so all layers run over the same prefixes.
    pub(super) fn unidirectional(prefixes: &PrefixTree) -> Unrolled {
        let tree = prefixes.tree();
        let each: Vec<usize> = (0..tree.len()).collect();
        let steps = |rows: &[usize]| Steps {
            tree: tree.clone(),
            rows: rows.to_vec(),
            outputs: each.clone(),
            results: tree.last_level().collect(),
            keys: keys_of_prefixes(prefixes),
        };
        Unrolled { first: vec![steps(prefixes.tokens())], above: vec![steps(&each)] }
    }

    /// The steps of a network that reads texts in both directions. Backwards, the first layer shares the endings of
    /// texts, which are the prefixes of the reversed questions. From the second layer on, each state depends on a full
    /// text: texts share nothing, and row `t L + i` of the input belongs to the word at position `t` in text `i` of L.
    pub(super) fn bidirectional(prefixes: &PrefixTree, reversed: &PrefixTree) -> Unrolled {
        let (n_texts, n_levels) = (prefixes.tree().last_level().len(), prefixes.tree().n_levels());
        let forward_leaves: Vec<usize> = prefixes.tree().last_level().collect();
        let mut backward_leaves = vec![0; n_texts];
        for (&text, &leaf) in prefixes.leaves().iter().zip(reversed.leaves()) {
            backward_leaves[text as usize] = reversed.tree().last_level().start + leaf as usize;
        }
        let forward_nodes = paths(prefixes.tree(), &forward_leaves);
        let mut backward_nodes = paths(reversed.tree(), &backward_leaves);
        backward_nodes.reverse();
        let steps = |texts: &PrefixTree, nodes: Vec<Vec<usize>>, results: Vec<usize>| Steps {
            tree: texts.tree().clone(),
            rows: texts.tokens().to_vec(),
            outputs: nodes.concat(),
            results,
            keys: keys_of_prefixes(texts),
        };
        let first =
            vec![steps(prefixes, forward_nodes, forward_leaves), steps(reversed, backward_nodes, backward_leaves)];

        // A chain for each text. The forward direction reads the rows level by level, the backward direction starts
        // with those of the last level. Either permutation is its own inverse, so it also gives the node of each row.
        let chains = Tree::chains(n_texts, n_levels);
        let levels = (0..n_levels).map(|t| chains.level(t));
        let orders: [Vec<usize>; 2] = [levels.clone().flatten().collect(), levels.rev().flatten().collect()];
        let of_texts = &first[0].keys[prefixes.tree().last_level()];
        let keys: Vec<u64> =
            (0..n_levels).flat_map(|t| of_texts.iter().map(move |key| split_mix_64(key ^ t as u64))).collect();
        let above = orders.map(|order| Steps {
            rows: order.clone(),
            outputs: order,
            results: chains.last_level().collect(),
            tree: chains.clone(),
            keys: keys.clone(),
        });
        Unrolled { first, above: above.into() }
    }

    /// The steps of a layer, for each direction.
    pub(super) fn layer(&self, layer: usize) -> &[Steps] {
        if layer == 0 { &self.first } else { &self.above }
    }
}

/// For each node, a hash of the words up to it.
fn keys_of_prefixes(prefixes: &PrefixTree) -> Vec<u64> {
    let tree = prefixes.tree();
    let mut keys: Vec<u64> = Vec::with_capacity(tree.len());
    for node in 0..tree.len() {
        let before = if tree.level(0).contains(&node) { 0 } else { keys[tree.parent(node)] };
        let word = prefixes.words()[prefixes.tokens()[node]];
        keys.push(split_mix_64(before ^ split_mix_64(word as u64)));
    }
    keys
}

/// For each level of a tree, the nodes on the paths from the roots to these leaves.
fn paths(tree: &Tree, leaves: &[usize]) -> Vec<Vec<usize>> {
    let mut paths = vec![leaves.to_vec()];
    for _ in 1..tree.n_levels() {
        let nodes = paths.last().expect("it starts with the leaves");
        paths.push(nodes.iter().map(|&node| tree.parent(node)).collect());
    }
    paths.reverse();
    paths
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What a node has read, from the first step to its own.
    fn read(steps: &Steps, mut node: usize, words: &[i64]) -> Vec<i64> {
        let t = (0..steps.tree.n_levels()).find(|&t| steps.tree.level(t).contains(&node)).unwrap();
        let mut read: Vec<i64> = (0..=t)
            .map(|_| {
                let word = words[steps.rows[node]];
                node = steps.tree.parent(node);
                word
            })
            .collect();
        read.reverse();
        read
    }

    proptest! {
        /// In both directions, each row of the second layer's input holds the states that have read up to its word.
        #[test]
        fn rows_hold_what_has_been_read_up_to_a_word(
            questions in prop::collection::vec(prop::collection::vec(0i64..3, 4), 1..20)
        ) {
            let prefixes = PrefixTree::new(&questions.concat(), 4);
            let reverse = |text: &[i64]| text.iter().rev().copied().collect::<Vec<i64>>();
            let reversed: Vec<i64> = questions.iter().flat_map(|question| reverse(question)).collect();
            let unrolled = Unrolled::bidirectional(&prefixes, &PrefixTree::new(&reversed, 4));
            let [forward, backward] = unrolled.layer(0) else { unreachable!() };
            let n_texts = forward.results.len();
            for (question, &text) in questions.iter().zip(prefixes.leaves()) {
                for t in 0..4 {
                    let row = t * n_texts + text as usize;
                    prop_assert_eq!(read(forward, forward.outputs[row], prefixes.words()), &question[..=t]);
                    prop_assert_eq!(read(backward, backward.outputs[row], prefixes.words()), reverse(&question[t..]));
                }
                // Whatever else is in the batch, a text has the same keys.
                let alone = |question: &[i64]| PrefixTree::new(question, 4);
                let of_both = Unrolled::bidirectional(&alone(question), &alone(&reverse(question)));
                for (steps, alone) in (0..2).flat_map(|l| unrolled.layer(l).iter().zip(of_both.layer(l))) {
                    for t in 0..4 {
                        let key = steps.keys[steps.outputs[t * n_texts + text as usize]];
                        prop_assert_eq!(key, alone.keys[alone.outputs[t]]);
                    }
                }
                let results = [forward, backward].map(|steps| read(steps, steps.results[text as usize], prefixes.words()));
                prop_assert_eq!(results, [question.clone(), reverse(question)]);

                // In the layer above, row indices stand in for words.
                let rows: Vec<i64> = (0..4 * n_texts as i64).collect();
                let of_text: Vec<i64> = (0..4).map(|t| t * n_texts as i64 + text).collect();
                let [forward, backward] = unrolled.layer(1) else { unreachable!() };
                for t in 0..4 {
                    let row = t * n_texts + text as usize;
                    prop_assert_eq!(read(forward, forward.outputs[row], &rows), &of_text[..=t]);
                    prop_assert_eq!(read(backward, backward.outputs[row], &rows), reverse(&of_text[t..]));
                }
                prop_assert_eq!(read(backward, backward.results[text as usize], &rows), reverse(&of_text));
            }
        }
    }
}
