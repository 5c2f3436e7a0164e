import errno
import json
import threading
import time
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import pytest

from hypoxnet.files import DiskError, write_json
from hypoxnet.inference import one_case, writing
from hypoxnet.inference.batching import MOST_ON_CPU
from hypoxnet.inference.config import InferenceConfig
from hypoxnet.inference.index import Index, fingerprint
from hypoxnet.inference.one_case import OneCase, keep_if_finished, keep_if_known, predict_into
from hypoxnet.inference.pipeline import run_cases
from hypoxnet.inference.predictor import load_predictor
from hypoxnet.inference.run import run_inference

CPU = InferenceConfig(device="cpu")


@pytest.fixture
def predictor(tiny_spec, make_bundle):
    return load_predictor(make_bundle(tiny_spec), CPU)


@pytest.fixture
def cohort(make_case):
    return [make_case(f"P{seed:03d}", seed=seed) for seed in range(4)]


def maps(folder):
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.glob("*/*")) if p.is_file()}


def lines(folder, event):
    said = [json.loads(line) for line in (folder / "run.jsonl").read_text(encoding="utf-8").splitlines()]
    return [line for line in said if line["event"] == event]


@pytest.fixture
def hashed(monkeypatch):
    """Names of the files whose content is hashed."""
    names, sha256_of = [], one_case.finished.__globals__["sha256_of"]

    def noted(path):
        names.append(path.name)
        return sha256_of(path)

    monkeypatch.setattr("hypoxnet.inference.predictor.sha256_of", noted)
    monkeypatch.setattr("hypoxnet.inference.writing.sha256_of", noted)
    return names


# One case


def test_one_case_is_written_and_told_in_a_row(predictor, cohort, tmp_path):
    row = predict_into(predictor, cohort[0], tmp_path)
    said = json.loads((tmp_path / "P000" / "P000.json").read_text())
    assert (row["status"], row["tumour_ml"]) == ("ok", said["tumour_ml"])
    assert keep_if_finished(predictor, cohort[0], tmp_path) == row


def test_one_case_that_cannot_be_read_is_a_row_with_its_reason(predictor, cohort, tmp_path):
    cohort[0].channels["T1W"].write_bytes(b"not an image")
    row = predict_into(predictor, cohort[0], tmp_path)
    assert row["status"] == "failed"
    assert "P000: T1W" in row["reason"]
    assert not (tmp_path / "P000").exists()
    assert keep_if_finished(predictor, cohort[0], tmp_path) is None


@pytest.fixture
def full_disk(monkeypatch):
    """A disk that takes no image after the first case; names of those that were to be written."""
    asked, save = [], nib.save

    def refused(image, path):
        asked.append(path.name.split("-", 2)[2].split("_")[0])
        if len(set(asked)) > 1:
            raise OSError(errno.ENOSPC, "No space left on device")
        save(image, path)

    monkeypatch.setattr("hypoxnet.images.nib.save", refused)
    return asked


def test_a_full_disk_is_the_reason_of_no_case(predictor, cohort, tmp_path, full_disk):
    predict_into(predictor, cohort[0], tmp_path)
    with pytest.raises(DiskError, match=f"^{tmp_path}: the disk is full; what is finished stays, make space and"):
        predict_into(predictor, cohort[1], tmp_path)
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith((".", "P"))] == ["P000"]


@pytest.mark.parametrize("ahead", [0, 1])
def test_a_full_disk_ends_the_run_and_it_goes_on_later(
    tiny_spec, make_bundle, cohort, tmp_path, full_disk, monkeypatch, ahead
):
    predictor, output = load_predictor(make_bundle(tiny_spec), replace(CPU, cases_ahead=ahead)), tmp_path / "p"
    with pytest.raises(DiskError, match="the disk is full"):
        run_inference(predictor, cohort, output)
    assert len(set(full_disk)) <= 2 + ahead
    summary = json.loads((output / "summary.json").read_text())
    assert (summary["failed"], summary["predicted"], summary["interrupted"]) == ({}, 1, True)
    assert [path.name for path in output.iterdir() if path.is_dir()] == ["P000"]
    monkeypatch.undo()
    run = run_inference(predictor, cohort, output)
    assert (run.kept, run.predicted, run.failed) == (("P000",), ("P001", "P002", "P003"), {})


