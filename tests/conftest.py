"""Fixtures that several rooms share: tiny bundles and tiny cases on disk."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

from hypoxnet.bundle.schema import BundleSpec, InferenceDefaults
from hypoxnet.bundle.write import write_bundle
from hypoxnet.cases import CaseRecord
from hypoxnet.data.config import DataConfig
from hypoxnet.data.manifest import read_manifest
from hypoxnet.losses.config import LossConfig
from hypoxnet.models.build import build_model
from hypoxnet.models.config import ModelConfig, OutcomeConfig
from hypoxnet.models.joint import HypoxNet
from hypoxnet.models.spec import ModelSpec
from hypoxnet.phantom.cohort import make_cohort
from hypoxnet.phantom.presets import preset
from hypoxnet.training.config import TrackingConfig, TrainingConfig
from hypoxnet.training.run import TrainingSetup
from hypoxnet.transforms.config import AugmentConfig
from hypoxnet.transforms.covariates import CovariateTerm
from hypoxnet.transforms.normalise import norm_of
from hypoxnet.transforms.settings import PrepareSettings, Region

EDGES = (12.0, 24.0, 36.0)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_setupnodes() -> None:
    """Tests that run side by side take a core each: several threads each would wait for each other."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture
def set_threads() -> Iterator[Callable[[int], None]]:
    """Sets the threads of torch for one test."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def tiny_settings() -> PrepareSettings:
    """FMISO and T1W at 4 mm, windows of 16 voxels, hypoxia inside the tumour, age as covariate."""
    channels = ("FMISO_SUV", "T1W")
    return PrepareSettings(
        channels=channels,
        norms=tuple(norm_of(name) for name in channels),
        reference="FMISO_SUV",
        spacing_mm=(4.0, 4.0, 4.0),
        window=(16, 16, 16),
        tumour=("GTVP", "GTVN"),
        regions=(Region("hsv", ("HYPOXIA",)),),
        threshold=None,
        inside_tumour=True,
        terms=(CovariateTerm("age", "linear", (60.0,), (8.0,), low=40.0, high=80.0),),
        edges_months=EDGES,
        missing="indicator",
    )


def _spec(settings: PrepareSettings, *, outcome: OutcomeConfig | None = None) -> BundleSpec:
    """A bundle of a network of four features."""
    model = ModelSpec(
        backbone=ModelConfig(features=[4, 8], blocks=[1, 1], deep_supervision=0),
        outcome=outcome or OutcomeConfig(edges_months=list(EDGES), hidden=4),
        channels=len(settings.channels),
        regions=len(settings.regions),
        covariates=len(settings.covariate_columns),
        edges_months=settings.edges_months,
        spacing_mm=settings.spacing_mm,
    )
    return BundleSpec(name="tiny", model=model, settings=settings, inference=InferenceDefaults())


def _network(spec: BundleSpec, *, seed: int) -> HypoxNet:
    """A network whose every parameter is drawn, the zeros it starts from as well, so that every input matters."""
    model = build_model(spec.model)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
    return model.eval()


@pytest.fixture(scope="session")
def tiny_spec(tiny_settings: PrepareSettings) -> BundleSpec:
    """The description of a tiny bundle."""
    return _spec(tiny_settings)


@pytest.fixture(scope="session")
def make_spec() -> Callable[..., BundleSpec]:
    """The description of a tiny bundle with other settings or another outcome head."""
    return _spec


@pytest.fixture(scope="session")
def make_network() -> Callable[..., HypoxNet]:
    """A tiny network, in evaluation mode."""
    return _network


@pytest.fixture
def make_bundle(tmp_path: Path) -> Callable[..., Path]:
    """Writes a bundle of freshly drawn networks, one per seed."""

    def make(spec: BundleSpec, *, seeds: tuple[int, ...] = (1,), name: str = "bundle") -> Path:
        states = [_network(spec, seed=seed).state_dict() for seed in seeds]
        return write_bundle(tmp_path / name, spec, states)

    return make


@pytest.fixture
def make_case(tmp_path: Path) -> Callable[..., CaseRecord]:
    """Writes FMISO and T1W of a ball-shaped tumour, on different grids, and returns the record."""

    def make(case_id: str = "P001", *, voxels: int = 24, contour: bool = True, seed: int = 0) -> CaseRecord:
        folder = tmp_path / "images" / case_id
        generator = np.random.default_rng(seed)
        # LPS order of voxels with an offset, as scanners write them.
        pet_affine = np.array([[-4.0, 0, 0, 40], [0, -4.0, 0, 50], [0, 0, 4.0, -60], [0, 0, 0, 1]])
        mr_affine = np.diag([5.0, 5.0, 6.0, 1.0])
        mr_affine[:3, 3] = [-60.0, -50.0, -62.0]
        ball = _ball(voxels, radius=4.0)
        pet = generator.gamma(2.0, 0.4, (voxels,) * 3) + 2.0 * ball
        mr = generator.normal(300.0, 60.0, (22, 20, 18))
        channels = {
            "FMISO_SUV": _save(pet.astype(np.float32), pet_affine, folder / "fmiso.nii.gz"),
            "T1W": _save(mr.astype(np.float32), mr_affine, folder / "t1w.nii.gz"),
        }
        masks = {"GTVP": _save(ball.astype(np.uint8), pet_affine, folder / "gtvp.nii.gz")} if contour else {}
        return CaseRecord(case_id, channels=channels, masks=masks, covariates={"age": 61.0}, line=2 + seed)

    return make


def _ball(voxels: int, *, radius: float) -> np.ndarray:
    axes = np.meshgrid(*[np.arange(voxels)] * 3, indexing="ij")
    return sum((axis - 0.45 * voxels) ** 2 for axis in axes) <= radius**2


def _save(array: np.ndarray, affine: np.ndarray, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(array, affine), path)
    return path


@pytest.fixture
def without_t1w() -> Callable[[CaseRecord], CaseRecord]:
    """The same case, with PET only."""
    return lambda record: replace(record, channels={"FMISO_SUV": record.channels["FMISO_SUV"]})


@pytest.fixture(scope="session")
def phantom_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six phantoms on disk with their manifest."""
    folder = tmp_path_factory.mktemp("phantom")
    make_cohort(replace(preset("test"), cases=6), folder)
    return folder


@pytest.fixture(scope="session")
def phantom_records(phantom_folder: Path) -> tuple[CaseRecord, ...]:
    """The records of six phantoms."""
    return read_manifest(phantom_folder / "manifest.csv")


@pytest.fixture
def tiny_training() -> Callable[..., TrainingSetup]:
    """Settings of a training that takes seconds."""

    def make(*, epochs: int, cache: Path) -> TrainingSetup:
        return TrainingSetup(
            data=DataConfig(cache=str(cache), window=[16, 16, 16], spacing_mm=[4.0, 4.0, 4.0]),
            augment=AugmentConfig(),
            model=ModelConfig(features=[8, 12], blocks=[1, 1], deep_supervision=1, fold=2),
            outcome=OutcomeConfig(hidden=4),
            loss=LossConfig(),
            training=TrainingConfig(
                epochs=epochs, steps_per_epoch=0, learning_rate=1e-3, accelerator="cpu", validate_every=1, warmup=0.0
            ),
            tracking=TrackingConfig(),
        )

    return make
