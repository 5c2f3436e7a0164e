"""The graphs round the network: the numbers of our own preparation and resampling, by onnxruntime alone."""

from __future__ import annotations

import itertools
import shutil
from dataclasses import replace

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import helper, numpy_helper

from hypoxnet.bundle.export.agreement import agreement
from hypoxnet.bundle.export.case_graphs import case_graphs
from hypoxnet.bundle.export.description import meaning_of
from hypoxnet.bundle.export.formats import compared
from hypoxnet.bundle.export.onnx_check import checked_bytes
from hypoxnet.bundle.export.onnx_grid import TapeGrid, working_grid
from hypoxnet.bundle.export.onnx_program import ONNX
from hypoxnet.bundle.export.onnx_tape import Tape
from hypoxnet.bundle.export.prepare_graph import prepare_tape
from hypoxnet.cli import main
from hypoxnet.errors import BundleError
from hypoxnet.geometry import Grid, without_shear
from hypoxnet.images import Volume
from hypoxnet.models.config import ModelConfig, OutcomeConfig
from hypoxnet.transforms.normalise import norm_of
from hypoxnet.transforms.prepare import covariate_inputs
from hypoxnet.transforms.spatial import WorkingGrid

HALF_STEPS = (1.0, 0.5, 2.0, 2.5, 0.9765625)


def run(tape: Tape, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """What a tape makes of inputs, by onnxruntime."""
    session = onnxruntime.InferenceSession(tape.model("tape", lambda _: "").SerializeToString())
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, inputs), strict=True))


@pytest.fixture
def specs(tiny_settings, make_spec, clinical_spec):
    """By what is particular about them."""
    tiny = make_spec(tiny_settings)
    mirrored = replace(tiny.inference, mirror=True, overlap=0.25)
    several = ("FDG_SUV", "CT_HU", "ADC", "T2W")
    channels = {"channels": several, "norms": tuple(map(norm_of, several)), "reference": "CT_HU"}
    anywhere = replace(tiny_settings, **channels, inside_tumour=False, tumour=(), spacing_mm=(2.0, 3.0, 2.5))
    alone = replace(clinical_spec.model, backbone=ModelConfig(backbone="none"), channels=0, regions=0)
    nothing = replace(clinical_spec.settings, channels=(), norms=(), regions=())
    months = list(tiny_settings.edges_months)
    return {
        "tiny": tiny,
        "mirrored, odd windows": replace(
            make_spec(replace(tiny_settings, window=(14, 20, 22))),
            inference=mirrored,
            members=2,
            temperatures=((1.4,), (0.7,)),
        ),
        "covariates of every kind": clinical_spec,
        "four channels outside of contours": make_spec(
            anywhere, outcome=OutcomeConfig(edges_months=months, hidden=4, pool="prediction")
        ),
        "ratios": make_spec(with_channels(tiny_settings, ("T1W", "FMISO_TMR", "FAZA_SUV", "FAZA_TBR"))),
        "covariates alone": replace(clinical_spec, model=alone, settings=nothing),
    }


def with_channels(settings, names):
    """The same settings of other channels, the first of which is the reference."""
    return replace(settings, channels=names, norms=tuple(map(norm_of, names)), reference=names[0])


@pytest.mark.parametrize(
    "which",
    [
        "tiny",
        "mirrored, odd windows",
        "covariates of every kind",
        "four channels outside of contours",
        "ratios",
        "covariates alone",
    ],
)
def test_numbers_are_those_of_our_own_code(specs, which, tmp_path):
    graphs = case_graphs(specs[which])
    assert [graph.name for graph in graphs] == (["prepare"] if which == "covariates alone" else ["prepare", "finish"])
    for graph in graphs:
        path = tmp_path / f"{graph.name}.onnx"
        ONNX.write(graph, path, {})
        found = compared(specs[which], graph, path, form=ONNX)
        assert found.worst < 1e-5
        assert all(value.doc_string == meaning_of(value.name) for value in onnx.load(path).graph.output)


def test_made_up_cases_have_several_windows_margins_contours_and_gaps(specs):
    graph = case_graphs(specs["mirrored, odd windows"])[0]
    made = [graph.module(**inputs) for inputs in graph.trials]
    assert max(one["begins"].shape[1] for one in made) > 1
    assert any((one["layout"][3] > 0).any() for one in made)
    assert {float(one["tumour_known"]) for one in made} == {0.0, 1.0}
    assert {tuple(one["presence"][0].tolist()) for one in made} == {(1.0, 1.0), (1.0, 0.0), (0.0, 1.0)}
    assert 0 < float(made[0]["tumour"].sum()) < made[0]["tumour"].numel()
    assert 0 < int(made[0]["inside"].sum()) < made[0]["inside"].numel()


