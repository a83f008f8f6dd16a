(root, data, page) => {
  const $ = (name) => root.querySelector(".gp-profile-" + name);
  const NS = "http://www.w3.org/2000/svg";

  // --- numbers as text: as in viz/profiled.py
  const digits = (v) => (v < 9.995 ? v.toFixed(2) : v < 99.95 ? v.toFixed(1) : v.toFixed(0));
  const duration = (s) => (s <= 0 ? "0 µs" : s < 999.5e-6 ? digits(s * 1e6) + " µs" : s < 0.9995 ? digits(s * 1e3) + " ms" : digits(s) + " s");
  function amount(v, unit) {
    for (const [scale, sign] of [[1e12, "T"], [1e9, "G"], [1e6, "M"], [1e3, "k"]])
      if (v >= 0.9995 * scale) return `${digits(v / scale)} ${sign}${unit}`;
    return `${v.toFixed(0)} ${unit}`;
  }
  const times = (v) => (v ? (v < 9.95 ? v.toFixed(1) : v.toFixed(0)) + "×" : "");

  // --- the table
  const share = (row) => row.seconds / (data.total[side === "interpreted" ? "interpreted" : "compiled"][0] || 1);
  const columns = {
    title: ["kernel", (r) => r.title], seconds: ["time", (r) => duration(r.seconds)], share: ["share", (r) => (share(r) * 100).toFixed(1) + " %"],
    faster: ["faster by", (r) => times(r.faster), "interpreted time over compiled time"], flops: ["FLOP", (r) => amount(r.flops, "")],
    bytes: ["moved", (r) => amount(r.bytes, "B")], rate: ["FLOP/s", (r) => (r.rate ? amount(r.rate, "") : "")],
    roof: ["of roof", (r) => (r.roof * 100).toFixed(0) + " %", "least time that the machine could need, over the time taken"],
    lines: ["your lines", (r) => r.lines.slice(0, 2).join(", ") + (r.lines.length > 2 ? " …" : "")],
  };
  let side = "none", order = "seconds", descending = true, rows = [];
  function fillTable() {
    const kernels = side !== "interpreted";
    const shown = Object.keys(columns).filter((c) => (kernels ? c !== "faster" || data.total.interpreted[0] : c !== "faster" && c !== "roof"));
    if (!shown.includes(order)) order = "seconds";
    const value = (r) => (order === "share" ? r.seconds : order === "lines" ? r.lines.join() : r[order]);
    const list = (kernels ? data.kernels : data.nodes).map((row, k) => ({ row, k }));
    list.sort((a, b) => {
      const [x, y] = [value(a.row), value(b.row)];
      return x === y ? a.k - b.k : (x < y ? -1 : 1) * (descending ? -1 : 1);
    });
    const head = document.createElement("tr");
    for (const name of shown) {
      const cell = document.createElement("th"), button = document.createElement("button");
      cell.scope = "col";
      cell.className = `gp-profile-${name}`;
      cell.setAttribute("aria-sort", name === order ? (descending ? "descending" : "ascending") : "none");
      button.textContent = name === "title" && !kernels ? "node" : columns[name][0];
      if (columns[name][2]) button.title = columns[name][2];
      button.onclick = () => {
        descending = name === order ? !descending : name !== "title" && name !== "lines";
        order = name;
        fillTable();
        root.querySelector(`thead .gp-profile-${name} button`).focus();
        page.announce(`sorted by ${button.textContent}, ${descending ? "largest" : "smallest"} first`);
      };
      cell.append(button);
      head.append(cell);
    }
    root.querySelector("thead").replaceChildren(head);
    const most = Math.max(...list.map(({ row }) => row.seconds), 1e-12);
    rows = list.map(({ row, k }, place) => {
      const line = document.createElement("tr");
      line.tabIndex = place ? -1 : 0;
      line.setAttribute("aria-label", row.say);
      for (const name of shown) {
        const cell = document.createElement(name === "title" ? "th" : "td");
        cell.className = `gp-profile-${name}`;
        cell.textContent = columns[name][1](row);
        if (name === "title") cell.scope = "row";
        if (name === "share") cell.style.setProperty("--gp-profile-bar", `${(row.seconds / most * 100).toFixed(1)}%`);
        line.append(cell);
      }
      return { element: line, row, index: kernels ? k : -1 };
    });
    root.querySelector("tbody").replaceChildren(...rows.map((r) => r.element));
    rows.forEach((r) => watch(r.element, r.row, rows.map((o) => o.element), r.index));
  }

  // --- what is looked at, here and elsewhere
  const hint = "Point at a kernel, a disc or a buffer, or reach it with Tab and the arrows.";
  $("say").textContent = hint;
  let pointer = "";
  const moved = (e) => pointer !== `${e.clientX} ${e.clientY}`;  // else the pane scrolled below a pointer at rest
  root.addEventListener("pointermove", (e) => { pointer = `${e.clientX} ${e.clientY}`; });
  let held = null;  // what has the focus, shown again when the pointer leaves
  /** Hover and focus say a thing and light its kin; arrows walk among its peers (one of them is in the tab order). */
  function watch(element, what, peers, kernel) {
    const look = () => {
      $("say").textContent = what.say;
      page.emit("highlight", { keys: what.keys, from: "profile" });
      element.classList.add("gp-profile-own");
      band(kernel);
      for (const k of what.after ?? []) blocks[k]?.element.classList.add("gp-profile-before");
    };
    const leave = () => {
      $("say").textContent = hint;
      page.emit("highlight", { keys: [], from: "profile" });
      element.classList.remove("gp-profile-own");
      band(-1);
      root.querySelectorAll(".gp-profile-before").forEach((e) => e.classList.remove("gp-profile-before"));
    };
    element.addEventListener("pointerenter", (e) => { if (moved(e)) { leave(); look(); } });
    element.addEventListener("pointerleave", (e) => { if (moved(e)) { leave(); held?.(); } });
    element.addEventListener("focus", () => { leave(); held = look; look(); });
    element.addEventListener("blur", () => { held = null; leave(); });
    element.addEventListener("keydown", (e) => {
      const by = { ArrowDown: 1, ArrowRight: 1, ArrowUp: -1, ArrowLeft: -1 }[e.key];
      const at = peers.indexOf(element);
      const next = e.key === "Home" ? 0 : e.key === "End" ? peers.length - 1 : by ? at + by : -1;
      if (e.key !== "Home" && e.key !== "End" && !by) return;
      e.preventDefault(); e.stopPropagation();
      if (!peers[next]) return;
      element.setAttribute("tabindex", "-1");
      peers[next].setAttribute("tabindex", "0");
      peers[next].focus();
    });
  }
  function drawn(selector, kind, list) {
    const svg = root.querySelector(`${selector} svg`);
    if (!svg) return [];
    svg.setAttribute("role", "group");
    const found = [];
    for (const g of svg.querySelectorAll(`g.${kind}`)) {
      const index = Number(g.id.slice(g.id.lastIndexOf("-") + 2));
      g.querySelector("title")?.remove();
      g.setAttribute("role", "img"); g.setAttribute("aria-label", list[index].say); g.setAttribute("tabindex", "-1");
      found[index] = { element: g, row: list[index] };
    }
    return found;
  }
  const points = drawn(".gp-profile-roof", "point", data.kernels), rings = drawn(".gp-profile-roof", "interpreted", data.kernels);
  const blocks = drawn(".gp-profile-arena", "block", data.blocks);
  const bySpeed = points.filter(Boolean).sort((a, b) => b.row.seconds - a.row.seconds).map((p) => p.element);
  points.forEach((p, k) => watch(p.element, p.row, bySpeed, k));
  rings.forEach((p, k) => watch(p.element, p.row, bySpeed, k));
  blocks.forEach((b) => watch(b.element, b.row, blocks.filter(Boolean).map((o) => o.element), -1));
  for (const first of [bySpeed[0], blocks.find(Boolean)?.element]) first?.setAttribute("tabindex", "0");

  // the launches of a kernel, as bands over the arena
  const arena = root.querySelector(".gp-profile-arena svg");
  function band(kernel) {
    if (!arena) return;
    arena.querySelectorAll(".gp-profile-band").forEach((e) => e.remove());
    const [left, top, right, bottom] = data.plot, wide = (right - left) / Math.max(data.launches, 1);
    for (const launch of (data.kernels[kernel]?.launches ?? []).slice(0, 200)) {
      const rect = document.createElementNS(NS, "rect");
      for (const [k, v] of [["class", "gp-profile-band"], ["x", left + launch * wide], ["y", top], ["width", Math.max(wide, 1)], ["height", bottom - top]])
        rect.setAttribute(k, v);
      arena.append(rect);
    }
  }
  /** What a box of the picture costs, compiled and interpreted. */
  function told(id) {
    const words = ["compiled", "interpreted"].filter((s) => data.heat[s][id]).map((s) => {
      const [seconds, flops, bytes] = data.heat[s][id], part = seconds / (data.total[s][0] || 1) * 100;
      return `${s} ${duration(seconds)} (${part.toFixed(1)} %), ${amount(flops, "FLOP")}, ${amount(bytes, "B")} moved`;
    });
    return `${page.boxes[id].title}: ${words.join("; ") || "costs nothing"}.`;
  }
  page.on("highlight", ({ keys, from }) => {
    if (from === "picture" && open) {
      const box = keys.find((k) => k.startsWith("node:"))?.slice(5);
      $("say").textContent = box && page.boxes[box] ? told(box) : hint;
    }
    const level = ["kernel:", "node:", "line:"].find((kind) => keys.some((k) => k.startsWith(kind)));
    const wanted = new Set(level ? keys.filter((k) => k.startsWith(level)) : []);
    const kin = (item) => item && item.element.classList.toggle("gp-profile-kin", item.row.keys.some((k) => wanted.has(k)));
    rows.forEach(kin); points.forEach(kin); rings.forEach(kin); blocks.forEach(kin);
    raise();
  });
  /** Discs crowd under the roof: outlines of the lit ones are drawn over all others. */
  function raise() {
    const svg = root.querySelector(".gp-profile-roof svg");
    svg.querySelectorAll(".gp-profile-raised").forEach((e) => e.remove());
    for (const ellipse of svg.querySelectorAll(".gp-profile-kin ellipse")) {
      const copy = ellipse.cloneNode();
      copy.setAttribute("class", "gp-profile-raised");
      svg.append(copy);
    }
  }

  // --- heat on the picture
  const picture = page.svg(), layer = document.createElementNS(NS, "g"), chips = [];
  layer.setAttribute("class", "gp-profile-chips");
  picture.append(layer);
  const degree = (value, most) => Math.sqrt(value / most);
  const metric = () => $("what").selectedIndex, hottest = (heat) => Math.max(...Object.values(heat).map((v) => v[metric()]), 1e-12);
  const written = (value) => [duration, (v) => amount(v, "FLOP"), (v) => amount(v, "B")][metric()](value);
  $("what").onchange = () => warm();
  function cool() {
    layer.replaceChildren();
    chips.length = 0;
    page.root.classList.remove("gp-profile-warm");
    for (const g of picture.querySelectorAll(".gp-profile-hot")) {
      g.classList.remove("gp-profile-hot");
      g.style.removeProperty("--gp-profile-degree");
    }
  }
  function warm() {
    cool();
    legend();
    const heat = data.heat[side];
    if (!heat) return;
    page.root.classList.add("gp-profile-warm");  // shows the whole picture, whatever the step
    const most = hottest(heat);
    for (const id of Object.keys(page.boxes)) {
      const g = page.box(id), value = heat[id]?.[metric()] ?? 0;
      if (!g) continue;
      g.classList.add("gp-profile-hot");
      g.style.setProperty("--gp-profile-degree", degree(value, most).toFixed(3));
      if (value > 0) chip(g, written(value));
    }
    follow();
  }
  /** A label on the lower edge of a box. */
  function chip(g, words) {
    const shape = g.querySelector("rect, ellipse");
    if (!shape) return;
    const b = shape.getBBox(), made = document.createElementNS(NS, "g"), back = document.createElementNS(NS, "rect"), text = document.createElementNS(NS, "text");
    text.textContent = words;
    const wide = words.length * 7.8 + 8, x = b.x + b.width - wide + 8, y = b.y + b.height - 7;
    for (const [k, v] of [["x", x], ["y", y], ["width", wide], ["height", 18], ["rx", 8]]) back.setAttribute(k, v);
    for (const [k, v] of [["x", x + wide / 2], ["y", y + 13.5], ["text-anchor", "middle"], ["font-size", 13]]) text.setAttribute(k, v);
    made.append(back, text);
    layer.append(made);
    chips.push([made, g]);
  }
  const follow = () => chips.forEach(([made, g]) => { made.style.display = g.classList.contains("gp-hide") ? "none" : ""; });
  page.on("step", follow);
  function legend() {
    const heat = data.heat[side], box = $("legend");
    box.replaceChildren();
    box.hidden = !heat;
    if (!heat) return;
    const most = hottest(heat), outside = data.outside[side][metric()];
    for (const d of [0, 0.25, 0.5, 0.75, 1]) {
      const item = document.createElement("span"), swatch = document.createElement("i");
      swatch.style.setProperty("--gp-profile-degree", d);
      item.append(swatch, d ? written(most * d * d) : "0");
      box.append(item);
    }
    const share = outside / (data.total[side][metric()] || 1);
    if (share > 0.0005) {
      const note = document.createElement("span");
      note.textContent = `${(share * 100).toFixed(1)} % outside of the picture`;
      box.append(note);
    }
    box.setAttribute("aria-label", `The darker, the more: up to ${written(most)} a box`);
  }

  // --- the switch
  const buttons = [...root.querySelectorAll(".gp-profile-switch button")];
  let wanted = "compiled", open = false;
  function choose(name) {
    wanted = side = name;
    buttons.forEach((b) => { const mine = b.dataset.side === name; b.setAttribute("aria-checked", String(mine)); b.tabIndex = mine ? 0 : -1; });
    warm();
    fillTable();
  }
  buttons.forEach((b, k) => {
    b.onclick = () => choose(b.dataset.side);
    b.onkeydown = (e) => {
      const by = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[e.key];
      if (!by) return;
      const next = buttons[(k + by + buttons.length) % buttons.length];
      next.focus(); choose(next.dataset.side);
      e.preventDefault(); e.stopPropagation();
    };
  });
  page.key("h", "costs on the picture: compiled, interpreted, neither", () => {
    if (!open) return page.open("profile");
    const at = buttons.findIndex((b) => b.dataset.side === wanted);
    choose(buttons[(at + 1) % buttons.length].dataset.side);
    page.announce(`costs on the picture: ${buttons.find((b) => b.dataset.side === wanted).textContent}`);
  });
  page.on("show", ({ pane }) => {
    if (pane === "profile" && !open) { open = true; choose(wanted); }
    else if (pane !== "profile" && open) { open = false; cool(); }
  });
}
