import subprocess
import sys

import pytest

from hypoxnet.files import clear_leftovers, replacing_folder


def ended_process() -> int:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_a_folder_is_replaced_whole(tmp_path):
    for text in ("first", "second"):
        with replacing_folder(tmp_path / "a") as temporary:
            (temporary / f"{text}.txt").write_text(text)
    assert [p.name for p in (tmp_path / "a").iterdir()] == ["second.txt"]
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


def test_a_failure_leaves_the_former_folder_and_no_remains(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "old").touch()

    def fail() -> None:
        with replacing_folder(tmp_path / "a") as temporary:
            (temporary / "new").touch()
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert [p.name for p in (tmp_path / "a").iterdir()] == ["old"]
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


def test_a_file_is_not_replaced_by_a_folder(tmp_path):
    (tmp_path / "a").touch()
    with pytest.raises(NotADirectoryError, match="is a file"), replacing_folder(tmp_path / "a"):
        pass


def test_remains_of_a_killed_process_are_cleared_and_those_of_a_living_one_kept(tmp_path):
    import os

    dead, names = ended_process(), (f".part-{os.getpid()}-x_1-a", ".part-x_1-a", "a")
    for name in (f".part-{dead}-x_1-a", f".old-{dead}-x_1-a", f".part-{dead}-x_1-b", *names):
        (tmp_path / name).mkdir()
    clear_leftovers(tmp_path / "a")
    assert {p.name for p in tmp_path.iterdir()} == {f".part-{dead}-x_1-b", *names}


def test_what_was_moved_aside_by_a_killed_process_is_put_back(tmp_path):
    aside = tmp_path / f".old-{ended_process()}-x_1-a"
    aside.mkdir()
    (aside / "old").touch()
    clear_leftovers(tmp_path / "a")
    assert (tmp_path / "a" / "old").exists()
