// Small things that every part uses.

const $ = (id) => document.getElementById(id);
const all = (selector) => [...document.querySelectorAll(selector)];
const page = JSON.parse($("data").textContent);
let model = null; // (name) -> Bokeh model, once the figures are there
const setData = (name, columns) => { model(name).data_source.data = columns; };
// Ticks of an axis or a colour bar, and what `say` says at them; the words alone announce it, so that it is laid out once.
const setTicks = (axis, ticks, say) => {
  axis.ticker.setv({ ticks }, { silent: true });
  axis.major_label_overrides = new Map(ticks.map((value) => [value, say(value)]));
};
// Round numbers from `low` to `high`, some `count` of them; one alone would tell no scale.
const roundTicks = (low, high, count) => {
  const coarse = (high - low) / count;
  const power = 10 ** Math.floor(Math.log10(coarse));
  const apart = power * ([1, 2, 5].find((times) => times * power > 0.999 * coarse) ?? 10);
  const first = Math.ceil(low / apart - 1e-9);
  const ticks = Array.from({ length: Math.floor(high / apart + 1e-9) - first + 1 }, (_, i) => Number(((first + i) * apart).toPrecision(12)));
  return ticks.length > 1 || count > 8 ? ticks : roundTicks(low, high, count + 1);
};
// Ticks of an axis of values, all in the same, shorter way of writing; returns the words.
const setValues = (axis, ticks) => {
  const longest = (words) => Math.max(0, ...words.map((word) => word.length));
  const plain = ticks.map(exact);
  const powers = ticks.map((value) => (value === 0 ? "0" : value.toExponential().replace("e+", "e")));
  const words = (longest(plain) > 6 && longest(powers) < longest(plain) ? powers : plain).map((word) => word.replaceAll("-", "−"));
  setTicks(axis, ticks, (value) => words[ticks.indexOf(value)]);
  return words;
};
// As many labels as have room below a figure.
const tickCount = (name) => Math.max(2, Math.min(8, Math.floor((model(name).inner_width || 600) / 90)));
const whole = new Intl.NumberFormat("en-US", { maximumFractionDigits: 0 });

const number = (value) => {
  if (!Number.isFinite(value)) return "–";
  const text = value.toPrecision(4);
  return text.includes("e") ? text.replace(/\.?0*e\+?/, "e") : String(Number(text));
};

// The end of a range, as it was chosen.
const exact = (value) => String(value).replace("e+", "e");

const percent = (share) => {
  if (!Number.isFinite(share)) return "–";
  if (share === 0) return "0%";
  if (share < 0.0001) return "<0.01%";
  const text = `${(100 * share).toFixed(share < 0.01 ? 2 : share < 0.1 ? 1 : 0)}%`;
  return text === "100%" && share < 1 - 1e-9 ? ">99%" : text; // a sum of shares may be a rounding error below 1
};

const counted = (n, word) => `${whole.format(n)} ${word}${n === 1 ? "" : "s"}`;

// Counts as ticks: 1M, 1k, 1, and below one what it means: one in so many batches.
const tick = (count, batches) => {
  if (count >= 1e6) return `${count / 1e6}M`;
  if (count >= 1e3) return `${count / 1e3}k`;
  if (count >= 1) return String(count);
  const every = Math.round(1 / count);
  return every <= batches ? `1 in ${whole.format(every)}` : String(count);
};

// A count in words, with a sign where it is known only up to a step of the log scale.
const countOf = (count, batches, { bound }) => {
  if (!(count > 0)) return "none";
  if (batches === 1 && bound === 0 && Number.isInteger(count)) return whole.format(count);
  if (count >= 10) return `≈ ${whole.format(Number(count.toPrecision(2)))}`;
  if (batches === 1 && count < 1) return `≈ ${count.toPrecision(1)}: a count split between bins`;
  if (count < 1 && 1 / count <= batches * 1.5) return `≈ 1 in ${Math.max(2, Math.round(1 / count))} batches`;
  return count < 1 ? "less than one" : `≈ ${count.toPrecision(2)}`;
};

// Base64 of a raw deflate stream, kept in a script element, to bytes.
const inflate = async (id) => {
  const text = atob($(id).textContent);
  const packed = new Uint8Array(text.length);
  for (let i = 0; i < text.length; i += 1) packed[i] = text.charCodeAt(i);
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("deflate-raw"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
};

// All lowest bytes, then the next ones, to little-endian numbers.
const together = (bytes, type) => {
  const size = type.BYTES_PER_ELEMENT;
  const n = bytes.length / size;
  const out = new Uint8Array(bytes.length);
  for (let plane = 0; plane < size; plane += 1) {
    for (let i = 0; i < n; i += 1) out[i * size + plane] = bytes[plane * n + i];
  }
  return new type(out.buffer);
};

const themed = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
const isDark = () => document.documentElement.dataset.theme === "dark";

// Codes on a log scale from 1 to `high` to what they stand for: the whole number, where only one has the code.
const sumsOfCodes = (high) => Float32Array.from({ length: 256 }, (_, code) => {
  if (code === 0) return 0;
  const value = high ** ((code - 1) / 254);
  const half = high ** (0.5 / 254) * (1 + 1e-9);
  const least = Math.ceil(value / half);
  return least === Math.floor(value * half) ? least : value;
});

// Codes [slot, place], each minus the one before it, to sums [place, slot].
const decodeSums = (bytes, slots, places, high) => {
  const table = sumsOfCodes(high);
  const sums = new Float32Array(slots * places);
  for (let slot = 0; slot < slots; slot += 1) {
    let code = 0;
    for (let place = 0; place < places; place += 1) {
      code = (code + bytes[slot * places + place]) & 255;
      sums[place * slots + slot] = table[code];
    }
  }
  return sums;
};
