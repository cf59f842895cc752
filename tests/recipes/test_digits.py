"""What the READMEs of these recipes say is there to be seen."""

import pytest


@pytest.mark.parametrize("name", ["mnist_3_vs_7", "digits_10", "unfreezing"])
def test_the_effect_is_there(follow, name):
    assert follow(name) == []
