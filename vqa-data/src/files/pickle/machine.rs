//! The stack machine that pickles are programs for.

use std::borrow::Cow;
use std::collections::HashMap;

use foldhash::fast::FixedState;
use memchr::memchr;

use crate::files::pickle::calls::call;
use crate::files::pickle::heap::Heap;
use crate::files::pickle::literals::{raw_unicode, string};
use crate::files::pickle::node::{Node, NodeId};

/// A pickle being read. Names of instructions are those of Python's `pickletools`.
pub(super) struct Machine<'a> {
    bytes: &'a [u8],
    at: usize,
    heap: Heap<'a>,
    stack: Vec<NodeId>,
    /// Heights of the stack at the marks.
    marks: Vec<usize>,
    memo: HashMap<u32, NodeId, FixedState>,
}

impl<'a> Machine<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Machine<'a> {
        Machine {
            bytes,
            at: 0,
            heap: Heap::new(bytes.len()),
            stack: Vec::new(),
            marks: Vec::new(),
            memo: HashMap::default(),
        }
    }

    /// Runs to the end. Returns all values, and the place of the one that was pickled.
    pub(super) fn run(mut self) -> Result<(Vec<Node<'a>>, NodeId), String> {
        loop {
            let start = self.at;
            match self.step() {
                Ok(None) => {}
                Ok(Some(root)) => return Ok((self.heap.into_nodes(), root)),
                Err(problem) => return Err(format!("byte {start}: {problem}")),
            }
        }
    }

    /// Runs one instruction. After the last one, returns the place of the result.
    fn step(&mut self) -> Result<Option<NodeId>, String> {
        let instruction = self.byte()?;
        match instruction {
            b'.' => return self.pop().map(Some),
            // PROTO and FRAME hold nothing that is needed.
            0x80 => match self.byte()? {
                0..=5 => {}
                version => return Err(format!("its protocol is {version}, but only those up to 5 are supported")),
            },
            0x95 => drop(self.take(8)?),
            // The stack.
            b'(' => self.marks.push(self.stack.len()),
            b'0' => drop(self.pop()?),
            b'1' => drop(self.pop_to_mark()?),
            b'2' => self.stack.push(self.top()?),
            // The memo.
            b'p' => {
                let index = self.line_number()?;
                self.put(index)?;
            }
            b'q' => {
                let index = u32::from(self.byte()?);
                self.put(index)?;
            }
            b'r' => {
                let index = self.u32()?;
                self.put(index)?;
            }
            0x94 => self.put(self.memo.len() as u32)?,
            b'g' => {
                let index = self.line_number()?;
                self.get(index)?;
            }
            b'h' => {
                let index = u32::from(self.byte()?);
                self.get(index)?;
            }
            b'j' => {
                let index = self.u32()?;
                self.get(index)?;
            }
            // Containers.
            b']' => self.push(Node::List(Vec::new()))?,
            b')' => self.push(Node::Tuple(Vec::new()))?,
            b'}' => self.push(Node::Dict(Vec::new()))?,
            b'l' => {
                let items = self.pop_to_mark()?;
                self.push(Node::List(items))?;
            }
            b't' => {
                let items = self.pop_to_mark()?;
                self.push(Node::Tuple(items))?;
            }
            b'd' => {
                let entries = pairs(&self.pop_to_mark()?)?;
                self.push(Node::Dict(entries))?;
            }
            0x85..=0x87 => {
                let n = usize::from(instruction - 0x84);
                let from = self.stack.len().checked_sub(n).ok_or(UNDERFLOW)?;
                let items = self.stack.split_off(from);
                self.push(Node::Tuple(items))?;
            }
            b'a' => {
                let item = self.pop()?;
                self.extend_list(&[item])?;
            }
            b'e' => {
                let items = self.pop_to_mark()?;
                self.extend_list(&items)?;
            }
            b's' => {
                let (value, key) = (self.pop()?, self.pop()?);
                self.extend_dict(&[key, value])?;
            }
            b'u' => {
                let entries = self.pop_to_mark()?;
                self.extend_dict(&entries)?;
            }
            // Calls.
            b'c' => {
                let (module, name) = (self.line_text()?, self.line_text()?);
                self.push(Node::Global(format!("{module}.{name}")))?;
            }
            0x93 => {
                let (name, module) = (self.pop()?, self.pop()?);
                let (Some(module), Some(name)) = (self.heap.text(module), self.heap.text(name)) else {
                    return Err(DAMAGED.into());
                };
                let global = format!("{module}.{name}");
                self.heap.copied(global.len())?;
                self.push(Node::Global(global))?;
            }
            b'R' | 0x81 => {
                let (arguments, global) = (self.pop()?, self.pop()?);
                let result = self.call(global, arguments)?;
                self.stack.push(result);
            }
            b'b' => {
                let state = self.pop()?;
                self.set_state(state)?;
            }
            _ => {
                let literal = self.literal(instruction)?;
                self.push(literal)?;
            }
        }
        Ok(None)
    }

    /// Reads a value that is written out in the pickle.
    fn literal(&mut self, instruction: u8) -> Result<Node<'a>, String> {
        Ok(match instruction {
            b'N' => Node::None,
            0x88 => Node::Bool(true),
            0x89 => Node::Bool(false),
            b'I' => match self.line()? {
                b"00" => Node::Bool(false),
                b"01" => Node::Bool(true),
                digits => Node::Int(number(digits)?),
            },
            b'L' => {
                let line = self.line()?;
                Node::Int(number(line.strip_suffix(b"L").unwrap_or(line))?)
            }
            b'J' => Node::Int(i64::from(self.u32()?.cast_signed())),
            b'K' => Node::Int(i64::from(self.byte()?)),
            b'M' => Node::Int(self.length(2)? as i64),
            0x8a => {
                let n = self.length(1)?;
                Node::Int(integer(self.take(n)?)?)
            }
            0x8b => {
                let n = self.length(4)?;
                Node::Int(integer(self.take(n)?)?)
            }
            b'F' => Node::Float(number(self.line()?)?),
            b'G' => Node::Float(f64::from_be_bytes(self.take(8)?.try_into().expect("eight bytes"))),
            b'S' => Node::Bytes(string(self.line()?).ok_or(DAMAGED)?.into()),
            b'V' => Node::Text(raw_unicode(self.line()?).ok_or(NO_TEXT)?.into()),
            b'U' | b'C' => self.bytes_of(1)?,
            b'T' | b'B' => self.bytes_of(4)?,
            0x8e | 0x96 => self.bytes_of(8)?,
            0x8c => self.text_of(1)?,
            b'X' => self.text_of(4)?,
            0x8d => self.text_of(8)?,
            0x8f..=0x91 => return Err("it holds a set, which is not supported: save it as a list".to_owned()),
            b'i' | b'o' | 0x82..=0x84 | 0x92 | b'P' | b'Q' | 0x97 | 0x98 => {
                return Err(
                    "it holds an object, but only data is read: save plain numbers, text, lists and dicts".to_owned()
                );
            }
            _ => return Err(format!("0x{instruction:02x} is not a pickle instruction: {DAMAGED}")),
        })
    }

    fn bytes_of(&mut self, n_digits: usize) -> Result<Node<'a>, String> {
        let n = self.length(n_digits)?;
        self.take(n).map(|bytes| Node::Bytes(Cow::Borrowed(bytes)))
    }

    fn text_of(&mut self, n_digits: usize) -> Result<Node<'a>, String> {
        let n = self.length(n_digits)?;
        let text = std::str::from_utf8(self.take(n)?).map_err(|_| NO_TEXT)?;
        Ok(Node::Text(Cow::Borrowed(text)))
    }

    fn call(&mut self, global: NodeId, arguments: NodeId) -> Result<NodeId, String> {
        let (Node::Global(name), Node::Tuple(arguments)) = (self.heap.node(global), self.heap.node(arguments)) else {
            return Err(DAMAGED.to_owned());
        };
        /// More than any of the names takes; further arguments need not be copied.
        const MOST: usize = 4;
        let (name, arguments) = (name.clone(), arguments[..arguments.len().min(MOST)].to_vec());
        call(&mut self.heap, &name, &arguments)
    }

    /// BUILD: `__setstate__` of the value on top of the stack. The state of a dict, apart from its entries, is ignored.
    fn set_state(&mut self, state: NodeId) -> Result<(), String> {
        let target = self.top()?;
        let order = match self.heap.node(state) {
            Node::Tuple(state) => state.get(1).and_then(|&order| self.heap.text(order)),
            _ => None,
        };
        match (self.heap.node(target), order) {
            (Node::Dict(_), _) => {}
            (Node::Dtype(dtype), Some(order)) => {
                let dtype = dtype.with_byte_order(order);
                *self.heap.node_mut(target) = Node::Dtype(dtype);
            }
            _ => return Err("it holds an object, but only data is read".to_owned()),
        }
        Ok(())
    }

    fn extend_list(&mut self, items: &[NodeId]) -> Result<(), String> {
        let list = self.top()?;
        match self.heap.node_mut(list) {
            Node::List(list) => list.extend_from_slice(items),
            _ => return Err(DAMAGED.to_owned()),
        }
        Ok(())
    }

    fn extend_dict(&mut self, items: &[NodeId]) -> Result<(), String> {
        let entries = pairs(items)?;
        let dict = self.top()?;
        match self.heap.node_mut(dict) {
            Node::Dict(dict) => dict.extend(entries),
            _ => return Err(DAMAGED.to_owned()),
        }
        Ok(())
    }

    fn push(&mut self, node: Node<'a>) -> Result<(), String> {
        let place = self.heap.add(node)?;
        self.stack.push(place);
        Ok(())
    }

    fn top(&self) -> Result<NodeId, String> {
        self.stack.last().copied().ok_or_else(|| UNDERFLOW.to_owned())
    }

    fn pop(&mut self) -> Result<NodeId, String> {
        self.stack.pop().ok_or_else(|| UNDERFLOW.to_owned())
    }

    fn pop_to_mark(&mut self) -> Result<Vec<NodeId>, String> {
        let mark = self.marks.pop().filter(|&mark| mark <= self.stack.len()).ok_or(UNDERFLOW)?;
        Ok(self.stack.split_off(mark))
    }

    fn put(&mut self, index: u32) -> Result<(), String> {
        let top = self.top()?;
        self.memo.insert(index, top);
        Ok(())
    }

    fn get(&mut self, index: u32) -> Result<(), String> {
        let place = *self.memo.get(&index).ok_or(DAMAGED)?;
        self.stack.push(place);
        Ok(())
    }

    fn take(&mut self, n: usize) -> Result<&'a [u8], String> {
        let rest = &self.bytes[self.at..];
        let taken = rest.get(..n).ok_or("it ends in the middle (an interrupted copy or download?): fetch it again")?;
        self.at += n;
        Ok(taken)
    }

    fn byte(&mut self) -> Result<u8, String> {
        self.take(1).map(|byte| byte[0])
    }

    fn u32(&mut self) -> Result<u32, String> {
        self.take(4).map(|bytes| u32::from_le_bytes(bytes.try_into().expect("four bytes")))
    }

    /// Reads a length of `n_bytes` bytes.
    fn length(&mut self, n_bytes: usize) -> Result<usize, String> {
        let mut length = [0; 8];
        length[..n_bytes].copy_from_slice(self.take(n_bytes)?);
        usize::try_from(u64::from_le_bytes(length)).map_err(|_| DAMAGED.to_owned())
    }

    /// Reads up to the next line break, and skips that.
    fn line(&mut self) -> Result<&'a [u8], String> {
        let n = memchr(b'\n', &self.bytes[self.at..]).unwrap_or(self.bytes.len());
        let line = self.take(n)?;
        self.byte()?;
        Ok(line)
    }

    fn line_text(&mut self) -> Result<&'a str, String> {
        std::str::from_utf8(self.line()?).map_err(|_| NO_TEXT.to_owned())
    }

    fn line_number(&mut self) -> Result<u32, String> {
        number(self.line()?)
    }
}

