"""PyTorch, eager or through torch.compile: its fused optimizers, inference_mode for inference, integer labels as int64.

What enters: a workload. What leaves: a Runner. Invariant: torch.compile compiles forward and backward; the optimizer is
torch's own fused one for both.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from bench.executors import Unavailable, with_gradients
from bench.workload import Arrays, Rule, Workload


def load() -> str:
    """Import torch, and what torch.compile imports when it is first used."""
    import torch
    import torch._dynamo
    import torch._inductor.compile_fx

    return f"torch {torch.__version__}"


class TorchRunner:
    """Leaves, a function of them, and an optimizer."""

    def __init__(self, work: Workload, threads: int, compiled: bool = False) -> None:
        import torch

        if work.torch is None:
            raise Unavailable("no torch version of this workload")
        torch.set_num_threads(threads)
        self.work = work
        self._torch = torch
        function = work.torch()
        self._function = torch.compile(function) if compiled else function
        self._leaves = self._fresh()
        self._data = {n: self._tensor(a) for n, a in work.data.items()}
        self._optimizer = _optimizer(work.rule, list(self._leaves.values())) if work.rule else None

    def _tensor(self, array: np.ndarray) -> Any:
        tensor = self._torch.from_numpy(array)
        return tensor.long() if array.dtype == np.int32 else tensor

    def _fresh(self) -> dict[str, Any]:
        grad = self.work.kind != "inference"
        leaves = {}
        for name, array in self.work.weights.items():
            tensor = self._torch.from_numpy(self.work.in_torch_axes(name, array).copy())
            if tensor.ndim == 4 and name in self.work.torch_axes:  # convolutions run on channels-last images
                tensor = tensor.contiguous(memory_format=self._torch.channels_last)
            leaves[name] = tensor.requires_grad_(grad)
        return leaves

    def _step(self) -> tuple[dict[str, Any], dict[str, Any]]:
        if self.work.kind == "inference":
            with self._torch.inference_mode():
                return self._function(self._leaves, self._data), {}
        leaves = self._leaves
        if self._optimizer is not None:
            self._optimizer.zero_grad(set_to_none=True)
            outputs = self._function(leaves, self._data)
            outputs["loss"].backward()
            self._optimizer.step()
            return outputs, {}
        outputs = self._function(leaves, self._data)
        wrt = list(leaves.values())
        if self.work.cotangent is None:
            gradients = self._torch.autograd.grad(outputs["loss"], wrt)
        else:
            gradients = self._torch.autograd.grad(outputs["y"], wrt, self._data[self.work.cotangent])
        return outputs, dict(zip(leaves, gradients, strict=True))

    def run(self) -> Any:
        outputs, gradients = self._step()
        if "loss" in outputs:
            outputs["loss"].item()
        return outputs, gradients

    def outputs(self) -> Arrays:
        outputs, gradients = self._step()
        return with_gradients({n: t.detach().numpy().copy() for n, t in outputs.items()}, self._arrays(gradients))

    def _arrays(self, tensors: dict[str, Any]) -> Arrays:
        return {n: self.work.from_torch_axes(n, t.detach().numpy()).copy() for n, t in tensors.items()}

    def weights(self) -> Arrays:
        return self._arrays(self._leaves)

    def gradients(self) -> Arrays:
        leaves = self._fresh()
        self._function(leaves, self._data)["loss"].backward()
        return with_gradients({}, self._arrays({n: t.grad for n, t in leaves.items()}))


def _optimizer(rule: Rule, leaves: list[Any]) -> Any:
    from torch import optim

    if rule.kind == "sgd":
        return optim.SGD(leaves, rule.rate, fused=True)
    kind = optim.Adam if rule.kind == "adam" else optim.AdamW
    return kind(leaves, rule.rate, (rule.beta1, rule.beta2), rule.epsilon, weight_decay=rule.decay, fused=True)


def make(work: Workload, threads: int, **options: Any) -> TorchRunner:
    """The workload in PyTorch."""
    return TorchRunner(work, threads, **options)
