/* Curves over tokens: one axis, stage boundaries, a cross-hair that lists the values under it. */
function lineChart(host, spec, axis) {
  const many = spec.series.length > 7, staged = spec.series.some((s) => s.stage !== null);
  const dashes = ["", "7 3", "2 3", "9 3 2 3", "4 2", "1 3"];
  let chosen = "";
  const perStage = {};
  spec.series.forEach((s, k) => {
    if (s.stage !== null) { s.rank = perStage[s.stage] = (perStage[s.stage] ?? -1) + 1; s.cls = stageClass(s.stage); s.dash = many ? "" : dashes[s.rank % 6]; }
    else if (s.name === "total" || spec.series.length === 1) { s.cls = s.name === "total" ? "ink" : "s0"; s.dash = ""; }
    else { s.cls = `s${(k - (spec.series[0].name === "total" ? 1 : 0)) % 8}`; s.dash = dashes[k % 6]; }
  });
  if (spec.pick && spec.series.length > 3) {
    const select = el("select", { "aria-label": "Single out a line", onchange: () => { chosen = select.value; paint(); } }, el("option", { value: "" }, "all"));
    spec.series.forEach((s) => select.append(el("option", { value: s.name }, s.name)));
    host.append(el("div", { class: "controls" }, el("label", { class: "control" }, "Show ", select)));
  }
  const svg = draw("svg", { class: "chart", tabindex: "0", role: "img", "aria-label": `${spec.title}. ${spec.caption} Left and right arrows read values.` });
  const legend = el("div", { class: "legend" }), readout = el("p", { class: "readout", "aria-live": "polite" });
  host.append(svg, legend, readout);
  const xs = axis.x, xMax = xs[xs.length - 1] || 1;
  let width = 600, height = 240, left = 46, bottom = 30, scaleY = (v) => v, cross = null, at = null;
  const scaleX = (v) => left + (v / xMax) * (width - left - 10);

  function paint() {
    width = Math.max(260, host.clientWidth - parseFloat(getComputedStyle(host).paddingLeft) * 2 || 600);
    height = Math.round(Math.min(290, Math.max(190, width * 0.42)));
    let low = Infinity, high = -Infinity;
    for (const s of spec.series) for (const v of s.y) if (v !== null) { low = Math.min(low, v); high = Math.max(high, v); }
    if (spec.zero) low = Math.min(0, low);
    if (high <= low) { high = low + (Math.abs(low) || 1) * 0.1; low -= spec.zero ? 0 : (Math.abs(low) || 1) * 0.1; }
    const pad = (high - low) * 0.06; high += pad; if (!(spec.zero && low === 0)) low -= pad;
    const yTicks = ticks(low, high, 4);
    left = 14 + Math.max(...yTicks.map((v) => brief(v).length)) * 6.6;
    scaleY = (v) => height - bottom - ((v - low) / (high - low)) * (height - bottom - 16);
    svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
    svg.replaceChildren();
    for (const v of yTicks) {
      svg.append(draw("line", { class: "grid", x1: left, x2: width - 10, y1: scaleY(v), y2: scaleY(v) }));
      const text = draw("text", { x: left - 7, y: scaleY(v), "text-anchor": "end", "dominant-baseline": "central", "font-size": 11 }); text.textContent = brief(v); svg.append(text);
    }
    for (const v of ticks(0, xMax, width > 480 ? 5 : 3)) {
      const text = draw("text", { x: scaleX(v), y: height - 12, "text-anchor": v === 0 ? "start" : "middle", "font-size": 11 }); text.textContent = brief(v); svg.append(text);
    }
    const unit = draw("text", { class: "faint", x: width - 10, y: height - 1, "text-anchor": "end", "font-size": 10.5 }); unit.textContent = axis.axis; svg.append(unit);
    axis.marks.forEach((mark, k) => {
      if (k) svg.append(draw("line", { class: "mark", x1: scaleX(mark.x), x2: scaleX(mark.x), y1: 6, y2: height - bottom }));
      const next = k + 1 < axis.marks.length ? axis.marks[k + 1].x : xMax, space = scaleX(next) - scaleX(mark.x);
      if (space > 14) {
        const text = draw("text", { class: "faint", x: scaleX(mark.x) + 4, y: 12, "font-size": 10 });
        text.textContent = space > 50 ? mark.label : space > 22 ? String(mark.stage + 1) : ""; svg.append(text);
      }
    });
    svg.append(draw("line", { class: "axis", x1: left, x2: width - 10, y1: height - bottom, y2: height - bottom }));
    const sorted = [...spec.series].sort((a, b) => (a.name === chosen) - (b.name === chosen) || (a.cls === "ink") - (b.cls === "ink"));
    for (const s of sorted) {
      let path = "", pen = false;
      s.y.forEach((v, k) => { if (v === null) { pen = false; return; } if (axis.breaks.includes(k)) pen = false; path += `${pen ? "L" : "M"}${scaleX(xs[k]).toFixed(1)} ${scaleY(v).toFixed(1)}`; pen = true; });
      const filled = s.y.filter((v) => v !== null).length;
      const cls = `line ${s.cls}${chosen && s.name !== chosen ? " dim" : ""}${chosen && s.name === chosen ? " hot" : ""}`;
      svg.append(draw("path", { class: cls, d: path, "stroke-dasharray": s.dash || null }));
      if (filled === 1) { const k = s.y.findIndex((v) => v !== null); svg.append(draw("circle", { class: `dot ${s.cls}`, cx: scaleX(xs[k]), cy: scaleY(s.y[k]), r: 3 })); }
    }
    cross = draw("g"); svg.append(cross);
    legend.replaceChildren();
    if (spec.series.length > 1) {
      const keys = many && staged ? axis.marks.map((m) => ({ name: `stage ${m.stage + 1}`, cls: stageClass(m.stage), dash: "" })) : spec.series.length <= 12 ? spec.series : [];
      for (const s of keys) legend.append(el("span", { class: "key" }, draw("svg", { class: "chart", width: 22, height: 8, viewBox: "0 0 22 8" }, draw("path", { class: `line ${s.cls}`, d: "M1 4H21", "stroke-dasharray": s.dash || null })), el("bdi", null, shorten(s.name, 28))));
      legend.querySelectorAll("svg").forEach((s) => { s.style.width = "22px"; });
    }
  }

  function read(k, x, y) {
    at = Math.max(0, Math.min(xs.length - 1, k));
    const found = spec.series.filter((s) => s.y[at] !== null && (!chosen || s.name === chosen));
    cross.replaceChildren(draw("line", { class: "cross", x1: scaleX(xs[at]), x2: scaleX(xs[at]), y1: 16, y2: height - bottom }), ...found.map((s) => draw("circle", { class: `dot ${s.cls}`, cx: scaleX(xs[at]), cy: scaleY(s.y[at]), r: 3.2 })));
    if (!found.length) { unplace(); return; }
    const box = svg.getBoundingClientRect(), unitY = height / box.height;
    const near = y === undefined ? null : (y - box.top) * unitY;
    const listed = [...found].sort((a, b) => (near === null ? b.y[at] - a.y[at] : Math.abs(scaleY(a.y[at]) - near) - Math.abs(scaleY(b.y[at]) - near))).slice(0, 8).sort((a, b) => b.y[at] - a.y[at]);
    const rows = listed.map((s) => row(shorten(s.name, 26), show(s.y[at], 4), s.cls === "ink" ? "sx" : s.cls));
    if (found.length > listed.length) rows.push(el("div", { class: "row" }, `${found.length - listed.length} more`));
    readout.replaceChildren(`${show(xs[at])} ${axis.axis}: `, ...listed.slice(0, 3).flatMap((s) => [el("bdi", null, shorten(s.name, 24)), ` ${show(s.y[at], 4)}  `]));
    place(x ?? box.left + scaleX(xs[at]) / width * box.width, y ?? box.top + 20, el("div", { class: "head" }, `${show(xs[at])} ${axis.axis}`), ...rows);
  }
  const nearest = (event) => {
    const box = svg.getBoundingClientRect(), want = ((event.clientX - box.left) * (width / box.width) - left) / (width - left - 10) * xMax;
    let best = 0; xs.forEach((v, k) => { if (Math.abs(v - want) < Math.abs(xs[best] - want)) best = k; }); return best;
  };
  const leave = () => { unplace(); if (cross) cross.replaceChildren(); readout.replaceChildren(); };
  svg.addEventListener("pointermove", (event) => read(nearest(event), event.clientX, event.clientY));
  svg.addEventListener("pointerdown", (event) => read(nearest(event), event.clientX, event.clientY));
  svg.addEventListener("pointerleave", leave); svg.addEventListener("blur", leave);
  svg.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!step) return;
    event.preventDefault(); read((at ?? -1) + step);
  });
  live(host, paint);
}

