"""torchvision of the package index is built for CUDA: with torch for CPUs its operators are missing."""

import os
from importlib.util import find_spec
from pathlib import Path
from unittest import mock

import pytest
import torch

torch.set_num_threads(1)

if (found := find_spec("torchvision")) is not None:
    try:
        torch.ops.load_library(str(Path(found.origin).with_name("_C.so")))
    except OSError:
        for name in ("nms", "qnms"):  # what `import torchvision` asks for; no test calls them
            torch.library.define(
                f"torchvision::{name}", "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
            )


@pytest.fixture(autouse=True)
def _same_environment():
    """Take back what a test sets: Lightning names ranks, and a Trainer would look for the others."""
    with mock.patch.dict(os.environ):
        yield
