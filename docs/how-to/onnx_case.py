"""One case through an exported model, without HypoxNet: numpy, nibabel and onnxruntime are all it needs.

python3 onnx_case.py EXPORT OUTPUT FMISO_SUV=fmiso.nii.gz T1W=t1w.nii.gz GTVP=gtvp.nii.gz age=61
"""

import itertools
import json
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import onnxruntime


def read(path):
    """Voxels (0 where a map has no value) and affine, whose axes are made orthogonal: headers round them."""
    image = nib.load(path)
    affine, lengths = image.affine.astype(float), np.linalg.norm(image.affine[:3, :3], axis=0)
    left, _, right = np.linalg.svd(affine[:3, :3] / lengths)
    affine[:3, :3] = left @ right * lengths
    return np.nan_to_num(np.asarray(image.dataobj, np.float32).reshape(image.shape[:3])), affine


def resample(array, source, target, shape, beyond="constant"):
    """Linear, from the grid of affine `source` onto `target`; `beyond` its edge 0 ("constant") or repeated ("edge")."""
    if array.shape == tuple(shape) and np.allclose(source, target, atol=1e-3):
        return array
    padded, step, result = np.pad(array, 1, mode=beyond), np.linalg.solve(source, target), np.zeros(shape, np.float32)
    for i in range(shape[0]):
        index = np.stack(np.meshgrid(i, *map(np.arange, shape[1:]), indexing="ij"), axis=-1)[0]
        place = np.clip(index @ step[:3, :3].T + step[:3, 3] + 1, 0, np.array(padded.shape) - 1)
        low = np.minimum(place.astype(int), np.array(padded.shape) - 2)
        for corner in itertools.product((0, 1), repeat=3):
            weight = np.where(corner, place - low, 1 - place + low).prod(axis=-1)
            result[i] += weight * padded[tuple(np.moveaxis(low + corner, -1, 0))]
    return result


def covered(shape, source, target, wanted):
    """Where the nearest voxel of a grid exists."""
    step = np.linalg.solve(source, target)
    nearest = np.rint(np.moveaxis(np.indices(wanted), 0, -1) @ step[:3, :3].T + step[:3, 3])
    return ((nearest >= 0) & (nearest < shape)).all(axis=-1)


def working_grid(shape, affine, spacing_mm):
    """The same extent in RAS+ orientation at the network's spacing."""
    canonical = nib.as_closest_canonical(nib.Nifti1Image(np.zeros(shape, np.uint8), affine))
    old_mm = np.linalg.norm(canonical.affine[:3, :3], axis=0)
    grid = canonical.affine @ np.diag([*(spacing_mm / old_mm), 1.0])
    return np.round((np.array(canonical.shape) - 1) * old_mm / spacing_mm + 1).astype(int), grid


def normalise(array, channel):
    """As export.json says of a channel."""
    if channel["normalisation"] == "image":
        some = array[array != 0]
        return np.where(array != 0, (array - some.mean()) / (some.std() or 1.0), 0) if some.size else array
    array = np.clip(array, *channel["clip"])
    return ((np.log1p(array) if channel["log1p"] else array) - channel["subtract"]) / channel["divide"]


def covariates(given, settings):
    """Standardised columns, completed as the model was trained, and which of them the model may take as known."""
    columns, known = [], []
    for term in settings["terms"]:
        value, levels = given.get(term["name"], np.nan), term["levels"]
        raw = np.array([value == level for level in levels[1:]] if term["kind"] == "category" else [value], float)
        if term["kind"] == "log":
            raw = np.log(np.maximum(raw + term["offset"], 1e-3))
        there = value in levels if term["kind"] == "category" else np.isfinite(value)
        columns.extend(np.where(there, (raw - term["means"]) / term["sds"], 0))
        known.extend([there] * len(raw))
    columns, known = np.array(columns, float), np.array(known, bool)
    if settings["missing"] == "indicator":
        return columns, known
    if settings["joint"]:
        mean, spread = np.array(settings["joint"]["mean"]), np.array(settings["joint"]["covariance"])
        slopes = spread[np.ix_(~known, known)] @ np.linalg.inv(spread[np.ix_(known, known)])
        columns[~known] = mean[~known] + slopes @ (columns[known] - mean[known])
    return columns, np.ones(len(columns))


