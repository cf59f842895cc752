// Small things that every part uses.

const $ = (id) => document.getElementById(id);
const all = (selector) => [...document.querySelectorAll(selector)];
const page = JSON.parse($("data").textContent);
const whole = new Intl.NumberFormat("en-US", { maximumFractionDigits: 0 });

const number = (value) => {
  if (!Number.isFinite(value)) return "–";
  const text = value.toPrecision(4);
  return text.includes("e") ? text.replace("e+", "e") : String(Number(text));
};

const percent = (share) => {
  if (!Number.isFinite(share)) return "–";
  if (share === 0) return "0%";
  if (share < 0.0001) return "<0.01%";
  return `${(100 * share).toFixed(share < 0.01 ? 2 : share < 0.1 ? 1 : 0)}%`;
};

// Counts as ticks: 1M, 1k, 1, and below one what it means: one in so many batches.
const tick = (count, batches) => {
  if (count >= 1e6) return `${count / 1e6}M`;
  if (count >= 1e3) return `${count / 1e3}k`;
  if (count >= 1) return String(count);
  const every = Math.round(1 / count);
  return every <= batches ? `1 in ${whole.format(every)}` : String(count);
};

// The only whole count that could have this code on the log scale; null if there are more.
const onlyWhole = (count, { low, high }) => {
  const half = (high / low) ** (0.5 / 254) * (1 + 1e-9);
  const least = Math.ceil(count / half);
  return least === Math.floor(count * half) ? least : null;
};

// A count in words, with a sign where it is known only up to a step of the log scale.
const countOf = (count, batches, info) => {
  if (!(count > 0)) return "none";
  const exact = batches === 1 && info.bound === 0 ? onlyWhole(count, info) : null;
  if (exact !== null) return whole.format(exact);
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
