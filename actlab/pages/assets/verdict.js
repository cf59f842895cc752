// Addresses of places on the page, as the links of the findings have them: `#at=LAYER:FIRST-LAST` (rows of the
// detail chart), `#at=LAYER`, and `#peaks=EPOCH`.

// Returns what is wrong with an address, in words, or nothing after it went there.
const goToRows = async (text) => {
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
  const epochs = twin === null ? [] : twin.epochs;
  const index = epochs.indexOf(Number(text));
  if (text.trim() === "" || index < 0) return epochs.length === 0 ? "There are no Twin Peaks on this page" : `Epoch ${text} is not on this page, which has epochs ${epochs[0]} to ${epochs.at(-1)}`;
  playPeaks(false);
  drawPeaks(index);
  $("peaks").scrollIntoView();
  return null;
};

const goToAddress = async () => {
  let address = window.location.hash;
  try { address = decodeURIComponent(address); } catch { /* then as it is */ }
  const [, key, text] = /^#(at|peaks)=(.*)$/s.exec(address) ?? [];
  const wrong = key === undefined ? null : await (key === "at" ? goToRows : goToEpoch)(text);
  $("address-note").textContent = wrong ?? "";
  $("address-note").hidden = wrong === null;
  if (wrong !== null) $("verdict").scrollIntoView();
};

const startVerdict = async () => {
  for (const link of all("[data-address]")) {
    link.href = `#${link.dataset.address}`;
    // The same address again is no change of the address.
    link.addEventListener("click", () => { if (link.hash === window.location.hash) goToAddress(); });
  }
  window.addEventListener("hashchange", goToAddress);
  await goToAddress();
};
