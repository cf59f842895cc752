// Counts on slots to counts on bins, by the rule of actlab.rebinning: monotone cubic interpolation of the cumulative
// counts between the ends of the slots (PCHIP, Fritsch and Butland 1984); exactly 0 is a point; the outermost slots
// are straight. Interpolation is not additive: pool first, then re-bin.

const LARGEST = 3.4028234663852886e38;

// Ends of the slots that hold finite values but 0, ascending, see rebinning/slots.py. The outermost ones reach to the
// smallest and largest value where these are known to lie in them: else they would be spread out to `LARGEST`.
const makeLayout = (bits, floor, [least, most], [smallest, largest] = []) => {
  const above = [];
  for (let e = Math.max(floor, least); e <= most; e += 1) {
    const parts = 2 ** Math.min(bits, e - floor);
    for (let i = 0; i < parts; i += 1) above.push(2 ** e * (1 + i / parts));
  }
  above.push(2 ** (most + 1));
  const top = above.at(-1);
  const outermost = top < LARGEST ? LARGEST : 2 * top;
  const reach = (end) => (end >= top ? Math.min(outermost, Math.max(end, top * (1 + 2 ** -23))) : outermost);
  const [low, high] = [-reach(-(smallest ?? 0)), reach(largest ?? 0)];
  const ends = Float64Array.of(low, ...above.map((end) => -end).reverse(), 0, ...above, high);
  return { ends, width: ends.subarray(1).map((end, i) => end - ends[i]), half: above.length + 1 };
};

// Where the edges of some bins fall among the slots: the same for all columns.
const makePlan = (layout, hMin, hMax, bins) => {
  const { ends, width } = layout;
  const step = (hMax - hMin) / bins;
  const edges = Float64Array.from({ length: bins + 1 }, (_, i) => (i === bins ? hMax : i * step + hMin));
  const interval = new Int32Array(bins + 1);
  const part = new Float64Array(bins + 1);
  const cut = new Int32Array(bins + 1);
  let own = 0;
  edges.forEach((edge, i) => {
    while (own < width.length - 1 && ends[own + 1] <= edge) own += 1;
    interval[i] = own;
    part[i] = Math.min(1, Math.max(0, (edge - ends[own]) / width[own]));
    const onKnot = edge === ends[own] && own > 0;
    cut[i] = onKnot ? width.length : own;
    // Negative slots end with their edge, bins start with it; the last bin ends with its edge, a positive slot starts with it.
    if (edge < ends[0] || edge > ends.at(-1)) cut[i] = width.length;
    if (onKnot && i < bins && edge < 0) cut[i] = own - 1;
    if (onKnot && i === bins && edge > 0) cut[i] = own;
  });
  let zeroBin = edges.findLastIndex((edge) => edge <= 0);
  if (hMax === 0) zeroBin = bins - 1;
  return { layout, bins, edges, interval, part, cut, zeroBin };
};

const endSlope = (near, far, slope, next) => Math.max(((2 * near + far) * slope - near * next) / (near + far), 0);

// Slope of the cumulative counts at the knot below the slot `upper`.
const slopeBelow = (mass, width, upper) => {
  const lower = upper - 1;
  const n = width.length;
  const left = mass[lower] / width[lower];
  const right = mass[upper] / width[upper];
  if (lower === 0) return endSlope(width[1], width[2], right, mass[2] / width[2]);
  if (upper === n - 1) return endSlope(width[n - 2], width[n - 3], left, mass[upper - 2] / width[n - 3]);
  if (left <= 0 || right <= 0) return 0;
  const wLeft = 2 * width[upper] + width[lower];
  const wRight = width[upper] + 2 * width[lower];
  return (wLeft + wRight) / (wLeft / left + wRight / right);
};

// The mass of a slot below its part u (0 to 1).
const massBelow = (mass, width, own, u) => {
  const whole = mass[own];
  if (whole <= 0) return 0;
  if (own === 0 || own === width.length - 1) return whole * u;
  const first = slopeBelow(mass, width, own) * width[own];
  const last = slopeBelow(mass, width, own + 1) * width[own];
  return Math.min(whole, u * (first + u * (3 * whole - 2 * first - last + u * (first + last - 2 * whole))));
};

// Returns a function that re-bins the sums of some places of `sums` [place, slot], of which the first is slot `first`.
// What it returns is good until the next call: counts [bin], the mass [slot] of all but 0, and what lies below and above
// the range.
const makeRebinner = (plan, sums, first, slots) => {
  const { layout: { width, half }, bins, interval, part, zeroBin } = plan;
  const mass = new Float64Array(width.length + 1); // the last one is that of an edge that cuts nothing
  const below = new Float64Array(bins + 1);
  const counts = new Float64Array(bins);
  const zero = half - (first - 1); // which of the slots given holds exactly 0
  const at = (slot) => first - 1 + slot - (slot > zero ? 1 : 0);
  const from = Math.max(0, at(zero === 0 ? 1 : 0));
  const to = Math.min(width.length, at(slots - (slots - 1 === zero ? 2 : 1)) + 1);
  return (start, end) => {
    mass.fill(0, from, to);
    let point = 0;
    for (let place = start; place < end; place += 1) {
      const base = place * slots;
      const mid = Math.min(Math.max(zero, 0), slots);
      for (let s = 0; s < mid; s += 1) mass[first - 1 + s] += sums[base + s];
      if (zero >= 0 && zero < slots) point += sums[base + zero];
      for (let s = Math.max(zero + 1, 0); s < slots; s += 1) mass[first - 2 + s] += sums[base + s];
    }
    let total = 0;
    let reached = from;
    let last = 0;
    for (let i = 0; i <= bins; i += 1) {
      const own = interval[i];
      const stop = Math.min(own, to);
      for (; reached < stop; reached += 1) total += mass[reached];
      last = Math.max(last, total, total + massBelow(mass, width, own, part[i]));
      below[i] = last;
    }
    for (; reached < to; reached += 1) total += mass[reached];
    const found = { counts, mass, below: below[0], above: Math.max(0, total - last) };
    for (let i = 0; i < bins; i += 1) counts[i] = below[i + 1] - below[i];
    if (zeroBin < 0) found.below += point;
    else if (zeroBin >= bins) found.above += point;
    else counts[zeroBin] += point;
    return found;
  };
};

// What is wrong with a range, in words, or null.
const wrongRange = (hMin, hMax, bins, most) => {
  if (!Number.isFinite(hMin) || !Number.isFinite(hMax)) return "Both ends of the range must be numbers";
  if (hMin >= hMax) return `The range must begin below its end, not from ${hMin} to ${hMax}`;
  if (!Number.isInteger(bins) || bins < 1 || bins > most) return `Bins must be a whole number from 1 to ${most}`;
  const step = (hMax - hMin) / bins;
  const largest = Math.max(Math.abs(hMin), Math.abs(hMax));
  if (largest > 1e39) return `No value is as large as ${largest}`;
  if (largest + step === largest) return `${bins} bins from ${hMin} to ${hMax} are too narrow to be told apart`;
  return null;
};
