"""What the READMEs of these recipes say is there to be seen."""

import pytest


@pytest.mark.parametrize("name", ["sentiment", "tabular", "tabular_no_categories"])
def test_the_effect_is_there(follow, name):
    assert follow(name) == []
