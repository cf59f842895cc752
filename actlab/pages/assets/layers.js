// The layers: unpacked when first chosen, and merged to whole numbers of columns.

const view = page.detail;
const columnCount = view.nRows.length;
const kept = new Map();
const KEEP = 8;

const unpackLayer = (bytes, { low, high }) => {
  const { bins, series: names } = view;
  const codes = bytes.slice(0, bins * columnCount);
  for (let i = columnCount; i < codes.length; i += 1) codes[i] += codes[i - columnCount]; // wraps at 256, as packed
  const seriesEnd = codes.length + 4 * names.length * columnCount;
  const numbers = together(bytes.subarray(codes.length, seriesEnd), Float32Array);
  const series = Object.fromEntries(
    names.map((name, i) => [name, numbers.subarray(i * columnCount, (i + 1) * columnCount)]),
  );
  const count = (code, from, levels) => (code === 0 ? 0 : from * Math.exp(((code - 1) / (levels - 2)) * Math.log(high / from)));
  const table = Float64Array.from({ length: 256 }, (_, code) => count(code, low, 256));
  const least = low / view.epochDepth;
  const epochs = Float64Array.from(together(bytes.subarray(seriesEnd), Uint16Array), (code) => count(code, least, 65536));
  return { codes, series, table, epochs };
};

// A layer, from the few kept ones or from its packed text.
const loadLayer = async (index) => {
  if (!kept.has(index)) {
    kept.set(index, unpackLayer(await inflate(`detail-${index}`), view.layers[index]));
    if (kept.size > KEEP) kept.delete(kept.keys().next().value);
  }
  return kept.get(index);
};

// The column that holds a row.
const columnOf = (row) => Math.min(columnCount - 1, Math.max(0, Math.floor(row / view.k)));

// Steps are even but for where `steps` says [row, step]: epochs left out, or batches not recorded.
const runOf = (row) => view.steps.findLastIndex(([start]) => start <= row);
const stepOf = (row) => {
  const [start, step] = view.steps[Math.max(0, runOf(row))];
  return step + (row - start) * view.every;
};

// The batches of rows [start, end) as ranges: "0 – 55, 70 – 83".
const batchesOf = (start, end) => {
  const parts = [];
  for (let run = runOf(start); run < view.steps.length && view.steps[run][0] < end; run += 1) {
    const from = Math.max(start, view.steps[run][0]);
    const to = Math.min(end, view.steps[run + 1]?.[0] ?? view.rows) - 1;
    parts.push(from === to ? whole.format(stepOf(from)) : `${whole.format(stepOf(from))} – ${whole.format(stepOf(to))}`);
  }
  const few = parts.length <= 3;
  const said = few ? parts.join(", ") : `${whole.format(stepOf(start))} – ${whole.format(stepOf(end - 1))} in ${parts.length} parts`;
  return `${end - start === 1 ? "batch" : "batches"} ${said}`;
};

// Rows whose steps are round numbers, some six of them between two rows.
const stepTicks = (start, end) => {
  const coarse = Math.max(view.every, ((end - start) * view.every) / 6);
  const power = 10 ** Math.floor(Math.log10(coarse));
  const apart = Math.max(1, power * ([1, 2, 5].find((times) => times * power >= coarse) ?? 10));
  const rows = [];
  for (let run = Math.max(0, runOf(start)); run < view.steps.length && view.steps[run][0] < end; run += 1) {
    const [first, step] = view.steps[run];
    const from = Math.max(first, start);
    const to = Math.min(end, view.steps[run + 1]?.[0] ?? view.rows);
    for (let round = Math.ceil(stepOf(from) / apart) * apart; ; round += apart) {
      const row = first + Math.ceil((round - step) / view.every);
      if (row >= to) break;
      if (rows.length === 0 || row - rows.at(-1) >= (0.5 * apart) / view.every) rows.push(row);
    }
  }
  return rows.length > 1 ? rows : [start, end - 1];
};

const endRow = (column) => view.firstRow[column] + view.nRows[column];

// Mean counts of columns [first, last) merged by m, every batch with the same weight; NaN where empty.
const merge = (layer, first, last, m) => {
  const width = Math.ceil((last - first) / m);
  const out = new Float32Array(view.bins * width);
  const weight = view.nRows;
  for (let w = 0; w < width; w += 1) {
    const from = first + w * m;
    const to = Math.min(last, from + m);
    let total = 0;
    for (let c = from; c < to; c += 1) total += weight[c];
    for (let bin = 0; bin < view.bins; bin += 1) {
      const row = bin * columnCount;
      let sum = 0;
      for (let c = from; c < to; c += 1) sum += layer.table[layer.codes[row + c]] * weight[c];
      out[bin * width + w] = sum > 0 ? sum / total : NaN;
    }
  }
  return { out, width };
};

const largest = (series, from, to) => {
  let found = from;
  for (let c = from + 1; c < to; c += 1) if (series[c] > series[found]) found = c;
  return found;
};

const mixed = (series, from, to) => {
  let sum = 0;
  let rows = 0;
  for (let c = from; c < to; c += 1) {
    if (Number.isFinite(series[c])) {
      sum += series[c] * view.nRows[c];
      rows += view.nRows[c];
    }
  }
  return rows > 0 ? sum / rows : NaN;
};

// The 256 colours of a layer's log scale: pale below one per batch, then the full map.
const layerPalette = ({ low, high }) => {
  const { counts, pale, paleDark } = view.palettes;
  const below = isDark() ? paleDark : pale;
  const above = isDark() ? counts.slice(Math.round(counts.length * 0.12)) : counts;
  const pick = (colors, share) => colors[Math.min(colors.length - 1, Math.max(0, Math.round(share * (colors.length - 1))))];
  const top = Math.log(Math.max(high, low * 1.0001));
  const bottom = Math.log(low);
  return Array.from({ length: 256 }, (_, i) => {
    const at = bottom + (i / 255) * (top - bottom);
    return at < 0 ? pick(below, 1 - at / Math.log(Math.min(low, 0.999))) : pick(above, top > 0 ? at / top : 1);
  });
};

const decades = (low, high) => {
  const ticks = [];
  for (let power = Math.ceil(Math.log10(low) - 1e-9); power <= Math.floor(Math.log10(high) + 1e-9); power += 1) ticks.push(10 ** power);
  return ticks.map((value) => Number(value.toPrecision(1)));
};
