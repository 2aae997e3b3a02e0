//! BM25 and what it is made of, against fastembed's outputs in tests/fixtures/lexical.

use serde_json::Value;

use super::*;

fn fixture(text: &str) -> Value {
    serde_json::from_str(text).unwrap()
}

fn computed() -> Value {
    fixture(include_str!("../../../../../tests/fixtures/lexical/bm25.json"))
}

fn published() -> Value {
    fixture(include_str!("../../../../../tests/fixtures/lexical/published.json"))
}

fn model(options: Bm25Options) -> Bm25 {
    Bm25::new(options, ThreadPool::new(Some(1)).unwrap()).unwrap()
}

fn strings(list: &Value) -> Vec<&str> {
    list.as_array().unwrap().iter().map(|text| text.as_str().unwrap()).collect()
}

fn indices(list: &Value) -> Vec<u32> {
    list.as_array().unwrap().iter().map(|index| u32::try_from(index.as_u64().unwrap()).unwrap()).collect()
}

fn sorted(mut indices: Vec<u32>) -> Vec<u32> {
    indices.sort_unstable();
    indices
}

/// The options of a case, which are arguments of fastembed's constructor.
fn options(case: &Value) -> Bm25Options {
    let mut options = Bm25Options::new();
    for (name, value) in case.as_object().unwrap() {
        let number = || value.as_f64().unwrap();
        options = match name.as_str() {
            "language" => options.language(value.as_str().unwrap().parse().unwrap()),
            "k" => options.k(number()),
            "b" => options.b(number()),
            "avg_len" => options.avg_len(number()),
            "token_max_length" => options.token_max_length(usize::try_from(value.as_u64().unwrap()).unwrap()),
            "disable_stemmer" => options.disable_stemmer(value.as_bool().unwrap()),
            "stopwords" => options.stop_words(strings(value)),
            _ => panic!("unknown option {name}"),
        };
    }
    options
}

/// Words, vectors and counts of one text, as a fixture has them.
fn check(model: &Bm25, case: &Value) {
    let text = case["text"].as_str().unwrap();
    assert_eq!(split_words(text), strings(&case["words"]), "{case}");
    let document = &model.embed(&[text])[0];
    assert_eq!(document.indices, indices(&case["indices"]), "{case}");
    let values = case["values"].as_array().unwrap();
    assert_eq!(document.values.len(), values.len());
    for (ours, theirs) in document.values.iter().zip(values) {
        assert_eq!(*ours, theirs.as_f64().unwrap() as f32, "theirs, rounded once: {case}");
    }
    let query = &model.query_embed(&[text])[0];
    assert!(query.values.iter().all(|value| *value == 1.0) && query.values.len() == query.len());
    assert_eq!(sorted(query.indices.clone()), indices(&case["query"]), "{case}");
}

#[test]
fn vectors_are_fastembeds() {
    let computed = computed();
    let cases = computed["cases"].as_array().unwrap();
    assert!(cases.len() > 140, "{}", cases.len());
    for case in cases {
        let model = model(options(&case["options"]));
        check(&model, case);
        let count = usize::try_from(case["token_count"].as_u64().unwrap()).unwrap();
        assert_eq!(model.token_count(&[case["text"].as_str().unwrap()]), count, "{case}");
    }
    for language in Language::ALL {
        assert!(cases.iter().any(|case| case["options"]["language"] == language.name()), "{language}");
    }
}

#[test]
fn vectors_are_those_of_an_earlier_fastembed() {
    let published = published();
    let model = model(Bm25Options::new().stop_words(strings(&published["stop_words"])));
    for case in published["documents"].as_array().unwrap() {
        check(&model, case);
    }
}

#[test]
fn lengths_are_those_of_fastembeds_tests() {
    let behaviour = &published()["behaviour"];
    let lengths = |language, documents: &Value| -> Vec<u32> {
        let embeddings = model(Bm25Options::new().language(language)).embed(&strings(documents));
        embeddings.iter().map(|embedding| u32::try_from(embedding.len()).unwrap()).collect()
    };
    let french = &behaviour["french_documents"];
    assert_eq!(lengths(Language::French, french), indices(&behaviour["lengths_in_french"]));
    assert_eq!(lengths(Language::English, french), indices(&behaviour["lengths_in_english"]));
    let special = lengths(Language::English, &behaviour["special_characters"]);
    assert_eq!(special[..5], indices(&behaviour["special_characters_lengths"]));
    assert_eq!(lengths(Language::English, &serde_json::json!(["."])), [0]);
}

