// YES and NO of each class: small multiples on one scale, which follow the epoch of the Twin Peaks.

const classed = page.classes;
const classes = { index: classed.epochs.length - 1, shares: null };
const CLASS_WORDS = {
  unit: ["outputs of the unit for samples of its class", "for all other samples"],
  label: ["outputs of the class’s own unit for its samples", "outputs of all other units for the same samples"],
};

// The shares of YES (0) or NO (1) of a class.
const sharesOf = (view, epoch, place, truth) => {
  const { epochs, labels, bins } = classed;
  const from = (((view * epochs.length + epoch) * labels.length + place) * 2 + truth) * bins;
  return classes.shares.subarray(from, from + bins);
};

const outlineOf = (shares, top) => {
  if (!shares.every(Number.isFinite)) return "";
  const [width, height] = classed.size;
  const step = width / shares.length;
  const parts = [...shares].map((share, bin) => `V${(height * (1 - Math.min(1, share / top))).toFixed(1)}H${((bin + 1) * step).toFixed(1)}`);
  return `M0 ${height}${parts.join("")}V${height}Z`;
};

const sayClass = (by, view, place) => {
  const e = classes.index;
  const [yes] = classed.n[view][e][place];
  if (by === "label") return `${whole.format(yes)} sample${yes === 1 ? "" : "s"}`;
  const separation = classed.separation[e][place];
  if (separation === null) return "YES and NO are not both known";
  return `d′ ${number(Number(separation.toPrecision(3)))}, overlap ${percent(classed.overlap[e][place])}`;
};

const drawClasses = () => {
  if (classes.shares === null) return;
  const { index } = classes;
  const by = document.querySelector("[name=classes-by]:checked")?.value ?? classed.views[0];
  const view = classed.views.indexOf(by);
  let most = 0;
  classed.labels.forEach((_, place) => {
    for (const truth of [0, 1]) for (const share of sharesOf(view, index, place, truth)) if (share > most) most = share;
  });
  const taller = most > 1.01 * classed.tops[view]; // the packed shares are rounded
  const top = taller ? most : classed.tops[view];
  all(".panel").forEach((panel, place) => {
    panel.querySelector(".yes").setAttribute("d", outlineOf(sharesOf(view, index, place, 0), top));
    panel.querySelector(".no").setAttribute("d", outlineOf(sharesOf(view, index, place, 1), top));
    const said = sayClass(by, view, place);
    panel.querySelector(".panel-said").textContent = said;
    panel.querySelector("svg").setAttribute("aria-label", `Class ${panel.querySelector("b").textContent}: ${said}`);
  });
  [$("classes-yes").textContent, $("classes-no").textContent] = CLASS_WORDS[by];
  $("classes-split").textContent = classed.splits[index];
  $("classes-taller").textContent = taller ? "; taller than for later epochs" : "";
  if ($("classes-epoch") !== null) {
    $("classes-epoch").value = String(index);
    $("classes-shown").textContent = classed.epochs[index] < 0 ? "untrained" : String(classed.epochs[index]);
  }
};

// Called by the Twin Peaks, too; an epoch that is not known here changes nothing.
const showClassesOf = (epoch) => {
  const index = classed.epochs.indexOf(epoch);
  if (index < 0) return;
  classes.index = index;
  drawClasses();
};

const startClasses = async () => {
  classes.shares = together(await inflate("classes-0"), Float32Array);
  for (const choice of all("[name=classes-by]")) choice.addEventListener("change", drawClasses);
  $("classes-epoch")?.addEventListener("input", (event) => {
    const epoch = classed.epochs[Number(event.target.value)];
    const index = page.peaks === undefined ? -1 : page.peaks.epochs.indexOf(epoch);
    if (index < 0) showClassesOf(epoch);
    else {
      playPeaks(false);
      drawPeaks(index);
    }
  });
  drawClasses();
};
