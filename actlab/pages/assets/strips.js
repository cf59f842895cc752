// Around the detail chart: its numbers, the histogram of one column, and what the chart cannot show.

const FLOOR = 0.001; // a smaller share must not fill a strip
const STRAY = [0.78, 0.94]; // the rim of a strip, where the mark of a few values has no size

const readColumn = (row) => {
  const { binned } = detail;
  const { low, high } = binned;
  const column = columnAt(row);
  const y = binCenters();
  // A log axis that begins with nothing: linear below the least count of a column.
  const place = (count) => (count > 0 ? Math.log10(1 + count / low) : 0);
  const e = Math.max(0, epochIndex(column.start));
  const x2 = Float64Array.from(column.counts, place);
  model("column_histogram").data_source.data = { x1: x2.map(() => 0), x2, y };
  const { out, width } = binned.epochs[0];
  model("epoch_average").data_source.data = { x: y.map((_, bin) => place(out[bin * width + e])), y };
  const frame = model("marginal");
  const end = place(high) * 1.06 || 1;
  frame.x_range.setv({ start: 0, end });
  let marks = decades(low, high).filter((value) => place(value) > 0.14 * end);
  if (marks.length > 4) marks = marks.filter((value, i) => (marks.length - 1 - i) % Math.ceil(marks.length / 4) === 0);
  const words = new Map([[0, "0"], ...marks.map((value) => [place(value), value < 1 ? String(value) : tick(value, view.k)])]);
  setTicks(frame.below[0], [...words.keys()], (at) => words.get(at));
  $("readout").textContent = column.single === undefined ? describe(column) : describeBatch(column);
};

// How far counts may be from their bins: an upper limit, and what it comes from.
const sayBound = ({ bound, coarsest }) => {
  const most = `at most ${percent(bound)} of the counts`;
  if (coarsest < 1.05) return `${most} may lie one bin off`;
  return `slots up to ${Number(coarsest.toPrecision(2))} bins wide: their counts are kept, the shape within is interpolated (for ${most})`;
};

const whereOf = ({ start, stop }) => {
  const e = epochIndex(start);
  return `${batchesOf(start, stop)}${e >= 0 ? ` (epoch ${view.epochs[e]})` : ""}`;
};

// What the strips tell of columns [from, to), or of one batch of them, in words.
const announced = (from, to, batch) => {
  const { layer: { series, info } } = detail;
  const lines = [];
  const strange = largest(series.miscount, from, to);
  const of = view.firstRow[strange] + series.miscount_row[strange];
  if (series.miscount[strange] > 0 && (batch ?? of) === of) lines.push(`batch ${whole.format(stepOf(of))} has ${percent(series.miscount[strange])} more or fewer values than usual`);
  const far = info.strays.filter(([column, row]) => column >= from && column < to && (batch ?? row) === row);
  const more = far.length === 1 ? "" : `; so ${far.length === 2 ? "does" : "do"} ${whole.format(far.length - 1)} more`;
  if (far.length > 0) lines.push(`batch ${whole.format(stepOf(far[0][1]))} reaches ${number(far[0][2])}, far beyond those around it${more}`);
  return lines;
};

const describeBatch = (column) => {
  const { single, start } = column;
  const [mean, std, n, nonfinite] = view.windowSeries.map((name) => single.series[name][start - single.start]);
  const [below, above, inside] = [single.below, single.above, single.inside].map((flow) => flow[start - single.start]);
  const outside = ((below + above) / (below + above + inside)) * (1 - nonfinite);
  const lines = [whereOf(column), `mean ${number(mean)}`, `std ${number(std)}`, counted(n, "value"),
    `out of range ${percent(outside)}`,
    ...announced(columnOf(start), columnOf(start) + 1, start)];
  if (nonfinite > 1e-4) lines.push(`NaN or infinite ${percent(nonfinite)}`);
  return lines.join("\n");
};

const describe = (column) => {
  const { from, to, start, stop } = column;
  const { layer: { series }, binned } = detail;
  const low = (name) => Math.min(...series[name].subarray(from, to));
  const high = (name) => Math.max(...series[name].subarray(from, to));
  const span = (name) => (stop - start === 1 ? "" : ` [${number(low(`${name}_min`))}, ${number(high(`${name}_max`))}]`);
  const lines = [
    whereOf(column),
    `mean ${number(mixed(series.mean, from, to))}${span("mean")}`,
    `std ${number(mixed(series.std, from, to))}${span("std")}`,
    `out of range ${percent(mixed(binned.underflow, from, to) + mixed(binned.overflow, from, to))}`,
  ];
  const odd = largest(series.oddest, from, to);
  if (series.oddest[odd] > 0) lines.push(`oddest batch ${whole.format(stepOf(view.firstRow[odd] + series.oddest_row[odd]))}: ${percent(series.oddest[odd])} apart`);
  lines.push(...announced(from, to));
  const broken = mixed(series.nonfinite, from, to);
  if (broken > 0) lines.push(`NaN or infinite ${percent(broken)}`);
  return lines.join("\n");
};

