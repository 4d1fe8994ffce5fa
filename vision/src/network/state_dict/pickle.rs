//! The pickle in a state dict, read by a machine that knows its words and no other.
//!
//! # Source
//!
//! The words are those of protocol 2, the one `torch.save` writes: `Lib/pickletools.py` of Python describes each.

use std::collections::HashMap;

/// The most dimensions of a tensor: PyTorch computes with no more.
const DIMENSIONS: usize = 64;

/// Where a tensor's numbers lie.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Stored {
    /// The name of the entry in the zip.
    pub(super) key: String,
    /// `FloatStorage` and the like.
    pub(super) kind: String,
    /// How many numbers.
    pub(super) count: u64,
}

/// A tensor: a view of a storage.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct TensorSpec {
    pub(super) storage: Stored,
    pub(super) offset: i64,
    pub(super) size: Vec<i64>,
    pub(super) stride: Vec<i64>,
}

impl TensorSpec {
    /// Says whether every element lies within a storage of `count` numbers.
    pub(super) fn lies_within(&self, count: u64) -> bool {
        let plain = self.offset >= 0 && self.size.len() == self.stride.len();
        if !plain || self.size.iter().chain(&self.stride).any(|&length| length < 0) {
            return false;
        }
        if self.size.contains(&0) {
            return true;
        }
        let mut steps = self.size.iter().zip(&self.stride).map(|(size, stride)| (size - 1).checked_mul(*stride));
        let last = steps.try_fold(self.offset, |sum, step| sum.checked_add(step?));
        last.is_some_and(|last| u64::try_from(last).is_ok_and(|last| last < count))
    }
}

/// The place of a value among all. Values name each other by it, so that neither sharing nor depth is a matter.
type Place = usize;

#[derive(Debug)]
enum Value {
    Nothing,
    Whole(i64),
    Text(String),
    Sequence(Vec<Place>),
    Dict(Vec<(Place, Place)>),
    Global(String),
    Storage(Stored),
    Tensor(TensorSpec),
}

/// Reads the named tensors.
pub(super) fn read(bytes: &[u8]) -> Result<Vec<(String, TensorSpec)>, String> {
    let mut machine =
        Machine { rest: bytes, values: Vec::new(), stack: Vec::new(), marks: Vec::new(), memo: HashMap::new() };
    let top = machine.run()?;
    let machine = &machine;
    let named = |place: Place, key: &str| match &machine.values[place] {
        Value::Dict(pairs) => pairs.iter().find(|(name, _)| machine.text(*name).is_ok_and(|name| name == key)),
        _ => None,
    };
    let inner = ["state_dict", "model"].iter().find_map(|key| named(top, key)).map(|&(_, inner)| inner);
    let Value::Dict(pairs) = &machine.values[inner.unwrap_or(top)] else {
        return Err("holds something other than a dictionary of tensors".to_owned());
    };
    let tensor = |&(name, value): &(Place, Place)| match (&machine.values[value], machine.text(name)) {
        (Value::Tensor(spec), Ok(name)) => Ok((name.to_owned(), spec.clone())),
        (_, Ok(name)) => Err(format!("`{name}` is no tensor; save network.state_dict() alone")),
        (_, Err(reason)) => Err(reason),
    };
    pairs.iter().map(tensor).collect()
}

struct Machine<'a> {
    rest: &'a [u8],
    values: Vec<Value>,
    stack: Vec<Place>,
    marks: Vec<usize>,
    memo: HashMap<u32, Place>,
}

impl<'a> Machine<'a> {
    /// Runs to the end and returns what is left.
    fn run(&mut self) -> Result<Place, String> {
        loop {
            let word = self.byte()?;
            match word {
                0x80 => _ = self.byte()?, // the protocol
                b'.' => return self.pop(),
                b'(' => self.marks.push(self.stack.len()),
                b'N' | 0x88 | 0x89 => self.push(Value::Nothing), // None, True, False: never looked at
                b'G' => {
                    self.take(8)?; // a float: never looked at
                    self.push(Value::Nothing);
                }
                b'K' => self.whole(1)?,
                b'M' => self.whole(2)?,
                b'J' => self.whole(4)?,
                0x8a => {
                    let length = self.byte()?;
                    self.whole(length.into())?;
                }
                b'X' => {
                    let length = self.length()?;
                    let text = String::from_utf8(self.take(length)?.to_vec()).map_err(|_| "a name is no UTF-8")?;
                    self.push(Value::Text(text));
                }
                b'c' => {
                    let name = format!("{}.{}", self.line()?, self.line()?);
                    self.push(Value::Global(name));
                }
                b'q' => {
                    let at = self.byte()?.into();
                    self.remember(at)?;
                }
                b'r' => {
                    let at = self.length()? as u32;
                    self.remember(at)?;
                }
                b'h' => {
                    let at = self.byte()?.into();
                    self.recall(at)?;
                }
                b'j' => {
                    let at = self.length()? as u32;
                    self.recall(at)?;
                }
                b')' | b']' => self.push(Value::Sequence(Vec::new())),
                b'}' => self.push(Value::Dict(Vec::new())),
                b't' => {
                    let items = self.since_mark()?;
                    self.push(Value::Sequence(items));
                }
                0x85..=0x87 => {
                    let from = self.stack.len().checked_sub(usize::from(word - 0x84)).ok_or(ENDS_EARLY)?;
                    let items = self.stack.split_off(from);
                    self.push(Value::Sequence(items));
                }
                b'a' => {
                    let item = self.pop()?;
                    self.append(vec![item])?;
                }
                b'e' => {
                    let items = self.since_mark()?;
                    self.append(items)?;
                }
                b's' => {
                    let value = self.pop()?;
                    let key = self.pop()?;
                    self.set(&[key, value])?;
                }
                b'u' => {
                    let items = self.since_mark()?;
                    self.set(&items)?;
                }
                b'Q' => self.storage()?,
                b'R' => self.call()?,
                b'b' => _ = self.pop()?, // attributes of a dictionary: versions of layers
                other => return Err(format!("is pickled with a word that no state dict needs ({other:#04x})")),
            }
        }
    }

