//! What `cargo xtask verify` proves, as tests: every fixture and the real MiniLM agree with their originals.

use candlewick::{LoadOptions, TextEmbedding};
use xtask::verify::{Options, Reference, Verdict, agreement, run};

#[test]
fn every_fixture_and_the_real_model_agree_with_their_originals() {
    let rows = run(&Options::default()).unwrap();
    assert!(rows.iter().any(|row| row.model == "sentence-transformers/all-MiniLM-L6-v2"));
    assert!(rows.iter().filter(|row| row.dtype != "f32").count() >= 2, "f16 and bf16 are among them");
    for row in &rows {
        assert_eq!(row.verdict, Verdict::Ok, "{row:?}");
    }
}

#[test]
fn the_real_reference_is_varied() {
    let reference = Reference::read(&xtask::root().join("tests/fixtures/all-MiniLM-L6-v2")).unwrap();
    let texts = &reference.texts;
    assert!(texts.len() >= 64);
    assert!(texts.iter().any(String::is_empty));
    assert!(texts.iter().any(|text| text.chars().count() == 1));
    assert!(texts.iter().any(|text| text.split_whitespace().any(|word| word.len() >= 3000)));
    assert!(texts.iter().any(|text| text.chars().any(|c| ('\u{4e00}'..'\u{9fff}').contains(&c))));
    assert!(texts.iter().any(|text| text.contains('\u{1f600}') || text.contains('\u{1f44d}')));
    let limit = reference.provenance.max_length as u32;
    assert!(reference.cu_seqlens.windows(2).any(|pair| pair[1] - pair[0] == limit), "some text is cut");
}

#[test]
fn published_figures_are_met() {
    let model = TextEmbedding::load("all-MiniLM-L6-v2").unwrap();
    let figures = TextEmbedding::supported_models()[0].reference.as_ref().unwrap();
    let found = model.embed(&[figures.text.as_ref().unwrap()]).unwrap();
    let found =
        agreement(&[found[0][..figures.values.len()].to_vec()], std::slice::from_ref(&figures.values));
    assert!(found.max_abs <= f64::from(figures.tolerance), "{found:?}");
}

#[test]
fn truncated_dimensions_are_the_first_ones_at_unit_length() {
    let folder = xtask::root().join("tests/fixtures/bert-mean");
    let full = TextEmbedding::from_folder(&folder).unwrap();
    let cut = TextEmbedding::from_folder_with(&folder, LoadOptions::new().dim(5)).unwrap();
    assert_eq!(cut.embedding_size(), 5);
    let (full, cut) = (full.embed(&["wax and wick"]).unwrap(), cut.embed(&["wax and wick"]).unwrap());
    let norm = full[0][..5].iter().map(|value| value * value).sum::<f32>().sqrt();
    for (full, cut) in full[0].iter().zip(&cut[0]) {
        assert!((full / norm - cut).abs() < 1e-6);
    }
}
