// Progress over all slides and markers.

import { $, STATES, el } from "./dom.js";

const finished = (states) => Object.values(states).flatMap(Object.values).filter((s) => s === "reviewed").length;

export function showProgress(cohort) {
  const all = cohort.slides.length * cohort.markers.length;
  const done = finished(cohort.states);
  $("progress-bar").style.width = `${(100 * done) / all}%`;
  $("progress-text").textContent = `${done} of ${all} gates reviewed`;
}

// Tabs of the markers of one slide; `choose(marker)` when one is clicked.
export function showMarkers(cohort, slide, marker, choose) {
  const tabs = cohort.markers.map(({ name }) => {
    const state = cohort.states[slide][name];
    return el("button", {
      type: "button", role: "tab", "aria-selected": name === marker, tabindex: name === marker ? 0 : -1,
      "aria-controls": "gate", "data-marker": name, "data-state": state,
      "aria-label": `${name}, ${STATES[state].word}`, onclick: () => choose(name),
    }, el("span", { class: "mark", text: STATES[state].mark }), name);
  });
  $("markers").replaceChildren(...tabs, el("p", { class: "legend soft" },
    ...Object.values(STATES).map(({ mark, word }) => el("span", {}, el("span", { class: "mark", text: mark }), word))));
}

// The table of slides and markers; `choose(slide, marker)` when a cell is clicked.
export function showSlides(cohort, current, choose) {
  const rows = cohort.slides.map(({ folder, patient }) => {
    const states = cohort.states[folder];
    const cells = cohort.markers.map(({ name }) => el("td", {}, el("button", {
      type: "button", "data-state": states[name], "aria-label": `${folder} ${name}, ${STATES[states[name]].word}`,
      title: STATES[states[name]].word, onclick: () => choose(folder, name),
      autofocus: folder === current.slide && name === current.marker,
      class: folder === current.slide && name === current.marker ? "here" : "",
    }, STATES[states[name]].mark)));
    return el("tr", { class: folder === current.slide ? "current" : "" },
      el("th", { scope: "row", text: folder }), el("td", { class: "soft", text: patient }), ...cells);
  });
  const heads = ["slide", "patient", ...cohort.markers.map(({ name }) => name)];
  $("slides-table").replaceChildren(el("table", { class: "matrix" },
    el("thead", {}, el("tr", {}, ...heads.map((text) => el("th", { scope: "col", text })))),
    el("tbody", {}, ...rows)),
  el("p", { class: "legend soft" }, ...Object.values(STATES).map(({ mark, word }) =>
    el("span", {}, el("span", { class: "mark", text: mark }), word))));
}

// The gate so many steps on, markers first, then slides; null beyond either end.
export function gateAt(cohort, { slide, marker }, steps) {
  const names = cohort.markers.map((m) => m.name);
  const folders = cohort.slides.map((s) => s.folder);
  const place = folders.indexOf(slide) * names.length + names.indexOf(marker) + steps;
  if (place < 0 || place >= folders.length * names.length) return null;
  return { slide: folders[Math.floor(place / names.length)], marker: names[place % names.length] };
}