    /// `torch`'s own reference to the bytes of a tensor: `('storage', torch.FloatStorage, '0', 'cpu', 12)`.
    fn storage(&mut self) -> Result<(), String> {
        let place = self.pop()?;
        let Value::Sequence(parts) = &self.values[place] else { return Err("a storage is badly named".to_owned()) };
        let &[_, kind, key, _, count] = parts.as_slice() else { return Err("a storage is badly named".to_owned()) };
        let Value::Global(kind) = &self.values[kind] else { return Err("a storage has no kind".to_owned()) };
        let kind = kind.rsplit('.').next().unwrap_or_default().to_owned();
        let count = u64::try_from(self.number(count)?).map_err(|_| "a storage has a negative size")?;
        let stored = Stored { key: self.text(key)?.to_owned(), kind, count };
        self.push(Value::Storage(stored));
        Ok(())
    }

    /// Calls one of the three functions that there may be.
    fn call(&mut self) -> Result<(), String> {
        let (arguments, function) = (self.pop()?, self.pop()?);
        let Value::Global(function) = &self.values[function] else {
            return Err("calls what is no function".to_owned());
        };
        let Value::Sequence(arguments) = &self.values[arguments] else {
            return Err("calls without arguments".to_owned());
        };
        let value = match (function.as_str(), arguments.as_slice()) {
            ("collections.OrderedDict", []) => Value::Dict(Vec::new()),
            ("torch._utils._rebuild_tensor_v2", &[storage, offset, size, stride, ..]) => {
                let Value::Storage(storage) = &self.values[storage] else {
                    return Err("a tensor has no storage".to_owned());
                };
                let (size, stride) = (self.numbers(size)?, self.numbers(stride)?);
                Value::Tensor(TensorSpec { storage: storage.clone(), offset: self.number(offset)?, size, stride })
            }
            // Nothing else: of a small file that repeats lists a copy at each call would make a large one.
            ("torch._utils._rebuild_parameter", &[tensor, ..]) => match &self.values[tensor] {
                Value::Tensor(spec) => Value::Tensor(spec.clone()),
                _ => return Err("a parameter is of no tensor".to_owned()),
            },
            (other, _) => {
                return Err(format!(
                    "wants to call {other}, which no state dict needs; save network.state_dict() alone"
                ));
            }
        };
        self.push(value);
        Ok(())
    }

    fn append(&mut self, items: Vec<Place>) -> Result<(), String> {
        let &list = self.stack.last().ok_or(ENDS_EARLY)?;
        match &mut self.values[list] {
            Value::Sequence(list) => list.extend(items),
            _ => return Err("appends to what is no list".to_owned()),
        }
        Ok(())
    }

    fn set(&mut self, items: &[Place]) -> Result<(), String> {
        let &dict = self.stack.last().ok_or(ENDS_EARLY)?;
        match &mut self.values[dict] {
            Value::Dict(pairs) => pairs.extend(items.as_chunks::<2>().0.iter().map(|&[key, value]| (key, value))),
            _ => return Err("sets items of what is no dictionary".to_owned()),
        }
        Ok(())
    }

    fn push(&mut self, value: Value) {
        self.stack.push(self.values.len());
        self.values.push(value);
    }

    fn pop(&mut self) -> Result<Place, String> {
        Ok(self.stack.pop().ok_or(ENDS_EARLY)?)
    }

    fn since_mark(&mut self) -> Result<Vec<Place>, String> {
        let mark = self.marks.pop().filter(|&mark| mark <= self.stack.len()).ok_or(ENDS_EARLY)?;
        Ok(self.stack.split_off(mark))
    }

    fn remember(&mut self, at: u32) -> Result<(), String> {
        self.memo.insert(at, *self.stack.last().ok_or(ENDS_EARLY)?);
        Ok(())
    }

