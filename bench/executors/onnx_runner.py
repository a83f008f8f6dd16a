"""onnxruntime: inference workloads, built as ONNX models, on its CPU provider with all its optimisations.

What enters: a workload of kind "inference" that has an ``onnx`` version. What leaves: a Runner. Invariant: outputs are arrays
that onnxruntime allocates, as its users get them.
"""

from __future__ import annotations

from typing import Any

from bench.executors import Unavailable
from bench.workload import Arrays, Workload


def load() -> str:
    """Import onnxruntime and what builds its models."""
    import onnx
    import onnxruntime

    return f"onnxruntime {onnxruntime.__version__} (onnx {onnx.__version__})"


class OnnxRunner:
    """A session."""

    def __init__(self, work: Workload, threads: int) -> None:
        import onnxruntime

        from bench.executors.onnx_graph import OnnxGraph

        if work.onnx is None:
            raise Unavailable("trains nothing" if work.kind != "inference" else "no ONNX version of this workload")
        self.work = work
        graph = OnnxGraph(work.weights, work.data)
        work.onnx(graph)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
        self._session = onnxruntime.InferenceSession(graph.serialise(), options, providers=["CPUExecutionProvider"])
        self._names = [o.name for o in self._session.get_outputs()]

    def run(self) -> Any:
        return self._session.run(self._names, self.work.data)

    def outputs(self) -> Arrays:
        return dict(zip(self._names, self.run(), strict=True))

    def weights(self) -> Arrays:
        return dict(self.work.weights)

    def gradients(self) -> Arrays:
        return {}


def make(work: Workload, threads: int, **options: Any) -> OnnxRunner:
    """The workload in onnxruntime."""
    return OnnxRunner(work, threads, **options)
