// Example cells of each range: H&E, and the fluorescence of the same place where there is one.

import { gatePath, get, pictureUrl } from "./api.js";
import { $, THRESHOLDS, count, el, level } from "./dom.js";

const NUMBER = 8;
const WORDS = { 1: "positive", 0: "negative", "-1": "no label" };

export class Examples {
  constructor(box, ranges, failed) {
    this.failed = failed;
    this.drawn = 0;
    this.rows = ranges.map(({ name, color }) => {
      const swatch = el("i", { class: "swatch" });
      swatch.style.background = color;
      const number = el("span", { class: "soft" });
      const cells = el("div", { class: "cells" });
      const row = el("section", { class: "example-row", "data-range": name, "aria-label": `${name} cells` },
        el("h3", {}, swatch, name, " ", number), cells);
      return { name, number, cells, row };
    });
    this.key = el("p", { class: "soft key" });
    const other = el("button", { id: "other-cells", type: "button", title: "Other cells (o)", text: "Other cells", onclick: () => this.other() });
    box.replaceChildren(el("header", {}, el("h2", { text: "Example cells" }), this.key, other),
      ...this.rows.map(({ row }) => row));
  }

  // Show the cells of other thresholds; the first draw again where slide or marker is another.
  async show(slide, marker, thresholds) {
    if (this.slide !== slide || this.marker !== marker) this.drawn = 0;
    Object.assign(this, { slide, marker, thresholds: [...thresholds] });
    this.key.textContent = slide.has_if
      ? `H&E and ${marker} (white) on nuclei (blue), 36 µm` : "H&E, 36 µm; the slide has no IF image";
    await this.load();
  }

  other() {
    this.drawn += 1;
    return this.load();
  }

  async load() {
    this.waiting?.abort();
    this.waiting = new AbortController();
    const { signal } = this.waiting;
    const query = new URLSearchParams({ number: NUMBER, draw: this.drawn });
    THRESHOLDS.forEach((name, i) => query.set(name, this.thresholds[i]));
    try {
      const { examples } = await get(`${gatePath(this.slide.folder, this.marker, "examples")}?${query}`, { signal });
      if (signal.aborted) return;
      for (const row of this.rows) this.fill(row, examples[row.name]);
    } catch (error) {
      if (error.name !== "AbortError") this.failed(error);
    }
  }

  counts(cells) {
    this.rows.forEach(({ number }, i) => { number.textContent = count(cells[i]); });
  }

  // Cells that stay keep their elements, so that a small move does not flicker.
  fill({ name, cells }, found) {
    const kept = new Map([...cells.querySelectorAll(".cell")].map((node) => [node.dataset.key, node]));
    const nodes = found.map((example) => {
      const key = `${this.slide.folder}/${this.marker}/${example.row}`;
      const node = kept.get(key) ?? this.cell(key, example);
      this.describe(node, name, example);
      return node;
    });
    if (nodes.length) cells.replaceChildren(...nodes);
    else cells.replaceChildren(el("p", { class: "soft none", text: "No cell in this range." }));
  }

  cell(key, example) {
    const pictures = this.pictures(example);
    return el("button", { type: "button", class: "cell", "data-key": key },
      el("span", { class: "pair" }, ...pictures), el("span", { class: "caption" }));
  }

  pictures(example) {
    const kinds = this.slide.has_if ? ["he", this.marker] : ["he"];
    return kinds.map((kind) => el("span", { class: "picture" }, el("img", {
      src: pictureUrl(this.slide.folder, example.row, kind), width: 112, height: 112, alt: kind === "he" ? "H&E" : kind,
    })));
  }

  describe(node, range, example) {
    const dropped = range === "positive" && example.label !== 1;
    const caption = node.querySelector(".caption");
    caption.replaceChildren(level(example.value), ...(dropped ? [el("em", { text: "dropped" })] : []));
    node.classList.toggle("dropped", dropped);
    node.setAttribute("aria-label", `Cell ${example.cell_id}, ${this.marker} ${level(example.value)}, ${range}${
      dropped ? ", dropped by the hierarchy" : ""}. Enlarge.`);
    node.onclick = () => this.enlarge(range, example, dropped);
  }

  enlarge(range, example, dropped) {
    $("cell-title").textContent = `Cell ${example.cell_id} of ${this.slide.folder}`;
    $("cell-pictures").replaceChildren(...this.pictures(example));
    $("cell-text").textContent = `${this.marker} ${level(example.value)} counts: ${range}. Label: ${
      WORDS[example.label]}${dropped ? ", since a marker above it is negative" : ""}.`;
    $("cell-dialog").showModal();
  }
}
