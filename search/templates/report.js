// Unpack Plotly, then draw every figure in the page's own colours: again when the scheme changes,
// when the width changes, and for paper. <html data-figures> says how it went.
(async () => {
  "use strict";
  const root = document.documentElement;
  const figures = JSON.parse(document.getElementById("figures").textContent);
  const places = [...document.querySelectorAll(".plot")];
  const PAPER_WIDTH = 680;

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
    // A narrow legend stacks its entries: they get room of their own.
    const entries = figure.layout.showlegend === false ? 0 : figure.data.length;
    const height = figure.height + (narrow ? 14 * entries : 0);
    const base = {
      width, height,
      paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
      font: { family: getComputedStyle(document.body).fontFamily, size: 12, color: "var(--ink)" },
      margin: { l: 46, r: 12, t: 8, b: 36 },
      dragmode: false, hovermode: "closest", showlegend: true,
      legend: { orientation: "h", xref: "container", x: 0, xanchor: "left", y: 1.01, yanchor: "bottom",
        font: { size: 12 }, itemsizing: "constant" },
      hoverlabel: { bgcolor: "var(--panel)", bordercolor: "var(--line)", align: "left",
        font: { color: "var(--ink)", size: 12 } },
      xaxis: axis, yaxis: axis,
    };
    for (const key of Object.keys(figure.layout)) {
      if (/^[xy]axis\d/.test(key)) base[key] = axis;
    }
    const layout = merged(base, figure.layout);
    if (narrow) layout.dragmode = false;
    return layout;
  }

  function draw(width) {
    const style = getComputedStyle(root);
    for (const place of places) {
      const figure = figures[place.dataset.figure];
      // On paper the slices stand three in a row.
      const space = width ? (place.closest(".slices") ? width / 3 - 10 : width) : place.clientWidth;
      if (!place.dataset.drawn) place.replaceChildren();
      const layout = layoutOf(figure, space);
      place.style.height = `${layout.height}px`;
      Plotly.react(place, themed(figure.data, style), themed(layout, style), {
        displayModeBar: false, responsive: false, scrollZoom: false, doubleClick: "reset+autosize",
      });
      place.dataset.drawn = space < 560 ? "narrow" : "wide";
    }
  }

  function again(paper) {
    root.classList.toggle("paper", paper);
    if (paper) document.querySelectorAll("details").forEach((fold) => { fold.open = true; });
    draw(paper ? PAPER_WIDTH : 0);
  }

  try {
    if (places.length) {
      await loadPlotly();
      draw(0);
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
