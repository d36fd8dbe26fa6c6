// A slide's intensities on logarithmic axes, and the three thresholds to drag.

import { THRESHOLDS, THRESHOLD_NAMES, count, level, svg } from "./dom.js";

const BARS = 256;
const MARGIN = { left: 46, right: 14, top: 44, bottom: 40 };
const HEIGHT = 250;
const TAG = 20;

export class Histogram {
  // `moved(thresholds)` is called while a threshold moves, `settled(thresholds)` when it is let go.
  constructor(box, ranges, { moved, settled, nudged, chosen }) {
    this.box = box;
    this.ranges = ranges;
    this.events = { moved, settled, nudged, chosen };
    this.thresholds = null;
    this.selected = 0;
    new ResizeObserver(() => this.data && this.build()).observe(box);
  }

  show(data, thresholds, label) {
    this.data = data;
    this.label = label;
    this.thresholds = [...thresholds];
    this.below = new Float64Array(data.bins.length + 1);
    data.bins.forEach((n, i) => { this.below[i + 1] = this.below[i] + n; });
    this.build();
  }

  set(thresholds) {
    this.thresholds = [...thresholds];
    this.place();
  }

  // Cells below a level, between the bins by straight line: quick, and nearly exact.
  cellsBelow(value) {
    const { log_low: low, log_high: high, bins } = this.data;
    if (value <= 0) return 0;
    const at = ((Math.log10(value) - low) / (high - low)) * bins.length;
    if (at <= 0) return 0;
    if (at >= bins.length) return this.below[bins.length];
    const bin = Math.floor(at);
    return this.below[bin] + (at - bin) * bins[bin];
  }

  x(value) {
    const { log_low: low, log_high: high } = this.data;
    const at = (Math.log10(Math.max(value, 1e-9)) - low) / (high - low);
    return MARGIN.left + Math.min(Math.max(at, 0), 1) * (this.width - MARGIN.left - MARGIN.right);
  }

  value(x) {
    const { log_low: low, log_high: high } = this.data;
    const at = (x - MARGIN.left) / (this.width - MARGIN.left - MARGIN.right);
    return 10 ** (low + Math.min(Math.max(at, 0), 1) * (high - low));
  }

  // Thresholds with one of them moved as far as its neighbours let it.
  moving(index, value) {
    const t = [...this.thresholds];
    const rounded = Math.round(value * 10) / 10;
    const low = [0.1, t[0], t[1] + 0.1][index];
    const high = [t[1], t[2] - 0.1, Infinity][index];
    t[index] = Math.round(Math.min(Math.max(rounded, low), high) * 10) / 10;
    return t;
  }

  nudge(index, factor) {
    const old = this.thresholds[index];
    const step = Math.max(Math.abs(old * (factor - 1)), 0.1);
    this.set(this.moving(index, old + Math.sign(factor - 1) * step));
    this.events.nudged(this.thresholds);
  }

  select(index) {
    this.selected = index;
    this.handles?.forEach((h, i) => h.classList.toggle("selected", i === index));
  }

  build() {
    const focused = this.handles?.findIndex((h) => h === document.activeElement) ?? -1;
    this.width = Math.max(this.box.clientWidth, 280);
    this.bottom = HEIGHT - MARGIN.bottom;
    const root = svg("svg", {
      viewBox: `0 0 ${this.width} ${HEIGHT}`, width: this.width, height: HEIGHT,
      role: "group", "aria-label": `${this.label}: cells by intensity, both axes logarithmic, with three thresholds`,
    });
    const defs = svg("defs");
    this.clips = this.ranges.map((_, i) => svg("rect", { y: 0, height: HEIGHT }));
    this.clips.forEach((rect, i) => defs.append(svg("clipPath", { id: `range-${i}` }, rect)));
    this.bands = this.ranges.map(({ color }) => svg("rect", {
      y: MARGIN.top, height: this.bottom - MARGIN.top, fill: color, "fill-opacity": 0.09,
    }));
    this.names = this.ranges.map(({ name, color }) => svg("text", {
      y: MARGIN.top - 6, class: "range-name", fill: color, text: name,
    }));
    const outline = this.outline();
    const shapes = this.ranges.map(({ color }, i) => svg("path", {
      d: outline, fill: color, "clip-path": `url(#range-${i})`,
    }));
    this.handles = THRESHOLDS.map((_, i) => this.handle(i));
    root.append(defs, ...this.bands, this.axes(), ...shapes, ...this.names, ...this.handles);
    this.box.replaceChildren(root);
    this.place();
    this.select(this.selected);
    if (focused >= 0) this.handles[focused].focus();
  }

  outline() {
    const { bins } = this.data;
    const size = bins.length / BARS;
    const bars = Array.from({ length: BARS }, (_, i) => bins.slice(i * size, (i + 1) * size).reduce((a, b) => a + b, 0));
    const top = Math.log10(Math.max(...bars, 10) * 1.4);
    this.y = (n) => (n < 1 ? this.bottom
      : this.bottom - ((Math.log10(n) + 0.18) / (top + 0.18)) * (this.bottom - MARGIN.top));
    this.top = top;
    const step = (this.width - MARGIN.left - MARGIN.right) / BARS;
    const parts = [`M${MARGIN.left} ${this.bottom}`];
    bars.forEach((n, i) => parts.push(`V${this.y(n).toFixed(1)}H${(MARGIN.left + (i + 1) * step).toFixed(1)}`));
    return `${parts.join("")}V${this.bottom}Z`;
  }

