// Addresses of places on the page, as the links of the findings have them: `#at=LAYER:FIRST-LAST` (rows of the
// detail chart), `#at=LAYER`, `#peaks=EPOCH`, `#range=FROM,TO,BINS`, `#peaks-range=FROM,TO,BINS`; several are joined by `&`.

// Returns what is wrong with an address, in words, or nothing after it went there.
const goToRows = async (text) => {
  if (page.detail === undefined) return "There is no detail chart on this page";
  const found = /^(\d+)(?::(\d+)(?:-(\d+))?)?$/.exec(text);
  if (found === null) return `“${text}” is no place: a layer and its batches are written like 0:10-20`;
  const [layer, first, last = first] = found.slice(1).map((part) => (part === undefined ? undefined : Number(part)));
  const layers = view.layers.length;
  if (layer >= layers) return `Layer ${layer} is not on this page, which has layers 0 to ${layers - 1}`;
  if (last < first) return `“${text}” ends before it begins`;
  if (last >= view.rows) return `Row ${last} is not on this page, which has rows 0 to ${view.rows - 1}`;
  await chooseLayer(layer);
  if (first !== undefined && detail.binned !== null) markRows(layer, first, last + 1);
  $("detail").scrollIntoView();
  return null;
};

const goToEpoch = (text) => {
  const epochs = page.peaks?.epochs ?? [];
  const index = epochs.indexOf(Number(text));
  if (text.trim() === "" || index < 0) return epochs.length === 0 ? "There are no Twin Peaks on this page" : `Epoch ${text} is not on this page, which has epochs ${epochs[0]} to ${epochs.at(-1)}`;
  playPeaks(false);
  drawPeaks(index);
  $("peaks").scrollIntoView();
  return null;
};

const takeRange = (text, section) => {
  const range = text.split(",").map((part) => (part.trim() === "" ? NaN : Number(part)));
  if (range.length !== 3) return `“${text}” is no range: from, to and bins are written like -4,4,100`;
  if (page[section] === undefined) return "There is no chart on this page whose range can be chosen";
  const wrong = wrongRange(...range, page[section].mostBins);
  if (wrong === null) (section === "detail" ? setRanges : setPeaksRange)(range);
  return wrong;
};

const ranged = page.detail !== undefined ? "detail" : "peaks";
const PLACES = {
  at: goToRows,
  peaks: goToEpoch,
  range: (text) => takeRange(text, ranged),
  "peaks-range": (text) => takeRange(text, "peaks"),
};

const readAddress = (hash) => {
  const text = hash.slice(1);
  try { return decodeURIComponent(text); } catch { return text; /* then as it is */ }
};

// The layer chosen, and the rows marked in it as long as some are in sight; nothing for what is there without an address.
const placeInUse = (asked) => {
  const { index, mark } = detail;
  const { start, end } = model("batches");
  if (mark !== null && mark.layer === index && mark.start < end && mark.end > start) return [`at=${index}:${mark.start}-${mark.end - 1}`];
  return index !== view.chosen || asked ? [`at=${index}`] : [];
};

// The layer and the range in use stand in the address, so that a copied one shows the same; soon, not at each step of
// a pull. The layer comes first: going there scrolls, and what else is asked for has the last word.
const keepPlace = () => {
  if (document.documentElement.dataset.ready === undefined) return; // the address is still to be read
  clearTimeout(keepPlace.timer);
  keepPlace.timer = setTimeout(() => {
    const given = readAddress(window.location.hash).split("&");
    const parts = given.filter((part) => part !== "" && !/^(at|(peaks-)?range)=/.test(part));
    if (ranged === "detail") parts.unshift(...placeInUse(given.some((part) => part.startsWith("at="))));
    const [used, usual] = ranged === "detail" ? [detail.range, view.range] : [peaks.range, twin.range];
    const changed = !sameRange(used, usual);
    if (changed) parts.push(`range=${used}`);
    if (ranged === "detail" && page.peaks !== undefined && !sameRange(peaks.range, changed ? used : twin.range)) parts.push(`peaks-range=${peaks.range}`);
    const hash = parts.length > 0 ? `#${parts.join("&")}` : "";
    if (hash !== window.location.hash) history.replaceState(history.state, "", hash || window.location.pathname + window.location.search);
  }, 250);
};

// `event` knows where to; by now `keepPlace` may have changed the address.
const goToAddress = async (event) => {
  clearTimeout(keepPlace.timer); // it would write a place half gone to
  const address = readAddress((event === undefined ? window.location : new URL(event.newURL)).hash);
  let wrong = null;
  for (const part of address.split("&")) {
    const [, key, text] = /^(at|peaks|range|peaks-range)=(.*)$/s.exec(part) ?? [];
    if (key !== undefined) wrong ??= await PLACES[key](text);
    else if (address.includes("&")) $(part)?.scrollIntoView();
  }
  if (/^range=/.test(address) && wrong === null) $(ranged).scrollIntoView();
  if (wrong === null && address !== "" && page[ranged] !== undefined) keepPlace();
  $("address-note").textContent = wrong ?? "";
  $("address-note").hidden = wrong === null;
  if (wrong !== null) $("address-note").scrollIntoView({ block: "center" });
};

const startAddresses = async () => {
  for (const link of all("[data-address]")) {
    link.href = `#${link.dataset.address}`;
    // The same address again is no change of the address.
    link.addEventListener("click", () => { if (link.hash === window.location.hash) goToAddress(); });
  }
  window.addEventListener("hashchange", goToAddress);
  await goToAddress();
};
