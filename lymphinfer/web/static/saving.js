// Changes on their way to the gates file: one after another, each on top of what was saved before.

import { RequestError, gatePath, get, post } from "./api.js";
import { $, el } from "./dom.js";

const NUDGE_MS = 500;

export class Saver {
  // `took(reply)` gets what the server says after each change, `reloaded()` is called for a new file.
  constructor({ took, reloaded, failed }) {
    Object.assign(this, { took, reloaded, failed });
    this.queue = Promise.resolve();
    this.pending = 0;
    $("conflict-dialog").addEventListener("cancel", (event) => event.preventDefault());
    window.addEventListener("pagehide", () => this.flush());
  }

  // Change a gate: `what` is thresholds, accept, copy, propose or correct.
  gate(slide, marker, what, body = {}) {
    return this.send(gatePath(slide, marker, what), body);
  }

  // The same, once no key has been pressed for a moment.
  later(slide, marker, what, body) {
    clearTimeout(this.timer);
    this.kept = () => this.gate(slide, marker, what, body);
    this.timer = setTimeout(() => this.flush(), NUDGE_MS);
    this.tell("Not saved yet…");
  }

  // Send what waits; resolves when everything is saved.
  flush() {
    clearTimeout(this.timer);
    const kept = this.kept;
    this.kept = null;
    if (kept) kept();
    return this.queue;
  }

  send(path, body = {}) {
    if (this.kept) this.flush();
    this.pending += 1;
    this.tell("Saving…");
    this.queue = this.queue.then(() => this.now(path, body)).catch(this.failed).finally(() => { this.pending -= 1; });
    return this.queue;
  }

  get busy() {
    return this.pending > 0 || Boolean(this.kept);
  }

  async now(path, body) {
    try {
      this.took(await post(path, { ...body, revision: this.revision }));
      const time = new Date().toLocaleTimeString("en-GB", { hour: "2-digit", minute: "2-digit" });
      this.tell(`Saved ${time}`, "ok");
    } catch (error) {
      this.tell("Not saved", "bad");
      if (!(error instanceof RequestError) || error.status !== 409) throw error;
      const again = await this.ask(error);
      // Undo and redo belong to the old file.
      const { revision } = await post("/api/reload");
      this.revision = revision;
      if (again && path.startsWith("/api/slides/")) await this.now(path, body);
      // Not awaited: opening the slide anew waits for this very queue.
      this.reloaded().catch(this.failed);
    }
  }

  // Ask what is to become of a change to a file that is another by now.
  ask(error) {
    const dialog = $("conflict-dialog");
    $("conflict-text").textContent = error.message;
    return new Promise((resolve) => {
      const answer = (mine) => () => { dialog.close(); resolve(mine); };
      $("conflict-theirs").onclick = answer(false);
      $("conflict-mine").onclick = answer(true);
      for (const open of document.querySelectorAll("dialog[open]")) open.close();
      dialog.showModal();
    });
  }

  // See whether the file has changed while another window was in front.
  async look() {
    if (this.busy || !this.revision) return;
    const cohort = await get("/api/cohort");
    if (this.busy || (!cohort.changed_on_disk && cohort.revision === this.revision)) return;
    this.banner("The gates file was changed outside this window.", "Load it", async () => {
      if (cohort.changed_on_disk) await post("/api/reload");
      await this.reloaded();
    });
  }

  banner(text, label, act) {
    const hide = () => { $("banner").hidden = true; };
    $("banner").replaceChildren(el("span", { text }), el("button", {
      type: "button", text: label, onclick: () => { hide(); Promise.resolve(act?.()).catch(this.failed); },
    }));
    $("banner").hidden = false;
  }

  tell(text, kind = "") {
    $("saved").textContent = text;
    $("saved").dataset.kind = kind;
  }
}
