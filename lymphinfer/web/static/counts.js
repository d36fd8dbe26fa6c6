// The ranges of the marker that is gated, and the labels of all markers after the hierarchy.

import { THRESHOLDS, THRESHOLD_NAMES, count, el, level, share, signed } from "./dom.js";

// Cells of each range, from the counts that the server made: curation takes from the positives alone.
export const rangesOf = (c) => [c.negative, c.uncertain, c.positive + c.curated, c.overexposed];

export class RangeBoxes {
  constructor(box, ranges, typed) {
    this.numbers = ranges.map(() => el("strong"));
    this.shares = ranges.map(() => el("span", { class: "soft" }));
    this.inputs = THRESHOLDS.map((key, i) => el("input", {
      type: "number", step: "any", min: 0.1, id: key, "aria-label": THRESHOLD_NAMES[i],
      onchange: (event) => typed(i, Number(event.target.value)),
      onkeydown: (event) => { if (event.key === "Enter") event.target.blur(); },
    }));
    const boxes = ranges.map(({ name, color }, i) => {
      const swatch = el("i", { class: "swatch" });
      swatch.style.background = color;
      const limit = i === 0 ? null : el("label", { class: "limit" }, el("kbd", { text: i }), " from ", this.inputs[i - 1]);
      const below = i === 0 ? el("span", { class: "limit soft", text: "below 1" }) : null;
      return el("div", { class: "range", "data-range": name },
        el("span", { class: "name" }, swatch, name), this.numbers[i], this.shares[i], limit, below);
    });
    box.replaceChildren(...boxes);
  }

  show(cells, thresholds, exact) {
    const all = cells.reduce((a, b) => a + b, 0);
    cells.forEach((n, i) => {
      this.numbers[i].textContent = `${exact ? "" : "≈ "}${count(n)}`;
      this.numbers[i].dataset.exact = exact;
      this.shares[i].textContent = share(n, all);
    });
    thresholds.forEach((value, i) => {
      if (document.activeElement !== this.inputs[i]) this.inputs[i].value = value;
    });
  }
}

const COLUMNS = [
  ["positive", "positive"], ["curated", "dropped"], ["negative", "negative"],
  ["uncertain", "uncertain"], ["overexposed", "over"],
];

// `before`: the counts when the gate was opened; what has changed since is told beside them.
export function showLabels(box, markers, current, counts, before) {
  const depth = {};
  const rows = markers.map(({ name, parent }) => {
    depth[name] = parent === null ? 0 : depth[parent] + 1;
    const own = counts[name];
    const cells = COLUMNS.map(([key]) => {
      const change = signed(own[key] - before[name][key]);
      return el("td", { "data-count": `${name} ${key}` }, el("b", { text: count(own[key]) }),
        el("small", { class: change ? "change" : "", text: change || " " }));
    });
    const head = el("th", { scope: "row" }, depth[name] ? `${"  ".repeat(depth[name] - 1)}└ ${name}` : name);
    const part = parent === null ? share(own.positive, own.positive + own.negative)
      : share(own.positive, counts[parent].positive);
    cells.splice(1, 0, el("td", {}, el("b", { text: part }),
      el("small", { text: parent === null ? "of labelled" : `of ${parent}+` })));
    return el("tr", { class: name === current ? "current" : "" }, head, ...cells);
  });
  const heads = COLUMNS.map(([, title]) => title);
  heads.splice(1, 0, "share");
  const artefacts = counts[current].artefact;
  box.replaceChildren(
    el("table", {}, el("thead", {}, el("tr", {}, el("th", { text: "marker" }), ...heads.map((h) => el("th", { class: "n", scope: "col", text: h })))),
      el("tbody", {}, ...rows)),
    el("p", { class: "soft", text: `Dropped: positive, but a marker above it is negative. Small numbers: change since you came to this gate.${
      artefacts ? ` Artefacts (bright blank channel) left out: ${count(artefacts)}.` : ""}` }),
  );
}

export const describeGate = (gate) => {
  const when = new Date(gate.set_at);
  const by = gate.set_by || "someone";
  return when.getTime() > 0 ? `Set by ${by}, ${when.toLocaleString("en-GB", { dateStyle: "medium", timeStyle: "short" })}` : `Set by ${by}`;
};

export const axisLabel = (gate) => (gate.af === null ? "mean intensity, raw counts"
  : `mean intensity without autofluorescence: raw − ${gate.af.lambda} × AF1 ${gate.af.beta < 0 ? "−" : "+"} ${level(Math.abs(gate.af.beta))}`);
