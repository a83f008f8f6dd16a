"""Checkpoints and weights: variables and a run's state in one safetensors file.

What enters: variables by name, and JSON-able state. What leaves: a file that is either the old one or the new one,
never half of each (written beside, synced, then renamed). Invariant: nothing is executed on reading (no pickle), and a
file that was damaged, or is of another model, is refused with the reason before any variable is changed.

    header: {"graphc": {"format": 1, "kind": "weights" | "training", "sha256": ..., "state": {...}}}
    tensors: "variable:<name>" and "best:<name>"

>>> import graphc.ops as ops, tempfile, pathlib
>>> w = ops.parameter("w", (2,), 3.0)
>>> path = pathlib.Path(tempfile.mkdtemp()) / "w.safetensors"
>>> save_weights(path, [w]); w.attrs["variable"].value = [0, 0]
>>> load_weights(path, [w]); w.attrs["variable"].value.tolist()
[3.0, 3.0]
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load as parse_tensors
from safetensors.numpy import save as print_tensors

from graphc.errors import CheckpointError
from graphc.ir import Node
from graphc.variables import Variable

FORMAT = 1
_VARIABLE, _BEST = "variable:", "best:"
Arrays: TypeAlias = Mapping[str, np.ndarray]


class HasVariables(Protocol):
    """A layer of :mod:`graphc.nn`."""

    def variables(self) -> list[Node]: ...


@dataclass(frozen=True)
class Checkpoint:
    """What a file holds.

    Attributes:
        kind: "weights" or "training".
        variables: values by name.
        best: values of the best epoch so far by name (empty unless early stopping keeps them).
        state: JSON-able state of the run.
    """

    kind: str
    variables: Arrays
    best: Arrays = field(default_factory=dict)
    state: Mapping[str, Any] = field(default_factory=dict)


def write(path: str | os.PathLike[str], checkpoint: Checkpoint) -> None:
    """Write a checkpoint atomically: a crash leaves the old file or the new one.

    Raises:
        CheckpointError: the file cannot be written.
    """
    tensors = {_VARIABLE + name: np.asarray(a, order="C") for name, a in checkpoint.variables.items()}
    tensors |= {_BEST + name: np.asarray(a, order="C") for name, a in checkpoint.best.items()}
    header = {"format": FORMAT, "kind": checkpoint.kind, "state": dict(checkpoint.state)}
    header["sha256"] = _checksum(tensors, header)
    data = print_tensors(tensors, metadata={"graphc": json.dumps(header)})
    _replace(Path(path), data)


def read(path: str | os.PathLike[str]) -> Checkpoint:
    """Read and check a checkpoint.

    Raises:
        CheckpointError: it is missing, damaged, not graphc's or of a newer format.
    """
    file = Path(path)
    try:
        data = file.read_bytes()
    except FileNotFoundError:
        raise CheckpointError(
            f"there is no checkpoint at {file}", help="check the path; fit(checkpoint=...) makes one"
        ) from None
    except OSError as error:
        raise CheckpointError(f"cannot read {file}: {error.strerror}") from error
    header = _header(file, data)
    if header.get("format") != FORMAT:
        raise CheckpointError(
            f"{file} has checkpoint format {header.get('format')}, this graphc reads format {FORMAT}",
            help="read it with the graphc that wrote it",
        )
    try:
        tensors = parse_tensors(data)
    except (SafetensorError, ValueError, KeyError) as error:
        raise _damaged(file, str(error)) from error
    if header.pop("sha256", None) != _checksum(tensors, header):
        raise _damaged(file, "its checksum does not fit its contents")
    return Checkpoint(header["kind"], _with_prefix(tensors, _VARIABLE), _with_prefix(tensors, _BEST), header["state"])


def restore(path: str | os.PathLike[str], values: Arrays, variables: Iterable[Variable]) -> None:
    """Put values into the variables of the same names, in place, after checking that all fit.

    Raises:
        CheckpointError: a name is missing or too many, or a shape or dtype differs; nothing has been changed then.
    """
    wanted = {v.name: v for v in variables}
    differences = [f"only in the file: {name}" for name in values if name not in wanted]
    for name, variable in wanted.items():
        if name not in values:
            differences.append(f"only in the model: {name}: {variable.type}")
            continue
        array = values[name]
        if array.shape != variable.type.static_shape or array.dtype != variable.type.dtype.numpy:
            differences.append(f"{name}: {variable.type} in the model, {array.dtype}{list(array.shape)} in the file")
    if differences:
        more = (f"and {len(differences) - 10} more",) if len(differences) > 10 else ()
        raise CheckpointError(
            f"{path} is of another model", notes=(*differences[:10], *more),
            help="declare the model (and its optimizer) as it was when the file was written",
        )  # fmt: skip
    for name, variable in wanted.items():
        variable.value = values[name]


def save_weights(path: str | os.PathLike[str], model: HasVariables | Iterable[Node]) -> None:
    """Write a model's variables (not the optimizer's).

    Args:
        path: of the file, ``.safetensors`` by custom.
        model: a layer, or parameter nodes.

    Raises:
        CheckpointError: the file cannot be written.
    """
    write(path, Checkpoint("weights", {v.name: v.value for v in _variables(model)}))


def load_weights(path: str | os.PathLike[str], model: HasVariables | Iterable[Node]) -> None:
    """Set a model's variables from a file of weights or from a training checkpoint.

    Raises:
        CheckpointError: the file is missing, damaged or of another model.
    """
    found = read(path)
    variables = _variables(model)
    values: Arrays = found.variables
    if found.kind == "training":  # it also holds the optimizer's state, which is not the model's
        names = set(found.state.get("model", found.variables))
        values = {name: a for name, a in values.items() if name in names}
    restore(path, values, variables)


def _variables(model: HasVariables | Iterable[Node]) -> list[Variable]:
    nodes = list(model) if isinstance(model, Iterable) and not hasattr(model, "variables") else model.variables()
    for node in nodes:
        if not isinstance(node, Node) or node.op.name != "parameter":
            raise CheckpointError(f"{node!r} is no parameter", help="pass a layer or net.parameters()")
    return [node.attrs["variable"] for node in nodes]


def _with_prefix(tensors: Arrays, prefix: str) -> dict[str, np.ndarray]:
    return {name.removeprefix(prefix): a for name, a in tensors.items() if name.startswith(prefix)}


def _checksum(tensors: Arrays, header: Mapping[str, Any]) -> str:
    total = hashlib.sha256(json.dumps(header, sort_keys=True).encode())
    for name in sorted(tensors):
        array = tensors[name]
        total.update(f"{name}:{array.dtype.str}:{array.shape}".encode())
        total.update(array.tobytes())
    return total.hexdigest()


def _header(file: Path, data: bytes) -> dict[str, Any]:
    """The JSON of a safetensors file's own header: 8 bytes of its length, then itself."""
    try:
        length = int.from_bytes(data[:8], "little")
        header = json.loads(data[8 : 8 + length])["__metadata__"]["graphc"]
        found = json.loads(header)
    except (ValueError, KeyError, TypeError) as error:
        raise _damaged(file, "it has no header of graphc's") from error
    if not isinstance(found, dict):
        raise _damaged(file, "its header is no object")
    return found


def _damaged(file: Path, why: str) -> CheckpointError:
    return CheckpointError(
        f"{file} is damaged or no checkpoint of graphc's: {why}", help="use another checkpoint, or start anew"
    )


def _replace(path: Path, data: bytes) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
        _sync_folder(path.parent)
    except OSError as error:
        raise CheckpointError(f"cannot write {path}: {error.strerror}") from error


def _sync_folder(folder: Path) -> None:
    """Make the rename itself durable, where the system lets one open folders."""
    if os.name != "posix":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
