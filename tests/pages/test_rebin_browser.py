"""The script of the page against the kernel: slots to bins, codes to sums."""

from importlib.resources import files

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from actlab.axis import FloatAxis, LinearAxis
from actlab.rebinning import LARGEST, Slots, rebin_array

pytestmark = pytest.mark.browser

AXES = (FloatAxis(), FloatAxis(3, -6, 5), FloatAxis(1, 0, 1))
RUN = """([bits, floor, exponents, range, first, sums, slots]) => {
  const plan = makePlan(makeLayout(bits, floor, exponents), ...range);
  const found = makeRebinner(plan, Float32Array.from(sums), first, slots)(0, sums.length / slots);
  const cuts = Array.from({ length: range[2] }, (_, bin) => [...new Set(plan.cut.subarray(bin, bin + 2))]);
  const bound = cuts.map((slots) => slots.reduce((sum, slot) => sum + found.mass[slot], 0));
  return { counts: [...found.counts], below: found.below, above: found.above, bound,
           edges: [...plan.edges] };
}"""


@pytest.fixture(scope="module")
def script(browser):
    page = browser.new_page()
    page.set_content('<script id="data" type="application/json">{}</script>')
    for name in ("core.js", "rebin.js"):
        page.add_script_tag(content=files("actlab.pages").joinpath("assets", name).read_text())
    yield page
    page.close()


@st.composite
def cases(draw):
    """Slots, counts on some of them in a few places, and a range."""
    axis = draw(st.sampled_from(AXES))
    bits = draw(st.integers(0, axis.mantissa_bits))
    slots = Slots(
        axis, bits, draw(st.integers(axis.min_exponent - axis.mantissa_bits, axis.max_exponent - 1))
    )
    finite = slots.starts.size - 3
    first = draw(st.integers(1, finite) | st.integers(max(1, slots.zero - 9), slots.zero))
    n = draw(st.integers(1, min(60, finite - first + 1)))
    places = draw(st.integers(1, 3))
    counts = np.random.default_rng(draw(st.integers(0, 99))).poisson(
        draw(st.sampled_from([0.3, 40])), (places, n)
    )
    knots = np.concatenate([-slots.magnitudes[::-1], [0.0], slots.magnitudes])
    ends = st.sampled_from(knots.tolist()) | st.floats(-20, 20, allow_subnormal=False)
    low, high = sorted((draw(ends), draw(ends)))
    if not high > low:
        high = low + 1
    return slots, first, counts, (low, high, draw(st.integers(1, 50)))


@settings(max_examples=150)
@given(case=cases())
def test_the_script_bins_as_the_kernel_does(script, case):
    slots, first, counts, bins = case
    exponents = [slots.axis.min_exponent, slots.axis.max_exponent]
    given_ = [slots.bits, slots.floor, exponents, bins, first, counts.ravel().tolist(), counts.shape[1]]
    found = script.evaluate(RUN, given_)
    whole = np.zeros(slots.starts.size)
    whole[first : first + counts.shape[1]] = counts.sum(axis=0)
    axis = LinearAxis(*bins)
    expected = rebin_array(whole, slots.lower, slots.upper, axis)
    total = counts.sum()
    assert found["edges"] == axis.edges.tolist()
    for name, known in (
        ("counts", expected.counts),
        ("bound", expected.bound),
        ("below", expected.underflow),
        ("above", expected.overflow),
    ):
        np.testing.assert_allclose(found[name], known, rtol=1e-9, atol=1e-9 * max(total, 1), err_msg=name)
    assert sum(found["counts"]) + found["below"] + found["above"] == pytest.approx(total)


@given(size=st.floats(4.1, 1e38), sign=st.sampled_from([-1, 1]), bins=st.integers(1, 40))
def test_what_lies_beyond_the_slots_ends_with_the_farthest_value(script, size, sign, bins):
    code = """([size, sign, bins]) => {
      const ends = sign > 0 ? [-1, size] : [-size, 1];
      const layout = makeLayout(1, 0, [0, 1], ends);
      const plan = makePlan(layout, ...ends.map((end) => end * 1.0625), bins);
      const slot = sign > 0 ? 2 * layout.half + 1 : 1;
      const { counts, below, above } = makeRebinner(plan, Float32Array.of(96), slot, 1)(0, 1);
      return { counts: [...counts], edges: [...plan.edges], lost: below + above, ends: [...layout.ends] };
    }"""
    found = script.evaluate(code, [size, sign, bins])
    inner, outer = sorted((4.0 * sign, size * sign))
    edges = np.clip(found["edges"], inner, outer)
    np.testing.assert_allclose(found["counts"], 96 * np.diff(edges) / (outer - inner), atol=1e-4)
    assert found["lost"] == pytest.approx(0, abs=1e-9)
    assert sorted(np.abs(found["ends"])[[0, -1]]) == pytest.approx([size, LARGEST])


@pytest.mark.parametrize(
    ("share", "said"),
    [(0, "0%"), (1e-5, "<0.01%"), (0.99, "99%"), (0.9963, ">99%"), (1 - 1e-12, "100%"), (1, "100%")],
)
def test_a_share_is_none_or_all_only_if_it_is(script, share, said):
    assert script.evaluate("share => percent(share)", share) == said
