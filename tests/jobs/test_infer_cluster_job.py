import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from hypoxnet.config.launch import refuse_without_launcher
from hypoxnet.errors import ConfigError
from hypoxnet.inference.cluster.config import ClusterConfig
from hypoxnet.inference.config import InferenceConfig
from hypoxnet.inference.tally import InferenceRun
from hypoxnet.jobs import infer
from hypoxnet.jobs.config import InferJobConfig
from hypoxnet.jobs.infer import run_inference_job

ROOT = Path(__file__).parents[2]


@pytest.fixture
def config(tiny_spec, make_bundle, make_case, tmp_path):
    """Three cases, their paths relative to the manifest."""
    lines = ["case_id,FMISO_SUV,T1W,GTVP,age"]
    for seed in range(3):
        record = make_case(f"P{seed:03d}", seed=seed)
        files = [*record.channels.values(), *record.masks.values()]
        lines.append(",".join([record.case_id, *(str(path.relative_to(tmp_path)) for path in files), "61"]))
    (tmp_path / "cohort.csv").write_text("\n".join(lines) + "\n")
    return InferJobConfig(
        bundle=str(make_bundle(tiny_spec)),
        manifest=str(tmp_path / "cohort.csv"),
        output=str(tmp_path / "parts"),
        inference=InferenceConfig(device="cpu", windows_per_batch=2),
    )


def test_the_parts_of_a_job_make_the_table_of_the_whole_and_log_apart(config, tmp_path):
    assert run_inference_job(replace(config, output=str(tmp_path / "alone"))) == 0
    for shard in ("2/2", "1/2"):
        assert run_inference_job(replace(config, shard=shard)) == 0
    parts = tmp_path / "parts"
    assert (parts / "predictions.csv").read_bytes() == (tmp_path / "alone" / "predictions.csv").read_bytes()
    assert sorted(p.parent.name for p in parts.rglob("run.log")) == ["1-of-2", "2-of-2"]


def test_a_part_with_a_failed_case_ends_with_2_and_the_others_with_0(config, tmp_path):
    (tmp_path / "images" / "P001" / "fmiso.nii.gz").write_bytes(b"damaged")
    assert [run_inference_job(replace(config, shard=shard)) for shard in ("1/3", "2/3", "3/3")] == [0, 2, 0]


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"shard": "5/4"}, "shard is '5/4', it must be a part"),
        ({"shard": "1/2", "input": "dicom", "folder": "x"}, "every part would import the same DICOM"),
        ({"shard": "1/2", "cluster": ClusterConfig(workers=2)}, "give one of the two"),
    ],
)
def test_what_does_not_go_together_is_refused(config, changes, sentence):
    with pytest.raises(ConfigError, match=sentence):
        replace(config, **changes)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"workers": -1}, r"cluster\.workers is -1, it must be at least 0"),
        ({"attempts": 0}, r"cluster\.attempts is 0, it must be at least 1"),
        ({"case_limit_s": 0.0}, r"cluster\.case_limit_s is 0\.0, it must be above 0 s"),
        ({"workers": 2, "scheduler": "tcp://a:8786"}, "give one of the two"),
    ],
)
def test_impossible_cluster_settings_are_refused(settings, sentence):
    with pytest.raises(ConfigError, match=sentence):
        ClusterConfig(**settings)


def test_without_dask_the_remedy_is_named_before_anything_is_written(config, monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(ConfigError, match=r"not installed; install it with: pip install 'hypoxnet\[cluster\]'"):
        run_inference_job(replace(config, cluster=ClusterConfig(workers=2)))
    assert not Path(config.output).exists()


def test_workers_take_the_threads_of_this_process_and_the_folder_of_relative_paths(config, set_threads, monkeypatch):
    told = {}

    def run(predictor, records, output, **named):
        told.update(named)
        return InferenceRun(output / "predictions.csv", (), (), {})

    monkeypatch.setattr(infer, "run_on_cluster", run)
    set_threads(4)
    run_inference_job(replace(config, cluster=ClusterConfig(workers=2)))
    assert told["work"].threads == told["config"].threads == 4
    assert told["work"].folder is None
    monkeypatch.chdir(Path(config.manifest).parent)
    run_inference_job(replace(config, manifest="cohort.csv", cluster=ClusterConfig(workers=2, threads=3)))
    assert told["work"].threads == told["config"].threads == 3
    assert told["work"].folder == Path.cwd()


def test_without_submitit_the_remedy_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "hydra_plugins.hydra_submitit_launcher", None)
    with pytest.raises(ConfigError, match=r"hydra/launcher=submitit_local needs .* pip install 'hypoxnet\[cluster\]'"):
        refuse_without_launcher(["-m", "hydra/launcher=submitit_local"])
    refuse_without_launcher(["-m", "hydra/launcher=basic"])


def test_settings_load_no_dask():
    check = "import sys, hypoxnet.jobs.config; print(sorted({'dask', 'distributed', 'torch'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True).stdout == "[]\n"


@pytest.mark.slow
def test_submitit_runs_every_part_in_a_process_of_its_own_and_tells_of_failures(config, tmp_path):
    assert run_inference_job(replace(config, output=str(tmp_path / "alone"))) == 0
    command = [sys.executable, str(ROOT / "infer.py"), "-m", "hydra/launcher=submitit_local", "shard=1/2,2/2"]
    command += [f"{key}={getattr(config, key)}" for key in ("bundle", "manifest", "output")]
    command += ["inference.device=cpu", "inference.windows_per_batch=2"]
    assert subprocess.run(command, cwd=tmp_path, check=False).returncode == 0
    table = tmp_path / "parts" / "predictions.csv"
    assert table.read_bytes() == (tmp_path / "alone" / "predictions.csv").read_bytes()
    (tmp_path / "images" / "P001" / "fmiso.nii.gz").write_bytes(b"damaged")
    done = subprocess.run(command, cwd=tmp_path, check=False, capture_output=True, text=True)
    assert done.returncode == 2
    assert "a job of several ended with status 2" in done.stderr
    assert "Traceback" not in done.stderr
