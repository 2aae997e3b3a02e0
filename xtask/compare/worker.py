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
from importlib.metadata import version
from pathlib import Path

import numpy as np

from libraries import LIBRARIES


def main() -> None:
    die_first()
    # Libraries may print; the protocol keeps the real standard output to itself.
    out = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())

    def say(message: dict) -> None:
        print(json.dumps(message), file=out, flush=True)

    job = read_json(Path(sys.argv[1]))
    load, packages = LIBRARIES[job["library"]]
    model = load(job)
    say({"loaded": True})

    (sequences,) = read_json(Path(job["input_file"])).values()
    inputs = model.prepare(sequences)
    outputs = model.run(model.prepare(sequences[: job["warm_up"]]))
    say({"warm": True})
    for line in sys.stdin:
        command, _, argument = line.rstrip("\n").partition(" ")
        if command == "embed":
            seconds = []
            for _ in range(job["calls"]):
                started = time.perf_counter()
                outputs = model.run(inputs)
                seconds.append(time.perf_counter() - started)
            say({"seconds": seconds})
        elif command == "write":
            matrix = np.asarray(model.embeddings(outputs), dtype="<f4")
            matrix.tofile(argument)
            say({"dim": matrix.shape[1]})
        elif command == "versions":
            say({"versions": [[package, version(package)] for package in packages]})
        else:
            raise ValueError(f"unknown command {line!r}")


def die_first() -> None:
    """Where memory runs out, Linux ends the largest of the rivals, and neither candlewick nor a bystander."""
    adjustment = Path("/proc/self/oom_score_adj")
    if adjustment.exists():
        adjustment.write_text("1000", encoding="ascii")


def read_json(path: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