def test_a_disk_that_takes_nothing_at_all_is_said_once(predictor, cohort, tmp_path, full_disk, monkeypatch):
    def refused(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    run_inference(predictor, cohort[:1], tmp_path / "p")
    monkeypatch.setattr(Path, "write_text", refused)
    with pytest.raises(DiskError) as stopped:
        run_inference(predictor, cohort, tmp_path / "p")
    assert str(stopped.value).startswith(f"{tmp_path / 'p'}: the disk is full")
    assert not isinstance(stopped.value.__context__, DiskError)


def test_what_cannot_be_completed_is_the_reason_of_the_case(predictor, cohort, tmp_path):
    def refuse(record):
        raise OSError(f"{record.case_id} has no raw series")

    row = predict_into(predictor, cohort[0], tmp_path, refuse)
    assert row["reason"] == "P000: P000 has no raw series"


# The pipeline


@pytest.mark.parametrize("mirror", [False, True])
def test_overlapping_cases_give_the_same_bytes_as_one_after_another(tiny_spec, make_bundle, cohort, tmp_path, mirror):
    cohort[1].channels["FMISO_SUV"].unlink()
    folder = make_bundle(tiny_spec, seeds=(1, 2))
    for ahead in (0, 1, 3):
        predictor = load_predictor(folder, replace(CPU, cases_ahead=ahead, mirror=mirror))
        assert set(run_inference(predictor, cohort, tmp_path / str(ahead)).failed) == {"P001"}
    tables = {(tmp_path / str(ahead) / "predictions.csv").read_bytes() for ahead in (0, 1, 3)}
    assert len(tables) == 1
    assert maps(tmp_path / "0") == maps(tmp_path / "1") == maps(tmp_path / "3")


def test_several_threads_of_torch_change_no_byte_of_overlapping_cases(
    tiny_spec, make_bundle, cohort, set_threads, tmp_path
):
    folder = make_bundle(tiny_spec)
    set_threads(2)
    for ahead in (0, 2):
        run_inference(load_predictor(folder, replace(CPU, cases_ahead=ahead)), cohort, tmp_path / str(ahead))
    assert maps(tmp_path / "0") == maps(tmp_path / "2")


class Slow:
    """A case whose stages take a moment and are counted."""

    alive, most, lock = 0, 0, threading.Lock()

    def __init__(self, number):
        self.number, self.threads = number, {}
        with Slow.lock:
            Slow.alive += 1
            Slow.most = max(Slow.most, Slow.alive)

    def _stage(self, name):
        self.threads[name] = threading.current_thread()
        time.sleep(0.001)
        return self

    def prepare(self):
        return self._stage("prepare")

    def predict(self):
        return self._stage("predict")

    def write(self):
        return self._stage("write")


@pytest.mark.parametrize("ahead", [0, 1, 3])
def test_cases_are_told_in_order_and_few_are_alive(ahead):
    Slow.alive = Slow.most = 0
    told = []

    def tell(case):
        told.append(case)
        with Slow.lock:
            Slow.alive -= 1

    run_cases((Slow(number) for number in range(40)), tell, ahead=ahead)
    assert [case.number for case in told] == list(range(40))
    assert Slow.most <= 2 * ahead + 2
    main = threading.main_thread()
    assert all(case.threads["predict"] is main for case in told)
    assert all((case.threads["prepare"] is main) == (ahead == 0) for case in told)


def test_an_interrupt_tells_of_what_is_being_written():
    told, cases = [], [Slow(number) for number in range(6)]

    def interrupt():
        raise KeyboardInterrupt

    cases[3].predict = interrupt
    with pytest.raises(KeyboardInterrupt):
        run_cases(iter(cases), told.append, ahead=2)
    assert [case.number for case in told] == [0, 1, 2]


def test_a_fault_of_the_program_ends_the_run_and_is_no_row(predictor, cohort, tmp_path, monkeypatch):
    def broken(record):
        raise ZeroDivisionError

    monkeypatch.setattr(predictor, "prepare", broken)
    with pytest.raises(ZeroDivisionError):
        run_inference(predictor, cohort, tmp_path / "out")


# What a run says of itself


def test_every_case_has_a_line_with_its_seconds_by_stage(predictor, cohort, tmp_path):
    cohort[1].channels["FMISO_SUV"].unlink()
    run_inference(predictor, cohort, tmp_path / "out")
    said = lines(tmp_path / "out", "case")
    assert [line["case"] for line in said] == ["P000", "P001", "P002", "P003"]
    assert [line["status"] for line in said] == ["ok", "failed", "ok", "ok"]
    assert list(said[0]["seconds"]) == ["read", "prepare", "predict", "write"]
    assert list(said[1]["seconds"]) == ["read", "prepare"]
    assert "does not exist" in said[1]["reason"]
    assert all(line["time"] for line in said)


def test_the_summary_names_failures_first_and_the_log_as_well(predictor, cohort, tmp_path, caplog):
    cohort[1].channels["FMISO_SUV"].unlink()
    run_inference(predictor, cohort[:1], tmp_path / "out")
    with caplog.at_level("INFO", logger="hypoxnet"):
        run_inference(predictor, cohort, tmp_path / "out")
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert next(iter(summary)) == "failed"
    assert list(summary["failed"]) == ["P001"]
    assert (summary["cases"], summary["kept"], summary["predicted"]) == (4, 1, 2)
    assert 0 < summary["device_busy"] <= 1
    assert summary["cases_per_minute"] == pytest.approx(3 * 60 / summary["elapsed_s"], rel=1e-3)
    assert "failed: P001" in caplog.messages[-2]
    assert caplog.messages[-1].startswith("1 failed, 2 predicted, 1 kept; ")
    begin, end = lines(tmp_path / "out", "begin")[-1], lines(tmp_path / "out", "end")[-1]
    assert (begin["cases"], begin["kept"], end["failed"], end["windows_per_batch"]) == (4, 1, 1, MOST_ON_CPU)


@pytest.mark.parametrize("name", ["run.jsonl", "summary.json", "run.log"])
def test_a_case_cannot_be_called_like_a_file_of_the_run(predictor, cohort, tmp_path, name):
    from hypoxnet.errors import CaseError

    with pytest.raises(CaseError, match="cannot be the name of a folder"):
        run_inference(predictor, [replace(cohort[0], case_id=name)], tmp_path / "out")


# The index


def test_a_restart_hashes_no_file_and_completes_no_case(predictor, cohort, tmp_path, hashed):
    run_inference(predictor, cohort, tmp_path / "out")
    before = (tmp_path / "out" / "predictions.csv").read_bytes()
    hashed.clear()

    def never(record):
        raise AssertionError

    run = run_inference(predictor, cohort, tmp_path / "out", complete=never)
    assert run.kept == ("P000", "P001", "P002", "P003")
    assert hashed == []
    assert (tmp_path / "out" / "predictions.csv").read_bytes() == before


def test_a_file_that_looks_different_is_hashed_and_the_case_kept_when_its_content_is_the_same(
    predictor, cohort, tmp_path, hashed
):
    run_inference(predictor, cohort, tmp_path / "out")
    path = cohort[2].channels["T1W"]
    path.write_bytes(path.read_bytes())
    mask = tmp_path / "out" / "P003" / "P003_hsv_mask.nii.gz"
    mask.write_bytes(mask.read_bytes())
    hashed.clear()
    assert len(run_inference(predictor, cohort, tmp_path / "out").kept) == 4
    assert {"t1w.nii.gz", "P003_hsv_mask.nii.gz"} <= set(hashed)
    hashed.clear()
    assert len(run_inference(predictor, cohort, tmp_path / "out").kept) == 4
    assert hashed == []


@pytest.mark.parametrize("damage", ["lost", "cut", "garbage", "other version"])
def test_a_lost_or_damaged_index_costs_only_time(predictor, cohort, tmp_path, damage, monkeypatch, caplog):
    out = tmp_path / "out"
    run_inference(predictor, cohort, out)
    before, table = maps(out), (out / "predictions.csv").read_bytes()
    index = out / ".index.jsonl"
    if damage == "lost":
        index.unlink()
    elif damage == "cut":
        index.write_bytes(index.read_bytes()[:-40])
    elif damage == "garbage":
        index.write_bytes(b"\xff\xfe\x00 not JSON\n[1, 2]\n{}\n")
    else:
        monkeypatch.setattr("hypoxnet.inference.index.VERSION", 99)
    for _ in range(2):
        assert len(run_inference(predictor, cohort, out).kept) == 4
    assert (maps(out), (out / "predictions.csv").read_bytes()) == (before, table)
    assert ("are damaged" in caplog.text) == (damage in {"cut", "garbage"})


def test_a_failed_case_is_never_kept(predictor, cohort, tmp_path):
    image = cohort[1].channels["T1W"]
    whole = image.read_bytes()
    image.unlink()
    assert set(run_inference(predictor, cohort, tmp_path / "out").failed) == {"P001"}
    assert set(run_inference(predictor, cohort, tmp_path / "out").failed) == {"P001"}
    image.write_bytes(whole)
    assert run_inference(predictor, cohort, tmp_path / "out").predicted == ("P001",)


def test_what_a_worker_finished_elsewhere_is_kept_and_then_known(predictor, cohort, tmp_path, hashed):
    predict_into(predictor, cohort[0], tmp_path)
    index = Index.open(tmp_path / "index")
    row = keep_if_known(predictor, cohort[0], tmp_path, index)
    hashed.clear()
    assert keep_if_known(predictor, cohort[0], tmp_path, Index.open(tmp_path / "index")) == row
    assert hashed == []


def test_a_sidecar_of_a_raw_series_is_looked_at(predictor, cohort, tmp_path):
    series = tmp_path / "dce.nii.gz"
    series.write_bytes(b"1")
    record = replace(cohort[0], raw={"RAW_DCE": (series,)})
    before = fingerprint(predictor, record)
    (tmp_path / "dce.json").write_text("{}")
    assert before != fingerprint(predictor, record)


def test_a_case_without_one_of_its_files_has_no_fingerprint(predictor, cohort):
    cohort[0].masks["GTVP"].unlink()
    assert fingerprint(predictor, cohort[0]) is None


def test_an_index_forgets_lines_that_were_replaced(tmp_path):
    path = tmp_path / "index.jsonl"
    index = Index.open(path)
    for round_ in range(30):
        for key in ("A", "B"):
            index.add(key, {"case_id": key, "round": round_})
    again = Index.open(path)
    assert len(path.read_bytes().splitlines()) == 2
    again.add("C", {"case_id": "C"})
    assert [Index.open(path).row(key) for key in "ABC"] == [
        {"case_id": "A", "round": 29},
        {"case_id": "B", "round": 29},
        {"case_id": "C"},
    ]


def test_a_case_reads_its_marks_before_its_files(predictor, cohort, tmp_path):
    """A file that changes while it is predicted is seen to have changed by the next run."""
    path = cohort[0].channels["T1W"]

    def changing(record):
        path.write_bytes(path.read_bytes() + b"\0")
        return record

    case = OneCase(predictor, cohort[0], tmp_path / "out", changing)
    case.prepare()
    assert case.mark != fingerprint(predictor, cohort[0])


def test_a_file_of_the_run_that_was_removed_is_made_again(predictor, cohort, tmp_path):
    out = tmp_path / "out"
    run_inference(predictor, cohort, out)
    (out / "predictions.csv").unlink()
    write_json(out / "summary.json", {})
    run_inference(predictor, cohort, out)
    assert (out / "predictions.csv").read_text().count("\n") == 5
    assert json.loads((out / "summary.json").read_text())["kept"] == 4


def test_two_runs_that_append_to_one_index_each_find_their_rows(tmp_path):
    one, other = Index.open(tmp_path / "index"), Index.open(tmp_path / "index")
    for number in range(4):
        one.add(f"A{number}", {"case_id": f"A{number}"})
        other.add(f"B{number}", {"case_id": f"B{number}", "notes": "x" * number})
    assert [one.row(f"A{n}") for n in range(4)] == [{"case_id": f"A{n}"} for n in range(4)]
    assert other.row("B3") == {"case_id": "B3", "notes": "xxx"}
    assert len(Index.open(tmp_path / "index").places) == 8


def test_an_index_that_is_taken_away_while_a_run_goes_on_leaves_the_table_whole(
    predictor, cohort, tmp_path, monkeypatch
):
    cohort[1].channels["FMISO_SUV"].unlink()
    run_inference(predictor, cohort, tmp_path / "whole")
    monkeypatch.setattr(Index, "row", lambda self, key: None)
    run_inference(predictor, cohort, tmp_path / "out")
    tables = [(tmp_path / name / "predictions.csv").read_bytes() for name in ("whole", "out")]
    assert tables[0] == tables[1]


def test_a_run_that_is_killed_leaves_no_summary_of_an_earlier_one(predictor, cohort, tmp_path, monkeypatch):
    run_inference(predictor, cohort[:2], tmp_path, progress=False)
    assert (tmp_path / "summary.json").is_file()

    def killed(*_, **__):
        raise SystemExit("as if by the system, before anything could be told")

    monkeypatch.setattr("hypoxnet.inference.journal.Journal.end", lambda *_, **__: None)
    monkeypatch.setattr("hypoxnet.inference.run.run_cases", killed)
    with pytest.raises(SystemExit):
        run_inference(predictor, cohort, tmp_path, progress=False)
    assert not (tmp_path / "summary.json").exists()


@pytest.mark.parametrize("looks", [1, 2])
def test_a_folder_that_another_run_exchanges_while_it_is_looked_at_is_not_foreign(tmp_path, monkeypatch, looks):
    (tmp_path / "P1").mkdir()
    (tmp_path / "P1" / "P1.json").write_text("{}")
    seen = iter([None] * looks + [{"files": {}}])
    monkeypatch.setattr(writing, "read_prediction", lambda *_: next(seen))
    writing.refuse_foreign(tmp_path / "P1", "P1")
    assert next(seen, "looked as often as it took") == "looked as often as it took"
