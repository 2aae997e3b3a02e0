//! Files of torch.save as they are, and as nobody should write them.

use std::io::Write;
use std::path::PathBuf;

use tempfile::TempDir;
use zip::ZipWriter;
use zip::write::SimpleFileOptions;

use super::*;
use crate::weights::Weights;

fn fixture(name: &str) -> PathBuf {
    let heads = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/heads");
    let folders = std::fs::read_dir(heads).unwrap().map(|entry| entry.unwrap().path());
    let mut folders = folders.filter(|folder| folder.join("colbert_linear.pt").is_file());
    folders.next().expect("a fixture has what torch.save wrote").join(name)
}

/// An archive as torch.save makes it.
fn archive(entries: &[(&str, &[u8])], method: CompressionMethod) -> Vec<u8> {
    let mut writer = ZipWriter::new(Cursor::new(Vec::new()));
    for (name, bytes) in entries {
        let options = SimpleFileOptions::default().compression_method(method);
        writer.start_file(format!("archive/{name}"), options).unwrap();
        writer.write_all(bytes).unwrap();
    }
    writer.finish().unwrap().into_inner()
}

/// The pickle of a dictionary that `items` fill.
fn dictionary(items: &[Vec<u8>]) -> Vec<u8> {
    [b"\x80\x02}(".as_slice(), &items.concat(), b"u."].concat()
}

fn text(text: &str) -> Vec<u8> {
    [b"X".as_slice(), &(text.len() as u32).to_le_bytes(), text.as_bytes()].concat()
}

fn int(int: i32) -> Vec<u8> {
    [b"J".as_slice(), &int.to_le_bytes()].concat()
}

fn tuple(items: &[i32]) -> Vec<u8> {
    [b"(".as_slice(), &items.iter().flat_map(|item| int(*item)).collect::<Vec<u8>>(), b"t"].concat()
}

/// A name and a tensor.
fn item(
    name: &str,
    class: &str,
    key: &str,
    len: i32,
    offset: i32,
    shape: &[i32],
    strides: &[i32],
) -> Vec<u8> {
    let storage = [
        b"((".as_slice(),
        &text("storage"),
        format!("ctorch\n{class}\n").as_bytes(),
        &text(key),
        &text("cpu"),
        &int(len),
        b"tQ",
    ]
    .concat();
    let rebuild = [b"ctorch._utils\n_rebuild_tensor_v2\n".as_slice(), &storage, &int(offset)].concat();
    [text(name), rebuild, tuple(shape), tuple(strides), b"\x89NtR".to_vec()].concat()
}

fn plain(items: &[Vec<u8>], data: &[(&str, &[u8])]) -> Vec<u8> {
    let pickle = dictionary(items);
    let mut entries = vec![("data.pkl", pickle.as_slice()), ("byteorder", b"little")];
    entries.extend_from_slice(data);
    archive(&entries, CompressionMethod::Stored)
}

#[track_caller]
fn check_error(file: &[u8], expected: &str) {
    let error = read(file).expect_err("must be refused");
    assert!(error.contains(expected), "{error}");
}

#[test]
fn torch_saves_what_is_read() {
    let weights = Weights::open([fixture("sparse_linear.pt")]).unwrap();
    assert_eq!(weights.names().collect::<Vec<_>>(), ["bias", "weight"]);
    assert_eq!(
        (weights.shape("weight"), weights.shape("bias")),
        (Some([1, 24].as_slice()), Some([1].as_slice()))
    );
    assert_eq!(weights.shape("x"), None);
    let bytes = |bytes: [u8; 4]| f32::from_le_bytes(bytes);
    // As `torch.load` reads them.
    let weight = weights.root().read_f32("weight", &[1, 24]).unwrap();
    assert_eq!(weight[..2], [bytes([0xb3, 0xeb, 0x16, 0xbd]), bytes([0x82, 0xa8, 0xc9, 0x3d])]);
    assert_eq!(weights.root().read_f32("bias", &[1]).unwrap(), [bytes([0xb8, 0xd1, 0xdd, 0xbe])]);
    weights.root().finish(&[]).unwrap();
}

