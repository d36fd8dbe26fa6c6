// The gating page: what is shown, and what follows when something is done.

import { gatePath, get, post } from "./api.js";
import { RangeBoxes, axisLabel, describeGate, rangesOf, showLabels } from "./counts.js";
import { $, THRESHOLDS, el } from "./dom.js";
import { Examples } from "./examples.js";
import { Histogram } from "./histogram.js";
import { listen } from "./keys.js";
import { gateAt, showMarkers, showProgress, showSlides } from "./overview.js";
import { Saver } from "./saving.js";

const EXAMPLES_MS = 250;
const at = { slide: null, marker: null };
let cohort = null;
let slide = null;
let before = null;
let histogram, boxes, examples;
let opening = 0;
let previewing = null;
let examplesTimer;

const thresholdsOf = (gate) => THRESHOLDS.map((name) => gate[name]);
const named = (t) => Object.fromEntries(THRESHOLDS.map((name, i) => [name, t[i]]));
const ready = () => slide !== null && slide.folder === at.slide;
const slideInfo = () => cohort.slides.find((s) => s.folder === at.slide);
const dirty = (t) => t.join() !== thresholdsOf(slide.gates[at.marker]).join();

function failed(error) {
  if (error.name === "AbortError") return;
  saver.banner(error.message, "Close");
  if (ready()) restore();
}

const saver = new Saver({ took, reloaded, failed });

function situation(reply) {
  saver.revision = reply.revision;
  Object.assign(cohort, { states: reply.states, who: reply.who, can_undo: reply.can_undo, can_redo: reply.can_redo });
  $("who-name").textContent = cohort.who;
  $("undo").disabled = !cohort.can_undo;
  $("redo").disabled = !cohort.can_redo;
  showProgress(cohort);
  if (at.slide) showMarkers(cohort, at.slide, at.marker, (marker) => open(at.slide, marker));
}

// After a change: the server says how things stand. Undo may have been somewhere else.
function took(reply) {
  const moved = Boolean(reply.moved) && (reply.slide.folder !== at.slide || reply.marker !== at.marker);
  situation(reply);
  if (!reply.slide || (!slide && !moved)) return;
  if (moved) {
    open(reply.slide.folder, reply.marker).catch(failed);
  } else if (reply.slide.folder === at.slide) {
    const old = slide.gates[at.marker];
    slide = reply.slide;
    const other = JSON.stringify(old.af) !== JSON.stringify(slide.gates[at.marker].af);
    // While a key is held the next change is already waiting; it must not jump back.
    if (!saver.kept) (other ? drawGate() : restore()).catch(failed);
  }
}

async function reloaded() {
  cohort = await get("/api/cohort");
  situation(cohort);
  await open(at.slide, at.marker, true);
}

async function open(folder, marker, again = false) {
  saver.flush();
  const mine = ++opening;
  const other = folder !== at.slide || again;
  Object.assign(at, { slide: folder, marker });
  history.replaceState(null, "", `${location.search}#${folder}/${marker}`);
  document.title = `${marker} ${folder} · Gates · LymphInfer`;
  situation({ ...cohort, revision: saver.revision });
  $("slide-name").textContent = folder;
  $("slide-place").textContent = `${cohort.slides.findIndex((s) => s.folder === folder) + 1}/${cohort.slides.length}`;
  $("gate-name").textContent = `${marker} on ${folder}`;
  if (other || slide?.folder !== folder) {
    slide = null;
    document.body.classList.add("loading");
    $("gate-by").textContent = "Reading the slide's cells…";
    await saver.queue;
    const found = await get(`/api/slides/${encodeURIComponent(folder)}`);
    if (mine !== opening) return;
    slide = found;
  }
  before = slide.counts;
  await drawGate(mine);
  if (mine === opening) document.body.classList.remove("loading");
}

async function drawGate(mine = opening) {
  const gate = slide.gates[at.marker];
  const data = await get(gatePath(at.slide, at.marker, "histogram"));
  if (mine !== opening || !ready()) return;
  histogram.show(data, thresholdsOf(gate), axisLabel(gate));
  await restore();
}

// Show what is saved.
async function restore() {
  const gate = slide.gates[at.marker];
  const t = thresholdsOf(gate);
  $("gate-by").textContent = describeGate(gate);
  for (const input of document.querySelectorAll("[name=af]")) input.checked = (input.value === "raw") === (gate.af === null);
  histogram.set(t);
  exact(slide.counts, t);
  clearTimeout(examplesTimer);
  await examples.show(slideInfo(), at.marker, t);
}

function exact(counts, t) {
  const cells = rangesOf(counts[at.marker]);
  boxes.show(cells, t, true);
  examples.counts(cells);
  showLabels($("labels"), cohort.markers, at.marker, counts, before);
}

// While a threshold moves: quick counts at once, exact ones and pictures as soon as they are there.
function moved(t) {
  const below = t.map((v) => histogram.cellsBelow(v));
  const all = histogram.below[histogram.below.length - 1];
  boxes.show([below[0], below[1] - below[0], below[2] - below[1], all - below[2]], t, false);
  preview(t);
  clearTimeout(examplesTimer);
  examplesTimer = setTimeout(() => examples.show(slideInfo(), at.marker, t), EXAMPLES_MS);
}

