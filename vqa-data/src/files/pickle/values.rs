//! A pickle that was read, and access to its values.

use std::fmt;

use crate::files::pickle::machine::Machine;
use crate::files::pickle::node::{Node, NodeId};
use crate::message::shorten;

/// A pickle that was read.
#[derive(Debug)]
pub(crate) struct Pickle<'a> {
    nodes: Vec<Node<'a>>,
    root: NodeId,
}

/// A value of a [`Pickle`].
#[derive(Debug, Clone, Copy)]
pub(crate) struct Value<'p> {
    nodes: &'p [Node<'p>],
    place: NodeId,
}

impl<'a> Pickle<'a> {
    /// Reads a pickle of any protocol.
    ///
    /// # Errors
    ///
    /// When the pickle is damaged, or holds anything but data; the message says what is wrong, and at which byte.
    pub(crate) fn read(bytes: &'a [u8]) -> Result<Pickle<'a>, String> {
        let (nodes, root) = Machine::new(bytes).run()?;
        Ok(Pickle { nodes, root })
    }

    /// The value that was pickled.
    pub(crate) fn root(&self) -> Value<'_> {
        Value { nodes: &self.nodes, place: self.root }
    }
}

impl<'p> Value<'p> {
    fn node(self) -> &'p Node<'p> {
        &self.nodes[self.place.0 as usize]
    }

    fn at(self, place: NodeId) -> Value<'p> {
        Value { nodes: self.nodes, place }
    }

    /// A whole number, which may be a float such as `9.0`.
    pub(crate) fn as_int(self) -> Option<i64> {
        /// Above this, doubles skip whole numbers.
        const LARGEST: f64 = (1u64 << 53) as f64;
        match *self.node() {
            Node::Int(number) => Some(number),
            Node::Float(number) if number.fract() == 0.0 && number.abs() <= LARGEST => Some(number as i64),
            _ => None,
        }
    }

    /// A text, or bytes that are valid UTF-8.
    pub(crate) fn as_text(self) -> Option<&'p str> {
        match self.node() {
            Node::Text(text) => Some(text),
            Node::Bytes(bytes) => std::str::from_utf8(bytes).ok(),
            _ => None,
        }
    }

    /// The items of a list or tuple.
    pub(crate) fn as_list(self) -> Option<impl ExactSizeIterator<Item = Value<'p>>> {
        match self.node() {
            Node::List(items) | Node::Tuple(items) => Some(items.iter().map(move |&item| self.at(item))),
            _ => None,
        }
    }

    /// The keys and values of a dict, in order. If a key occurs twice, the last entry counts.
    pub(crate) fn as_dict(self) -> Option<impl ExactSizeIterator<Item = (Value<'p>, Value<'p>)>> {
        match self.node() {
            Node::Dict(entries) => Some(entries.iter().map(move |&(key, value)| (self.at(key), self.at(value)))),
            _ => None,
        }
    }
}

/// Describes a value for a message, briefly, whatever is in it.
impl fmt::Display for Value<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.node() {
            Node::None => f.write_str("None"),
            Node::Bool(value) => f.write_str(if *value { "True" } else { "False" }),
            Node::Int(number) => write!(f, "{number}"),
            Node::Float(number) => write!(f, "{number:?}"),
            Node::Text(text) => write!(f, "\"{}\"", shorten(text)),
            Node::Bytes(bytes) => match self.as_text() {
                Some(text) => write!(f, "\"{}\"", shorten(text)),
                None => write!(f, "{} bytes", bytes.len()),
            },
            Node::List(items) => write!(f, "a list of {}", items.len()),
            Node::Tuple(items) => write!(f, "a tuple of {}", items.len()),
            Node::Dict(entries) => write!(f, "a dict of {}", entries.len()),
            Node::Global(name) => f.write_str(&shorten(name)),
            Node::Dtype(_) => f.write_str("a dtype"),
        }
    }
}
