import threading
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.inferers.utils import sliding_window_inference

from hypoxnet.inference.windows import (
    Sliding,
    all_flips,
    encode_by_windows,
    passes_by_windows,
    probability_by_windows,
    surroundings,
    window_slices,
)
from hypoxnet.threads import one_thread

# 1 C D H W patients; K regions


def patient(shape, *, seed=0):
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(1, 2, *shape, generator=generator)
    tumour = torch.zeros(1, 1, *shape)
    tumour[..., 3:9, 4:10, 2:12] = 1.0
    return images, torch.ones(1, 2), tumour, torch.ones(1)


def encode(model, images, presence, tumour, known, sliding):
    with torch.inference_mode():
        return encode_by_windows(model, images, presence=presence, tumour=tumour, tumour_known=known, sliding=sliding)


@pytest.mark.parametrize("shape", [(24, 20, 30), (16, 16, 17), (12, 40, 16)])
@pytest.mark.parametrize("batch", [1, 3])
def test_segmentation_is_that_of_monai_with_the_same_windows(tiny_spec, make_network, shape, batch):
    model = make_network(tiny_spec, seed=1)
    images, presence, tumour, known = patient(shape)
    encoding = encode(model, images, presence, tumour, known, Sliding((16, 16, 16), 0.5, batch))
    with torch.inference_mode():
        expected = sliding_window_inference(
            images,
            (16, 16, 16),
            batch,
            lambda w: model.backbone(w, presence.expand(len(w), -1)).segmentation,
            overlap=0.5,
            mode="gaussian",
        )
    torch.testing.assert_close(encoding.segmentation, expected, rtol=0, atol=1e-5)


