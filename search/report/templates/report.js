// Unpack Plotly, then draw every figure in the page's own colours: again when the scheme changes,
// when the width changes, and for paper. <html data-figures> says how it went.
(async () => {
  "use strict";
  const root = document.documentElement;
  const figures = JSON.parse(document.getElementById("figures").textContent);
  const places = [...document.querySelectorAll(".plot")];
  const PAPER_WIDTH = 680;
  let opened = []; // folds that were opened for paper

  async function loadPlotly() {
    const packed = document.getElementById("plotly").textContent.trim();
    const bytes = Uint8Array.from(atob(packed), (c) => c.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    const script = document.createElement("script");
    script.textContent = await new Response(stream).text();
    document.head.append(script);
  }

  function themed(value, style) {
    if (typeof value === "string") {
      const name = /^var\((--[a-z]+)\)$/.exec(value);
      return name ? style.getPropertyValue(name[1]).trim() : value;
    }
    if (Array.isArray(value)) return value.map((item) => themed(item, style));
    if (value && typeof value === "object") {
      return Object.fromEntries(Object.entries(value).map(([k, v]) => [k, themed(v, style)]));
    }
    return value;
  }

  function merged(base, over) {
    const result = { ...base };
    for (const [key, value] of Object.entries(over)) {
      const both = [result[key], value].every((v) => v && typeof v === "object" && !Array.isArray(v));
      result[key] = both ? merged(result[key], value) : value;
    }
    return result;
  }

  function layoutOf(figure, width) {
    const narrow = width < 560;
    const axis = {
      gridcolor: "var(--line)", linecolor: "var(--line)", zeroline: false, automargin: true,
      title: { font: { size: 12, color: "var(--muted)" }, standoff: 8 }, fixedrange: narrow,
    };
    const base = {
      width, height: figure.height,
      paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
      font: { family: getComputedStyle(document.body).fontFamily, size: 12, color: "var(--ink)" },
      margin: { l: 46, r: 12, t: 8, b: 36 },
      dragmode: false, hovermode: "closest", showlegend: false,
      hoverlabel: { bgcolor: "var(--panel)", bordercolor: "var(--line)", align: "left",
        font: { color: "var(--ink)", size: 12 } },
      xaxis: axis, yaxis: axis,
    };
    for (const key of Object.keys(figure.layout)) {
      if (/^[xy]axis\d/.test(key)) base[key] = axis;
    }
    const layout = merged(base, figure.layout);
    if (narrow) {
      layout.dragmode = false;
      layout.xaxis = { tickangle: 0, ...layout.xaxis };
      if (!layout.xaxis.tickvals && !layout.xaxis.dtick) layout.xaxis.nticks = 4;
    }
    return layout;
  }

  function drawOne(place, width) {
    const style = getComputedStyle(root);
    const figure = figures[place.dataset.figure];
    // On paper the slices stand three in a row.
    const third = place.closest(".slices") ? width / 3 - 10 : width;
    const space = third > 0 ? third : place.clientWidth;
    if (!place.dataset.drawn) place.replaceChildren();
    Plotly.react(place, themed(figure.data, style), themed(layoutOf(figure, space), style), {
      displayModeBar: false, responsive: false, scrollZoom: false, doubleClick: "reset+autosize",
    });
    place.dataset.drawn = space < 560 ? "narrow" : "wide";
  }

  function draw(width) {
    places.forEach((place) => drawOne(place, width));
  }

  function toggle(button) {
    const place = button.closest("figure").querySelector(".plot");
    const parts = figures[place.dataset.figure].data;
    const shown = button.getAttribute("aria-pressed") === "false";
    button.dataset.parts.split(",").forEach((number) => { parts[number].visible = shown; });
    button.setAttribute("aria-pressed", String(shown));
    drawOne(place, 0);
  }

  // On a phone a row of a table becomes a card: each value then needs its column's name.
  function label() {
    document.querySelectorAll("table.stack").forEach((table) => {
      const names = [...table.tHead.rows[0].cells].map((cell) => cell.textContent);
      [...table.tBodies].forEach((body) => [...body.rows].forEach((row) => {
        [...row.cells].forEach((cell, index) => { cell.dataset.label = names[index]; });
      }));
    });
    root.classList.add("labelled");
  }

  function again(paper) {
    root.classList.toggle("paper", paper);
    const folds = [...document.querySelectorAll("details")];
    if (paper) opened = folds.filter((fold) => !fold.open);
    opened.forEach((fold) => { fold.open = paper; });
    draw(paper ? PAPER_WIDTH : 0);
  }

  try {
    label();
    if (places.length) {
      await loadPlotly();
      draw(0);
      document.querySelectorAll(".legend button").forEach((button) => {
        button.addEventListener("click", () => toggle(button));
      });
      let width = innerWidth;
      let timer = 0;
      addEventListener("resize", () => {
        clearTimeout(timer);
        timer = setTimeout(() => {
          if (innerWidth !== width && !root.classList.contains("paper")) draw(0);
          width = innerWidth;
        }, 150);
      });
      matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => draw(0));
      addEventListener("beforeprint", () => again(true));
      addEventListener("afterprint", () => again(false));
    }
    root.dataset.figures = "drawn";
  } catch (error) {
    root.dataset.figures = `failed: ${error}`;
    document.querySelectorAll(".plot > .wait").forEach((line) => {
      line.textContent = "This browser cannot draw the figures (one of 2023 or later can); " +
        "the numbers are in the tables and in report.md.";
    });
    throw error;
  }
})();
