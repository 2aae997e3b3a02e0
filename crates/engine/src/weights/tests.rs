//! Well-formed, foreign and broken checkpoints.

use safetensors::tensor::{TensorView, serialize};
use tempfile::TempDir;

use super::*;

fn checkpoint(tensors: &[(&str, Dtype, &[usize], Vec<u8>)]) -> Vec<u8> {
    let views = tensors
        .iter()
        .map(|(name, dtype, shape, bytes)| (*name, TensorView::new(*dtype, shape.to_vec(), bytes).unwrap()));
    serialize(views, None).unwrap()
}

fn f32_bytes(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

fn write(folder: &TempDir, name: &str, bytes: &[u8]) -> PathBuf {
    let path = folder.path().join(name);
    std::fs::write(&path, bytes).unwrap();
    path
}

#[track_caller]
fn check_error(result: Result<impl std::fmt::Debug>, path: &Path, expected: &str) {
    let error = result.expect_err("must be refused").to_string();
    assert!(error.contains(&path.display().to_string()), "{error}");
    assert!(error.contains(expected), "{error}");
}

#[test]
fn all_float_types_are_widened() {
    let folder = TempDir::new().unwrap();
    let halves = |to_bytes: &dyn Fn(f32) -> [u8; 2]| [0.5, -2.0, 65504.0].map(to_bytes).concat();
    let path = write(
        &folder,
        "a.safetensors",
        &checkpoint(&[
            ("f32", Dtype::F32, &[3], f32_bytes(&[0.5, -2.0, 65504.0])),
            ("f16", Dtype::F16, &[3], halves(&|v| half::f16::from_f32(v).to_le_bytes())),
            ("bf16", Dtype::BF16, &[3], halves(&|v| half::bf16::from_f32(v).to_le_bytes())),
        ]),
    );
    let weights = Weights::open([&path]).unwrap();
    assert_eq!(weights.root().read_f32("f32", &[3]).unwrap(), [0.5, -2.0, 65504.0]);
    assert_eq!(weights.root().read_f32("f16", &[3]).unwrap(), [0.5, -2.0, 65504.0]);
    // 65504 needs 11 significant bits; bf16 has 8 and rounds it to 65536.
    assert_eq!(weights.root().read_f32("bf16", &[3]).unwrap(), [0.5, -2.0, 65536.0]);
}

#[test]
fn wrong_tensors_are_named() {
    let folder = TempDir::new().unwrap();
    let path = write(
        &folder,
        "a.safetensors",
        &checkpoint(&[
            ("x.nan", Dtype::F32, &[2, 2], f32_bytes(&[0.0, 1.0, f32::NAN, f32::INFINITY])),
            ("x.int", Dtype::I64, &[1], vec![0; 8]),
        ]),
    );
    let weights = Weights::open([&path]).unwrap();
    let view = weights.root().pp("x");
    check_error(view.read_f32("gone", &[1]), &path, "`x.gone` is missing");
    check_error(view.read_f32("nan", &[4]), &path, "`x.nan` has shape [2, 2], expected [4]");
    check_error(view.read_f32("nan", &[2, 2]), &path, "`x.nan` holds NaN at element 2");
    check_error(view.read_f32("int", &[1]), &path, "`x.int` is I64");
}

#[test]
fn unread_tensors_are_refused_unless_ignored() {
    let folder = TempDir::new().unwrap();
    let one = || f32_bytes(&[1.0]);
    let path = write(
        &folder,
        "a.safetensors",
        &checkpoint(&[
            ("enc.a", Dtype::F32, &[1], one()),
            ("enc.b", Dtype::F32, &[1], one()),
            ("enc.pooler.c", Dtype::F32, &[1], one()),
            ("head.d", Dtype::F32, &[1], one()),
        ]),
    );
    let weights = Weights::open([&path]).unwrap();
    let view = weights.root().pp("enc");
    view.read_f32("a", &[1]).unwrap();
    check_error(view.finish(&["pooler."]), &path, "does not know the tensor `enc.b`");
    view.read_f32("b", &[1]).unwrap();
    view.finish(&["pooler."]).unwrap();
}

#[test]
fn shards_must_not_repeat_tensors() {
    let folder = TempDir::new().unwrap();
    let bytes = checkpoint(&[("w", Dtype::F32, &[1], f32_bytes(&[1.0]))]);
    let (first, second) = (write(&folder, "1.safetensors", &bytes), write(&folder, "2.safetensors", &bytes));
    check_error(Weights::open([&first, &second]), &second, "`w` is also in");
}

#[test]
fn broken_files_are_refused_whatever_is_broken() {
    let folder = TempDir::new().unwrap();
    let good = checkpoint(&[("w", Dtype::F32, &[4], f32_bytes(&[1.0; 4]))]);
    for length in 0..good.len() {
        let path = write(&folder, "truncated.safetensors", &good[..length]);
        check_error(Weights::open([&path]), &path, "");
    }
    let path = write(&folder, "garbage.safetensors", &[0xa5; 4096]);
    check_error(Weights::open([&path]), &path, "not a valid safetensors file");
    let huge_header = [u64::MAX.to_le_bytes().as_slice(), b"{}"].concat();
    let path = write(&folder, "huge.safetensors", &huge_header);
    check_error(Weights::open([&path]), &path, "not a valid safetensors file");
    check_error(Weights::open([folder.path().join("gone")]), &folder.path().join("gone"), "could not read");
    check_error(Weights::open([folder.path()]), folder.path(), "could not read");
}

#[test]
fn a_tensor_can_be_read_again_after_its_pages_were_released() {
    let folder = TempDir::new().unwrap();
    let values: Vec<f32> = (0..20_000).map(|value| value as f32).collect();
    let tensors = [
        ("a", Dtype::F32, [20_000].as_slice(), f32_bytes(&values)),
        ("b", Dtype::F32, &[20_000], f32_bytes(&values)),
    ];
    let path = write(&folder, "a.safetensors", &checkpoint(&tensors));
    let weights = Weights::open([&path]).unwrap();
    for name in ["a", "a", "b", "a"] {
        assert_eq!(weights.root().read_f32(name, &[20_000]).unwrap(), values);
    }
}
