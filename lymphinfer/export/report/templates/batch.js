(function () {
  "use strict";
  const table = document.getElementById("table");
  const body = table.tBodies[0];
  for (const button of table.querySelectorAll("thead button")) {
    button.addEventListener("click", () => {
      const head = button.closest("th");
      const index = head.cellIndex;
      const up = head.getAttribute("aria-sort") !== "ascending";
      for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", up ? "ascending" : "descending");
      const key = (row) => row.cells[index].dataset.value;
      const rows = Array.from(body.rows).sort((a, b) =>
        key(a).localeCompare(key(b), "en", { numeric: true }));
      if (!up) rows.reverse();
      body.append(...rows);
    });
  }
})();
