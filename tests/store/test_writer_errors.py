"""An error nobody thought of, in the thread that writes."""

import warnings

import pytest

from actlab.errors import StoreError
from actlab.store import arrays
from actlab.store.layout import ArrayLayout


class TestUnexpectedError:
    """An error nobody thought of ends the recording: told once, and the last commit stays as it is."""

    @pytest.fixture
    def fail(self, start, make_row, monkeypatch):
        """Return a function: a writer that has committed row 0 and failed in the middle of row 1."""
        encode = ArrayLayout.encode

        def encode_no_more_means(layout, chunk):
            if "mean of" in layout.attributes["long_name"]:
                raise MemoryError("no room\nfor a chunk")
            return encode(layout, chunk)

        def begin(**options):
            monkeypatch.setattr(arrays, "_MOST_SAMPLES", 1)  # so that chunks are full while a row is added
            writer = start(flush_every=3600, **options)
            writer.append(make_row(0))
            writer.flush()
            with monkeypatch.context() as patch:
                patch.setattr(ArrayLayout, "encode", encode_no_more_means)
                writer.append(make_row(1))
                writer._urgent = True  # as by `flush`, which would tell the reason itself
                writer.update_attributes()
                writer._thread.join(30)
            return writer

        return begin

    REASON = (
        "MemoryError: no room for a chunk; recording has stopped, all rows are lost but train up to step 0"
    )

    @pytest.mark.filterwarnings("error::pytest.PytestUnhandledThreadExceptionWarning")
    def test_is_told_once_by_the_next_call(self, fail, path, make_row):
        writer = fail()
        with pytest.warns(RuntimeWarning) as caught:
            assert writer.flush() == {"train": 0}
        assert [str(warning.message) for warning in caught] == [f"{path}: {self.REASON}"]
        with pytest.warns(RuntimeWarning, match="recording has ended, step 2 is dropped"):
            assert not writer.append(make_row(2))
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            writer.close()

    @pytest.mark.parametrize("call", ["flush", "close"])
    def test_raises_where_that_is_wanted(self, call, fail):
        writer = fail(on_error="raise")
        with pytest.raises(StoreError, match=self.REASON):
            getattr(writer, call)()

    def test_commits_nothing_any_more(self, fail, path, make_row, fingerprint, stored_rows):
        writer = fail()
        before = (path / "zarr.json").read_bytes()
        with pytest.warns(RuntimeWarning, match="recording has stopped") as caught:
            assert not writer.append(make_row(2))
        assert len(caught) == 1
        writer.flush()
        writer.close()
        assert (path / "zarr.json").read_bytes() == before
        assert [fingerprint(row) for row, *_ in stored_rows(path)] == [fingerprint(make_row(0))]
