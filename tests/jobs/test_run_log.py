"""The log of a run, on a disk that is full for a while."""

import errno
import logging

import pytest

from hypoxnet.jobs.run_folder import log_to


@pytest.fixture(autouse=True)
def handlers_as_before():
    root = logging.getLogger("hypoxnet")
    before = list(root.handlers), root.level, root.propagate
    yield
    for handler in root.handlers:
        handler.close()
    root.handlers, root.level, root.propagate = before


def test_a_full_disk_costs_the_file_lines_and_the_terminal_none(tmp_path, capsys):
    class Full:
        def __getattr__(self, name):
            def refused(*_):
                raise OSError(errno.ENOSPC, "No space left on device")

            return refused

    log_to(tmp_path / "run.log")
    log = logging.getLogger("hypoxnet.jobs")
    log.info("first")
    handler = logging.getLogger("hypoxnet").handlers[0]
    handler.stream.close()
    handler.stream = Full()
    log.info("second")
    log.info("third")
    assert [line.split(": ")[1] for line in (tmp_path / "run.log").read_text().splitlines()] == ["first", "third"]
    printed = capsys.readouterr()
    assert printed.out.splitlines() == ["first", "second", "third"]
    assert printed.err == ""