def test_ratios_are_made_in_a_made_up_case_and_read_in_another(specs):
    graph = case_graphs(specs["ratios"])[0]
    files = {name for name, _, _ in graph.tape.inputs if not name.endswith("_affine")}
    assert files == {*specs["ratios"].settings.channels, "FMISO_SUV", "GTVP", "GTVN", "MUSCLE", "BLOOD", "given"}
    given = [[name for name in ("FMISO_TMR", "FMISO_SUV", "MUSCLE") if one[name].numel()] for one in graph.trials]
    assert given == [["FMISO_TMR"], ["FMISO_SUV", "MUSCLE"], []]
    assert [graph.module(**one)["presence"].tolist() for one in graph.trials][:2] == [[[1.0] * 4], [[1.0] * 4]]


@pytest.mark.parametrize("ratio", ["FMISO_TMR", "FMISO_TBR"])
@pytest.mark.parametrize("voxels", [3, 4])
def test_a_ratio_is_uptake_over_that_of_its_region_where_it_has_no_file(make_spec, tiny_settings, ratio, voxels):
    graph = case_graphs(make_spec(with_channels(tiny_settings, ("FMISO_SUV", ratio))))[0]
    region = "MUSCLE" if ratio == "FMISO_TMR" else "BLOOD"
    inputs = {**graph.trials[1], ratio: graph.trials[0][ratio][:0, :0, :0], f"{ratio}_affine": torch.eye(4).double()}
    suv = inputs["FMISO_SUV"]
    drawn, nowhere = torch.zeros(suv.shape), torch.zeros(suv.shape)
    drawn.view(-1)[100 : 100 + voxels] = 1.0
    inputs |= {region: drawn, f"{region}_affine": inputs["FMISO_SUV_affine"]}
    own = {ratio: suv + 1.0, f"{ratio}_affine": inputs["FMISO_SUV_affine"]}
    for case, presence in (
        (inputs, [1.0, 1.0]),
        ({**inputs, **own}, [1.0, 1.0]),
        ({**inputs, region: nowhere[:0, :0, :0]}, [1.0, 0.0]),
        ({**inputs, "FMISO_SUV": suv[:0, :0, :0], **own}, [0.0, 1.0]),
    ):
        found = run(graph.tape, {name: case[name].numpy() for name, _, _ in graph.tape.inputs})
        expected = graph.module(**case)
        assert found["presence"].tolist() == expected["presence"].tolist() == [presence]
        assert np.abs(found["image"] - expected["image"].numpy()).max() < 1e-5
    # An empty region, or one without uptake, gives no ratio.
    for case in ({**inputs, region: nowhere}, {**inputs, "FMISO_SUV": 0.0 * suv}):
        found = run(graph.tape, {name: case[name].numpy() for name, _, _ in graph.tape.inputs})
        assert found["presence"].tolist() == [[1.0, 0.0]]
        assert not found["image"][0, 1].any()


@pytest.fixture(scope="module")
def working():
    """A function from shape and affine to shape and affine of the working grid at 2 x 2 x 3 mm."""
    tape = Tape()
    grid = TapeGrid.of_affine(tape, tape.input("affine", "float64", (4, 4)), tape.input("shape", "int64", (3,)))
    found = working_grid(grid, (2.0, 2.0, 3.0))
    tape.output("working_shape", found.shape, "int64", (3,))
    tape.output("working", found.affine, "float64", (4, 4))
    return lambda shape, affine: run(tape, {"affine": affine, "shape": np.array(shape)})


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))), ids=str)
def test_working_grids_of_every_order_and_direction_of_axes(working, order):
    generator = np.random.default_rng(order)
    for number, signs in enumerate(itertools.product((1, -1), repeat=3)):
        shape = tuple(int(n) for n in generator.integers(9, 30, 3))
        affine = np.eye(4)
        # Half of them oblique. The sides of the others are whole and half voxels of the working grid.
        turn = np.linalg.qr(np.eye(3) + number % 2 * 0.4 * generator.normal(size=(3, 3)))[0]
        affine[:3, :3] = (
            turn @ (np.eye(3)[list(order)] * signs) * generator.choice(HALF_STEPS, 3) * (1 + number % 2 / 97)
        )
        affine[:3, 3] = generator.normal(size=3) * 50
        affine, _ = without_shear(affine.astype(np.float32))
        ours = WorkingGrid(
            Volume(np.zeros(shape, np.float32), Grid.from_affine(shape, affine)), spacing_mm=(2.0, 2.0, 3.0)
        ).grid
        found = working(shape, affine)
        assert tuple(found["working_shape"]) == ours.shape
        assert np.abs(found["working"] - ours.matrix).max() < 1e-9


def test_a_spacing_that_is_the_wanted_one_but_for_rounding_is_kept(working):
    affine = np.diag([2.00004, 2.0, 3.0, 1.0])
    ours = WorkingGrid(
        Volume(np.zeros((20, 20, 20), np.float32), Grid.from_affine((20, 20, 20), affine)), spacing_mm=(2.0, 2.0, 3.0)
    ).grid
    assert ours.spacing_mm[0] == pytest.approx(2.00004, abs=1e-9)
    assert np.abs(working((20, 20, 20), affine)["working"] - ours.matrix).max() < 1e-9


