// The layers: unpacked when first chosen, brought onto the bins of the range, and pooled to whole numbers of columns.

const view = page.detail;
const columnCount = view.nRows.length;
const kept = new Map();
const windowsKept = new Map();
const KEEP = 6;

const keep = (map, key, value) => {
  map.set(key, value);
  if (map.size > KEEP) map.delete(map.keys().next().value);
  return value;
};

// Numbers [series][place] of a block of rounded floats.
const seriesOf = (bytes, names) => {
  const numbers = together(bytes, Float32Array);
  const n = numbers.length / names.length;
  return Object.fromEntries(names.map((name, i) => [name, numbers.subarray(i * n, (i + 1) * n)]));
};

// A layer, from the few kept ones or from its packed text: sums [column, slot] and [curve, epoch, slot].
const loadLayer = async (index) => {
  if (kept.has(index)) return kept.get(index);
  const info = view.layers[index];
  const bytes = await inflate(`detail-${index}`);
  const { slots } = info;
  const n = view.epochs.length;
  const columns = slots * columnCount;
  const curves = 3 * slots * n;
  const layer = {
    info,
    layouts: info.reach.map((ends) => makeLayout(info.bits, info.floor, view.exponents, ends)), // of training, of validation
    sums: decodeSums(bytes.subarray(0, columns), slots, columnCount, info.high),
    epochs: [0, 1, 2].map((c) => decodeSums(bytes.subarray(columns + c * slots * n, columns + (c + 1) * slots * n), slots, n, info.highEpochs)),
    series: seriesOf(bytes.subarray(columns + curves), view.series),
  };
  return keep(kept, index, layer);
};

