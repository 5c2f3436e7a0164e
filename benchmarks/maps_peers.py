"""Peers of `maps.py`, one per run, in the environment that has it: extended Tofts fitted to given curves.

    python benchmarks/maps_peers.py PEER GIVEN.npz ANSWER.npz

`maps.py` writes GIVEN (times, plasma, haematocrit, curves, processes) and reads ANSWER (seconds, values, versions).
"""

from __future__ import annotations

import contextlib
import multiprocessing
import sys
import time
from collections.abc import Callable
from functools import partial
from importlib.metadata import version

import numpy as np
from numpy.typing import NDArray

# Of the OSIPI reference fits: Ktrans 1/min, ve, vp.
LOW, HIGH, START = (0.0, 1e-3, 0.0), (5.0, 1.0, 1.0), (0.6, 0.2, 0.01)

Peer = Callable[[NDArray[np.float64], NDArray[np.float64], float, NDArray[np.float32]], NDArray[np.float64]]


def run_peer(name: str, given: str, answer: str) -> None:
    """Fit in worker processes that are up and have fitted a few voxels before the clock starts."""
    with np.load(given) as stored:
        times, plasma, curves = stored["times"], stored["plasma"], stored["curves"]
        haematocrit, processes = stored["haematocrit"].item(), stored["processes"].item()
    work = partial(PEERS[name], times, plasma, haematocrit)
    work(curves[:4])
    # Several pieces per worker, so that none waits long for the last one; batched fits keep theirs large.
    pieces = np.array_split(curves, processes if name == "osipy" else min(8 * processes, len(curves)))
    with multiprocessing.get_context("fork").Pool(processes) as pool:
        pool.map(work, [curves[:4]] * processes, chunksize=1)
        begin = time.perf_counter()
        values = np.concatenate(pool.map(work, pieces, chunksize=1), axis=1)
        passed = time.perf_counter() - begin
    package = name.split("_")[0]
    np.savez(answer, seconds=passed, values=values, versions=f"{package} {version(package)}")


def fit_with_curve_fit(model: Callable[..., NDArray[np.float64]], curves: NDArray[np.float32]) -> NDArray[np.float64]:
    """`curve_fit` in a loop; nan where it gives up."""
    from scipy.optimize import curve_fit

    found = np.full((3, len(curves)), np.nan)
    for voxel, curve in enumerate(curves):
        with contextlib.suppress(RuntimeError):
            found[:, voxel] = curve_fit(model, None, curve, START, bounds=(LOW, HIGH))[0]
    return found


def fit_scipy(
    times: NDArray[np.float64], plasma: NDArray[np.float64], haematocrit: float, curves: NDArray[np.float32]
) -> NDArray[np.float64]:
    """The model with a recursive filter: exact for an input that is linear between its samples."""
    from scipy.signal import lfilter

    step = float(times[1] - times[0])

    def model(_: None, ktrans: float, ve: float, vp: float) -> NDArray[np.float64]:
        x = max(step * ktrans / ve, 1e-6)
        decay = np.exp(-x)
        phi1 = -np.expm1(-x) / x
        phi2 = (1 - phi1) / x if x > 1e-4 else 0.5 - x / 6
        response = lfilter([step * phi2, step * (phi1 - phi2)], [1.0, -decay], plasma)
        return ktrans * response + vp * plasma

    return fit_with_curve_fit(model, curves)


def fit_dcmri(
    times: NDArray[np.float64], plasma: NDArray[np.float64], haematocrit: float, curves: NDArray[np.float32]
) -> NDArray[np.float64]:
    """The concentration of dcmri's tissue of high flow (HF), which is extended Tofts; in seconds and mol/l."""
    import dcmri

    seconds_, blood = 60 * times, 1e-3 * (1 - haematocrit) * plasma

    def model(_: None, ktrans: float, ve: float, vp: float) -> NDArray[np.float64]:
        named = {"H": haematocrit, "vi": ve, "vb": vp / (1 - haematocrit), "PS": ktrans / 60}
        return np.asarray(1e3 * dcmri.conc_tissue(blood, t=seconds_, kinetics="HF", **named))

    return fit_with_curve_fit(model, curves)


def fit_dcmri_tissue_array(
    times: NDArray[np.float64], plasma: NDArray[np.float64], haematocrit: float, curves: NDArray[np.float32]
) -> NDArray[np.float64]:
    """The whole of dcmri, from signals; these are made of the same noisy concentrations."""
    import dcmri

    fixed = {"r1": 4500.0, "TR": 0.005, "FA": 15.0, "H": haematocrit}
    rate, scale = np.full(len(curves), 1 / 1.2), np.full(len(curves), 1000.0)
    relaxation = rate[:, None] + fixed["r1"] * 1e-3 * curves.astype(np.float64)
    signal = dcmri.signal_ss(1000.0, relaxation, fixed["TR"], fixed["FA"])
    free = {"PS": (0.0, HIGH[0] / 60), "vi": (LOW[1], HIGH[1]), "vb": (0.0, 1.0)}
    start = {"PS": START[0] / 60, "vi": START[1], "vb": START[2] / (1 - haematocrit)}
    blood = 1e-3 * (1 - haematocrit) * plasma
    tissue = dcmri.TissueArray(
        (len(curves),), "HF", "FF", "SS", ca=blood, t=60 * times, free=free, R10=rate, S0=scale, **fixed, **start
    )
    tissue.train(60 * times, signal, init_s0=False)
    return np.stack([60 * tissue.PS, tissue.vi, (1 - haematocrit) * tissue.vb])


def fit_osipy(
    times: NDArray[np.float64], plasma: NDArray[np.float64], haematocrit: float, curves: NDArray[np.float32]
) -> NDArray[np.float64]:
    """Batched; its bounds are the same, its convolution is its own."""
    from osipy.dce.fitting import fit_model

    volume = curves.astype(np.float64)[:, None, None]
    maps = fit_model("extended_tofts", volume, plasma, 60 * times).parameter_maps
    return np.stack([maps[name].values.ravel() for name in ("Ktrans", "ve", "vp")])


PEERS: dict[str, Peer] = {
    "scipy": fit_scipy,
    "scipy_one_process": fit_scipy,
    "dcmri": fit_dcmri,
    "dcmri_tissue_array": fit_dcmri_tissue_array,
    "osipy": fit_osipy,
}


if __name__ == "__main__":
    run_peer(*sys.argv[1:])
