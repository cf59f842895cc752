// The rest of the page: filter, table, theme, keys, and the start of it all.

const filterWall = () => {
  const wanted = $("wall-filter").value.trim().toLowerCase();
  const pressed = (kind) => all(`.chip[data-${kind}][aria-pressed="true"]`);
  const kinds = new Set(pressed("kind").map((chip) => chip.dataset.kind));
  const flagged = pressed("flagged").length > 0;
  let shown = 0;
  for (const tile of all(".tile")) {
    const { name, kind, level } = tile.dataset;
    const chosen = (kinds.size === 0 || kinds.has(kind)) && (!flagged || level !== undefined);
    tile.hidden = !(chosen && `${name} ${kind}`.toLowerCase().includes(wanted));
    shown += tile.hidden ? 0 : 1;
  }
  $("wall-none").hidden = shown > 0;
};

const startWall = () => {
  $("wall-filter").addEventListener("input", filterWall);
  for (const chip of all(".chip")) {
    chip.addEventListener("click", () => {
      chip.setAttribute("aria-pressed", String(chip.getAttribute("aria-pressed") !== "true"));
      filterWall();
    });
  }
};

// Tiles and rows of the table lead to the detail of their layer.
const startLinks = () => {
  for (const link of all("a[data-layer]")) {
    link.addEventListener("click", (event) => {
      event.preventDefault();
      const index = Number(link.dataset.layer);
      if (page.compare === undefined) chooseLayer(index);
      else chooseCompared(index);
      $(page.compare === undefined ? "detail" : "compare").scrollIntoView();
    });
  }
};

const sortTable = (head) => {
  const index = [...head.parentNode.children].indexOf(head);
  const ascending = head.getAttribute("aria-sort") !== "ascending";
  for (const other of head.parentNode.children) other.removeAttribute("aria-sort");
  head.setAttribute("aria-sort", ascending ? "ascending" : "descending");
  const body = document.querySelector("#table tbody");
  const numeric = head.dataset.sort === "number";
  const key = (row) => (numeric ? row.children[index].dataset.rank ?? row.children[index].dataset.value : row.children[index].textContent);
  const missing = (row) => numeric && key(row) === "";
  const compare = (a, b) => {
    if (missing(a) || missing(b)) return missing(a) - missing(b); // what is missing stays last
    const order = numeric ? Number(key(a)) - Number(key(b)) : key(a).localeCompare(key(b), "en", { numeric: true });
    return ascending ? order : -order;
  };
  body.append(...[...body.rows].sort(compare));
};

const downloadTable = () => {
  const quote = (text) => (/[",\n\r]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text);
  const rows = [...$("table").rows].map((row) => [...row.cells].map((cell) => quote(cell.dataset.value ?? cell.textContent.trim())).join(","));
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([`${rows.join("\n")}\n`], { type: "text/csv" }));
  link.download = "layers.csv";
  link.click();
  URL.revokeObjectURL(link.href);
};

const startTable = () => {
  for (const head of all("#table thead th")) head.querySelector("button").addEventListener("click", () => sortTable(head));
  $("csv").addEventListener("click", downloadTable);
};

const paintFigures = () => {
  if (model === null) return;
  const [soft, line, grid, plot] = ["soft", "line", "grid", "plot"].map(themed);
  for (const name of figures) {
    const frame = model(name);
    frame.setv({ background_fill_color: plot, outline_line_color: line });
    for (const axis of [...frame.below, ...frame.left]) {
      axis.setv({ major_label_text_color: soft, axis_label_text_color: soft, major_tick_line_color: line });
    }
    for (const part of frame.center) if (part.grid_line_color !== undefined) part.grid_line_color = grid;
  }
  if (page.detail !== undefined) paintDetail();
  if (page.peaks !== undefined) paintPeaks();
  if (page.compare !== undefined) paintCompared();
  if (page.compare_peaks !== undefined) paintTwins();
};

const switchTheme = () => {
  const root = document.documentElement;
  root.dataset.theme = isDark() ? "light" : "dark";
  root.dataset.chosen = "yes";
  try { localStorage.setItem("actlab-theme", root.dataset.theme); } catch { /* storage may be closed to files */ }
  paintFigures();
};

const KEYS = {
  ...(page.detail !== undefined && {
    "[": () => chooseLayer(detail.index - 1),
    "]": () => chooseLayer(detail.index + 1),
    "+": () => zoom(0.5),
    "=": () => zoom(0.5),
    "-": () => zoom(2),
    0: () => zoom(Infinity),
    ArrowLeft: () => zoom(1, -0.25),
    ArrowRight: () => zoom(1, 0.25),
  }),
  ...(page.compare !== undefined && {
    "[": () => chooseCompared(compared.index - 1),
    "]": () => chooseCompared(compared.index + 1),
  }),
  t: switchTheme,
  "?": () => ($("help").open ? $("help").close() : $("help").showModal()),
};

// A text field takes all keys, a slider the arrows, and a list the arrows and letters to find an entry by.
const takes = (target, key) => {
  if (target.closest("textarea, input:not([type=checkbox], [type=range])")) return true;
  if (target.closest("input[type=range]")) return key.startsWith("Arrow");
  return target.closest("select") !== null && (key.startsWith("Arrow") || /^[\p{L}\p{N}]$/u.test(key));
};

const startKeys = () => {
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || takes(event.target, event.key)) return;
    const act = KEYS[event.key];
    if (act === undefined || ($("help").open && event.key !== "?")) return;
    event.preventDefault();
    act();
  });
  $("help-button").addEventListener("click", KEYS["?"]);
  $("theme-button").addEventListener("click", switchTheme);
  document.documentElement.addEventListener("themechange", paintFigures);
};

let figures = [];

const startFigures = async () => {
  const bokeh = JSON.parse($("bokeh").textContent);
  await Bokeh.embed.embed_items({ page: bokeh.document }, [{ docid: "page", roots: bokeh.roots, root_ids: Object.keys(bokeh.roots) }]);
  const document_ = Bokeh.documents.at(-1);
  model = (name) => document_.get_model_by_name(name);
  figures = Object.values(bokeh.roots).map((id) => id.replace("figure-", ""));
  paintFigures();
};

// Each section brings its script only if it is on the page.
const start = async () => {
  if ($("wall-filter") !== null) startWall();
  if ($("table") !== null) startTable();
  startKeys();
  startLinks();
  if (page.detail !== undefined) drawFacts();
  if ($("bokeh") !== null) await startFigures();
  if (page.detail !== undefined) {
    startDetail();
    await chooseLayer(detail.index);
  }
  if (page.compare !== undefined) await startCompared();
  if (page.compare_peaks !== undefined) await startTwins();
  if (page.classes !== undefined) await startClasses();
  if (page.peaks !== undefined) await startPeaks();
  await startAddresses();
  document.documentElement.dataset.ready = "yes";
};

start();
