// The detail chart of the chosen layer.

// `binned` is the layer on the bins of `range`; `windows` are those in sight, on the same bins.
const detail = { index: view.chosen, layer: null, range: view.range, binned: null, sight: null, windows: [], mark: null, borders: null };

let NDArray = null; // Bokeh's class of what an image is made of

// Columns in sight, merged so that no column is narrower than a device pixel; aligned to multiples.
const inSight = () => {
  const range = model("batches");
  const start = Math.min(range.start, range.end);
  const end = Math.max(range.start, range.end);
  const first = columnOf(start);
  const last = columnOf(end - 1e-6) + 1;
  const pixels = Math.max(50, (model("detail").inner_width || 600) * window.devicePixelRatio);
  const m = Math.max(1, Math.ceil((last - first) / pixels));
  // Single batches are drawn where they are kept and each has a pixel.
  const windows = pixels < end - start ? [] : view.layers[detail.index].windows.filter((each) => each.start < end && each.stop > start);
  return { first: Math.floor(first / m) * m, last: Math.min(columnCount, Math.ceil(last / m) * m), m, windows };
};

// The columns in sight: of the layer as it is binned already, or pooled to fewer.
const columnsInSight = ({ first, last, m }) => {
  const { binned } = detail;
  if (m > 1) return binGroups(binned.plan, binned.source, first, last, m, (column) => view.nRows[column]);
  const width = last - first;
  const out = new Float32Array(binned.plan.bins * width);
  for (let bin = 0; bin < binned.plan.bins; bin += 1) {
    out.set(binned.out.subarray(bin * columnCount + first, bin * columnCount + last), bin * width);
  }
  return { out, width };
};

const binWindow = (each) => {
  if (each.range !== detail.range) {
    const { first, slots, start, stop } = each;
    Object.assign(each, binGroups(detail.binned.plan, { sums: each.sums, first, slots }, 0, stop - start, 1, () => 1), { range: detail.range });
  }
  return each;
};

// The windows in sight that are unpacked; others come, and are drawn, later.
const windowsInSight = (wanted) => {
  const ready = wanted.filter((each) => windowsKept.has(each.blob));
  if (ready.length < wanted.length) {
    const { index } = detail;
    Promise.all(wanted.map(loadWindow)).then(() => { if (index === detail.index) { drawImage(); drawLines(); } });
  }
  return ready.map((each) => binWindow(windowsKept.get(each.blob)));
};

const drawImage = () => {
  const sight = inSight();
  const { first, last, m } = sight;
  const { out, width } = columnsInSight(sight);
  const [hMin, hMax, bins] = detail.range;
  detail.windows = windowsInSight(sight.windows);
  const source = model("image").data_source;
  const start = view.firstRow[first];
  const end = endRow(last - 1);
  for (const each of detail.windows) {
    const from = Math.max(0, Math.floor(each.start / view.k) - first);
    const to = Math.min(width, Math.ceil(each.stop / view.k) - first);
    for (let bin = 0; bin < bins; bin += 1) out.fill(NaN, bin * width + from, bin * width + to);
  }
  // The last merged column may hold fewer batches, but is drawn as wide as the others and cut off.
  const wide = last === columnCount ? width * m * view.k : end - start;
  source.data = {
    image: [new NDArray(out, [bins, width]), ...detail.windows.map((each) => new NDArray(each.out.slice(), [bins, each.width]))],
    x: [start, ...detail.windows.map((each) => each.start)],
    y: [hMin, ...detail.windows.map(() => hMin)],
    dw: [wide, ...detail.windows.map((each) => each.width)],
    dh: [hMax - hMin, ...detail.windows.map(() => hMax - hMin)],
  };
  detail.sight = { ...sight, out, width };
  drawResolution(start, end, m * view.k);
  setTicks(model("detail").below[0], stepTicks(start, end, tickCount("detail")), (row) => whole.format(stepOf(row)));
};

