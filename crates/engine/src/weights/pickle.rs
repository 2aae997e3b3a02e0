//! The part of Python's pickle that `torch.save` writes of a dictionary of tensors, and nothing else.
//!
//! A pickle is a program. Here it can name a fixed list of globals, none of which is called: they stand for what they
//! would make. Values live in one list and refer to each other by their place in it, so that no file can nest them deeper
//! than a stack is, or make a few bytes stand for more memory than bytes in proportion to them.
//!
//! Opcodes: `Lib/pickletools.py` of CPython. What they say: `torch/serialization.py` and `torch/_utils.py`.

use std::collections::{HashMap, HashSet};
use std::rc::Rc;

use safetensors::Dtype;

type Result<T, E = String> = std::result::Result<T, E>;

/// A tensor as a pickle describes it; nothing is checked but the types.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct TensorRecord {
    pub(super) storage: Rc<StorageRecord>,
    /// The first element's place in the storage.
    pub(super) offset: usize,
    pub(super) shape: Vec<usize>,
    pub(super) strides: Vec<usize>,
}

/// Elements in a file of their own.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct StorageRecord {
    pub(super) dtype: Dtype,
    /// The file's name.
    pub(super) key: String,
    /// How many elements there are.
    pub(super) len: usize,
}

/// A checkpoint of thousands of tensors has less than a megabyte.
const MAX_BYTES: usize = 16 << 20;

/// Weights of layers have no more. Without a limit, a shape that is used again and again would be copied so often.
const MAX_DIMS: usize = 8;

/// The tensors of a pickled dictionary, by name.
///
/// # Errors
///
/// When the pickle is anything else, in words.
pub(super) fn read(pickle: &[u8]) -> Result<Vec<(String, TensorRecord)>> {
    if pickle.len() > MAX_BYTES {
        return Err(format!("{} bytes of names and shapes are too many", pickle.len()));
    }
    let mut machine = Machine { rest: pickle, ..Machine::default() };
    while machine.step()? {}
    machine.tensors()
}

/// A value's place in the list of values.
type Id = usize;

#[derive(Debug)]
enum Value {
    None,
    Bool,
    Int(i64),
    Text(String),
    Tuple(Vec<Id>),
    Dict(Vec<(Id, Id)>),
    Global(Global),
    Storage(Rc<StorageRecord>),
    Tensor(TensorRecord),
}

#[derive(Clone, Copy, Debug)]
enum Global {
    OrderedDict,
    RebuildTensor,
    RebuildParameter,
    Storage(Dtype),
}

#[derive(Debug, Default)]
struct Machine<'a> {
    rest: &'a [u8],
    values: Vec<Value>,
    stack: Vec<Id>,
    /// Heights of the stack.
    marks: Vec<usize>,
    memo: HashMap<u32, Id>,
}

impl<'a> Machine<'a> {
    /// Runs one instruction; whether there is another.
    fn step(&mut self) -> Result<bool> {
        let [opcode] = self.bytes()?;
        match opcode {
            0x80 => match self.bytes()? {
                [2..=4] => {}
                [version] => return Err(format!("version {version} of pickles is not known")),
            },
            b'.' => return Ok(false),
            b'(' => self.marks.push(self.stack.len()),
            b'c' => {
                let (module, name) = (self.line()?, self.line()?);
                self.push(Value::Global(global(module, name)?));
            }
            b'q' | b'r' => {
                let place = self.place(opcode == b'q')?;
                let id = *self.stack.last().ok_or("there is nothing to remember")?;
                self.memo.insert(place, id);
            }
            b'h' | b'j' => {
                let place = self.place(opcode == b'h')?;
                let id = self.memo.get(&place).ok_or_else(|| format!("nothing is remembered as {place}"))?;
                self.stack.push(*id);
            }
            b'N' => self.push(Value::None),
            0x88 | 0x89 => self.push(Value::Bool),
            b'K' | b'M' | b'J' | 0x8a => {
                let int = self.int(opcode)?;
                self.push(Value::Int(int));
            }
            b'X' => {
                let text = self.text()?;
                self.push(Value::Text(text));
            }
            b')' => self.push(Value::Tuple(Vec::new())),
            0x85..=0x87 => {
                let items = self.pop_some(usize::from(opcode - 0x84))?;
                self.push(Value::Tuple(items));
            }
            b't' => {
                let items = self.pop_to_mark()?;
                self.push(Value::Tuple(items));
            }
            b'}' => self.push(Value::Dict(Vec::new())),
            b's' => {
                let items = self.pop_some(2)?;
                self.set_items(&items)?;
            }
            b'u' => {
                let items = self.pop_to_mark()?;
                self.set_items(&items)?;
            }
            b'b' => {
                // Attributes of a dictionary, as `_metadata` of a module's tensors. They say nothing about tensors.
                self.pop()?;
                self.dict()?;
            }
            b'Q' => {
                let storage = self.storage()?;
                self.push(Value::Storage(Rc::new(storage)));
            }
            b'R' => {
                let made = self.reduce()?;
                self.push(made);
            }
            other => return Err(format!("the instruction {other:#04x} makes no tensors")),
        }
        Ok(true)
    }

