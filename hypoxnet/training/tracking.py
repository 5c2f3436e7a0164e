"""Where a run is followed: a CSV that is always written, and wandb by configuration.

Only scalars go out. Patient identifiers never leave the machine.
"""

from __future__ import annotations

import csv
import io
import logging
import os
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.loggers import Logger

from hypoxnet.errors import ConfigError
from hypoxnet.files import write_text
from hypoxnet.training.config import TrackingConfig
from hypoxnet.training.module import HypoxModule

log = logging.getLogger(__name__)


class History(pl.Callback):
    """One row per epoch in `metrics.csv`; the rows travel in the checkpoint, so a resumed run continues its curve.

    Args:
        path: The CSV file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows: list[dict[str, float]] = []

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Add the epoch's row and write the file."""
        scalars = {name: float(value) for name, value in trainer.callback_metrics.items() if "/" in name}
        rate = float(trainer.optimizers[0].param_groups[0]["lr"])
        assert isinstance(pl_module, HypoxModule)
        row = {"epoch": trainer.current_epoch, "step": trainer.global_step, "seconds": round(pl_module.seconds, 1)}
        self.rows.append({**row, "learning_rate": rate, **scalars})
        log.info("epoch %d: loss %.4f after %.0f s", trainer.current_epoch, scalars["train/total"], row["seconds"])
        if trainer.is_global_zero:
            self._write()

    def _write(self) -> None:
        names = list(dict.fromkeys(name for row in self.rows for name in row))
        text = io.StringIO()
        writer = csv.DictWriter(text, names, lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.rows)
        write_text(self.path, text.getvalue())

    def state_dict(self) -> dict[str, Any]:
        """Rows so far."""
        return {"rows": self.rows}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up the rows of the interrupted run."""
        self.rows = list(state_dict["rows"])


def build_logger(config: TrackingConfig, folder: Path, *, name: str, settings: dict[str, Any]) -> Logger | bool:
    """The logger of a run; `False` for none, which also keeps Lightning from choosing one by itself.

    Args:
        config: What to use.
        folder: Where the logger may write.
        name: Name of the run.
        settings: The resolved configuration; must name no patient.

    Raises:
        ConfigError: wandb is asked for and not installed, or online without a key.
    """
    if config.kind == "csv":
        return False
    try:
        import wandb
        from lightning.pytorch.loggers import WandbLogger
    except ImportError as error:
        raise ConfigError("tracking=wandb needs wandb; install it with: pip install 'hypoxnet[wandb]'") from error
    if not config.offline and not os.environ.get("WANDB_API_KEY") and not (Path.home() / ".netrc").exists():
        # Without a key wandb asks on the terminal, and a batch job would wait for ever.
        raise ConfigError("tracking.offline=false needs a key in WANDB_API_KEY; set it or leave tracking.offline=true")
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
    folder.mkdir(parents=True, exist_ok=True)
    return WandbLogger(
        project=config.project,
        name=name,
        save_dir=str(folder),
        offline=config.offline,
        config=settings,
        log_model=False,
        # What the terminal shows names patients, and the command line paths: neither is sent.
        settings=wandb.Settings(console="off", x_disable_meta=True, disable_git=True, disable_code=True),
    )
