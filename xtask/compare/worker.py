"""A rival in a process of its own: `python worker.py JOB.json`.

The job and the protocol are those of xtask/src/compare: lines of JSON on standard output, commands on
standard input. Only what a user of the library would call is measured, with its own defaults but for the
number of threads and the batch size.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import numpy as np

Embed = Callable[[list[str]], list[np.ndarray] | np.ndarray]


def main() -> None:
    # Libraries may print; the protocol keeps the real standard output to itself.
    out = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())

    def say(message: dict) -> None:
        print(json.dumps(message), file=out, flush=True)

    job = read_json(Path(sys.argv[1]))
    load, packages = LIBRARIES[job["library"]]
    embed = load(job)
    say({"loaded": [[package, version(package)] for package in packages]})

    texts = read_json(Path(job["texts_file"]))
    embeddings = embed(texts)
    say({"warm": True})
    for line in sys.stdin:
        command, _, argument = line.rstrip("\n").partition(" ")
        if command == "embed":
            started = time.perf_counter()
            embeddings = embed(texts)
            say({"seconds": time.perf_counter() - started})
        elif command == "write":
            matrix = np.asarray(embeddings, dtype="<f4")
            matrix.tofile(argument)
            say({"dim": matrix.shape[1]})
        else:
            raise ValueError(f"unknown command {line!r}")


def fastembed(job: dict) -> Embed:
    from fastembed import TextEmbedding
    from fastembed.common.model_description import ModelSource, PoolingType

    pooling = {"cls": PoolingType.CLS, "mean": PoolingType.MEAN, "last": PoolingType.LAST_TOKEN}
    graph, name = Path(job["graph"]), "local/model"
    TextEmbedding.add_custom_model(
        model=name,
        pooling=pooling[job["pooling"]],
        normalization=job["normalize"],
        sources=ModelSource(hf=name),
        dim=job["dim"],
        model_file=graph.name,
    )
    model = TextEmbedding(
        name,
        cache_dir=str(graph.parent / "cache"),
        specific_model_path=str(graph.parent),
        threads=job["threads"],
        providers=["CPUExecutionProvider"],
    )
    model.model.tokenizer.enable_truncation(job["max_length"])
    return lambda texts: list(model.embed(texts, batch_size=job["batch_size"]))


def sentence_transformers(job: dict) -> Embed:
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer

    torch.set_num_threads(job["threads"])
    # Built from parts, since not every folder has the files that say which parts there are.
    pooling = {"cls": "cls", "mean": "mean", "last": "lasttoken"}
    transformer = Transformer(
        job["model_folder"],
        max_seq_length=job["max_length"],
        model_kwargs={"dtype": torch.float32, "local_files_only": True},
    )
    modules = [transformer, Pooling(job["dim"], pooling[job["pooling"]])]
    if job["normalize"]:
        modules.append(Normalize())
    model = SentenceTransformer(modules=modules, device="cpu")
    return lambda texts: model.encode(texts, batch_size=job["batch_size"], show_progress_bar=False)


LIBRARIES = {
    "fastembed": (fastembed, ["fastembed", "onnxruntime", "tokenizers", "numpy"]),
    "sentence-transformers": (
        sentence_transformers,
        ["sentence-transformers", "transformers", "torch", "tokenizers"],
    ),
}


def read_json(path: Path) -> dict | list:
    return json.loads(path.read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