  axes() {
    const group = svg("g", { class: "axes", "aria-hidden": "true" });
    for (let power = 0; power <= this.top; power += 1) {
      const y = this.y(10 ** power);
      group.append(svg("line", { x1: MARGIN.left, x2: this.width - MARGIN.right, y1: y, y2: y, class: "grid" }),
        svg("text", { x: MARGIN.left - 6, y: y + 4, "text-anchor": "end", text: count(10 ** power) }));
    }
    const { log_low: low, log_high: high } = this.data;
    const wide = high - low > 2.2;
    for (let power = Math.floor(low); power <= high; power += 1) {
      for (const digit of [1, 2, 3, 4, 5, 6, 7, 8, 9]) {
        const value = digit * 10 ** power;
        if (Math.log10(value) < low || Math.log10(value) > high) continue;
        const x = this.x(value);
        const named = digit === 1 || (!wide && (digit === 2 || digit === 5));
        group.append(svg("line", { x1: x, x2: x, y1: this.bottom, y2: this.bottom + (named ? 6 : 3), class: "tick" }));
        if (named) group.append(svg("text", { x, y: this.bottom + 18, "text-anchor": "middle", text: count(value) }));
      }
    }
    group.append(
      svg("line", { x1: MARGIN.left, x2: this.width - MARGIN.right, y1: this.bottom, y2: this.bottom, class: "tick" }),
      svg("text", { x: (MARGIN.left + this.width - MARGIN.right) / 2, y: HEIGHT - 4, "text-anchor": "middle", text: this.label }),
      svg("text", { x: MARGIN.left - 6, y: 12, "text-anchor": "end", text: "cells" }),
    );
    return group;
  }

  handle(index) {
    const group = svg("g", {
      class: "handle", role: "slider", tabindex: 0, "aria-orientation": "horizontal",
      "aria-label": `Threshold ${index + 1}: ${THRESHOLD_NAMES[index].toLowerCase()}`,
    },
    svg("rect", { x: -9, y: 0, width: 18, height: this.bottom, class: "hit" }),
    svg("line", { y1: 4, y2: this.bottom, class: "halo" }), svg("line", { y1: 4, y2: this.bottom, class: "line" }),
    svg("rect", { x: -TAG / 2, y: 2, width: TAG, height: TAG, rx: 4, class: "tag" }),
    svg("text", { y: 17, "text-anchor": "middle", class: "number", text: index + 1 }));
    group.addEventListener("focus", () => { this.select(index); this.events.chosen(index); });
    group.addEventListener("pointerdown", (event) => this.drag(event, group, index));
    return group;
  }

  drag(event, group, index) {
    if (event.button !== 0) return;
    event.preventDefault();
    group.focus();
    group.setPointerCapture(event.pointerId);
    const left = this.box.getBoundingClientRect().left;
    const offset = event.clientX - left - this.x(this.thresholds[index]);
    const start = this.thresholds.join();
    const move = (e) => {
      this.set(this.moving(index, this.value(e.clientX - left - offset)));
      this.events.moved(this.thresholds);
    };
    const stop = () => {
      for (const name of ["pointerup", "pointercancel"]) group.removeEventListener(name, stop);
      group.removeEventListener("pointermove", move);
      if (this.thresholds.join() !== start) this.events.settled(this.thresholds);
    };
    group.addEventListener("pointermove", move);
    for (const name of ["pointerup", "pointercancel"]) group.addEventListener(name, stop);
  }

  // Put thresholds, colours and names where the thresholds are.
  place() {
    const t = this.thresholds;
    const ends = [MARGIN.left, ...t.map((v) => this.x(v)), this.width - MARGIN.right];
    this.ranges.forEach((_, i) => {
      const [x, width] = [ends[i], Math.max(ends[i + 1] - ends[i], 0)];
      for (const rect of [this.clips[i], this.bands[i]]) {
        rect.setAttribute("x", x);
        rect.setAttribute("width", width);
      }
      const name = this.names[i];
      name.setAttribute("x", x + width / 2);
      name.setAttribute("visibility", width > 9 * name.textContent.length ? "visible" : "hidden");
    });
    this.handles.forEach((group, i) => {
      // Tags that would cover each other stand aside.
      const shift = i === 0 && ends[2] - ends[1] < TAG ? -(TAG - (ends[2] - ends[1])) / 2
        : i === 1 && ends[2] - ends[1] < TAG ? (TAG - (ends[2] - ends[1])) / 2 : 0;
      group.setAttribute("transform", `translate(${ends[i + 1]} 0)`);
      group.querySelector(".tag").setAttribute("x", shift - TAG / 2);
      group.querySelector(".number").setAttribute("x", shift);
      group.setAttribute("aria-valuenow", t[i]);
      group.setAttribute("aria-valuemin", [0.1, t[0], t[1] + 0.1][i]);
      group.setAttribute("aria-valuemax", [t[1], t[2] - 0.1, Math.round(10 ** this.data.log_high)][i]);
      group.setAttribute("aria-valuetext", `${level(t[i])} counts`);
    });
  }
}
