// The Twin Peaks of the last layer: one epoch at a time.

const twin = page.peaks;
// Drawn when in sight only; `binned` is the range that the curves have then.
const peaks = { index: 0, curves: null, timer: null, range: twin.range, binned: null, seen: false };
const short = (value) => number(Number(value.toPrecision(3)));
const isShown = (split) => document.querySelector(`[data-split="${split}"]`).checked;

// Shares [part][epoch][split][bin] on a range; part 0 is all, 1 is YES, 2 is NO.
const curveOf = (part, epoch, split) => peaks.curves[part][epoch][split];

const binPeaks = () => {
  peaks.binned = peaks.range;
  const [hMin, hMax, bins] = peaks.range;
  model("outputs").setv({ start: hMin, end: hMax, reset_start: hMin, reset_end: hMax });
  const { first, slots, splits, epochs } = twin;
  const plan = makePlan(peaks.layout, hMin, hMax, bins);
  const nothing = new Float64Array(bins).fill(NaN);
  peaks.bins = Float64Array.from({ length: bins }, (_, bin) => hMin + ((bin + 0.5) / bins) * (hMax - hMin));
  peaks.outside = epochs.map(() => splits.map(() => 0));
  peaks.curves = peaks.sums.map((sums, part) => {
    const rebin = makeRebinner(plan, sums, first, slots);
    return epochs.map((_, e) => splits.map((__, s) => {
      if (!twin.known[part][e][s]) return nothing;
      const place = e * splits.length + s;
      const { counts, below, above } = rebin(place, place + 1);
      const n = twin.n[e][s];
      if (part === 0) peaks.outside[e][s] = (below + above) / n;
      return counts.map((count) => count / n);
    }));
  });
  // One scale for the later epochs; the first ones are often far taller, and the page says so.
  const later = peaks.curves[0].slice(Math.floor(epochs.length / 2)).flat();
  peaks.top = 1.12 * Math.max(0, ...later.map((curve) => curve.reduce((most, share) => (share > most ? share : most), 0))) || 1;
};

// The split that marks, areas and numbers of an epoch belong to.
const describedSplit = (index) => {
  const recorded = (split) => curveOf(0, index, split).some(Number.isFinite);
  const reference = twin.splits.indexOf(twin.reference);
  return recorded(reference) ? reference : Math.max(0, twin.splits.findIndex((_, split) => recorded(split)));
};

// The lower mark is labelled to its left and the other to its right, so that they never meet.
const placeOf = (name, at, other, brief) => {
  const { start, end } = model("twin").x_range;
  const words = brief ? name.toUpperCase() : twin.labels ? `mean ${name.toUpperCase()}` : `${name.toUpperCase()} peak`;
  const text = `${words} ${short(at)}`;
  const share = (at - start) / (end - start);
  const outer = at < other || (at === other && name === "no");
  const fits = (model("twin").inner_width || 600) * (outer ? share : 1 - share) > 7.5 * text.length + 8;
  return { at, text, left: outer === fits, fits };
};

const drawMarks = () => {
  setValues(model("twin").below[0], roundTicks(peaks.range[0], peaks.range[1], tickCount("twin")));
  const split = describedSplit(peaks.index);
  const [yes, no] = [twin.yes, twin.no].map((positions) => positions[peaks.index][split]);
  const known = yes !== null && no !== null && isShown(twin.splits[split]);
  for (const name of ["yes", "no"]) model(name).visible = model(`${name}_label`).visible = known;
  if (!known) return;
  const placed = (brief) => ({ yes: placeOf("yes", yes, no, brief), no: placeOf("no", no, yes, brief) });
  const fit = ({ yes: above, no: below }) => above.fits && below.fits;
  const places = fit(placed(false)) ? placed(false) : placed(true); // a narrow frame has room for few words
  const oneLine = fit(places); // and for none in a line: they stand one below the other
  for (const [name, { at, text, left }] of Object.entries(places)) {
    model(name).location = at;
    model(`${name}_label`).setv({
      x: at,
      y: (model("twin").inner_height || 300) - (oneLine || name === "no" ? 18 : 36),
      text,
      x_offset: left ? -5 : 5,
      text_align: left ? "right" : "left",
    });
  }
};

// What is YES and what is NO, of one split only: of all, they would hide each other.
const drawTruth = (index, split) => {
  const shown = isShown(twin.splits[split]) && ($("peaks-labels")?.checked ?? false);
  ["yes", "no"].forEach((part, p) => {
    const y = curveOf(p + 1, index, split);
    setData(`truth_${part}`, { x: peaks.bins, y });
    for (const name of [`truth_${part}`, `truth_${part}_area`]) {
      const { glyph } = model(name);
      glyph[name.endsWith("area") ? "fill_color" : "line_color"] = twin.colors[twin.splits[split]];
      model(name).visible = shown && y.some(Number.isFinite);
    }
  });
};

