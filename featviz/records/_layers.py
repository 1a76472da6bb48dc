"""Layers as JSON, and back."""

from __future__ import annotations

from dataclasses import asdict
from fractions import Fraction
from typing import Any, get_args

from featviz.geometry import Box, Kind, Number, ReceptiveField, as_number
from featviz.records import _fields as fields
from featviz.records._fields import Entry
from featviz.units import Layer, Layout


def layer_to_json(layer: Layer) -> dict[str, Any]:
    entry = asdict(layer)
    for key in ("stride", "padding"):  # whole numbers and fractions, as text
        entry["field"][key] = [str(number) for number in entry["field"][key]]
    return entry


def layer_from(entry: Entry) -> Layer:
    size = fields.integer()
    pair = fields.optional(fields.list_of(size, 2))
    name = entry.take("name", fields.text)
    layer = Layer(
        name=name,
        call=entry.take("call", fields.text),
        kind=entry.take("kind", fields.text),
        shape=tuple(entry.take("shape", fields.list_of(fields.integer(1), 0, 1, 3))),
        field=_receptive_field_from(entry.take("field", fields.entry)),
        kernel=_pair(entry.take("kernel", pair)),
        stride=_pair(entry.take("stride", pair)),
        parameters=entry.take("parameters", size),
        elements=entry.take("elements", size),
        is_convolution=entry.take("is_convolution", fields.flag),
        layout=entry.take("layout", fields.any_of(get_args(Layout))),
        refusal=entry.take("refusal", fields.text),
    )
    if not layer.has_units:
        raise ValueError(f"{entry.name} has no units: its shape is {layer.shape}")
    return layer


def _receptive_field_from(entry: Entry) -> ReceptiveField:
    any_number = fields.integer(-(2**62))
    top, left, bottom, right = entry.take("extent", fields.list_of(any_number, 4))
    height, width = entry.take("size", fields.list_of(fields.integer(), 2))
    return ReceptiveField(
        size=(height, width),
        stride=_fractions(entry.take("stride", fields.list_of(fields.text, 2))),
        padding=_fractions(entry.take("padding", fields.list_of(fields.text, 2))),
        extent=Box(top, left, bottom, right),
        kind=entry.take("kind", fields.any_of(get_args(Kind))),
        resampled=entry.take("resampled", fields.flag),
    )


def _fractions(texts: list[str]) -> tuple[Number, Number]:
    y, x = (Fraction(text) for text in texts)
    return as_number(y), as_number(x)


def _pair(value: list[int] | None) -> tuple[int, int] | None:
    return None if value is None else (value[0], value[1])
