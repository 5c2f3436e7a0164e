"""`prepare` and `finish`: the graphs round the network, which take a case from its files' voxels and back.

Their arithmetic is written in ONNX, and compared with the code that prepares and resamples everywhere else: the modules
here are that code, on the same inputs.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import torch
from monai.data.utils import dense_patch_slices
from numpy.typing import NDArray
from torch import Tensor, nn

from hypoxnet.bundle.export.finish_graph import finish_tape
from hypoxnet.bundle.export.graphs import Graph, OutcomeGraph, temperature_of
from hypoxnet.bundle.export.made_up_cases import finish_trials, prepare_trials
from hypoxnet.bundle.export.onnx_tape import Tape
from hypoxnet.bundle.export.prepare_graph import CONTEXT, crops, importance_of, looks_of, prepare_tape
from hypoxnet.bundle.schema import BundleSpec
from hypoxnet.cases import CaseRecord
from hypoxnet.geometry import Grid
from hypoxnet.maps.reference_region import ratio_files
from hypoxnet.models.config import NO_BACKBONE
from hypoxnet.transforms.prepare import PreparedCase, covariate_inputs, onto, prepare
from hypoxnet.transforms.ratios import make_ratio, ratios_of
from hypoxnet.transforms.sampling import between_voxels, same_grid
from hypoxnet.transforms.spatial import to_grid


def case_graphs(spec: BundleSpec) -> tuple[Graph, ...]:
    """The graphs round the network: `prepare`, and `finish` for a model that reads images."""
    before = _graph("prepare", prepare_tape(spec), PrepareModule(spec), prepare_trials(spec))
    if spec.model.backbone.backbone == NO_BACKBONE:
        return (before,)
    return before, _graph("finish", finish_tape(spec), FinishModule(spec), finish_trials(spec))


def _graph(name: str, tape: Tape, module: nn.Module, trials: Sequence[dict[str, Tensor]]) -> Graph:
    trials = [{which: inputs[which] for which, _, _ in tape.inputs} for inputs in trials]
    outputs = tuple(which for which, _, _ in tape.outputs)
    return Graph(name, module.eval(), trials[0], outputs, {}, 1, tape=tape, trials=tuple(trials))


class PrepareModule(nn.Module):
    """What `transforms.prepare` makes of files with the same voxels and headers.

    Args:
        spec: The bundle.
    """

    def __init__(self, spec: BundleSpec) -> None:
        super().__init__()
        self.spec = spec

    def forward(self, **inputs: Tensor) -> dict[str, Tensor]:
        """Inputs of `prepare.onnx` to its outputs."""
        settings = self.spec.settings
        given = inputs.get("given", torch.zeros(0, dtype=torch.float64)).tolist()
        known = {term.name: value for term, value in zip(settings.terms, given, strict=False) if value == value}
        outputs = {}
        if self.spec.model.backbone.backbone != NO_BACKBONE:
            with tempfile.TemporaryDirectory() as folder:
                files = _written(inputs, Path(folder))
                masks = {*settings.tumour, *ratio_files(settings.channels)[1]}
                record = CaseRecord(
                    "made-up",
                    channels={name: path for name, path in files.items() if name not in masks},
                    masks={name: path for name, path in files.items() if name in masks},
                )
                possible = ratios_of(record, settings.channels)
                ratios = {ratio.name: make_ratio(record, ratio, Path(folder)) for ratio in possible}
                record = replace(record, channels={**record.channels, **ratios})
                outputs = self._images(prepare(record, settings))
        if "given" in inputs:
            values, flags = covariate_inputs([known], settings)
            outputs |= {"covariates": torch.tensor(values).float(), "covariates_known": torch.tensor(flags).float()}
        return outputs

    def _images(self, case: PreparedCase) -> dict[str, Tensor]:
        sample, working, reference = case.sample, case.sample.grid, case.reference
        box = self._box(sample.tumour[0].numpy())
        begin, extent = (np.array(side) for side in zip(*((b, e - b) for b, e in box), strict=True))
        margin = (np.maximum(np.array(self.spec.settings.window) - extent, 0) + 1) // 2
        pads = [int(side) for side in np.repeat(margin[::-1], 2)]
        d, h, w = (slice(b, e) for b, e in box)
        image, tumour = (
            nn.functional.pad(volume[:, d, h, w], pads)[None] for volume in (sample.images, sample.tumour.float())
        )
        into = np.eye(4) if same_grid(working, reference) else between_voxels(working, reference)
        inside = np.ones(reference.shape, np.uint8)
        if self.spec.settings.inside_tumour and case.contour is not None:
            inside = onto(*case.contour, reference).astype(np.uint8)
        return {
            "image": image,
            "presence": sample.presence[None],
            "tumour": tumour,
            "tumour_known": sample.tumour_known[None],
            "looks": torch.tensor(looks_of(self.spec)),
            "begins": torch.from_numpy(np.array([self._begins(look, extent, margin) for look in looks_of(self.spec)])),
            "importance": torch.from_numpy(importance_of(self.spec)),
            "layout": torch.from_numpy(np.array([working.shape, begin, extent, margin])),
            "into_working": torch.from_numpy(into),
            "affine": torch.from_numpy(reference.matrix),
            "inside": torch.from_numpy(inside),
        }

    def _box(self, tumour: NDArray[np.generic]) -> list[tuple[int, int]]:
        """First voxel of what is looked at, and the one after its last."""
        if not (crops(self.spec) and tumour.any()):
            return [(0, length) for length in tumour.shape]
        box = []
        for axis, (length, size) in enumerate(zip(tumour.shape, self.spec.settings.window, strict=True)):
            there = np.nonzero(tumour)[axis]
            first, last = int(there.min()), int(there.max()) + 1
            extent = min(length, max(size, last - first + 2 * int(CONTEXT * size)))
            begin = min(max(0, (first + last - extent) // 2), length - extent)
            box.append((begin, begin + extent))
        return box

    def _begins(
        self, look: Sequence[int], extent: NDArray[np.int64], margin: NDArray[np.int64]
    ) -> list[tuple[int, ...]]:
        """Voxels of the box with its margins at which windows begin, by following every voxel of a mirrored case."""
        window, overlap = self.spec.settings.window, self.spec.inference.overlap
        padded = [max(n, size) for n, size in zip(extent.tolist(), window, strict=True)]
        steps = [max(1, int(size * (1 - overlap))) for size in window]
        voxels = []
        for turn, n, length, before in zip(look, extent.tolist(), padded, margin.tolist(), strict=True):
            upright = np.arange(length) - (length - n) // 2
            voxels.append((upright if turn > 0 else n - 1 - upright) + before)
        places = dense_patch_slices(padded, window, steps)
        return [tuple(int(row[side].min()) for row, side in zip(voxels, place, strict=True)) for place in places]


class FinishModule(nn.Module):
    """What windows add up to, on the reference grid by `transforms.spatial`.

    Args:
        spec: The bundle.
    """

    def __init__(self, spec: BundleSpec) -> None:
        super().__init__()
        self.temperature = temperature_of(spec)
        self.outcome = OutcomeGraph(spec, ()) if spec.causes else None

    def forward(self, **inputs: Tensor) -> dict[str, Tensor]:
        """Inputs of `finish.onnx` to its outputs."""
        shape, begin, extent, margin = inputs["layout"].tolist()
        d, h, w = (slice(m, m + n) for m, n in zip(margin, extent, strict=True))
        logits = (inputs["logits_sum"] / inputs["coverage"][:, None, None])[..., d, h, w]
        mean = torch.sigmoid(logits).mean(dim=(0, 1))
        whole = mean.new_zeros((len(mean), *shape))
        whole[:, *(slice(b, b + n) for b, n in zip(begin, extent, strict=True))] = mean
        inside = inputs["inside"].numpy()
        working = Grid.from_affine(shape, np.eye(4))
        reference = Grid.from_affine(inside.shape, inputs["into_working"].numpy())
        native = to_grid(whole, working, reference).clip(0.0, 1.0) * inside
        outputs = {"probability": torch.from_numpy(np.asarray(native, dtype=np.float32))}
        if self.outcome is not None:
            plain = torch.sigmoid(logits * self.temperature[0]).mean(dim=0, keepdim=True)
            known = inputs.get("tumour_known", torch.zeros(1))
            volumes = self.outcome.volumes_ml(plain, inputs["tumour"][..., d, h, w], known)
            outputs |= dict(zip(("tumour_ml", "region_ml"), volumes, strict=True))
        return outputs


def _written(inputs: Mapping[str, Tensor], folder: Path) -> dict[str, Path]:
    """Files of the arrays that have voxels."""
    files = {}
    for name, tensor in inputs.items():
        if f"{name}_affine" in inputs and tensor.numel():
            files[name] = folder / f"{name}.nii"
            nib.save(nib.Nifti1Image(tensor.numpy(), inputs[f"{name}_affine"].numpy()), files[name])
    return files
