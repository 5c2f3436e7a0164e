"""The encoder alone says what it says inside its network, with HypoxNet and with plain PyTorch."""

import io
import json
import shutil
import zipfile
from contextlib import redirect_stdout
from dataclasses import replace

import pytest
import torch

from hypoxnet.bundle.export.encoder import PROGRAM, WEIGHTS, compared_encoder, export_encoder, read_encoder
from hypoxnet.bundle.export.folder import read_export
from hypoxnet.bundle.export.formats import export_graphs
from hypoxnet.bundle.export.torch_program import DESCRIPTION, TORCH, quiet_torch
from hypoxnet.bundle.read import read_networks
from hypoxnet.bundle.schema import CARD, CHECKSUMS
from hypoxnet.cli import main
from hypoxnet.errors import BundleError, ConfigError
from hypoxnet.files import sha256_of
from hypoxnet.jobs.export import verify_export
from hypoxnet.models.build import build_model
from hypoxnet.models.config import ModelConfig
from hypoxnet.models.encoders import encoder_of
from hypoxnet.models.skeleton import skeleton_of


def images(multiple, *, patients=2, channels=2):
    generator = torch.Generator().manual_seed(4)
    sizes = [multiple * n for n in (2, 3, 4)]
    presence = torch.ones(patients, channels)
    presence[0, 1] = 0.0
    return torch.randn(patients, channels, *sizes, generator=generator), presence


@pytest.fixture(scope="module")
def bundle(tiny_settings, make_spec, written):
    return written(make_spec(tiny_settings), seeds=(1, 2))


@pytest.fixture(scope="module")
def exported_by_command(bundle, tmp_path_factory):
    """The encoder of the second member, and what the command line said."""
    folder = tmp_path_factory.mktemp("encoder") / "encoder"
    with redirect_stdout(io.StringIO()) as said:
        assert main(["export", str(bundle), "--to", "encoder", "--member", "1", "--output", str(folder)]) == 0
    return folder, said.getvalue()


@pytest.fixture(scope="module")
def exported_encoder(exported_by_command):
    return exported_by_command[0]


def test_the_command_says_how_far_the_encoder_is_and_takes_one_bundle_only(
    bundle, exported_by_command, tmp_path, capsys
):
    assert "encoder: largest difference from the bundle" in exported_by_command[1]
    assert main(["export", str(bundle), str(bundle), "--to", "encoder", "--output", str(tmp_path / "e")]) == 2
    assert capsys.readouterr().err.startswith("--to encoder takes one network, 2 bundles are named")


def test_features_are_those_of_the_chosen_member(bundle, exported_encoder):
    _, models = read_networks(bundle)
    encoder, _ = read_encoder(exported_encoder)
    image, presence = images(encoder.multiple)
    with torch.no_grad():
        inside = models[1].backbone.encoder(models[1].backbone.stem(image, presence))
        first = models[0].backbone.encoder(models[0].backbone.stem(image, presence))
        alone = encoder(image, presence)
    assert list(alone) == ["level_0", "level_1"]
    assert all(torch.equal(alone[f"level_{level}"], feature_map) for level, feature_map in enumerate(inside))
    assert not torch.allclose(alone["level_1"], first[1], atol=1e-3)


def test_the_program_says_what_it_is_and_refuses_wrong_sides(exported_encoder):
    extra = {DESCRIPTION: ""}
    with quiet_torch():
        program = torch.export.load(exported_encoder / PROGRAM, extra_files=extra).module()
    assert json.loads(extra[DESCRIPTION])["kind"] == "encoder"
    image, presence = images(2)
    with pytest.raises(RuntimeError, match=r"Expected input 'image'\.shape\[4\] = 7"):
        program(image=image[..., 1:], presence=presence)


def test_a_program_holds_neither_its_example_nor_lines_of_code(exported_encoder):
    content = (exported_encoder / PROGRAM).read_bytes()
    assert b"site-packages" not in content
    assert b"hypoxnet/models" not in content
    with zipfile.ZipFile(exported_encoder / PROGRAM) as archive:
        example = next(entry for entry in archive.infolist() if "sample_inputs" in entry.filename)
    assert example.file_size < 2000


def test_the_program_can_be_trained_on(exported_encoder):
    module = torch.export.load(exported_encoder / PROGRAM).module()
    for parameter in module.parameters():
        parameter.requires_grad_(True)
    image, presence = images(2)
    module(image=image, presence=presence)["level_1"].square().mean().backward()
    assert all(parameter.grad is not None for parameter in module.parameters())


def test_the_description_says_what_goes_in_and_what_comes_out(exported_encoder):
    content = read_export(exported_encoder)
    about = content["encoder"]
    assert about["feature_maps"] == [
        {"name": "level_0", "stride": 1, "features": 4},
        {"name": "level_1", "stride": 2, "features": 8},
    ]
    assert (about["member"], about["sides_are_multiples_of"], about["smallest_side"]) == (1, 2, 4)
    assert about["backbone"]["features"] == [4, 8]
    channel = content["channels"][0]
    assert channel["name"] == "FMISO_SUV"
    assert "g/ml" in channel["description"]
    assert {"normalisation", "clip", "log1p", "subtract", "divide"} <= set(channel)
    assert content["agreement"]["encoder"]["largest_difference"]["level_1"] < 1e-5


def test_the_folder_holds_what_its_page_says_and_checksums_of_it(exported_encoder):
    files = {path.relative_to(exported_encoder).as_posix() for path in exported_encoder.rglob("*") if path.is_file()}
    assert files == {WEIGHTS, PROGRAM, "export.json", CARD, CHECKSUMS}
    sums = json.loads((exported_encoder / CHECKSUMS).read_text())["sha256"]
    assert sums == {name: sha256_of(exported_encoder / name) for name in files - {CHECKSUMS}}


