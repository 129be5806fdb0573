"""How fast `nnUNetv2_dsvm evaluate` is beside medpy's hd95, and how distance libraries compare, on generated volumes.

    pip install medpy
    python examples/measure_evaluation.py --volumes 4 -np 2
    python examples/measure_evaluation.py --libraries        # uses those of edt, monai, surface-distance that are there

The volumes have 512×512×100 voxels of 0.8×0.8×2.5 mm with eight organs of realistic size; predictions are shifted, have
other outlines, and a far false positive each.
"""

import argparse
import contextlib
import io
import json
import os
import resource
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from scipy import ndimage

from nnunetv2_dsvm.cli.main import main as command
from nnunetv2_dsvm.evaluation.surface import surface_distances

SHAPE, SPACING_MM = (100, 512, 512), (2.5, 0.8, 0.8)
# name: centre (part of the volume), radii in mm
ORGANS = {
    "liver": ((0.55, 0.45, 0.30), (80, 80, 95)),
    "spleen": ((0.60, 0.60, 0.75), (50, 30, 40)),
    "right_kidney": ((0.35, 0.62, 0.36), (52, 28, 26)),
    "left_kidney": ((0.38, 0.62, 0.64), (52, 28, 26)),
    "stomach": ((0.68, 0.35, 0.64), (45, 38, 50)),
    "pancreas": ((0.50, 0.42, 0.52), (14, 16, 55)),
    "gallbladder": ((0.45, 0.34, 0.38), (30, 15, 15)),
    "aorta": ((0.50, 0.58, 0.51), (160, 12, 12)),
}


def segmentation(random: np.random.Generator, *, shift_mm: float, false_positives: bool) -> np.ndarray:
    """Labels 1 … 8, uint8: ellipsoids whose outlines wave by a tenth of their radii."""
    labels = np.zeros(SHAPE, np.uint8)
    for label, (centre, radii) in enumerate(ORGANS.values(), start=1):
        offset = random.normal(size=3) * shift_mm
        middle = [c * n * s + o for c, n, s, o in zip(centre, SHAPE, SPACING_MM, offset, strict=True)]
        spans = zip(middle, radii, SHAPE, SPACING_MM, strict=True)
        box = tuple(slice(max(0, int((m - 1.3 * r) / s)), min(n, int((m + 1.3 * r) / s) + 1)) for m, r, n, s in spans)
        mm = np.ogrid[box]
        inside = sum(((x * s - m) / r) ** 2 for x, s, m, r in zip(mm, SPACING_MM, middle, radii, strict=True))
        zoom = [n / k for n, k in zip(inside.shape, (4, 8, 8), strict=True)]
        waves = ndimage.zoom(random.normal(size=(4, 8, 8)), zoom, order=1)
        labels[box][inside + 0.1 * waves < 1] = label
        if false_positives:
            z, y, x = (int(random.integers(10, n - 10)) for n in SHAPE)
            labels[z : z + 2, y : y + 4, x : x + 4] = label
    return labels


def write_volumes(folder: Path, volumes: int) -> None:
    for kind in ("reference", "prediction"):
        (folder / kind).mkdir()
    for volume in range(volumes):
        for kind, shift_mm in (("reference", 0.0), ("prediction", 1.5)):
            random = np.random.default_rng((volume, kind == "prediction"))
            image = sitk.GetImageFromArray(segmentation(random, shift_mm=shift_mm, false_positives=shift_mm > 0))
            image.SetSpacing(SPACING_MM[::-1])
            sitk.WriteImage(image, str(folder / kind / f"volume_{volume:03d}.nii.gz"), True)
    labels = {"background": 0, **{name: i for i, name in enumerate(ORGANS, start=1)}}
    content = {"labels": labels, "file_ending": ".nii.gz", "numTraining": volumes, "channel_names": {"0": "CT"}}
    (folder / "prediction" / "dataset.json").write_text(json.dumps(content))


def medpy_hd95(reference: Path, prediction: Path) -> list[float]:
    from medpy.metric.binary import hd95

    a, b = (sitk.GetArrayFromImage(sitk.ReadImage(str(path))) for path in (prediction, reference))
    return [hd95(a == label, b == label, voxelspacing=SPACING_MM) for label in range(1, len(ORGANS) + 1)]


def measure(volumes: int, processes: int) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_volumes(folder, volumes)
        references = sorted((folder / "reference").glob("*.nii.gz"))
        predictions = [folder / "prediction" / path.name for path in references]

        def ours() -> None:
            with contextlib.redirect_stdout(io.StringIO()):
                paths = [str(folder / kind) for kind in ("reference", "prediction")]
                assert command(["evaluate", *paths, "-np", str(processes)]) == 0

        def medpy() -> list[list[float]]:
            with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as executor:
                return list(executor.map(medpy_hd95, references, predictions))

        _, wall, cpu = timed(ours)
        expected, medpy_wall, medpy_cpu = timed(medpy)
        for name, w, c in (("evaluate, all nine metrics", wall, cpu), ("medpy, hd95 only", medpy_wall, medpy_cpu)):
            print(f"{name:26} {w / volumes:6.1f} s a volume, {c / volumes:6.1f} s of CPU")
        print(f"ratio: {wall / medpy_wall:.3f} of the time, {cpu / medpy_cpu:.3f} of the CPU; {volumes} volumes, "
              f"{processes} processes, {os.cpu_count()} cores, reading and starting included")  # fmt: skip
        content = json.loads((folder / "prediction" / "metrics_nnunet.json").read_text())
        found = [[of["HD95_mm"] for of in case["values"].values()] for case in content["per_case"]]
        print(f"largest difference of HD95: {np.abs(np.array(found) - expected).max():.1e} mm")


