"""The cohorts on which R's survival and cmprsk are asked, and what they answered.

apt-get install r-base-core r-cran-survival r-cran-cmprsk
python tests/survival/r_figures.py          writes r_figures.json anew
"""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd
from lifelines.datasets import load_lung
from sksurv.datasets import load_bmt, load_cgvhd

HERE = Path(__file__).parent
FIGURES = HERE / "r_figures.json"


def cohorts() -> dict[str, pd.DataFrame]:
    """By name: months, event, group, x1, x2, risk, weight, horizon.

    `bmt`, `cgvhd`: transplants, competing risks (Scrucca 2007; Pintilie 2006). `lung`: no competing risk. `ties`:
    drawn, 160 patients at 14 times.
    """
    return {"bmt": _bmt(), "cgvhd": _cgvhd(), "lung": _lung(), "ties": _ties()}


def _frame(months, event, group, x1, x2, horizon):
    frame = pd.DataFrame({"months": months, "event": event, "group": group, "x1": x1, "x2": x2}).astype(float)
    # A risk that is plausible and ties: rounded to hundredths.
    score = 0.6 * (frame.x1 - frame.x1.mean()) / frame.x1.std() + 0.3 * (frame.x2 - frame.x2.mean()) / frame.x2.std()
    frame["risk"] = (1 / (1 + np.exp(1.0 - score))).round(2)
    return frame.assign(weight=0.5 + (np.arange(len(frame)) * 7 % 11) / 5, horizon=horizon)


def _bmt():
    x, y = load_bmt()
    disease = x["dis"].astype(int).to_numpy()
    return _frame(y["ftime"], y["status"], disease, disease, np.arange(len(y)) % 5, 24.0)


def _cgvhd():
    x, y = load_cgvhd()
    names = y.dtype.names
    months, event = y[names[1]] * 12.0, y[names[0]].astype(int)
    # Three causes in the file; the third joins the second.
    extent = (x["extent"] == "E").to_numpy(int)
    return _frame(months, np.minimum(event, 2), x["dx"].cat.codes.to_numpy(), extent, x["age"].to_numpy(), 24.0)


def _lung():
    lung = load_lung().dropna(subset=["age", "sex", "time", "status"])
    return _frame(lung["time"] / 30.4375, lung["status"], lung["sex"], lung["sex"] == 1, lung["age"], 12.0)


def _ties():
    u = np.random.default_rng(11).random((5, 160))
    x1, x2 = (u[0] > 0.5).astype(float), (4 * u[1]).round(1)
    months = np.ceil(np.minimum(-np.log(u[2]) * 9.0 * np.exp(-0.5 * x1 + 0.1 * x2), 13.5)) + 0.0
    event = np.digitize(u[3], [0.35, 0.75])
    return _frame(months, event, np.floor(3 * u[4]), x1, x2, 8.0)


def r_is_here() -> bool:
    """Whether R and both packages can be run."""
    if shutil.which("Rscript") is None:
        return False
    answer = subprocess.run(["Rscript", "-e", "library(survival); library(cmprsk)"], capture_output=True, check=False)
    return answer.returncode == 0


def asked_r(names: Iterable[str]) -> dict[str, dict[str, list[float]]]:
    """What R says now of some of the cohorts."""
    with tempfile.TemporaryDirectory() as folder:
        for name in names:
            cohorts()[name].to_csv(Path(folder) / f"{name}.csv", index=False)
        answer = subprocess.run(
            ["Rscript", str(HERE / "r_figures.R"), folder], capture_output=True, text=True, check=True
        )
    return json.loads(answer.stdout)


def recorded() -> dict[str, dict[str, list[float]]]:
    """What R said when the figures were recorded."""
    return json.loads(FIGURES.read_text())


if __name__ == "__main__":
    lines = [f'"{name}": {json.dumps(figures)}' for name, figures in asked_r(cohorts()).items()]
    FIGURES.write_text("{\n" + ",\n".join(lines) + "\n}\n")
