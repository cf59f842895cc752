// The detail of a comparison: pictures and histograms of the chosen layer in every run.

const versus = page.compare;
const compared = { index: 0, shown: versus.shown.length - 1, curves: null, codes: null };
const [cellsDown, cellsAcross] = versus.shape;
const nPictures = 2 * versus.runs.length - 1; // the shares of all runs, then the differences of all but the first

const curveOfRun = (run, epoch) => {
  const { shown, bins } = versus;
  const from = (run * shown.length + epoch) * bins.length;
  return compared.curves.subarray(from, from + bins.length);
};

// Codes as packed, each minus the one before it in its row.
const undoSteps = (bytes) => {
  for (let at = 0; at < bytes.length; at += 1) {
    if (at % cellsAcross > 0) bytes[at] = (bytes[at] + bytes[at - 1]) & 255;
  }
  return bytes;
};

const rgba = (color) => [1, 3, 5, 7].map((from) => Number.parseInt(color.slice(from, from + 2), 16));
const paints = { shares: versus.colors.map(rgba), differences: versus.signedColors.map(rgba) };

const drawPicture = (place) => {
  const canvas = $(`compare-picture-${place}`);
  canvas.width = cellsAcross;
  canvas.height = cellsDown;
  const context = canvas.getContext("2d");
  const image = context.createImageData(cellsAcross, cellsDown);
  const colors = place < versus.runs.length ? paints.shares : paints.differences;
  for (let y = 0; y < cellsDown; y += 1) {
    for (let x = 0; x < cellsAcross; x += 1) {
      const code = codeAt(place, x, y);
      if (code > 0) image.data.set(colors[code - 1], 4 * ((cellsDown - 1 - y) * cellsAcross + x));
    }
  }
  context.putImageData(image, 0, 0);
};

const codeAt = (place, x, y) => compared.codes[(place * cellsDown + y) * cellsAcross + x];

const share = (value) => (value === 0 ? "0%" : `${number(Number((100 * value).toPrecision(2)))}%`);

const shareAt = (run, x, y) => {
  const code = codeAt(run, x, y);
  if (code === 0) return "none";
  return `≈ ${share(versus.low * (versus.high / versus.low) ** ((code - 1) / (versus.colors.length - 1)))}`;
};

const differenceAt = (run, x, y) => {
  const code = codeAt(versus.runs.length + run - 1, x, y);
  if (code === 0) return `less than ${share(versus.least)} apart`;
  const step = (code - 1) % versus.signedSteps;
  const size = versus.least * (versus.difference / versus.least) ** (step / (versus.signedSteps - 1));
  return `${code > versus.signedSteps ? "−" : "+"}${share(size)}`;
};

// The cell under the pointer, in all runs at once.
const hoverCompared = (event) => {
  if (compared.codes === null) return;
  const box = event.currentTarget.getBoundingClientRect();
  const at = (position, size, n) => Math.min(n - 1, Math.max(0, Math.floor((position / size) * n)));
  const x = at(event.clientX - box.left, box.width, cellsAcross);
  const y = cellsDown - 1 - at(event.clientY - box.top, box.height, cellsDown);
  const { runs, bins, steps, lasts, unit, hMin, hMax, binsPerCell } = versus;
  const edge = (bin) => number(hMin + (Math.min(bin, bins.length) / bins.length) * (hMax - hMin));
  const last = lasts[x];
  const when = last > steps[x] ? `${unit === "epoch" ? "epochs" : "batches"} ${whole.format(steps[x])} to ${whole.format(last)}` : `${unit} ${whole.format(steps[x])}`;
  const lines = runs.map((run, place) => `${run}: ${shareAt(place, x, y)}${place > 0 ? `; difference ${differenceAt(place, x, y)}` : ""}`);
  const tip = $("tooltip");
  tip.textContent = [when, `value ${edge(y * binsPerCell)} to ${edge((y + 1) * binsPerCell)}; share of values per bin`, ...lines].join("\n");
  tip.hidden = false;
  const right = event.clientX + 16;
  tip.style.left = `${Math.max(8, right + tip.offsetWidth > window.innerWidth - 8 ? right - tip.offsetWidth - 32 : right)}px`;
  tip.style.top = `${Math.min(event.clientY + 12, window.innerHeight - tip.offsetHeight - 8)}px`;
  for (const mark of all("#compare .spot")) {
    mark.hidden = false;
    mark.style.left = `${(100 * (x + 0.5)) / cellsAcross}%`;
    mark.style.top = `${(100 * (cellsDown - y - 0.5)) / cellsDown}%`;
  }
};

const leaveCompared = () => {
  for (const each of [$("tooltip"), ...all("#compare .spot")]) each.hidden = true;
};

const mostOf = (values) => values.reduce((most, value) => (Math.abs(value) > most ? Math.abs(value) : most), 0);

