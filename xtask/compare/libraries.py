"""The Python libraries that candlewick is compared with. Each is loaded by a function that takes the job.

`run` is what is measured. Those that take token ids get them as ready arrays and are measured up to the
hidden states: pooling and normalising, which candlewick's time includes, come after.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np


class Model:
    """A loaded model of a library that takes texts."""

    def __init__(self, embed: Callable[[list[str]], Any]) -> None:
        self.embed = embed

    def prepare(self, texts: list[str]) -> Any:
        return texts

    def run(self, inputs: Any) -> Any:
        return self.embed(inputs)

    def embeddings(self, outputs: Any) -> Any:
        return outputs


class Sparse(Model):
    """A loaded model whose embeddings are few of `dim` numbers; `matrix` makes rows of all of them."""

    def __init__(self, embed: Callable[[list[str]], Any], matrix: Callable[[Any], np.ndarray]) -> None:
        super().__init__(embed)
        self.matrix = matrix

    def embeddings(self, outputs: Any) -> np.ndarray:
        return self.matrix(outputs)


class HiddenStates(Model):
    """A loaded model of a library that takes token ids, of sequences that are all of one length."""

    def __init__(self, job: dict, prepare: Callable[[np.ndarray], Any], run: Callable[[Any], Any]) -> None:
        super().__init__(run)
        self.job, self.arrays = job, prepare

    def prepare(self, token_ids: list[list[int]]) -> Any:
        return self.arrays(np.asarray(token_ids, dtype=np.int64))

    def embeddings(self, outputs: Any) -> np.ndarray:
        states = np.asarray(outputs, dtype=np.float32)
        pool = {"cls": lambda: states[:, 0], "mean": lambda: states.mean(axis=1), "last": lambda: states[:, -1]}
        embeddings = pool[self.job["pooling"]]()
        if self.job["normalize"]:
            embeddings = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
        return embeddings


def onnxruntime(job: dict) -> Model:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = job["threads"]
    options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(job["graph"], options, providers=["CPUExecutionProvider"])
    dtypes = {"tensor(int64)": np.int64, "tensor(int32)": np.int32}

    def feed(token_ids: np.ndarray) -> dict[str, np.ndarray]:
        values = {
            "input_ids": token_ids,
            "attention_mask": np.ones_like(token_ids),
            "token_type_ids": np.zeros_like(token_ids),
        }
        return {input.name: values[input.name].astype(dtypes[input.type]) for input in session.get_inputs()}

    return HiddenStates(job, feed, lambda inputs: session.run(["last_hidden_state"], inputs)[0])


def torch(job: dict) -> Model:
    import torch
    import transformers

    torch.set_num_threads(job["threads"])
    transformers.logging.disable_progress_bar()
    model = transformers.AutoModel.from_pretrained(
        job["model_folder"], dtype=torch.float32, attn_implementation="sdpa", local_files_only=True
    ).eval()

    def tensors(token_ids: np.ndarray) -> dict[str, torch.Tensor]:
        token_ids = torch.from_numpy(token_ids)
        return {"input_ids": token_ids, "attention_mask": torch.ones_like(token_ids)}

    @torch.inference_mode()
    def run(inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        return model(**inputs).last_hidden_state

    return HiddenStates(job, tensors, run)


def fastembed(job: dict) -> Model:
    if job["kind"] == "sparse":
        return fastembed_sparse(job)
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
    return Model(lambda texts: list(model.embed(texts, batch_size=job["batch_size"])))


def fastembed_sparse(job: dict) -> Model:
    from fastembed import SparseTextEmbedding

    # Any folder can stand in for this model's, if its graph is named model.onnx.
    graph = Path(job["graph"])
    model = SparseTextEmbedding(
        "prithivida/Splade_PP_en_v1",
        cache_dir=str(graph.parent / "cache"),
        specific_model_path=str(graph.parent),
        threads=job["threads"],
        providers=["CPUExecutionProvider"],
    )
    model.model.tokenizer.enable_truncation(job["max_length"])

    def matrix(embeddings: list) -> np.ndarray:
        rows = np.zeros((len(embeddings), job["dim"]), dtype=np.float32)
        for row, embedding in zip(rows, embeddings):
            row[embedding.indices] = embedding.values
        return rows

    return Sparse(lambda texts: list(model.embed(texts, batch_size=job["batch_size"])), matrix)


def sentence_transformers(job: dict) -> Model:
    if job["kind"] == "sparse":
        return sparse_encoder(job)
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
    return Model(lambda texts: model.encode(texts, batch_size=job["batch_size"], show_progress_bar=False))


def sparse_encoder(job: dict) -> Model:
    import torch
    from sentence_transformers import SparseEncoder
    from sentence_transformers.sparse_encoder.modules import SpladePooling, Transformer

    torch.set_num_threads(job["threads"])
    transformer = Transformer(
        job["model_folder"],
        transformer_task="fill-mask",
        max_seq_length=job["max_length"],
        model_kwargs={"dtype": torch.float32, "local_files_only": True},
    )
    model = SparseEncoder(modules=[transformer, SpladePooling(job["pooling"])], device="cpu")
    return Sparse(
        lambda texts: model.encode(texts, batch_size=job["batch_size"], show_progress_bar=False),
        lambda embeddings: embeddings.to_dense().numpy(),
    )


def candding(job: dict) -> Model:
    # It takes a folder too; its threads are rayon's, which an environment variable sets.
    from candding import TextEmbedding

    model = TextEmbedding(
        job["model_folder"], device="cpu", max_length=job["max_length"], normalize=job["normalize"]
    )
    return Model(lambda texts: model.embed(texts, batch_size=job["batch_size"]))


LIBRARIES = {
    "onnxruntime": (onnxruntime, ["onnxruntime", "numpy"]),
    "torch": (torch, ["torch", "transformers"]),
    "fastembed": (fastembed, ["fastembed", "onnxruntime", "tokenizers", "numpy"]),
    "sentence-transformers": (
        sentence_transformers,
        ["sentence-transformers", "transformers", "torch", "tokenizers"],
    ),
    "candding": (candding, ["candding"]),
}
