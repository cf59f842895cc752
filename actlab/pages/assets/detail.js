// The detail chart of the chosen layer.

let model = null; // (name) -> Bokeh model, once the figures are there
const detail = { index: view.chosen, layer: null, window: null, mark: null };

const setData = (name, columns) => { model(name).data_source.data = columns; };

// Columns in sight, merged so that no column is narrower than a device pixel; aligned to multiples.
const inSight = () => {
  const range = model("batches");
  const first = columnOf(Math.min(range.start, range.end));
  const last = columnOf(Math.max(range.start, range.end) - 1e-6) + 1;
  const pixels = Math.max(50, (model("detail").inner_width || 600) * window.devicePixelRatio);
  const m = Math.max(1, Math.ceil((last - first) / pixels));
  return { first: Math.floor(first / m) * m, last: Math.min(columnCount, Math.ceil(last / m) * m), m };
};

const drawImage = () => {
  const { first, last, m } = inSight();
  const { out, width } = merge(detail.layer, first, last, m);
  const source = model("image").data_source;
  const NDArray = source.data.image[0].constructor;
  const start = view.firstRow[first];
  const end = endRow(last - 1);
  // The last merged column may hold fewer batches, but is drawn as wide as the others and cut off.
  const wide = last === columnCount ? width * m * view.k : end - start;
  source.data = {
    image: [new NDArray(out, [view.bins, width])], x: [start], y: [view.hMin], dw: [wide], dh: [view.hMax - view.hMin],
  };
  detail.window = { first, last, m };
  const batches = m * view.k;
  const every = view.every > 1 ? ` (of every ${whole.format(view.every)} batches one was recorded)` : "";
  $("resolution").textContent = `one column = ${batches === 1 ? "one batch" : `mean of ${whole.format(batches)} batches`}${every} · ` +
    batchesOf(start, end);
  const axis = model("detail").below[0];
  const ticks = stepTicks(start, end);
  axis.ticker.ticks = ticks;
  axis.major_label_overrides = new Map(ticks.map((row) => [row, whole.format(stepOf(row))]));
};

// The first of the merged columns that hold a row.
const columnInSight = (row) => {
  const { first, m } = detail.window;
  return first + Math.floor((columnOf(row) - first) / m) * m;
};

const epochIndex = (row) => view.epochRow.findLastIndex((start) => start <= row);

const drawLines = () => {
  const { series } = detail.layer;
  const x = view.firstRow.map((row, c) => row + view.nRows[c] / 2);
  const put = (name, y) => { for (const part of ["", "_case"]) setData(`${name}${part}`, { x, y }); };
  put("mean", series.mean);
  put("std_upper", series.mean.map((mean, c) => mean + series.std[c]));
  put("std_lower", series.mean.map((mean, c) => mean - series.std[c]));
  for (const name of ["epochs", "epochs_case"]) setData(name, { x: view.epochRow.slice(1) });
  drawEpochHistograms();
};

// Histograms of the epochs drawn sideways on one linear scale; a lone spike may be cut off at its epoch's end.
const drawEpochHistograms = () => {
  const { bins, epochRow, rows } = view;
  const n = epochRow.length;
  const { epochs } = detail.layer;
  const y = Float64Array.from({ length: bins }, (_, bin) => view.hMin + ((bin + 0.5) / bins) * (view.hMax - view.hMin));
  let top = 0;
  let rest = 0;
  for (let e = 0; e < n; e += 1) {
    const sorted = epochs.slice(e * bins, (e + 1) * bins).sort();
    top = Math.max(top, sorted[bins - 1]);
    rest = Math.max(rest, sorted[Math.max(0, bins - 3)]);
  }
  const scale = Math.min(top, rest > 0 ? 1.6 * rest : top) || 1;
  ["epoch_histograms", "quarter_histograms"].forEach((name, part) => {
    const xs = epochRow.map((start, e) => {
      const wide = ((epochRow[e + 1] ?? rows) - start) * 0.96;
      const from = (part * n + e) * bins;
      return Float64Array.from({ length: bins }, (_, bin) => start + wide * Math.min(1, epochs[from + bin] / scale));
    });
    for (const end of ["", "_case"]) setData(`${name}${end}`, { xs, ys: epochRow.map(() => y) });
  });
};

const drawScale = () => {
  const info = view.layers[detail.index];
  const mapper = model("color_mapper");
  const high = Math.max(info.high, info.low * 1.01);
  mapper.setv({ low: info.low, high, palette: layerPalette(info) });
  const bar = model("color_bar");
  const ticks = decades(info.low, high);
  bar.ticker.ticks = ticks;
  bar.major_label_overrides = new Map(ticks.map((value) => [value, tick(value, view.k)]));
};

