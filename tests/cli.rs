//! The `candlewick` command as people run it: the real binary, in temporary folders, with the tiny models of
//! tests/fixtures.

#![allow(clippy::unwrap_used, reason = "a test may panic, also in its helpers")]

#[path = "cli/embed.rs"]
mod embed;
#[path = "cli/failures.rs"]
mod failures;
#[path = "cli/fetching.rs"]
mod fetching;
#[path = "cli/input.rs"]
mod input;
#[path = "cli/kinds.rs"]
mod kinds;
#[path = "cli/output.rs"]
mod output;
#[path = "cli/rerank.rs"]
mod rerank;
#[path = "cli/streaming.rs"]
mod streaming;
#[path = "cli/support.rs"]
mod support;