def test_axes_that_a_header_rounds_are_made_orthogonal(working):
    affine = np.array([[4.0, 0.004, 0, 1], [0, 4.0, 0, 2], [0, 0, 5.0, 3], [0, 0, 0, 1]])
    axes = working((8, 8, 8), affine)["working"][:3, :3]
    assert np.abs(axes.T @ axes - np.diag([4.0, 4.0, 9.0])).max() < 1e-12


def test_missing_covariates_of_every_pattern_are_completed_as_in_training(clinical_spec):
    settings = clinical_spec.settings
    tape = prepare_tape(
        replace(clinical_spec, model=replace(clinical_spec.model, backbone=ModelConfig(backbone="none")))
    )
    session = onnxruntime.InferenceSession(tape.model("tape", lambda _: "").SerializeToString())
    values = {"age": 71.0, "gtv_ml": 9.0, "subsite": 3.0}
    for known in itertools.product((True, False), repeat=3):
        given = {name: value for (name, value), there in zip(values.items(), known, strict=True) if there}
        expected = covariate_inputs([given], settings)[0]
        array = np.array([given.get(name, np.nan) for name in settings.covariates])
        assert np.abs(session.run(["covariates"], {"given": array})[0] - expected).max() < 1e-6


def test_a_level_that_nobody_in_training_had_is_not_known(clinical_spec):
    tape = prepare_tape(
        replace(clinical_spec, model=replace(clinical_spec.model, backbone=ModelConfig(backbone="none")))
    )
    unknown, odd = (run(tape, {"given": np.array([60.0, 9.0, level])})["covariates"] for level in (np.nan, 2.0))
    assert (unknown == odd).all()


@pytest.fixture
def prepare_graph(specs):
    return case_graphs(specs["tiny"])[0]


def refused(model: onnx.ModelProto, graph, tmp_path, match: str) -> None:
    path = tmp_path / "prepare.onnx"
    path.write_bytes(model.SerializeToString())
    with pytest.raises(BundleError, match=match):
        checked_bytes(path, graph)


def test_files_from_elsewhere_are_refused(prepare_graph, tmp_path):
    def model():
        return prepare_graph.tape.model("prepare", meaning_of)

    whole = model()
    (tmp_path / "prepare.onnx").write_bytes(whole.SerializeToString())
    assert checked_bytes(tmp_path / "prepare.onnx", prepare_graph) == whole.SerializeToString()
    for change, match in (
        (
            lambda one: one.graph.input[1].type.tensor_type.shape.dim[0].__setattr__("dim_value", 7),
            "takes FMISO_SUV_aff",
        ),
        (lambda one: one.graph.input[1].type.tensor_type.__setattr__("elem_type", 1), "takes FMISO_SUV_affine as"),
        (lambda one: one.graph.output[0].__setattr__("name", "images"), "has the outputs images"),
        (lambda one: one.graph.initializer[0].dims.__setitem__(slice(None), [2**40]), "and holds"),
    ):
        changed = model()
        change(changed)
        refused(changed, prepare_graph, tmp_path, match)
    nested = model()
    inner = helper.make_graph([], "inner", [], [])
    nested.graph.node.append(helper.make_node("Loop", ["", ""], ["round"], body=inner))
    refused(nested, prepare_graph, tmp_path, "has a graph inside the operator Loop")


def test_another_spacing_is_found_by_its_numbers(specs, prepare_graph, tmp_path):
    settings = specs["tiny"].settings
    other = replace(specs["tiny"], settings=replace(settings, norms=(norm_of("FMISO_SUV"), norm_of("ADC"))))
    path = tmp_path / "prepare.onnx"
    ONNX.write(case_graphs(other)[0], path, {})
    with pytest.raises(BundleError, match=r"prepare\.onnx: image differs from the bundle's by"):
        compared(specs["tiny"], prepare_graph, path, form=ONNX)
    assert agreement(specs["tiny"], prepare_graph, ONNX.runner(path, prepare_graph)).differences["tumour"] == 0


def test_verify_covers_them(onnx_model, onnx_bundle, specs, tmp_path, capsys):
    assert main(["verify", str(onnx_model[1]), "--against", str(onnx_bundle)]) == 0
    printed = capsys.readouterr().out
    assert "prepare: largest difference from the bundle: image" in printed
    assert "finish: largest difference from the bundle: probability" in printed
    folder = shutil.copytree(onnx_model[1], tmp_path / "copy")
    ONNX.write(case_graphs(specs["tiny"])[1], folder / "finish.onnx", {})
    assert main(["verify", str(folder), "--against", str(onnx_bundle)]) == 2
    assert "finish.onnx was changed" in capsys.readouterr().err


def test_a_tape_knows_operators_and_nothing_else():
    tape = Tape()
    doubled = 2.0 / (1.0 - tape.input("x", "float64", ("n",)))
    tape.output("y", doubled, "float32", ("n",))
    assert run(tape, {"x": np.array([0.0, -1.0])})["y"].tolist() == [2.0, 1.0]
    assert len(tape.constants) == 2
    assert all(numpy_helper.to_array(one).dtype == np.float64 for one in tape.model("t", str).graph.initializer)
    with pytest.raises(AttributeError, match="floor"):
        tape.floor  # noqa: B018
