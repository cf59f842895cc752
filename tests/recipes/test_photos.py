"""What the READMEs of these recipes say is there to be seen."""

import pytest


@pytest.mark.parametrize("name", ["photos_10", "multi_label", "head_pose"])
def test_the_effect_is_there(follow, name):
    assert follow(name) == []
