"""The two formats: how a traced network is written to a file, and how the file is run again."""

import json
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from torch.export import Dim, ExportedProgram
from torch.fx import GraphModule

from nnunetv2_dsvm.architecture.vm_unet import VMUNet
from nnunetv2_dsvm.errors import UserError
from nnunetv2_dsvm.exporting.metadata import KEY
from nnunetv2_dsvm.exporting.traceable_network import TraceableVMUNet

Format = Literal["torch-export", "onnx"]
SUFFIXES: dict[Format, str] = {"torch-export": ".pt2", "onnx": ".onnx"}
_TALKATIVE = ("torch._export.serde.serialize", "onnxscript", "onnx_ir")  # on what is no trouble here


def trace(network: VMUNet, input_channels: int) -> ExportedProgram:
    """The network as a program of torch's own operators, for any batch, height and width of at least 1.

    Raises:
        UserError: this torch cannot trace it.
    """
    # Two of each, as torch takes a size of one for a constant; what else they are does not matter.
    example = torch.zeros(2, input_channels, 2 * 32 + 8, 3 * 32 + 8)
    sizes = {0: Dim("batch", min=1), 2: Dim("height", min=1), 3: Dim("width", min=1)}
    try:
        # Otherwise torch reasons that a size is not 1 because the example's is not, and refuses a batch of one later.
        with torch.no_grad(), torch.fx.experimental._config.patch(backed_size_oblivious=True):
            program = torch.export.export(TraceableVMUNet(network), (example,), dynamic_shapes=(sizes,), strict=False)
    except Exception as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(
            f"torch {torch.__version__} cannot trace the network: {reason}. Exporting was made with torch 2.14 and "
            "uses what older versions lack: update torch"
        ) from error
    for module in program.graph_module.modules():
        for node in module.graph.nodes if isinstance(module, GraphModule) else ():
            node.meta.pop("stack_trace", None)  # where this package lies on this machine: nothing for other people's
    return program


def write(program: ExportedProgram, format: Format, metadata: Mapping[str, Any], path: Path) -> None:
    """Writes the program and its metadata to a file.

    Raises:
        UserError: a package for ONNX is missing.
        OSError: the file cannot be written.
    """
    text = json.dumps(metadata, indent=1)
    with _quietly():
        if format == "torch-export":
            # By an open file: torch insists on a suffix of a name.
            with open(path, "wb") as file:
                torch.export.save(program, file, extra_files={KEY: text})
            return
        _refuse_without("onnx", "onnxscript")
        model = torch.onnx.export(
            program, dynamo=True, verbose=False, report=False, input_names=["image"], output_names=["logits"],
            dynamic_shapes=({0: "batch", 2: "height", 3: "width"},),
        )  # fmt: skip
        model.model.metadata_props[KEY] = text
        model.save(path)


def load(path: Path, format: Format) -> Callable[[Tensor], Tensor]:
    """The file as a function from images to logits, on the CPU; of this package it uses nothing.

    Raises:
        UserError: onnxruntime is missing.
    """
    if format == "torch-export":
        with open(path, "rb") as file, _quietly():
            module = torch.export.load(file).module()
        return lambda image: module(image).detach()
    _refuse_without("onnxruntime")
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return lambda image: torch.from_numpy(session.run(["logits"], {"image": image.numpy()})[0])


def _refuse_without(*packages: str) -> None:
    for package in packages:
        try:
            __import__(package)
        except ImportError as error:
            raise UserError(f"ONNX needs the package {package}: pip install 'nnunetv2_dsvm[export]'") from error


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
