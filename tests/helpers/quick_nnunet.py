"""nnU-Net's own functions, quick for small images: no process imports torch again, few voxels are drawn."""

import multiprocessing
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.pool import ThreadPool
from types import SimpleNamespace
from typing import Any
from unittest import mock

from nnunetv2.experiment_planning.dataset_fingerprint.fingerprint_extractor import DatasetFingerprintExtractor


@contextmanager
def threads_for_processes() -> Iterator[None]:
    """nnU-Net's worker processes are threads: each process would import torch, for seconds."""
    threads = SimpleNamespace(Pool=ThreadPool, Process=threading.Thread, Manager=multiprocessing.Manager)
    with (
        mock.patch.object(multiprocessing, "get_context", lambda method=None: threads),
        mock.patch("nnunetv2.utilities.utils.Pool", ThreadPool),
    ):
        yield


class QuickFingerprint(DatasetFingerprintExtractor):
    """nnU-Net's, without its 10⁸ draws of foreground voxels, which take 10 seconds however few there are."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.num_foreground_voxels_for_intensitystats = 10_000


@contextmanager
def few_voxels_drawn() -> Iterator[None]:
    """nnU-Net's command for the fingerprint, which takes no class from outside its package, draws as few."""
    original = DatasetFingerprintExtractor.__init__

    def few(self: DatasetFingerprintExtractor, *arguments: Any, **options: Any) -> None:
        original(self, *arguments, **options)
        self.num_foreground_voxels_for_intensitystats = 1e5

    with mock.patch.object(DatasetFingerprintExtractor, "__init__", few):
        yield