    /// What the machine was left with, once it has stopped.
    fn tensors(mut self) -> Result<Vec<(String, TensorRecord)>> {
        let [root] = *self.stack else {
            return Err("it does not end with one value".into());
        };
        let Value::Dict(items) = &self.values[root] else {
            return Err("it is no dictionary".into());
        };
        let items = items.clone();
        let mut names = HashSet::new();
        let mut tensors = Vec::with_capacity(items.len());
        for (key, value) in items {
            if !names.insert(key) {
                return Err("a name is there twice".into());
            }
            let name = match &mut self.values[key] {
                Value::Text(name) => std::mem::take(name),
                _ => return Err("a name is no text".into()),
            };
            match &self.values[value] {
                Value::Tensor(tensor) => tensors.push((name, tensor.clone())),
                _ => return Err(format!("`{name}` is no tensor")),
            }
        }
        Ok(tensors)
    }

    /// What a global makes of its arguments.
    fn reduce(&mut self) -> Result<Value> {
        let (arguments, callable) = (self.pop()?, self.pop()?);
        let Value::Tuple(arguments) = &self.values[arguments] else {
            return Err("arguments are no tuple".into());
        };
        let Value::Global(global) = self.values[callable] else {
            return Err("what is called is no global".into());
        };
        match (global, arguments.as_slice()) {
            (Global::OrderedDict, []) => Ok(Value::Dict(Vec::new())),
            // The last of seven is `_metadata`.
            (
                Global::RebuildTensor,
                [storage, offset, shape, strides, _, _] | [storage, offset, shape, strides, _, _, _],
            ) => {
                let Value::Storage(storage) = &self.values[*storage] else {
                    return Err("a tensor has no storage".into());
                };
                let offset = self.size(*offset)?;
                let (shape, strides) = (self.sizes(*shape)?, self.sizes(*strides)?);
                Ok(Value::Tensor(TensorRecord { storage: Rc::clone(storage), offset, shape, strides }))
            }
            (Global::RebuildParameter, [tensor, _, _]) => match &self.values[*tensor] {
                Value::Tensor(tensor) => Ok(Value::Tensor(tensor.clone())),
                _ => Err("a parameter is no tensor".into()),
            },
            (global, arguments) => Err(format!("{global:?} does not take {} arguments", arguments.len())),
        }
    }

    /// `("storage", type, key, device, number of elements)`, as torch.save names a storage.
    fn storage(&mut self) -> Result<StorageRecord> {
        let id = self.pop()?;
        let Value::Tuple(parts) = &self.values[id] else {
            return Err("a storage is named by no tuple".into());
        };
        let [tag, class, key, _, len] = parts[..] else {
            return Err(format!("a storage is named by {} parts", parts.len()));
        };
        match (&self.values[tag], &self.values[class], &self.values[key]) {
            (Value::Text(tag), Value::Global(Global::Storage(dtype)), Value::Text(key))
                if tag == "storage" =>
            {
                Ok(StorageRecord { dtype: *dtype, key: key.clone(), len: self.size(len)? })
            }
            _ => Err("a storage is named by something else than type and file".into()),
        }
    }

    fn size(&self, id: Id) -> Result<usize> {
        match self.values[id] {
            Value::Int(int) => usize::try_from(int).map_err(|_| format!("{int} is no size")),
            _ => Err("a size is no number".into()),
        }
    }

    fn sizes(&self, id: Id) -> Result<Vec<usize>> {
        match &self.values[id] {
            Value::Tuple(sizes) if sizes.len() <= MAX_DIMS => sizes.iter().map(|id| self.size(*id)).collect(),
            Value::Tuple(sizes) => Err(format!("a tensor has {} dimensions", sizes.len())),
            _ => Err("sizes are no tuple".into()),
        }
    }

    /// The dictionary on top of the stack.
    fn dict(&mut self) -> Result<&mut Vec<(Id, Id)>> {
        let top = *self.stack.last().ok_or("there is no dictionary")?;
        match &mut self.values[top] {
            Value::Dict(items) => Ok(items),
            _ => Err("items are put into something else than a dictionary".into()),
        }
    }

