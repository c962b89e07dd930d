"use strict";
// What both views draw with. Whatever runs hold reaches the page as text nodes and numbers, never as markup.
const DATA = JSON.parse(document.getElementById("data").textContent);
const tip = document.getElementById("tip");
const SVG = "http://www.w3.org/2000/svg";
// Okabe and Ito's palette, told apart with every common colour blindness; no two verdicts have the same colour and shape,
// and the letters tell the same without either
const LOOK = {
  healthy: ["#009E73", "H", "circle"], posterior_collapse: ["#D55E00", "PC", "cross"],
  fake_rate: ["#E69F00", "FR", "down"], bypassed_latent: ["#CC79A7", "BL", "up"],
  partial_collapse: ["#F0E442", "PA", "square"], variance_collapse: ["#0072B2", "VC", "diamond"],
  decoder_variance_collapse: ["#0072B2", "DV", "down"], prior_hole: ["#56B4E9", "PH", "square"],
  over_compressed: ["#56B4E9", "OC", "diamond"], overfit: ["#CC79A7", "OF", "cross"],
  underfit: ["#E69F00", "UF", "diamond"], diverged: ["#000000", "DI", "up"],
  rate_pinned: ["#F0E442", "RP", "cross"], inert_penalty: ["#F0E442", "IP", "up"],
  too_early: ["#999999", "TE", "square"], inconclusive: ["#999999", "?", "ring"],
};
// cividis, made to look the same with and without full colour vision
const RAMP = ["#00224e", "#123570", "#3b496c", "#575d6d", "#707173", "#8a8678", "#a59c74", "#c3b369", "#e1cc55", "#fee838"];
const LINES = ["var(--line1)", "var(--line2)"];
const MEANING = new Map(DATA.states);

function look(word) { return Object.hasOwn(LOOK, word) ? LOOK[word] : ["#999999", "–", "ring"]; }

function el(tag, attributes, ...children) {
  const node = document.createElement(tag);
  for (const [key, value] of Object.entries(attributes || {})) {
    if (key.startsWith("on")) node.addEventListener(key.slice(2), value);
    else if (value === true) node.setAttribute(key, "");
    else if (value !== false && value != null) node.setAttribute(key, value);
  }
  node.append(...children.flat().filter((child) => child != null && child !== false));
  return node;
}

function svg(tag, attributes, ...children) {
  const node = document.createElementNS(SVG, tag);
  for (const [key, value] of Object.entries(attributes || {})) node.setAttribute(key, value);
  node.append(...children);
  return node;
}

function shown(value, digits = 4) {
  if (value == null || !Number.isFinite(value)) return "–";
  const size = Math.abs(value);
  if (size !== 0 && (size < 1e-3 || size >= 1e5)) return value.toExponential(2).replace(/\.?0*e\+?/, "e");
  return String(Number(value.toPrecision(digits)));
}

function ink(colour) { // black or white, whichever reads better on it
  const [r, g, b] = [1, 3, 5].map((at) => parseInt(colour.slice(at, at + 2), 16));
  return r * 0.299 + g * 0.587 + b * 0.114 > 140 ? "#000" : "#fff";
}

function outline(colour) { return `color-mix(in srgb, ${colour} 55%, var(--ink))`; } // seen on a light page and on a dark one

function facts(node, lines) { // told under the pointer, and where the keyboard is
  for (const name of ["pointermove", "focus"]) node.addEventListener(name, (event) => say(event, lines));
  for (const name of ["pointerleave", "blur"]) node.addEventListener(name, hush);
  return node;
}

function badge(word, count) {
  const [colour, letter] = look(word);
  const mark = el("span", { class: "letter", "aria-hidden": "true" }, letter);
  mark.style.background = colour;
  mark.style.color = ink(colour);
  return el("span", { class: "badge" }, mark, word || "no verdict", count == null ? "" : ` ×${count}`);
}

function say(event, lines) { // the box beside pointer or focus
  tip.replaceChildren(...lines.map((line) => el("div", {}, line)));
  tip.style.display = "block";
  const box = tip.getBoundingClientRect();
  const at = event.clientX != null && event.clientX !== 0 ? [event.clientX, event.clientY] : middle(event.target);
  const left = at[0] + 14 + box.width > innerWidth ? at[0] - 14 - box.width : at[0] + 14;
  tip.style.left = `${Math.max(4, Math.min(left, innerWidth - box.width - 4))}px`;
  tip.style.top = `${Math.max(4, Math.min(at[1] + 14, innerHeight - box.height - 4))}px`;
}

