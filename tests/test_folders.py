import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from hypoxnet.files import HOST, LEFT_BY_OTHERS_S, clear_leftovers, replacing_folder


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


def test_of_many_writers_at_once_each_leaves_a_whole_folder(tmp_path):
    def write(text):
        for _ in range(40):
            with replacing_folder(tmp_path / "a") as temporary:
                for name in ("one", "two"):
                    (temporary / name).write_text(text)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(write, "pqrs"))
    assert [p.name for p in tmp_path.iterdir()] == ["a"]
    texts = [p.read_text() for p in (tmp_path / "a").iterdir()]
    assert len(texts) == 2
    assert texts[0] == texts[1]


def test_writers_in_two_processes_do_not_fail_each_other(tmp_path):
    code = """
import sys
from pathlib import Path
from hypoxnet.files import replacing_folder
for number in range(150):
    with replacing_folder(Path(sys.argv[1]) / "a") as temporary:
        (temporary / "b").write_text("x")
"""
    processes = [subprocess.Popen([sys.executable, "-c", code, str(tmp_path)]) for _ in range(2)]
    assert [process.wait(timeout=60) for process in processes] == [0, 0]
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


def test_what_another_machine_writes_is_left_to_it_for_a_day(tmp_path):
    dead, elsewhere = ended_process(), "0" * 8 if HOST != "0" * 8 else "1" * 8
    fresh, stale = tmp_path / f".part-{elsewhere}.{dead}-x_1-a", tmp_path / f".part-{elsewhere}.{dead}-x_2-a"
    for folder in (fresh, stale, tmp_path / f".part-{HOST}.{dead}-x_3-a"):
        folder.mkdir()
    os.utime(stale, (time.time() - LEFT_BY_OTHERS_S - 1,) * 2)
    clear_leftovers(tmp_path / "a")
    assert list(tmp_path.iterdir()) == [fresh]