def box_of(mask, window, about):
    """The tumour and its surroundings where nothing else is looked at, else everything."""
    if not (mask.any() and about["inside_tumour"] and (about["pool"] == "contour" or not about["causes"])):
        return (slice(None),) * 3
    box = []
    for axis, (length, size) in enumerate(zip(mask.shape, window, strict=True)):
        inside = np.flatnonzero(mask.any(axis=tuple({0, 1, 2} - {axis})))
        first, last = inside[0], inside[-1] + 1
        extent = min(length, max(size, last - first + 2 * int(size / 8)))
        begin = min(max(0, (first + last - extent) // 2), length - extent)
        box.append(slice(begin, begin + extent))
    return tuple(box)


def windows(shape, window, overlap):
    """Where windows begin and end, and the Gaussian weight of each voxel of a window."""
    steps = [max(1, int(size * (1 - overlap))) for size in window]
    starts = [
        [min(k * step, n - size) for k in range(-(-(n - size) // step) + 1)]
        for n, size, step in zip(shape, window, steps, strict=True)
    ]
    curves = [np.exp(-((np.arange(size) - (size - 1) / 2) ** 2) / (2 * (size / 8) ** 2)) for size in window]
    weight = np.einsum("i,j,k->ijk", *curves)
    boxes = [tuple(slice(b, b + s) for b, s in zip(begin, window, strict=True)) for begin in itertools.product(*starts)]
    return boxes, np.maximum(weight, 1e-3).astype(np.float32)


def blended(network, image, tumour, constant, about):
    """Probabilities by each member, R K x y z: calibrated, and those that the outcome reads, with its sums."""
    window, shape = about["window"], image.shape[1:]
    pads = [
        ((size - n) // 2, size - n - (size - n) // 2) if size > n else (0, 0)
        for n, size in zip(shape, window, strict=True)
    ]
    image, tumour = np.pad(image, [(0, 0), *pads]), np.pad(tumour, pads)
    boxes, weight = windows(tumour.shape, window, about["overlap"])
    coverage = np.zeros(tumour.shape, np.float32)
    for box in boxes:
        coverage[box] += weight
    total, sums = np.zeros((about["bundle"]["members"], len(about["regions"]), *tumour.shape), np.float32), [0, 0]
    for box in boxes:
        # Every voxel of the contour counts once, however many windows see it.
        share = tumour[box] / coverage[box] * weight
        found = network({**constant, "image": image[(None, slice(None), *box)], "tumour": share[None, None]})
        total[(..., *box)] += found["logits"][0] * weight
        sums = [one + found.get(name, 0) for one, name in zip(sums, ("pooled_sum", "pooled_weight"), strict=True)]
    inner = tuple(slice(before, before + n) for (before, _), n in zip(pads, shape, strict=True))
    # The outcome was trained on probabilities as they were before the temperature.
    logits, hot = (total / coverage)[(..., *inner)], np.float32(about["temperature"])[..., None, None, None]
    return np.stack([1 / (1 + np.exp(-logits)), 1 / (1 + np.exp(-logits * hot))]), sums


def averaged(network, image, tumour, constant, about):
    """`blended` on the box that matters, 0 elsewhere, over mirror images where the model was applied so."""
    box = box_of(tumour > 0, about["window"], about)
    flips = itertools.chain(*(itertools.combinations((1, 2, 3), n) for n in range(4 if about["mirror"] else 1)))
    parts = []
    for axes in flips:
        turned = np.flip(np.concatenate([image, tumour[None]])[(slice(None), *box)], axes)
        probability, sums = blended(network, turned[:-1], turned[-1], constant, about)
        parts.append((np.flip(probability, [axis + 2 for axis in axes]), *sums))
    inside, pooled_sum, pooled_weight = (sum(part) / len(part) for part in zip(*parts, strict=True))
    probability = np.zeros((*inside.shape[:3], *tumour.shape), np.float32)
    probability[(..., *box)] = inside
    return probability, {"pooled_sum": pooled_sum, "pooled_weight": pooled_weight}


def runner(path, graph):
    """A graph as a function from named arrays to named arrays; it takes those that it knows."""
    session = onnxruntime.InferenceSession(path / graph["file"], providers=["CPUExecutionProvider"])
    takes, gives = ([tensor["name"] for tensor in graph[side]] for side in ("inputs", "outputs"))
    return lambda arrays: dict(
        zip(gives, session.run(gives, {name: np.float32(arrays[name]) for name in takes}), strict=True)
    )


def images(graphs, given, constant, about, output):
    """Masks and probabilities of a case in the space of its reference image; the incidence, if the model gives one."""
    names = [channel["name"] for channel in about["channels"]]
    files = {name: read(given[name]) for name in names if name in given}
    reference, affine = files.get(about["reference"]) or next(iter(files.values()))
    shape, grid = working_grid(reference.shape, affine, np.array(about["spacing_mm"]))
    image = np.zeros((len(names), *shape), np.float32)
    for place, channel in enumerate(about["channels"]):
        if channel["name"] in files:
            array, own = files[channel["name"]]
            first = array is reference
            image[place] = normalise(resample(array, own, grid, shape, "edge" if first else "constant"), channel)
            image[place] *= 1 if first else covered(array.shape, own, grid, shape)
    contour = union([read(given[name]) for name in about["tumour"] if name in given], reference.shape, affine)
    tumour = np.zeros(shape, np.float32) if contour is None else np.float32(resample(*contour, grid, shape) >= 0.5)
    constant = constant | {"presence": [[name in files for name in names]], "tumour_known": [contour is not None]}
    (calibrated, plain), pooled = averaged(graphs["network"], image, tumour, constant, about)
    for name, values in zip(about["regions"], calibrated.mean(axis=0), strict=True):
        native = np.clip(resample(values, grid, affine, reference.shape, "edge"), 0, 1)
        if about["inside_tumour"] and contour is not None:
            native *= resample(*contour, affine, reference.shape) >= 0.5
        nib.save(nib.Nifti1Image(native, affine), output / f"{name}_probability.nii.gz")
        nib.save(nib.Nifti1Image(np.uint8(native >= about["threshold"]), affine), output / f"{name}_mask.nii.gz")
    if "outcome" not in graphs:
        return None
    inside = plain[:, :1] if contour is None or about["pool"] != "contour" else tumour[None, None]
    regions = plain * inside if about["pool"] == "contour" else plain
    voxel_ml = np.prod(about["spacing_mm"]) / 1000
    volumes = {
        "tumour_ml": [np.broadcast_to(inside, (len(plain), 1, *shape)).sum(axis=(1, 2, 3, 4)) * voxel_ml],
        "region_ml": [regions.sum(axis=(2, 3, 4)) * voxel_ml],
    }
    return graphs["outcome"]({**constant, **pooled, **volumes})["incidence"]


def union(contours, shape, affine):
    """One contour of several, on their own grid if they share it, else on the reference grid; None without any."""
    if not contours:
        return None
    array, own = contours[0]
    if any(other.shape != array.shape or not np.allclose(own, grid, atol=1e-3) for other, grid in contours):
        array, own = np.zeros(shape, np.float32), affine
        contours = [(np.float32(resample(other, grid, affine, shape) >= 0.5), affine) for other, grid in contours]
    return np.maximum.reduce([array, *(other for other, _ in contours)]), own


def main(export, output, *arguments):
    """Read a case, and write its masks, probabilities and risk."""
    export, output, given = Path(export), Path(output), dict(argument.split("=", 1) for argument in arguments)
    about = json.loads((export / "export.json").read_text())
    graphs = {graph["name"]: runner(export, graph) for graph in about["graphs"]}
    settings = about["spec"]["settings"]
    columns, known = covariates({t["name"]: float(given.get(t["name"], "nan")) for t in settings["terms"]}, settings)
    constant = {"covariates": columns[None], "covariates_known": known[None]}
    output.mkdir(parents=True, exist_ok=True)
    incidence = (
        graphs["covariates"](constant)["incidence"]
        if "covariates" in graphs
        else images(graphs, given, constant, about, output)
    )
    if incidence is not None:
        rows = dict(zip(about["causes"], incidence[0].tolist(), strict=True))
        (output / "risk.json").write_text(json.dumps({"months": about["months"], "incidence": rows}, indent=2))


if __name__ == "__main__":
    main(*sys.argv[1:])
