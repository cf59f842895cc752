// The Twin Peaks of the last layer: one epoch at a time.

const twin = page.peaks ?? null;
const peaks = { index: 0, curves: null, timer: null };
const short = (value) => number(Number(value.toPrecision(3)));
const isShown = (split) => document.querySelector(`[data-split="${split}"]`).checked;

const curveOf = (part, epoch, split) => {
  const { epochs, splits, bins } = twin;
  const from = ((part * epochs.length + epoch) * splits.length + split) * bins.length;
  return peaks.curves.subarray(from, from + bins.length);
};

// The split that marks, areas and numbers of an epoch belong to.
const describedSplit = (index) => {
  const recorded = (split) => curveOf(0, index, split).some(Number.isFinite);
  const reference = twin.splits.indexOf(twin.reference);
  return recorded(reference) ? reference : Math.max(0, twin.splits.findIndex((_, split) => recorded(split)));
};

// The lower mark is labelled to its left and the other to its right, so that they never meet.
const placeOf = (name, at, other) => {
  const { start, end } = model("twin").x_range;
  const text = `${twin.labels ? `mean ${name.toUpperCase()}` : `${name.toUpperCase()} peak`} ${short(at)}`;
  const share = (at - start) / (end - start);
  const outer = at < other || (at === other && name === "no");
  const fits = (model("twin").inner_width || 600) * (outer ? share : 1 - share) > 7.5 * text.length + 8;
  return { at, text, left: outer === fits, fits };
};

const drawMarks = () => {
  const split = describedSplit(peaks.index);
  const [yes, no] = [twin.yes, twin.no].map((positions) => positions[peaks.index][split]);
  const known = yes !== null && no !== null && isShown(twin.splits[split]);
  for (const name of ["yes", "no"]) model(name).visible = model(`${name}_label`).visible = known;
  if (!known) return;
  const places = { yes: placeOf("yes", yes, no), no: placeOf("no", no, yes) };
  const oneLine = places.yes.fits && places.no.fits; // in a narrow frame they stand one below the other
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
    setData(`truth_${part}`, { x: twin.bins, y });
    for (const name of [`truth_${part}`, `truth_${part}_area`]) {
      const { glyph } = model(name);
      glyph[name.endsWith("area") ? "fill_color" : "line_color"] = twin.colors[twin.splits[split]];
      model(name).visible = shown && y.some(Number.isFinite);
    }
  });
};

const drawPeaks = (index) => {
  peaks.index = index;
  const { epochs, splits } = twin;
  let most = 0;
  splits.forEach((split, s) => {
    const y = curveOf(0, index, s);
    const present = y.some(Number.isFinite);
    setData(split, { x: twin.bins, y });
    model(split).visible = isShown(split) && present;
    if (present) most = y.reduce((high, value) => (value > high ? value : high), most);
  });
  const taller = 1.12 * most > 1.01 * twin.top; // the packed shares are rounded
  model("shares").end = taller ? 1.12 * most : twin.top;
  const described = describedSplit(index);
  drawTruth(index, described);
  drawMarks();
  $("peaks-epoch").value = String(index);
  $("peaks-shown").textContent = epochs[index] < 0 ? "untrained" : String(epochs[index]);
  $("peaks-said").textContent = sayPeaks(index, described, taller);
  for (const dot of all(".dot")) dot.classList.toggle("chosen", Number(dot.dataset.epoch) === index);
  markEpoch(epochs[index]);
};

const sayDistance = (index, split) => {
  const [yes, no] = [twin.yes[index][split], twin.no[index][split]];
  if (yes !== null && no !== null) return `${twin.labels ? "means" : "peaks"} ${short(yes - no)} apart`;
  if (twin.labels) return "YES and NO are not both known";
  return twin.yes.flat().some((at) => at !== null) ? "one peak only" : twin.unknown;
};

const sayPeaks = (index, split, taller) => {
  const [separation, overlap, outside] = [twin.separation, twin.overlap, twin.outside].map((numbers) => numbers[index][split]);
  const parts = [sayDistance(index, split)];
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

const startPeaks = async () => {
  peaks.curves = together(await inflate("peaks-0"), Float32Array);
  for (const size of ["inner_width", "inner_height"]) model("twin").properties[size].change.connect(drawMarks);
  $("peaks-epoch").addEventListener("input", (event) => { playPeaks(false); drawPeaks(Number(event.target.value)); });
  for (const box of all("[data-split], #peaks-labels")) box.addEventListener("change", () => drawPeaks(peaks.index));
  $("peaks-play").addEventListener("click", () => {
    const on = peaks.timer === null;
    if (on && peaks.index >= twin.epochs.length - 1) drawPeaks(0);
    playPeaks(on);
  });
  $("resolution").before($("peaks-key")); // the frame it explains is in the detail chart
  $("peaks-key").hidden = false;
  drawPeaks(twin.epochs.length - 1);
};
