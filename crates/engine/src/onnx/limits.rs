//! What a file's messages take in memory, counted before they are decoded.
//!
//! An empty message is two bytes in a file and hundreds in memory: without a limit, ten megabytes would become
//! gigabytes. Elements of tensors are not counted: they grow eightfold at most.
//!
//! Encoding: <https://protobuf.dev/programming-guides/encoding/>.

use super::proto::{
    AttributeProto, DimensionProto, FunctionProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto,
    Segment, SparseTensorProto, StringStringEntryProto, TensorProto, TensorShapeProto, TensorTypeProto,
    TypeProto, ValueInfoProto,
};
use crate::graph::{Problem, problem};

/// Bytes that the messages of a file may take: enough for some 200,000 nodes.
const MAX_BYTES: usize = 128 << 20;

/// Messages inside each other; prost has the same limit.
const MAX_DEPTH: usize = 100;

/// A string or a slice, with the least that an allocation takes.
const TEXT_BYTES: usize = 48;

/// A kind of message, as far as [`proto`](super::proto) reads them.
#[derive(Clone, Copy, Debug)]
pub(super) enum Message {
    Model,
    OperatorSetId,
    Graph,
    Function,
    Node,
    Attribute,
    Tensor,
    Segment,
    SparseTensor,
    StringStringEntry,
    ValueInfo,
    Type,
    TensorType,
    TensorShape,
    Dimension,
}

/// Refuses a message that is malformed, nested too deeply or too large in memory.
pub(super) fn check(bytes: &[u8], message: Message) -> Result<(), Problem> {
    let mut size = message.size();
    let mut at = 0;
    // A stack of our own: no input may decide how deep the thread's gets.
    let mut open = vec![(message, bytes.len())];
    while let Some(&(message, end)) = open.last() {
        if at == end {
            open.pop();
            continue;
        }
        let field_at = at;
        let inside = &bytes[..end];
        let cut_off = || Problem::new(format!("the field at byte {field_at} is cut off"));
        let key = varint(inside, &mut at).ok_or_else(cut_off)?;
        let len = match key & 7 {
            0 => varint(inside, &mut at).map(|_| 0),
            1 => Some(8),
            2 => varint(inside, &mut at),
            // Fields of a group, which no message of the format has, are counted as if there were no group.
            3 | 4 => Some(0),
            5 => Some(4),
            _ => problem!("the field at byte {field_at} is not one of a protocol buffer"),
        };
        let field_end = len.and_then(|len| at.checked_add(usize::try_from(len).ok()?));
        let field_end = field_end.filter(|field_end| *field_end <= end).ok_or_else(cut_off)?;
        match message.field(key >> 3) {
            Some(inner) if key & 7 == 2 => {
                size += inner.size();
                open.push((inner, field_end));
            }
            _ if key & 7 == 2 => {
                size += TEXT_BYTES;
                at = field_end;
            }
            _ => at = field_end,
        }
        if open.len() > MAX_DEPTH {
            problem!("messages are nested deeper than {MAX_DEPTH}");
        }
        if size > MAX_BYTES {
            problem!("there are too many nodes, tensors or attributes: more than {MAX_BYTES} bytes of them");
        }
    }
    Ok(())
}

fn varint(bytes: &[u8], at: &mut usize) -> Option<u64> {
    let mut value = 0;
    for shift in (0..70).step_by(7) {
        let byte = *bytes.get(*at)?;
        *at += 1;
        value |= u64::from(byte & 0x7F) << shift;
        if byte < 0x80 {
            // The tenth byte holds the last bit.
            return (shift < 63 || byte <= 1).then_some(value);
        }
    }
    None
}

