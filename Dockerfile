# nnU-Net v2 with this package. The data stay outside, in a folder mounted at /data: see documentation/installing.md.
FROM python:3.12-slim-bookworm

# The C compiler is for the launchers of the GPU kernels, at run time. The release of Debian above fixes its version.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends gcc libc6-dev \
    && rm -rf /var/lib/apt/lists/*

WORKDIR /opt/nnunetv2_dsvm
COPY setup.py pyproject.toml README.md LICENSE ./
COPY nnunetv2_dsvm ./nnunetv2_dsvm
RUN pip install --no-cache-dir . && useradd --create-home --uid 1000 user

# Any number may be given to `docker run --user`: caches lie where all can write, and torch asks for the user's name.
ENV nnUNet_raw=/data/nnUNet_raw \
    nnUNet_preprocessed=/data/nnUNet_preprocessed \
    nnUNet_results=/data/nnUNet_results \
    XDG_CACHE_HOME=/tmp/cache \
    TRITON_CACHE_DIR=/tmp/cache/triton \
    TORCHINDUCTOR_CACHE_DIR=/tmp/cache/inductor \
    MPLCONFIGDIR=/tmp/cache/matplotlib \
    USER=user

USER 1000
WORKDIR /data
CMD ["nnUNetv2_dsvm", "doctor"]
