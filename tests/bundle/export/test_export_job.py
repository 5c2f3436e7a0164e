"""`hypoxnet export` and `hypoxnet verify`."""

from __future__ import annotations

import csv
import errno
import json
import shutil
from dataclasses import replace

import onnx
import pytest
import torch

from hypoxnet.bundle.export import onnx_program
from hypoxnet.bundle.export.folder import read_export
from hypoxnet.bundle.export.precision import BFLOAT16, INT8, PRECISIONS
from hypoxnet.cases import Prediction
from hypoxnet.cli import main
from hypoxnet.cli.export import FORMATS as OFFERED
from hypoxnet.cli.export import WEIGHTS
from hypoxnet.files import sha256_of
from hypoxnet.geometry import Grid
from hypoxnet.jobs import export as job
from hypoxnet.jobs.precision_loss import compare, loss_of_precision


@pytest.fixture
def manifest(make_case, tmp_path):
    """Three cases, one without T1W."""
    records = [make_case(f"P00{place}", seed=place) for place in range(3)]
    columns = ["case_id", "FMISO_SUV", "T1W", "GTVP", "age"]
    rows = [
        [record.case_id, *({**record.channels, **record.masks}.get(name, "") for name in columns[1:4]), 60 + place]
        for place, record in enumerate(records)
    ]
    rows[1][2] = ""
    path = tmp_path / "cases.csv"
    with path.open("w", newline="") as stream:
        csv.writer(stream).writerows([columns, *rows])
    return path


def copied(onnx_model, tmp_path, change, *, name="network.onnx"):
    """An export with one file changed and its checksum mended, as who wants to harm would."""
    folder = shutil.copytree(onnx_model[1], tmp_path / "copy")
    change(folder / name)
    listed = json.loads((folder / "checksums.json").read_text())
    listed["sha256"][name] = sha256_of(folder / name)
    (folder / "checksums.json").write_text(json.dumps(listed))
    return folder


def test_the_command_line_offers_what_the_job_does():
    assert OFFERED == job.FORMATS
    assert WEIGHTS == PRECISIONS


def test_verify_prints_the_agreement(onnx_model, onnx_bundle, capsys):
    assert main(["verify", str(onnx_model[1]), "--against", str(onnx_bundle)]) == 0
    printed = capsys.readouterr().out
    assert "every file is as it was written" in printed
    assert "network: largest difference from the bundle: pred" in printed
    assert "outcome: largest difference from the bundle: incidence" in printed


def test_verify_finds_weights_of_another_training(onnx_model, onnx_bundle, tmp_path, capsys):
    def change(path):
        model = onnx.load(path)
        tensor = max(model.graph.initializer, key=lambda one: len(one.raw_data))
        tensor.raw_data = bytes(len(tensor.raw_data))
        path.write_bytes(model.SerializeToString())

    folder = copied(onnx_model, tmp_path, change)
    assert main(["verify", str(folder), "--against", str(onnx_bundle)]) == 2
    assert "differs from the bundle's by" in capsys.readouterr().err


def test_verify_refuses_a_file_that_was_cut_short_in_one_sentence(onnx_model, onnx_bundle, tmp_path, capsys):
    folder = copied(onnx_model, tmp_path, lambda path: path.write_bytes(path.read_bytes()[:5000]))
    assert main(["verify", str(folder), "--against", str(onnx_bundle)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "network.onnx is no ONNX or was cut short" in line


@pytest.mark.parametrize("weights", [None, "int8", {"precision": "int3"}, {"precision": ["float32"]}])
def test_verify_refuses_a_description_that_is_none_of_ours(onnx_model, onnx_bundle, tmp_path, capsys, weights):
    def change(path):
        path.write_text(json.dumps({**json.loads(path.read_text()), "weights": weights}))

    folder = copied(onnx_model, tmp_path, change, name="export.json")
    assert main(["verify", str(folder), "--against", str(onnx_bundle)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "this HypoxNet knows float32, bfloat16, int8" in line


def test_verify_against_another_bundle_says_so(onnx_model, clinical_spec, written, capsys):
    assert main(["verify", str(onnx_model[1]), "--against", str(written(clinical_spec, seeds=(3,)))]) == 2
    assert "was made of another bundle" in capsys.readouterr().err


def test_verify_without_onnxruntime_says_what_to_install(onnx_model, onnx_bundle, monkeypatch, capsys):
    monkeypatch.setattr(onnx_program.importlib.util, "find_spec", lambda name: None)
    assert main(["verify", str(onnx_model[1]), "--against", str(onnx_bundle)]) == 2
    assert "pip install 'hypoxnet[onnx]'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--to", "onnx", "--weights", "int8"], "--weights int8 needs --cases MANIFEST"),
        (["--to", "onnx", "--cases", "c.csv"], "--weights float32 loses nothing, leave --cases out"),
        (
            ["--to", "torchscript", "--weights", "int8", "--cases", "c.csv"],
            "--weights int8 goes with --to onnx or torch, not with --to torchscript",
        ),
        (["--to", "onnx", "--member", "1"], "--member 1 goes with --to encoder, onnx holds every member"),
        (["--to", "encoder", "--member", "2"], "member 2 is asked for"),
    ],
)
def test_choices_that_do_not_go_together(onnx_bundle, tmp_path, capsys, options, sentence):
    assert main(["export", str(onnx_bundle), "--output", str(tmp_path / "e"), *options]) == 2
    assert capsys.readouterr().err.startswith(sentence)
    assert not (tmp_path / "e").exists()