#[test]
fn stems_and_hashes_are_the_originals() {
    let computed = fixture(include_str!("../../../../../tests/fixtures/lexical/stems.json"));
    for stems in [&computed["stems"], &published()["stems"]] {
        for (language, pairs) in stems.as_object().unwrap() {
            let stemmer = SnowballStemmer::new(language.parse().unwrap());
            for pair in pairs.as_array().unwrap() {
                assert_eq!(
                    stemmer.stem(pair[0].as_str().unwrap()),
                    pair[1].as_str().unwrap(),
                    "{language} {pair}"
                );
            }
        }
    }
    for hashes in [&computed["hashes"], &published()["hashes"]] {
        for pair in hashes.as_array().unwrap() {
            let index = u64::from(word_index(pair[0].as_str().unwrap()));
            assert_eq!(index, pair[1].as_u64().unwrap(), "{pair}");
        }
    }
}

#[test]
fn two_words_of_one_index_leave_the_later_value() {
    let model = model(Bm25Options::new());
    let embedding = &model.embed(&["w30181 w38066 w38066 candle"])[0];
    assert_eq!(embedding.len(), 2);
    assert_eq!(embedding.indices[0], word_index("w30181"));
    assert_eq!(
        embedding.values[0],
        model.embed(&["w38066 w38066 red blue"])[0].values[0],
        "that of two occurrences"
    );
    assert_eq!(model.query_embed(&["w30181 w38066"])[0].len(), 1);
}

#[test]
fn own_stemmer_tokenizer_and_stop_words() {
    let options = Bm25Options::new()
        .stemmer(|word| word.trim_end_matches('y').to_owned())
        .tokenizer(|text| text.split('|').map(str::to_owned).collect())
        .stop_words(["ŁÓDŹ"]);
    let model = model(options);
    let embedding = &model.embed(&["Koty|łódź|yyy|,|two words|KOT"])[0];
    assert_eq!(embedding.indices, [word_index("kot"), word_index("two words")]);
    assert_eq!(model.token_count(&["a|b|,"]), 3);
}

#[test]
fn options_out_of_range_are_refused() {
    let wrong = [
        Bm25Options::new().k(-0.1),
        Bm25Options::new().k(f64::INFINITY),
        Bm25Options::new().b(1.5),
        Bm25Options::new().b(f64::NAN),
        Bm25Options::new().avg_len(0.0),
    ];
    for options in wrong {
        let error = Bm25::new(options.clone(), ThreadPool::new(Some(1)).unwrap()).unwrap_err();
        assert!(matches!(error, Error::InvalidOption { .. }), "{options:?}: {error}");
    }
}

#[test]
fn threads_and_batch_mates_change_nothing() {
    let computed = computed();
    let texts: Vec<&str> =
        computed["cases"].as_array().unwrap().iter().map(|case| case["text"].as_str().unwrap()).collect();
    let one = model(Bm25Options::new());
    let four = Bm25::new(Bm25Options::new(), ThreadPool::new(Some(4)).unwrap()).unwrap();
    let alone: Vec<SparseEmbedding> = texts.iter().map(|text| one.embed(&[text]).remove(0)).collect();
    assert!(texts.len() > 2 * CHUNK_TEXTS);
    assert_eq!(four.embed(&texts), alone);
    assert_eq!(four.query_embed(&texts), one.query_embed(&texts));
    assert_eq!(four.token_count(&texts), one.token_count(&texts));
    assert!(four.embed::<&str>(&[]).is_empty());
}

proptest::proptest! {
    #[test]
    fn any_text_has_an_embedding(text in "\\PC{0,60}", number in 0_usize..Language::ALL.len()) {
        let model = model(Bm25Options::new().language(Language::ALL[number]));
        let document = &model.embed(&[&text])[0];
        assert_eq!(document.indices.len(), document.values.len());
        assert!(document.values.iter().all(|value| value.is_finite() && *value > 0.0));
        assert!(document.len() <= model.token_count(&[&text]));
        let query = &model.query_embed(&[&text])[0];
        assert_eq!(query.indices, document.indices, "both in the order of first occurrence");
        assert_eq!(document, &model.embed(&[&text])[0]);
    }
}
