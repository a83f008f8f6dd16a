"""A model in ONNX, built op by op: what an inference workload gives to onnxruntime.

What enters: weights, data and calls of :meth:`OnnxGraph.op`. What leaves: a serialised model. Invariant: values are named by
strings; a weight or input is its own name. ::

    y = graph.op("Gemm", "image", "w0", "b0"); graph.output("output", y)
"""

from __future__ import annotations

from typing import Any

import numpy as np

from bench.workload import Arrays

OPSET = 20  # the first with Gelu
FLOAT = 1  # onnx.TensorProto.FLOAT


class OnnxGraph:
    """Collects nodes; needs the ``onnx`` package."""

    def __init__(self, weights: Arrays, data: Arrays) -> None:
        from onnx import helper, numpy_helper

        self._helper = helper
        self._tensors = [numpy_helper.from_array(a, n) for n, a in weights.items()]
        self._from_array = numpy_helper.from_array
        self._inputs = [helper.make_tensor_value_info(n, self._type(a), a.shape) for n, a in data.items()]
        self._outputs: list[Any] = []
        self._nodes: list[Any] = []

    def _type(self, array: np.ndarray) -> int:
        return int(self._helper.np_dtype_to_tensor_dtype(array.dtype))

    def op(self, kind: str, *inputs: str, **attributes: Any) -> str:
        """A node with one output; its name."""
        return self.ops(kind, 1, *inputs, **attributes)[0]

    def ops(self, kind: str, count: int, *inputs: str, **attributes: Any) -> list[str]:
        """A node with several outputs; their names."""
        names = [f"{kind}_{len(self._nodes)}_{k}" for k in range(count)]
        self._nodes.append(self._helper.make_node(kind, list(inputs), names, **attributes))
        return names

    def constant(self, value: Any) -> str:
        """An array that is part of the model; its name."""
        name = f"constant_{len(self._tensors)}"
        self._tensors.append(self._from_array(np.asarray(value), name))
        return name

    def output(self, name: str, value: str) -> None:
        """Return a value under a name."""
        self._nodes.append(self._helper.make_node("Identity", [value], [name]))
        self._outputs.append(self._helper.make_tensor_value_info(name, FLOAT, None))

    def serialise(self) -> bytes:
        """The model, checked."""
        import onnx
        import onnx.shape_inference

        graph = self._helper.make_graph(self._nodes, "workload", self._inputs, self._outputs, self._tensors)
        opsets = [self._helper.make_opsetid("", OPSET)]
        model = self._helper.make_model(graph, opset_imports=opsets, ir_version=9)
        model = onnx.shape_inference.infer_shapes(model, strict_mode=True)
        onnx.checker.check_model(model)
        return bytes(model.SerializeToString())