const drawFacts = () => {
  const info = view.layers[detail.index];
  $("detail-title").textContent = `${info.name} `;
  const kind = document.createElement("small");
  kind.textContent = info.kind;
  $("detail-title").append(kind);
  const parts = info.never ? ["never called: nothing to show"] : [
    info.shape && `output ${info.shape}`,
    `${whole.format(info.perBatch)} values a batch`,
    `${view.bins} bins in [${number(view.hMin)}, ${number(view.hMax)}]`,
    `out of range ${percent(info.outside)}`,
    info.nonfinite > 0 && `NaN or infinite ${percent(info.nonfinite)}`,
    info.bound > 0.05 && `bin edges cut recorded buckets: at most ${percent(info.bound)} of the counts may lie one bin off`,
    info.low < 1 && `pale: ${view.k === 1 ? "a count split between bins" : "less than one per batch"}`,
  ];
  $("layer-facts").textContent = parts.filter(Boolean).join(" · ");
  $("layer-select").value = String(detail.index);
  for (const tile of all(".tile")) tile.setAttribute("aria-current", String(Number(tile.dataset.layer) === detail.index));
};

const chooseLayer = async (index) => {
  const n = view.layers.length;
  detail.index = (index + n) % n;
  const asked = detail.index;
  drawFacts();
  const layer = await loadLayer(asked);
  if (asked !== detail.index || model === null) return;
  detail.layer = layer;
  drawScale();
  drawImage();
  drawLines();
  drawStrips();
  drawMark();
  readColumn(columnCount - 1);
};

// The column under the pointer: tooltip, cursor, histogram and readout.
const hover = (event) => {
  if (detail.layer === null || detail.window === null) return;
  const inside = event.x >= 0 && event.x < view.rows && event.y >= view.hMin && event.y < view.hMax;
  if (!inside || event.sx === undefined) return leave();
  const { m } = detail.window;
  const row = Math.floor(event.x);
  const column = columnInSight(row);
  const bin = Math.floor(((event.y - view.hMin) / (view.hMax - view.hMin)) * view.bins);
  const { out } = merge(detail.layer, column, Math.min(columnCount, column + m), m);
  const box = $("figure-detail").getBoundingClientRect();
  const tip = $("tooltip");
  const batches = m * view.k;
  tip.textContent = `batch ${whole.format(stepOf(row))}\nvalue ${number(event.y)}\n${batches > 1 ? "mean count" : "count"} ${countOf(out[bin], batches, view.layers[detail.index])}`;
  tip.hidden = false;
  const right = box.left + event.sx + 16;
  tip.style.left = `${right + tip.offsetWidth > window.innerWidth - 8 ? right - tip.offsetWidth - 32 : right}px`;
  tip.style.top = `${Math.min(box.top + event.sy + 12, window.innerHeight - tip.offsetHeight - 8)}px`;
  model("cursor").setv({ location: event.x, visible: true });
  readColumn(column, out);
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
  const { mark, index } = detail;
  const shown = mark !== null && mark.layer === index;
  const x = shown ? [mark.start, mark.end] : [];
  for (const name of ["mark", "mark_case"]) setData(name, { x });
  setData("mark_span", { x, y: x.map(() => view.hMax) });
  $("mark-key").hidden = !shown;
  $("mark-said").textContent = shown ? `marked: ${batchesOf(mark.start, mark.end)}` : "";
};

// Mark rows [start, end) of a layer, and bring them into sight with what is around them, 8 columns at least.
const markRows = (layer, start, end) => {
  detail.mark = { layer, start, end };
  const least = Math.min(view.rows, 8 * view.k);
  const context = Math.max(0.3 * (end - start), 4 * view.k);
  const from = Math.max(0, Math.min(start - context, view.rows - least));
  model("batches").setv({ start: from, end: Math.min(view.rows, Math.max(end + context, from + least)) });
  drawImage();
  drawStrips();
  drawMark();
  readColumn(columnInSight(start));
};

const showOverlay = (box) => {
  const names = {
    mean: ["mean", "mean_case"],
    std: ["std_upper", "std_upper_case", "std_lower", "std_lower_case"],
    epochs: ["epochs", "epochs_case"],
    histograms: ["epoch_histograms", "epoch_histograms_case", "quarter_histograms", "quarter_histograms_case"],
  }[box.dataset.overlay];
  for (const name of names) model(name).visible = box.checked;
};

// The epoch chosen in the Twin Peaks is framed here.
const markEpoch = (label) => {
  if (model === null) return;
  const e = view.epochs.indexOf(label);
  const box = model("chosen_epoch");
  if (e >= 0) box.setv({ left: view.epochRow[e], right: view.epochRow[e + 1] ?? view.rows, visible: true });
  else box.visible = false;
};

const startDetail = () => {
  let waiting = false;
  const redraw = () => {
    if (waiting || detail.layer === null) return;
    waiting = true;
    requestAnimationFrame(() => { waiting = false; drawImage(); drawStrips(); });
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
};