    fn recall(&mut self, at: u32) -> Result<(), String> {
        self.stack.push(*self.memo.get(&at).ok_or("recalls what it did not remember")?);
        Ok(())
    }

    fn text(&self, place: Place) -> Result<&str, String> {
        match &self.values[place] {
            Value::Text(text) => Ok(text),
            _ => Err("has a name that is no text".to_owned()),
        }
    }

    fn number(&self, place: Place) -> Result<i64, String> {
        match self.values[place] {
            Value::Whole(number) => Ok(number),
            _ => Err("has a size that is no number".to_owned()),
        }
    }

    fn numbers(&self, place: Place) -> Result<Vec<i64>, String> {
        match &self.values[place] {
            Value::Sequence(places) if places.len() <= DIMENSIONS => {
                places.iter().map(|&place| self.number(place)).collect()
            }
            Value::Sequence(_) => Err(format!("has a tensor of more than {DIMENSIONS} dimensions")),
            _ => Err("has a shape that is no list".to_owned()),
        }
    }

    /// A whole number of so many bytes, least first; of 4 and more the last one carries the sign.
    fn whole(&mut self, length: usize) -> Result<(), String> {
        let bytes = self.take(length)?;
        if length > 8 {
            return Err("holds a number beyond 64 bits".to_owned());
        }
        let is_negative = length >= 4 && bytes[length - 1] >= 0x80;
        let mut whole = [if is_negative { 0xff } else { 0 }; 8];
        whole[..length].copy_from_slice(bytes);
        self.push(Value::Whole(i64::from_le_bytes(whole)));
        Ok(())
    }

    fn byte(&mut self) -> Result<u8, String> {
        Ok(self.take(1)?[0])
    }

    fn length(&mut self) -> Result<usize, String> {
        let bytes = self.take(4)?;
        Ok(u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]) as usize)
    }

    fn line(&mut self) -> Result<String, String> {
        let end = self.rest.iter().position(|&byte| byte == b'\n').ok_or(ENDS_EARLY)?;
        let line = String::from_utf8_lossy(self.take(end)?).into_owned();
        self.take(1)?;
        Ok(line)
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8], String> {
        let (taken, rest) = self.rest.split_at_checked(length).ok_or(ENDS_EARLY)?;
        self.rest = rest;
        Ok(taken)
    }
}

const ENDS_EARLY: &str = "its pickle ends early";

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(offset: i64, size: &[i64], stride: &[i64]) -> TensorSpec {
        let storage = Stored { key: "0".into(), kind: "FloatStorage".into(), count: 6 };
        TensorSpec { storage, offset, size: size.into(), stride: stride.into() }
    }

    #[test]
    fn a_tensor_lies_within_its_storage_or_is_refused() {
        assert!(spec(0, &[2, 3], &[3, 1]).lies_within(6));
        assert!(spec(0, &[], &[]).lies_within(1));
        assert!(spec(9, &[0], &[1]).lies_within(0));
        for bad in [spec(1, &[2, 3], &[3, 1]), spec(-1, &[1], &[1]), spec(0, &[2], &[-1]), spec(0, &[2], &[])] {
            assert!(!bad.lies_within(6), "{bad:?}");
        }
        assert!(!spec(0, &[i64::MAX, 2], &[i64::MAX, 1]).lies_within(6));
    }

    #[test]
    fn what_could_run_is_refused() {
        // cos\nsystem\n(X\x04\0\0\0echotR.
        let said = read(b"\x80\x02cos\nsystem\n(X\x04\0\0\0echotR.").unwrap_err();
        assert!(said.contains("wants to call os.system"), "{said}");
    }

    #[test]
    fn a_parameter_is_a_tensor_and_a_shape_is_short() {
        // A list, False and False in place of a tensor.
        let said = read(b"\x80\x02ctorch._utils\n_rebuild_parameter\n(]\x89\x89tR.").unwrap_err();
        assert_eq!(said, "a parameter is of no tensor");

        // From a storage of one number, 65 times 1 for its shape.
        let storage = b"((X\x07\0\0\0storagectorch\nFloatStorage\nX\x01\0\0\0aX\x03\0\0\0cpuK\x01tQ";
        let shape = [&b"("[..], &b"K\x01".repeat(65), b"t"].concat();
        let call = [&b"ctorch._utils\n_rebuild_tensor_v2\n"[..], storage, b"K\0", &shape, b")tR."].concat();
        assert_eq!(read(&call).unwrap_err(), "has a tensor of more than 64 dimensions");
    }

    #[test]
    fn rubbish_is_an_error() {
        for bytes in
            [&b""[..], b"\x80", b"a", b"u", b"h\x07", b"X\xff\xff\xff\x7fa", b"t", b"\x87", b"R", b"Q", b"N.", b"\xff"]
        {
            assert!(read(bytes).is_err(), "{bytes:?}");
        }
    }
}
