const host = (id) => document.querySelector(`[data-figure="${id}"]`);
const planned = DATA.stages.flat();
const planOrder = planned.length ? [...planned, ...NAMES.map((_, i) => i).filter((i) => !planned.includes(i))] : null;
const split = NAMES.length > 40 ? "split tall" : "split";
/* Beside each other, heatmaps of many domains would be cut off: one below the other they fit. */
if (NAMES.length > 28) ["together", "mmd-before"].forEach((id) => host(id)?.closest(".pair").classList.add("wide"));
const blocks = DATA.stages.map((members) => members.length);
const alphabetical = NAMES.map((_, i) => i);
const pairHead = (i, j) => el("div", { class: "head" }, name(i), i === j ? "" : " × ", i === j ? "" : name(j));
const together = (i, j) => (STAGE_OF[i] === null || STAGE_OF[j] === null || i === j ? [] : [row("in the plan", STAGE_OF[i] === STAGE_OF[j] ? `together, stage ${STAGE_OF[i] + 1}` : `apart, ${STAGE_OF[i] + 1} and ${STAGE_OF[j] + 1}`)]);

/* Relations: one large heatmap, a strip of measures, an order, and the telling pairs. */
function relations(where) {
  const measures = DATA.relations.measures.map((m) => ({ ...m, v: unpack(m.value), lo: unpack(m.low), hi: unpack(m.high), fl: unpack(m.floor), no: unpack(m.noise) }));
  let current = measures[0], order = planOrder ? "plan" : "dendrogram";
  const orders = () => ({ plan: planOrder, dendrogram: current.order, alphabetical });
  const says = el("p", { class: "says" }), ranks = el("div", { class: "ranks" }), left = el("div"), controls = el("div", { class: "controls" });
  const strip = choice({ class: "thumbs" }, "Measure", measures.map((m) => [m.id, m.title]), current.id, (id) => { current = measures.find((m) => m.id === id); refresh(); },
    (id, title) => { const m = measures.find((x) => x.id === id); return [thumbnail(m.v.at, NAMES.length, planOrder || m.order), el("span", null, title)]; });
  const options = [["plan", "Plan"], ["dendrogram", "Dendrogram"], ["alphabetical", "A–Z"]].filter(([key]) => key !== "plan" || planOrder);
  controls.append(el("span", { class: "control" }, "Order by", choice({ class: "segments" }, "Order of the domains", options, order, (value) => { order = value; refresh(); })));
  where.append(strip, says, controls, el("div", { class: split }, left, ranks));
  const spec = { rows: NAMES, cols: NAMES, square: true, rowStage: STAGE_OF, colStage: STAGE_OF, at: (i, j) => current.v.at(i, j), mode: "seq", label: "Relations of the domains",
    tip: (i, j) => [pairHead(i, j), el("div", { class: "big" }, fixed(current.v.at(i, j)), current.unit ? ` ${current.unit}` : ""),
      ...(current.lo ? [row("95 % interval", `${fixed(current.lo.at(i, j))} to ${fixed(current.hi.at(i, j))}`)] : []),
      ...(current.fl ? [row("noise floor", fixed(current.fl.at(i, j)))] : []),
      ...(i !== j && current.no && current.no.at(i, j) > 0 ? [el("div", { class: "note" }, "not told from two halves of one domain")] : []), ...together(i, j)],
    line: (i, j) => [name(i), i === j ? " with itself: " : " × ", i === j ? "" : name(j), i === j ? "" : ": ", el("b", null, fixed(current.v.at(i, j))), current.lo ? `  (${fixed(current.lo.at(i, j))} to ${fixed(current.hi.at(i, j))})` : "", current.fl ? `  floor ${fixed(current.fl.at(i, j))}` : ""] };
  let map = null;
  function ranking(title, pairs, faded) {
    const list = el("ol");
    for (const [i, j, value] of pairs) list.append(el("li", { class: current.no && current.no.at(i, j) > 0 ? "faded" : null }, el("span", null, name(i), current.symmetric ? " × " : " → ", name(j)), el("b", null, fixed(value))));
    return el("div", null, el("h5", null, title), list);
  }
  function refresh() {
    const changes = { rowOrder: orders()[order], colOrder: orders()[order], blocks: order === "plan" && planOrder ? blocks : [], similar: current.kind === "similarity",
      noise: current.no ? (i, j) => current.no.at(i, j) > 0 : null,
      legend: [current.kind === "discrepancy" ? "alike" : "different", current.kind === "discrepancy" ? "different" : "alike", current.no ? "not told from two halves of one domain" : null] };
    says.replaceChildren(el("b", null, `${current.title}. `), current.says || "", current.unit ? ` Unit: ${current.unit}. ` : " ", current.trust || "");
    ranks.replaceChildren(...(current.extremes.alike.length ? [ranking("Most alike", current.extremes.alike), ranking("Most different", current.extremes.apart)] : []));
    where.dataset.measure = current.id; where.dataset.order = order;
    if (map) map.update(changes); else map = heatmap(left, Object.assign(spec, changes));
  }
  refresh();
  if (host("transfer") && DATA.relations.transfer) square(host("transfer"), DATA.relations.transfer, { mode: "seq", label: "Measured transfer", legend: ["little", "much", null], maxCell: 34 });
}

