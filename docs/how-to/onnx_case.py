"""One case through an exported model, without HypoxNet: numpy, nibabel and onnxruntime are all it needs.

python3 onnx_case.py EXPORT OUTPUT FMISO_SUV=fmiso.nii.gz T1W=t1w.nii.gz GTVP=gtvp.nii.gz age=61
"""

import json
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import onnxruntime


def opened(path):
    """A graph as a function from named arrays to named arrays; it takes those that it knows."""
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    takes, gives = ([tensor.name for tensor in side] for side in (session.get_inputs(), session.get_outputs()))
    return lambda arrays: dict(zip(gives, session.run(gives, {name: arrays[name] for name in takes}), strict=True))


def slid(network, case, about):
    """What the network says in each window, added up; once for each way in which the case is turned."""
    looks, weight, shape = case["looks"], case["importance"], case["image"].shape[2:]
    logits = np.zeros((len(looks), about["bundle"]["members"], len(about["regions"]), *shape), np.float32)
    coverage, pooled = np.zeros((len(looks), *shape), np.float32), {"pooled_sum": 0, "pooled_weight": 0}
    for look, begins in enumerate(case["begins"]):
        turned = (..., *(slice(None, None, step) for step in looks[look]))
        windows = [(..., *map(slice, begin, begin + weight.shape)) for begin in begins]
        for window in windows:
            coverage[look][window] += weight
        for window in windows:
            share = case["tumour"][window] / coverage[look][window] * weight
            found = network({**case, "image": case["image"][window][turned], "tumour": share[turned]})
            logits[look][window] += found["logits"][0][turned] * weight
            pooled = {name: total + found.get(name, 0) / len(looks) for name, total in pooled.items()}
    return {"logits_sum": logits, "coverage": coverage, **pooled}


def main(export, output, *arguments):
    """Read a case, and write its masks, probabilities and risk."""
    export, output, given = Path(export), Path(output), dict(argument.split("=", 1) for argument in arguments)
    about = json.loads((export / "export.json").read_text())
    graphs = {graph["name"]: opened(export / graph["file"]) for graph in about["graphs"]}
    unknown = sorted(given.keys() - {*about["files"], *about["given"]})
    if unknown:
        sys.exit(f"the model does not read {', '.join(unknown)}, but {', '.join(about['files'] + about['given'])}")
    case = {"given": np.array([float(given.get(name, "nan")) for name in about["given"]])}
    for name in about["files"]:
        image = nib.load(given[name]) if name in given else nib.Nifti1Image(np.zeros((0, 0, 0), np.float32), np.eye(4))
        case |= {name: np.asarray(image.dataobj, np.float32).reshape(image.shape[:3]), f"{name}_affine": image.affine}
    output.mkdir(parents=True, exist_ok=True)
    case |= graphs["prepare"](case)
    if "network" in graphs:
        case |= slid(graphs["network"], case, about)
        case |= graphs["finish"](case)
        for name, probability in zip(about["regions"], case["probability"], strict=True):
            for what, array in ("probability", probability), ("mask", np.uint8(probability >= about["threshold"])):
                nib.save(nib.Nifti1Image(array, case["affine"]), output / f"{name}_{what}.nii.gz")
    if about["causes"]:
        incidence = graphs["outcome" if "outcome" in graphs else "covariates"](case)["incidence"][0].tolist()
        risk = {"months": about["months"], "incidence": dict(zip(about["causes"], incidence, strict=True))}
        (output / "risk.json").write_text(json.dumps(risk, indent=2))


if __name__ == "__main__":
    main(*sys.argv[1:])