impl Message {
    fn size(self) -> usize {
        match self {
            Self::Model => size_of::<ModelProto>(),
            Self::OperatorSetId => size_of::<OperatorSetIdProto>(),
            Self::Graph => size_of::<GraphProto>(),
            Self::Function => size_of::<FunctionProto>(),
            Self::Node => size_of::<NodeProto>(),
            Self::Attribute => size_of::<AttributeProto>(),
            Self::Tensor => size_of::<TensorProto>(),
            Self::Segment => size_of::<Segment>(),
            Self::SparseTensor => size_of::<SparseTensorProto>(),
            Self::StringStringEntry => size_of::<StringStringEntryProto>(),
            Self::ValueInfo => size_of::<ValueInfoProto>(),
            Self::Type => size_of::<TypeProto>(),
            Self::TensorType => size_of::<TensorTypeProto>(),
            Self::TensorShape => size_of::<TensorShapeProto>(),
            Self::Dimension => size_of::<DimensionProto>(),
        }
    }

    /// What a field of this number holds, if it is a message that is read.
    fn field(self, number: u64) -> Option<Self> {
        Some(match (self, number) {
            (Self::Model, 7) | (Self::Attribute, 6) => Self::Graph,
            (Self::Model, 8) | (Self::Function, 9) => Self::OperatorSetId,
            (Self::Model, 25) => Self::Function,
            (Self::Graph, 1) | (Self::Function, 7) => Self::Node,
            (Self::Graph, 5) | (Self::Attribute, 5) | (Self::SparseTensor, 1) => Self::Tensor,
            (Self::Graph, 11 | 12) => Self::ValueInfo,
            (Self::Graph, 15) => Self::SparseTensor,
            (Self::Function, 11) | (Self::Node, 5) => Self::Attribute,
            (Self::Tensor, 3) => Self::Segment,
            (Self::Tensor, 13) => Self::StringStringEntry,
            (Self::ValueInfo, 2) => Self::Type,
            (Self::Type, 1) => Self::TensorType,
            (Self::TensorType, 2) => Self::TensorShape,
            (Self::TensorShape, 1) => Self::Dimension,
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A field that holds a message.
    fn field(number: u64, content: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for mut value in [number << 3 | 2, content.len() as u64] {
            while value >= 0x80 {
                bytes.push(value as u8 | 0x80);
                value >>= 7;
            }
            bytes.push(value as u8);
        }
        bytes.extend(content);
        bytes
    }

    #[test]
    fn millions_of_empty_messages_are_refused_wherever_they_are() {
        let paths: [&[u64]; 13] = [
            &[8],
            &[25],
            &[25, 7],
            &[25, 11],
            &[7, 1],
            &[7, 1, 1],
            &[7, 1, 5],
            &[7, 1, 5, 5],
            &[7, 1, 5, 6, 1],
            &[7, 5, 13],
            &[7, 11],
            &[7, 12, 2, 1, 2, 1],
            &[7, 15, 1, 6],
        ];
        for path in paths {
            let (last, around) = path.split_last().unwrap();
            let empty = field(*last, &[]).repeat(4 << 20);
            let bytes = around.iter().rev().fold(empty, |content, number| field(*number, &content));
            assert!(check(&bytes, Message::Model).unwrap_err().to_string().contains("too many"), "{path:?}");
        }
        // One large tensor is no such file.
        let tensor = field(7, &field(5, &field(9, &vec![0; 16 << 20])));
        assert!(check(&tensor, Message::Model).is_ok());
    }

    #[test]
    fn malformed_messages_are_refused_at_their_byte() {
        let problem = |bytes: &[u8]| check(bytes, Message::Model).unwrap_err().to_string();
        assert_eq!(problem(&[0x08]), "the field at byte 0 is cut off");
        assert_eq!(problem(&[0x08, 1, 0x3A, 5, 0]), "the field at byte 2 is cut off");
        assert_eq!(problem(&[0x3A, 2, 0x0A, 1, 0]), "the field at byte 2 is cut off");
        assert_eq!(problem(&[0x0F, 0]), "the field at byte 0 is not one of a protocol buffer");
        assert!(check(&[0xFF; 11], Message::Model).is_err());
        let mut huge = vec![0x3A];
        huge.extend([0xFF; 9]);
        huge.push(1);
        assert_eq!(problem(&huge), "the field at byte 0 is cut off");
        let deep = (0..40).fold(Vec::new(), |graph, _| field(1, &field(5, &field(6, &graph))));
        assert!(problem(&field(7, &deep)).contains("nested"));
        assert!(check(&[], Message::Model).is_ok());
    }
}