// Whether the batches of a column are drawn one by one.
const isSingle = (column) => detail.windows.some(({ start, stop }) => start <= view.firstRow[column] && view.firstRow[column] < stop);

// How much one column holds, and what is not to be seen in it.
const drawResolution = (start, end, batches) => {
  const every = view.every > 1 ? ` (of every ${whole.format(view.every)} batches one was recorded)` : "";
  const inside = detail.windows.every((each) => each.start <= start && each.stop >= end) && detail.windows.length > 0;
  const single = detail.windows.map((each) => batchesOf(Math.max(start, each.start), Math.min(end, each.stop)));
  $("resolution").textContent = inside
    ? `one column = one batch, kept in full here${every} · ${batchesOf(start, end)}`
    : `one column = ${batches === 1 ? "one batch" : `mean of ${whole.format(batches)} batches`}${every} · ${batchesOf(start, end)}` +
      (single.length > 0 ? ` · single: ${single.join(", ")}` : "");
  const { binned, layer: { info, series }, sight: { first, last } } = detail;
  const strays = new Set(info.strays.map(([column]) => column));
  let [flow, n, hidden] = [0, 0, 0];
  for (let c = first; c < last; c += 1) {
    n += series.n[c] * view.nRows[c];
    flow += (binned.underflow[c] + binned.overflow[c]) * series.n[c] * view.nRows[c] || 0;
    hidden += !isSingle(c) && (info.odd.includes(c) || series.miscount[c] > 0 || strays.has(c)) ? 1 : 0;
  }
  const gaps = view.gaps.filter(([row]) => row > start && row < end).reduce((sum, [, steps]) => sum + steps, 0);
  const parts = [
    n > 0 && `out of range here ${percent(flow / n)}${flow > n / 2 ? ": “fit” finds a range for this layer" : ""}`,
    binned.bound > 0.005 && sayBound(binned),
    view.k > 1 && `${hidden === 0 ? "no column hides" : hidden === 1 ? "one column hides" : `${whole.format(hidden)} columns hide`} an odd batch`,
    gaps > 0 && `${counted(gaps, "step")} ${gaps === 1 ? "was" : "were"} not recorded`,
  ];
  $("limits").textContent = info.never ? "" : parts.filter(Boolean).join(" · ");
};

// The counts of the column, or of the single batch, that holds a row.
const columnAt = (row) => {
  const of = (counts, width, w) => Float32Array.from({ length: detail.range[2] }, (_, bin) => counts[bin * width + w] || 0);
  const single = detail.windows.find((each) => each.start <= row && row < each.stop);
  if (single !== undefined) {
    return { counts: of(single.out, single.width, row - single.start), start: row, stop: row + 1, single };
  }
  const { first, last, m, out, width } = detail.sight;
  const w = Math.min(width - 1, Math.max(0, Math.floor((columnOf(row) - first) / m)));
  const from = first + w * m;
  const to = Math.min(last, from + m);
  return { counts: of(out, width, w), start: view.firstRow[from], stop: endRow(to - 1), from, to };
};

const epochIndex = (row) => view.epochRow.findLastIndex((start) => start <= row);

// Mean and std by column, by batch where single batches are drawn.
const drawLines = () => {
  const { series } = detail.layer;
  const points = [];
  for (let c = 0; c < columnCount; c += 1) {
    if (!isSingle(c)) points.push([view.firstRow[c] + view.nRows[c] / 2, series.mean[c], series.std[c]]);
  }
  for (const each of detail.windows) {
    for (let row = 0; row < each.width; row += 1) points.push([each.start + row + 0.5, each.series.mean[row], each.series.std[row]]);
  }
  points.sort((a, b) => a[0] - b[0]);
  const x = Float64Array.from(points, ([row]) => row);
  const put = (name, times) => {
    const y = Float64Array.from(points, ([, mean, std]) => mean + times * std);
    for (const part of ["", "_case"]) setData(`${name}${part}`, { x, y });
  };
  put("mean", 0);
  put("std_upper", 1);
  put("std_lower", -1);
  for (const name of ["epochs", "epochs_case"]) setData(name, { x: view.epochRow.slice(1) });
};

