// The Twin Peaks of the last layer: one epoch at a time.

const twin = page.peaks ?? null;
const peaks = { index: 0, curves: null, timer: null };

const curveOf = (part, epoch, split) => {
  const { epochs, splits, bins } = twin;
  const from = ((part * epochs.length + epoch) * splits.length + split) * bins.length;
  return peaks.curves.subarray(from, from + bins.length);
};

// The lower mark is labelled to its left and the other to its right, so that they never meet.
const drawMark = (name, at, other) => {
  const mark = model(name);
  const label = model(`${name}_label`);
  const known = Number.isFinite(at) && at !== null;
  mark.visible = label.visible = known;
  if (!known) return;
  mark.location = at;
  const { start, end } = model("twin").x_range;
  const share = (at - start) / (end - start);
  const left = share > 0.85 || (share > 0.15 && (at < other || (at === other && name === "no")));
  label.setv({ x: at, text: `${name.toUpperCase()} ${number(Number(at.toPrecision(3)))}`, x_offset: left ? -5 : 5, text_align: left ? "right" : "left" });
};

const drawPeaks = (index) => {
  peaks.index = index;
  const { epochs, splits } = twin;
  const withLabels = $("peaks-labels")?.checked ?? false;
  let top = twin.top;
  splits.forEach((split, s) => {
    const shown = document.querySelector(`[data-split="${split}"]`).checked;
    const y = curveOf(0, index, s);
    const present = y.some(Number.isFinite);
    setData(split, { x: twin.bins, y });
    model(split).visible = shown && present;
    ["yes", "no"].forEach((part, p) => {
      const values = curveOf(p + 1, index, s);
      const known = shown && withLabels && values.some(Number.isFinite);
      setData(`${split}_${part}`, { x: twin.bins, y: values });
      for (const end of ["", "_area"]) model(`${split}_${part}${end}`).visible = known;
    });
    if (present) top = Math.max(top, 1.12 * y.reduce((most, value) => (value > most ? value : most), 0));
  });
  model("shares").end = top;
  const at = splits.indexOf(twin.reference);
  const known = twin.yes[index][at] === null ? splits.findIndex((_, s) => twin.yes[index][s] !== null) : at;
  const [yes, no] = known < 0 ? [NaN, NaN] : [twin.yes[index][known], twin.no[index][known]];
  drawMark("yes", yes, no);
  drawMark("no", no, yes);
  $("peaks-epoch").value = String(index);
  $("peaks-shown").textContent = epochs[index] < 0 ? "untrained" : String(epochs[index]);
  $("peaks-said").textContent = sayPeaks(index, known, top > twin.top);
  for (const dot of all(".dot")) dot.classList.toggle("chosen", Number(dot.dataset.epoch) === index);
  markEpoch(epochs[index]);
};

const sayPeaks = (index, split, rescaled) => {
  const parts = [];
  if (split >= 0) {
    const { yes, no, separation, overlap, outside } = twin;
    parts.push(`peaks ${number(Number((yes[index][split] - no[index][split]).toPrecision(3)))} apart`);
    if (separation[index][split] !== null) parts.push(`d′ ${number(Number(separation[index][split].toPrecision(3)))}`);
    if (overlap[index][split] !== null) parts.push(`YES and NO overlap by ${percent(overlap[index][split])}`);
    if (outside[index][split] > 0.001) parts.push(`out of range ${percent(outside[index][split])}`);
  } else parts.push("one peak only");
  if (twin.distance[index] !== null) parts.push(`train and validation differ by ${percent(twin.distance[index])}`);
  if (rescaled) parts.push("taller: own scale");
  return parts.join(" · ");
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
  for (const name of ["yes_label", "no_label"]) {
    const place = () => { model(name).y = (model("twin").inner_height || 300) - 18; };
    model("twin").properties.inner_height.change.connect(place);
    place();
  }
  $("peaks-epoch").addEventListener("input", (event) => { playPeaks(false); drawPeaks(Number(event.target.value)); });
  for (const box of all("[data-split], #peaks-labels")) box.addEventListener("change", () => drawPeaks(peaks.index));
  $("peaks-play").addEventListener("click", () => {
    const on = peaks.timer === null;
    if (on && peaks.index >= twin.epochs.length - 1) drawPeaks(0);
    playPeaks(on);
  });
  drawPeaks(twin.epochs.length - 1);
};
