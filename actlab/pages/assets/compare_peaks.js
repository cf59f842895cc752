// The Twin Peaks of the runs of a comparison, over each other.

const twins = page.compare_peaks;
const twinRuns = twins.runs.length;
const twinned = { curves: null };

const twinCurve = (run, epoch, split) => {
  const { epochs, splits, bins } = twins;
  const from = ((run * epochs.length + epoch) * splits.length + split) * bins.length;
  return twinned.curves.subarray(from, from + bins.length);
};

const drawTwins = (epoch) => {
  let top = 0;
  for (let run = 0; run < twinRuns; run += 1) {
    twins.splits.forEach((split, s) => {
      const y = twinCurve(run, epoch, s);
      top = y.reduce((most, share) => (share > most ? share : most), top);
      setData(`twin_${run}_${split}`, { x: twins.bins, y });
    });
  }
  model("compare_twin_heights").end = 1.08 * top || 1;
  $("compare-peaks-shown").textContent = twins.epochs[epoch] < 0 ? "untrained" : String(twins.epochs[epoch]);
  const known = twins.separation.map((each) => each[epoch]);
  const said = known.map((value, run) => `${twins.runs[run]} ${value === null ? "–" : number(Number(value.toPrecision(3)))}`);
  $("compare-peaks-said").textContent = top === 0 ? "no value of this epoch lies in the range"
    : known.some((value) => value !== null) ? `separation d′ of YES and NO: ${said.join(", ")}` : "";
};

const paintTwins = () => {
  for (let run = 0; run < twinRuns; run += 1) {
    for (const split of twins.splits) model(`twin_${run}_${split}`).glyph.line_color = themed(`run-${run}`);
  }
};

const startTwins = async () => {
  twinned.curves = together(await inflate("compare_peaks-0"), Float32Array);
  $("compare-peaks-epoch")?.addEventListener("input", (event) => drawTwins(Number(event.target.value)));
  drawTwins(twins.epochs.length - 1);
};
