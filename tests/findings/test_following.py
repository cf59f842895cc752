"""Following a run that grows: each finding once, as it appears, until the run is closed."""

import pytest

from actlab.findings.finding import Verdict
from actlab.findings.following import News, follow
from actlab.findings.verdict import read_limits
from actlab.run import open_run
from actlab.store.writer import RunWriter


def verdict(*findings):
    return Verdict(findings, [], [], "a.zarr")


class TestNews:
    def test_a_finding_that_goes_on_is_told_once(self, make_finding):
        news = News()
        assert len(news.of(verdict(make_finding(steps=(10, 20))), {"train": 20})) == 1
        for last in (21, 50, 99):
            assert news.of(verdict(make_finding(steps=(10, last))), {"train": last}) == []

    def test_so_is_one_whose_begin_is_seen_otherwise_later(self, make_finding):
        news = News()
        news.of(verdict(make_finding(steps=(10, 20))), {"train": 20})
        assert news.of(verdict(make_finding(steps=(40, 60))), {"train": 60}) == []

    def test_another_odd_batch_is_news(self, make_finding):
        news, first, second = (
            News(),
            make_finding("spike", steps=(10, 10)),
            make_finding("spike", steps=(80, 80)),
        )
        assert news.of(verdict(first), {"train": 40}) == [first]
        assert news.of(verdict(first, second), {"train": 90}) == [second]
        assert news.of(verdict(first, second), {"train": 95}) == []

    def test_another_layer_is_news(self, make_finding):
        news, other = News(), make_finding(layers=("relu9",))
        news.of(verdict(make_finding()), {"train": 20})
        assert news.of(verdict(make_finding(), other), {"train": 20}) == [other]

    def test_a_layer_that_joins_is_not(self, make_finding):
        news = News()
        news.of(verdict(make_finding()), {"train": 20})
        assert news.of(verdict(make_finding(layers=("relu1", "relu2"))), {"train": 20}) == []

    def test_what_comes_with_a_new_group_is_told_with_it_and_not_again(self, make_finding):
        news, follower = News(), make_finding("nan_inf", ("fc",))
        whole = make_finding(followers=(follower,))
        assert news.of(verdict(whole), {"train": 20}) == [whole]
        assert news.of(verdict(whole, follower), {"train": 20}) == []

    def test_a_new_consequence_of_a_known_cause_is_told_alone(self, make_finding):
        news, follower = News(), make_finding("nan_inf", ("fc",))
        news.of(verdict(make_finding()), {"train": 20})
        assert news.of(verdict(make_finding(followers=(follower,))), {"train": 20}) == [follower]

    def test_a_cause_that_is_seen_later_is_told_with_what_was_known(self, make_finding):
        news, known = News(), make_finding("nan_inf", ("fc",))
        news.of(verdict(known), {"train": 20})
        cause = make_finding("exploding", ("conv1",), followers=(known,))
        assert news.of(verdict(cause), {"train": 20}) == [cause]


class TestFollow:
    @pytest.fixture
    def grow(self, tmp_path, small_axis, make_row):
        """A run, and a function that commits the next row; NaN is in none of its layers at first."""
        writer = RunWriter(tmp_path / "run.zarr", axis=small_axis, attributes={"head": "layer1"}, fsync=False)

        def commit(step, *, nan):
            row = make_row(step, samples=None)
            row.counts[:, [0, -2, -1]] = 0
            row.counts[1, -1] = nan
            row.n[:] = row.counts.sum(axis=1)
            assert writer.append(row)
            writer.flush()

        return open_run(tmp_path / "run.zarr"), commit, writer

    def test_tells_what_appears_and_ends_with_the_run(self, grow):
        run, commit, writer = grow
        todo = [lambda: commit(0, nan=0), lambda: commit(1, nan=5), lambda: commit(2, nan=9), writer.close]
        waits = []

        def sleep(seconds):
            waits.append(seconds)
            todo.pop(0)()

        told = [
            (len(facts.checked), [each.rule for each in news if each.rule == "nan_inf"])
            for facts, news in follow(run, read_limits({}), every=0.25, sleep=sleep)
        ]
        assert [news for _, news in told] == [[], [], ["nan_inf"], [], []]
        assert told[0][0] == 0  # nothing recorded yet, so no rule could be asked
        assert min(waits) >= 0.25
        assert todo == []

    def test_waits_while_nothing_is_committed(self, grow):
        run, commit, writer = grow
        commit(0, nan=0)
        run.refresh()
        todo = [lambda: None, lambda: None, writer.close]
        looks = list(follow(run, read_limits({}), sleep=lambda _: todo.pop(0)()))
        assert len(looks) == 2