function middle(node) { const box = node.getBoundingClientRect(); return [box.left + box.width / 2, box.top + box.height / 2]; }
function hush() { tip.style.display = "none"; }

function command(text) {
  const button = el("button", { type: "button", class: "copy", onclick: () => copy(text, button) }, "copy");
  return el("div", { class: "command" }, el("code", {}, text), button);
}

async function copy(text, button) {
  try { await navigator.clipboard.writeText(text); } catch {
    const area = el("textarea", {});
    area.value = text;
    button.after(area);
    area.select();
    document.execCommand("copy");
    area.remove();
  }
  button.textContent = "copied";
  setTimeout(() => { button.textContent = "copy"; }, 1500);
}

function table(head, rows, classes) {
  const top = head && el("thead", {}, el("tr", {}, head.map((text) => el("th", { scope: "col" }, text))));
  const body = el("tbody", {}, rows.map((row) => el("tr", {}, row.map((cell) => el("td", {}, cell)))));
  return el("div", { class: "scroll" }, el("table", { class: classes || "" }, top, body));
}

function section(title, ...parts) {
  return el("section", {}, el("h2", {}, title), ...parts);
}

function ticks(low, high, wanted) { // round numbers between low and high
  const raw = (high - low) / Math.max(1, wanted) || 1;
  const power = 10 ** Math.floor(Math.log10(raw));
  const steps = [10, 5, 2, 1, 0.5].map((each) => each * power), several = (each) => Math.floor(high / each) > Math.ceil(low / each);
  const step = steps.findLast((each) => each >= raw && several(each)) || steps.find(several) || raw; // two of them at least
  const found = [];
  for (let value = Math.ceil(low / step) * step; value <= high + step * 1e-9; value += step) found.push(Math.abs(value) < step * 1e-9 ? 0 : value);
  return found;
}

function extent(values) {
  let low = Infinity, high = -Infinity;
  for (const value of values) if (value != null) { low = Math.min(low, value); high = Math.max(high, value); }
  if (low > high) return null;
  const pad = high > low ? (high - low) * 0.06 : Math.abs(high) * 0.1 || 1;
  return [low - pad, high + pad];
}

function glyph(shape, x, y, size, attributes) { // a mark by its shape, so that colour says nothing alone
  const s = size;
  const paths = {
    circle: `M${x - s},${y}a${s},${s} 0 1,0 ${2 * s},0a${s},${s} 0 1,0 ${-2 * s},0`,
    square: `M${x - s},${y - s}h${2 * s}v${2 * s}h${-2 * s}z`,
    diamond: `M${x},${y - s * 1.3}l${s * 1.3},${s * 1.3}l${-s * 1.3},${s * 1.3}l${-s * 1.3},${-s * 1.3}z`,
    up: `M${x},${y - s * 1.2}l${s * 1.2},${s * 2.1}h${-s * 2.4}z`, down: `M${x},${y + s * 1.2}l${s * 1.2},${-s * 2.1}h${-s * 2.4}z`,
    cross: `M${x - s},${y - s * 0.4}h${s * 0.6}v${-s * 0.6}h${s * 0.8}v${s * 0.6}h${s * 0.6}v${s * 0.8}h${-s * 0.6}v${s * 0.6}h${-s * 0.8}v${-s * 0.6}h${-s * 0.6}z`,
  };
  const r = s * 0.45;
  paths.ring = `${paths.circle}M${x - r},${y}a${r},${r} 0 1,0 ${2 * r},0a${r},${r} 0 1,0 ${-2 * r},0`;
  return svg("path", { d: paths[shape] || paths.circle, "fill-rule": "evenodd", ...attributes });
}

function redrawn(draw) { // a figure as wide as there is room for, drawn again where that changes
  const holder = el("div", { class: "figure" });
  let width = 0;
  new ResizeObserver(() => {
    const now = Math.floor(holder.clientWidth);
    if (now && now !== width) { width = now; holder.replaceChildren(...draw(width)); }
  }).observe(holder);
  return holder;
}
