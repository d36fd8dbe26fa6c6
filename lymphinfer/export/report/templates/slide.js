(function () {
  "use strict";
  const map = document.getElementById("map");
  const opacity = document.getElementById("opacity");
  const value = document.getElementById("opacity-value");
  const spots = document.getElementById("spots");
  const areas = document.getElementById("areas");
  const switchAreas = document.getElementById("show-areas");
  const switchSpots = document.getElementById("show-spots");

  function fade() {
    map.style.setProperty("--heat", opacity.value / 100);
    value.textContent = opacity.value + " %";
  }

  function choose(layer) {
    for (const item of document.querySelectorAll("[data-layer]")) {
      item.hidden = item.dataset.layer !== layer;
    }
  }

  opacity.addEventListener("input", fade);
  for (const radio of document.querySelectorAll("input[name=layer]")) {
    radio.addEventListener("change", () => choose(radio.value));
    if (radio.checked) choose(radio.value);
  }
  if (switchSpots) {
    switchSpots.addEventListener("change", () => { spots.hidden = !switchSpots.checked; });
  }
  if (switchAreas) {
    switchAreas.addEventListener("change", () => {
      areas.style.display = switchAreas.checked ? "" : "none";
    });
  }
  fade();
})();