/* Change of the loss per domain with its interval: filled = the interval leaves zero out. */
function forest(host, outcome) {
  const rows = outcome.rows.filter((r) => r.change !== null);
  if (!rows.length) return;
  const svg = draw("svg", { class: "chart", role: "img", "aria-label": "Change of the loss of each domain with its 95 % interval; the table below holds the same numbers." });
  host.append(svg);
  function paint() {
    const width = Math.max(280, host.clientWidth), narrow = width < 560, labels = narrow ? 104 : 200, step = rows.length > 30 ? 19 : 25, top = 26, height = top + rows.length * step + 30;
    let low = 0, high = 0;
    for (const r of rows) for (const v of [r.change, r.low, r.high, r.snapshot_change]) if (v !== null && v !== undefined) { low = Math.min(low, v); high = Math.max(high, v); }
    const pad = (high - low || 1) * 0.05; low -= pad; high += pad;
    const x = (v) => labels + ((v - low) / (high - low)) * (width - labels - (narrow ? 12 : 74));
    svg.setAttribute("viewBox", `0 0 ${width} ${height}`); svg.replaceChildren();
    for (const v of ticks(low, high, narrow ? 3 : 6)) {
      svg.append(draw("line", { class: v === 0 ? "zero" : "grid", x1: x(v), x2: x(v), y1: top - 4, y2: height - 26 }));
      const text = draw("text", { x: x(v), y: height - 11, "text-anchor": "middle", "font-size": 11 }); text.textContent = v === 0 ? "0" : signed(v); svg.append(text);
    }
    const heads = [["better", x(0) - 8, "end", "← better"], ["worse", x(0) + 8, "start", "worse →"]];
    for (const [cls, at, anchor, words] of heads) {
      if ((anchor === "end" ? x(0) - labels : width - x(0)) < 50) continue;
      const text = draw("text", { class: "faint", x: at, y: 14, "text-anchor": anchor, "font-size": 11 }); text.textContent = words; svg.append(text);
    }
    rows.forEach((r, k) => {
      const y = top + k * step + step / 2, g = draw("g", { class: `row ${r.verdict}` });
      g.append(draw("rect", { class: "band", x: 0, y: y - step / 2, width, height: step, rx: 3 }));
      if (r.stage !== null) {
        g.append(draw("circle", { class: `dot ${stageClass(r.stage)}`, cx: labels - 12, cy: y, r: 7.5 }));
        const num = draw("text", { x: labels - 12, y: y + 0.5, "text-anchor": "middle", "dominant-baseline": "central", "font-size": 9.5 }); num.textContent = r.stage + 1; num.style.fill = `var(--on)`; num.setAttribute("class", stageClass(r.stage)); num.style.fontWeight = "700"; g.append(num);
      }
      const label = draw("text", { class: "name", x: labels - 26, y, "text-anchor": "end", "dominant-baseline": "central", "font-size": step < 22 ? 11 : 12.5 });
      label.textContent = shorten(r.name, Math.floor((labels - 26) / (step < 22 ? 6.5 : 7.2))); g.append(label);
      if (r.snapshot_change !== null && r.snapshot_change !== undefined && outcome.has_snapshot) g.append(draw("path", { class: "whisker thin", d: `M${x(r.snapshot_change)} ${y - 6}V${y + 6}` }));
      if (r.low !== null) g.append(draw("line", { class: "whisker", x1: x(r.low), x2: x(r.high), y1: y, y2: y }));
      const at = x(r.change);
      g.append(r.verdict === "worse" ? draw("rect", { class: "shape", x: at - 4.6, y: y - 4.6, width: 9.2, height: 9.2, transform: `rotate(45 ${at} ${y})` }) : draw("circle", { class: "shape", cx: at, cy: y, r: 4.8 }));
      if (!narrow) { const value = draw("text", { class: "name", x: width - 4, y, "text-anchor": "end", "dominant-baseline": "central", "font-size": 12 }); value.textContent = (r.change > 0 ? "+" : "") + fixed(r.change, r.decimals || 3); g.append(value); }
      const words = () => [el("div", { class: "head" }, el("bdi", null, r.name)), el("div", { class: "big" }, signed(r.change, 4)),
        r.low === null ? el("div", { class: "note" }, "no interval: proves nothing") : row("95 % interval", `${signed(r.low)} to ${signed(r.high)}`), row("before", show(r.before, 4)), row("after", show(r.final ?? r.snapshot, 4)),
        ...(r.snapshot_change === null || r.snapshot_change === undefined ? [] : [row("right after its stage", signed(r.snapshot_change, 3))])];
      g.addEventListener("pointermove", (event) => place(event.clientX, event.clientY, ...words()));
      g.addEventListener("pointerleave", unplace);
      svg.append(g);
    });
  }
  live(host, paint);
}
