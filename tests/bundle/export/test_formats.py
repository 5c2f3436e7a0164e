"""One way for every form: written, read back, compared, described, whole or absent."""

from __future__ import annotations

import json
import shutil
import subprocess
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from hypoxnet.bundle.export.agreement import TOLERANCE, Agreement, agreement, trials
from hypoxnet.bundle.export.aotinductor import AOTINDUCTOR, need_compiler
from hypoxnet.bundle.export.description import AXES, FORMAT, MEANING
from hypoxnet.bundle.export.folder import loss_lines, read_export, write_export
from hypoxnet.bundle.export.formats import GraphFormat, Precision, compared, export_graphs
from hypoxnet.bundle.export.graphs import graphs_of
from hypoxnet.bundle.export.precision import INT8
from hypoxnet.bundle.export.torch_program import TORCH
from hypoxnet.bundle.export.torchscript import TORCHSCRIPT
from hypoxnet.bundle.schema import INTENDED_USE
from hypoxnet.errors import BundleError, ConfigError

CPP = Path(__file__).parents[3] / "docs" / "how-to" / "cpp"
LOSS = {
    "cases": 3,
    "dice": {"mean": 0.991, "lowest": 0.98, "both_empty": 1},
    "probability": {"mean": 0.001, "largest": 0.02},
    "incidence": {"mean": 0.0004, "largest": 0.001},
}


@pytest.fixture(scope="module")
def predictor(clinical_spec, opened):
    return opened(clinical_spec)


@pytest.fixture(scope="module")
def graphs(predictor):
    return graphs_of(predictor.spec, predictor.models)


def itself(graph):
    """The graph's own module as the foreign program."""

    def run(inputs):
        with torch.no_grad():
            found = graph.module(**{name: torch.from_numpy(array) for name, array in inputs.items()})
        return {name: tensor.numpy() for name, tensor in found.items()}

    return run


def trivial(kind: str = "trivial") -> GraphFormat:
    """A form whose files are empty and whose programs are the graphs themselves: nothing takes time."""
    return GraphFormat(kind, ".txt", (), lambda graph, path, _: path.write_text("x"), lambda _, graph: itself(graph))


def test_a_program_agrees_with_itself_exactly(predictor, graphs):
    for graph in graphs:
        assert agreement(predictor.spec, graph, itself(graph)).worst == 0.0


def test_trials_have_several_sizes_patients_absent_channels_and_no_contour(predictor, graphs):
    shapes = {tuple(inputs["image"].shape) for inputs in trials(predictor.spec, graphs[0], seed=1)}
    inputs = trials(predictor.spec, graphs[0], seed=1)
    assert len(shapes) == 3
    assert tuple(graphs[0].inputs["image"].shape) not in shapes, "that is the size it was exported with"
    assert {float(one["tumour_known"].min()) for one in inputs} == {0.0, 1.0}
    assert any((one["presence"] == 0).any() for one in inputs)


@pytest.mark.parametrize("output", ["pred", "incidence", "pooled_sum"])
def test_a_program_that_is_wrong_for_one_size_only_is_found(predictor, graphs, output):
    def run(inputs):
        found = itself(graphs[0])(inputs)
        if inputs["image"].shape[2] == 4 and inputs["image"].shape[0] == 3:
            found[output] = found[output] + 0.01 * max(1.0, np.abs(found[output]).max())
        return found

    found = agreement(predictor.spec, graphs[0], run)
    assert found.differences[output] == pytest.approx(0.01, rel=0.05)
    with pytest.raises(BundleError, match=f"x: {output} differs from the bundle's by 0.01"):
        found.refuse_worse_than(TOLERANCE, what="x")


def test_a_result_that_is_not_a_number_is_no_agreement():
    with pytest.raises(BundleError, match="pred differs from the bundle's by nan"):
        Agreement({"pred": float("nan")}, ()).refuse_worse_than(TOLERANCE, what="x")


def test_a_program_that_gives_no_number_for_one_size_is_found(predictor, graphs):
    def run(inputs):
        found = itself(graphs[0])(inputs)
        return found | {"pred": np.full_like(found["pred"], np.nan)} if len(inputs["image"]) == 1 else found

    with pytest.raises(BundleError, match="pred differs from the bundle's by nan"):
        agreement(predictor.spec, graphs[0], run).refuse_worse_than(TOLERANCE, what="x")


def test_another_shape_is_refused(predictor, graphs):
    def run(inputs):
        return {name: array[..., :1] for name, array in itself(graphs[0])(inputs).items()}

    with pytest.raises(BundleError, match="pred has shape"):
        agreement(predictor.spec, graphs[0], run)


