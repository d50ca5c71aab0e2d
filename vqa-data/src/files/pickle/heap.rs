//! Storage for the values of a pickle.

use crate::files::pickle::node::{Node, NodeId};

/// The values created so far.
pub(super) struct Heap<'a> {
    nodes: Vec<Node<'a>>,
    /// Bytes of values that were copied from other values rather than from the file; and the most that are allowed.
    n_copied: usize,
    limit: usize,
}

impl<'a> Heap<'a> {
    /// Creates a heap for a pickle of `n_bytes` bytes.
    pub(super) fn new(n_bytes: usize) -> Heap<'a> {
        Heap { nodes: Vec::new(), n_copied: 0, limit: n_bytes.saturating_mul(4) }
    }

    pub(super) fn into_nodes(self) -> Vec<Node<'a>> {
        self.nodes
    }

    pub(super) fn node(&self, place: NodeId) -> &Node<'a> {
        &self.nodes[place.0 as usize]
    }

    pub(super) fn node_mut(&mut self, place: NodeId) -> &mut Node<'a> {
        &mut self.nodes[place.0 as usize]
    }

    pub(super) fn text(&self, place: NodeId) -> Option<&str> {
        match self.node(place) {
            Node::Text(text) => Some(text),
            Node::Bytes(bytes) => std::str::from_utf8(bytes).ok(),
            _ => None,
        }
    }

    pub(super) fn add(&mut self, node: Node<'a>) -> Result<NodeId, String> {
        let place = u32::try_from(self.nodes.len()).map_err(|_| "it has too many values")?;
        self.nodes.push(node);
        Ok(NodeId(place))
    }

    /// Counts copied bytes, and fails if there are too many: copying a text again and again would turn a small file
    /// into a large value.
    pub(super) fn copied(&mut self, n: usize) -> Result<(), String> {
        self.n_copied += n;
        if self.n_copied > self.limit {
            Err("it is small, but would expand to something large: not data".to_owned())
        } else {
            Ok(())
        }
    }
}