// Bars of a series over the columns in sight, the largest of those merged.
const bars = (series, sign = 1, wanted = () => true) => {
  const { first, last, m } = detail.sight;
  const out = { left: [], right: [], top: [], bottom: [] };
  for (let from = first; from < last; from += m) {
    const to = Math.min(last, from + m);
    const at = largest(series, from, to);
    const value = series[at];
    if (value > 0 && wanted(value, at)) {
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
  setTicks(frame.left[0], ticks, (value) => percent(Math.abs(value)));
  $(`figure-${name}`).hidden = !visible;
  document.querySelector(`[data-strip="${name}"]`).hidden = !titled;
};

// The numbers of the values and of the colour bar; all frames get the borders that these need, or the strips would not
// be under their columns. They are laid out anew for it, which takes longer than all else, so only long numbers do that.
const drawAxes = () => {
  const frame = model("detail");
  const pen = document.createElement("canvas").getContext("2d");
  pen.font = `12px ${frame.left[0].major_label_text_font}`;
  const room = (words) => Math.ceil(Math.max(0, ...words.map((word) => pen.measureText(word).width)));
  detail.borders ??= [frame.min_border_left, frame.min_border_right];
  const { low, high } = detail.binned;
  const counts = decades(low, high);
  const left = room(setValues(frame.left[0], roundTicks(detail.range[0], detail.range[1], 8)));
  setTicks(model("color_bar"), counts, (value) => tick(value, view.k));
  const right = room(counts.map((value) => tick(value, view.k)));
  for (const name of ["detail", "strip_range", "strip_hidden", "strip_nonfinite"]) {
    model(name).setv({ min_border_left: Math.max(detail.borders[0], 38 + left), min_border_right: Math.max(detail.borders[1], 64 + right) });
  }
};

const peak = (values) => values.reduce((most, value) => (value > most ? value : most), 0);

const drawStrips = () => {
  const { binned: { underflow, overflow }, layer: { series, info } } = detail;
  const { nonfinite, oddest, miscount } = series;
  const above = peak(overflow);
  const below = peak(underflow);
  setData("strip_range_0", bars(overflow));
  setData("strip_range_1", bars(underflow, -1));
  const most = Math.max(above, below);
  $("range-note").textContent = most === 0 ? "· none in any batch" : `· at most ${percent(most)}`;
  setStrip("strip_range", -Math.max(below, above > 0 ? 0 : FLOOR, most < FLOOR ? FLOOR : most * 0.12), Math.max(above, below > 0 ? 0 : FLOOR, most < FLOOR ? FLOOR : most * 0.12), most > 0, true);
  const odd = new Set(info.odd);
  setData("strip_hidden_0", bars(oddest, 1, (_, column) => !odd.has(column)));
  setData("strip_hidden_1", bars(oddest, 1, (_, column) => odd.has(column)));
  setData("strip_hidden_2", bars(miscount.map((share) => Math.min(1, share))));
  setData("strip_hidden_3", {
    left: info.windows.map(({ start }) => start), right: info.windows.map(({ stop }) => stop),
    top: info.windows.map(() => 1.08), bottom: info.windows.map(() => 0.96),
  });
  const far = miscount.map(() => 0);
  for (const [column] of info.strays) far[column] = 1;
  const rim = bars(far);
  setData("strip_hidden_4", { ...rim, bottom: rim.top.map(() => STRAY[0]), top: rim.top.map(() => STRAY[1]) });
  $("miscount-key").hidden = peak(miscount) === 0;
  $("stray-key").hidden = info.strays.length === 0;
  $("windows-key").hidden = info.windows.length === 0;
  setStrip("strip_hidden", 0, 1, view.k > 1 || peak(miscount) > 0 || info.strays.length > 0);
  setData("strip_nonfinite_0", bars(nonfinite));
  setStrip("strip_nonfinite", 0, Math.max(FLOOR, peak(nonfinite)), peak(nonfinite) > 0);
};
