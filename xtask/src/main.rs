//! `cargo xtask`: one subcommand per chore, each in a file of its own.

use anyhow::Result;
use clap::{Parser, Subcommand};

/// The project's chores.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Arguments {
    #[command(subcommand)]
    chore: Chore,
}

#[derive(Subcommand)]
enum Chore {
    /// Compare every fixture and model with the outputs of its original implementation.
    Verify(xtask::verify::Options),
    /// Make the fixtures anew with the original implementations in Python.
    Fixtures(xtask::fixtures::Options),
    /// Run ONNX's official test cases of every operator, and compare with the committed list.
    Conformance(xtask::conformance::Options),
    /// Measure speed, memory and agreement against other libraries, side by side.
    Compare(xtask::compare::Options),
    /// Measure this machine's peak, and the share of it that the encoder uses.
    Roofline(xtask::roofline::Options),
    /// Measure MaxSim against NumPy and MUVERA against fastembed, side by side.
    MultiVector(xtask::multi_vector::Options),
    /// Count the instructions of fixed work by callgrind, and compare with the committed counts.
    Instructions(xtask::instructions::Options),
    /// Find texts by each kind of embedding, and measure how often the right one is found.
    Retrieval(xtask::retrieval::Options),
    /// Write the README's table of models anew.
    Models,
    /// Format, lint, document: what CI checks beside the tests.
    Check,
}

fn main() -> Result<()> {
    match Arguments::parse().chore {
        Chore::Verify(options) => xtask::verify::main(&options),
        Chore::Fixtures(options) => xtask::fixtures::main(&options),
        Chore::Conformance(options) => xtask::conformance::main(&options),
        Chore::Compare(options) => xtask::compare::main(&options),
        Chore::Roofline(options) => xtask::roofline::main(&options),
        Chore::MultiVector(options) => xtask::multi_vector::main(&options),
        Chore::Instructions(options) => xtask::instructions::main(&options),
        Chore::Retrieval(options) => xtask::retrieval::main(&options),
        Chore::Models => xtask::models::main(),
        Chore::Check => xtask::check::main(),
    }
}
