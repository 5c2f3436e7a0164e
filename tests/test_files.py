import json

import pytest

from hypoxnet.files import replacing, sha256_of, write_json, write_text


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
