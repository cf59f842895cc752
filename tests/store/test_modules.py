"""The way through the store that its docstring describes."""

import re
from pathlib import Path

from actlab import store


def test_every_module_of_the_store_is_on_the_map():
    there = {path.stem for path in Path(store.__file__).parent.glob("*.py")} - {"__init__"}
    named = re.findall(r"`(\w+)`", store.__doc__)
    assert set(named) == there
    assert len(named) == len(there)
