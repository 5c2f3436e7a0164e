"""How often a bundle calls withheld patients unlike its training patients: as they are, and with their images spoilt.

python3 benchmarks/unlike_training.py RUN --cases 20

Of withheld cases of a training run, in steady steps through its manifest. Prints JSON: per spoiling how many cases
were called unlike, and how often each part was beyond its limit.
"""

from __future__ import annotations

import argparse
import itertools
import json
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from hypoxnet.cases import Sample
from hypoxnet.data.config import DataConfig
from hypoxnet.data.datamodule import maps_folder
from hypoxnet.data.manifest import read_manifest
from hypoxnet.inference.config import InferenceConfig
from hypoxnet.inference.predictor import Predictor, load_predictor
from hypoxnet.inference.unlike import unlike_training
from hypoxnet.jobs.derive import MapCache, complete_cohort
from hypoxnet.transforms.appearance import channel_statistics
from hypoxnet.transforms.normalise import intensity_transform
from hypoxnet.transforms.prepare import prepare

Spoil = Callable[[dict[str, Tensor], dict[str, float]], dict[str, Tensor]]


def in_units(predictor: Predictor, sample: Sample) -> dict[str, Tensor]:
    """Channels that are present, before normalisation; a z-score stays one."""
    found = {}
    for place, (name, norm) in enumerate(
        zip(predictor.spec.settings.channels, predictor.spec.settings.norms, strict=True)
    ):
        if sample.presence[place] > 0:
            plain = sample.images[place]
            if norm.kind == "fixed":
                plain = plain * norm.scale + norm.centre
                plain = torch.expm1(plain) if norm.log else plain
            found[name] = plain
    return found


def normalised(predictor: Predictor, sample: Sample, channels: dict[str, Tensor]) -> Sample:
    """The sample of these channels; what was not covered stays 0."""
    images, presence = torch.zeros_like(sample.images), torch.zeros_like(sample.presence)
    for place, (name, norm) in enumerate(
        zip(predictor.spec.settings.channels, predictor.spec.settings.norms, strict=True)
    ):
        if name in channels:
            # A copy: NormalizeIntensity writes into what it is given.
            image = torch.as_tensor(intensity_transform(norm)(channels[name][None].clone()))[0]
            images[place], presence[place] = image * (sample.images[place] != 0), 1.0
    return replace(sample, images=images, presence=presence)


def scaled(name: str, factor: float) -> Spoil:
    """One channel in other units."""
    return lambda channels, noise: {n: image * factor if n == name else image for n, image in channels.items()}


def without(*names: str) -> Spoil:
    """Channels that were not measured."""
    return lambda channels, noise: {n: image for n, image in channels.items() if n not in names}


def swapped(one: str, other: str) -> Spoil:
    """Two channels, each under the name of the other."""

    def spoil(channels: dict[str, Tensor], noise: dict[str, float]) -> dict[str, Tensor]:
        names = {one: other, other: one}
        there = one in channels and other in channels
        return {n: channels[names.get(n, n)] if there else image for n, image in channels.items()}

    return spoil


def noisier(times: float, *names: str) -> Spoil:
    """White noise, so that channels (every one, where none is named) have so many times their own."""

    def spoil(channels: dict[str, Tensor], noise: dict[str, float]) -> dict[str, Tensor]:
        generator = torch.Generator().manual_seed(0)
        more = {n: noise[n] * (times**2 - 1) ** 0.5 for n in names or channels if n in channels}
        return {
            n: image + more[n] * torch.randn(image.shape, generator=generator) if n in more else image
            for n, image in channels.items()
        }

    return spoil


def noise_of(predictor: Predictor, sample: Sample, channels: dict[str, Tensor]) -> dict[str, float]:
    """Standard deviation of white noise with the second difference of the channel inside the tumour."""
    names = predictor.spec.settings.channels
    images = torch.stack([channels.get(name, torch.zeros(sample.grid.shape)) for name in names])
    found = channel_statistics(replace(sample, images=images), names, inside_contour=True)
    # A second difference of white noise has a variance of 6; its median magnitude is 0.6745 standard deviations.
    return {name: float(10 ** values[-1]) / (0.6745 * 6**0.5) for name, values in found.items()}


def turned(channels: dict[str, Tensor], noise: dict[str, float]) -> dict[str, Tensor]:
    """Left to right."""
    return {name: image.flip(0) for name, image in channels.items()}


def spoilings(names: tuple[str, ...]) -> dict[str, Spoil]:
    """What can go wrong, by name."""
    found: dict[str, Spoil] = {"as it is": lambda channels, noise: channels}
    found["images turned left to right, the contour not"] = turned
    pet = next((name for name in names if name.endswith("_SUV")), None)
    if pet:
        found |= {f"{pet} times {factor:g}": scaled(pet, factor) for factor in (0.1, 0.5, 0.75, 1.5, 2.0, 10.0)}
        found[f"{pet} with three times the noise"] = noisier(3.0, pet)
    others = [name for name in names if not name.endswith(("_SUV", "_TMR", "_TBR"))]
    found["every channel with three times the noise"] = noisier(3.0)
    for one, other in itertools.pairwise(others):
        found[f"{one} and {other} swapped"] = swapped(one, other)
    return found | {f"{name} absent": without(name) for name in names}


def main() -> None:
    """Spoil, ask, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="folder of a training run")
    parser.add_argument("--cases", type=int, default=20)
    arguments = parser.parse_args()
    predictor = load_predictor(arguments.run / "bundle", InferenceConfig())
    settings = predictor.spec.settings
    records = read_manifest(arguments.run / "manifest.csv")
    chosen = [records[i] for i in np.unique(np.linspace(0, len(records) - 1, arguments.cases).round().astype(int))]
    data = DataConfig()
    completed, _ = complete_cohort(chosen, MapCache(maps_folder(data), data.maps, settings.channels))
    called: dict[str, list[bool]] = {name: [] for name in spoilings(settings.channels)}
    parts = {name: Counter[str]() for name in called}
    for record in completed:
        sample = prepare(predictor.needed(record), settings).sample
        channels = in_units(predictor, sample)
        noise = noise_of(predictor, sample, channels)
        for name, spoil in spoilings(settings.channels).items():
            spoilt = normalised(predictor, sample, spoil(channels, noise))
            if not bool(spoilt.presence.any()):
                continue
            with torch.inference_mode():
                said = unlike_training(predictor.spec, spoilt, predictor.apply(spoilt).pooled)
            if said is not None:
                called[name].append(said["unlike"])
                parts[name].update(part for part, value in said["by_part"].items() if value > said["limit"])
    found = {
        name: {"cases": len(each), "called_unlike": sum(each), "parts": dict(parts[name])}
        for name, each in called.items()
    }
    print(json.dumps({"run": arguments.run.name, "spoilt": found}, indent=2))


if __name__ == "__main__":
    main()
