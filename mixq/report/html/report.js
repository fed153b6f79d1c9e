"use strict";
(() => {
  const $ = (id) => document.getElementById(id);
  const make = (name, text, kind) => {
    const e = document.createElement(name);
    if (text !== undefined && text !== null) e.textContent = text;
    if (kind) e.className = kind;
    return e;
  };

  // Light and dark: the system's choice until the button is pressed.
  const dark = matchMedia("(prefers-color-scheme: dark)");
  $("theme").addEventListener("click", () => {
    const root = document.documentElement;
    const now = root.dataset.theme || (dark.matches ? "dark" : "light");
    root.dataset.theme = now === "dark" ? "light" : "dark";
  });

  // One tip for everything that has something to say.
  const tip = $("tip");
  const hide = () => { tip.hidden = true; };
  document.addEventListener("pointermove", (event) => {
    const on = event.target.closest ? event.target.closest("[data-tip]") : null;
    if (!on) return hide();
    tip.textContent = on.dataset.tip;
    tip.hidden = false;
    const box = tip.getBoundingClientRect();
    const x = Math.min(event.clientX + 14, innerWidth - box.width - 8);
    const below = event.clientY + 18;
    tip.style.left = `${Math.max(8, x)}px`;
    tip.style.top = `${below + box.height < innerHeight ? below : event.clientY - box.height - 12}px`;
  });
  document.addEventListener("pointerleave", hide);
  document.addEventListener("scroll", hide, { capture: true, passive: true });
  addEventListener("beforeprint", hide);

  const held = $("data");
  if (!held) return;
  const data = JSON.parse(held.textContent);

  const three = (v) => (v >= 99.95 ? v.toFixed(0) : String(+v.toPrecision(3)));
  const bytes = (v) => {
    for (const [scale, unit] of [[1e9, "GB"], [1e6, "MB"], [1e3, "kB"]])
      if (v >= scale * 0.9995) return `${three(v / scale)} ${unit}`;
    return `${v} B`;
  };
  const time = (s) => {
    for (const [scale, unit] of [[1, "s"], [1e-3, "ms"]])
      if (s >= scale * 0.9995) return `${three(s / scale)} ${unit}`;
    return `${three(s * 1e6)} µs`;
  };
  const small = (v, digits = 3) =>
    v !== 0 && (Math.abs(v) < 1e-3 || Math.abs(v) >= 1e5)
      ? v.toExponential(digits - 1).replace("e+", "e")
      : String(+v.toPrecision(digits));

  const select = $("plan");
  const groups = new Map();
  data.plans.forEach((plan, i) => {
    if (!groups.has(plan.kind)) {
      const group = make("optgroup");
      group.label = plan.kind;
      groups.set(plan.kind, group);
    }
    const option = make("option", `${plan.name}, ${bytes(plan.bytes)}, error ${small(plan.error)}`);
    option.value = i;
    groups.get(plan.kind).append(option);
  });
  for (const kind of ["chosen plan", "trials", "one width or format everywhere", "frontier"])
    if (groups.has(kind)) select.append(groups.get(kind));

  const plotted = $("pareto");
  const ring = data.plot.data.length - 1;
  let shown = -1;

  function show(i) {
    const plan = data.plans[i];
    if (!plan || i === shown) return;
    shown = i;
    select.value = String(i);
    const facts = [
      ["plan", plan.name],
      ["stored", `${bytes(plan.bytes)}, ${(+plan.compression.toPrecision(3))}x smaller`],
      ["error", `${small(plan.error)} (${plan.measured ? "measured" : "added up"})`],
      ["latency", `${time(plan.latency_s)} (predicted)`],
    ];
    if (plan.detail) facts.push(["also", plan.detail]);
    $("plan-facts").replaceChildren(...facts.map(([name, value]) => {
      const row = make("div");
      row.append(make("dt", name), make("dd", value));
      return row;
    }));
    const strip = [], rows = [];
    plan.formats.forEach((f, u) => {
      const [name, full, weights] = data.units[u];
      const [format, bits] = data.formats[f];
      const [stored, latency, error, se, kernel] = data.cells[u][f];
      const part = make("i", null, `w${bits}`);
      part.style.flexGrow = weights;
      part.dataset.tip = `${full}: ${format}, ${weights.toLocaleString("en")} weights`;
      strip.push(part);
      const row = make("tr"), head = make("th");
      head.scope = "row";
      head.append(make("bdi", name));
      const cell = make("td");
      cell.append(make("span", format, `chip w${bits}`));
      row.append(
        head, cell, make("td", stored === null ? "-" : bytes(stored), "n"),
        make("td", error === null ? "-" : error ? `${small(error)} ± ${small(se, 1)}` : "0", "n"),
        make("td", latency === null ? "-" : time(latency), "n"),
        make("td", kernel < 0 ? "-" : data.kernels[kernel], "kernel"),
      );
      rows.push(row);
    });
    $("plan-strip").replaceChildren(...strip);
    const counts = new Map();
    for (const f of plan.formats) counts.set(data.formats[f][1], (counts.get(data.formats[f][1]) || 0) + 1);
    $("plan-strip").setAttribute("aria-label", `Widths along the network of ${plan.name}: ` +
      [...counts].sort((a, b) => b[0] - a[0]).map(([bits, n]) => `${n} at ${bits} bits`).join(", "));
    $("plan-table").tBodies[0].replaceChildren(...rows);
    if (plotted.data) Plotly.restyle(plotted, { x: [[plan.bytes / 1e6]], y: [[plan.y]] }, [ring]);
  }

  // What a narrow screen has no room for: every second label, long words, a wide scale.
  function slim() {
    const { layout } = data.plot;
    const axis = layout.xaxis, span = (axis.range[1] - axis.range[0]) * 0.17;
    let last = -Infinity;
    axis.ticktext = axis.ticktext.map((text, i) => {
      const at = Math.log10(axis.tickvals[i]);
      if (at - last < span) return "";
      last = at;
      return text;
    });
    axis.tickangle = 0;
    Object.assign(layout.margin, { l: 44, r: 0, b: 44 });
    layout.yaxis.title = { text: "output error", font: { size: 12 } };
    axis.title = { text: "MB (below: compression)", font: { size: 12 } };
    layout.font.size = 11;
    for (const note of layout.annotations || []) note.text = "error 0";
    if (layout.coloraxis)
      Object.assign(layout.coloraxis.colorbar, { thickness: 7, xpad: 4, title: { text: "ms", side: "top" } });
  }

  // Paper is narrower than the screen, and plotly draws for pixels.
  addEventListener("beforeprint", () => Plotly.relayout(plotted, { width: 680, height: 380, autosize: false }));
  addEventListener("afterprint", () => Plotly.relayout(plotted, { width: null, height: null, autosize: true }));

  select.addEventListener("change", () => show(+select.value));
  show(data.chosen);
  if (innerWidth < 560) slim();
  const first = data.plans[data.chosen];
  Object.assign(data.plot.data[ring], { x: [first.bytes / 1e6], y: [first.y] });
  Plotly.newPlot(plotted, data.plot.data, data.plot.layout, { displayModeBar: false, responsive: true })
    .then(() => {
      plotted.on("plotly_click", (event) => {
        const hit = event.points.find((p) => typeof p.customdata === "number");
        if (hit) show(hit.customdata);
      });
      document.documentElement.dataset.ready = "yes";
    });
})();
