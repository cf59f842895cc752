"""What the READMEs of these recipes say is there to be seen."""

import pytest


@pytest.mark.parametrize("name", ["resnet18", "lr_too_high", "language_model"])
def test_the_effect_is_there(follow, name):
    assert follow(name) == []
