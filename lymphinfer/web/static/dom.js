// Small helpers: elements, numbers, words.

export const $ = (id) => document.getElementById(id);

const SVG = "http://www.w3.org/2000/svg";

function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (name === "text") node.textContent = value;
    else if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (name.startsWith("aria-") && typeof value === "boolean") node.setAttribute(name, String(value));
    else if (value === true) node.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) node.setAttribute(name, value);
  }
  node.append(...children.filter((child) => child !== null));
  return node;
}

export const el = (tag, attributes = {}, ...children) => fill(document.createElement(tag), attributes, children);
export const svg = (tag, attributes = {}, ...children) => fill(document.createElementNS(SVG, tag), attributes, children);

const whole = new Intl.NumberFormat("en");
export const count = (n) => whole.format(Math.round(n));
export const level = (v) => new Intl.NumberFormat("en", { maximumFractionDigits: v < 1000 ? 1 : 0 }).format(v);
export const share = (part, all) => {
  if (!all) return "–";
  const percent = (100 * part) / all;
  return `${percent.toFixed(percent < 1 ? 2 : 1)} %`;
};
export const signed = (n) => (n > 0 ? `+${count(n)}` : n < 0 ? `−${count(-n)}` : "");

export const THRESHOLDS = ["negative_max", "positive_min", "overexposure_min"];
export const THRESHOLD_NAMES = ["Negative below", "Positive from", "Over-exposed from"];
export const STATES = {
  proposed: { mark: "○", word: "proposed" },
  copied: { mark: "◐", word: "copied, not looked at" },
  reviewed: { mark: "●", word: "reviewed" },
};
