"""The two formats: how a traced network is written to a file, and how the file is run again."""

import json
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from torch.export import Dim, ExportedProgram
from torch.fx import GraphModule

from nnunetv2_dsvm.architecture.segmentation_network import SegmentationNetwork
from nnunetv2_dsvm.errors import UserError
from nnunetv2_dsvm.files.text import first_line
from nnunetv2_dsvm.models.export.metadata import AXIS_NAMES, KEY
from nnunetv2_dsvm.models.export.traceable_network import TraceableNetwork

Format = Literal["torch-export", "onnx"]
SUFFIXES: dict[Format, str] = {"torch-export": ".pt2", "onnx": ".onnx"}
_TALKATIVE = ("torch._export.serde.serialize", "onnxscript", "onnx_ir")  # on what is no trouble here


def trace(network: SegmentationNetwork, input_channels: int) -> ExportedProgram:
    """The network as a program of torch's own operators, for any batch and sizes of at least 1 (`only_size`: for that).

    Raises:
        UserError: this torch cannot trace it.
    """
    # Two of each, as torch takes a size of one for a constant; what else they are does not matter.
    tokens = enumerate(network.encoder_stages[-1].stride, 2)
    any_size = tuple(count * stride + stride // 4 for count, stride in tokens)
    example = torch.zeros(2, input_channels, *(network.only_size or any_size))
    sizes = {axis: Dim(name, min=1) for axis, name in _dynamic_sizes(network.axes, network.only_size).items()}
    try:
        # Otherwise torch reasons that a size is not 1 because the example's is not, and refuses a batch of one later.
        config = torch.fx.experimental._config
        with torch.no_grad(), config.patch(backed_size_oblivious=True):  # type: ignore[attr-defined]  # torch adds it
            program = torch.export.export(TraceableNetwork(network), (example,), dynamic_shapes=(sizes,), strict=False)
    except Exception as error:
        raise UserError(_needs_newer("trace the network", error)) from error
    for module in program.graph_module.modules():
        for node in module.graph.nodes if isinstance(module, GraphModule) else ():
            node.meta.pop("stack_trace", None)  # where this package lies on this machine: nothing for other people's
    return program


def _dynamic_sizes(axes: int, only_size: Sequence[int] | None) -> dict[int, str]:
    """The axes of an image `(batch, channels, *sizes)` that may have any size, with their names."""
    return {0: "batch", **dict(enumerate(() if only_size else AXIS_NAMES[-axes:], 2))}


def write(program: ExportedProgram, format: Format, metadata: Mapping[str, Any], path: Path) -> None:
    """Writes the program, which ONNX uses up, and its metadata to a file.

    Raises:
        UserError: this torch cannot turn the program into ONNX.
        OSError: the file cannot be written.
    """
    text = json.dumps(metadata, indent=1)
    with _quietly():
        if format == "torch-export":
            # By an open file: torch insists on a suffix of a name.
            with open(path, "wb") as file:
                torch.export.save(program, file, extra_files={KEY: text})
            return
        try:
            sizes = _dynamic_sizes(len(metadata["patch_size"]), metadata["only_size"])
            model = torch.onnx.export(
                program, dynamo=True, verbose=False, report=False, input_names=["image"], output_names=["logits"],
                dynamic_shapes=(sizes,),
            )  # fmt: skip
        except Exception as error:
            raise UserError(_needs_newer("write the network as ONNX", error)) from error
        assert model is not None  # it is one where dynamo=True
        model.model.metadata_props[KEY] = text
        model.save(path)


def load(path: Path, format: Format) -> Callable[[Tensor], Tensor]:
    """The file as a function from images to logits, on the CPU; of this package it uses nothing."""
    if format == "torch-export":
        with open(path, "rb") as file, _quietly():
            module = torch.export.load(file).module()
        return lambda image: module(image).detach()
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return lambda image: torch.from_numpy(session.run(["logits"], {"image": image.numpy()})[0])


def check_packages(format: Format) -> None:
    """Raises UserError where the format needs a package that is not there."""
    for package in ("onnx", "onnxscript", "onnxruntime") if format == "onnx" else ():
        try:
            import_module(package)
        except ImportError as error:
            raise UserError(
                f"--format onnx needs {package}, which cannot be imported ({error}): "
                "pip install 'nnunetv2_dsvm[export]'"
            ) from error


def _needs_newer(what: str, error: Exception) -> str:
    return (
        f"torch {torch.__version__} cannot {what}: {first_line(error)}. Exporting was made with torch 2.14 and uses "
        "what older versions lack: update torch"
    )


@contextmanager
def _quietly() -> Iterator[None]:
    before = {name: logging.getLogger(name).level for name in _TALKATIVE}
    try:
        for name in before:
            logging.getLogger(name).setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for name, level in before.items():
            logging.getLogger(name).setLevel(level)