#[test]
fn parts_of_a_storage_and_all_types() {
    let halves = [0x00, 0x3c, 0x00, 0xc0];
    let floats = [1.0f32, 2.0, 3.0, 4.0].map(f32::to_le_bytes).concat();
    let file = plain(
        &[
            item("rows", "FloatStorage", "0", 4, 2, &[1, 2], &[7, 1]),
            item("all", "FloatStorage", "0", 4, 0, &[2, 2], &[2, 1]),
            item("half", "HalfStorage", "1", 2, 0, &[2], &[1]),
            item("bf16", "BFloat16Storage", "1", 2, 1, &[], &[]),
            item("ids", "LongStorage", "2", 1, 0, &[1], &[1]),
            item("empty", "FloatStorage", "0", 4, 4, &[0, i32::MAX, i32::MAX, i32::MAX], &[1, 1, 1, 1]),
        ],
        &[("data/0", &floats), ("data/1", &halves), ("data/2", &[0; 8])],
    );
    // Strides of nothing are not what torch would write; sizes that overflow are no panic.
    check_error(&file, "tensor `empty`: strides");
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("pytorch_model.bin");
    let file = plain(
        &[
            item("rows", "FloatStorage", "0", 4, 2, &[1, 2], &[7, 1]),
            item("all", "FloatStorage", "0", 4, 0, &[2, 2], &[2, 1]),
            item("half", "HalfStorage", "1", 2, 0, &[2], &[1]),
            item("bf16", "BFloat16Storage", "1", 2, 1, &[], &[]),
            item("ids", "LongStorage", "2", 1, 0, &[1], &[1]),
        ],
        &[("data/0", &floats), ("data/1", &halves), ("data/2", &[0; 8])],
    );
    std::fs::write(&path, file).unwrap();
    let weights = Weights::open([&path]).unwrap();
    let read = |name: &str, shape: &[usize]| weights.root().read_f32(name, shape);
    assert_eq!(read("rows", &[1, 2]).unwrap(), [3.0, 4.0]);
    assert_eq!(read("all", &[2, 2]).unwrap(), [1.0, 2.0, 3.0, 4.0]);
    assert_eq!(read("half", &[2]).unwrap(), [1.0, -2.0]);
    assert_eq!(read("bf16", &[]).unwrap(), [-2.0]);
    let error = read("ids", &[1]).unwrap_err().to_string();
    assert!(error.contains("pytorch_model.bin: tensor `ids` is I64"), "{error}");
}

#[test]
fn tensors_that_are_not_there_are_named() {
    let floats = [0u8; 16];
    let check =
        |item: Vec<u8>, expected: &str| check_error(&plain(&[item], &[("data/0", &floats)]), expected);
    check(
        item("x", "FloatStorage", "0", 4, 0, &[5], &[1]),
        "tensor `x`: shape [5] from element 0 on is beyond",
    );
    check(item("x", "FloatStorage", "0", 4, 3, &[2], &[1]), "tensor `x`: shape [2] from element 3");
    check(item("x", "FloatStorage", "0", 4, 0, &[i32::MAX; 8], &[1; 8]), "tensor `x`: shape");
    check(item("x", "FloatStorage", "0", 4, 0, &[2, 2], &[1, 2]), "tensor `x`: strides [1, 2]");
    check(item("x", "FloatStorage", "0", 4, 0, &[2, 2], &[1]), "tensor `x`: strides [1]");
    check(item("x", "FloatStorage", "0", i32::MAX, 0, &[1], &[1]), "2147483647 elements are not 16 bytes");
    check(item("x", "FloatStorage", "1", 4, 0, &[4], &[1]), "tensor `x`: there is no `data/1`");
    check(item("x", "FloatStorage", "../0", 4, 0, &[4], &[1]), "there is no `data/../0`");
    check(item("x", "FloatStorage", "0", 4, -1, &[4], &[1]), "-1 is no size");
    check(item("x", "FloatStorage", "0", 4, 0, &[1; 9], &[1; 9]), "9 dimensions");
    check(item("x", "QInt8Storage", "0", 4, 0, &[4], &[1]), "`torch.QInt8Storage`");
    check([text("x"), int(1)].concat(), "`x` is no tensor");
    check([int(1), int(1)].concat(), "a name is no text");
    let twice = || item("x", "FloatStorage", "0", 4, 0, &[4], &[1]);
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("twice.pt");
    std::fs::write(&path, plain(&[twice(), twice()], &[("data/0", &floats)])).unwrap();
    let error = Weights::open([&path]).unwrap_err().to_string();
    assert!(error.contains("tensor `x` is also in"), "{error}");
}

#[test]
fn other_pickles_are_refused() {
    let check = |pickle: &[u8], expected: &str| {
        let file = archive(&[("data.pkl", pickle)], CompressionMethod::Stored);
        check_error(&file, &format!("data.pkl: {expected}"));
    };
    check(b"cos\nsystem\n", "a dictionary of tensors has no `os.system`");
    check(b"cbuiltins\neval\nX\x01\0\0\0xtR.", "a dictionary of tensors has no `builtins.eval`");
    check(b"", "it is cut off");
    check(b".", "it does not end with one value");
    check(b"}}.", "it does not end with one value");
    check(b"K\x01.", "it is no dictionary");
    check(b"}(K\x01u.", "an item of a dictionary has no value");
    check(b"}K\x01s.", "there is no dictionary");
    check(b"K\x01K\x01K\x01s.", "items are put into something else");
    check(b"(K\x01\x85t", "it is cut off");
    check(b"K\x01(\x85.", "a value is missing");
    check(b"(t(", "it is cut off");
    check(b"u", "a mark is missing");
    check(b"K\x01u", "a mark is missing");
    check(b"h\x05", "nothing is remembered as 5");
    check(b"q\x05", "there is nothing to remember");
    check(b"X\xff\xff\xff\xffabc", "it is cut off");
    check(b"X\x01\0\0\0\xff", "invalid utf-8");
    check(b"\x8a\xff", "it is cut off");
    check(&[b"\x8a\x09".as_slice(), &[0; 9]].concat(), "a number is longer than 64 bits");
    check(b"\x80\x09", "version 9");
    check(b"c\xff\n\xff\n", "invalid utf-8");
    check(b"ccollections\nOrderedDict\n(K\x01tR.", "OrderedDict does not take 1");
    check(b"ctorch._utils\n_rebuild_tensor_v2\n)R.", "RebuildTensor does not take 0");
    check(b"ctorch._utils\n_rebuild_parameter\n)R.", "RebuildParameter does not take 0");
    check(b"ctorch._utils\n_rebuild_parameter\n(K\x01K\x01K\x01tR.", "a parameter is no tensor");
    check(b")Q", "a storage is named by 0 parts");
    check(b"K\x01)R", "what is called is no global");
    check(b"NNR", "arguments are no tuple");
    check(b"Ib", "the instruction 0x49");
}