const DAMAGED: &str = "not a valid pickle: fetch or write it again";
const UNDERFLOW: &str = "it pops more from its stack than it pushed, so is not a valid pickle: fetch or write it again";
const NO_TEXT: &str = "a string in it is not valid Unicode: write it again with one that is";

fn number<T: std::str::FromStr>(digits: &[u8]) -> Result<T, String> {
    let number = std::str::from_utf8(digits).ok().and_then(|digits| digits.parse().ok());
    number.ok_or_else(|| "a number in it is too large, or not a number".to_owned())
}

/// Reads a little-endian integer in two's complement.
fn integer(bytes: &[u8]) -> Result<i64, String> {
    let is_negative = bytes.last().is_some_and(|&last| last >= 0x80);
    let fill = if is_negative { 0xff } else { 0 };
    let mut number = [fill; 8];
    let n = bytes.len().min(8);
    number[..n].copy_from_slice(&bytes[..n]);
    let number = i64::from_le_bytes(number);
    let fits = bytes[n..].iter().all(|&byte| byte == fill) && (number < 0) == is_negative;
    if fits { Ok(number) } else { Err("a number in it is too large".to_owned()) }
}

/// Pairs up alternating keys and values.
fn pairs(items: &[NodeId]) -> Result<Vec<(NodeId, NodeId)>, String> {
    let (pairs, rest) = items.as_chunks::<2>();
    if !rest.is_empty() {
        return Err(DAMAGED.to_owned());
    }
    Ok(pairs.iter().map(|&[key, value]| (key, value)).collect())
}
