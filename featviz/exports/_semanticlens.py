"""The strongest images of every component as SemanticLens' ``ActivationComponentVisualizer`` caches
them: a safetensors file for each layer.

Source: Dreyer et al., Mechanistic understanding and validation of large AI models with SemanticLens (2025),
and ``ActMaxCache`` of the package semanticlens 0.2.1.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from torch import Tensor

from featviz.errors import UsageError
from featviz.exports._files import file_name
from featviz.exports._subject import Subject
from featviz.files import write_atomic
from featviz.units import Layer

FOLDER = "ActivationComponentVisualizer/images/model"
"""Below the folder that SemanticLens is given: its class, and the names of data set and model."""
KEYS = "images.txt"
_BREAKS = {ord("\n"): "\\n", ord("\r"): "\\r"}
"""How line breaks in names are written, where each name has a line."""
_TYPES = {torch.bfloat16: "BF16", torch.int64: "I64"}


def semanticlens_files(subject: Subject) -> list[str]:
    """The files that `write_semanticlens` writes.

    Raises:
        UsageError: the scan ranks by a score that SemanticLens has no function for.
    """
    files = [_file(subject, name) for name in subject.result]
    return [*files, KEYS]


def write_semanticlens(folder: Path, subject: Subject) -> None:
    """Write for each layer ``activations`` (units, k) bfloat16 and ``sample_ids`` (units, k) int64, of
    all of its units; and the keys of all images, a line for each, in the order that the numbers mean."""
    for name, layer_scan in subject.result.items():
        top = layer_scan.top
        tensors = {
            "activations": top.scores[:, : subject.k].to(torch.bfloat16),
            "sample_ids": top.images[:, : subject.k],
        }
        metadata = {
            "aggregation_fn_name": _aggregation(layer_scan.layer, layer_scan.score),
            "n_collect": str(subject.k),
            "n_latents": str(layer_scan.layer.channels),
            "layer_name": name,
        }
        write_atomic(folder / _file(subject, name), safetensors(tensors, metadata))
    keys = [key.translate(_BREAKS) for key in subject.result.listing.keys]
    write_atomic(folder / KEYS, "".join(f"{key}\n" for key in keys))


def _file(subject: Subject, name: str) -> str:
    layer_scan = subject.result[name]
    function = _aggregation(layer_scan.layer, layer_scan.score)
    return f"{FOLDER}/{function}-{subject.k}-{file_name(name)}.safetensors"


def _aggregation(layer: Layer, score: str) -> str:
    """The function of SemanticLens that a score is.

    Raises:
        UsageError: there is none.
    """
    if score not in ("max", "mean"):
        raise UsageError(
            f"the scan ranks by {score}, for which SemanticLens has no function: scan with score='max' or "
            "'mean'",
            "score",
        )
    kind = "transformer" if layer.layout in ("nlc", "ncl") else "conv"
    return f"aggregate_{kind}_{score}"


def safetensors(tensors: dict[str, Tensor], metadata: dict[str, str]) -> bytes:
    """Tensors as a file of that format: the length of a header in JSON, the header, and the numbers.

    Source: github.com/huggingface/safetensors, README, Format.
    """
    header: dict[str, object] = {"__metadata__": metadata}
    numbers = b""
    for name, tensor in tensors.items():
        own = tensor.contiguous().view(torch.uint8).numpy().tobytes()
        offsets = [len(numbers), len(numbers) + len(own)]
        kind = {"dtype": _TYPES[tensor.dtype], "shape": list(tensor.shape)}
        header[name] = kind | {"data_offsets": offsets}
        numbers += own
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + numbers
