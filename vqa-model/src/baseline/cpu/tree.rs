//! Trees, numbered level by level.

use std::ops::Range;

/// A tree with several roots, which are its first level. Nodes are numbered level by level, and within a level in the
/// order of their parents.
#[derive(Debug, Clone)]
pub(super) struct Tree {
    /// The first node of each level, and the number of nodes.
    starts: Vec<usize>,
    /// For each node, its parent; 0 in the first level, whose nodes have none.
    parents: Vec<usize>,
}

impl Tree {
    /// Builds a tree from its levels: for each node, the index of its parent within the previous level.
    pub(super) fn new(levels: impl IntoIterator<Item = Vec<usize>>) -> Tree {
        let mut tree = Tree { starts: vec![0], parents: Vec::new() };
        let mut start_of_parents = 0;
        for level in levels {
            let start = tree.parents.len();
            tree.parents.extend(level.into_iter().map(|parent| start_of_parents + parent));
            tree.starts.push(tree.parents.len());
            start_of_parents = start;
        }
        tree
    }

    /// Builds a tree of `n` chains of nodes, which are in the same order on every level.
    pub(super) fn chains(n: usize, n_levels: usize) -> Tree {
        Tree::new((0..n_levels).map(|t| if t == 0 { vec![0; n] } else { (0..n).collect() }))
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

    pub(super) fn last_level(&self) -> Range<usize> {
        self.level(self.n_levels() - 1)
    }

    pub(super) fn parent(&self, node: usize) -> usize {
        self.parents[node]
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
}