const drawCurves = () => {
  const { runs, bins, epochs, layers, shown } = versus;
  const layer = layers[compared.index];
  const first = curveOfRun(0, compared.shown);
  const epoch = epochs.indexOf(shown[compared.shown]);
  let top = 0;
  let apart = 0;
  runs.forEach((_, run) => {
    const y = curveOfRun(run, compared.shown);
    top = Math.max(top, mostOf(y));
    setData(`curve_${run}`, { x: bins, y });
    if (run === 0) return;
    const difference = y.map((share, bin) => share - first[bin]);
    apart = Math.max(apart, mostOf(difference));
    setData(`difference_${run}`, { x: bins, y: difference });
  });
  model("compare_curves_heights").end = 1.08 * top || 1;
  model("compare_difference_heights").setv({ start: -1.15 * apart || -1, end: 1.15 * apart || 1 });
  model("compare_epoch").location = epochs[epoch];
  $("compare-shown").textContent = String(epochs[epoch]);
  if ($("compare-epoch") !== null) $("compare-epoch").value = String(compared.shown);
  const numbers = (name, run) => number(layer[name][run][epoch] ?? NaN);
  const lost = (words, name, run) => (layer[name][run][epoch] > 0 ? `, ${words} ${percent(layer[name][run][epoch])}` : "");
  $("compare-said").textContent = runs
    .map((run, place) => `${run}: mean ${numbers("mean", place)}, std ${numbers("std", place)}${place > 0 ? `, distance ${numbers("distance", place)}` : ""}${lost("out of range", "out_of_range", place)}${lost("NaN or infinite", "nonfinite", place)}`)
    .join("\n");
};

const drawDistances = () => {
  const { runs, epochs, layers } = versus;
  const { distance } = layers[compared.index];
  let top = 0;
  for (let run = 1; run < runs.length; run += 1) {
    const y = distance[run].map((value) => value ?? NaN);
    top = Math.max(top, mostOf(y.filter(Number.isFinite)));
    setData(`distance_${run}`, { x: epochs, y });
  }
  model("compare_distance_heights").end = 1.1 * top || 1;
  const [low, high] = [epochs[0], epochs.at(-1)];
  model("compare_epochs").setv({ start: low - 0.03 * (high - low || 1), end: high + 0.03 * (high - low || 1) });
  const every = Math.ceil(epochs.length / 6);
  model("compare_distance").below[0].ticker.ticks = epochs.filter((_, place) => place % every === 0);
};

const chooseCompared = async (index) => {
  const n = versus.layers.length;
  compared.index = (index + n) % n;
  const asked = compared.index;
  const { name, kind } = versus.layers[asked];
  $("compare-title").textContent = `${name} `;
  const small = document.createElement("small");
  small.textContent = kind;
  $("compare-title").append(small);
  $("layer-select").value = String(asked);
  for (const tile of all(".tile")) tile.setAttribute("aria-current", String(Number(tile.dataset.layer) === asked));
  const [curves, codes] = await Promise.all([inflate(`compare-${2 * asked}`), inflate(`compare-${2 * asked + 1}`)]);
  if (asked !== compared.index) return;
  leaveCompared();
  compared.curves = together(curves, Float32Array);
  compared.codes = undoSteps(codes);
  for (let place = 0; place < nPictures; place += 1) {
    const run = place < versus.runs.length ? place : place - versus.runs.length + 1;
    const lost = place < versus.runs.length ? versus.layers[asked].lost[place] : "";
    const said = place < versus.runs.length ? `${name} in ${versus.runs[run]}` : `${name}: ${versus.runs[run]} minus ${versus.runs[0]}`;
    $(`compare-picture-${place}`).setAttribute("aria-label", lost === "" ? said : `${said}, ${lost}`);
    drawPicture(place);
    if (place < versus.runs.length) $(`compare-lost-${place}`).textContent = lost;
  }
  drawCurves();
  drawDistances();
};

const paintCompared = () => {
  versus.runs.forEach((_, run) => {
    for (const name of [`curve_${run}`, `difference_${run}`, `distance_${run}`]) {
      if (model(name) !== null) model(name).glyph.line_color = themed(`run-${run}`);
    }
    model(`distance_dots_${run}`)?.glyph.setv({ fill_color: themed(`run-${run}`), line_color: themed(`run-${run}`) });
  });
  for (const name of ["compare_epoch", "difference_zero"]) model(name).line_color = themed("soft");
};

const startCompared = async () => {
  $("layer-select").addEventListener("change", (event) => chooseCompared(Number(event.target.value)));
  $("previous-layer").addEventListener("click", () => chooseCompared(compared.index - 1));
  $("next-layer").addEventListener("click", () => chooseCompared(compared.index + 1));
  $("compare-epoch")?.addEventListener("input", (event) => {
    compared.shown = Number(event.target.value);
    drawCurves();
  });
  for (const canvas of all("#compare canvas[id]")) {
    canvas.addEventListener("pointermove", hoverCompared);
    canvas.addEventListener("pointerleave", leaveCompared);
  }
  await chooseCompared(0);
};
