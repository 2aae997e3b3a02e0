"""Write the official test cases of ONNX's operators: `python cases.py --out DIR`.

One folder per case:

    case.json        the operator, the tolerance, and what kinds of values there are
    model.onnx       the model, mostly of one node
    input_0_0.pb     the first input of the first run, a TensorProto (or SequenceProto, OptionalProto)
    output_0_0.pb    its first output

Values that a model leaves out have no file. Two runs write the same bytes, but for cases that draw random numbers
without a seed.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import warnings
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper
from onnx.backend.test.case.node import collect_testcases

# A function's body in place of the operator.
EXPANDED = re.compile(r"_expanded(_ver\d+)?$")


def main() -> None:
    parser = argparse.ArgumentParser(description="Write the official test cases of ONNX's operators.")
    parser.add_argument("--out", type=Path, required=True, help="folder of the cases")
    out = parser.parse_args().out
    warnings.simplefilter("ignore")
    np.random.seed(0)
    cases = [case for case in collect_testcases(None) if case.data_sets]
    operators = {case.name: operators_of(case.model.graph) for case in cases}
    shutil.rmtree(out, ignore_errors=True)
    for case in cases:
        write_case(case, operators, out / case.name)
    print(f"{len(cases)} cases in {out}")


def operators_of(graph: onnx.GraphProto) -> str:
    """The operators of the outer nodes, which are what a case is about."""
    names = {f"{node.domain}.{node.op_type}".removeprefix(".").removeprefix("ai.onnx.") for node in graph.node}
    return "+".join(sorted(names))


def write_case(case, operators: dict[str, str], folder: Path) -> None:
    folder.mkdir(parents=True)
    (folder / "model.onnx").write_bytes(case.model.SerializeToString(deterministic=True))
    graph, kinds = case.model.graph, set()
    for number, (inputs, outputs) in enumerate(case.data_sets):
        for side, values, infos in (("input", inputs, graph.input), ("output", outputs, graph.output)):
            assert len(values) <= len(infos), case.name
            for index, (value, info) in enumerate(zip(values, infos)):
                message = message_of(value, info)
                if message is not None:
                    kinds.add(type(message).__name__)
                    content = message.SerializeToString(deterministic=True)
                    (folder / f"{side}_{number}_{index}.pb").write_bytes(content)
    whole = EXPANDED.sub("", case.name)
    if whole != case.name:
        operator = f"{operators.get(whole, whole)} (expanded)"
    else:
        operator = operators[case.name]
    facts = {"operator": operator, "rtol": case.rtol, "atol": case.atol, "kinds": sorted(kinds)}
    (folder / "case.json").write_text(json.dumps(facts) + "\n")


def message_of(value, info: onnx.ValueInfoProto):
    """A value as a message; None if it is left out."""
    if isinstance(value, (onnx.TensorProto, onnx.SequenceProto, onnx.OptionalProto, onnx.MapProto)):
        message = type(value)()
        message.CopyFrom(value)
        message.name = info.name
        return message
    kind = info.type.WhichOneof("value")
    if kind == "optional_type":
        return numpy_helper.from_optional(value, info.name)
    if value is None:
        return None
    if kind == "sequence_type":
        return numpy_helper.from_list(list(value), info.name)
    if kind == "map_type":
        return numpy_helper.from_dict(value, info.name)
    assert kind == "tensor_type", f"{info.name} is a {kind}"
    return tensor_of(np.asarray(value), info)


def tensor_of(array: np.ndarray, info: onnx.ValueInfoProto) -> onnx.TensorProto:
    if array.dtype == object or array.dtype.kind in "US":
        strings = [text if isinstance(text, bytes) else str(text).encode() for text in array.flat]
        string = onnx.TensorProto.STRING
        return onnx.TensorProto(name=info.name, data_type=string, dims=array.shape, string_data=strings)
    tensor = numpy_helper.from_array(array, info.name)
    declared = info.type.tensor_type.elem_type
    assert tensor.data_type == declared, f"{info.name} is {array.dtype}, declared {declared}"
    return tensor


if __name__ == "__main__":
    main()
