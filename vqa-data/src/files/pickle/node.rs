//! The values of a pickle.

use std::borrow::Cow;

/// The index of a value in the heap.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct NodeId(pub(super) u32);

/// A value. It refers to the values within it by their places.
#[derive(Debug)]
pub(super) enum Node<'a> {
    None,
    Bool(bool),
    Int(i64),
    Float(f64),
    Text(Cow<'a, str>),
    /// Python 2's strings too, which may or may not be text.
    Bytes(Cow<'a, [u8]>),
    List(Vec<NodeId>),
    Tuple(Vec<NodeId>),
    Dict(Vec<(NodeId, NodeId)>),
    /// The name of something to call, such as `collections.OrderedDict`.
    Global(String),
    Dtype(Dtype),
}

/// A NumPy element type.
#[derive(Debug, Clone, Copy)]
pub(super) struct Dtype {
    /// `i`, `u`, `f`, `b`, `U` or `S`.
    pub(super) kind: u8,
    pub(super) is_big_endian: bool,
}

impl Dtype {
    /// Parses a code such as `i8`, `<i8` or `U5`.
    pub(super) fn parse(code: &str) -> Option<Dtype> {
        let kind = *code.trim_start_matches(['<', '>', '=', '|']).as_bytes().first()?;
        b"iufbUS".contains(&kind).then_some(Dtype { kind, is_big_endian: code.starts_with('>') })
    }

    /// The dtype in the byte order that `__setstate__` is given.
    pub(super) fn with_byte_order(self, order: &str) -> Dtype {
        Dtype { is_big_endian: order == ">", ..self }
    }
}