#[test]
fn a_few_bytes_do_not_stand_for_many() {
    // Each tuple holds the one before it twice: copied, it would be 2^200 values; dropped by recursion, 2^200 calls.
    let doubled: Vec<u8> = (0..200u8).flat_map(|at| [b'q', at, b'h', at, 0x86]).collect();
    let nested = [b"}K\x01)".as_slice(), &doubled, b"s."].concat();
    let file = archive(&[("data.pkl", &nested)], CompressionMethod::Stored);
    check_error(&file, "data.pkl: a name is no text");
    // A chain that is as deep as it is long.
    let deep = [b"}K\x01)".as_slice(), &vec![0x85; 1 << 20], b"s."].concat();
    let file = archive(&[("data.pkl", &deep)], CompressionMethod::Stored);
    check_error(&file, "data.pkl: a name is no text");
    let long = vec![b'N'; (16 << 20) + 1];
    let file = archive(&[("data.pkl", &long)], CompressionMethod::Stored);
    check_error(&file, "are too many");
}

#[test]
fn other_archives_are_refused() {
    let items = [item("x", "FloatStorage", "0", 1, 0, &[1], &[1])];
    let pickle = dictionary(&items);
    let stored = |entries: &[(&str, &[u8])]| archive(entries, CompressionMethod::Stored);
    let data: (&str, &[u8]) = ("data/0", &[0; 4]);
    assert_eq!(read(&stored(&[("data.pkl", &pickle), data])).unwrap().len(), 1);
    check_error(&stored(&[("data.pkl", &pickle), data, ("byteorder", b"big")]), "not little-endian");
    check_error(&stored(&[data]), "it has no data.pkl");
    check_error(
        &stored(&[("data.pkl", &pickle), ("more/data.pkl", &pickle), data]),
        "more than one data.pkl",
    );
    let long = [0u8; 4096];
    let deflated = archive(&[("data.pkl", &pickle), ("data/0", &long)], CompressionMethod::Deflated);
    check_error(&deflated, "is compressed or encrypted");
    check_error(b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.", "no zip archive");
    check_error(b"", "no zip archive");
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("old.pt");
    std::fs::write(&path, b"\x80\x02").unwrap();
    let error = Weights::open([&path]).unwrap_err().to_string();
    assert!(error.contains("old.pt: not a PyTorch file of tensors: no zip archive"), "{error}");
}

/// Reads a damaged file; what it says is no matter, but every range must be inside.
fn survives(file: &[u8]) {
    for tensor in read(file).unwrap_or_default() {
        assert!(tensor.bytes.start <= tensor.bytes.end && tensor.bytes.end <= file.len());
        let elements: usize = tensor.shape.iter().product();
        assert_eq!(tensor.bytes.len(), elements * tensor.dtype.bitsize() / 8);
    }
}

#[test]
fn damaged_files_are_errors() {
    let whole = std::fs::read(fixture("sparse_linear.pt")).unwrap();
    for end in 0..whole.len() {
        survives(&whole[..end]);
    }
    let mut damaged = whole.clone();
    for at in 0..whole.len() {
        for byte in [whole[at] ^ 1, whole[at] ^ 0x80, 0xff, 0] {
            damaged[at] = byte;
            survives(&damaged);
        }
        damaged[at] = whole[at];
    }
    // Several at a time, by a generator of Marsaglia's (xorshift).
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    let mut random = |below: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state % below as u64) as usize
    };
    for _ in 0..4000 {
        let mut damaged = whole.clone();
        for _ in 0..=random(6) {
            let at = random(damaged.len());
            match random(4) {
                0 => damaged[at] = random(256) as u8,
                1 => drop(damaged.remove(at)),
                2 => damaged.insert(at, random(256) as u8),
                _ => {
                    let from = random(whole.len());
                    let len = random(16).min(whole.len() - from).min(damaged.len() - at);
                    damaged[at..at + len].copy_from_slice(&whole[from..from + len]);
                }
            }
        }
        survives(&damaged);
    }
}