def test_the_description_says_everything_a_program_needs(predictor, exported):
    content = read_export(exported(predictor, trivial()))
    assert (content["format"], content["kind"], content["intended_use"]) == (FORMAT, "trivial", INTENDED_USE)
    assert content["bundle"]["digest"] == predictor.spec.digest
    first = content["channels"][0]
    assert (first["name"], first["normalisation"], first["log1p"]) == ("FMISO_SUV", "fixed", True)
    assert content["channels"][1]["normalisation"] == "image"
    assert content["months"] == [12.0, 24.0, 36.0, 24.0], "the horizon is last"
    assert [part["column"] for part in content["covariates"]][:2] == ["age", "gtv_ml"]
    assert content["weights"] == {"precision": "float32"}
    network = content["graphs"][0]
    assert (network["file"], network["sides_are_multiples_of"], network["smallest_side"]) == ("network.txt", 2, 4)
    for tensor in network["inputs"] + network["outputs"]:
        assert (tensor["axes"], tensor["meaning"]) == (list(AXES[tensor["name"]]), MEANING[tensor["name"]])


def test_the_loss_of_rounded_weights_stands_in_description_card_and_words(predictor, exported):
    folder = exported(predictor, trivial(), Precision(INT8, LOSS))
    content = read_export(folder)
    assert content["weights"] == {"precision": "int8", "loss": LOSS}
    card = (folder / "docs" / "README.md").read_text()
    assert "## Rounded weights" in card
    assert "Dice of the masks 0.9910, lowest 0.9800 (1 times both found nothing)" in card
    assert loss_lines(content)[0] == "weights are int8; against float32, 3 cases:"
    assert loss_lines({"weights": {"precision": "float32"}}) == []


def test_rounded_weights_are_compared_with_the_rounded_model(predictor, graphs, exported):
    """Not with the float32 model, from which they differ by more than the rounding of sums."""
    given = []

    def runner(_, graph):
        given.append(graph)
        return itself(graph)

    exported(predictor, replace(trivial(), runner=runner), Precision(INT8, LOSS))
    with pytest.raises(BundleError, match="differs from the bundle's"):
        agreement(predictor.spec, graphs[0], itself(given[0])).refuse_worse_than(TOLERANCE, what="x")


def test_an_export_that_fails_leaves_what_was_there(predictor, exported, tmp_path):
    form = trivial()
    folder = export_graphs(predictor.spec, predictor.models, tmp_path / "e", form=form)
    before = read_export(folder)

    def wrong(path, graph):
        return lambda inputs: {name: array + 1 for name, array in itself(graph)(inputs).items()}

    with pytest.raises(BundleError, match=r"network\.txt: pred differs"):
        export_graphs(predictor.spec, predictor.models, folder, form=replace(form, runner=wrong))
    assert read_export(folder) == before
    assert [path.name for path in tmp_path.iterdir()] == ["e"]


def test_what_an_exporter_cannot_do_is_one_sentence(predictor, exported):
    def fails(graph, path, description):
        raise RuntimeError("Failed to convert\n" + "a page of hints\n" * 40)

    with pytest.raises(BundleError) as caught:
        exported(predictor, replace(trivial(), write=fails))
    assert str(caught.value) == (
        "tiny: network cannot be written as trivial (RuntimeError: Failed to convert); choose another form"
    )


@pytest.mark.parametrize("form", [TORCH, TORCHSCRIPT, AOTINDUCTOR], ids=lambda form: form.kind)
def test_a_damaged_program_is_one_sentence(predictor, graphs, tmp_path, form):
    path = tmp_path / form.file_of("network")
    path.write_bytes(b"PK" + bytes(range(256)) * 20)
    with pytest.raises(BundleError, match=f"cannot be run as {form.kind}") as caught:
        compared(predictor.spec, graphs[0], path, form=form)
    assert "\n" not in str(caught.value)


def test_a_folder_that_holds_something_else_is_kept(predictor, tmp_path):
    (tmp_path / "thesis.txt").write_text("years")
    with pytest.raises(BundleError, match="is not empty and holds no export"):
        write_export(tmp_path, predictor.spec, lambda folder: {})
    assert (tmp_path / "thesis.txt").read_text() == "years"


def test_an_export_is_replaced_unless_it_holds_a_file_that_no_export_wrote(predictor, tmp_path):
    def write(text):
        def content(folder):
            (folder / "network.txt").write_text(text)
            return {"format": FORMAT, "format_version": 1}

        return content

    folder = write_export(tmp_path / "e", predictor.spec, write("one"))
    write_export(folder, predictor.spec, write("two"))
    (folder / "results").mkdir()
    (folder / "results" / "dice.csv").write_text("0.8")
    with pytest.raises(BundleError, match=r"e holds results/dice\.csv, which checksums\.json does not list and which"):
        write_export(folder, predictor.spec, write("three"))
    assert (folder / "results" / "dice.csv").read_text() == "0.8"
    assert (folder / "network.txt").read_text() == "two"