@pytest.mark.parametrize("kind", OFFERED)
def test_a_file_where_the_export_is_to_stand_is_refused_at_once(onnx_bundle, tmp_path, capsys, monkeypatch, kind):
    monkeypatch.setattr(job, "load_predictor", None)
    place = tmp_path / "cases.json"
    place.write_text("{}")
    assert main(["export", str(onnx_bundle), "--to", kind, "--output", str(place)]) == 2
    assert capsys.readouterr().err == f"--output={place} is a file; give a folder\n"
    assert place.read_text() == "{}"


def on_a_full_disk(*_, **__):
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize(
    ("kind", "writer"),
    [
        ("safetensors", "hypoxnet.bundle.write.save_file"),
        ("onnx", "hypoxnet.files.write_text"),
        ("torch", "pathlib.Path.write_bytes"),
    ],
)
def test_a_full_disk_is_one_sentence_and_leaves_nothing(
    tiny_spec, written, tmp_path, capsys, monkeypatch, kind, writer
):
    bundle = written(tiny_spec, seeds=(1,))
    monkeypatch.setattr(writer, on_a_full_disk)
    assert main(["export", str(bundle), "--to", kind, "--output", str(tmp_path / "e")]) == 2
    assert capsys.readouterr().err.splitlines() == [
        f"{tmp_path}: the disk is full; what is finished stays, make space and the same command goes on"
    ]
    assert list(tmp_path.iterdir()) == []


def test_export_without_the_extra_writes_nothing(onnx_bundle, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(onnx_program.importlib.util, "find_spec", lambda name: None)
    assert main(["export", str(onnx_bundle), "--to", "onnx", "--output", str(tmp_path / "e")]) == 2
    assert capsys.readouterr().err.splitlines() == [
        "ONNX needs onnx, onnxscript, onnxruntime; install with: pip install 'hypoxnet[onnx]'"
    ]
    assert list(tmp_path.iterdir()) == []


def test_several_bundles_export_as_one_and_are_verified_in_their_order(tiny_spec, written, tmp_path, capsys):
    parts = [str(written(tiny_spec, seeds=(seed,))) for seed in (1, 2)]
    folder = tmp_path / "e"
    assert main(["export", *parts, "--to", "torchscript", "--output", str(folder)]) == 0
    assert read_export(folder)["bundle"]["members"] == 2
    assert main(["verify", str(folder), "--against", *parts]) == 0
    assert main(["verify", str(folder), "--against", *reversed(parts)]) == 2


def test_fewer_bits_cost_more_and_less_than_everything(tiny_spec, opened, manifest):
    predictor = opened(tiny_spec)
    losses = {bits: loss_of_precision(predictor, bits, manifest) for bits in (BFLOAT16, INT8)}
    for loss in losses.values():
        assert loss["cases"] == 3
        assert 0.5 < loss["dice"]["lowest"] <= loss["dice"]["mean"] <= 1
        assert 0 < loss["probability"]["mean"] < loss["probability"]["largest"] < 0.5
        assert 0 < loss["incidence"]["mean"] <= loss["incidence"]["largest"]
    assert losses[INT8]["probability"]["mean"] > losses[BFLOAT16]["probability"]["mean"]


@pytest.mark.slow
def test_what_int8_costs_is_measured_on_the_cases_and_written_down(tiny_spec, written, manifest, tmp_path, capsys):
    bundle, folder = written(tiny_spec), tmp_path / "e"
    options = ["--to", "torch", "--weights", "int8", "--cases", str(manifest)]
    assert main(["export", str(bundle), "--output", str(folder), *options]) == 0
    content = read_export(folder)
    loss = content["weights"]["loss"]
    assert (content["weights"]["precision"], loss["cases"]) == (INT8, 3)
    assert f"Dice of the masks {loss['dice']['mean']:.4f}" in capsys.readouterr().out
    assert "## Rounded weights" in (folder / "docs" / "README.md").read_text()
    program = torch.export.load(folder / "network.pt2")
    kinds = {tensor.dtype for tensor in program.state_dict.values()}
    assert torch.int8 in kinds
    assert main(["verify", str(folder), "--against", str(bundle)]) == 0
    assert "largest difference from the bundle with int8 weights" in capsys.readouterr().out


def prediction(probability, incidence):
    probability = torch.tensor(probability).reshape(2, 2, 1).numpy()
    return Prediction(
        key="P",
        grid=Grid.from_affine((2, 2, 1), torch.eye(4).numpy()),
        probability={"hsv": probability},
        mask={"hsv": probability >= 0.5},
        incidence={"failure": incidence},
        months=(12.0, 24.0),
        read_outs={},
    )


def test_losses_of_a_case_by_hand():
    exact = prediction([0.6, 0.7, 0.2, 0.0], (0.1, 0.2))
    rounded = prediction([0.6, 0.4, 0.3, 0.0], (0.1, 0.25))
    loss = compare(exact, rounded)
    assert loss.dice == (pytest.approx(2 / 3),)
    assert (loss.largest, loss.mean) == (pytest.approx(0.3), pytest.approx(0.4 / 3))
    assert (loss.incidence, loss.both_empty) == (pytest.approx(0.05), 0)


def test_two_empty_masks_agree_and_are_counted():
    empty = prediction([0.1, 0.2, 0.2, 0.0], (0.1, 0.2))
    loss = compare(empty, replace(empty))
    assert (loss.dice, loss.both_empty, loss.largest) == ((1.0,), 1, 0.0)
