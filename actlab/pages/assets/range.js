// The fields of a range: from, to, bins, and buttons; they say what is wrong, and change nothing then.

const sameRange = (one, other) => one.every((value, i) => value === other[i]);

const rangeFields = (prefix) => ["min", "max", "bins"].map((name) => $(`${prefix}-${name}`));

const showRange = (prefix, [hMin, hMax, bins]) => {
  const fields = rangeFields(prefix);
  [hMin, hMax, bins].forEach((value, i) => { fields[i].value = String(value); });
  const unit = 10 ** Math.floor(Math.log10((hMax - hMin) / 4));
  for (const field of fields.slice(0, 2)) field.step = String(Number(unit.toPrecision(1)));
  $(`${prefix}-said`).textContent = "";
};

// Calls `change` with a range that is good; `buttons` are functions by the ends of their ids.
const startRange = (prefix, most, change, buttons) => {
  const fields = rangeFields(prefix);
  const take = () => {
    const range = fields.map((field) => (field.value.trim() === "" ? NaN : Number(field.value)));
    const wrong = wrongRange(...range, most);
    $(`${prefix}-said`).textContent = wrong ?? "";
    if (wrong === null) change(range);
  };
  for (const field of fields) field.addEventListener("change", take);
  $(prefix).addEventListener("submit", (event) => event.preventDefault());
  for (const [name, act] of Object.entries(buttons)) $(`${prefix}-${name}`).addEventListener("click", act);
};

// Pull the values beside a chart: near an end that end moves, in the middle both do.
const startPull = (handle, frame, range, change) => {
  let pulled = null;
  const shareAt = (event) => {
    const box = handle.getBoundingClientRect();
    const bottom = box.bottom - 48; // below it are the ticks and words of the other axis
    return (bottom - event.clientY) / (frame().inner_height || box.height);
  };
  handle.addEventListener("pointerdown", (event) => {
    const [hMin, hMax] = range();
    const share = shareAt(event);
    pulled = { share, hMin, hMax, value: hMin + share * (hMax - hMin) };
    handle.setPointerCapture(event.pointerId);
    event.preventDefault();
  });
  handle.addEventListener("pointermove", (event) => {
    if (pulled === null) return;
    const { share, hMin, hMax, value } = pulled;
    const now = shareAt(event);
    const span = hMax - hMin;
    let ends = [hMin - (now - share) * span, hMax - (now - share) * span];
    if (share > 2 / 3) ends = [hMin, hMin + (value - hMin) / Math.max(now, 0.05)];
    else if (share < 1 / 3) ends = [hMax - (hMax - value) / Math.max(1 - now, 0.05), hMax];
    const unit = 10 ** (Math.floor(Math.log10(ends[1] - ends[0])) - 2);
    change(ends.map((end) => Number((Math.round(end / unit) * unit).toPrecision(12))));
  });
  for (const end of ["pointerup", "pointercancel"]) handle.addEventListener(end, () => { pulled = null; });
};
