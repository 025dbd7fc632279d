"use strict";
/* Names come from users: text enters the page through textContent alone, and nothing here builds markup from strings. */
const DATA = JSON.parse(document.getElementById("kinfold-data").textContent);
const NAMES = DATA.names;
const STAGE_OF = NAMES.map(() => null);
DATA.stages.forEach((members, t) => members.forEach((i) => { STAGE_OF[i] = t; }));
const SVG = "http://www.w3.org/2000/svg";
const redraws = [];

function el(tag, attributes, ...children) {
  const node = document.createElement(tag);
  for (const [key, value] of Object.entries(attributes || {})) {
    if (key.startsWith("on")) node.addEventListener(key.slice(2), value);
    else if (value !== null && value !== undefined && value !== false) node.setAttribute(key, value === true ? "" : value);
  }
  node.append(...children.filter((c) => c !== null && c !== undefined));
  return node;
}

function draw(tag, attributes, ...children) {
  const node = document.createElementNS(SVG, tag);
  for (const [key, value] of Object.entries(attributes || {})) {
    if (value !== null && value !== undefined) node.setAttribute(key, value);
  }
  node.append(...children);
  return node;
}

const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const stageClass = (t) => (t === null || t === undefined ? "sx" : `s${t % 8}`);
const name = (i) => el("bdi", null, NAMES[i]);

function shorten(text, limit) {
  const letters = Array.from(text);
  /* Ideographs, kana and hangul are nearly twice as wide as Latin letters. */
  if (/[\u2e80-\u9fff\uac00-\ud7af\uff01-\uff60]/.test(text)) limit = Math.max(3, Math.ceil(limit * 0.6));
  if (letters.length <= limit) return text;
  const head = Math.ceil((limit - 1) * 0.6);
  return letters.slice(0, head).join("") + "…" + letters.slice(letters.length - (limit - 1 - head)).join("");
}

function show(value, digits = 3) {
  if (value === null || value === undefined || Number.isNaN(value)) return "–";
  if (value === 0) return "0";
  const size = Math.abs(value);
  let text;
  if (size >= 1e6) text = `${(value / 1e6).toPrecision(3).replace(/\.?0+$/, "")} M`;
  else if (size >= 1e4) text = Math.round(value).toLocaleString("en-US");
  else if (size < 1e-4) text = value.toExponential(digits - 1);
  else {
    text = value.toFixed(Math.max(0, digits - 1 - Math.floor(Math.log10(size))));
    if (text.includes(".")) text = text.replace(/0+$/, "").replace(/\.$/, "");
  }
  return text.replace("-", "−");
}
const brief = (v) => (Math.abs(v) >= 1e6 ? `${+(v / 1e6).toFixed(2)} M` : Math.abs(v) >= 1e3 ? `${+(v / 1e3).toFixed(2)} k` : show(v)).replace("-", "−");
const fixed = (value, decimals = 3) => (value === null || Number.isNaN(value) ? "–" : value.toFixed(decimals).replace(/^-(?=[0.]+$)/, "").replace("-", "−"));
const signed = (value, digits) => (value > 0 ? "+" : "") + show(value, digits);

/* A packed matrix (see _frame.pack) as a function of row and column. */
function unpack(packed) {
  if (!packed) return null;
  const raw = atob(packed.d || packed.bits);
  const n = packed.cols;
  const order = (i, j) => {
    if (!packed.sym) return i * n + j;
    const a = Math.min(i, j), b = Math.max(i, j);
    return a * n - (a * (a - 1)) / 2 + (b - a);
  };
  if (packed.bits !== undefined) return { at: (i, j) => (raw.charCodeAt(order(i, j) >> 3) >> (order(i, j) & 7)) & 1, rows: packed.rows, cols: n };
  const steps = new Uint16Array(raw.length / 2);
  for (let i = 0; i < steps.length; i++) steps[i] = raw.charCodeAt(2 * i) | (raw.charCodeAt(2 * i + 1) << 8);
  const scale = (packed.hi - packed.lo || 1) / 65534;
  const at = (i, j) => {
    const step = steps[order(i, j)];
    return step === 65535 ? NaN : packed.lo + step * scale;
  };
  return { at, rows: packed.rows, cols: packed.cols };
}

/* Colours: cividis for amounts, blue and orange around a quiet middle for gains and losses. */
const CIVIDIS = ["00224e", "002e6a", "1a386f", "32436d", "434e6c", "535a6d", "61656f", "6f7073", "7d7c78", "8c8878", "9b9476", "aba072", "bcae6c", "cdbb63", "dec958", "f0d846", "fee838"]
  .map((hex) => [0, 2, 4].map((k) => parseInt(hex.slice(k, k + 2), 16)));