    fn set_items(&mut self, items: &[Id]) -> Result<()> {
        let (pairs, rest) = items.as_chunks::<2>();
        if !rest.is_empty() {
            return Err("an item of a dictionary has no value".into());
        }
        let dict = self.dict()?;
        dict.extend(pairs.iter().map(|[key, value]| (*key, *value)));
        Ok(())
    }

    fn push(&mut self, value: Value) {
        self.stack.push(self.values.len());
        self.values.push(value);
    }

    fn pop(&mut self) -> Result<Id> {
        // Python's own machine would not find what is below a mark either.
        let bottom = self.marks.last().copied().unwrap_or(0);
        let top = if self.stack.len() > bottom { self.stack.pop() } else { None };
        top.ok_or_else(|| "a value is missing".into())
    }

    /// The last `count` values, the last last.
    fn pop_some(&mut self, count: usize) -> Result<Vec<Id>> {
        let mut items = (0..count).map(|_| self.pop()).collect::<Result<Vec<Id>>>()?;
        items.reverse();
        Ok(items)
    }

    fn pop_to_mark(&mut self) -> Result<Vec<Id>> {
        let mark = self.marks.pop().ok_or("a mark is missing")?;
        // Nothing is popped below the last mark.
        Ok(self.stack.split_off(mark))
    }

    fn place(&mut self, is_short: bool) -> Result<u32> {
        Ok(if is_short { u32::from(self.bytes::<1>()?[0]) } else { u32::from_le_bytes(self.bytes()?) })
    }

    fn int(&mut self, opcode: u8) -> Result<i64> {
        Ok(match opcode {
            b'K' => i64::from(self.bytes::<1>()?[0]),
            b'M' => i64::from(u16::from_le_bytes(self.bytes()?)),
            b'J' => i64::from(i32::from_le_bytes(self.bytes()?)),
            _ => {
                let [len] = self.bytes()?;
                let bytes = self.take(usize::from(len))?;
                // Little-endian, in two's complement, as short as it can be.
                let is_negative = bytes.last().is_some_and(|byte| *byte >= 0x80);
                let mut wide = if is_negative { [0xff; 8] } else { [0; 8] };
                let low = wide.get_mut(..bytes.len()).ok_or("a number is longer than 64 bits")?;
                low.copy_from_slice(bytes);
                i64::from_le_bytes(wide)
            }
        })
    }

    fn text(&mut self) -> Result<String> {
        let len = u32::from_le_bytes(self.bytes()?);
        let bytes = self.take(usize::try_from(len).map_err(|error| error.to_string())?)?;
        Ok(std::str::from_utf8(bytes).map_err(|error| error.to_string())?.to_owned())
    }

    fn line(&mut self) -> Result<&'a str> {
        let end = self.rest.iter().position(|byte| *byte == b'\n').ok_or("it is cut off")?;
        let line = self.take(end)?;
        self.rest = &self.rest[1..];
        std::str::from_utf8(line).map_err(|error| error.to_string())
    }

    fn bytes<const N: usize>(&mut self) -> Result<[u8; N]> {
        let (bytes, rest) = self.rest.split_first_chunk::<N>().ok_or("it is cut off")?;
        self.rest = rest;
        Ok(*bytes)
    }

    fn take(&mut self, len: usize) -> Result<&'a [u8]> {
        let (bytes, rest) = self.rest.split_at_checked(len).ok_or("it is cut off")?;
        self.rest = rest;
        Ok(bytes)
    }
}

/// The globals that a dictionary of tensors names.
fn global(module: &str, name: &str) -> Result<Global> {
    Ok(match (module, name) {
        ("collections", "OrderedDict") => Global::OrderedDict,
        ("torch._utils", "_rebuild_tensor_v2") => Global::RebuildTensor,
        ("torch._utils", "_rebuild_parameter") => Global::RebuildParameter,
        ("torch", "FloatStorage") => Global::Storage(Dtype::F32),
        ("torch", "HalfStorage") => Global::Storage(Dtype::F16),
        ("torch", "BFloat16Storage") => Global::Storage(Dtype::BF16),
        ("torch", "DoubleStorage") => Global::Storage(Dtype::F64),
        ("torch", "LongStorage") => Global::Storage(Dtype::I64),
        ("torch", "IntStorage") => Global::Storage(Dtype::I32),
        ("torch", "ShortStorage") => Global::Storage(Dtype::I16),
        ("torch", "CharStorage") => Global::Storage(Dtype::I8),
        ("torch", "ByteStorage") => Global::Storage(Dtype::U8),
        ("torch", "BoolStorage") => Global::Storage(Dtype::BOOL),
        _ => return Err(format!("a dictionary of tensors has no `{module}.{name}`")),
    })
}
