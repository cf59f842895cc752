// The detail of a comparison: pictures and histograms of the chosen layer in every run.

const versus = page.compare;
const compared = { index: 0, epoch: versus.epochs.length - 1, curves: null };
const perLayer = 2 * versus.runs.length; // texts of a layer: its curves, and its pictures

const curveOfRun = (run, epoch) => {
  const { epochs, bins } = versus;
  const from = (run * epochs.length + epoch) * bins.length;
  return compared.curves.subarray(from, from + bins.length);
};

const mostOf = (values) => values.reduce((most, value) => (Math.abs(value) > most ? Math.abs(value) : most), 0);

const drawCurves = () => {
  const { runs, bins, epochs, layers } = versus;
  const layer = layers[compared.index];
  const first = curveOfRun(0, compared.epoch);
  let top = 0;
  let apart = 0;
  runs.forEach((_, run) => {
    const y = curveOfRun(run, compared.epoch);
    top = Math.max(top, mostOf(y));
    setData(`curve_${run}`, { x: bins, y });
    if (run === 0) return;
    const difference = y.map((share, bin) => share - first[bin]);
    apart = Math.max(apart, mostOf(difference));
    setData(`difference_${run}`, { x: bins, y: difference });
  });
  model("compare_curves_heights").end = 1.08 * top || 1;
  model("compare_difference_heights").setv({ start: -1.15 * apart || -1, end: 1.15 * apart || 1 });
  model("compare_epoch").location = epochs[compared.epoch];
  $("compare-shown").textContent = String(epochs[compared.epoch]);
  if ($("compare-epoch") !== null) $("compare-epoch").value = String(compared.epoch);
  const numbers = (name, run) => number(layer[name][run][compared.epoch] ?? NaN);
  $("compare-said").textContent = runs
    .map((run, place) => `${run}: mean ${numbers("mean", place)}, std ${numbers("std", place)}${place > 0 ? `, distance ${numbers("distance", place)}` : ""}`)
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
  const from = asked * perLayer;
  const { name, kind } = versus.layers[asked];
  $("compare-title").textContent = `${name} `;
  const small = document.createElement("small");
  small.textContent = kind;
  $("compare-title").append(small);
  versus.runs.forEach((run, place) => {
    const show = (id, at, alt) => {
      $(id).src = `data:image/png;base64,${$(`compare-${from + at}`).textContent}`;
      $(id).alt = alt;
    };
    show(`compare-share-${place}`, 1 + place, `${name} in ${run}`);
    if (place > 0) show(`compare-apart-${place}`, versus.runs.length + place, `${name}: ${run} minus ${versus.runs[0]}`);
  });
  $("layer-select").value = String(asked);
  for (const tile of all(".tile")) tile.setAttribute("aria-current", String(Number(tile.dataset.layer) === asked));
  const curves = together(await inflate(`compare-${from}`), Float32Array);
  if (asked !== compared.index) return;
  compared.curves = curves;
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
    compared.epoch = Number(event.target.value);
    drawCurves();
  });
  await chooseCompared(0);
};