// Single batches of a layer.
const loadWindow = async (window_) => {
  const { blob, start, stop, slots, high } = window_;
  if (windowsKept.has(blob)) return windowsKept.get(blob);
  const bytes = await inflate(`detail-${blob}`);
  const cells = slots * (stop - start);
  return keep(windowsKept, blob, {
    ...window_,
    sums: decodeSums(bytes.subarray(0, cells), slots, stop - start, high),
    series: seriesOf(bytes.subarray(cells), view.windowSeries),
  });
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

// Rows whose steps are round numbers, some `count` of them between two rows.
const stepTicks = (start, end, count) => {
  const coarse = Math.max(view.every, ((end - start) * view.every) / count);
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

// Sums of places [from, to) in groups of m, re-binned: mean counts per batch [bin, group], NaN where empty, and the flow.
const binGroups = (plan, { sums, first, slots }, from, to, m, batches) => {
  const rebin = makeRebinner(plan, sums, first, slots);
  const { bins } = plan;
  const width = Math.ceil((to - from) / m);
  const out = new Float32Array(bins * width);
  const below = new Float64Array(width);
  const above = new Float64Array(width);
  const inside = new Float64Array(width);
  for (let w = 0; w < width; w += 1) {
    const start = from + w * m;
    const end = Math.min(to, start + m);
    let rows = 0;
    for (let place = start; place < end; place += 1) rows += batches(place);
    const found = rebin(start, end);
    below[w] = found.below / rows;
    above[w] = found.above / rows;
    for (let bin = 0; bin < bins; bin += 1) {
      const count = found.counts[bin];
      out[bin * width + w] = count > 0 ? count / rows : NaN;
      inside[w] += count / rows;
    }
  }
  return { out, width, below, above, inside };
};

// All columns of a layer on the bins of a range, its colour limits as `palette.count_limits`, and what the bins cannot show.
const binLayer = (layer, range) => {
  const { info, sums } = layer;
  const [plan, planValid] = layer.layouts.map((layout) => makePlan(layout, ...range));
  const source = { sums, first: info.first, slots: info.slots };
  const binned = binGroups(plan, source, 0, columnCount, 1, (column) => view.nRows[column]);
  let least = 1;
  let most = 1;
  for (const count of binned.out) {
    if (count < least) least = count;
    if (count > most) most = count;
  }
  const low = Math.max(least, 0.1 / view.k);
  const all_ = makeRebinner(plan, sums, info.first, info.slots)(0, columnCount);
  const shown = all_.counts.reduce((sum, count) => sum + count, 0);
  const cut = [...new Set(plan.cut)].reduce((sum, slot) => sum + all_.mass[slot], 0);
  let coarsest = 0;
  for (let slot = plan.interval[0]; slot <= plan.interval[plan.bins]; slot += 1) {
    if (all_.mass[slot] > 0.001 * shown) coarsest = Math.max(coarsest, plan.layout.width[slot]);
  }
  // Counts are known up to a step of their codes: shares are of what was decoded, so that all is exactly all.
  const { nonfinite } = layer.series;
  const shares = (flow) => flow.map((count, c) => (count / (binned.below[c] + binned.above[c] + binned.inside[c])) * (1 - nonfinite[c]));
  const outside = all_.below + all_.above;
  return {
    ...binned,
    range, plan, source, low,
    high: Math.max(most, 10 * low),
    bound: shown > 0 ? Math.min(1, cut / shown) : 0, // only what lies in a slot with an edge inside may be in a wrong bin
    coarsest: coarsest / ((range[1] - range[0]) / plan.bins), // bins that the widest slot in sight spans
    outside: (outside / (outside + shown)) * (1 - info.nonfinite),
    underflow: shares(binned.below),
    overflow: shares(binned.above),
    epochs: layer.epochs.map((curve, c) => binGroups(c === 2 ? planValid : plan, { ...source, sums: curve }, 0, view.epochs.length, 1, (e) => view.epochBatches[c][e])),
  };
};

// The range that leaves out 0.1 % of a layer's finite values on each side, in short numbers.
const fitRange = (layer) => {
  const { layouts: [{ ends, half }], sums, info: { first, slots, reach: [[smallest, largest]] } } = layer;
  const mass = new Float64Array(2 * half + 1);
  for (let i = 0; i < sums.length; i += 1) mass[first - 1 + (i % slots)] += sums[i];
  const total = mass.reduce((sum, count) => sum + count, 0);
  if (total === 0) return [-1, 1];
  const slotEnds = (slot) => (slot === half ? [0, 0] : [ends[slot > half ? slot - 1 : slot], ends[slot > half ? slot : slot + 1]]);
  const find = (share) => {
    let reached = 0;
    for (let slot = 0; slot < mass.length; slot += 1) {
      if (reached + mass[slot] >= share * total && mass[slot] > 0) {
        const [low, high] = slotEnds(slot);
        return low + ((share * total - reached) / mass[slot]) * (high - low);
      }
      reached += mass[slot];
    }
    return slotEnds(mass.findLastIndex((count) => count > 0))[1];
  };
  let [low, high] = [Math.max(find(0.001), smallest), Math.min(find(0.999), largest)];
  if (!(high - low > 1e-6 * Math.max(Math.abs(low), Math.abs(high)))) {
    const margin = Math.abs(low) || 1;
    [low, high] = [low - margin, high + margin];
  }
  const unit = 10 ** (Math.floor(Math.log10(high - low)) - 1);
  return [Math.floor(low / unit) * unit, Math.ceil(high / unit) * unit].map((end) => Number(end.toPrecision(12)));
};

const largest = (series, from, to) => {
  let found = from;
  for (let c = from + 1; c < to; c += 1) if (series[c] > series[found] || Number.isNaN(series[found])) found = c;
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
    const at = bottom + ((i + 1) / 256) * (top - bottom); // up to here this colour reaches: one count is not pale
    return at < 1e-9 ? pick(below, 1 - at / Math.log(Math.min(low, 0.999))) : pick(above, top > 0 ? at / top : 1);
  });
};

const decades = (low, high) => {
  const ticks = [];
  for (let power = Math.ceil(Math.log10(low) - 1e-9); power <= Math.floor(Math.log10(high) + 1e-9); power += 1) ticks.push(10 ** power);
  return ticks.map((value) => Number(value.toPrecision(1)));
};
