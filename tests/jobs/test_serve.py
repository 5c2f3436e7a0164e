import csv
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from test_import import write_pet

from hypoxnet.cli import main
from hypoxnet.errors import ConfigError
from hypoxnet.files import HOST
from hypoxnet.inference.config import InferenceConfig
from hypoxnet.jobs import inbox as inbox_module
from hypoxnet.jobs import serve as serve_module
from hypoxnet.jobs.config import InferJobConfig
from hypoxnet.jobs.inbox import SILENT_S, Inbox, Item
from hypoxnet.jobs.infer import run_inference_job
from hypoxnet.jobs.results_folder import results_folder
from hypoxnet.jobs.serve import ServeRequest, serve

OF_THE_RUN = {".index.jsonl", ".item.json", "run.jsonl", "summary.json", "run.log"}


@pytest.fixture
def request_once(tiny_spec, make_bundle, tmp_path, monkeypatch):
    """A request that predicts what lies in the inbox and ends."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    (tmp_path / "inbox").mkdir()
    config = InferJobConfig(
        bundle=str(make_bundle(tiny_spec)),
        output=str(tmp_path / "out"),
        input="dicom",
        inference=InferenceConfig(device="cpu", windows_per_batch=2),
    )
    status = tmp_path / "out" / "serve.json"
    return ServeRequest(config, tmp_path / "inbox", status, every_s=0.01, settle_s=0.0, once=True)


@pytest.fixture
def put(make_case, tmp_path):
    """Puts a manifest of so many cases into the inbox; its paths are relative to the inbox."""

    def put_manifest(name, cases):
        lines = ["case_id,FMISO_SUV,T1W,GTVP,age"]
        for seed in cases:
            record = make_case(f"P{seed:03d}", seed=seed)
            files = [*record.channels.values(), *record.masks.values()]
            lines.append(",".join([record.case_id, *(f"../{p.relative_to(tmp_path).as_posix()}" for p in files), "61"]))
        path = tmp_path / "inbox" / name
        path.write_text("\n".join(lines) + "\n")
        return path

    return put_manifest


def contents(folder):
    files = (path for path in sorted(folder.rglob("*")) if path.is_file() and path.name not in OF_THE_RUN)
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def visible(folder):
    return sorted(path.name for path in folder.iterdir())


def test_manifests_are_predicted_as_by_infer_with_one_loading(request_once, put, tmp_path, monkeypatch):
    manifests = [put("monday.csv", [0, 1]), put("tuesday.csv", [2])]
    config = replace(request_once.config, input="manifest")
    for path in manifests:
        run_inference_job(replace(config, manifest=str(path), output=str(tmp_path / "alone" / path.stem)))
    load, loaded = serve_module.load_predictor, []
    monkeypatch.setattr(serve_module, "load_predictor", lambda *a: loaded.append(1) or load(*a))
    assert serve(request_once) == 0
    assert loaded == [1]
    for name in ("monday", "tuesday"):
        assert contents(tmp_path / "out" / name) == contents(tmp_path / "alone" / name)
    assert visible(tmp_path / "inbox") == ["done"]
    assert visible(tmp_path / "inbox" / "done") == ["monday.csv", "tuesday.csv"]
    said = json.loads((tmp_path / "out" / "serve.json").read_text())
    assert (said["state"], said["items_done"], said["cases_done"], said["last_error"]) == ("ended", 2, 3, "")
    assert said["seconds"].keys() == {"load", "last_item"}


def test_a_bad_file_goes_to_failed_with_its_reason_and_the_next_is_predicted(request_once, put, tmp_path):
    (tmp_path / "inbox" / "a.csv").write_text("case_id,FMSIO_SUV\nP1,a.nii\n")
    put("b.csv", [0])
    assert serve(request_once) == 2
    assert visible(tmp_path / "inbox" / "failed") == ["a.csv", "a.csv.reason.txt"]
    reason = (tmp_path / "inbox" / "failed" / "a.csv.reason.txt").read_text()
    assert reason.startswith("a.csv: 1 fault\n")
    assert "did you mean FMISO_SUV" in reason
    assert visible(tmp_path / "inbox" / "done") == ["b.csv"]
    said = json.loads((tmp_path / "out" / "serve.json").read_text())
    assert (said["items_done"], said["items_failed"], said["last_error"]) == (1, 1, "a.csv: 1 fault")


def test_a_failed_case_sends_its_manifest_to_failed_and_the_others_are_done(request_once, put, tmp_path):
    put("a.csv", [0, 1])
    (tmp_path / "images" / "P000" / "fmiso.nii.gz").write_bytes(b"damaged")
    assert serve(request_once) == 2
    lines = (tmp_path / "inbox" / "failed" / "a.csv.reason.txt").read_text().splitlines()
    assert lines[0] == f"1 of 2 cases failed, the others are done: {tmp_path / 'out' / 'a'}"
    assert lines[1].startswith("P000: FMISO_SUV")
    assert (tmp_path / "out" / "a" / "P001" / "P001.json").is_file()


def test_a_fault_of_the_program_does_not_stop_the_server(request_once, put, tmp_path, monkeypatch):
    put("a.csv", [0])
    put("b.csv", [1])
    predict, calls = serve_module.predict_cohort, []

    def broken_once(*arguments, **named):
        calls.append(1)
        if len(calls) == 1:
            raise ZeroDivisionError("no such thing")
        return predict(*arguments, **named)

    monkeypatch.setattr(serve_module, "predict_cohort", broken_once)
    assert serve(request_once) == 2
    assert "ZeroDivisionError: no such thing" in (tmp_path / "inbox" / "failed" / "a.csv.reason.txt").read_text()
    assert visible(tmp_path / "inbox" / "done") == ["b.csv"]


def test_the_same_name_again_keeps_the_earlier_file_and_the_finished_cases(request_once, put, tmp_path):
    for _ in range(2):
        put("a.csv", [0])
        assert serve(request_once) == 0
    assert visible(tmp_path / "inbox" / "done") == ["a.2.csv", "a.csv"]
    assert json.loads((tmp_path / "out" / "a" / "summary.json").read_text())["kept"] == 1


def naming_what_is_taken(folder):
    files = (path for path in (*folder.glob("out/**/*"), *folder.glob("inbox/failed/*.txt")) if path.is_file())
    return [path.name for path in files if b".taken-" in path.read_bytes()]


def predicted(folder):
    return [row["case_id"] for row in csv.DictReader((folder / "predictions.csv").read_text().splitlines())]


def test_other_content_of_the_same_name_gets_a_folder_of_its_own(request_once, put, tmp_path):
    for name, cases in (("a.csv", [0]), ("a.csv", [1]), ("a.tsv", [2])):
        path = put(name, cases)
        path.write_text(path.read_text().replace(",", "\t") if name.endswith("tsv") else path.read_text())
        assert serve(request_once) == 0
    out = tmp_path / "out"
    assert [predicted(out / name) for name in ("a", "a.2", "a.3")] == [["P000"], ["P001"], ["P002"]]
    put("a.csv", [1])
    assert serve(request_once) == 0
    assert json.loads((out / "a.2" / "summary.json").read_text())["kept"] == 1
    assert sorted(path.name for path in out.iterdir() if path.is_dir()) == ["a", "a.2", "a.3"]
    log = (out / "serve.log").read_text()
    assert f"a.csv: results go to {out / 'a.2'}" in log


def test_a_folder_that_no_server_made_is_not_written_into(request_once, put, tmp_path):
    (tmp_path / "out" / "a").mkdir(parents=True)
    (tmp_path / "out" / "a" / "predictions.csv").write_text("of infer.py")
    put("a.csv", [0])
    assert serve(request_once) == 0
    assert (tmp_path / "out" / "a" / "predictions.csv").read_text() == "of infer.py"
    assert predicted(tmp_path / "out" / "a.2") == ["P000"]


def test_of_many_servers_one_makes_the_folder_and_items_of_other_content_get_others(tmp_path):
    for number in range(4):
        (tmp_path / f"{number}.csv").write_text(str(number % 2))
    start, folders = threading.Barrier(4), {}

    def claim(number):
        start.wait()
        folders[number] = results_folder(tmp_path / "out", Item("a.csv", tmp_path / f"{number}.csv"))

    threads = [threading.Thread(target=claim, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert folders[0] == folders[2] != folders[1] == folders[3]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a", "a.2"]


def test_a_manifest_with_faults_leaves_no_folder_and_the_mended_one_takes_its_name(request_once, put, tmp_path):
    (tmp_path / "inbox" / "a.csv").write_text("case_id,FMSIO_SUV\nP1,a.nii\n")
    assert serve(request_once) == 2
    assert not (tmp_path / "out" / "a").exists()
    put("a.csv", [0])
    assert serve(request_once) == 0
    assert predicted(tmp_path / "out" / "a") == ["P000"]


def test_no_message_names_what_was_taken_otherwise_than_it_was_given(request_once, put, tmp_path):
    put("a.csv", [0, 1])
    (tmp_path / "images" / "P000" / "fmiso.nii.gz").write_bytes(b"damaged")
    (tmp_path / "inbox" / "study").mkdir()
    (tmp_path / "inbox" / "study" / "x.dcm").write_bytes(b"no DICOM")
    (tmp_path / "inbox" / "study" / ".ready").touch()
    assert serve(request_once) == 2
    assert naming_what_is_taken(tmp_path) == []
    assert "on 2 cases of a.csv" in (tmp_path / "out" / "a" / "run.log").read_text()
    assert (tmp_path / "inbox" / "failed" / "study.reason.txt").read_text().startswith("study: none of its 1")


def test_what_is_no_work_is_named_once(request_once, put, tmp_path):
    put("a.csv", [0])
    (tmp_path / "inbox" / "notes.txt").touch()
    (tmp_path / "inbox" / "study").mkdir()
    assert serve(request_once) == 0
    log = (tmp_path / "out" / "serve.log").read_text()
    assert log.count("notes.txt") == log.count("study") == 1
    assert "passed over in the inbox: notes.txt, study (a manifest ends in .csv or .tsv, a folder of DICOM has" in log
    inbox = Inbox(tmp_path / "inbox", settle_s=0.0)
    assert [inbox.passed_over() for _ in range(2)] == [["notes.txt", "study"], []]


def test_what_is_given_back_does_not_replace_what_came_under_its_name_meanwhile(tmp_path):
    inbox = Inbox(tmp_path, settle_s=0.0)
    (tmp_path / "a.csv").write_text("first")
    item = inbox.take()
    (tmp_path / "a.csv").write_text("second")
    assert inbox.give_back(item).read_text() == "first"
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"a.csv": "second", "a.2.csv": "first"}


def test_sigterm_ends_after_the_case_and_the_next_server_goes_on(request_once, put, tmp_path):
    path = put("a.csv", range(8))
    request = replace(
        request_once,
        once=False,
        config=replace(request_once.config, inference=replace(request_once.config.inference, cases_ahead=0)),
    )

    def stop():
        while not (tmp_path / "out" / "a" / "P001").exists():
            time.sleep(0.002)
        os.kill(os.getpid(), signal.SIGTERM)

    before = signal.getsignal(signal.SIGTERM)
    killer = threading.Thread(target=stop)
    killer.start()
    assert serve(request) == 0
    killer.join()
    assert signal.getsignal(signal.SIGTERM) is before
    done = [p.name for p in (tmp_path / "out" / "a").iterdir() if p.name.startswith("P")]
    assert 2 <= len(done) < 8
    assert visible(tmp_path / "inbox") == ["a.csv"]
    assert json.loads((tmp_path / "out" / "serve.json").read_text())["state"] == "ended"
    assert serve(replace(request, once=True)) == 0
    summary = json.loads((tmp_path / "out" / "a" / "summary.json").read_text())
    assert (summary["kept"], summary["kept"] + summary["predicted"]) == (len(done), 8)
    assert not path.exists()


def test_a_study_of_dicom_is_taken_when_it_says_ready(request_once, make_spec, make_bundle, tiny_settings, tmp_path):
    settings = replace(tiny_settings, channels=("FMISO_SUV",), norms=tiny_settings.norms[:1])
    bundle = make_bundle(make_spec(settings), name="pet")
    request = replace(request_once, config=replace(request_once.config, bundle=str(bundle), output_format=["seg"]))
    write_pet(tmp_path / "inbox" / "study" / "series")
    assert serve(request) == 0
    assert visible(tmp_path / "inbox") == ["study"]
    (tmp_path / "inbox" / "study" / ".ready").touch()
    assert serve(request) == 0
    assert visible(tmp_path / "inbox") == ["done"]
    assert visible(tmp_path / "inbox" / "done" / "study") == ["series"]
    (row,) = csv.DictReader((tmp_path / "out" / "study" / "predictions.csv").read_text().splitlines())
    assert row["status"] == "ok"
    assert len(list((tmp_path / "out" / "study" / "dicom").glob("*.dcm"))) == 1
    assert naming_what_is_taken(tmp_path) == []


def test_a_file_that_still_grows_is_left_until_it_is_whole(tmp_path, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(inbox_module.time, "monotonic", lambda: now[0])
    inbox, path = Inbox(tmp_path, settle_s=2.0), tmp_path / "a.csv"
    for text in ("case", "case_id", "case_id\nP1"):
        path.write_text(text)
        assert inbox.take() is None
        now[0] += 1.9
    assert inbox.take() is None
    now[0] += 0.2
    item = inbox.take()
    assert item.name == "a.csv"
    assert item.path.read_text() == "case_id\nP1"
    assert [path.name for path in (tmp_path / "a.csv", tmp_path / "b.txt") if path.exists()] == []


def test_of_many_servers_each_item_is_taken_by_one(tmp_path):
    for number in range(200):
        (tmp_path / f"{number:03d}.csv").write_text("x")
    taken, start = [], threading.Barrier(4)

    def serve_all():
        inbox = Inbox(tmp_path, settle_s=0.0)
        start.wait()
        while (item := inbox.take()) is not None or inbox.waiting():
            if item is not None:
                taken.append(item.name)

    threads = [threading.Thread(target=serve_all) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(taken) == [f"{number:03d}.csv" for number in range(200)]


def test_what_a_server_that_is_gone_had_taken_lies_in_the_inbox_again(tmp_path):
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    elsewhere = "0" * 8
    (tmp_path / f".taken-{HOST}.{ended.pid}-gone.csv").touch()
    (tmp_path / f".taken-{HOST}.{os.getpid()}-restarted.csv").touch()
    (tmp_path / f".taken-{HOST}.{os.getppid()}-living.csv").touch()
    (tmp_path / f".taken-{elsewhere}.{ended.pid}-elsewhere.csv").touch()
    silent = tmp_path / f".taken-{elsewhere}.{ended.pid}-silent"
    silent.mkdir()
    os.utime(silent, (time.time() - SILENT_S - 1,) * 2)
    assert sorted(Inbox(tmp_path, settle_s=0.0).recover()) == ["gone.csv", "restarted.csv", "silent"]
    assert (tmp_path / "silent" / ".ready").is_file()
    assert sorted(p.name for p in tmp_path.iterdir() if p.name.startswith(".")) == [
        f".taken-{elsewhere}.{ended.pid}-elsewhere.csv",
        f".taken-{HOST}.{os.getppid()}-living.csv",
    ]


def test_a_folder_of_results_is_named_by_the_item():
    assert Item("night.2024.csv", Path("x.csv")).stem == "night.2024"


def test_a_second_server_with_the_same_status_file_is_refused(request_once, tmp_path):
    (tmp_path / "out").mkdir()
    content = {"state": "waiting", "host": "another", "pid": 7, "heartbeat": time.time()}
    (tmp_path / "out" / "serve.json").write_text(json.dumps(content))
    with pytest.raises(ConfigError, match=r"another server \(process 7 on another\); give this one --status"):
        serve(request_once)
    (tmp_path / "out" / "serve.json").write_text(json.dumps(content | {"heartbeat": time.time() - 600}))
    assert serve(request_once) == 0


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["{b}", "--watch", "{t}/none", "--output", "{t}/out"], "--watch .*none is not a folder; make it first"),
        (["{t}/none", "--watch", "{t}/inbox", "--output", "{t}/out"], "none is not a folder; give the folder that"),
        (["{b}", "--watch", "{t}/inbox", "--output", "{t}/inbox/out"], "lie in each other; give two separate folders"),
        (["{b}", "--watch", "{t}/inbox", "--output", "{t}/out", "--every-s", "-1"], "--every-s is -1.0, it must be"),
    ],
)
def test_what_cannot_be_served_is_one_sentence(request_once, tmp_path, capsys, arguments, sentence):
    filled = [argument.format(b=request_once.config.bundle, t=tmp_path) for argument in arguments]
    assert main(["serve", *filled]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert re.search(sentence, line)
    assert not (tmp_path / "out").exists()