SWIN = {"depths": [1, 1, 1, 1], "num_heads": [1, 2, 4, 8]}


# SwinUNETR halves five times: its smallest box is large.
@pytest.mark.parametrize(
    "name", ["segresnet", "dynunet", "mednext", pytest.param("swin_unetr", marks=pytest.mark.slow)]
)
def test_encoders_of_monai_end_where_the_outcome_pools(name, make_spec, tiny_settings):
    features = [8, 12, 16] if name == "dynunet" else [8, 16, 32]
    options = SWIN if name == "swin_unetr" else {}
    config = ModelConfig(backbone=name, features=features, blocks=[1, 1, 1], deep_supervision=0, options=options)
    model = build_model(replace(make_spec(tiny_settings).model, backbone=config)).eval()
    encoder = encoder_of(model)
    image, presence = images(encoder.multiple, patients=1)
    with torch.no_grad():
        maps = encoder(image, presence)
        pooled = model.backbone(image, presence).pooled[-1]
    assert torch.equal(maps[f"level_{len(maps) - 1}"], pooled)
    levels = 6 if name == "swin_unetr" else 3
    assert [part["stride"] for part in encoder.layout(2)] == [2**level for level in range(levels)]


@pytest.mark.parametrize("member", [-1, 2])
def test_a_member_that_is_not_there_is_one_sentence(bundle, tmp_path, member):
    with pytest.raises(ConfigError, match=f"member {member} is asked for, .* has 2, counted from 0"):
        export_encoder(bundle, tmp_path / "out", member=member)
    assert not (tmp_path / "out").exists()


def test_a_model_without_images_has_no_encoder(make_spec, tiny_settings):
    config = ModelConfig(backbone="none", features=[4, 8], blocks=[1, 1], deep_supervision=0)
    spec = replace(make_spec(tiny_settings).model, backbone=config, channels=0, regions=0)
    with pytest.raises(ConfigError, match="reads no image, and has no encoder"):
        encoder_of(build_model(spec))


def test_a_network_whose_encoder_is_not_taken_out_is_one_sentence(make_spec, tiny_settings):
    model = build_model(make_spec(tiny_settings).model)
    model.backbone = torch.nn.Identity()
    with pytest.raises(ConfigError, match="the encoder of residual_unet is not taken out; those of residual_unet"):
        encoder_of(model)


def swin(make_spec, tiny_settings):
    config = ModelConfig(backbone="swin_unetr", features=[12, 24], blocks=[1, 1], deep_supervision=0, options=SWIN)
    spec = make_spec(replace(tiny_settings, window=(64, 64, 64)))
    return replace(spec, model=replace(spec.model, backbone=config))


def test_a_graph_for_every_size_is_refused_where_sides_decide_on_operations(make_spec, tiny_settings, tmp_path):
    """torch.export would not come to an end."""
    spec = swin(make_spec, tiny_settings)
    with pytest.raises(BundleError, match=r"the operations of swin_unetr depend on the sides .* export it --to monai"):
        export_graphs(spec, [skeleton_of(spec.model, most=1000)], tmp_path / "e", form=TORCH)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_the_program_of_swin_unetr_has_the_sides_of_a_window(make_spec, tiny_settings, make_bundle, tmp_path):
    bundle = make_bundle(swin(make_spec, tiny_settings))
    content = read_export(export_encoder(bundle, tmp_path / "encoder"))
    assert content["encoder"]["sides_of_program"] == [64, 64, 64]
    assert {tuple(shape[2:]) for shape in content["agreement"]["encoder"]["image_shapes"]} == {(64, 64, 64)}
    assert verify_export(tmp_path / "encoder", [bundle])["encoder"]["level_5"] < 1e-5
    encoder, _ = read_encoder(tmp_path / "encoder")
    with torch.no_grad():
        assert encoder(torch.zeros(1, 2, 64, 96, 64), torch.ones(1, 2))["level_5"].shape == (1, 192, 2, 3, 2)


def test_verify_compares_weights_and_features_again(bundle, exported_encoder, make_spec, tiny_settings, written):
    assert verify_export(exported_encoder, [bundle]) == {
        "encoder": read_export(exported_encoder)["agreement"]["encoder"]["largest_difference"]
    }
    with pytest.raises(BundleError, match="was made of another bundle"):
        verify_export(exported_encoder, [written(make_spec(tiny_settings), seeds=(1, 3))])
    spec, models = read_networks(bundle)
    with pytest.raises(BundleError, match="is not that of member 0 of tiny"):
        compared_encoder(spec, models, exported_encoder, member=0)


def test_a_program_of_another_member_is_found(bundle, exported_encoder, tmp_path):
    """Its weights lie beside it and are the right ones."""
    folder = shutil.copytree(exported_encoder, tmp_path / "changed")
    program = torch.export.load(folder / PROGRAM)
    for tensor in program.state_dict.values():
        tensor.mul_(1.01)
    torch.export.save(program, folder / PROGRAM)
    with pytest.raises(BundleError, match=r"^encoder\.pt2: level_. differs from the bundle's by"):
        compared_encoder(*read_networks(bundle), folder, member=1)


def test_an_encoder_that_was_changed_is_refused(exported_encoder, tmp_path):
    folder = shutil.copytree(exported_encoder, tmp_path / "changed")
    content = bytearray((folder / WEIGHTS).read_bytes())
    content[-1] ^= 1
    (folder / WEIGHTS).write_bytes(bytes(content))
    with pytest.raises(BundleError, match="was changed"):
        read_encoder(folder)