const binCenters = () => {
  const [hMin, hMax, bins] = detail.range;
  return Float64Array.from({ length: bins }, (_, bin) => hMin + ((bin + 0.5) / bins) * (hMax - hMin));
};

// Histograms of the epochs drawn sideways on one linear scale; a lone spike may be cut off at its epoch's end.
const drawEpochHistograms = () => {
  const { epochRow, rows } = view;
  const [, , bins] = detail.range;
  const y = binCenters();
  const curves = detail.binned.epochs.map(({ out, width }) => epochRow.map((_, e) => Float64Array.from({ length: bins }, (__, bin) => out[bin * width + e] || 0)));
  let top = 0;
  let rest = 0;
  for (const curve of curves[0]) {
    const sorted = curve.slice().sort();
    top = Math.max(top, sorted[bins - 1]);
    rest = Math.max(rest, sorted[Math.max(0, bins - 3)]);
  }
  const scale = Math.min(top, rest > 0 ? 1.6 * rest : top) || 1;
  ["epoch_histograms", "quarter_histograms", "valid_histograms"].forEach((name, c) => {
    const shown = epochRow.map((_, e) => e).filter((e) => view.epochBatches[c][e] > 0);
    const xs = shown.map((e) => {
      const wide = ((epochRow[e + 1] ?? rows) - epochRow[e]) * view.hScale;
      return curves[c][e].map((count) => epochRow[e] + wide * Math.min(1, count / scale));
    });
    for (const end of ["", "_case"]) setData(`${name}${end}`, { xs, ys: shown.map(() => y) });
  });
};

const drawScale = () => {
  const { low, high } = detail.binned;
  model("color_mapper").setv({ low, high, palette: layerPalette(detail.binned) });
};

const drawFacts = () => {
  const info = view.layers[detail.index];
  const { binned, range: [hMin, hMax, bins] } = detail;
  $("detail-title").textContent = `${info.name} `;
  if (view.layerInfo) {
    const kind = document.createElement("small");
    kind.textContent = info.kind;
    $("detail-title").append(kind);
  }
  const parts = info.never ? ["never called: nothing to show"] : [
    view.layerInfo && info.shape && `output ${info.shape}`,
    `${counted(info.perBatch, "value")} a batch`,
    `${counted(bins, "bin")} in [${exact(hMin)}, ${exact(hMax)}]`,
    binned !== null && `out of range ${percent(binned.outside)}`,
    info.nonfinite > 0 && `NaN or infinite ${percent(info.nonfinite)}`,
    binned !== null && binned.low < 1 && `pale: ${view.k === 1 ? "a count split between bins" : "less than one per batch"}`,
  ];
  $("layer-facts").textContent = parts.filter(Boolean).join(" · ");
  $("layer-select").value = String(detail.index);
  $("above-said").textContent = exact(hMax);
  $("below-said").textContent = exact(hMin);
  for (const tile of all(".tile")) tile.setAttribute("aria-current", String(Number(tile.dataset.layer) === detail.index));
};

// Bring the layer onto the bins of the range, and draw all of it.
const drawLayer = () => {
  detail.binned = binLayer(detail.layer, detail.range);
  const [start, end] = detail.range;
  model("values").setv({ start, end, reset_start: start, reset_end: end });
  drawFacts();
  setData("image", { image: [], x: [], y: [], dw: [], dh: [] }); // else the new scale colours the old image first
  drawScale();
  drawAxes();
  drawImage();
  drawLines();
  drawEpochHistograms();
  drawStrips();
  drawMark();
  readColumn(view.rows - 1);
};

