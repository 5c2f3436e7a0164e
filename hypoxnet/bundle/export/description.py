"""`export.json`: what a program without HypoxNet must know to use an exported graph, as plain values."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from hypoxnet.bundle.export.graphs import Graph, reported_months
from hypoxnet.bundle.export.prepare_graph import files_of_case
from hypoxnet.bundle.metadata import metadata
from hypoxnet.bundle.schema import INTENDED_USE, BundleSpec
from hypoxnet.files import finite

EXPORT = "export.json"
FORMAT = "hypoxnet-export"
FORMAT_VERSION = 1

# MONAI's importance map of a window: standard deviation as a share of the window's side.
BLENDING_SIGMA = 0.125

AXES: dict[str, tuple[str, ...]] = {
    "image": ("patient", "channel", "x", "y", "z"),
    "presence": ("patient", "channel"),
    "tumour": ("patient", "1", "x", "y", "z"),
    "tumour_known": ("patient",),
    "covariates": ("patient", "column"),
    "covariates_known": ("patient", "column"),
    "pred": ("patient", "region", "x", "y", "z"),
    "incidence": ("patient", "cause", "month"),
    "logits": ("patient", "member", "region", "x", "y", "z"),
    "pooled_sum": ("patient", "member", "feature"),
    "pooled_weight": ("patient", "member", "feature"),
    "tumour_ml": ("patient", "member"),
    "region_ml": ("patient", "member", "region"),
}
MEANING: dict[str, str] = {
    "image": "channels, each normalised as `channels` says, 0 where absent or not covered; dimensionless",
    "presence": "1 where a channel was measured, 0 where it was not",
    "tumour": "1 inside the tumour contour, 0 outside; 0 everywhere without a contour",
    "tumour_known": "1 when there is a tumour contour, 0 when there is none",
    "covariates": "columns of covariates, standardised as `covariates` says, 0 where not known",
    "covariates_known": "1 where a column is known; with `missing` other than `indicator` 1 everywhere",
    "pred": "probability of each region, 0 to 1, mean of the members",
    "incidence": "cumulative incidence of each cause by each of `months`, 0 to 1, mean of the members",
    "logits": "log-odds of each region by each member, already divided by its `temperature`",
    "pooled_sum": "features summed over the tumour; add up over windows, then give to `outcome`",
    "pooled_weight": "weight of that sum; adds up over windows likewise",
    "tumour_ml": "volume of the tumour contour, mL (of the first region's probability without a contour)",
    "region_ml": "volume of each region, mL: sigmoid(logits x temperature) summed inside the contour",
    "given": "covariates in the order of `given`, each in its unit (a category by its code); nan where not known",
    "looks": "how the case is turned each time the network looks at it: -1 along axes that are mirrored",
    "begins": "first voxel of each window of each look, in `image` as it is",
    "importance": "weight of each voxel of a window, where windows overlap",
    "layout": "voxels of the working grid; first voxel of the box in it; voxels of the box; margin of `image` round it",
    "into_working": "voxel of the reference image to voxel of the working grid",
    "affine": "voxel of the reference image to RAS+ mm, with its axes at right angles",
    "inside": "1 where a region may lie, on the grid of the reference image",
    "logits_sum": "`logits` x `importance`, summed over the windows of each look",
    "coverage": "`importance`, summed over the windows of each look",
    "probability": "probability of each region on the grid of the reference image, 0 to 1",
}


def meaning_of(name: str) -> str:
    """What an input or output is; those that have the name of a file or of its affine are of `prepare`."""
    if name in MEANING:
        return MEANING[name]
    if name.endswith("_affine"):
        return f"voxel of {name.removesuffix('_affine')} to RAS+ mm, as in the header; any where there is no file"
    return f"voxels of {name} as in the file, in its unit; none (0 x 0 x 0) where there is no file"


def describe_export(
    spec: BundleSpec, graphs: Sequence[Graph], *, kind: str, files: Mapping[str, str], more: Mapping[str, Any]
) -> dict[str, Any]:
    """The content of `export.json`.

    Args:
        spec: The bundle.
        graphs: What was exported.
        kind: Name of the format.
        files: Name of a graph to its file.
        more: What the format adds: agreement with the bundle, precision of the weights, versions.
    """
    settings = spec.settings
    formats = metadata(spec)["network_data_format"]
    content = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "kind": kind,
        "intended_use": INTENDED_USE,
        "bundle": {"name": spec.name, "version": spec.version, "digest": spec.digest, "members": spec.members},
        "channels": [
            {"name": name, "description": formats["inputs"]["image"]["channel_def"][str(place)]} | _norm(spec, place)
            for place, name in enumerate(settings.channels)
        ],
        "reference": settings.reference,
        "orientation": "RAS",
        "spacing_mm": list(settings.spacing_mm),
        "tumour": list(settings.tumour),
        "inside_tumour": settings.inside_tumour,
        "window": list(settings.window),
        "overlap": spec.inference.overlap,
        "blending": {"kind": "gaussian", "sigma": BLENDING_SIGMA},
        "mirror": spec.inference.mirror,
        "threshold": spec.inference.threshold,
        "temperature": [list(row) for row in spec.every_temperature],
        "regions": list(settings.region_names),
        "causes": list(spec.causes),
        "months": list(reported_months(spec)) if spec.causes else [],
        "yes_or_no": spec.model.edges_months == (math.inf,),
        "pool": spec.model.outcome.pool,
        "covariates": _covariates(spec),
        "missing": settings.missing,
        "files": list(files_of_case(spec)),
        "given": list(settings.covariates) if spec.causes else [],
        "graphs": [_graph(graph, files[graph.name]) for graph in graphs],
        "spec": spec.to_json(),
    }
    return {key: finite(value) for key, value in {**content, **more}.items()}


def _norm(spec: BundleSpec, place: int) -> dict[str, Any]:
    norm = spec.settings.norms[place]
    return {
        "normalisation": norm.kind,
        "clip": [norm.low, norm.high],
        "log1p": norm.log,
        "subtract": norm.centre,
        "divide": norm.scale,
    }


def _covariates(spec: BundleSpec) -> list[dict[str, Any]]:
    inputs = metadata(spec)["network_data_format"]["inputs"]
    if "covariates" not in inputs:
        return []
    lines = inputs["covariates"]["channel_def"]
    return [
        {"column": column, "description": lines[str(place)]}
        for place, column in enumerate(spec.settings.covariate_columns)
    ]


def _graph(graph: Graph, file: str) -> dict[str, Any]:
    return {
        "name": graph.name,
        "file": file,
        "sides_are_multiples_of": graph.multiple,
        "smallest_side": 2 * graph.multiple if graph.spatial else None,
        "inputs": [_tensor(graph, name) for name in graph.inputs],
        "outputs": [_tensor(graph, name) for name in graph.outputs],
    }


def _tensor(graph: Graph, name: str) -> dict[str, Any]:
    dtype, axes = "float32", AXES.get(name, ())
    if graph.tape is not None:
        described = {which: (kind, sides) for which, kind, sides in (*graph.tape.inputs, *graph.tape.outputs)}
        dtype, axes = described[name][0], tuple(map(str, described[name][1]))
    return {"name": name, "axes": list(axes), "dtype": dtype, "meaning": meaning_of(name)}
