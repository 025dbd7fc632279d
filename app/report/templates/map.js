/* Domains as points; stages as soft hulls; the strongest synergies as lines. */
function domainMap(host, view) {
  const svg = draw("svg", { class: "chart", role: "group", "aria-label": "Map of the domains: near means alike. Tab moves from domain to domain." });
  host.append(svg);
  const points = view.points, lift = 30;
  const spanX = Math.max(...points.map((p) => p[1])) - Math.min(...points.map((p) => p[1])) || 1;
  const spanY = Math.max(...points.map((p) => p[2])) - Math.min(...points.map((p) => p[2])) || 1;
  const minX = Math.min(...points.map((p) => p[1])), minY = Math.min(...points.map((p) => p[2]));

  function hull(list) {
    const s = [...list].sort((a, b) => a[0] - b[0] || a[1] - b[1]);
    if (s.length < 3) return s;
    const turn = (o, a, b) => (a[0] - o[0]) * (b[1] - o[1]) - (a[1] - o[1]) * (b[0] - o[0]);
    const half = (input) => { const out = []; for (const p of input) { while (out.length > 1 && turn(out[out.length - 2], out[out.length - 1], p) <= 0) out.pop(); out.push(p); } out.pop(); return out; };
    return [...half(s), ...half(s.reverse())];
  }

  function paint() {
    const width = Math.max(280, host.clientWidth), narrow = width < 560;
    const scale = Math.min((width - (narrow ? 90 : 190)) / spanX, (narrow ? 420 : Math.max(230, Math.min(520, 170 + 24 * points.length))) / spanY);
    const height = Math.max(200, spanY * scale + 2 * lift + 26);
    const at = {};
    points.forEach(([i, x, y]) => { at[i] = [(width - spanX * scale) / 2 + (x - minX) * scale, (height - spanY * scale) / 2 + (y - minY) * scale]; });
    svg.setAttribute("viewBox", `0 0 ${width} ${height}`); svg.replaceChildren();
    const radius = points.length > 30 ? 7.5 : 9.5;
    DATA.stages.forEach((members, t) => {
      const here = members.filter((i) => at[i]).map((i) => at[i]);
      if (!here.length) return;
      const outline = hull(here), d = `M${outline.map((p) => p.map((v) => v.toFixed(1)).join(" ")).join("L")}Z`;
      svg.append(draw("path", { class: `hull ${stageClass(t)}`, d, "stroke-width": radius * 4.2 }));
    });
    for (const [i, j, weight] of view.edges) {
      const same = STAGE_OF[i] !== null && STAGE_OF[i] === STAGE_OF[j];
      svg.append(draw("line", { class: `edge${same || !DATA.stages.length ? "" : " cross-stage"}`, x1: at[i][0], y1: at[i][1], x2: at[j][0], y2: at[j][1], "stroke-width": 0.7 + 2 * weight, opacity: 0.14 + 0.36 * weight }));
    }
    const taken = points.map(([i]) => [at[i][0] - radius, at[i][1] - radius, 2 * radius, 2 * radius]);
    const clash = (a) => a[0] < 2 || a[1] < 2 || a[0] + a[2] > width - 2 || a[1] + a[3] > height - 2 || taken.some((b) => a[0] < b[0] + b[2] && b[0] < a[0] + a[2] && a[1] < b[1] + b[3] && b[1] < a[1] + a[3]);
    const size = points.length > 30 || narrow ? 11 : 12.5;
    points.forEach(([i]) => {
      const [x, y] = at[i], g = draw("g", { class: `point ${stageClass(STAGE_OF[i])}`, tabindex: "0", role: "img" });
      const partners = view.edges.filter((e) => e[0] === i || e[1] === i).sort((a, b) => b[3] - a[3]).slice(0, 3);
      const spoken = `${NAMES[i]}${STAGE_OF[i] === null ? "" : `, stage ${STAGE_OF[i] + 1}`}`;
      g.setAttribute("aria-label", spoken);
      g.append(draw("circle", { cx: x, cy: y, r: radius }));
      if (STAGE_OF[i] !== null) { const num = draw("text", { class: "num", x, y: y + 0.5, "text-anchor": "middle", "dominant-baseline": "central", "font-size": radius * 1.15 }); num.textContent = STAGE_OF[i] + 1; g.append(num); }
      const words = shorten(NAMES[i], narrow ? 16 : 26), w = Array.from(words).length * size * 0.56 + 2, h = size * 1.2, o = radius + 4;
      const spots = [[o, -h / 2, "start", 0], [-o - w, -h / 2, "end", 0], [-w / 2, -o - h, "middle", 0], [-w / 2, o, "middle", 0], [o * 0.7, -o * 0.7 - h, "start", 0], [o * 0.7, o * 0.7, "start", 0], [-o * 0.7 - w, -o * 0.7 - h, "end", 0], [-o * 0.7 - w, o * 0.7, "end", 0]];
      let spot = spots.find((s) => !clash([x + s[0], y + s[1], w, h]));
      if (spot) taken.push([x + spot[0], y + spot[1], w, h]);
      else { g.classList.add("hidden-label"); spot = x + o + w < width ? spots[0] : spots[1]; }
      const anchor = spot[2], tx = anchor === "start" ? x + spot[0] : anchor === "end" ? x + spot[0] + w : x;
      const label = draw("text", { class: "lab", x: tx, y: y + spot[1] + h / 2, "text-anchor": anchor, "dominant-baseline": "central", "font-size": size });
      label.textContent = words; g.append(label);
      const on = (px, py) => {
        g.classList.add("on"); svg.append(g);
        place(px, py, el("div", { class: "head" }, name(i)), ...(STAGE_OF[i] === null ? [] : [row("stage", String(STAGE_OF[i] + 1), stageClass(STAGE_OF[i]))]),
          ...partners.map((e) => row(shorten(NAMES[e[0] === i ? e[1] : e[0]], 22), show(e[3], 3))), ...(partners.length && view.synergy ? [el("div", { class: "row" }, view.synergy)] : []));
      };
      const off = () => { g.classList.remove("on"); unplace(); };
      g.addEventListener("pointerenter", (event) => on(event.clientX, event.clientY));
      g.addEventListener("pointerleave", off);
      g.addEventListener("focus", () => { if (g.matches(":focus-visible")) { const box = g.querySelector("circle").getBoundingClientRect(); g.classList.add("on"); place(box.right, box.bottom, el("div", { class: "head" }, name(i))); } });
      g.addEventListener("blur", off);
      svg.append(g);
    });
  }
  live(host, paint);
}
