"""featviz: visualisation of convolutional networks, after Zeiler & Fergus (arXiv 1311.2901).

All names below are imported when they are first used: torch takes seconds, and ``featviz --help`` needs none.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from featviz._lazy import lazily

if TYPE_CHECKING:
    from featviz import dictionaries, edits, figures, gallery, parameterizations
    from featviz.checks.check import check
    from featviz.dictionaries._attach import directions
    from featviz.errors import (
        FeatvizError,
        ImageError,
        LayerError,
        ModelError,
        NumberError,
        RecordError,
        RuleError,
        SizeError,
        UnitError,
        UsageError,
        WeightsError,
    )
    from featviz.exports.export import export
    from featviz.fields.anatomy import Anatomy, anatomy, receptive_fields
    from featviz.gallery._watch import watch
    from featviz.geometry import Box, ReceptiveField
    from featviz.hooks import capture, edit, read
    from featviz.hooks.activations import Activations
    from featviz.images import Images, Preprocess, open_images
    from featviz.methods.ablate import ablate
    from featviz.methods.attribute import attribute
    from featviz.methods.connections import Connections, connections
    from featviz.methods.correspondence import Correspondence, correspondence
    from featviz.methods.equivariance import equivariance
    from featviz.methods.evolve import Evolution, Track, evolve
    from featviz.methods.explain import explain
    from featviz.methods.links import links
    from featviz.methods.maximize import maximize
    from featviz.methods.merge import merge
    from featviz.methods.occlude import OcclusionMaps, occlude
    from featviz.methods.project import project
    from featviz.methods.project_exemplars import project_exemplars
    from featviz.methods.responses import responses
    from featviz.methods.scan import scan
    from featviz.methods.sweep import SweepResult, sweep
    from featviz.methods.transforms import Rotate, Scale, Translate
    from featviz.models import load_model, load_weights, preprocessing
    from featviz.records.ablation import Ablation
    from featviz.records.checks import Checks
    from featviz.records.exemplars import Exemplars
    from featviz.records.explanation import Explanation
    from featviz.records.layer_scan import LayerScan
    from featviz.records.links import Links
    from featviz.records.listing import Listing, Skipped
    from featviz.records.maximized import Maximized
    from featviz.records.responses import Responses
    from featviz.records.scan import Scan
    from featviz.records.statistics import Statistics
    from featviz.records.topk import TopK
    from featviz.rules import backward_rule
    from featviz.units import Layer, Unit, UnitSum
else:
    __getattr__, __dir__ = lazily(
        __name__,
        {
            "checks.check": ["check"],
            "dictionaries._attach": ["directions"],
            "errors": [
                "FeatvizError",
                "ImageError",
                "LayerError",
                "ModelError",
                "NumberError",
                "RecordError",
                "RuleError",
                "SizeError",
                "UnitError",
                "UsageError",
                "WeightsError",
            ],
            "exports.export": ["export"],
            "fields.anatomy": ["Anatomy", "anatomy", "receptive_fields"],
            "gallery._watch": ["watch"],
            "geometry": ["Box", "ReceptiveField"],
            "hooks": ["capture", "edit", "read"],
            "hooks.activations": ["Activations"],
            "images": ["Images", "Preprocess", "open_images"],
            "methods.ablate": ["ablate"],
            "methods.attribute": ["attribute"],
            "methods.connections": ["Connections", "connections"],
            "methods.correspondence": ["Correspondence", "correspondence"],
            "methods.equivariance": ["equivariance"],
            "methods.evolve": ["Evolution", "Track", "evolve"],
            "methods.explain": ["explain"],
            "methods.links": ["links"],
            "methods.maximize": ["maximize"],
            "methods.merge": ["merge"],
            "methods.occlude": ["OcclusionMaps", "occlude"],
            "methods.project": ["project"],
            "methods.project_exemplars": ["project_exemplars"],
            "methods.responses": ["responses"],
            "methods.scan": ["scan"],
            "methods.sweep": ["SweepResult", "sweep"],
            "methods.transforms": ["Rotate", "Scale", "Translate"],
            "models": ["load_model", "load_weights", "preprocessing"],
            "records.ablation": ["Ablation"],
            "records.checks": ["Checks"],
            "records.exemplars": ["Exemplars"],
            "records.explanation": ["Explanation"],
            "records.links": ["Links"],
            "records.listing": ["Listing", "Skipped"],
            "records.maximized": ["Maximized"],
            "records.responses": ["Responses"],
            "records.layer_scan": ["LayerScan"],
            "records.scan": ["Scan"],
            "records.statistics": ["Statistics"],
            "records.topk": ["TopK"],
            "rules": ["backward_rule"],
            "units": ["Layer", "Unit", "UnitSum"],
        },
    )

__version__ = "0.1.0"

__all__ = [
    "Ablation", "Activations", "Anatomy", "Box", "Checks", "Connections", "Correspondence", "Evolution", "Exemplars",
    "Explanation", "FeatvizError", "ImageError", "Images", "Layer", "LayerError", "LayerScan", "Links", "Listing",
    "Maximized", "ModelError",
    "NumberError", "OcclusionMaps", "Preprocess", "ReceptiveField", "RecordError", "Responses", "Rotate",
    "RuleError", "Scale", "Scan", "SizeError", "Skipped", "Statistics", "SweepResult", "TopK",
    "Track", "Translate", "Unit", "UnitError", "UnitSum", "UsageError", "WeightsError",
    "ablate", "anatomy", "attribute", "backward_rule", "capture", "check", "connections", "correspondence",
    "dictionaries", "directions", "edit", "edits", "equivariance", "evolve", "explain", "export", "figures", "gallery",
    "links", "load_model", "load_weights", "maximize", "merge", "occlude",
    "open_images", "parameterizations", "preprocessing", "project", "project_exemplars", "read", "receptive_fields",
    "responses", "scan", "sweep", "watch",
]  # fmt: skip
