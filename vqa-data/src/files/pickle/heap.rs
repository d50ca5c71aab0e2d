//! Where the values of a pickle lie.

use crate::files::pickle::node::{Node, Place};

/// The values that were made so far.
pub(super) struct Heap<'a> {
    nodes: Vec<Node<'a>>,
    /// Bytes of values that were made of other values, instead of the file; and the most that are allowed.
    n_copied: usize,
    limit: usize,
}

impl<'a> Heap<'a> {
    /// For a pickle of so many bytes.
    pub(super) fn new(n_bytes: usize) -> Heap<'a> {
        Heap { nodes: Vec::new(), n_copied: 0, limit: n_bytes.saturating_mul(4) }
    }

    pub(super) fn into_nodes(self) -> Vec<Node<'a>> {
        self.nodes
    }

    pub(super) fn node(&self, place: Place) -> &Node<'a> {
        &self.nodes[place.0 as usize]
    }

    pub(super) fn node_mut(&mut self, place: Place) -> &mut Node<'a> {
        &mut self.nodes[place.0 as usize]
    }

    pub(super) fn text(&self, place: Place) -> Option<&str> {
        match self.node(place) {
            Node::Text(text) => Some(text),
            Node::Bytes(bytes) => std::str::from_utf8(bytes).ok(),
            _ => None,
        }
    }

    pub(super) fn add(&mut self, node: Node<'a>) -> Result<Place, String> {
        let place = u32::try_from(self.nodes.len()).map_err(|_| "it has too many values")?;
        self.nodes.push(node);
        Ok(Place(place))
    }

    /// Notes that bytes were copied. A text that is copied again and again would make a large value of a small file.
    pub(super) fn copied(&mut self, n: usize) -> Result<(), String> {
        self.n_copied += n;
        if self.n_copied > self.limit {
            Err("it is small, but would expand to something large: not data".to_owned())
        } else {
            Ok(())
        }
    }
}
