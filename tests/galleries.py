"""Galleries for tests and benchmarks: a tiny network on images with hostile names, and pages that
no model was run for.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from laws import generator
from nets import integers
from PIL import Image
from torch import Tensor, nn

from featviz import Images, Preprocess, Scan, scan
from featviz.files import write_atomic
from featviz.gallery import site, sprites

HOSTILE = [
    "<script>alert(1)</script>.png",
    "\"quoted\" 'twice' `and` thrice.png",
    "../../escaped/x.png",
    "/etc/passwd.png",
    "a name  with spaces.png",
    "Ünïcödé/日本語/файл.png",
    "emoji 🦓🧿.png",
    "cut short \udce9\udcff.png",  # bytes that are no UTF-8, as Python reads file names
    "x" * 300 + ".png",
    "</script><img src=x onerror=alert(2)>.png",
    "{{ 7 * 7 }}{% raw %}.png",
    "line\u2028separators\u2029 and\ttabs.png",
    "%2e%2e/%00?query#hash.png",
    "javascript:alert(3)",
]
LABELS = ["cat", "<i>dog</i> & 'co'", "</script><script>alert(4)</script>", "half an emoji \ud83e"]
LAYER = "<img src=x onerror=alert(5)>"


class Tiny(nn.Sequential):
    """Three convolutions, the last with a name that is no good; unit 3 of conv2 is dead."""

    def __init__(self, seed: int = 0, last: str = LAYER) -> None:
        layers = [
            ("conv1", nn.Conv2d(3, 6, 3, padding=1)),
            ("relu1", nn.ReLU()),
            ("pool", nn.MaxPool2d(2)),
            ("conv2", nn.Conv2d(6, 20, 3, padding=1)),
            ("relu2", nn.ReLU()),
            (last, nn.Conv2d(20, 4, 3, padding=1)),
        ]
        super().__init__(OrderedDict(layers))
        integers(self, seed)
        with torch.no_grad():
            for name in ("conv1", "conv2", last):
                # each filter sums to zero, so that some image activates it
                convolution = self.get_submodule(name)
                convolution.weight -= convolution.weight.mean((1, 2, 3), keepdim=True)
                convolution.bias.zero_()
            self.conv2.bias[3] = -1e6


def hostile_images(n: int = 24, size: int = 24, seed: int = 0) -> Images:
    """Coloured noise under keys that no page may take for anything but text, with labels of the
    same kind.
    """
    shape = (n, 3, size, size)
    pixels = torch.randint(0, 256, shape, generator=generator(seed), dtype=torch.uint8)
    others = [f"plain/{i:03d}.png" for i in range(len(HOSTILE), n)]
    labels = [LABELS[i % len(LABELS)] for i in range(n)]

    def read(i: int) -> Tensor:
        return pixels[i].float() / 255

    return Images([*HOSTILE[:n], *others], read, Preprocess(), labels)


def tiny(
    seed: int = 0, layers: Sequence[str] = ("conv1", "conv2", LAYER), k: int = 4, n: int = 24
) -> tuple[nn.Module, Images, Scan]:
    """A tiny network, its images, and a scan of them."""
    model = Tiny(seed)
    images = hostile_images(n)
    sources = {"model": f"tiny {LABELS[1]}", "weights": str(seed), "images": "noise"}
    result = scan(model, images, list(layers), k=k, batch_size=8, sources=sources)
    return model, images, result


def made_up(folder: Path, units: int, *, side: int = 96, kinds: int = 8, labels: int = 40) -> Path:
    """A gallery of one layer of so many units, without a model: invented numbers, noise for tiles,
    every 64th unit dead.

    Sprites have nine tiles of ``side`` pixels for patches and as many for projections; there are
    ``kinds`` different pictures.

    Returns:
        The path of the layer's page.
    """
    dice = np.random.default_rng(0)
    pictures = [_noise(dice, 3 * (side + 1) - 1) for _ in range(kinds)]
    previews = [sprites.preview(Image.open(BytesIO(picture))) for picture in pictures]
    numbers = [_unit(dice, unit, labels) for unit in range(units)]
    for unit in numbers:
        unit["preview"] = previews[unit["unit"] % kinds]
    for unit in range(63, units, 64):
        numbers[unit] = _dead_unit(unit)
    layer = _layer(numbers)
    data = {"tile": [side, side], "k": 9, "rules": ["deconvnet"], "input": [224, 224]}
    data["blocks"] = sprites.block_names(["deconvnet"], "projection")
    own = {"title": "made up", "folder": layer["folder"], "images": "images", "units": numbers}
    own["marks"] = {}
    record = site.new({}, ABOUT, [layer])
    record["images"] = []
    for i in range(500):
        label = f"class {i % labels}"
        record["images"].append([i, f"{label}/{i:03d}.jpg", label])
        write_atomic(site.image_path(folder, i), pictures[0])
    site.begin(folder)
    site.layer_page(folder, ABOUT, layer, {**data, "sides": [own]})
    site.finish(folder, record)
    for unit in numbers:
        if not unit["dead"]:
            # each ends in bytes of its own, so that no two are the same to the browser
            picture = pictures[unit["unit"] % kinds] + unit["unit"].to_bytes(4, "big")
            script = f'featviz.sprite("{sprites.address(picture)}");\n'
            write_atomic(folder / layer["folder"] / f"{unit['unit']}.js", script)
    return folder / layer["page"]


ABOUT = {
    "title": "made up",
    "images": 500,
    "skipped": 0,
    "input": [3, 224, 224],
    "k": 9,
    "rules": ["deconvnet"],
    "views": ["projection"],
    "lead": ["projection", "patch"],
    "sources": {},
    "fingerprints": {},
    "labelled": True,
    "date": "2026-01-01",
    "command": "",
}


def _layer(numbers: list[dict[str, Any]]) -> dict[str, Any]:
    """The record of a layer of these units."""
    index = []
    for unit in numbers:
        images = [exemplar["image"] for exemplar in unit["exemplars"]]
        index.append([unit["unit"], unit["label"], images])
    return {
        "name": "layer4",
        "kind": "Conv2d",
        "channels": len(numbers),
        "map": "7 × 7",
        "field": "96 × 96 px",
        "stride": "32 × 32 px",
        "parameters": 1_048_576,
        "dead": len(numbers) // 64,
        "fallbacks": 0,
        "exemplars": sum(len(images) for _, _, images in index),
        "page": site.page_name(0),
        "folder": site.layer_folder(0),
        "done": True,
        "strip": [],
        "index": index,
    }


def _noise(dice: np.random.Generator, side: int) -> bytes:
    """Two blocks of smooth noise as WebP, about as large as those of photographs."""
    coarse = dice.integers(0, 256, (max(2, side // 14), max(2, 2 * side // 14), 3), dtype=np.uint8)
    picture = Image.fromarray(coarse).resize((2 * side, side), Image.Resampling.BICUBIC)
    buffer = BytesIO()
    picture.save(buffer, "WEBP", quality=80, method=0)
    return buffer.getvalue()


def _unit(dice: np.random.Generator, unit: int, labels: int) -> dict[str, Any]:
    scores = sorted(dice.gamma(4, 10, 9).round(2).tolist(), reverse=True)
    box = [10, 20, 106, 116]
    exemplars = []
    for score in scores:
        image = int(dice.integers(500))
        exemplars.append({"score": score, "image": image, "box": box, "computed": "crop"})
    return {
        "unit": unit,
        "dead": False,
        "label": f"class {unit % labels}",
        "share": (unit % 9 + 1) / 9,
        "histogram": [[0, 100], [70, 150], [73, 200], [77, 50]],
        "exemplars": exemplars,
        "max": scores[0],
        "mean": round(scores[0] / 3, 2),
        "active": round(float(dice.uniform()), 3),
    }


def _dead_unit(unit: int) -> dict[str, Any]:
    return {
        "unit": unit,
        "dead": True,
        "label": None,
        "share": 0.0,
        "histogram": [[0, 500]],
        "exemplars": [],
        "max": 0.0,
        "mean": 0.0,
        "active": 0.0,
    }