const chooseLayer = async (index) => {
  const n = view.layers.length;
  detail.index = (index + n) % n;
  detail.binned = null;
  const asked = detail.index;
  drawFacts();
  const layer = await loadLayer(asked);
  if (asked !== detail.index || model === null) return;
  detail.layer = layer;
  drawLayer();
  keepPlace();
};

// Another range, for the chart; the wall says that its tiles keep theirs.
const setRange = (range) => {
  detail.range = range;
  showRange("range", range);
  const differs = !sameRange(range, view.range);
  if ($("wall-range") !== null) {
    $("wall-range").hidden = !differs;
    $("wall-range").textContent = `the tiles keep [${exact(view.range[0])}, ${exact(view.range[1])}], the detail shows [${exact(range[0])}, ${exact(range[1])}]`;
  }
  if (detail.binned !== null) drawLayer(); // else the layer on its way will have this range
  keepPlace();
};

// The same range for the Twin Peaks.
const setRanges = (range) => {
  setRange(range);
  if (page.peaks !== undefined) setPeaksRange(range);
};

const resetRanges = () => {
  setRange(view.range);
  if (page.peaks !== undefined) setPeaksRange(page.peaks.range);
};

// The column under the pointer: tooltip, cursor, histogram and readout.
const hover = (event) => {
  if (detail.binned === null || detail.sight === null) return;
  const [hMin, hMax, bins] = detail.range;
  const inside = event.x >= 0 && event.x < view.rows && event.y >= hMin && event.y < hMax;
  if (!inside || event.sx === undefined) return leave();
  const row = Math.floor(event.x);
  const column = columnAt(row);
  const bin = Math.min(bins - 1, Math.floor(((event.y - hMin) / (hMax - hMin)) * bins));
  const batches = column.stop - column.start;
  const tip = $("tooltip");
  const box = $("figure-detail").getBoundingClientRect();
  tip.textContent = `batch ${whole.format(stepOf(row))}\nvalue ${number(event.y)}\n${batches > 1 ? "mean count" : "count"} ${countOf(column.counts[bin], batches, detail.binned)}`;
  tip.hidden = false;
  const right = box.left + event.sx + 16;
  tip.style.left = `${right + tip.offsetWidth > window.innerWidth - 8 ? Math.max(8, right - tip.offsetWidth - 32) : right}px`;
  tip.style.top = `${Math.min(box.top + event.sy + 12, window.innerHeight - tip.offsetHeight - 8)}px`;
  model("cursor").setv({ location: event.x, visible: true });
  readColumn(row);
  return undefined;
};

const leave = () => {
  $("tooltip").hidden = true;
  if (model !== null) model("cursor").visible = false;
};

// Zoom by a factor, or move by a share of what is in sight.
const zoom = (factor, shift = 0) => {
  if (model === null) return;
  const range = model("batches");
  const least = Math.min(8, view.rows);
  const wide = Math.min(view.rows, Math.max(least, (range.end - range.start) * factor));
  const middle = (range.start + range.end) / 2 + shift * wide;
  const start = Math.min(Math.max(0, middle - wide / 2), view.rows - wide);
  range.setv({ start, end: start + wide });
};

// The marked rows, in the layer they belong to only.
const drawMark = () => {
  const { mark, index, range } = detail;
  const shown = mark !== null && mark.layer === index;
  const x = shown ? [mark.start, mark.end] : [];
  for (const name of ["mark", "mark_case"]) setData(name, { x });
  setData("mark_span", { x, y: x.map(() => range[1]) });
  $("mark-key").hidden = !shown;
  $("mark-said").textContent = shown ? `marked: ${batchesOf(mark.start, mark.end)}` : "";
};