const BLUE = [0, 99, 172], ORANGE = [205, 84, 0];
const mix = (a, b, t) => a.map((v, k) => Math.round(v + (b[k] - v) * t));
function hexColour(text) { return [1, 3, 5].map((k) => parseInt(text.slice(k, k + 2), 16)); }
function sequential(t) {
  const x = Math.min(1, Math.max(0, t)) * (CIVIDIS.length - 1), k = Math.min(CIVIDIS.length - 2, Math.floor(x));
  return mix(CIVIDIS[k], CIVIDIS[k + 1], x - k);
}
function divergent(t) { /* t in -1..1; positive is blue */
  const middle = hexColour(css("--mid") || "#f3f3f0"), size = Math.min(1, Math.abs(t));
  return mix(middle, t >= 0 ? BLUE : ORANGE, Math.pow(size, 0.8));
}
const rgb = (c) => `rgb(${c[0]},${c[1]},${c[2]})`;
const bright = (c) => (0.2126 * c[0] + 0.7152 * c[1] + 0.0722 * c[2]) / 255 > 0.5;

/* One tooltip for the page. */
const tip = el("div", { class: "tip", role: "presentation" });
document.body.append(tip);
function place(x, y, ...children) {
  tip.replaceChildren(...children);
  tip.style.visibility = "visible";
  const box = tip.getBoundingClientRect();
  const left = x + 16 + box.width > innerWidth - 8 ? x - box.width - 14 : x + 16;
  const top = y + 16 + box.height > innerHeight - 8 ? y - box.height - 12 : y + 16;
  tip.style.left = `${Math.min(Math.max(6, left), Math.max(6, innerWidth - box.width - 6))}px`;
  tip.style.top = `${Math.max(6, top)}px`;
}
const unplace = () => { tip.style.visibility = "hidden"; };
addEventListener("scroll", unplace, { passive: true });
addEventListener("keydown", (event) => { if (event.key === "Escape") unplace(); });

function row(label, value, cls) {
  return el("div", { class: "row" }, el("span", null, ...(cls ? [el("i", { class: cls })] : []), label), el("span", null, value));
}

/* A row of buttons of which one is chosen; arrow keys move, as in a radio group. */
function choice(host, label, options, chosen, onchange, render) {
  const buttons = options.map(([value, text]) => el("button", { type: "button", role: "radio", "data-value": value }, ...(render ? render(value, text) : [text])));
  const group = el("div", { role: "radiogroup", "aria-label": label, class: host.class });
  const choose = (value, focus) => {
    buttons.forEach((b) => {
      const on = b.dataset.value === value;
      b.setAttribute("aria-checked", String(on));
      b.tabIndex = on ? 0 : -1;
      if (on && focus) b.focus();
    });
    onchange(value);
  };
  buttons.forEach((button, k) => {
    button.addEventListener("click", () => choose(button.dataset.value));
    button.addEventListener("keydown", (event) => {
      const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
      if (!step) return;
      event.preventDefault();
      choose(buttons[(k + step + buttons.length) % buttons.length].dataset.value, true);
    });
    button.setAttribute("aria-checked", String(button.dataset.value === chosen));
    button.tabIndex = button.dataset.value === chosen ? 0 : -1;
  });
  group.append(...buttons);
  return group;
}

/* Draw now, and again when the width or the theme changes. */
function live(host, paint) {
  let width = 0, queued = false;
  const again = () => { queued = false; paint(); };
  const observer = new ResizeObserver((entries) => {
    const now = Math.round(entries[0].contentRect.width);
    if (now && now !== width) { width = now; if (!queued) { queued = true; requestAnimationFrame(again); } }
  });
  observer.observe(host);
  redraws.push(paint);
}

/* Round steps for an axis. */
function ticks(low, high, count) {
  const span = high - low || 1, raw = span / Math.max(1, count), power = Math.pow(10, Math.floor(Math.log10(raw)));
  const step = [1, 2, 2.5, 5, 10].map((m) => m * power).find((s) => s >= raw - 1e-12);
  const out = [];
  for (let v = Math.ceil(low / step - 1e-9) * step; v <= high + step * 1e-9; v += step) out.push(Math.abs(v) < step * 1e-9 ? 0 : v);
  return out;
}