const drawPeaks = (index) => {
  peaks.index = index;
  if (peaks.binned !== peaks.range) binPeaks();
  const { epochs, splits } = twin;
  let most = 0;
  splits.forEach((split, s) => {
    const y = curveOf(0, index, s);
    const present = y.some(Number.isFinite);
    setData(split, { x: peaks.bins, y });
    model(split).visible = isShown(split) && present;
    if (present) most = y.reduce((high, value) => (value > high ? value : high), most);
  });
  const taller = 1.12 * most > 1.0001 * peaks.top;
  const top = taller ? 1.12 * most : peaks.top;
  model("shares").end = top;
  setTicks(model("twin").left[0], roundTicks(0, top, 5), (share) => `${Number((100 * share).toPrecision(4))}%`);
  const described = describedSplit(index);
  drawTruth(index, described);
  drawMarks();
  $("peaks-epoch").value = String(index);
  $("peaks-shown").textContent = epochs[index] < 0 ? "untrained" : String(epochs[index]);
  $("peaks-said").textContent = sayPeaks(index, described, taller);
  for (const dot of all(".dot")) dot.classList.toggle("chosen", Number(dot.dataset.epoch) === index);
  if (page.detail !== undefined) markEpoch(epochs[index]);
  if (page.classes !== undefined) showClassesOf(epochs[index]);
};

const sayDistance = (index, split) => {
  const [yes, no] = [twin.yes[index][split], twin.no[index][split]];
  if (yes !== null && no !== null) return `${twin.labels ? "means" : "peaks"} ${short(yes - no)} apart`;
  if (twin.labels) return "YES and NO are not both known";
  return twin.yes.flat().some((at) => at !== null) ? "one peak only" : twin.unknown;
};

const sayPeaks = (index, split, taller) => {
  const [separation, overlap, outside] = [twin.separation, twin.overlap, peaks.outside].map((numbers) => numbers[index][split]);
  const finite = outside > 0 || curveOf(0, index, split).some((share) => share > 0);
  const parts = [finite ? sayDistance(index, split) : "not one finite value in this epoch"];
  if (separation !== null) parts.push(`d′ ${short(separation)}`);
  if (overlap !== null) parts.push(`YES and NO overlap by ${percent(overlap)}`);
  if (outside > 0.001) parts.push(`out of range ${percent(outside)}`);
  if (twin.distance[index] !== null) parts.push(`train and validation differ by ${percent(twin.distance[index])}`);
  if (taller) parts.push("y axis taller than for later epochs");
  return `${twin.names[twin.splits[split]]}: ${parts.join(" · ")}`;
};

const playPeaks = (on) => {
  clearInterval(peaks.timer);
  peaks.timer = on ? setInterval(() => {
    if (peaks.index >= twin.epochs.length - 1) playPeaks(false);
    else drawPeaks(peaks.index + 1);
  }, Math.max(120, Math.min(700, 9000 / twin.epochs.length))) : null;
  $("peaks-play").textContent = on ? "❚❚" : "▶";
  $("peaks-play").setAttribute("aria-label", on ? "Pause" : "Play the epochs");
};

const paintPeaks = () => {
  twin.colors.train = themed("train");
  model("train").glyph.line_color = twin.colors.train;
  for (const name of ["yes", "no"]) {
    model(name).line_color = themed("soft");
    model(`${name}_label`).text_color = themed("ink");
  }
  if (peaks.curves !== null) drawPeaks(peaks.index);
};

// Another range for the curves; the numbers beside them do not depend on it.
const setPeaksRange = (range) => {
  peaks.range = range;
  if (peaks.sums === undefined) return;
  const [start, end, bins] = range;
  showRange("peaks-range", range);
  $("peaks-view").textContent = `${sameRange(range, twin.range) ? "own range " : ""}[${exact(start)}, ${exact(end)}], ${counted(bins, "bin")}`;
  if (peaks.seen) drawPeaks(peaks.index);
  keepPlace();
};

const startPeaks = async () => {
  const { slots, epochs, splits, bits, floor, exponents } = twin;
  const counts = together(await inflate("peaks-0"), Float32Array);
  const size = epochs.length * splits.length * slots;
  peaks.layout = makeLayout(bits, floor, exponents);
  peaks.sums = [0, 1, 2].map((part) => counts.subarray(part * size, (part + 1) * size));
  for (const side of ["inner_width", "inner_height"]) model("twin").properties[side].change.connect(drawMarks);
  $("peaks-epoch").addEventListener("input", (event) => { playPeaks(false); drawPeaks(Number(event.target.value)); });
  for (const box of all("[data-split], #peaks-labels")) box.addEventListener("change", () => drawPeaks(peaks.index));
  $("peaks-play").addEventListener("click", () => {
    const on = peaks.timer === null;
    if (on && peaks.index >= twin.epochs.length - 1) drawPeaks(0);
    playPeaks(on);
  });
  if (page.detail !== undefined) {
    $("resolution").before($("peaks-key")); // the frame it explains is in the detail chart
    $("peaks-key").hidden = false;
  }
  startRange("peaks-range", twin.mostBins, setPeaksRange, { reset: () => setPeaksRange(twin.range) });
  peaks.index = epochs.length - 1;
  setPeaksRange(peaks.range);
  drawPeaks(peaks.index);
  new IntersectionObserver(([{ isIntersecting }]) => {
    peaks.seen = isIntersecting;
    if (peaks.seen && peaks.binned !== peaks.range) drawPeaks(peaks.index);
  }, { rootMargin: "200px" }).observe($("peaks"));
};