// One request at a time; of those that come meanwhile the last one counts.
async function preview(t) {
  if (previewing) {
    previewing.next = t;
    return;
  }
  previewing = { next: null };
  const mine = opening;
  try {
    const { counts } = await post(gatePath(at.slide, at.marker, "preview"), named(t), { keepalive: false });
    if (mine === opening && ready() && histogram.thresholds.join() === t.join()) exact(counts, t);
  } catch (error) {
    failed(error);
  }
  const { next } = previewing;
  previewing = null;
  if (next && mine === opening && dirty(next)) preview(next);
}

const settled = (t) => { moved(t); saver.gate(at.slide, at.marker, "thresholds", named(t)); };
const nudged = (t) => { moved(t); saver.later(at.slide, at.marker, "thresholds", named(t)); };

function typed(index, value) {
  if (!Number.isFinite(value) || value <= 0) { restore(); return; }
  histogram.select(index);
  histogram.set(histogram.moving(index, value));
  settled(histogram.thresholds);
}

const change = (what, body) => saver.gate(at.slide, at.marker, what, body);
const go = (target) => { if (target) open(target.slide, target.marker).catch(failed); };

const actions = {
  select: (index) => histogram.handles[index].focus(),
  nudge: (factor) => histogram.nudge(histogram.selected, factor),
  step: (steps) => go(gateAt(cohort, at, steps)),
  slide: (steps) => go(gateAt(cohort, at, steps * cohort.markers.length)),
  accept: async () => {
    const { slide: folder, marker } = at;
    await saver.flush();
    change("accept");
    await saver.queue;
    if ($("saved").dataset.kind === "ok" && at.slide === folder && at.marker === marker) actions.step(1);
  },
  undo: () => saver.flush().then(() => cohort.can_undo && saver.send("/api/undo")),
  redo: () => saver.flush().then(() => cohort.can_redo && saver.send("/api/redo")),
  propose: () => change("propose"),
  other: () => examples.other(),
  help: () => $("help-dialog").showModal(),
  slides: () => {
    showSlides(cohort, at, (folder, marker) => { $("slides-dialog").close(); open(folder, marker).catch(failed); });
    $("slides-dialog").showModal();
    document.querySelector("#slides-table .here")?.scrollIntoView({ block: "center" });
  },
  copy: () => {
    const others = cohort.slides.filter((s) => s.folder !== at.slide);
    const old = $("copy-source").value;
    $("copy-source").replaceChildren(...others.map((s) => el("option", { value: s.folder, selected: s.folder === old },
      `${s.folder} (${at.marker} ${cohort.states[s.folder][at.marker]})`)));
    $("copy-do").disabled = !others.length;
    $("copy-dialog").showModal();
  },
  who: () => {
    $("who-input").value = cohort.who;
    $("who-dialog").showModal();
    $("who-input").select();
  },
};

function wire() {
  const clicks = {
    undo: actions.undo, redo: actions.redo, propose: actions.propose, accept: actions.accept,
    "open-copy": actions.copy, "open-who": actions.who, "open-help": actions.help, "open-slides": actions.slides,
    "previous-slide": () => actions.slide(-1), "next-slide": () => actions.slide(1),
    "copy-do": () => {
      $("copy-dialog").close();
      change("copy", { source: $("copy-source").value, all: $("copy-all").checked });
    },
    "who-do": () => {
      post("/api/who", { who: $("who-input").value }).then((reply) => {
        $("who-dialog").close();
        situation(reply);
      }).catch((error) => { $("who-dialog").close(); failed(error); });
    },
  };
  for (const [id, act] of Object.entries(clicks)) $(id).addEventListener("click", () => (ready() || id.startsWith("open")) && act());
  $("who-input").addEventListener("keydown", (event) => {
    if (event.key === "Enter") { event.preventDefault(); $("who-do").click(); }
  });
  for (const input of document.querySelectorAll("[name=af]")) {
    input.addEventListener("change", () => change("correct", { corrected: input.value === "corrected" }));
  }
  $("markers").addEventListener("keydown", (event) => {
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    const names = cohort.markers.map((m) => m.name);
    const next = step && names[names.indexOf(at.marker) + step];
    if (!next) return;
    event.preventDefault();
    open(at.slide, next).then(() => document.querySelector("[role=tab][aria-selected=true]").focus()).catch(failed);
  });
  window.addEventListener("focus", () => saver.look().catch(failed));
  listen(actions, ready);
}

async function start() {
  cohort = await get("/api/cohort");
  histogram = new Histogram($("histogram"), cohort.ranges, {
    moved, settled, nudged, chosen: () => {},
  });
  boxes = new RangeBoxes($("ranges"), cohort.ranges, typed);
  examples = new Examples($("examples"), cohort.ranges, failed);
  situation(cohort);
  wire();
  saver.tell(`Saves to ${cohort.gates_file.split(/[\\/]/).pop()}`);
  $("saved").title = cohort.gates_file;
  const [folder, marker] = decodeURIComponent(location.hash.slice(1)).split("/");
  const known = cohort.slides.some((s) => s.folder === folder) && cohort.markers.some((m) => m.name === marker);
  await open(known ? folder : cohort.slides[0].folder, known ? marker : cohort.markers[0].name);
}

start().catch(failed);
