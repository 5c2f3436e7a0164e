import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hypoxnet.bundle.read import load_strictly, read_bundle
from hypoxnet.bundle.schema import CHECKSUMS, METADATA, SPEC, weights_name
from hypoxnet.bundle.weights import read_weights
from hypoxnet.bundle.write import save_weights, write_bundle
from hypoxnet.errors import BundleError
from hypoxnet.files import sha256_of


def seal(folder: Path, name: str) -> None:
    """Make the checksum of a file agree with its content, as someone who tampers would."""
    path = folder / CHECKSUMS
    content = json.loads(path.read_text())
    content["sha256"][name] = sha256_of(folder / name)
    path.write_text(json.dumps(content))


def edit(folder: Path, name: str, change: Callable[[dict], None]) -> None:
    content = json.loads((folder / name).read_text())
    change(content)
    (folder / name).write_text(json.dumps(content))


def test_weights_come_back_bit_for_bit(tiny_spec, make_bundle, make_network):
    folder = make_bundle(tiny_spec, seeds=(1, 2))
    spec, members = read_bundle(folder)
    assert spec.members == 2
    assert len(spec.digest) == 64
    for seed, weights in zip((1, 2), members, strict=True):
        expected = make_network(tiny_spec, seed=seed).state_dict()
        assert set(weights) == set(expected)
        assert all(torch.equal(weights[name], tensor) for name, tensor in expected.items())


def test_the_folder_holds_what_the_layout_says(tiny_spec, make_bundle):
    folder = make_bundle(tiny_spec)
    files = [p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()]
    assert set(files) == {CHECKSUMS, METADATA, SPEC, "docs/README.md", "models/model_0.safetensors"}


