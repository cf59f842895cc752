"""Tests. A package, so that `tests` is this one: some packages install one of that name."""