def timed(function):
    """Its result, seconds, and seconds of CPU of this process and of its children that have ended."""

    def cpu() -> float:
        usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
        return sum(usage.ru_utime + usage.ru_stime for usage in usages)

    wall_before, cpu_before = time.perf_counter(), cpu()
    result = function()
    return result, time.perf_counter() - wall_before, cpu() - cpu_before


def compare_libraries() -> None:
    """HD95, mean distance and NSD at 1 mm of each organ of one volume, masks cropped alike for all."""
    reference, prediction = (
        segmentation(np.random.default_rng((0, bool(s))), shift_mm=s, false_positives=False) for s in (0.0, 1.5)
    )
    rows: dict[str, list] = {}
    for label, organ in enumerate(ORGANS, start=1):
        a, b = reference == label, prediction == label
        box = ndimage.find_objects((a | b).astype(np.uint8))[0]
        for library, function in LIBRARIES.items():
            try:
                function(np.eye(3, dtype=bool)[None], np.ones((1, 3, 3), bool))  # imports are not measured
            except ImportError:
                continue
            values, _, cpu = timed(lambda f=function, a=a[box], b=b[box]: f(a, b))
            rows.setdefault(library, []).append((cpu, *values))
            shown = f"HD95 {values[0]:9.6f}  mean {values[1]:9.6f}  NSD {values[2]:.6f}"
            print(f"{organ:14} {library:26} {cpu:6.2f} s  {shown}")
    first, *_ = rows.values()
    for library, measured in rows.items():
        of = np.array(measured)
        largest = np.abs(of - first)[:, 1:].max(axis=0)
        differences = f"HD95 {largest[0]:.1e} mm, mean {largest[1]:.1e} mm, NSD {largest[2]:.1e}"
        print(f"{library:26} {of[:, 0].sum():6.2f} s of CPU; largest difference to the first: {differences}")


def _used_here(a, b):
    d = surface_distances(a, b, SPACING_MM)
    return d.hd95(), d.mean(), d.nsd(1.0)


def _by_map(distance_map):
    def values(a, b):
        surfaces = [m & ~ndimage.binary_erosion(m) for m in (a, b)]
        d = np.hstack([distance_map(~surfaces[1])[surfaces[0]], distance_map(~surfaces[0])[surfaces[1]]])
        return np.percentile(d, 95), d.mean(), (d <= 1.0).mean()

    return values


def _edt(outside):
    import edt

    return edt.edt(outside, anisotropy=SPACING_MM)


def _simpleitk(outside):
    image = sitk.GetImageFromArray((~outside).astype(np.uint8))
    image.SetSpacing(SPACING_MM[::-1])
    signed = sitk.SignedMaurerDistanceMap(image, squaredDistance=False, useImageSpacing=True)
    return np.maximum(sitk.GetArrayFromImage(signed), 0)


def _medpy(a, b):
    from medpy.metric.binary import assd, hd95

    return hd95(b, a, voxelspacing=SPACING_MM), assd(b, a, voxelspacing=SPACING_MM), np.nan


def _monai(a, b):
    import torch
    from monai.metrics import compute_average_surface_distance, compute_hausdorff_distance, compute_surface_dice

    x, y = (torch.from_numpy(np.stack([~m, m])[None]) for m in (a, b))
    same = {"spacing": SPACING_MM, "include_background": False}
    return (
        float(compute_hausdorff_distance(y, x, percentile=95, **same)),
        float(compute_average_surface_distance(y, x, symmetric=True, **same)),
        float(compute_surface_dice(y, x, [1.0], **same)),
    )


def _surface_distance(a, b):
    import surface_distance as s

    d = s.compute_surface_distances(a, b, SPACING_MM)
    return (
        s.compute_robust_hausdorff(d, 95),
        np.mean(s.compute_average_surface_distance(d)),
        s.compute_surface_dice_at_tolerance(d, 1.0),
    )


LIBRARIES = {
    "scipy KD-tree (used here)": _used_here,
    "scipy distance map": _by_map(lambda outside: ndimage.distance_transform_edt(outside, sampling=SPACING_MM)),
    "edt distance map": _by_map(_edt),
    "SimpleITK distance map": _by_map(_simpleitk),
    "medpy, hd95 and assd": _medpy,
    "monai": _monai,
    "surface-distance": _surface_distance,
}

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--volumes", type=int, default=4)
    parser.add_argument("-np", type=int, default=2)
    parser.add_argument("--libraries", action="store_true", help="compare distance libraries instead")
    args = parser.parse_args()
    if args.libraries:
        compare_libraries()
    else:
        measure(args.volumes, args.np)
