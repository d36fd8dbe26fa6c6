// Keys of the page; what each does is given by `app.js`.

export function listen(actions, ready) {
  document.addEventListener("keydown", (event) => {
    if (event.altKey || event.defaultPrevented || !ready() || document.querySelector("dialog[open]")) return;
    const undoing = (event.ctrlKey || event.metaKey) && event.key.toLowerCase() === "z";
    const target = event.target;
    const typing = target.matches("input:not([type=radio]), select, textarea");
    if (typing) return;
    if (undoing) {
      event.preventDefault();
      (event.shiftKey ? actions.redo : actions.undo)();
      return;
    }
    if (event.ctrlKey || event.metaKey) return;
    const action = find(event, actions);
    // A button that has the focus is pressed by Enter, and radio buttons are moved by arrows.
    const own = (event.key === "Enter" && target.matches("button")) ||
      (event.key.startsWith("Arrow") && target.matches("input, [role=tab]"));
    if (!action || own) return;
    event.preventDefault();
    action();
  });
}

function find({ key, shiftKey }, actions) {
  const factor = shiftKey ? 1.05 : 1.005;
  switch (key) {
    case "1": case "2": case "3": return () => actions.select(Number(key) - 1);
    case "ArrowLeft": case "ArrowDown": return () => actions.nudge(1 / factor);
    case "ArrowRight": case "ArrowUp": return () => actions.nudge(factor);
    case "n": return () => actions.step(1);
    case "p": return () => actions.step(-1);
    case "N": return () => actions.slide(1);
    case "P": return () => actions.slide(-1);
    case "a": case "Enter": return actions.accept;
    case "u": return actions.undo;
    case "r": return actions.redo;
    case "c": return actions.copy;
    case "o": return actions.other;
    case "s": return actions.slides;
    case "?": return actions.help;
    default: return null;
  }
}
