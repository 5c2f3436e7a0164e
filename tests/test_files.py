import errno
import json
import shutil

import pytest

from hypoxnet.files import DiskError, replacing, replacing_folder, sha256_of, write_json, write_text


def test_a_failed_write_leaves_the_old_file_and_no_remains(tmp_path):
    target = tmp_path / "a.txt"
    write_text(target, "old")

    def fail() -> None:
        with replacing(target) as temporary:
            temporary.write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert target.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]


def test_temporary_name_keeps_the_suffixes_libraries_look_at(tmp_path):
    with replacing(tmp_path / "a.nii.gz") as temporary:
        assert temporary.name.endswith(".nii.gz")
        temporary.write_bytes(b"x")


def test_json_refuses_nan(tmp_path):
    with pytest.raises(ValueError, match="Out of range float"):
        write_json(tmp_path / "a.json", {"x": float("nan")})
    assert not (tmp_path / "a.json").exists()
    write_json(tmp_path / "a.json", {"x": 1.5})
    assert json.loads((tmp_path / "a.json").read_text()) == {"x": 1.5}


def test_one_changed_byte_changes_the_digest(tmp_path):
    (tmp_path / "a").write_bytes(b"\x00" * 100)
    (tmp_path / "b").write_bytes(b"\x00" * 99 + b"\x01")
    assert sha256_of(tmp_path / "a") != sha256_of(tmp_path / "b")


FULL = "the disk is full; what is finished stays, make space and the same command goes on"


@pytest.mark.parametrize("writing", [replacing, replacing_folder])
@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        ValueError("Error while serializing: I/O error: No space left on device (os error 28)"),
    ],
)
def test_a_full_disk_is_a_sentence_that_names_the_folder(tmp_path, writing, error):
    with pytest.raises(DiskError) as refused, replacing_folder(tmp_path / "a") as temporary, writing(temporary / "b"):
        raise error
    assert str(refused.value) == f"{tmp_path}: {FULL}"
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_seen_behind_what_a_library_makes_of_it(tmp_path):
    def fail():
        try:
            raise OSError(errno.ENOSPC, "No space left on device")
        except OSError as error:
            raise ValueError("cannot be written; choose another form") from error

    with pytest.raises(DiskError, match=FULL), replacing_folder(tmp_path / "a"):
        fail()


@pytest.mark.parametrize(("free", "expected"), [(0, DiskError), (2**20, RuntimeError)])
def test_a_library_that_does_not_say_why_it_failed_is_asked_of_the_disk(tmp_path, monkeypatch, free, expected):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(2**20, 2**20 - free, free))
    with pytest.raises(expected), replacing_folder(tmp_path / "a"):
        raise RuntimeError("writing failed")


def test_a_file_in_the_way_of_a_folder_is_named(tmp_path):
    (tmp_path / "a").write_text("here")
    with pytest.raises(DiskError) as refused:
        write_text(tmp_path / "a" / "b" / "c.txt", "text")
    assert str(refused.value) == f"{tmp_path / 'a'} is a file, a folder is to be written there; choose another place"
