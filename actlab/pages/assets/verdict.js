// Addresses of places on the page, as the links of the findings have them: `#at=LAYER:FIRST-LAST` (rows of the
// detail chart), `#at=LAYER`, and `#peaks=EPOCH`; and `#range=FROM,TO,BINS`.

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
  if (first !== undefined) markRows(layer, first, last + 1);
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

const goToRange = (text) => {
  const range = text.split(",").map((part) => (part.trim() === "" ? NaN : Number(part)));
  if (range.length !== 3) return `“${text}” is no range: from, to and bins are written like -4,4,100`;
  const section = page.detail !== undefined ? "detail" : "peaks";
  if (page[section] === undefined) return "There is no chart on this page whose range can be chosen";
  const wrong = wrongRange(...range, page[section].mostBins);
  if (wrong !== null) return wrong;
  (section === "detail" ? setRanges : setPeaksRange)(range);
  $(section).scrollIntoView();
  return null;
};

const goToAddress = async () => {
  let address = window.location.hash;
  try { address = decodeURIComponent(address); } catch { /* then as it is */ }
  const [, key, text] = /^#(at|peaks|range)=(.*)$/s.exec(address) ?? [];
  const wrong = key === undefined ? null : await { at: goToRows, peaks: goToEpoch, range: goToRange }[key](text);
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
