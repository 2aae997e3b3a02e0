//! Rerankers that are causal language models: what they would say next is the score.

use std::path::Path;

use candlewick::{
    EncoderInspection, Error, Int8Scales, Kind, LoadOptions, Precision, Registry, ScoreActivation,
    ScoreOptions, TextCrossEncoder, inspect,
};
use candlewick_engine::{ImportOptions, ImportPlan};

use super::{TEXTS, fixture};

const QUERY: &str = "where is the river?";
const GRAPHS: [&str; 4] = ["model.onnx", "model_with_past.onnx", "model_quantized.onnx", "model_q4.onnx"];
/// The tokens of "yes" and "no" in the fixture.
const ANSWERS: [u32; 2] = [257, 258];

fn options(file: &str) -> LoadOptions {
    LoadOptions::new().weights(fixture("rerank-qwen3").join("onnx").join(file))
}

fn load(options: LoadOptions) -> TextCrossEncoder {
    TextCrossEncoder::from_folder_with(fixture("rerank-qwen3"), options).unwrap()
}

fn refused(options: LoadOptions, expected: &str) {
    let error = TextCrossEncoder::from_folder_with(fixture("rerank-qwen3"), options).unwrap_err().to_string();
    assert!(error.contains(expected), "{error}");
}

#[test]
fn of_the_vocabulary_two_columns_are_kept() {
    for file in GRAPHS {
        let path = fixture("rerank-qwen3").join("onnx").join(file);
        let mut import = ImportOptions::default();
        import.next_tokens = ANSWERS.to_vec();
        let plan = ImportPlan::read(&path, &import).unwrap();
        assert_eq!(plan.unpacked_because(), None, "{file}");
        assert!(plan.is_pooled(), "{file}: of each sequence's last token only");
        assert_eq!(plan.hidden_size(), 2);
        let vocab_size = 483;
        let of_vocabulary =
            plan.graph().constants().filter(|constant| constant.shape().contains(&vocab_size));
        assert_eq!(of_vocabulary.count(), 1, "{file}: the token table alone");
    }
    let mut import = ImportOptions::default();
    import.next_tokens = vec![483];
    let error = ImportPlan::read(&fixture("rerank-qwen3/onnx/model.onnx"), &import).unwrap_err().to_string();
    assert!(error.contains("output `logits`: it has 483 columns, none for token 483"), "{error}");
}

