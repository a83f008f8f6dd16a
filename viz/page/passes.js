(root, data, page) => {
  const $ = (name) => root.querySelector(".gp-passes-" + name);
  const svg = $("pic").querySelector("svg");
  const NS = "http://www.w3.org/2000/svg";
  const groups = new Map([...svg.querySelectorAll(":scope > g[id]")].map((g) => [g.id.slice(g.id.indexOf("-") + 1), g]));
  const moments = data.moments.map((m) => ({ ...m, live: new Set([...m.boxes, ...m.edges]) }));
  const buttons = [...$("stages").querySelectorAll("button")];
  let at = -1, timer = 0, pointer = "";
  const moved = (e) => pointer !== `${e.clientX} ${e.clientY}`;  // else the pane scrolled below a pointer at rest
  root.addEventListener("pointermove", (e) => { pointer = `${e.clientX} ${e.clientY}`; });
  /** Hover and focus light a thing's kin. */
  function watch(element, light, dark) {
    element.onpointerenter = (e) => { if (moved(e)) light(); };
    element.onpointerleave = (e) => { if (moved(e)) dark(); };
    element.onfocus = light; element.onblur = dark;
  }

  // --- stages
  function show(k) {
    const next = Math.max(0, Math.min(moments.length - 1, k));
    if (next === at) return;
    const now = moments[next], before = moments[next - 1];
    at = next;
    for (const [id, g] of groups) {
      if (!/^[ue]\d/.test(id)) continue;
      const live = now.live.has(id), was = before ? before.live.has(id) : live;
      g.classList.toggle("gp-passes-out", !live && !was);
      g.classList.toggle("gp-passes-gone", !live && was);
      g.classList.toggle("gp-passes-new", live && !was);
      g.setAttribute("aria-hidden", String(!live && !was));
    }
    if (data.gathered) tell(now, before);
    buttons.forEach((b, i) => { b.setAttribute("aria-checked", String(i === at)); b.tabIndex = i === at ? 0 : -1; });
    $("slider").value = at;
    $("slider").setAttribute("aria-valuetext", `${now.title}, ${at + 1} of ${moments.length}`);
    $("prev").disabled = at === 0;
    $("next").disabled = at === moments.length - 1;
    $("say").textContent = now.say;
    const change = before ? now.count - before.count : 0;
    const idle = now.idle.length ? ` Passes that changed nothing before it: ${now.idle.join(", ")}.` : "";
    $("count").textContent = `${now.count} nodes${change ? ` (${change > 0 ? "+" : "−"}${Math.abs(change)})` : ""}` +
      (now.ms ? `, ${now.ms < 10 ? now.ms.toFixed(2) : now.ms.toFixed(0)} ms.` : ".") + idle;
    if (at === moments.length - 1) stop();
    badges(now);
    lists(now);
    focusOn(before ? Object.keys(data.boxes).filter((id) => now.live.has(id) !== before.live.has(id)) : [...now.boxes]);
  }
  /** Look at what changed, if it is not the whole. */
  function focusOn(ids) {
    const places = ids.map((id) => groups.get(id)).filter(Boolean).map((g) => g.getBBox());
    if (!places.length) return look([...whole]);
    const left = Math.min(...places.map((b) => b.x)), right = Math.max(...places.map((b) => b.x + b.width));
    const top = Math.min(...places.map((b) => b.y)), bottom = Math.max(...places.map((b) => b.y + b.height));
    const width = Math.min(whole[2], Math.max(right - left + 120, 520)), height = Math.min(whole[3], Math.max(bottom - top + 120, 360));
    look([(left + right - width) / 2, (top + bottom - height) / 2, width, height]);
  }
  /** How many nodes a gathered box holds at this stage. */
  function tell(now, before) {
    for (const id of Object.keys(data.boxes)) {
      const texts = groups.get(id)?.querySelectorAll("text");
      if (!texts || texts.length < 2) continue;
      const n = now.sizes[id] ?? 0, was = before?.sizes[id] ?? n;
      texts[1].textContent = `${n} nodes${before && n !== was ? ` (${n > was ? "+" : "−"}${Math.abs(n - was)})` : ""}`;
      groups.get(id).classList.toggle("gp-passes-new", before !== undefined && n > was);
    }
  }
  function stop() { clearInterval(timer); timer = 0; $("play").textContent = "Play"; $("play").setAttribute("aria-pressed", "false"); }
  $("play").onclick = () => {
    if (timer) return stop();
    if (at === moments.length - 1) show(0);
    timer = setInterval(() => show(at + 1), 2000);
    $("play").textContent = "Pause"; $("play").setAttribute("aria-pressed", "true");
  };
  $("prev").onclick = () => show(at - 1);
  $("next").onclick = () => show(at + 1);
  $("slider").oninput = () => show(Number($("slider").value));
  $("slider").onkeydown = (e) => { if (e.key.startsWith("Arrow") || e.key === "Home" || e.key === "End") e.stopPropagation(); };
  buttons.forEach((b, i) => {
    b.onclick = () => show(i);
    b.onkeydown = (e) => {
      const to = { ArrowRight: i + 1, ArrowDown: i + 1, ArrowLeft: i - 1, ArrowUp: i - 1, Home: 0, End: buttons.length - 1 }[e.key];
      if (to === undefined) return;
      const goal = (to + buttons.length) % buttons.length;
      show(goal); buttons[goal].focus(); e.preventDefault(); e.stopPropagation();
    };
  });
  page.key("[", "passes: the one before", () => { page.open("passes"); show(at - 1); });
  page.key("]", "passes: the next one", () => { page.open("passes"); show(at + 1); });

  // --- kernels: a name and a hue on every box that belongs to one
  function badges(now) {
    svg.querySelectorAll(".gp-passes-badge, .gp-passes-frame").forEach((b) => b.remove());
    for (const g of groups.values()) { g.classList.remove("gp-passes-held"); g.style.removeProperty("--gp-passes-hue"); }
    const names = new Map();
    if (!now.kernels.some((k) => k.stored.length)) return;  // kernels of loops are named by what they do: lit from the list
    now.kernels.forEach((kernel, k) => kernel.boxes.forEach((id) => names.set(id, [...(names.get(id) ?? []), [kernel.title, k]])));
    const framed = frame(now, names);
    for (const [id, held] of names) {
      const g = groups.get(id);
      if (!g || !now.live.has(id)) continue;
      g.style.setProperty("--gp-passes-hue", hue(held[0][1]));
      g.classList.add("gp-passes-held");
      if (framed.has(id)) continue;
      const edge = g.querySelector("rect, ellipse").getBBox(), badge = document.createElementNS(NS, "g");
      const text = document.createElementNS(NS, "text"), plate = document.createElementNS(NS, "rect");
      const words = held.slice(0, 2).map(([name]) => name).join(" ") + (held.length > 2 ? " …" : "");
      const width = words.length * 8.4 + 10;
      text.textContent = words;
      for (const [e, x, y] of [[plate, edge.x + edge.width - width + 8, edge.y - 10], [text, edge.x + edge.width - width / 2 + 8, edge.y + 4]]) {
        e.setAttribute("x", x); e.setAttribute("y", y);
      }
      plate.setAttribute("width", width); plate.setAttribute("height", 19); plate.setAttribute("rx", 9);
      badge.setAttribute("class", "gp-passes-badge");
      badge.append(plate, text);
      g.append(badge);
    }
  }
  const hue = (k) => String((k * 137.5) % 360);
  /** The convex outline of points, in order (Andrew's monotone chain). */
  function hull(points) {
    const sorted = points.toSorted((a, b) => a[0] - b[0] || a[1] - b[1]);
    const half = (all) => all.reduce((h, p) => {
      while (h.length > 1 && (h.at(-1)[0] - h.at(-2)[0]) * (p[1] - h.at(-2)[1]) <= (h.at(-1)[1] - h.at(-2)[1]) * (p[0] - h.at(-2)[0])) h.pop();
      return [...h, p];
    }, []).slice(0, -1);
    return [...half(sorted), ...half(sorted.toReversed())];
  }
  /** Whether a line lies between two convex outlines: it is then along a side of one of them. */
  function apart(a, b) {
    return [a, b].some((outline) => outline.some(([x, y], k) => {
      const [p, q] = outline[(k + 1) % outline.length], across = ([u, v]) => u * (y - q) + v * (p - x);
      const [one, two] = [a.map(across), b.map(across)];
      return Math.max(...one) < Math.min(...two) || Math.max(...two) < Math.min(...one);
    }));
  }
  const corners = ({ x, y, width, height }, pad, head) => [[x - pad, y - head], [x + width + pad, y - head], [x + width + pad, y + height + pad], [x - pad, y + height + pad]];
  /** A frame around the boxes of a kernel that stand together, with nobody else's between them; the boxes that have one. */
  function frame(now, names) {
    const framed = new Set(), taken = [];
    const all = [...now.boxes].map((id) => [id, groups.get(id)?.querySelector("rect, ellipse")?.getBBox()]).filter(([, b]) => b?.width);
    now.kernels.forEach((kernel, k) => {
      const own = new Set(kernel.boxes.filter((id) => now.live.has(id))), mine = all.filter(([id]) => own.has(id)).map(([, b]) => b);
      if (mine.length < 2 || mine.length < own.size || [...own].some((id) => names.get(id).length > 1)) return;
      const [top] = mine.toSorted((a, b) => a.y - b.y), outline = hull(mine.flatMap((b) => corners(b, 7, b === top ? 19 : 7)));
      if (!all.every(([id, b]) => own.has(id) || apart(outline, corners(b, 1, 1))) || !taken.every((other) => apart(outline, other))) return;
      taken.push(outline);
      const g = document.createElementNS(NS, "g"), edge = document.createElementNS(NS, "polygon"), name = document.createElementNS(NS, "text");
      edge.setAttribute("points", outline.map((p) => p.map((v) => v.toFixed(1)).join(",")).join(" "));
      name.setAttribute("x", top.x); name.setAttribute("y", top.y - 5);
      name.textContent = kernel.title;
      g.setAttribute("class", "gp-passes-frame"); g.setAttribute("role", "img"); g.setAttribute("aria-label", `kernel ${kernel.title}: ${kernel.note}`);
      g.style.setProperty("--gp-passes-hue", hue(k));
      g.append(edge, name);
      svg.insertBefore(g, groups.values().next().value);
      own.forEach((id) => framed.add(id));
    });
    return framed;
  }

  // --- what fired, what was refused, the kernels
  function lists(now) {
    const parts = [["rules", "Rules that fired"], ["refused", "Refused, and why"], ["kernels", "Kernels"]];
    const made = parts.filter(([name]) => now[name].length).map(([name, title]) => {
      const section = document.createElement("section"), head = document.createElement("h3"), list = document.createElement("ul");
      const total = now[name].length + now.left[name];
      head.textContent = `${title} (${total})`;
      list.setAttribute("role", "listbox");
      list.setAttribute("aria-label", title);
      const items = now[name].map((entry, k) => {
        const item = document.createElement("li"), what = document.createElement("b"), note = document.createElement("span");
        what.textContent = entry.title; note.textContent = entry.note;
        item.append(what, " ", note);
        item.setAttribute("role", "option");
        item.tabIndex = k ? -1 : 0;
        const keys = [...(name === "kernels" ? [`kernel:${entry.title}`] : []), ...new Set(entry.boxes.flatMap((b) => data.boxes[b] ?? []))];
        const light = () => { lit(entry.boxes); page.emit("highlight", { keys, from: "passes" }); };
        const dark = () => { lit([]); page.emit("highlight", { keys: [], from: "passes" }); };
        watch(item, light, dark);
        item.onkeydown = (e) => {
          const to = { ArrowDown: k + 1, ArrowUp: k - 1, Home: 0, End: items.length - 1 }[e.key];
          if (to === undefined || !items[to]) return;
          items.forEach((o, i) => { o.tabIndex = i === to ? 0 : -1; });
          items[to].focus(); e.preventDefault(); e.stopPropagation();
        };
        return item;
      });
      list.append(...items);
      section.append(head, list);
      if (now.left[name]) {
        const rest = document.createElement("p");
        rest.textContent = `${now.left[name]} more: print(program.trace.stage(…)) has them all.`;
        section.append(rest);
      }
      return section;
    });
    if (!made.length) {
      const none = document.createElement("p");
      none.textContent = "No rewriting rule fired and nothing was refused.";
      made.push(none);
    }
    $("lists").replaceChildren(...made);
  }

  // --- kin
  function lit(boxes) {
    const wanted = new Set(boxes);
    for (const id of Object.keys(data.boxes)) groups.get(id)?.classList.toggle("gp-passes-kin", wanted.has(id));
  }
  page.on("highlight", ({ keys, from }) => {
    if (from === "passes") return;
    const wanted = new Set(keys), exact = keys.some((k) => k.startsWith("node:"));
    const found = Object.keys(data.boxes).filter((b) => data.boxes[b].some((k) => wanted.has(k) && (!exact || k.startsWith("node:"))));
    lit(found);
  });
  const order = Object.keys(data.boxes);
  for (const id of order) {
    const g = groups.get(id);
    if (!g) continue;
    g.setAttribute("role", "img"); g.setAttribute("aria-label", data.says[id]); g.setAttribute("tabindex", "-1");
    const light = () => { lit([id]); page.emit("highlight", { keys: data.boxes[id], from: "passes" }); };
    const dark = () => { lit([]); page.emit("highlight", { keys: [], from: "passes" }); };
    watch(g, light, dark);
  }

  // --- zoom and pan
  const whole = svg.getAttribute("viewBox").split(" ").map(Number);
  let seen = [...whole];
  const look = (box) => { seen = box; svg.setAttribute("viewBox", box.map((v) => v.toFixed(2)).join(" ")); };
  function zoom(factor, x, y) {
    if (!factor) return look([...whole]);
    const width = Math.min(whole[2] * 1.5, Math.max(whole[2] / 40, seen[2] / factor)), f = seen[2] / width;
    const [cx, cy] = [x ?? seen[0] + seen[2] / 2, y ?? seen[1] + seen[3] / 2];
    look([cx - (cx - seen[0]) / f, cy - (cy - seen[1]) / f, seen[2] / f, seen[3] / f]);
  }
  root.querySelectorAll("[data-zoom]").forEach((b) => { b.onclick = () => zoom(Number(b.dataset.zoom)); });
  const scale = () => { const r = svg.getBoundingClientRect(); return Math.max(seen[2] / r.width, seen[3] / r.height); };
  $("pic").addEventListener("wheel", (e) => {
    if (!e.ctrlKey && !$("pic").matches(":focus-within, :focus")) return;  // a wheel on the way scrolls the pane
    e.preventDefault();
    const point = new DOMPoint(e.clientX, e.clientY).matrixTransform(svg.getScreenCTM().inverse());
    zoom(Math.exp(-e.deltaY / 400), point.x, point.y);
  }, { passive: false });
  let drag = null;
  svg.addEventListener("pointerdown", (e) => { if (e.button === 0) drag = { x: e.clientX, y: e.clientY, box: [...seen] }; });
  svg.addEventListener("pointermove", (e) => {
    if (!drag || !(e.buttons & 1)) return;
    const s = scale();
    look([drag.box[0] - (e.clientX - drag.x) * s, drag.box[1] - (e.clientY - drag.y) * s, seen[2], seen[3]]);
  });
  svg.addEventListener("pointerup", () => { drag = null; });
  let walked = -1;
  $("pic").addEventListener("keydown", (e) => {
    const by = { ArrowLeft: [-0.1, 0], ArrowRight: [0.1, 0], ArrowUp: [0, -0.1], ArrowDown: [0, 0.1] }[e.key];
    if (by) look([seen[0] + by[0] * seen[2], seen[1] + by[1] * seen[3], seen[2], seen[3]]);
    else if (e.key === "+" || e.key === "=") zoom(1.25);
    else if (e.key === "-") zoom(0.8);
    else if (e.key === "0") zoom(0);
    else if (e.key === "n" || e.key === "p") {
      const live = order.filter((id) => moments[at].live.has(id));
      walked = (walked + (e.key === "n" ? 1 : -1) + live.length) % live.length;
      groups.get(live[walked])?.focus({ preventScroll: true });
      page.announce(data.says[live[walked]]);
    } else return;
    e.preventDefault(); e.stopPropagation();
  });
  show(0);
  page.on("show", ({ pane }) => { if (pane === "passes" && at === 0) { at = -1; show(0); } });  // what is hidden has no size
}
