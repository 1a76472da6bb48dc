"""A data set that FiftyOne opens: the images, and on each the exemplars in it as detections with masks.

Source: the documentation of ``fiftyone.types.FiftyOneDataset``; of its two layouts that which needs no
identifiers of a data base, ``samples.json`` beside a ``metadata.json`` without a version.
"""

from __future__ import annotations

import base64
import io
import json
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from featviz.exports._subject import Slot, Subject
from featviz.exports._walk import Illustration
from featviz.files import arriving, write_atomic

SAMPLES = "samples.json"
METADATA = "metadata.json"


def fiftyone_files(subject: Subject) -> list[str]:
    """The files that `write_fiftyone` writes."""
    return [METADATA, SAMPLES, *map(_path, subject.slots())]


def write_fiftyone(folder: Path, subject: Subject, illustrations: Iterable[Illustration]) -> None:
    """Write the images as the network is given them, a sample for each, and for each exemplar in it a
    detection: the receptive field, with the mask of where the unit fires in it. A sample is written
    when its image is done, so that memory holds no more."""
    result = subject.result
    metadata = {"media_type": "image", "info": {"sources": result.sources, "score": result.score}}
    write_atomic(folder / METADATA, json.dumps(metadata, indent=1))
    with arriving(folder / SAMPLES) as path, path.open("w", encoding="utf-8") as file:
        separator = '{"samples": ['
        for illustration in illustrations:
            picture = Image.fromarray(illustration.pixels.permute(1, 2, 0).contiguous().numpy())
            with arriving(folder / _path(illustration.image)) as temporary:
                picture.save(temporary, "PNG")
            file.write(separator + "\n" + json.dumps(_sample(subject, illustration)))
            separator = ","
        file.write("\n]}\n")


def _path(image: int) -> str:
    """The file of an image by its index, since keys of images may be anything."""
    return f"data/{image:06d}.png"


def _sample(subject: Subject, illustration: Illustration) -> dict[str, Any]:
    """An image with its exemplars."""
    listing = subject.result.listing
    height, width = subject.size
    detections = [_detection(subject, slot, mask) for slot, mask in illustration.exemplars]
    sample = {
        "filepath": _path(illustration.image),
        "tags": [],
        "metadata": {"_cls": "ImageMetadata", "width": width, "height": height, "num_channels": 3},
        "key": listing.keys[illustration.image],
        "exemplars": {"_cls": "Detections", "detections": detections},
    }
    label = listing.labels[illustration.image]
    if label is not None:
        sample["ground_truth"] = {"_cls": "Classification", "label": label}
    return sample


def _detection(subject: Subject, slot: Slot, mask: Tensor) -> dict[str, Any]:
    """An exemplar: its box as shares of the image, left, top, width and height, and the mask within it."""
    height, width = subject.size
    row = subject.exemplar(slot)
    box = subject.box(slot)
    return {
        "_cls": "Detection",
        "tags": [],
        "attributes": {},
        "label": f"{row['layer']}:{row['unit']}",
        "bounding_box": [
            box.left / width,
            box.top / height,
            box.width / width,
            box.height / height,
        ],
        "mask": _packed(mask[box.region].numpy()),
        "layer": row["layer"],
        "unit": row["unit"],
        "rank": row["rank"],
        "score": row["score"],
    }


def _packed(array: np.ndarray[Any, Any]) -> str:
    """An array as FiftyOne keeps it: numpy's file of it, compressed, in base64."""
    buffer = io.BytesIO()
    np.save(buffer, array)
    return base64.b64encode(zlib.compress(buffer.getvalue())).decode()
