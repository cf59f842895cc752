"""Fuzzed and hostile runs: the quick form of the harness, and that its limits are watched."""

from tests.torture import fuzz
from tests.torture.mutators import mutate
from tests.torture.samples import files_of, record_sample


def test_only_store_errors_or_the_data_come_of_it():
    hostile, fuzzed, control = fuzz.run(long=False, seed=1)
    assert hostile.passed, hostile.notes
    assert fuzzed.passed, fuzzed.notes
    assert fuzzed.tried == fuzz.QUICK
    # Every limit is watched: memory, files outside, hangs.
    assert control.bad == len(fuzz.CONTROLS), control.notes


def test_a_case_is_a_function_of_its_seed(tmp_path):
    record_sample(tmp_path / "run.zarr", 1, side=False)
    files = files_of(tmp_path / "run.zarr")
    cases = [mutate(files, f"1:{number}") for number in range(40)]
    assert cases == [mutate(files, f"1:{number}") for number in range(40)]
    assert {what for _, _, what in cases} == {"record", "chunk", "archive"}
