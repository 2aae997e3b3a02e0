"""Make a model of random weights: `python random_model.py --model-type bert --config JSON ... --out DIR`.

The folder is one that sentence-transformers loads. The seed is fixed, so the same packages make the same
weights. The tokenizer is copied from another model, whose vocabulary must not be the larger one.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path

import torch
import transformers

SEED = 2026
TOKENIZER_FILES = ["tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.txt"]


def main() -> None:
    arguments = parse_arguments()
    transformers.logging.disable_progress_bar()
    config = transformers.AutoConfig.for_model(arguments.model_type, **json.loads(arguments.config))
    torch.manual_seed(SEED)
    model = transformers.AutoModel.from_config(config, dtype=torch.float32)
    model.save_pretrained(arguments.out)
    copy_tokenizer(arguments.tokenizer, arguments.out, arguments.max_length)
    write_modules(arguments.out, config.hidden_size, arguments.pooling, arguments.max_length)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Make a model of random weights.")
    parser.add_argument("--model-type", required=True, help="of transformers, as in config.json")
    parser.add_argument("--config", required=True, help="JSON: what differs from its default configuration")
    parser.add_argument("--pooling", required=True, choices=["cls", "mean"])
    parser.add_argument("--max-length", type=int, required=True, help="tokens of a text")
    parser.add_argument("--tokenizer", type=Path, required=True, help="folder to copy the tokenizer from")
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    return parser.parse_args()


def copy_tokenizer(source: Path, target: Path, max_length: int) -> None:
    for name in TOKENIZER_FILES:
        if (source / name).is_file():
            shutil.copyfile(source / name, target / name)
    config = json.loads((source / "tokenizer_config.json").read_text(encoding="utf-8"))
    config["model_max_length"] = max_length
    write_json(target / "tokenizer_config.json", config)


def write_modules(folder: Path, dim: int, pooling: str, max_length: int) -> None:
    """The files that sentence-transformers puts beside a transformers model: pooling, then unit length."""
    modules = [("", "Transformer"), ("1_Pooling", "Pooling"), ("2_Normalize", "Normalize")]
    write_json(
        folder / "modules.json",
        [
            {"idx": index, "name": str(index), "path": path, "type": f"sentence_transformers.models.{name}"}
            for index, (path, name) in enumerate(modules)
        ],
    )
    modes = {"cls": "pooling_mode_cls_token", "mean": "pooling_mode_mean_tokens"}
    pooling_config = {"word_embedding_dimension": dim} | {mode: name == pooling for name, mode in modes.items()}
    write_json(folder / "1_Pooling/config.json", pooling_config)
    (folder / "2_Normalize").mkdir(exist_ok=True)
    write_json(folder / "sentence_bert_config.json", {"max_seq_length": max_length, "do_lower_case": False})


def write_json(path: Path, value: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
