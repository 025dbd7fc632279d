/* A heatmap on a canvas, with labels, stage outlines, hatching, pointer, touch and keyboard.
   spec: rows, cols (labels), at(i, j), square, mode "seq" | "div" | "share", goodLow, limits, noise(i, j), tip(i, j) -> nodes, line(i, j) -> text,
   rowStage, colStage (stage of each row and column), rowOrder, colOrder, blocks (sizes along the diagonal), boxes ([row, col, h, w] in drawn places),
   legend [low text, high text, hatch text], decimals, rowTitle. */
function heatmap(host, spec) {
  const rowsSvg = draw("svg", { class: "hm-rows", "aria-hidden": "true" });
  const colsSvg = draw("svg", { "aria-hidden": "true" });
  const canvas = el("canvas", { "aria-hidden": "true" });
  const overlay = draw("svg", { "aria-hidden": "true" });
  const hit = el("div", { class: "hm-hit", tabindex: "0", role: "application", "aria-roledescription": "heatmap", "aria-label": `${spec.label || "Heatmap"}. Arrow keys move between cells.` });
  const cursor = el("div", { class: "hm-cursor" });
  const area = el("div", { class: "hm-area" }, colsSvg, canvas, overlay, hit, cursor);
  const scroll = el("div", { class: "hm-scroll" }, area);
  const readout = el("p", { class: "readout", "aria-live": "polite" });
  const legend = el("div", { class: "legend" });
  const grid = el("div", { class: "hm-grid" }, rowsSvg, scroll);
  const root = el("div", { class: "hm" }, grid, legend, readout);
  host.append(root);
  let cell = 20, high = 20, top = 0, active = null, limits = [0, 1];

  const order = () => [spec.rowOrder || spec.rows.map((_, i) => i), spec.colOrder || spec.rowOrder && spec.square && spec.rowOrder || spec.cols.map((_, j) => j)];
  const colour = (value) => {
    if (Number.isNaN(value)) return null;
    if (spec.mode === "div") return divergent((spec.goodLow ? -1 : 1) * value / (limits[1] || 1));
    return sequential((value - limits[0]) / (limits[1] - limits[0] || 1));
  };

  function measure() {
    if (spec.limits) { limits = spec.limits; return; }
    let low = Infinity, top_ = -Infinity;
    for (let i = 0; i < spec.rows.length; i++) for (let j = 0; j < spec.cols.length; j++) {
      if (spec.square && i === j) continue;
      const v = spec.at(i, j);
      if (!Number.isNaN(v)) { low = Math.min(low, v); top_ = Math.max(top_, v); }
    }
    if (low > top_) { low = 0; top_ = 1; }
    if (spec.mode === "div") { const reach = Math.max(Math.abs(low), Math.abs(top_)) || 1; limits = [-reach, reach]; }
    else limits = top_ > low ? [low, top_] : [low, low + 1e-9];
  }

  function paint() {
    const full = root.clientWidth;
    if (!full) return;
    measure();
    const [rowOrder, colOrder] = order();
    const nr = rowOrder.length, nc = colOrder.length, narrow = full < 560;
    const letters = Math.max(...spec.rows.map((t) => Array.from(t).length), 3);
    let labelWidth = Math.min(narrow ? 96 : 168, Math.max(34, letters * 6.9 + 18));
    /* Too many cells for labels: they need no room either; the tooltip names the pair. */
    if (nc > 100 && (full - labelWidth) / nc < 7) labelWidth = 10;
    const room = full - labelWidth - 2;
    const least = nc > 120 ? 2 : nc > 40 ? (narrow ? 9 : 8) : narrow ? 12 : 11;
    const widest = Math.max(spec.maxCell || 46, Math.min(92, 480 / nc)), reach = Math.min(20, Math.max(...spec.cols.map((t) => Array.from(t).length)));
    cell = Math.max(least, Math.min(widest, Math.floor(room / nc)));
    /* Slanted labels lean over the right edge: the cells make room for the last ones. */
    if (cell >= 26 && nc <= 24) cell = Math.max(least, Math.min(widest, Math.floor((room - Math.min(70, reach * 5.2)) / nc)));
    high = spec.square ? cell : Math.max(16, Math.min(30, cell));
    const font = Math.min(12, Math.max(7.5, cell * 0.92)), rowFont = Math.min(12, Math.max(7.5, high * 0.92));
    const labelled = cell >= 7, slanted = cell >= 26 && nc <= 24;
    const limit = Math.floor((labelWidth - 15) / (rowFont * 0.57));
    const colLimit = narrow ? 14 : 20;
    const longest = Math.min(colLimit, Math.max(...spec.cols.map((t) => Array.from(t).length)));
    top = !labelled ? 6 : Math.ceil(longest * font * 0.58 * (slanted ? 0.72 : 1)) + 16;
    const width = nc * cell, height = nr * high, spare = slanted ? Math.min(70, longest * font * 0.42) : 2;
    const ratio = Math.min(3, devicePixelRatio || 1);
    rowsSvg.replaceChildren(); colsSvg.replaceChildren(); overlay.replaceChildren();
    rowsSvg.setAttribute("width", labelWidth); rowsSvg.setAttribute("height", top + height + 2);
    colsSvg.setAttribute("width", width + spare); colsSvg.setAttribute("height", top);
    overlay.setAttribute("width", width + 4); overlay.setAttribute("height", height + 4);
    overlay.style.cssText = `position:absolute;left:-2px;top:${top - 2}px;pointer-events:none;overflow:visible`;
    hit.style.top = `${top}px`; hit.style.width = `${width}px`; hit.style.height = `${height}px`;
    /* A finger that drags scrolls a heatmap too wide for the screen; where it fits, dragging reads cells. */
    hit.style.touchAction = width > room ? "pan-x pan-y" : "pan-y";
    canvas.width = width * ratio; canvas.height = height * ratio; canvas.style.width = `${width}px`; canvas.style.height = `${height}px`;
    const pen = canvas.getContext("2d");
    pen.scale(ratio, ratio);
    pen.fillStyle = css("--empty"); pen.fillRect(0, 0, width, height);
    const gap = cell >= 10 ? 1 : cell >= 6 ? 0.5 : 0;
    const words = cell >= 34 && spec.decimals !== null;
    pen.textAlign = "center"; pen.textBaseline = "middle"; pen.font = `${Math.min(12, cell * 0.3)}px system-ui, sans-serif`;
    for (let r = 0; r < nr; r++) for (let c = 0; c < nc; c++) {
      const i = rowOrder[r], j = colOrder[c], value = spec.at(i, j), x = c * cell, y = r * high;
      if (Number.isNaN(value)) continue;
      const self = spec.square && i === j;
      const paintColour = self && spec.mutedDiagonal !== false ? null : colour(value);
      if (!paintColour) continue;
      pen.fillStyle = rgb(paintColour);
      pen.fillRect(x, y, cell - gap, high - gap);
      const ink = bright(paintColour) ? "rgba(0,0,0,.78)" : "rgba(255,255,255,.85)";
      if (spec.noise && !self && spec.noise(i, j)) hatch(pen, x, y, cell - gap, high - gap, ink);
      if (words) {
        const text = fixed(value, spec.decimals === undefined ? 2 : spec.decimals);
        if (spec.noise && spec.noise(i, j)) { pen.fillStyle = rgb(paintColour); pen.fillRect(x + cell / 2 - text.length * cell * 0.085 - 2, y + high / 2 - cell * 0.2, text.length * cell * 0.17 + 4, cell * 0.4); }
        pen.fillStyle = ink; pen.fillText(text, x + cell / 2, y + high / 2 + 0.5);
      }
    }
    if (labelled) {
      rowOrder.forEach((i, r) => {
        const y = top + r * high;
        if (spec.rowStage && spec.rowStage[i] !== null) rowsSvg.append(draw("rect", { class: `tick ${stageClass(spec.rowStage[i])}`, x: labelWidth - 6, y: y + 0.5, width: 3.5, height: high - 1 }));
        const text = draw("text", { x: labelWidth - 10, y: y + high / 2, "font-size": rowFont, "text-anchor": "end", "dominant-baseline": "central", "data-row": r });
        text.textContent = shorten(spec.rows[i], limit); rowsSvg.append(text);
      });
      colOrder.forEach((j, c) => {
        const x = c * cell + cell / 2;
        if (spec.colStage && spec.colStage[j] !== null) colsSvg.append(draw("rect", { class: `tick ${stageClass(spec.colStage[j])}`, x: c * cell + 0.5, y: top - 6, width: cell - 1, height: 3.5 }));
        const text = draw("text", { transform: `translate(${x - (slanted ? 4 : 0)} ${top - 10}) rotate(${slanted ? -45 : -90})`, "font-size": font, "dominant-baseline": slanted ? "auto" : "central", "data-col": c });
        text.textContent = shorten(spec.cols[j], colLimit); colsSvg.append(text);
      });
    }
    let start = 0;
    for (const size of spec.blocks || []) { frame(start, start, size, size); start += size; }
    for (const [r, c, h, w] of spec.boxes || []) frame(r, c, h, w);
    paintLegend(width > room + 1 ? nc : 0);
    root.dataset.first = spec.rows[rowOrder[0]];
    if (active) point(active[0], active[1]);
  }

  function frame(r, c, h, w) {
    const box = { x: c * cell + 1.5, y: r * high + 1.5, width: w * cell, height: h * high };
    overlay.append(draw("rect", { class: "halo", ...box }), draw("rect", { class: "block", ...box }));
  }

  function paintLegend(columns) {
    const ramp = el("canvas", { width: 136, height: 10, "aria-hidden": "true" }), pen = ramp.getContext("2d");
    for (let x = 0; x < 136; x++) {
      const t = x / 135;
      pen.fillStyle = rgb(spec.mode === "div" ? divergent((spec.goodLow ? -1 : 1) * (2 * t - 1)) : sequential(t));
      pen.fillRect(x, 0, 1, 10);
    }
    const say = (k, v) => `${spec.legend && spec.legend[k] ? `${spec.legend[k]} ` : ""}${show(v, 2)}`;
    legend.replaceChildren(el("span", null, say(0, limits[0])), ramp, el("span", null, say(1, limits[1])));
    if (spec.noise && spec.legend && spec.legend[2]) {
      const box = el("canvas", { class: "hatch", width: 37, height: 27, "aria-hidden": "true" }), ink = box.getContext("2d");
      ink.fillStyle = rgb(sequential(spec.similar ? 0.85 : 0.2)); ink.fillRect(0, 0, 37, 27);
      ink.scale(2, 2); hatch(ink, 0, 0, 18.5, 13.5, spec.similar ? "rgba(0,0,0,.78)" : "rgba(255,255,255,.85)");
      box.style.width = "1.15rem"; box.style.height = ".85rem";
      legend.append(el("span", { class: "key" }, box, spec.legend[2]));
    }
    if (columns) legend.append(el("span", { class: "key" }, `scroll sideways for all ${columns} columns →`));
  }

  function hatch(pen, x, y, w, h, ink) {
    pen.save(); pen.beginPath(); pen.rect(x, y, w, h); pen.clip();
    pen.strokeStyle = ink; pen.lineWidth = w > 14 ? 1 : 0.7; pen.beginPath();
    const step = Math.max(3.2, Math.min(7, w / 3));
    for (let k = -h; k < w + h; k += step) { pen.moveTo(x + k, y + h); pen.lineTo(x + k + h, y); }
    pen.stroke(); pen.restore();
  }

  function point(r, c, x, y) {
    const [rowOrder, colOrder] = order();
    if (r < 0 || c < 0 || r >= rowOrder.length || c >= colOrder.length) return;
    active = [r, c];
    const i = rowOrder[r], j = colOrder[c];
    cursor.style.cssText = `display:block;left:${c * cell - 1}px;top:${top + r * high - 1}px;width:${cell + 1}px;height:${high + 1}px`;
    root.querySelectorAll("text.on").forEach((t) => t.classList.remove("on"));
    root.querySelectorAll(`text[data-row="${r}"], text[data-col="${c}"]`).forEach((t) => t.classList.add("on"));
    readout.replaceChildren(...spec.line(i, j));
    if (x === undefined) {
      const box = hit.getBoundingClientRect();
      x = box.left + (c + 0.5) * cell; y = box.top + (r + 0.5) * high;
    }
    place(x, y, ...spec.tip(i, j));
  }
  function leave() {
    unplace(); cursor.style.display = "none"; active = null;
    root.querySelectorAll("text.on").forEach((t) => t.classList.remove("on"));
  }
  const under = (event) => {
    const box = hit.getBoundingClientRect();
    return [Math.floor((event.clientY - box.top) / high), Math.floor((event.clientX - box.left) / cell)];
  };
  hit.addEventListener("pointermove", (event) => point(...under(event), event.clientX, event.clientY));
  hit.addEventListener("pointerdown", (event) => point(...under(event), event.clientX, event.clientY));
  hit.addEventListener("pointerleave", (event) => { if (event.pointerType === "mouse") leave(); });
  hit.addEventListener("blur", leave);
  hit.addEventListener("keydown", (event) => {
    const [rowOrder, colOrder] = order(), [r, c] = active || [0, 0];
    const go = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[event.key];
    let next = null;
    if (go) next = active ? [r + go[0], c + go[1]] : [0, Math.min(1, colOrder.length - 1)];
    else if (event.key === "Home") next = [r, 0];
    else if (event.key === "End") next = [r, colOrder.length - 1];
    else if (event.key === "Escape") { leave(); return; }
    if (!next) return;
    event.preventDefault();
    next = [Math.max(0, Math.min(rowOrder.length - 1, next[0])), Math.max(0, Math.min(colOrder.length - 1, next[1]))];
    const left = next[1] * cell;
    if (left < scroll.scrollLeft || left + cell > scroll.scrollLeft + scroll.clientWidth) scroll.scrollLeft = left - scroll.clientWidth / 2;
    point(...next);
  });
  live(root, paint);
  return { root, paint, update(changes) { Object.assign(spec, changes); active = null; cursor.style.display = "none"; readout.replaceChildren(); paint(); } };
}

/* A small picture of a measure, for the row of choices. */
function thumbnail(at, n, order, mode) {
  const size = Math.min(n, 120), canvas = el("canvas", { width: size, height: size, "aria-hidden": "true" });
  const pen = canvas.getContext("2d");
  let low = Infinity, high = -Infinity;
  for (let i = 0; i < n; i++) for (let j = 0; j < n; j++) if (i !== j) { const v = at(i, j); if (!Number.isNaN(v)) { low = Math.min(low, v); high = Math.max(high, v); } }
  for (let r = 0; r < size; r++) for (let c = 0; c < size; c++) {
    const i = order[Math.floor(r * n / size)], j = order[Math.floor(c * n / size)], v = at(i, j);
    if (i === j || Number.isNaN(v)) continue;
    pen.fillStyle = rgb(sequential((v - low) / (high - low || 1)));
    pen.fillRect(c, r, 1, 1);
  }
  return canvas;
}
