// Beside and below the detail chart: the histogram of one column, and what the chart cannot show.

const FLOOR = 0.001; // a smaller share must not fill a strip

const readColumn = (column, counts = null) => {
  const { layer, window: shown } = detail;
  const m = shown?.m ?? 1;
  const to = Math.min(columnCount, column + m);
  const histogram = counts ?? merge(layer, column, to, m).out;
  const info = view.layers[detail.index];
  const y = Float64Array.from({ length: view.bins }, (_, b) => view.hMin + ((b + 0.5) / view.bins) * (view.hMax - view.hMin));
  // A log axis that begins with nothing: linear below the least count of a column.
  const place = (count) => (count > 0 ? Math.log10(1 + count / info.low) : 0);
  const e = Math.max(0, epochIndex(view.firstRow[column]));
  const x2 = Float64Array.from(histogram, place);
  model("column_histogram").data_source.data = { x1: x2.map(() => 0), x2, y };
  model("epoch_average").data_source.data = {
    x: Float64Array.from(layer.epochs.subarray(e * view.bins, (e + 1) * view.bins), place), y,
  };
  const frame = model("marginal");
  const end = place(info.high) * 1.06 || 1;
  frame.x_range.setv({ start: 0, end });
  let marks = decades(info.low, Math.max(info.high, info.low * 1.01)).filter((value) => place(value) > 0.14 * end);
  if (marks.length > 4) marks = marks.filter((value, i) => (marks.length - 1 - i) % Math.ceil(marks.length / 4) === 0);
  const axis = frame.below[0];
  axis.ticker.ticks = [0, ...marks.map(place)];
  axis.major_label_overrides = new Map([[0, "0"], ...marks.map((value) => [place(value), value < 1 ? String(value) : tick(value, view.k)])]);
  $("readout").textContent = describe(layer.series, column, to);
};

const describe = (series, from, to) => {
  const first = view.firstRow[from];
  const last = endRow(to - 1) - 1;
  const low = (name) => Math.min(...series[name].subarray(from, to));
  const high = (name) => Math.max(...series[name].subarray(from, to));
  const span = (name) => (first === last ? "" : ` [${number(low(`${name}_min`))}, ${number(high(`${name}_max`))}]`);
  const e = epochIndex(first);
  const lines = [
    `${batchesOf(first, last + 1)}${e >= 0 ? ` (epoch ${view.epochs[e]})` : ""}`,
    `mean ${number(mixed(series.mean, from, to))}${span("mean")}`,
    `std ${number(mixed(series.std, from, to))}${span("std")}`,
    `out of range ${percent(mixed(series.underflow, from, to) + mixed(series.overflow, from, to))}`,
  ];
  const odd = largest(series.oddest, from, to);
  if (series.oddest[odd] > 0) lines.push(`oddest batch ${whole.format(stepOf(view.firstRow[odd] + series.oddest_row[odd]))}: ${percent(series.oddest[odd])} apart`);
  const broken = mixed(series.nonfinite, from, to);
  if (broken > 0) lines.push(`NaN or infinite ${percent(broken)}`);
  return lines.join("\n");
};

// Bars of a series over the columns in sight, the largest of those merged.
const bars = (series, sign = 1, wanted = () => true) => {
  const { first, last, m } = detail.window;
  const out = { left: [], right: [], top: [], bottom: [] };
  for (let from = first; from < last; from += m) {
    const to = Math.min(last, from + m);
    const value = series[largest(series, from, to)];
    if (value > 0 && wanted(value)) {
      out.left.push(view.firstRow[from]);
      out.right.push(endRow(to - 1));
      out.top.push(sign > 0 ? value : 0);
      out.bottom.push(sign > 0 ? 0 : -value);
    }
  }
  return out;
};

const setStrip = (name, low, high, visible, titled = visible) => {
  const frame = model(name);
  frame.y_range.setv({ start: low * 1.08, end: high * 1.08 });
  const ticks = [low, 0, high].filter((value, i) => i === 1 || Math.abs(value) > (high - low) * 0.3);
  const axis = frame.left[0];
  axis.ticker.ticks = ticks;
  axis.major_label_overrides = new Map(ticks.map((value) => [value, percent(Math.abs(value))]));
  $(`figure-${name}`).hidden = !visible;
  document.querySelector(`[data-strip="${name}"]`).hidden = !titled;
};

const peak = (values) => values.reduce((most, value) => (value > most ? value : most), 0);

const drawStrips = () => {
  const { underflow, overflow, nonfinite, oddest } = detail.layer.series;
  const above = peak(overflow);
  const below = peak(underflow);
  setData("strip_range_0", bars(overflow));
  setData("strip_range_1", bars(underflow, -1));
  const most = Math.max(above, below);
  $("range-note").textContent = most === 0 ? "· none in any batch" : `· at most ${percent(most)}`;
  setStrip("strip_range", -Math.max(below, above > 0 ? 0 : FLOOR, most < FLOOR ? FLOOR : most * 0.12), Math.max(above, below > 0 ? 0 : FLOOR, most < FLOOR ? FLOOR : most * 0.12), most > 0, true);
  setData("strip_hidden_0", bars(oddest, 1, (share) => share < 0.5));
  setData("strip_hidden_1", bars(oddest, 1, (share) => share >= 0.5));
  setStrip("strip_hidden", 0, 1, view.k > 1);
  setData("strip_nonfinite_0", bars(nonfinite));
  setStrip("strip_nonfinite", 0, Math.max(FLOOR, peak(nonfinite)), peak(nonfinite) > 0);
};
