"use strict";
(() => {
  const $ = (id) => document.getElementById(id);
  const root = document.documentElement;
  const themed = (name) => getComputedStyle(root).getPropertyValue(`--${name}`).trim();
  let model = null; // (name) -> Bokeh model
  let screen = null; // what Python says, and what is chosen here
  let epochs = [];
  let found = null; // keys of the findings shown

  const make = (tag, attributes, ...children) => {
    const node = Object.assign(document.createElement(tag), attributes);
    node.append(...children);
    return node;
  };

  const showFacts = () => {
    const facts = JSON.parse(screen.facts);
    const state = facts.length > 0 ? facts[0][1] : "";
    $("state").textContent = state;
    $("state").dataset.kind = state.split(/[ ,]/)[0];
    $("facts").replaceChildren(...facts.slice(1).map(([name, value]) => make("div", {}, make("dt", { textContent: name }), make("dd", { textContent: value }))));
  };

  const showNotes = () => {
    const notes = JSON.parse(screen.notes);
    $("notes").textContent = notes.join(" · ");
    $("notes").hidden = notes.length === 0;
  };

  const sayFinding = (each) => {
    const layer = make("a", { className: "layer", href: "#layer", textContent: each.layer });
    layer.addEventListener("click", () => choose({ layer: each.layer }));
    const title = make(
      "div",
      { className: "title" },
      make("h3", {}, make("span", { className: `icon ${each.level}`, title: each.level, textContent: each.icon }), each.name),
      layer,
      ...(each.more > 0 ? [make("span", { className: "layer", textContent: `+${each.more} more` })] : []),
    );
    const why = make("details", { className: "why" }, make("summary", { textContent: "Why it matters, what to do" }), make("p", { textContent: each.why }), make("p", {}, make("b", { textContent: "What to do. " }), each.remedy));
    const seen = make("p", {}, `${each.seen} `, make("span", { className: "when", textContent: each.when }));
    const node = make("li", { className: `finding ${each.level}` }, make("div", { className: "told" }, title, seen, why));
    if (found !== null && !found.has(each.key)) node.classList.add("new");
    return node;
  };

  const showFindings = () => {
    const verdict = JSON.parse(screen.findings);
    if (verdict === null) return;
    const open = new Set([...document.querySelectorAll(".finding details[open]")].map((each) => each.closest("li").dataset.key));
    const nodes = verdict.found.map((each) => Object.assign(sayFinding(each)));
    nodes.forEach((node, index) => {
      node.dataset.key = verdict.found[index].key;
      node.querySelector("details").open = open.has(node.dataset.key);
    });
    $("findings").replaceChildren(...nodes);
    $("verdict-said").textContent = verdict.summary;
    found = new Set(verdict.found.map((each) => each.key));
    showFlags();
  };

  // A tile is framed in the colour of the worst that was found in its layer.
  const showFlags = () => {
    const flags = JSON.parse(screen.findings)?.flags ?? {};
    for (const tile of document.querySelectorAll(".tile")) {
      if (flags[tile.dataset.layer] === undefined) delete tile.dataset.level;
      else tile.dataset.level = flags[tile.dataset.layer];
    }
  };

  const showLayers = () => {
    const layers = JSON.parse(screen.layers);
    $("layer-select").replaceChildren(...layers.map(({ name, kind }) => make("option", { value: name, textContent: kind ? `${name} · ${kind}` : name })));
    $("tiles").style.setProperty("--tile", layers.length > 24 ? "112px" : "176px");
    $("tiles").replaceChildren(...layers.map(({ name, kind, never }) => {
      const frame = make("span", { className: "frame" }, make("img", { alt: `${name}, ${kind}` }), make("i", { className: "zero-line" }));
      if (never) frame.append(make("span", { className: "said", textContent: "not called yet" }));
      const label = make("span", { className: "name" }, make("span", { className: "named" }, make("b", {}, make("bdi", { textContent: name }))), make("span", { className: "kind", textContent: kind }));
      const tile = make("button", { type: "button", className: never ? "tile never" : "tile", title: name }, label, frame);
      tile.dataset.layer = name;
      tile.addEventListener("click", () => { choose({ layer: name }); $("layer").scrollIntoView(); });
      return tile;
    }));
    showTiles();
    showFlags();
    showLayer();
  };

  const showTiles = () => {
    const tiles = JSON.parse(screen.tiles);
    if (tiles === null) return;
    $("wall-said").textContent = tiles.said;
    [...$("tiles").children].forEach((tile, index) => {
      if (tiles.src[index] !== undefined) tile.querySelector("img").src = tiles.src[index];
    });
  };

  const showLayer = () => {
    $("layer-select").value = screen.layer;
    $("layer-said").textContent = screen.about;
    for (const tile of $("tiles").children) tile.setAttribute("aria-current", String(tile.dataset.layer === screen.layer));
  };

  const placeOf = (epoch) => epochs.findIndex(([label]) => String(label) === epoch);

  const showEpochs = () => {
    epochs = JSON.parse(screen.epochs);
    const chosen = placeOf(screen.epoch);
    const shown = Math.max(0, chosen < 0 ? placeOf(screen.latest) : chosen);
    $("epoch").max = String(Math.max(0, epochs.length - 1));
    $("epoch").value = String(shown);
    const said = epochs[shown]?.[1] ?? "";
    const latest = shown < epochs.length - 1 ? "the latest that was evaluated" : "the latest";
    $("epoch-said").textContent = said && chosen < 0 ? `${said}, ${latest}` : said;
    $("peaks-said").textContent = screen.peaks;
  };

  const choose = (wish) => { screen.setv(wish); showLayer(); showEpochs(); };

  // Colours stay here: Python draws for any theme.
  const dye = (part, colors) => part.setv(colors, { sync: false });

  const paint = () => {
    const [soft, ink, line, grid, plot, train] = ["soft", "ink", "line", "grid", "plot", "train"].map(themed);
    for (const name of ["detail", "twin"]) {
      const frame = model(name);
      dye(frame, { background_fill_color: plot, outline_line_color: line });
      for (const axis of [...frame.below, ...frame.left]) dye(axis, { major_label_text_color: soft, axis_label_text_color: soft, major_tick_line_color: line });
      for (const part of frame.center) if (part.grid_line_color !== undefined) dye(part, { grid_line_color: grid });
    }
    dye(model("color_bar"), { major_label_text_color: soft });
    dye(model("color_title"), { text_color: soft });
    dye(model("epochs").glyph, { line_color: themed("epoch") });
    dye(model("epochs_case").glyph, { line_color: themed("epoch-case") });
    dye(model("train").glyph, { line_color: train });
    const color = { train, valid: "#e69f00", test: "#009e73" }[screen.reference];
    for (const part of ["yes", "no"]) {
      dye(model(part), { line_color: soft });
      dye(model(`${part}_label`), { text_color: ink });
      dye(model(`truth_${part}`).glyph, { line_color: color });
      dye(model(`truth_${part}_area`).glyph, { fill_color: color });
    }
  };

  // Nothing is drawn that nobody sees.
  const watchSight = () => {
    const seen = new Set();
    const tell = () => screen.setv({ sight: document.hidden ? "" : [...seen].sort().join(" ") });
    const observer = new IntersectionObserver((entries) => {
      for (const { target, isIntersecting } of entries) {
        if (isIntersecting) seen.add(target.id);
        else seen.delete(target.id);
      }
      tell();
    }, { rootMargin: "150px" });
    for (const id of ["wall", "layer", "peaks"]) observer.observe($(id));
    document.addEventListener("visibilitychange", tell);
  };

  // When the server has ended, wait for the next one.
  const outlive = (shown) => shown.on_event("connection_lost", { execute: () => {
    $("notes").textContent = "`actlab watch` has ended: this is the last that it showed";
    $("notes").hidden = false;
    setInterval(() => fetch(location.href, { method: "HEAD" }).then(() => location.reload(), () => {}), 2000);
  } });

  const start = () => {
    const shown = window.Bokeh?.documents[0];
    screen = shown?.get_model_by_name("screen") ?? null;
    if (screen === null) return void setTimeout(start, 20);
    model = (name) => shown.get_model_by_name(name);
    const shows = { facts: showFacts, notes: showNotes, findings: showFindings, layers: showLayers, tiles: showTiles, about: showLayer, layer: showLayer, epochs: showEpochs, epoch: showEpochs, peaks: showEpochs, reference: paint };
    for (const [name, show] of Object.entries(shows)) screen.properties[name].change.connect(show);
    for (const show of new Set(Object.values(shows))) show();
    $("layer-select").addEventListener("change", (event) => choose({ layer: event.target.value }));
    $("epoch").addEventListener("input", (event) => {
      const label = String(epochs[Number(event.target.value)][0]);
      choose({ epoch: label === screen.latest ? "last" : label });
    });
    $("theme-button").addEventListener("click", () => {
      root.dataset.theme = root.dataset.theme === "dark" ? "light" : "dark";
      root.dataset.chosen = "yes";
      paint();
    });
    root.addEventListener("themechange", paint);
    paint();
    watchSight();
    outlive(shown);
    root.dataset.ready = "yes";
    return undefined;
  };
  start();
})();
