import os
import signal
import subprocess
import sys
import time
from dataclasses import fields, replace

import pytest
import torch

from hypoxnet.cases import Outcome, Sample
from hypoxnet.data.cache import PreparedCache
from hypoxnet.transforms.prepare import prepare


def assert_same(one, other):
    for item in fields(Sample):
        a, b = getattr(one.sample, item.name), getattr(other.sample, item.name)
        if isinstance(a, torch.Tensor):
            assert torch.equal(torch.nan_to_num(a), torch.nan_to_num(b)), item.name
        else:
            assert a == b, item.name
    assert one.reference == other.reference


def test_an_entry_comes_back_bit_for_bit_and_is_made_once(tiny_settings, make_case, tmp_path, monkeypatch):
    record = make_case()
    cache = PreparedCache(tmp_path / "cache", tiny_settings)
    first = cache.get(record)
    monkeypatch.setattr("hypoxnet.data.cache.prepare", lambda *_: pytest.fail("made again"))
    assert_same(first, cache.get(record))
    assert_same(first, PreparedCache(tmp_path / "cache", tiny_settings).get(record))
    monkeypatch.undo()
    assert_same(first, prepare(record, tiny_settings))


@pytest.mark.parametrize(
    "change",
    [
        lambda record, settings: (replace(record, covariates={"age": 62.0}), settings),
        lambda record, settings: (replace(record, outcome=Outcome(1, 12.0)), settings),
        lambda record, settings: (replace(record, masks={}), settings),
        lambda record, settings: (record, replace(settings, spacing_mm=(5.0, 5.0, 5.0))),
        lambda record, settings: (
            record,
            replace(settings, channels=settings.channels[::-1], norms=settings.norms[::-1]),
        ),
    ],
)
def test_anything_that_matters_changes_the_name_of_an_entry(tiny_settings, make_case, tmp_path, change):
    record = make_case()
    other, settings = change(record, tiny_settings)
    assert PreparedCache(tmp_path, tiny_settings).key(record) != PreparedCache(tmp_path, settings).key(other)


def test_the_content_of_a_file_matters_and_its_place_does_not(tiny_settings, make_case, tmp_path):
    record = make_case()
    before = PreparedCache(tmp_path, tiny_settings).key(record)
    moved = tmp_path / "elsewhere" / "fmiso.nii.gz"
    moved.parent.mkdir()
    moved.write_bytes(record.channels["FMISO_SUV"].read_bytes())
    elsewhere = replace(record, channels={**record.channels, "FMISO_SUV": moved})
    assert PreparedCache(tmp_path, tiny_settings).key(elsewhere) == before
    moved.write_bytes(moved.read_bytes() + b"\0")
    assert PreparedCache(tmp_path, tiny_settings).key(elsewhere) != before


@pytest.mark.parametrize("damage", [lambda content: content[:-5], lambda content: content[:-1] + b"x", lambda _: b""])
def test_a_damaged_entry_is_made_again(tiny_settings, make_case, tmp_path, damage, caplog):
    record = make_case()
    cache = PreparedCache(tmp_path / "cache", tiny_settings)
    first = cache.get(record)
    (entry,) = (tmp_path / "cache").glob("*.safetensors")
    entry.write_bytes(damage(entry.read_bytes()))
    assert_same(first, cache.get(record))
    assert "is damaged and is made again" in caplog.text


WRITER = """
import pickle, sys
from pathlib import Path
from hypoxnet.data.cache import PreparedCache
settings, records, folder = pickle.loads(Path(sys.argv[1]).read_bytes())
print("ready", flush=True)
while True:
    cache = PreparedCache(folder, settings)
    for record in records:
        cache.get(record)
        for path in folder.glob("*.safetensors"):
            path.unlink(missing_ok=True)
"""


def test_writers_killed_at_any_moment_leave_nothing_that_could_be_read_wrongly(tiny_settings, make_case, tmp_path):
    """Two processes fill one cache and are killed while they write; what is left is whole or not there."""
    import pickle

    records = [make_case(f"P{n}", seed=n) for n in range(2)]
    folder = tmp_path / "cache"
    plan = tmp_path / "plan"
    plan.write_bytes(pickle.dumps((tiny_settings, records, folder)))
    truth = [prepare(record, tiny_settings) for record in records]
    writers = [
        subprocess.Popen([sys.executable, "-c", WRITER, str(plan)], stdout=subprocess.PIPE, text=True) for _ in range(2)
    ]
    for writer in writers:
        assert writer.stdout.readline() == "ready\n"
    for writer, wait in zip(writers, (0.35, 0.25), strict=True):
        time.sleep(wait)
        os.kill(writer.pid, signal.SIGKILL)
        writer.wait()
        writer.stdout.close()
    cache = PreparedCache(folder, tiny_settings)
    for record, expected in zip(records, truth, strict=True):
        assert_same(expected, cache.get(record))
