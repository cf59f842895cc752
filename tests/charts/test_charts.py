import subprocess
import sys

import pytest

from actlab import charts


def loaded_by(code):
    command = f"import sys; {code}; print(*sys.modules)"
    return subprocess.run(
        [sys.executable, "-c", command], capture_output=True, text=True, check=True
    ).stdout.split()


def test_charts_are_loaded_on_first_use():
    assert dir(charts) == ["colorful", "per_class", "twin_peaks", "wall"]
    heavy = {"holoviews", "bokeh", "datashader", "torch", "xarray"}
    assert not heavy & set(loaded_by("import actlab.charts"))


def test_an_unknown_chart_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'rainbow'"):
        _ = charts.rainbow
