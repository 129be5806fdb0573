"""How fast `nnUNetv2_dsvm evaluate` is beside medpy's hd95, and how distance libraries compare, on generated volumes.

    pip install medpy
    python examples/measure_evaluation.py --volumes 100 --medpy 10 -np 2
    python examples/measure_evaluation.py --libraries        # uses those of edt, monai, surface-distance that are there

The volumes have 512×512×100 voxels of 0.8×0.8×2.5 mm (--shape: others in the same space) with eight organs of realistic
size; predictions are shifted, have other outlines, and a far false positive each. medpy, which takes minutes a volume,
can be given the first ones only: the figures are per volume.
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
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from scipy import ndimage

from nnunetv2_dsvm.cli.main import main as command
from nnunetv2_dsvm.evaluation.surface import surface_distances
from nnunetv2_dsvm.files.listing import visible_files

Shape = tuple[int, int, int]  # z, y, x

FIELD_OF_VIEW_MM = (250.0, 409.6, 409.6)
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


def spacing_mm(shape: Shape) -> tuple[float, ...]:
    return tuple(mm / n for mm, n in zip(FIELD_OF_VIEW_MM, shape, strict=True))


def segmentation(random: np.random.Generator, shape: Shape, *, shift_mm: float, false_positives: bool) -> np.ndarray:
    """Labels 1 … 8, uint8: ellipsoids whose outlines wave by a tenth of their radii."""
    spacing = spacing_mm(shape)
    labels = np.zeros(shape, np.uint8)
    for label, (centre, radii) in enumerate(ORGANS.values(), start=1):
        offset = random.normal(size=3) * shift_mm
        middle = [c * n * s + o for c, n, s, o in zip(centre, shape, spacing, offset, strict=True)]
        spans = zip(middle, radii, shape, spacing, strict=True)
        box = tuple(slice(max(0, int((m - 1.3 * r) / s)), min(n, int((m + 1.3 * r) / s) + 1)) for m, r, n, s in spans)
        mm = np.ogrid[box]
        inside = sum(((x * s - m) / r) ** 2 for x, s, m, r in zip(mm, spacing, middle, radii, strict=True))
        zoom = [n / k for n, k in zip(inside.shape, (4, 8, 8), strict=True)]
        waves = ndimage.zoom(random.normal(size=(4, 8, 8)), zoom, order=1)
        labels[box][inside + 0.1 * waves < 1] = label
        if false_positives:
            z, y, x = (int(random.integers(n // 10, n - n // 10)) for n in shape)
            labels[z : z + 2, y : y + 4, x : x + 4] = label
    return labels


def write_volumes(folder: Path, volumes: int, shape: Shape, processes: int) -> None:
    for kind in ("reference", "prediction"):
        (folder / kind).mkdir()
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as executor:
        list(executor.map(partial(write_pair, folder, shape), range(volumes)))
    labels = {"background": 0, **{name: i for i, name in enumerate(ORGANS, start=1)}}
    content = {"labels": labels, "file_ending": ".nii.gz", "numTraining": volumes, "channel_names": {"0": "CT"}}
    (folder / "prediction" / "dataset.json").write_text(json.dumps(content))


def write_pair(folder: Path, shape: Shape, volume: int) -> None:
    for kind, shift_mm in (("reference", 0.0), ("prediction", 1.5)):
        random = np.random.default_rng((volume, kind == "prediction"))
        image = sitk.GetImageFromArray(segmentation(random, shape, shift_mm=shift_mm, false_positives=shift_mm > 0))
        image.SetSpacing(spacing_mm(shape)[::-1])
        sitk.WriteImage(image, str(folder / kind / f"volume_{volume:03d}.nii.gz"), True)


def medpy_hd95(reference: Path, prediction: Path) -> list[float]:
    from medpy.metric.binary import hd95

    images = [sitk.ReadImage(str(path)) for path in (prediction, reference)]
    (a, b), spacing = map(sitk.GetArrayFromImage, images), images[0].GetSpacing()[::-1]
    return [hd95(a == label, b == label, voxelspacing=spacing) for label in range(1, len(ORGANS) + 1)]


def measure(volumes: int, for_medpy: int, shape: Shape, processes: int) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_volumes(folder, volumes, shape, processes)
        references = visible_files(folder / "reference", ".nii.gz")[:for_medpy]
        predictions = [folder / "prediction" / path.name for path in references]

        def ours() -> None:
            with contextlib.redirect_stdout(io.StringIO()):
                paths = [str(folder / kind) for kind in ("reference", "prediction")]
                assert command(["evaluate", *paths, "-np", str(processes)]) == 0

        def medpy() -> list[list[float]]:
            with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as executor:
                return list(executor.map(medpy_hd95, references, predictions))

        rows = {}
        _, *seconds = timed(ours)
        rows["evaluate, all nine metrics"] = volumes, *seconds
        expected, *seconds = timed(medpy)
        rows["medpy, hd95 only"] = for_medpy, *seconds
        for name, (n, wall, cpu) in rows.items():
            print(f"{name:26} {n:3} volumes in {wall:.0f} s: {wall / n:6.1f} s a volume, {cpu / n:6.1f} s of CPU")
        (n, *ours_took), (of_medpy, *medpy_took) = rows.values()
        wall, cpu = (a / n / (b / of_medpy) for a, b in zip(ours_took, medpy_took, strict=True))
        print(f"ratio: {wall:.3f} of the time a volume, {cpu:.3f} of the CPU; {processes} processes, "
              f"{os.cpu_count()} cores, reading and starting included")  # fmt: skip
        content = json.loads((folder / "prediction" / "metrics_nnunet.json").read_text(encoding="utf-8"))
        found = [[of["HD95_mm"] for of in case["values"].values()] for case in content["per_case"][:for_medpy]]
        print(f"largest difference of HD95: {np.abs(np.array(found) - expected).max():.1e} mm")


def timed(function):
    """Its result, seconds, and seconds of CPU of this process and of its children that have ended."""

    def cpu() -> float:
        usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
        return sum(usage.ru_utime + usage.ru_stime for usage in usages)

    wall_before, cpu_before = time.perf_counter(), cpu()
    result = function()
    return result, time.perf_counter() - wall_before, cpu() - cpu_before


def compare_libraries(shape: Shape) -> None:
    """HD95, mean distance and NSD at 1 mm of each organ of one volume, masks cropped alike for all."""
    reference, prediction = (
        segmentation(np.random.default_rng((0, bool(s))), shape, shift_mm=s, false_positives=False) for s in (0.0, 1.5)
    )
    spacing = spacing_mm(shape)
    rows: dict[str, list] = {}
    for label, organ in enumerate(ORGANS, start=1):
        a, b = reference == label, prediction == label
        box = ndimage.find_objects((a | b).astype(np.uint8))[0]
        for library, function in LIBRARIES.items():
            try:
                function(np.eye(3, dtype=bool)[None], np.ones((1, 3, 3), bool), spacing)  # imports are not measured
            except ImportError:
                continue
            values, _, cpu = timed(lambda f=function, a=a[box], b=b[box]: f(a, b, spacing))
            rows.setdefault(library, []).append((cpu, *values))
            shown = f"HD95 {values[0]:9.6f}  mean {values[1]:9.6f}  NSD {values[2]:.6f}"
            print(f"{organ:14} {library:26} {cpu:6.2f} s  {shown}")
    first, *_ = rows.values()
    for library, measured in rows.items():
        of = np.array(measured)
        largest = np.abs(of - first)[:, 1:].max(axis=0)
        differences = f"HD95 {largest[0]:.1e} mm, mean {largest[1]:.1e} mm, NSD {largest[2]:.1e}"
        print(f"{library:26} {of[:, 0].sum():6.2f} s of CPU; largest difference to the first: {differences}")


def _used_here(a, b, spacing):
    d = surface_distances(a, b, spacing)
    return d.hd95(), d.assd(), d.nsd(1.0)


def _by_map(distance_map):
    def values(a, b, spacing):
        surfaces = [m & ~ndimage.binary_erosion(m) for m in (a, b)]
        d = np.hstack(
            [distance_map(~surfaces[1], spacing)[surfaces[0]], distance_map(~surfaces[0], spacing)[surfaces[1]]]
        )
        return np.percentile(d, 95), d.mean(), (d <= 1.0).mean()

    return values


def _edt(outside, spacing):
    import edt

    return edt.edt(outside, anisotropy=spacing)


def _simpleitk(outside, spacing):
    image = sitk.GetImageFromArray((~outside).astype(np.uint8))
    image.SetSpacing(spacing[::-1])
    signed = sitk.SignedMaurerDistanceMap(image, squaredDistance=False, useImageSpacing=True)
    return np.maximum(sitk.GetArrayFromImage(signed), 0)


def _medpy(a, b, spacing):
    from medpy.metric.binary import assd, hd95

    return hd95(b, a, voxelspacing=spacing), assd(b, a, voxelspacing=spacing), np.nan


def _monai(a, b, spacing):
    import torch
    from monai.metrics import compute_average_surface_distance, compute_hausdorff_distance, compute_surface_dice

    x, y = (torch.from_numpy(np.stack([~m, m])[None]) for m in (a, b))
    same = {"spacing": spacing, "include_background": False}
    return (
        float(compute_hausdorff_distance(y, x, percentile=95, **same)),
        float(compute_average_surface_distance(y, x, symmetric=True, **same)),
        float(compute_surface_dice(y, x, [1.0], **same)),
    )


def _surface_distance(a, b, spacing):
    import surface_distance as s

    d = s.compute_surface_distances(a, b, spacing)
    return (
        s.compute_robust_hausdorff(d, 95),
        np.mean(s.compute_average_surface_distance(d)),
        s.compute_surface_dice_at_tolerance(d, 1.0),
    )


LIBRARIES = {
    "scipy KD-tree (used here)": _used_here,
    "scipy distance map": _by_map(ndimage.distance_transform_edt),
    "edt distance map": _by_map(_edt),
    "SimpleITK distance map": _by_map(_simpleitk),
    "medpy, hd95 and assd": _medpy,
    "monai": _monai,
    "surface-distance": _surface_distance,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--volumes", type=int, default=4)
    parser.add_argument("--medpy", type=int, metavar="N", help="give medpy the first N only (default: all)")
    parser.add_argument("--shape", type=int, nargs=3, default=(100, 512, 512), metavar=("Z", "Y", "X"),
                        help="voxels of a volume (default: 100 512 512)")  # fmt: skip
    parser.add_argument("-np", type=int, default=2, help="processes (default: %(default)s)")
    parser.add_argument("--libraries", action="store_true", help="compare distance libraries instead")
    args = parser.parse_args()
    if args.libraries:
        compare_libraries(tuple(args.shape))
    else:
        measure(args.volumes, min(args.medpy or args.volumes, args.volumes), tuple(args.shape), args.np)


if __name__ == "__main__":
    main()
