"""Quantize an ONNX graph to int8: `python quantize.py IN.onnx OUT.onnx`.

ONNX Runtime's dynamic quantization with its defaults: int8 weights, one scale per tensor; activations are
quantized to uint8 as they come.
"""

from __future__ import annotations

import sys

import onnx
from onnxruntime.quantization import QuantType, quantize_dynamic


def main() -> None:
    source, target = sys.argv[1:]
    # Shape inference knows no types behind the fused operators of an optimised graph.
    default = {"DefaultTensorType": onnx.TensorProto.FLOAT}
    quantize_dynamic(source, target, weight_type=QuantType.QInt8, extra_options=default)


if __name__ == "__main__":
    main()