@pytest.mark.parametrize("name", [METADATA, SPEC, weights_name(0), "docs/README.md"])
def test_one_changed_byte_is_noticed_and_the_file_is_named(tiny_spec, make_bundle, name):
    folder = make_bundle(tiny_spec)
    content = bytearray((folder / name).read_bytes())
    content[len(content) // 2] ^= 1
    (folder / name).write_bytes(bytes(content))
    with pytest.raises(BundleError, match=f"{name} was changed"):
        read_bundle(folder)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_flipped_bit_of_any_file_is_noticed(tiny_spec, make_bundle, data):
    folder = make_bundle(tiny_spec)
    path = data.draw(st.sampled_from(sorted(p for p in folder.rglob("*") if p.is_file() and p.name != CHECKSUMS)))
    content = bytearray(path.read_bytes())
    content[data.draw(st.integers(0, len(content) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    path.write_bytes(bytes(content))
    with pytest.raises(BundleError, match="was changed"):
        read_bundle(folder)


@pytest.mark.parametrize("name", [METADATA, SPEC, weights_name(0)])
def test_a_missing_file_is_named(tiny_spec, make_bundle, name):
    folder = make_bundle(tiny_spec)
    (folder / name).unlink()
    with pytest.raises(BundleError, match=f"{name} is missing"):
        read_bundle(folder)


def test_a_folder_without_checksums_is_no_bundle(tmp_path):
    with pytest.raises(BundleError, match=r"is not a bundle: it holds no checksums\.json"):
        read_bundle(tmp_path)


@pytest.mark.parametrize("name", ["models/model_1.safetensors", "models/model.pt", "configs/inference.py"])
def test_a_file_that_does_not_belong_is_named(tiny_spec, make_bundle, name):
    folder = make_bundle(tiny_spec)
    (folder / name).write_bytes(b"x")
    with pytest.raises(BundleError, match=f"{name} does not belong to the bundle"):
        read_bundle(folder)


def test_a_listed_weight_that_no_member_needs_is_refused(tiny_spec, make_bundle):
    folder = make_bundle(tiny_spec)
    (folder / "models/model_1.safetensors").write_bytes((folder / weights_name(0)).read_bytes())
    seal(folder, "models/model_1.safetensors")
    with pytest.raises(BundleError, match=r"names 1 models, which does not fit models/model_1\.safetensors"):
        read_bundle(folder)


@pytest.mark.parametrize(
    "name", ["../outside", "/etc/passwd", "models/../../outside", "C:\\x", "models\\..\\..\\x", ""]
)
def test_a_path_out_of_the_bundle_is_refused(tiny_spec, make_bundle, name):
    folder = make_bundle(tiny_spec)
    edit(folder, CHECKSUMS, lambda content: content["sha256"].update({name: "0" * 64}))
    with pytest.raises(BundleError, match="which is not a file inside the bundle"):
        read_bundle(folder)


def test_a_link_out_of_the_bundle_is_refused(tiny_spec, make_bundle, tmp_path):
    folder = make_bundle(tiny_spec)
    outside = tmp_path / "outside.safetensors"
    (folder / weights_name(0)).rename(outside)
    (folder / weights_name(0)).symlink_to(outside)
    with pytest.raises(BundleError, match="a link stands there"):
        read_bundle(folder)


def test_pickled_weights_are_not_opened(tiny_spec, make_bundle, make_network):
    folder = make_bundle(tiny_spec)
    torch.save(make_network(tiny_spec, seed=1).state_dict(), folder / weights_name(0))
    seal(folder, weights_name(0))
    with pytest.raises(BundleError, match="is not a readable safetensors file"):
        read_bundle(folder)


def test_a_newer_format_is_refused_with_what_is_read(tiny_spec, make_bundle):
    folder = make_bundle(tiny_spec)
    edit(folder, SPEC, lambda content: content.update(format_version=7))
    seal(folder, SPEC)
    with pytest.raises(BundleError, match="format version 7, this HypoxNet reads 1 to 1"):
        read_bundle(folder)


@pytest.mark.parametrize(
    ("text", "sentence"), [("{", "cannot be read as JSON"), ("[1]", "does not hold a JSON object")]
)
def test_broken_json_is_one_sentence(tiny_spec, make_bundle, text, sentence):
    folder = make_bundle(tiny_spec)
    (folder / SPEC).write_text(text)
    seal(folder, SPEC)
    with pytest.raises(BundleError, match=f"{SPEC} {sentence}"):
        read_bundle(folder)


def test_weights_of_another_network_name_what_differs(tiny_spec, make_network):
    model = make_network(tiny_spec, seed=1)
    weights = dict(model.state_dict())
    name = next(iter(weights))
    weights["stranger"] = weights.pop(name)
    with pytest.raises(BundleError, match=f"m does not fit its model: missing {name}; unexpected stranger"):
        load_strictly(model, weights, source="m")
    resized = {**model.state_dict(), name: torch.zeros(1, 2, 3)}
    with pytest.raises(BundleError, match=rf"{name} has shape \(1, 2, 3\)"):
        load_strictly(model, resized, source="m")


def test_tied_weights_are_stored_once_and_come_back_under_both_names(tmp_path):
    shared = torch.randn(50, 50)
    weights = {"a": shared, "b": shared, "part": shared[:2], "turned": shared.t(), "empty": torch.zeros(0)}
    save_weights(weights, tmp_path / "w.safetensors")
    back = read_weights(tmp_path / "w.safetensors")
    assert set(back) == set(weights)
    assert all(torch.equal(back[name], tensor) for name, tensor in weights.items())
    assert back["a"] is back["b"]
    assert (tmp_path / "w.safetensors").stat().st_size < 2.5 * shared.numel() * 4


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    shape=st.lists(st.integers(0, 4), max_size=3),
    kind=st.sampled_from([torch.float32, torch.bfloat16, torch.float64, torch.int64, torch.bool]),
)
def test_every_type_and_shape_comes_back_exactly(tmp_path, shape, kind):
    tensor = (torch.arange(torch.Size(shape).numel()).reshape(shape) % 2).to(kind)
    save_weights({"x": tensor}, tmp_path / "w.safetensors")
    back = read_weights(tmp_path / "w.safetensors")["x"]
    assert back.dtype == kind
    assert torch.equal(back, tensor)


def test_weights_that_diverged_are_not_written(tiny_spec, make_network, tmp_path):
    weights = make_network(tiny_spec, seed=1).state_dict()
    name = next(iter(weights))
    weights[name] = weights[name] * float("nan")
    with pytest.raises(BundleError, match=f"weight {name} is not finite; the training has diverged"):
        write_bundle(tmp_path / "bundle", tiny_spec, [weights])
    assert list(tmp_path.iterdir()) == []


def test_a_bundle_without_models_is_refused(tiny_spec, tmp_path):
    with pytest.raises(BundleError, match="at least one model"):
        write_bundle(tmp_path / "bundle", tiny_spec, [])


def test_a_folder_with_other_files_is_not_replaced(tiny_spec, make_bundle, tmp_path):
    (tmp_path / "bundle").mkdir()
    (tmp_path / "bundle" / "thesis.tex").write_text("years of work")
    with pytest.raises(BundleError, match="is not empty and holds no bundle"):
        make_bundle(tiny_spec)
    assert (tmp_path / "bundle" / "thesis.tex").read_text() == "years of work"


def test_a_bundle_with_notes_beside_its_files_is_not_replaced(tiny_spec, make_bundle, tmp_path):
    (make_bundle(tiny_spec) / "docs" / "notes.txt").write_text("ours")
    with pytest.raises(
        BundleError, match=r"bundle holds docs/notes\.txt, which checksums\.json does not list and which"
    ):
        make_bundle(tiny_spec, seeds=(2,))
    assert (tmp_path / "bundle" / "docs" / "notes.txt").read_text() == "ours"


def test_a_bundle_is_replaced_whole(tiny_spec, make_bundle, tmp_path):
    make_bundle(tiny_spec, seeds=(1, 2, 3))
    first = read_bundle(tmp_path / "bundle")[0].digest
    make_bundle(tiny_spec, seeds=(4,))
    spec, members = read_bundle(tmp_path / "bundle")
    assert (len(members), spec.members) == (1, 1)
    assert spec.digest != first
    assert [p.name for p in tmp_path.iterdir()] == ["bundle"]


def test_a_failed_write_leaves_the_former_bundle(tiny_spec, make_bundle, monkeypatch, tmp_path):
    digest = read_bundle(make_bundle(tiny_spec))[0].digest

    def full_disk(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("hypoxnet.bundle.write.save_weights", full_disk)
    with pytest.raises(OSError, match="the disk is full"):
        make_bundle(tiny_spec, seeds=(9,))
    assert read_bundle(tmp_path / "bundle")[0].digest == digest
    assert [p.name for p in tmp_path.iterdir()] == ["bundle"]