function square(where, packed, options) {
  const v = unpack(packed), big = options.percent ? (x) => `${show(100 * x, 3)} %` : (x) => options.mode === "div" ? signed(x, 3) : show(x, 3);
  return heatmap(where, Object.assign({ rows: NAMES, cols: NAMES, square: true, rowStage: STAGE_OF, colStage: STAGE_OF, at: v.at, rowOrder: planOrder, colOrder: planOrder, blocks, maxCell: 40,
    tip: (i, j) => [pairHead(i, j), el("div", { class: "big" }, i === j ? "–" : big(v.at(i, j))), ...(options.extra ? options.extra(i, j) : []), ...together(i, j)],
    line: (i, j) => [name(i), " × ", name(j), ": ", el("b", null, i === j ? "–" : big(v.at(i, j)))] }, options));
}

function plan() {
  const p = DATA.plan;
  if (host("gain") && p.gain) {
    const left = el("div"), ranks = el("div", { class: "ranks" });
    for (const [title, pairs] of [["Expected to help each other", p.pulls.together], ["Expected to hurt each other", p.pulls.apart]]) {
      if (!pairs.length) continue;
      const list = el("ol");
      for (const [i, j, value] of pairs) list.append(el("li", null, el("span", null, name(i), " × ", name(j)), el("b", null, (value > 0 ? "+" : "") + fixed(value, 2))));
      ranks.append(el("div", null, el("h5", null, title), list));
    }
    host("gain").append(el("div", { class: split }, left, ranks));
    square(left, p.gain, { mode: "div", label: "Gain of every pair", legend: ["apart", "together", null], extra: (i, j) => (i === j ? [] : [el("div", { class: "row" }, unpack(p.gain).at(i, j) >= 0 ? "better together" : "better apart")]) });
  }
  if (host("together") && p.together) square(host("together"), p.together, { mode: "share", limits: [0, 1], percent: true, label: "How often pairs stay together", legend: ["never", "always", null] });
  if (host("affinity") && p.order && p.order.affinity) {
    const v = unpack(p.order.affinity), names = DATA.stages.map((_, t) => `stage ${t + 1}`), own = DATA.stages.map((_, t) => t);
    heatmap(host("affinity"), { rows: names, cols: names, square: true, rowStage: own, colStage: own, at: v.at, mode: "seq", maxCell: 40, label: "Affinity of stages", legend: ["little", "much", null],
      tip: (i, j) => [el("div", { class: "head" }, `${names[i]} → ${names[j]}`), el("div", { class: "big" }, show(v.at(i, j)))], line: (i, j) => [`${names[i]} → ${names[j]}: `, el("b", null, show(v.at(i, j)))] });
  }
  if (host("phase") && p.phase) {
    const v = unpack(p.phase.counts), agree = unpack(p.phase.agreement), rows = p.phase.budget, cols = p.phase.lam.map((t) => `λ = ${t}`), k = p.phase.domains;
    const where_ = (i, j) => `${cols[j]}, ${rows[i]}`;
    const trivial = (n) => (n <= 1 ? "everything together: trivial" : n >= k ? "everything alone: trivial" : "");
    heatmap(host("phase"), { rows, cols, at: v.at, mode: "seq", limits: [1, Math.max(2, k)], maxCell: 54, decimals: 0, label: "Number of stages", legend: ["together", "alone", null], boxes: p.phase.column === null || p.phase.row === null ? [] : [[p.phase.row, p.phase.column, 1, 1]],
      tip: (i, j) => [el("div", { class: "head" }, where_(i, j)), ...(agree && !Number.isNaN(agree.at(i, j)) ? [row("pairs as in this plan", `${show(100 * agree.at(i, j), 3)} %`)] : []), el("div", { class: "big" }, Number.isNaN(v.at(i, j)) ? "no plan fits" : `${Math.round(v.at(i, j))} stages`), ...(trivial(Math.round(v.at(i, j))) ? [el("div", { class: "note" }, trivial(Math.round(v.at(i, j))))] : [])],
      line: (i, j) => [`${where_(i, j)}: `, el("b", null, Number.isNaN(v.at(i, j)) ? "no plan fits" : `${Math.round(v.at(i, j))} stages`)] });
  }
}

