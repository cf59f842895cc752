"""ResNet-18 with a learning rate of 1e2 for 1e-2: every layer is thrown about.

Run from where `runs/` shall be: ``python train.py``. Everything but that one number is as in the recipe
`resnet18`, so its script is run; that one is to be copied from.
"""

import runpy
from pathlib import Path

import mlxtend  # noqa: F401, which the other script needs

if __name__ == "__main__":
    other = runpy.run_path(str(Path(__file__).parents[1] / "resnet18" / "train.py"))
    other["main"](lr=1e2, run="runs/lr_too_high.zarr")
