"""Train on a cohort and evaluate on withheld patients: `python train.py data.manifest=cohort.csv`."""

from pathlib import Path

from hypoxnet.config.launch import launch
from hypoxnet.jobs.config import TrainJobConfig


def job(config: TrainJobConfig) -> int:
    """Run the job; its libraries are loaded only now, so that `--help` answers at once."""
    from hypoxnet.jobs.train import run_training_job

    return run_training_job(config)


if __name__ == "__main__":
    launch(Path(__file__).parent / "configs", "train", TrainJobConfig, job)
