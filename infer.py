"""Apply a bundle to a cohort: `python infer.py bundle=DIR manifest=cohort.csv output=DIR`."""

from pathlib import Path

from hypoxnet.config.launch import launch
from hypoxnet.jobs.config import InferJobConfig


def job(config: InferJobConfig) -> int:
    """Run the job; its libraries are loaded only now, so that `--help` answers at once."""
    from hypoxnet.jobs.infer import run_inference_job

    return run_inference_job(config)


if __name__ == "__main__":
    launch(Path(__file__).parent / "configs", "infer", InferJobConfig, job)
