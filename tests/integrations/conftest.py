"""torchvision of the package index is built for CUDA: with torch for CPUs its operators are missing."""

from importlib.util import find_spec
from pathlib import Path

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