function outcome() {
  const o = DATA.outcome;
  if (host("forest")) forest(host("forest"), o);
  if (host("forgetting") && o.forgetting) {
    const v = unpack(o.forgetting.matrix), rows = Array.from({ length: o.forgetting.stages }, (_, t) => `after ${t + 1}`), cols = planOrder || alphabetical;
    const place_ = cols.map((i) => STAGE_OF[i]), boxes = [];
    for (let t = 0; t < o.forgetting.stages; t++) { const c = place_.indexOf(t); if (c >= 0) boxes.push([t, c, 1, place_.filter((s) => s === t).length]); }
    heatmap(host("forgetting"), { rows, cols: NAMES, rowStage: rows.map((_, t) => t), colStage: STAGE_OF, at: v.at, mode: "div", goodLow: true, colOrder: cols, rowOrder: rows.map((_, t) => t), boxes, maxCell: 60, label: "Loss after every stage", legend: ["better", "worse", null],
      tip: (i, j) => [el("div", { class: "head" }, name(j), `, after stage ${i + 1}`), el("div", { class: "big" }, signed(v.at(i, j), 3)), el("div", { class: "row" }, "loss less the loss before training"), ...(STAGE_OF[j] === i ? [el("div", { class: "row" }, "its own stage")] : [])],
      line: (i, j) => [name(j), ` after stage ${i + 1}: `, el("b", null, signed(v.at(i, j), 3))] });
  }
  if (host("mmd-before") && o.alignment) {
    const a = unpack(o.alignment.before), b = unpack(o.alignment.after);
    const limits = [Math.min(0, o.alignment.before.lo, o.alignment.after.lo), Math.max(o.alignment.before.hi, o.alignment.after.hi)];
    const extra = (i, j) => (i === j ? [] : [row("before", show(a.at(i, j))), row("after", show(b.at(i, j)))]);
    square(host("mmd-before"), o.alignment.before, { mode: "seq", limits, label: "MMD² before", legend: ["near", "far", null], extra, maxCell: 34 });
    square(host("mmd-after"), o.alignment.after, { mode: "seq", limits, label: "MMD² after", legend: ["near", "far", null], extra, maxCell: 34 });
  }
}