@pytest.mark.parametrize(
    ("spoil", "match"),
    [
        (lambda e: (e / "network.txt").write_text("y"), r"network\.txt was changed"),
        (lambda e: (e / "network.txt").unlink(), r"network\.txt is missing or a link"),
        (lambda e: (e / "checksums.json").unlink(), r"checksums\.json is missing; give the folder of an export"),
        (lambda e: (e / "checksums.json").write_text('{"sha256": {}}'), "does not list the files of an export"),
        (lambda e: (e / "checksums.json").write_text("[" * 100_000), "cannot be read as JSON"),
        (lambda e: _relist(e, {"../x": "0"}), r"lists '\.\./x', which is not a file inside"),
        (lambda e: _relink(e), "missing or a link"),
    ],
)
def test_a_damaged_export_is_refused_in_one_sentence(predictor, exported, tmp_path, spoil, match):
    folder = shutil.copytree(exported(predictor, trivial()), tmp_path / "copy")
    spoil(folder)
    with pytest.raises(BundleError, match=match):
        read_export(folder)


def _relist(folder, more):
    path = folder / "checksums.json"
    listed = json.loads(path.read_text())["sha256"]
    path.write_text(json.dumps({"sha256": more | listed}))


def _relink(folder):
    (folder / "network.txt").unlink()
    (folder / "network.txt").symlink_to("/etc/hostname")


def test_an_export_of_a_later_version_is_refused(predictor, tmp_path):
    folder = write_export(tmp_path / "e", predictor.spec, lambda _: {"format": FORMAT, "format_version": 2})
    with pytest.raises(BundleError, match="version 2, this HypoxNet reads hypoxnet-export version 1"):
        read_export(folder)


@pytest.mark.slow
def test_programs_of_torch_agree_at_every_size(predictor, exported):
    """`.ci/run` compares them as well, without HypoxNet; what `write_program` keeps out is asked of an encoder."""
    content = read_export(exported(predictor, TORCH))
    assert {graph["file"] for graph in content["graphs"]} == {"network.pt2", "outcome.pt2"}
    assert max(max(part["largest_difference"].values()) for part in content["agreement"].values()) <= TOLERANCE


def test_torchscript_agrees_at_every_size_without_a_warning(predictor, exported):
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        folder = exported(predictor, TORCHSCRIPT)
    assert heard == []
    content = read_export(folder)
    assert {graph["file"] for graph in content["graphs"]} == {"network.ts", "outcome.ts"}
    assert max(max(part["largest_difference"].values()) for part in content["agreement"].values()) <= TOLERANCE


def test_without_a_compiler_one_sentence_says_so(monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(ConfigError, match="found no-such-compiler, which is not there; install g"):
        need_compiler()


@pytest.mark.slow
def test_compiled_packages_and_scripts_run_in_python_and_in_cpp(clinical_spec, opened, exported, tmp_path):
    """The example of the page about C++, compiled as the page says."""
    predictor = opened(clinical_spec)
    build = tmp_path / "build"
    configure = ["cmake", "-S", str(CPP), "-B", str(build), f"-DCMAKE_PREFIX_PATH={torch.utils.cmake_prefix_path}"]
    subprocess.run(configure, check=True, capture_output=True)
    subprocess.run(["cmake", "--build", str(build)], check=True, capture_output=True)
    expected = _ramp(graphs_of(predictor.spec, predictor.models)[0], side=8)
    for form in (TORCHSCRIPT, AOTINDUCTOR):
        folder = exported(predictor, form)
        content = read_export(folder)
        assert max(max(part["largest_difference"].values()) for part in content["agreement"].values()) <= TOLERANCE
        command = [str(build / "hypoxnet_case"), str(folder / form.file_of("network")), "2", "4", "2", "4"]
        printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        assert f"mean {expected.mean():.6g} largest {expected.max():.6g}" in printed
    assert content["compiled_for"]["device"] == "cpu"
    assert content["compiled_for"]["architecture"]


def _ramp(graph, *, side):
    """Probability of the box that the example makes."""
    tumour = torch.zeros(1, 1, side, side, side)
    middle = slice(side // 4, side - side // 4)
    tumour[:, :, middle, middle, middle] = 1.0
    inputs = {
        "image": torch.linspace(-1.0, 1.0, 2 * side**3).reshape(1, 2, side, side, side),
        "presence": torch.ones(1, 2),
        "tumour": tumour,
        "tumour_known": torch.ones(1),
        "covariates": torch.zeros(1, 4),
        "covariates_known": torch.ones(1, 4),
    }
    with torch.no_grad():
        return graph.module(**inputs)["pred"]