// Mark rows [start, end) of a layer, and bring them into sight with what is around them: single batches where they are
// kept, else 8 columns at least.
const markRows = (layer, start, end) => {
  detail.mark = { layer, start, end };
  const least = Math.min(view.rows, 8 * view.k);
  const context = Math.max(0.3 * (end - start), 4 * view.k);
  let from = Math.max(0, Math.min(start - context, view.rows - least));
  let to = Math.min(view.rows, Math.max(end + context, from + least));
  const single = view.layers[layer].windows.find((each) => each.start <= start && end <= each.stop);
  if (single !== undefined) {
    from = Math.max(from, single.start);
    to = Math.min(to, single.stop);
  }
  model("batches").setv({ start: from, end: to });
  drawImage();
  drawLines();
  drawStrips();
  drawMark();
  readColumn(start);
};

const showOverlay = (box) => {
  const names = {
    mean: ["mean"],
    std: ["std_upper", "std_lower"],
    epochs: ["epochs"],
    histograms: ["epoch_histograms", "quarter_histograms", "valid_histograms"],
  }[box.dataset.overlay];
  for (const name of names) for (const part of ["", "_case"]) model(`${name}${part}`).visible = box.checked;
};

// The epoch chosen in the Twin Peaks is framed here.
const markEpoch = (label) => {
  if (model === null) return;
  const e = view.epochs.indexOf(label);
  const box = model("chosen_epoch");
  if (e >= 0) box.setv({ left: view.epochRow[e], right: view.epochRow[e + 1] ?? view.rows, visible: true });
  else box.visible = false;
};

const paintDetail = () => {
  const [soft, ink, accent] = ["soft", "ink", "accent"].map(themed);
  model("color_bar").major_label_text_color = soft;
  model("color_title").text_color = soft;
  model("epochs").glyph.line_color = themed("epoch");
  model("epochs_case").glyph.line_color = themed("epoch-case");
  for (const color of ["fill_color", "line_color"]) model("strip_range_1").glyph[color] = themed("train");
  model("cursor").line_color = ink;
  model("chosen_epoch").line_color = accent;
  model("column_histogram").glyph.fill_color = accent;
  model("column_histogram").glyph.line_color = null;
  model("epoch_average").glyph.line_color = ink;
  model("strip_hidden_0").glyph.setv({ fill_color: soft, line_color: soft });
  model("strip_hidden_3").glyph.setv({ fill_color: accent, line_color: accent });
  if (detail.binned !== null) drawScale();
};

const startDetail = () => {
  NDArray = model("image").data_source.data.image[0].constructor;
  let waiting = false;
  const redraw = () => {
    if (waiting || detail.binned === null) return;
    waiting = true;
    requestAnimationFrame(() => {
      waiting = false;
      if (detail.binned === null) return; // another layer is on its way
      const before = detail.windows.length;
      drawImage();
      if (before + detail.windows.length > 0) drawLines();
      drawStrips();
      keepPlace();
    });
  };
  for (const end of ["start", "end"]) model("batches").properties[end].change.connect(redraw);
  model("detail").properties.inner_width.change.connect(redraw);
  model("detail").on_event("mousemove", { execute: (event) => hover(event) });
  model("detail").on_event("mouseleave", { execute: leave });
  for (const box of all("[data-overlay]")) {
    showOverlay(box);
    box.addEventListener("change", () => showOverlay(box));
  }
  $("layer-select").addEventListener("change", (event) => chooseLayer(Number(event.target.value)));
  $("previous-layer").addEventListener("click", () => chooseLayer(detail.index - 1));
  $("next-layer").addEventListener("click", () => chooseLayer(detail.index + 1));
  showRange("range", detail.range);
  startRange("range", view.mostBins, setRanges, {
    fit: () => { if (detail.layer !== null) setRange([...fitRange(detail.layer), detail.range[2]]); },
    reset: resetRanges,
  });
  let pulling = false;
  startPull($("value-axis"), () => model("detail"), () => detail.range, (ends) => {
    const range = [...ends, detail.range[2]];
    if (pulling || wrongRange(...range, view.mostBins) !== null) return;
    pulling = true;
    requestAnimationFrame(() => { pulling = false; setRanges(range); });
  });
};