/* Tables: sort by a heading, fold long ones. */
function tables() {
  document.querySelectorAll("table[data-sort]").forEach((table) => {
    const body = table.tBodies[0], heads = [...table.tHead.rows[0].cells];
    heads.forEach((head, column) => {
      if (head.hasAttribute("data-fixed")) return;
      const button = el("button", { type: "button" }, head.textContent);
      button.addEventListener("click", () => {
        const up = head.getAttribute("aria-sort") !== "ascending";
        heads.forEach((h) => h.removeAttribute("aria-sort"));
        head.setAttribute("aria-sort", up ? "ascending" : "descending");
        const value = (tr) => { const cell = tr.cells[column]; return cell.hasAttribute("data-v") ? (cell.dataset.v === "" ? NaN : Number(cell.dataset.v)) : cell.textContent.trim().toLowerCase(); };
        const rank = (a, b) => { const x = value(a), y = value(b); if (typeof x === "number") return Number.isNaN(x) ? 1 : Number.isNaN(y) ? -1 : (x - y) * (up ? 1 : -1); return x.localeCompare(y) * (up ? 1 : -1); };
        body.append(...[...body.rows].sort(rank));
        fold(table);
      });
      head.replaceChildren(button);
    });
    fold(table);
  });
}
function fold(table) {
  const rows = [...table.tBodies[0].rows], limit = Number(table.dataset.fold || 0);
  if (!limit || rows.length <= limit + 3) return;
  let button = table.parentElement.nextElementSibling;
  if (!button || !button.matches(".fold")) {
    button = el("button", { type: "button", class: "fold" });
    button.addEventListener("click", () => { table.dataset.open = table.dataset.open ? "" : "yes"; fold(table); });
    table.parentElement.after(button);
  }
  const open = Boolean(table.dataset.open);
  rows.forEach((r, k) => { r.hidden = !open && k >= limit; });
  button.textContent = open ? "Show fewer" : `Show all ${rows.length}`;
}

/* Theme: the system's, or the reader's choice, kept where the browser allows it. */
function theme() {
  const root = document.documentElement, button = document.getElementById("theme");
  const dark = () => (root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches);
  const paint = () => { button.textContent = dark() ? "Light" : "Dark"; button.setAttribute("aria-label", dark() ? "Use light colours" : "Use dark colours"); redraws.forEach((again) => again()); };
  try { const kept = localStorage.getItem("kinfold-theme"); if (kept === "dark" || kept === "light") root.dataset.theme = kept; } catch (_) { /* storage is closed to files in some browsers */ }
  button.hidden = false;
  button.addEventListener("click", () => { root.dataset.theme = dark() ? "light" : "dark"; try { localStorage.setItem("kinfold-theme", root.dataset.theme); } catch (_) { /* see above */ } paint(); });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", paint);
  /* Paper is light. The event comes before the print styles apply, so canvases need the light colours by hand. */
  let kept = null;
  addEventListener("beforeprint", () => {
    document.querySelectorAll("details").forEach((d) => { d.open = true; });
    kept = kept ?? (root.dataset.theme || ""); root.dataset.theme = "light"; paint();
  });
  addEventListener("afterprint", () => { if (kept) root.dataset.theme = kept; else delete root.dataset.theme; kept = null; paint(); });
  paint();
}

function contents() {
  const links = [...document.querySelectorAll(".side li a")], seen = new Map(), nav = document.querySelector(".side nav");
  const observer = new IntersectionObserver((entries) => {
    entries.forEach((entry) => seen.set(entry.target.id, entry.isIntersecting));
    const current = links.find((a) => seen.get(a.hash.slice(1)));
    if (current) links.forEach((a) => { if (a === current) { a.setAttribute("aria-current", "true"); } else a.removeAttribute("aria-current"); });
    /* On a narrow screen the sections are a strip: the current one stays in view. */
    if (current && nav.scrollWidth > nav.clientWidth) nav.scrollLeft = current.offsetLeft - nav.offsetLeft - 40;
  }, { rootMargin: "-15% 0px -70% 0px" });
  links.forEach((a) => { const target = document.getElementById(a.hash.slice(1)); if (target) observer.observe(target); });
}

if (DATA.relations && host("relations")) relations(host("relations"));
if (DATA.map && host("map")) domainMap(host("map"), DATA.map);
if (DATA.plan) plan();
if (DATA.training) DATA.training.charts.forEach((c) => { const where = host(`chart-${c.id}`); if (where) lineChart(where, c, DATA.training); });
if (DATA.outcome) outcome();
tables(); contents(); theme();
document.documentElement.dataset.ready = "yes";
