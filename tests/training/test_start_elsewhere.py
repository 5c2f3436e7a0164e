"""Weights of MONAI and nnU-Net: what has the same place begins there, everything else is named, nothing else runs."""

import json
import pickle
import warnings
import zipfile
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from monai.networks import nets
from safetensors.torch import save_file
from torch import nn

from hypoxnet.errors import BundleError, ConfigError
from hypoxnet.models.build import build_model
from hypoxnet.models.config import ModelConfig, OutcomeConfig
from hypoxnet.models.spec import ModelSpec
from hypoxnet.training.start import start_from

FEATURES = [8, 12, 16]


def network(backbone="residual_unet", *, channels=2, **values):
    config = ModelConfig(
        **{"features": FEATURES, "blocks": [1, 2, 1], "deep_supervision": 1} | values, backbone=backbone
    )
    outcome = OutcomeConfig(hidden=4, dropout=0.0)
    spec = ModelSpec(config, outcome, channels, 1, 0, (12.0, 24.0), (3.0, 3.0, 3.0))
    torch.manual_seed(0)
    return build_model(spec)


class ConvNorm(nn.Module):
    """A layer with the names of nnU-Net's, the second ones included."""

    def __init__(self, inputs, outputs, *, kernel=3, stride=1, bias=True, relu=True):
        super().__init__()
        self.conv = nn.Conv3d(inputs, outputs, kernel, stride, padding=kernel // 2, bias=bias)
        self.norm = nn.InstanceNorm3d(outputs, affine=True)
        self.all_modules = nn.Sequential(self.conv, self.norm, *([nn.LeakyReLU(0.01)] if relu else []))

    def forward(self, volume):
        return self.all_modules(volume)


class Convs(nn.Module):
    def __init__(self, *layers):
        super().__init__()
        self.convs = nn.Sequential(*layers)

    def forward(self, volume):
        return self.convs(volume)


class Block(nn.Module):
    """nnU-Net's residual block: in the skip average pooling, then a convolution where the width changes."""

    def __init__(self, inputs, outputs, stride):
        super().__init__()
        self.conv1 = ConvNorm(inputs, outputs, stride=stride)
        self.conv2 = ConvNorm(outputs, outputs, relu=False)
        pool = [nn.AvgPool3d(stride)] if stride > 1 else []
        wider = [ConvNorm(inputs, outputs, kernel=1, bias=False, relu=False)] if inputs != outputs else []
        self.skip = nn.Sequential(*pool, *wider)

    def forward(self, volume):
        return nn.functional.leaky_relu(self.conv2(self.conv1(volume)) + self.skip(volume), 0.01)


class Stage(nn.Module):
    def __init__(self, inputs, outputs, count, stride):
        super().__init__()
        self.blocks = nn.Sequential(
            *(Block(outputs if n else inputs, outputs, 1 if n else stride) for n in range(count))
        )

    def forward(self, volume):
        return self.blocks(volume)


class Encoder(nn.Module):
    def __init__(self, stages, stem=None):
        super().__init__()
        self.stem = stem
        self.stages = nn.Sequential(*stages)

    def forward(self, volume):
        volume = volume if self.stem is None else self.stem(volume)
        maps = []
        for stage in self.stages:
            volume = stage(volume)
            maps.append(volume)
        return maps


class Decoder(nn.Module):
    def __init__(self, encoder, features, classes, convs):
        super().__init__()
        self.encoder = encoder
        coarse_first = features[::-1]
        pairs = list(pairwise(coarse_first))
        self.stages = nn.ModuleList(
            Convs(*(ConvNorm(fine if n else 2 * fine, fine) for n in range(convs))) for _, fine in pairs
        )
        self.transpconvs = nn.ModuleList(nn.ConvTranspose3d(coarse, fine, 2, 2) for coarse, fine in pairs)
        self.seg_layers = nn.ModuleList(nn.Conv3d(fine, classes, 1) for _, fine in pairs)

    def forward(self, maps):
        volume = maps[-1]
        for place, stage in enumerate(self.stages):
            volume = stage(torch.cat([self.transpconvs[place](volume), maps[-2 - place]], dim=1))
        return volume


class NnUNet(nn.Module):
    """What nnU-Net's network is in names and structure; returns the features of its encoder and the finest ones."""

    def __init__(self, *, channels=2, residual=True, features=FEATURES, blocks=(1, 2, 1)):
        super().__init__()
        torch.manual_seed(3)
        inputs = [features[0], *features[:-1]] if residual else [channels, *features[:-1]]
        strides = [1] + [2] * (len(features) - 1)
        if residual:
            stages = [Stage(*layer) for layer in zip(inputs, features, blocks, strides, strict=True)]
            self.encoder = Encoder(stages, Convs(ConvNorm(channels, features[0])))
        else:
            self.encoder = Encoder(
                nn.Sequential(Convs(ConvNorm(i, o, stride=s), ConvNorm(o, o)))
                for i, o, s in zip(inputs, features, strides, strict=True)
            )
        self.decoder = Decoder(self.encoder, features, 3, 1 if residual else 2)
        for parameter in self.parameters():
            nn.init.normal_(parameter, std=0.3)

    def forward(self, volume):
        maps = self.encoder(volume)
        return maps, self.decoder(maps)


@pytest.fixture
def checkpoint(tmp_path):
    """A file as nnU-Net v2 writes it, its figures of numpy included."""

    def write(theirs, name="checkpoint_final.pth"):
        content = {
            "network_weights": theirs.state_dict(),
            "optimizer_state": {"state": {}, "param_groups": [{"lr": 1e-2}]},
            "grad_scaler_state": None,
            "logging": {"mean_fg_dice": [np.float64(0.7), np.mean([0.1, 0.2])], "train_losses": [np.float32(-0.5)]},
            "_best_ema": np.float64(0.71),
            "current_epoch": 1000,
            "init_args": {"plans": {"configurations": {"3d_fullres": {"patch_size": [64, 64, 64]}}}, "fold": 0},
            "trainer_name": "nnUNetTrainer",
            "inference_allowed_mirroring_axes": (0, 1, 2),
        }
        torch.save(content, tmp_path / name)
        return tmp_path / name

    return write


def test_the_residual_encoder_of_nnunet_gives_the_same_features_here(checkpoint):
    theirs, ours = NnUNet().eval(), network().eval()
    start = start_from(ours, checkpoint(theirs))
    images = torch.randn(1, 2, 16, 24, 16, generator=torch.Generator().manual_seed(1))
    finest = []
    ours.backbone.decoder.merges[0].register_forward_hook(lambda module, inputs, output: finest.append(output))
    with torch.no_grad():
        maps, decoded = theirs(images)
        here = ours.backbone.encoder(ours.backbone.stem(images, torch.ones(1, 2)))
        ours.backbone(images, torch.ones(1, 2))
    for there, mine in zip(maps, here, strict=True):
        torch.testing.assert_close(mine, there, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(finest[0], decoded, rtol=1e-4, atol=1e-4)
    assert start.another_shape == {}
    heads = {name for name in start.missing if name.startswith("backbone.") and "film" not in name}
    assert heads == {f"backbone.decoder.heads.{n}.{part}" for n in (0, 1) for part in ("weight", "bias")}


def test_what_nnunet_has_and_we_have_not_is_named_with_its_reason(checkpoint):
    start = start_from(network(), checkpoint(NnUNet()))
    assert start.kind == "nnU-Net's ResidualEncoderUNet"
    assert start.unused["decoder.seg_layers.0.weight"] == "it gives the labels of the other network"
    assert start.unused["encoder.stages.0.blocks.0.conv1.conv.bias"].startswith("a constant before an instance norm")
    assert not any("all_modules" in name or name.startswith("decoder.encoder") for name in start.unused)


def test_the_first_convolution_of_other_channels_begins_with_their_mean(checkpoint):
    theirs, ours = NnUNet(channels=3), network(channels=2)
    start = start_from(ours, checkpoint(theirs))
    mean = theirs.encoder.stem.convs[0].conv.weight.mean(dim=1)
    torch.testing.assert_close(ours.backbone.stem.convolution.weight[:, 0], mean)
    torch.testing.assert_close(ours.backbone.stem.convolution.weight[:, 1], mean)
    assert start.adapted == {
        "backbone.stem.convolution.weight": "each of 2 channels begins with the mean of the source's 3"
    }


def test_a_deeper_network_is_brought_together_at_the_finest_level(checkpoint):
    theirs = NnUNet(features=[*FEATURES, 20], blocks=(1, 2, 1, 1))
    ours = network()
    start = start_from(ours, checkpoint(theirs))
    assert torch.equal(ours.backbone.decoder.ups[0].weight, theirs.decoder.transpconvs[2].weight)
    assert torch.equal(
        ours.backbone.encoder.levels[2][0].first.weight, theirs.encoder.stages[2].blocks[0].conv1.conv.weight
    )
    assert start.unused["encoder.stages.3.blocks.0.conv1.conv.weight"] == "nothing here has its place"
    assert start.unused["decoder.transpconvs.0.weight"] == "nothing here has its place"


def test_the_plain_encoder_of_nnunet_is_a_dynunet_without_residual_blocks(checkpoint):
    theirs = NnUNet(residual=False).eval()
    ours = network("dynunet", options={"res_block": False, "trans_bias": True}).eval()
    start = start_from(ours, checkpoint(theirs))
    body, fine, coarse = ours.backbone.network, torch.randn(1, 8, 8, 8, 12), torch.randn(1, 16, 2, 2, 3)
    with torch.no_grad():
        middle = theirs.encoder.stages[1](fine)
        torch.testing.assert_close(body.downsamples[0](fine), middle, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(body.bottleneck(middle), theirs.encoder.stages[2](middle), rtol=1e-4, atol=1e-4)
        joined = torch.cat([theirs.decoder.transpconvs[0](coarse), middle], dim=1)
        torch.testing.assert_close(
            body.upsamples[0](coarse, middle), theirs.decoder.stages[0](joined), rtol=1e-4, atol=1e-4
        )
    assert "reads images" in start.unused["encoder.stages.0.0.convs.0.conv.weight"]
    assert set(start.missing) >= {"backbone.network.input_block.conv1.conv.weight", "backbone.stem.convolution.weight"}


@pytest.mark.parametrize(
    ("residual", "backbone", "values", "remedy"),
    [
        (True, "dynunet", {}, r"use model\.backbone=residual_unet model\.fold=1"),
        (True, "residual_unet", {"fold": 2}, r"residual_unet with model\.fold=2.*use model\.backbone=residual_unet"),
        (False, "residual_unet", {}, r"use model=dynunet \+model\.options\.res_block=false"),
        (False, "dynunet", {}, r"use model=dynunet \+model\.options\.res_block=false"),
    ],
)
def test_another_structure_is_refused_with_the_one_that_fits(checkpoint, residual, backbone, values, remedy):
    with pytest.raises(ConfigError, match=remedy):
        start_from(network(backbone, **values), checkpoint(NnUNet(residual=residual)))


MONAI = {
    "segresnet": lambda: nets.SegResNet(
        in_channels=4, init_filters=8, out_channels=3, blocks_down=(1, 2, 1), blocks_up=(1, 1)
    ),
    "dynunet": lambda: nets.DynUNet(3, 4, 3, [3] * 3, [1, 2, 2], [2, 2], filters=FEATURES, res_block=True),
    "mednext": lambda: nets.MedNeXt(
        *(3, 8, 4, 3),
        kernel_size=3,
        use_residual_connection=True,
        blocks_down=(1, 2),
        blocks_bottleneck=1,
        blocks_up=(2, 1),
    ),
}


@pytest.mark.parametrize("name", MONAI)
@pytest.mark.parametrize("form", ["model.pt", "wrapped.pth", "model.safetensors", "folder"])
def test_a_network_of_monai_begins_with_its_weights_except_both_ends(name, form, tmp_path):
    torch.manual_seed(1)
    theirs = MONAI[name]()
    path = tmp_path / form
    weights = {key: tensor.clone() for key, tensor in theirs.state_dict().items()}
    if form == "model.safetensors":
        save_file(weights, path)
    elif form == "folder":
        (path / "models").mkdir(parents=True)
        torch.save(weights, path / "models" / "model.pt")
    else:
        wrapped = {"epoch": 3, "state_dict": {f"module.{key}": tensor for key, tensor in weights.items()}}
        torch.save(weights if form == "model.pt" else wrapped, path)
    ours = network(name, deep_supervision=0)
    start = start_from(ours, path)
    inside = dict(ours.named_parameters())
    for mine, there in start.loaded.items():
        if mine in inside:
            assert torch.equal(inside[mine], weights[there]), mine
    left = {key: tensor for key, tensor in theirs.named_parameters() if f"backbone.network.{key}" not in start.loaded}
    assert {start.unused[key] for key in left} == {
        "it reads images; here the stem does, and this layer reads its features",
        "it gives the labels of the other network",
    }
    assert 1 <= len(left) <= 6
    assert len(start.loaded) > 15


def test_layers_of_another_shape_are_named_with_both_shapes_in_the_report(tmp_path, caplog):
    weights = nets.SegResNet(init_filters=8, blocks_down=(1, 2, 1), blocks_up=(1, 1)).state_dict()
    weights["down_layers.0.1.conv1.conv.weight"] = torch.zeros(8, 8, 1, 1, 1)
    torch.save(weights, tmp_path / "model.pt")
    with caplog.at_level("INFO"):
        start_from(network("segresnet", deep_supervision=0), tmp_path / "model.pt", report=tmp_path / "start.json")
    report = json.loads((tmp_path / "start.json").read_text())
    name = "backbone.network.down_layers.0.1.conv1.conv.weight"
    assert report["another_shape"] == {name: "(8, 8, 1, 1, 1) there, (8, 8, 3, 3, 3) here"}
    assert f"1 layers of another shape there, and drawn at random: {name}" in caplog.text
    assert str(tmp_path / "start.json") in caplog.text
    assert set(report) == {"source", "kind", "loaded", "adapted", "another_shape", "missing", "unused"}


class Harmful:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, trace):
        self.trace = str(trace)

    def __reduce__(self):
        return Path.touch, (Path(self.trace),)


class Greedy:
    """Asks for 100 GB when it is unpickled, by a function that PyTorch's own loader allows."""

    def __reduce__(self):
        return bytearray, (10**11,)


def legacy(path):
    torch.save({"w": torch.zeros(2)}, path, _use_new_zipfile_serialization=False)


def script(path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.save(torch.jit.trace(nn.Linear(2, 2), torch.zeros(1, 2)), path)


def packed(path):
    torch.save({"w": torch.zeros(10**6)}, path)
    with zipfile.ZipFile(path) as archive:
        parts = {part: archive.read(part) for part in archive.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in parts.items():
            archive.writestr(name, content)


def cut(path):
    torch.save({"w": torch.zeros(1000)}, path)
    path.write_bytes(path.read_bytes()[:-700])


BAD = {
    "a pickle": (
        lambda path: path.write_bytes(pickle.dumps(Harmful(path.with_name("ran")))),
        r"is not a file that torch\.save writes",
    ),
    "a program": (
        lambda path: torch.save({"w": Harmful(path.with_name("ran"))}, path),
        r"asks for .*, which weights do not need; nothing of it was run",
    ),
    "a whole network": (lambda path: torch.save(nn.Linear(2, 2), path), r"asks for torch\.nn\.modules\.linear\.Linear"),
    "one that asks for memory": (lambda path: torch.save({"w": Greedy()}, path), r"asks for .*bytearray"),
    "an old file": (legacy, r"is not a file that torch\.save writes since PyTorch 1\.6"),
    "TorchScript": (script, "is TorchScript, a program"),
    "a packed file": (packed, "is packed, which PyTorch does not do"),
    "a file that was cut": (cut, r"is not a file that torch\.save writes"),
    "no weights": (lambda path: torch.save({"epoch": 3}, path), "holds no weights by name"),
    "a list": (lambda path: torch.save([torch.zeros(2)], path), "holds a list, not weights by name"),
    "weights that are not finite": (lambda path: torch.save({"w": torch.tensor([np.nan])}, path), "w is not finite"),
    "a stranger": (lambda path: torch.save({"w": torch.zeros(2)}, path), "has no layer in common"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_file_that_is_not_weights_is_one_sentence_and_runs_nothing(name, tmp_path):
    write, sentence = BAD[name]
    write(tmp_path / "model.pt")
    model = network()
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    with pytest.raises(ConfigError, match=sentence) as refused:
        start_from(model, tmp_path / "model.pt", report=tmp_path / "start.json")
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "ran").exists()
    assert not (tmp_path / "start.json").exists()
    assert all(torch.equal(tensor, before[key]) for key, tensor in model.state_dict().items())


def test_a_file_that_is_no_safetensors_is_one_sentence(tmp_path):
    (tmp_path / "model.safetensors").write_bytes(pickle.dumps(Harmful(tmp_path / "ran")))
    with pytest.raises(BundleError, match="is not a readable safetensors file"):
        start_from(network(), tmp_path / "model.safetensors")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("name", "sentence"), [("nowhere.pt", "does not exist"), ("notes.txt", "must end in"), (".", "is neither a bundle")]
)
def test_what_is_no_file_of_weights_is_one_sentence(name, sentence, tmp_path):
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(ConfigError, match=sentence):
        start_from(network(), tmp_path / name)
