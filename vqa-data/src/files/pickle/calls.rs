//! The few names that a pickle may call, which turn data into data.

use std::borrow::Cow;

use crate::files::pickle::heap::Heap;
use crate::files::pickle::node::{Dtype, Node, NodeId};

/// Calls the function or class of this name, if it is one that may be called.
pub(super) fn call<'a>(heap: &mut Heap<'a>, name: &str, arguments: &[NodeId]) -> Result<NodeId, String> {
    let refuse = || format!("it calls {name}, but only data is read: save plain numbers, text, lists and dicts");
    match (name, arguments) {
        ("collections.OrderedDict" | "collections.Counter" | "builtins.dict" | "__builtin__.dict", [])
        | ("collections.defaultdict", [] | [_]) => heap.add(Node::Dict(Vec::new())),
        ("collections.OrderedDict" | "collections.Counter" | "builtins.dict" | "__builtin__.dict", &[content])
        | ("collections.defaultdict", &[_, content]) => dict_of(heap, content).ok_or_else(refuse),
        ("numpy.dtype", [code, ..]) => {
            let dtype = heap.text(*code).and_then(Dtype::parse).ok_or_else(refuse)?;
            heap.add(Node::Dtype(dtype))
        }
        ("numpy.core.multiarray.scalar" | "numpy._core.multiarray.scalar", &[dtype, bytes]) => {
            let (Node::Dtype(dtype), Node::Bytes(bytes)) = (heap.node(dtype), heap.node(bytes)) else {
                return Err(refuse());
            };
            let (scalar, n) = (scalar(*dtype, bytes), bytes.len());
            heap.copied(n)?;
            heap.add(scalar.ok_or("it holds a NumPy scalar of an unsupported type: save it as a plain number")?)
        }
        // Python 3's bytes in the protocols of Python 2.
        ("_codecs.encode", &[text, encoding]) if matches!(heap.text(encoding), Some("latin1" | "latin-1")) => {
            let bytes = heap.text(text).and_then(latin_1).ok_or_else(refuse)?;
            heap.copied(bytes.len())?;
            heap.add(Node::Bytes(Cow::Owned(bytes)))
        }
        ("builtins.bytes" | "__builtin__.bytes", []) => heap.add(Node::Bytes(Cow::Borrowed(b""))),
        _ => Err(refuse()),
    }
}

/// Builds a dict from a dict or from a list of pairs. It replaces what it is built from, which is therefore never
/// stored twice.
fn dict_of(heap: &mut Heap, content: NodeId) -> Option<NodeId> {
    let entries = match heap.node(content) {
        Node::Dict(_) => return Some(content),
        Node::List(pairs) => pairs.iter().map(|&pair| match heap.node(pair) {
            Node::List(pair) | Node::Tuple(pair) => {
                <[NodeId; 2]>::try_from(&pair[..]).ok().map(|[key, value]| (key, value))
            }
            _ => None,
        }),
        _ => return None,
    };
    let entries = entries.collect::<Option<_>>()?;
    *heap.node_mut(content) = Node::Dict(entries);
    Some(content)
}

fn latin_1(text: &str) -> Option<Vec<u8>> {
    text.chars().map(|character| u8::try_from(character).ok()).collect()
}

/// Decodes the bytes of a NumPy scalar of this type.
fn scalar<'a>(dtype: Dtype, bytes: &[u8]) -> Option<Node<'a>> {
    let mut little_endian = bytes.to_vec();
    if dtype.is_big_endian {
        let n = if dtype.kind == b'U' { 4 } else { bytes.len().max(1) };
        little_endian.chunks_mut(n).for_each(<[u8]>::reverse);
    }
    match (dtype.kind, &*little_endian) {
        (b'i' | b'u', number @ ([_] | [_, _] | [_, _, _, _] | [_, _, _, _, _, _, _, _])) => {
            let is_negative = dtype.kind == b'i' && number[number.len() - 1] >= 0x80;
            let mut whole = [if is_negative { 0xff } else { 0 }; 16];
            whole[..number.len()].copy_from_slice(number);
            i64::try_from(i128::from_le_bytes(whole)).ok().map(Node::Int)
        }
        (b'f', &[a, b, c, d]) => Some(Node::Float(f64::from(f32::from_le_bytes([a, b, c, d])))),
        (b'f', number) => number.try_into().ok().map(|number| Node::Float(f64::from_le_bytes(number))),
        (b'b', [value]) => Some(Node::Bool(*value != 0)),
        (b'U', text) => {
            let characters = text.as_chunks::<4>().0.iter().map(|&code| char::from_u32(u32::from_le_bytes(code)));
            let text: String = characters.collect::<Option<_>>()?;
            Some(Node::Text(text.trim_end_matches('\0').to_owned().into()))
        }
        (b'S', text) => Some(Node::Bytes(text.to_vec().into())),
        _ => None,
    }
}