#[test]
fn without_a_past_a_graph_reads_texts() {
    let found = inspect(&fixture("rerank-qwen3/onnx/model_with_past.onnx"), &LoadOptions::new()).unwrap();
    assert!(found.inputs.iter().any(|input| input.name == "past_key_values.1.value"));
    match found.encoder {
        EncoderInspection::Runs { unpacked_because, .. } => assert_eq!(unpacked_because, None),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_pairs_score_does_not_depend_on_its_batch_mates() {
    let mut pairs: Vec<(String, String)> = TEXTS
        .iter()
        .flat_map(|query| TEXTS.map(|document| (query.to_string(), document.repeat(7))))
        .collect();
    pairs.push((QUERY.to_owned(), "the river ".repeat(99)));
    let bits = |model: &TextCrossEncoder, pairs: &[(String, String)]| -> Vec<u32> {
        model.logits(pairs).unwrap().concat().into_iter().map(f32::to_bits).collect()
    };
    for file in GRAPHS {
        let precisions = if file == "model.onnx" { &Precision::ALL[..] } else { &[Precision::F32] };
        for &precision in precisions {
            let options = options(file).precision(precision);
            let alone = load(options.clone().threads(1));
            let expected: Vec<u32> =
                pairs.iter().flat_map(|pair| bits(&alone, std::slice::from_ref(pair))).collect();
            for (threads, batch_tokens) in [(1, 8192), (3, 512)] {
                let model = load(options.clone().threads(threads).batch_tokens(batch_tokens));
                assert_eq!(bits(&model, &pairs), expected, "{file} {precision} {threads} {batch_tokens}");
                let reversed: Vec<_> = pairs.iter().rev().cloned().collect();
                let mut found = bits(&model, &reversed);
                found.reverse();
                assert_eq!(found, expected, "{file} {precision} {threads} {batch_tokens}");
            }
        }
    }
}

#[test]
fn scores_are_probabilities_unless_asked_otherwise() {
    let seq_cls = fixture("rerank-qwen3-seq-cls");
    for model in [load(options("model.onnx")), TextCrossEncoder::from_folder(&seq_cls).unwrap()] {
        assert_eq!((model.num_labels(), model.activation()), (1, ScoreActivation::Sigmoid));
        let raw = ScoreOptions::new().activation(ScoreActivation::Raw);
        let logits = model.rerank_with(QUERY, &TEXTS, &raw).unwrap();
        assert_eq!(model.logits(&TEXTS.map(|text| (QUERY, text))).unwrap().concat(), logits);
        for (score, logit) in model.rerank(QUERY, &TEXTS).unwrap().iter().zip(&logits) {
            assert!((score - 1.0 / (1.0 + (-logit).exp())).abs() < 1e-6);
        }
        let error = model.rerank_with(QUERY, &TEXTS, &ScoreOptions::new().label(1)).unwrap_err().to_string();
        assert!(error.contains("the model has 1 labels"), "{error}");
        assert!(model.rerank::<&str>(QUERY, &[]).unwrap().is_empty());
    }
    let other = TextCrossEncoder::from_folder(fixture("rerank-bert")).unwrap();
    assert_eq!(other.activation(), ScoreActivation::Raw);
    // The same numbers, from one row instead of two.
    let difference =
        |other: &Path| TextCrossEncoder::from_folder(other).unwrap().rerank(QUERY, &TEXTS).unwrap();
    for (a, b) in difference(&seq_cls).iter().zip(load(options("model.onnx")).rerank(QUERY, &TEXTS).unwrap())
    {
        assert!((a - b).abs() < 1e-5);
    }
}

#[test]
fn instructions_and_prompts_are_the_callers_choice() {
    let scores = |options: LoadOptions| load(options).rerank(QUERY, &TEXTS).unwrap();
    let own = scores(options("model.onnx"));
    let stated = "Given a web search query, retrieve relevant passages that answer the query";
    assert_eq!(scores(options("model.onnx").instruction(stated)), own);
    assert_ne!(scores(options("model.onnx").instruction("Find the fox")), own);
    assert_ne!(scores(options("model.onnx").prompts(false)), own);
    refused(options("model.onnx").prompts(false).instruction("any"), "instruction any: the model takes none");
    let bert =
        TextCrossEncoder::from_folder_with(fixture("rerank-bert"), LoadOptions::new().instruction("any"));
    assert!(matches!(bert.unwrap_err(), Error::InvalidOption { option: "instruction", .. }));
}

#[test]
fn the_prompt_stays_whole() {
    let model = load(options("model.onnx"));
    assert_eq!(model.max_length(), 160);
    let long = "the river ".repeat(500);
    for pair in [(QUERY, long.as_str()), (&long, QUERY), (&long, &long)] {
        assert_eq!(model.token_count(&[pair]).unwrap(), 160);
    }
    // Of what is cut nothing is left, of the prompt all.
    let cut = model.rerank(QUERY, &[&long]).unwrap();
    assert_eq!(model.rerank(QUERY, &[long.clone() + "?"]).unwrap(), cut);
    refused(options("model.onnx").max_length(112), "max_length 112: the prompt alone is 112 tokens");
    let least = load(options("model.onnx").max_length(113));
    assert_eq!(least.token_count(&[("", "the river")]).unwrap(), 113);
    assert!(least.rerank(QUERY, &TEXTS).unwrap().iter().all(|score| score.is_finite()));
    let windows = ScoreOptions::new().window_overlap(9);
    assert!(least.rerank_with(QUERY, &TEXTS, &windows).unwrap().iter().all(|score| score.is_finite()));
}

#[test]
fn windows_read_all_of_a_document() {
    let model = load(options("model.onnx").instruction("Judge"));
    let windows = ScoreOptions::new().window_overlap(8);
    assert_eq!(model.rerank_with(QUERY, &TEXTS, &windows).unwrap(), model.rerank(QUERY, &TEXTS).unwrap());
    let start = "a quick brown dog ".repeat(60);
    let ends = ["the sea", "and the river", "no"].map(|end| format!("{start}{end}"));
    let whole = model.rerank_with(QUERY, &ends, &windows).unwrap();
    let cut = model.rerank(QUERY, &ends).unwrap();
    assert!(cut[0] == cut[1] && cut[1] == cut[2]);
    // The first part is what is left of a document that is cut.
    assert!(whole.iter().zip(&cut).all(|(whole, cut)| whole >= cut), "{whole:?} {cut:?}");
    assert!(whole[0] != whole[1] || whole[1] != whole[2], "{whole:?}: the ends were read");
}

#[test]
fn integers_may_have_a_scale_for_each_token() {
    let scores = |int8| load(options("model_quantized.onnx").int8(int8)).rerank(QUERY, &TEXTS).unwrap();
    for (a, b) in scores(Int8Scales::PerToken).iter().zip(scores(Int8Scales::Exact)) {
        assert!((a - b).abs() < 0.05, "{a} {b}");
    }
}

#[test]
fn another_familys_answers_are_refused() {
    let folder = tempfile::TempDir::new().unwrap();
    for name in ["config.json", "tokenizer.json", "tokenizer_config.json"] {
        std::fs::copy(fixture("rerank-qwen3").join(name), folder.path().join(name)).unwrap();
    }
    let write = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    };
    let modules = |last: &str| {
        let text = format!(
            r#"[{{"path": "", "type": "sentence_transformers.base.modules.transformer.Transformer"}},
                {{"path": "1", "type": "sentence_transformers.cross_encoder.modules.{last}"}}]"#
        );
        write("modules.json", &text);
    };
    let load = || TextCrossEncoder::from_folder_with(folder.path(), options("model.onnx"));
    modules("logit_score.LogitScore");
    write("1/config.json", r#"{"true_token_id": 257, "false_token_id": 258}"#);
    assert_eq!(Kind::of_folder(folder.path()).unwrap(), Some(Kind::CrossEncoder));
    assert!(load().is_ok());
    write("1/config.json", r#"{"true_token_id": 9}"#);
    let error = load().unwrap_err().to_string();
    assert!(error.contains("`true_token_id`: the answers are tokens [9]"), "{error}");
    modules("other.Other");
    assert!(load().unwrap_err().to_string().contains("other.Other"));
    std::fs::remove_file(folder.path().join("modules.json")).unwrap();
    write("tokenizer.json", r#"{"model": {"type": "WordLevel", "vocab": {"no": 0}, "unk_token": "no"}}"#);
    let error = load().unwrap_err().to_string();
    assert!(error.contains("there is no token `yes`"), "{error}");
}

#[test]
fn rows_describe_prompts() {
    let row = |kind: &str, keys: &str| {
        let row = format!(
            r#"
            [[model]]
            id = "my/judge"
            kind = "{kind}"
            {keys}
            licence = "MIT"
            size = 1
            description = "A language model."
            weights = [{{ path = "model.onnx", format = "onnx" }}]
            files = ["tokenizer.json"]
            sources = [{{ type = "hub", repo = "my/judge" }}]
            "#
        );
        Registry::parse(&row, "mine.toml").map_err(|error| error.to_string())
    };
    let template =
        |pair: &str| format!(r#"pair_template = {{ prefix = "<", pair = "{pair}", suffix = ">" }}"#);
    let score = r#"logit_score = { true_token = "Yes" }"#;
    let registry = row("cross-encoder", &format!("{}\n{score}", template("{query} {document}"))).unwrap();
    let spec = registry.get("my/judge").unwrap();
    assert_eq!(spec.pair_template.as_ref().unwrap().suffix, ">");
    assert_eq!(spec.logit_score.as_ref().unwrap().false_token, None);
    let problem = row("cross-encoder", &template("{document} {query}")).unwrap_err();
    assert!(problem.contains("my/judge") && problem.contains("must end in {document}"), "{problem}");
    let problem = row("dense", &format!("dim = 3\n{score}")).unwrap_err();
    assert!(problem.contains("are of cross-encoders"), "{problem}");
}