def test_a_patient_in_one_window_is_one_forward_pass_bit_for_bit(tiny_spec, make_network):
    model = make_network(tiny_spec, seed=1)
    images, presence, tumour, known = patient((16, 16, 16))
    passes = []
    handle = model.backbone.register_forward_hook(lambda *_: passes.append(1))
    encoding = encode(model, images, presence, tumour, known, Sliding((16, 16, 16), 0.5, 4))
    handle.remove()
    assert len(passes) == 1
    with torch.inference_mode():
        expected = model.encode(images, presence, tumour, known)
    assert torch.equal(encoding.pooled_sum, expected.pooled_sum)
    assert torch.equal(encoding.pooled_weight, expected.pooled_weight)
    torch.testing.assert_close(encoding.segmentation, expected.segmentation, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("overlap", [0.0, 0.25, 0.5, 0.75])
def test_each_voxel_of_the_tumour_counts_once_however_windows_overlap(tiny_spec, make_network, overlap):
    model = make_network(tiny_spec, seed=1)
    images, presence, tumour, known = patient((32, 32, 32))
    encoding = encode(model, images, presence, tumour, known, Sliding((16, 16, 16), overlap, 4))
    with torch.inference_mode():
        whole = model.encode(images, presence, tumour, known)
    torch.testing.assert_close(encoding.pooled_weight, whole.pooled_weight, rtol=1e-4, atol=0)


def test_features_without_a_contour_are_pooled_inside_the_prediction(tiny_spec, make_network):
    model = make_network(tiny_spec, seed=1)
    images, presence, tumour, _ = patient((24, 24, 24))
    sliding = Sliding((16, 16, 16), 0.5, 4)
    unknown = encode(model, images, presence, torch.zeros_like(tumour), torch.zeros(1), sliding)
    again = encode(model, images, presence, tumour, torch.zeros(1), sliding)
    assert float(unknown.pooled_weight.min()) > 0
    assert torch.equal(unknown.pooled_sum, again.pooled_sum)


@settings(max_examples=60, deadline=None)
@given(
    shape=st.tuples(*[st.integers(1, 40)] * 3),
    window=st.tuples(*[st.integers(4, 24)] * 3),
    corners=st.lists(st.floats(0, 1), min_size=6, max_size=6),
)
def test_surroundings_hold_the_tumour_and_a_window(shape, window, corners):
    tumour = torch.zeros(shape, dtype=torch.uint8)
    first = [int(c * (n - 1)) for c, n in zip(corners[:3], shape, strict=True)]
    last = [max(f, int(c * (n - 1))) for f, c, n in zip(first, corners[3:], shape, strict=True)]
    tumour[tuple(slice(f, e + 1) for f, e in zip(first, last, strict=True))] = 1
    box = surroundings(tumour, window)
    assert int(tumour[box].sum()) == int(tumour.sum())
    for place, size, length in zip(box, window, shape, strict=True):
        assert place.stop - place.start >= min(size, length)
        assert 0 <= place.start < place.stop <= length


def test_a_small_tumour_costs_one_window_and_stands_in_its_middle():
    tumour = torch.zeros(60, 60, 60)
    tumour[20:30, 40:48, 2:6] = 1
    box = surroundings(tumour, (16, 16, 16))
    assert box == (slice(17, 33), slice(36, 52), slice(0, 16))
    assert len(window_slices((16, 16, 16), Sliding((16, 16, 16), 0.5, 1))) == 1


def test_surroundings_of_no_tumour_are_everything():
    assert surroundings(torch.zeros(5, 6, 7), (4, 4, 4)) == (slice(0, 5), slice(0, 6), slice(0, 7))


def test_mirror_images_are_averaged_upright_whatever_the_batch(tiny_spec, make_network):
    model = make_network(tiny_spec, seed=1)
    images, presence, tumour, known = patient((13, 20, 16))
    given = {"presence": presence, "tumour_known": known}
    with torch.inference_mode():
        parts = [
            encode_by_windows(
                model,
                images.flip(axes) if axes else images,
                tumour=tumour.flip(axes) if axes else tumour,
                sliding=Sliding((16, 16, 16), 0.5, 2),
                **given,
            )
            for axes in all_flips()
        ]
        for batch in (1, 2, 5, 16):
            sliding = Sliding((16, 16, 16), 0.5, batch, mirror=True)
            found = probability_by_windows(model, images, tumour=tumour, sliding=sliding, **given)
            upright = [p.segmentation.sigmoid().flip(a) for p, a in zip(parts, all_flips(), strict=True)]
            torch.testing.assert_close(found.segmentation, torch.stack(upright).mean(dim=0), rtol=0, atol=1e-5)
            sums = torch.stack([part.pooled_sum for part in parts]).mean(dim=0)
            torch.testing.assert_close(found.pooled_sum, sums, rtol=1e-4, atol=1e-4)


def test_windows_add_up_in_float32_whatever_the_network_computes_in(tiny_spec, make_network, monkeypatch):
    model = make_network(tiny_spec, seed=1)
    encode_window = model.encode

    def halved(*given):
        encoded = encode_window(*given)
        return replace(encoded, segmentation=encoded.segmentation.bfloat16())

    monkeypatch.setattr(model, "encode", halved)
    encoding = encode(model, *patient((24, 24, 24)), Sliding((16, 16, 16), 0.5, 2))
    assert encoding.segmentation.dtype == torch.float32


def threads_of(model, monkeypatch):
    """Which threads put windows through the network, and with how many of torch's."""
    seen, encode_window = set(), model.encode

    def looked(*given):
        seen.add((threading.current_thread().name.split("_")[0], torch.get_num_threads()))
        return encode_window(*given)

    monkeypatch.setattr(model, "encode", looked)
    return seen


@pytest.mark.parametrize("mirror", [False, True])
@pytest.mark.parametrize("bfloat16", [False, True])
def test_threads_side_by_side_change_no_bit(tiny_spec, make_network, mirror, bfloat16, monkeypatch):
    model = make_network(tiny_spec, seed=1)
    images, presence, tumour, known = patient((24, 20, 30))
    given = {"presence": presence, "tumour": tumour, "tumour_known": known}
    seen = threads_of(model, monkeypatch)

    def encodings(threads):
        sliding = Sliding((16, 16, 16), 0.5, 2, mirror=mirror, bfloat16=bfloat16, threads=threads)
        with torch.inference_mode():
            return list(passes_by_windows(model, images, **given, sliding=sliding))

    before = torch.get_num_threads()
    with one_thread():
        with_one = encodings(1)
    created = set(seen)
    for threads in (2, 5):
        for one, several in zip(with_one, encodings(threads), strict=True):
            assert torch.equal(one.segmentation, several.segmentation)
            assert torch.equal(one.pooled_sum, several.pooled_sum)
            assert torch.equal(one.pooled_weight, several.pooled_weight)
    assert created == {("MainThread", 1)}
    assert seen - created == {("window", 1)}
    assert torch.get_num_threads() == before


def test_gradients_are_followed_in_the_calling_thread(tiny_spec, make_network, monkeypatch):
    model = make_network(tiny_spec, seed=1)
    images, presence, tumour, known = patient((24, 20, 30))
    images.requires_grad_()
    seen = threads_of(model, monkeypatch)
    sliding = Sliding((16, 16, 16), 0.5, 2, threads=3)
    encoding = encode_by_windows(model, images, presence=presence, tumour=tumour, tumour_known=known, sliding=sliding)
    encoding.segmentation.sum().backward()
    assert {name for name, _ in seen} == {"MainThread"}
    assert float(images.grad.abs().sum()) > 0


def test_what_goes_wrong_in_a_thread_is_raised_and_what_waits_is_not_begun(tiny_spec, make_network, monkeypatch):
    model = make_network(tiny_spec, seed=1)
    begun = []

    def full(*_):
        begun.append(1)
        raise torch.OutOfMemoryError

    monkeypatch.setattr(model, "encode", full)
    with pytest.raises(torch.OutOfMemoryError):
        encode(model, *patient((40, 40, 40)), Sliding((16, 16, 16), 0.5, 1, threads=2))
    assert len(begun) <= 3 < len(window_slices((40, 40, 40), Sliding((16, 16, 16), 0.5, 1)))
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("window")]
