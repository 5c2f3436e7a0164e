"""Tiny bundles and their exports, made once for a file of tests: an exporter takes seconds even for a tiny network."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from hypoxnet.bundle.export.formats import GraphFormat, Precision, export_graphs
from hypoxnet.bundle.export.onnx_program import ONNX
from hypoxnet.bundle.schema import BundleSpec
from hypoxnet.bundle.write import write_bundle
from hypoxnet.inference.config import InferenceConfig
from hypoxnet.inference.predictor import Predictor, load_predictor
from hypoxnet.transforms.covariates import CovariateTerm
from hypoxnet.transforms.imputation import JointNormal


@pytest.fixture(scope="session")
def clinical_spec(tiny_settings, make_spec) -> BundleSpec:
    """A tiny bundle with covariates of every kind, of which some are completed from the others."""
    terms = (
        CovariateTerm("age", "linear", (60.0,), (8.0,), low=40.0, high=80.0),
        CovariateTerm("gtv_ml", "log", (3.0,), (0.8,), low=1.0, high=200.0, offset=0.1),
        CovariateTerm("subsite", "category", (0.3, 0.2), (0.4, 0.4), low=0, high=3, levels=(0.0, 1.0, 3.0)),
    )
    spread = ((1.0, 0.3, 0.1, 0.0), (0.3, 1.0, 0.2, 0.1), (0.1, 0.2, 1.0, -0.4), (0.0, 0.1, -0.4, 1.0))
    joint = JointNormal((0.1, 0.0, -0.1, 0.0), spread)
    return make_spec(replace(tiny_settings, terms=terms, missing="conditional", joint=joint))


@pytest.fixture(scope="session")
def written(make_network, tmp_path_factory) -> Callable[..., Path]:
    """A bundle of freshly drawn networks, one per seed, on disk for as long as the tests run."""

    def make(spec: BundleSpec, *, seeds: tuple[int, ...] = (1,)) -> Path:
        folder = tmp_path_factory.mktemp("bundle") / "bundle"
        return write_bundle(folder, spec, [make_network(spec, seed=seed).state_dict() for seed in seeds])

    return make


@pytest.fixture(scope="session")
def opened(written) -> Callable[..., Predictor]:
    """The same, read."""

    def make(spec: BundleSpec, *, seeds: tuple[int, ...] = (1,)) -> Predictor:
        return load_predictor(written(spec, seeds=seeds), InferenceConfig(device="cpu"))

    return make


@pytest.fixture(scope="session")
def exported(tmp_path_factory) -> Callable[..., Path]:
    """An export of a bundle in a form of graphs."""

    def make(predictor: Predictor, form: GraphFormat, precision: Precision | None = None) -> Path:
        folder = tmp_path_factory.mktemp(form.kind) / "export"
        return export_graphs(predictor.spec, predictor.models, folder, form=form, precision=precision)

    return make


@pytest.fixture(scope="session")
def onnx_bundle(clinical_spec, written) -> Path:
    """Two members with covariates of every kind, each with a temperature of its own."""
    return written(replace(clinical_spec, members=2, temperatures=((1.4,), (0.7,))), seeds=(1, 2))


@pytest.fixture(scope="session")
def onnx_model(onnx_bundle, exported) -> tuple[Predictor, Path]:
    """That bundle, and its export as ONNX."""
    predictor = load_predictor(onnx_bundle, InferenceConfig(device="cpu"))
    return predictor, exported(predictor, ONNX)
