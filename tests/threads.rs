//! A process has the threads that it asked for, and no more.
//!
//! A single test, because it counts the threads of the whole process.

#![allow(clippy::unwrap_used, reason = "in a test an unwrap is an assertion")]
#![cfg(target_os = "linux")]

use std::sync::Arc;

use candlewick::{LoadOptions, TextEmbedding, ThreadPool};

fn threads_of_this_process() -> usize {
    std::fs::read_dir("/proc/self/task").unwrap().count()
}

#[test]
fn no_thread_is_started_beside_the_callers_pool() {
    let rayon = Arc::new(rayon::ThreadPoolBuilder::new().num_threads(3).build().unwrap());
    let other = rayon::ThreadPoolBuilder::new().num_threads(2).build().unwrap();
    let before = threads_of_this_process();

    let options = LoadOptions::new().thread_pool(ThreadPool::from_rayon(Arc::clone(&rayon)));
    let folder = xtask::root().join("tests/fixtures/bert-mean");
    let model = TextEmbedding::from_folder_with(&folder, options).unwrap();
    let single = LoadOptions::new().threads(1);
    let single = TextEmbedding::from_folder_with(&folder, single).unwrap();

    let texts: Vec<String> = (0..400).map(|number| format!("{number} {}", "word ".repeat(number))).collect();
    let expected = single.embed(&texts).unwrap();
    let embed = || {
        assert_eq!(model.embed(&texts).unwrap(), expected);
        assert_eq!(model.embed(&texts[399..]).unwrap(), expected[399..]);
        assert_eq!(threads_of_this_process(), before);
    };
    embed();
    rayon.install(embed);
    other.install(embed);
    rayon.join(embed, embed);
}
