"""`nnUNetv2_dsvm benchmark`: speed and memory of the scan, the SS2D core, the network and the distillation."""

import argparse
import sys
from pathlib import Path
from typing import Any

from nnunetv2_dsvm.benchmark.suite import BY_DEFAULT, ON_REQUEST, SUITES
from nnunetv2_dsvm.files.atomic_write import write_text
from nnunetv2_dsvm.files.places_to_write import check_file_place


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Measures speed and memory of the scan's backends, the SS2D core, the network and the distillation, and how "
        "training scales to several GPUs. Every result is compared with the reference first; a wrong one gets no speed "
        "and ends the command with status 1."
    )
    parser.add_argument("--device", choices=("cpu", "cuda", "mps"), help="default: cuda if there is one, else cpu")
    parser.add_argument(
        "--dtype",
        choices=("float32", "float16", "bfloat16"),
        help="the 16-bit types run the core and the networks under autocast; default: as the trainer, bfloat16 on GPUs "
        "that have it, else float16, and float32 on a CPU",
    )
    parser.add_argument(
        "--suite", type=_names, default=list(BY_DEFAULT), metavar="NAMES",
        help=f"any of {','.join(SUITES)} (default: all but {', '.join(ON_REQUEST)}; scaling takes every GPU of this "
        "machine; sharing runs the preset small, or --dims, in one process and in two at once on the CPU; memory "
        "compares the planner's estimates with trainings that fill a GPU)",
    )  # fmt: skip
    parser.add_argument("--batch", type=int, help="images per batch, for every suite; by default as suits the device")
    parser.add_argument(
        "--size", type=_image_size, metavar="EDGE|HxW", help="image size in pixels, for every suite: 256 or 256x192"
    )
    parser.add_argument("--stages", type=_integers, metavar="1,2,…", help="whose scan, core and block are measured")
    parser.add_argument("--dims", type=_integers, metavar="C,2C,…", help="channels per stage (default: 96,192,384,768)")
    parser.add_argument("--encoder-depths", type=_integers, metavar="N,…", help="blocks per stage (default: 2,2,2,2)")
    parser.add_argument("--decoder-depths", type=_integers, metavar="N,…", help="deepest first (default: 2,2,2,1)")
    parser.add_argument("--d-state", type=int, default=16, metavar="N", help="states per channel (default: 16)")
    parser.add_argument(
        "--fine-channels", type=int, default=0, metavar="C", help="of our network; 32 is that of …_fine (default: 0)"
    )
    parser.add_argument(
        "--backends", type=_names, metavar="NAMES", help="of the scan suite (default: all; on a GPU the fast ones)"
    )
    parser.add_argument("--scan-backend", default="auto", help="of our core and network (default: auto)")
    parser.add_argument(
        "--compile",
        action="store_true",
        help="measure all networks with torch.compile as well, and not only PlainConvUNet on CUDA, which nnU-Net "
        "compiles there",
    )
    parser.add_argument(
        "--relatives",
        nargs="+",
        metavar="NAME",
        help="of the suite family: the networks' class names, as VMUNetV2 UMambaEnc (default: all)",
    )
    parser.add_argument("--repeats", type=int, help="at least so many timed calls (default: 3 on a CPU, else 10)")
    parser.add_argument("--quick", action="store_true", help="tiny shapes, to see that everything works")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the numbers there too, after each result")


def run(args: argparse.Namespace) -> int:
    if args.json:
        check_file_place(args.json, "name another file with --json", in_place=True)
    import torch

    from nnunetv2_dsvm.benchmark.measuring.environment import environment
    from nnunetv2_dsvm.benchmark.run import BenchmarkResults, benchmark, check_suites
    from nnunetv2_dsvm.benchmark.settings import choose_settings
    from nnunetv2_dsvm.benchmark.table import as_json, as_line, as_table, planned_memory_table

    settings = choose_settings(
        device=args.device,
        dtype=args.dtype,
        backends=args.backends,
        scan_backend=args.scan_backend,
        batch=args.batch,
        size=args.size,
        stages=args.stages,
        dims=args.dims,
        encoder_depths=args.encoder_depths,
        decoder_depths=args.decoder_depths,
        d_state=args.d_state,
        fine_channels=args.fine_channels,
        compile=args.compile,
        relatives=args.relatives,
        repeats=args.repeats,
        quick=args.quick,
    )
    check_suites(args.suite, settings.device)
    print(_headline(environment(torch.device(settings.device)), settings.dtype), flush=True)

    def keep(found: BenchmarkResults) -> None:
        if args.json and not _is_device(args.json):
            write_text(args.json, as_json(found))

    found = benchmark(
        settings,
        args.suite,
        progress=lambda text: print(f"measuring {text} …", file=sys.stderr, flush=True),
        show_row=lambda result: print(as_line(result), file=sys.stderr, flush=True),
        show=lambda results: print(as_table(results), flush=True),
        show_memory=lambda found: print(f"\n{SUITES['memory'].title}\n\n{planned_memory_table(found)}", flush=True),
        keep=keep,
    )
    if args.json:
        _write(args.json, as_json(found))
    if found.failed:
        print(f"\nNo speed for a wrong result or a failure: {', '.join(found.failed)}; see above", file=sys.stderr)
    if found.took_more_than_planned:
        print("\nA training took more memory than planned, or failed; see above", file=sys.stderr)
    return 1 if found.failed or found.took_more_than_planned else 0


def _write(path: Path, text: str) -> None:
    if _is_device(path):
        path.write_text(text, encoding="utf-8")
    else:
        write_text(path, text)


def _is_device(path: Path) -> bool:
    """Whether a device or a pipe lies there, which nothing can replace, and which is written once."""
    return path.exists() and not path.is_file()


def _headline(where: dict[str, Any], dtype: str) -> str:
    versions = ", ".join(f"{k} {v}" for k, v in where["versions"].items() if k in ("nnunetv2_dsvm", "torch", "triton"))
    threads = f", {where['torch_threads']} threads" if where["device"] == "cpu" else ""
    precision = dtype if dtype == "float32" else f"AMP {dtype}"
    return (
        f"{where['device_name']}{threads}; {versions}; {precision}\n"
        f"Medians ± half the range. × (faster) and / (of the memory): against the line of the block that has neither.\n"
        f"Memory: {where['memory_measured_by']}."
    )


def _names(text: str) -> list[str]:
    return text.split(",")


def _integers(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(","))


def _image_size(text: str) -> tuple[int, int]:
    parts = _integers(text.replace("x", ","))
    if len(parts) > 2 or min(parts) < 1:
        raise argparse.ArgumentTypeError(f"expected one edge or HxW in pixels, got {text!r}")
    return parts[0], parts[-1]
