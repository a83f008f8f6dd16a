"use strict";
(() => {
  const root = document.currentScript.previousElementSibling;
  const $ = (name) => root.querySelector(".gp-" + name);
  const { prefix, steps, boxes, details, panes: paneData } = JSON.parse($("data").textContent);
  const stage = $("stage"), main = $("main");
  const reduced = matchMedia("(prefers-reduced-motion: reduce)").matches;

  const NS = "http://www.w3.org/2000/svg";

  // --- events, and what panes see of the page
  const heard = new Map();
  const on = (event, f) => heard.set(event, [...(heard.get(event) ?? []), f]);
  const emit = (event, detail) => (heard.get(event) ?? []).forEach((f) => f(detail));

  // --- sheets: the whole, and what is inside of its collapsed boxes; `now` is the one that is shown
  function sheet(svg, steps, boxes, number) {
    const groups = new Map([...svg.querySelectorAll(":scope > g[id]")].map((g) => [g.id.slice(g.id.indexOf("-") + 1), g]));
    const when = new Map();
    steps.forEach((step, k) => step.lit.forEach((id) => when.set(id, k)));
    const told = [...groups].map(([id, g]) => [g, when.get(id)]).filter(([, k]) => k !== undefined);
    const order = steps.flatMap((s) => s.lit).filter((id) => boxes[id]);
    const whole = svg.getAttribute("viewBox").split(" ").map(Number);
    const small = Math.min(14, ...[...svg.querySelectorAll(":scope > g[id] > text")].map((t) => Number(t.getAttribute("font-size")) || 14));
    const inside = new Map(details.flatMap((d, k) => (d.parent === number ? [[d.box, k]] : [])));
    return { svg, steps, boxes, number, groups, when, told, order, whole, inside, readable: small / 10, seen: [...whole], at: 0, walked: -1 };
  }
  const first = sheet($("pic").querySelector("svg"), steps, boxes, -1);
  let now = first;

  const keys = new Map();
  const help = root.querySelector(".gp-help dl");
  function key(names, text, act) {
    names.split(" ").forEach((name) => keys.set(name === "Space" ? " " : name, act));
    const term = document.createElement("dt"), what = document.createElement("dd");
    for (const name of names.split(" ")) {
      const cap = document.createElement("kbd");
      cap.textContent = { ArrowLeft: "←", ArrowRight: "→", Enter: "Enter ↵" }[name] ?? name;
      term.append(cap, " ");
    }
    what.textContent = text;
    help.append(term, what);
  }
  /** A sentence: what Unicode bars letter by letter has one line over it. */
  function tell(element, text) {
    const parts = text.split(/((?:[^\u0305]\u0305)+)/).map((part, k) => {
      if (k % 2 === 0) return part;
      const barred = document.createElement("span");
      barred.className = "gp-over";
      barred.textContent = part.replaceAll("\u0305", "");
      return barred;
    });
    element.replaceChildren(...parts);
  }
  const announce = (text) => { $("live").textContent = text; };

  // --- steps
  let timer = 0, quiz = false, asked = false;
  function show(k) {
    const { steps, told } = now, at = Math.max(0, Math.min(steps.length - 1, k));
    if (at !== now.at) asked = false;
    now.at = at;
    const hidden = quiz && !asked && steps[at].side === "backward";
    for (const [g, step] of told) {
      g.classList.toggle("gp-future", step > at);
      g.classList.toggle("gp-now", step === at);
      g.classList.toggle("gp-hide", quiz && steps[step].side === "backward" && (step > at || (step === at && hidden)));
    }
    root.classList.toggle("gp-asking", hidden);
    tell($("say"), hidden ? "What flows back here? Press Enter for the answer." : steps[at].say);
    $("scrub").max = steps.length - 1;
    $("scrub").value = at;
    $("scrub").setAttribute("aria-valuetext", `step ${at + 1} of ${steps.length}`);
    $("at").textContent = `${at + 1} / ${steps.length}`;
    $("prev").disabled = at === 0;
    $("next").disabled = at === steps.length - 1;
    if (at === steps.length - 1) stop();
    if (!timer) announce(hidden ? $("say").textContent : steps[at].say);
    if (following) follow();
    if (now === first) emit("step", { index: at, side: steps[at].side, hidden });
    emit("told", { sheet: now.number, index: at });
  }
  function stop() {
    clearInterval(timer); timer = 0;
    $("play").textContent = "Play"; $("play").setAttribute("aria-pressed", "false");
  }
  function play() {
    if (timer) return stop();
    if (now.at === now.steps.length - 1) show(0);
    timer = setInterval(() => show(now.at + 1), 1500);
    $("play").textContent = "Pause"; $("play").setAttribute("aria-pressed", "true");
  }
  const toggleQuiz = () => { quiz = !quiz; asked = false; $("quiz").setAttribute("aria-pressed", String(quiz)); show(now.at); };
  const answer = () => { if (quiz) { asked = true; show(now.at); } };
  key("ArrowRight ArrowLeft", "a step on, a step back", () => {});
  keys.set("ArrowRight", () => show(now.at + 1)); keys.set("ArrowLeft", () => show(now.at - 1));
  key("Home End", "the first step, the last step", () => {});
  keys.set("Home", () => show(0)); keys.set("End", () => show(now.steps.length - 1));
  key("Space", "play and pause", play);
  key("q", "quiz: gradients hide until asked for", toggleQuiz);
  key("Enter", "the answer in a quiz; folds and opens a frame", answer);
  $("prev").onclick = () => show(now.at - 1);
  $("next").onclick = () => show(now.at + 1);
  $("play").onclick = play;
  $("quiz").onclick = toggleQuiz;
  $("scrub").oninput = () => show(Number($("scrub").value));
  $("say").onclick = answer;

  // --- zoom and pan: the picture's viewBox
  function look(box) {
    now.seen = box;
    now.svg.setAttribute("viewBox", box.map((v) => v.toFixed(2)).join(" "));
  }
  /** Pixels of the picture per pixel of the screen, and where its corner is. */
  function frame() {
    const { svg, seen } = now, r = svg.getBoundingClientRect(), scale = Math.max(seen[2] / r.width, seen[3] / r.height);
    return { r, scale, left: seen[0] - (r.width * scale - seen[2]) / 2, top: seen[1] - (r.height * scale - seen[3]) / 2 };
  }
  function zoom(factor, x, y) {
    const { seen, whole, readable } = now;
    cancelAnimationFrame(moving);
    if (factor < 1 && frame().scale / factor > readable) setFollowing(false);  // who wants an overview keeps it
    const width = Math.min(whole[2] * 1.5, Math.max(whole[2] / 40, seen[2] / factor)), f = seen[2] / width;
    const [cx, cy] = [x ?? seen[0] + seen[2] / 2, y ?? seen[1] + seen[3] / 2];
    look([cx - (cx - seen[0]) / f, cy - (cy - seen[1]) / f, seen[2] / f, seen[3] / f]);
  }
  const fit = () => { setFollowing(false); cancelAnimationFrame(moving); look([...now.whole]); };
  /** Bring what is computed now into view, no text below 10 pixels; where the whole can be read, or the step is all over it, show that. */
  let following = true, moving = 0;
  function follow(at_once) {
    const { groups, boxes, steps, at, whole, seen, readable, svg } = now, r = svg.getBoundingClientRect(), go = at_once ? look : glide;
    const lit = steps[at].lit.filter((id) => boxes[id]).map((id) => groups.get(id)?.getBBox()).filter(Boolean);
    if (!lit.length || !r.width || Math.max(whole[2] / r.width, whole[3] / r.height) <= readable) return go([...whole]);
    const left = Math.min(...lit.map((b) => b.x)), right = Math.max(...lit.map((b) => b.x + b.width));
    const top = Math.min(...lit.map((b) => b.y)), bottom = Math.max(...lit.map((b) => b.y + b.height));
    const need = Math.max((right - left) / r.width, (bottom - top) / r.height) * 1.04;
    if (need > readable * 1.3) return go([...whole]);
    const { scale: used } = frame(), scale = Math.max(Math.min(used, readable), need), [w, h] = [r.width * scale, r.height * scale];
    // no further than it takes: what stays in view keeps its place; a picture that is lower than the window stands in its middle
    const place = (low, high, size, from, length, start) => {
      if (length <= size) return start + (length - size) / 2;
      const edge = size * 0.12, slack = Math.max(0, size - (high - low) - 2 * edge);
      const wanted = from === null ? (low + high - size) / 2 : Math.min(Math.max(from, low - edge - slack), low - edge);
      return Math.min(Math.max(wanted, start), start + length - size);
    };
    const kept = Math.abs(used / scale - 1) < 0.02, view = frame();
    go([place(left, right, w, kept ? view.left : null, whole[2], whole[0]), place(top, bottom, h, kept ? view.top : null, whole[3], whole[1]), w, h], seen);
  }
  function glide(to, from = now.seen) {
    cancelAnimationFrame(moving);
    if (reduced) return look(to);
    const sheet = now;
    let start = null;  // a frame's time is when it began, which may be before it was asked for: only frames' times are compared
    const frame = (time) => {
      start ??= time;
      const t = Math.min(1, (time - start) / 300), ease = t * t * (3 - 2 * t);
      if (sheet !== now) return;
      look(to.map((v, k) => from[k] + (v - from[k]) * ease));
      if (t < 1) moving = requestAnimationFrame(frame);
    };
    moving = requestAnimationFrame(frame);
  }
  function setFollowing(wanted) { following = wanted; $("follow").setAttribute("aria-pressed", String(following)); }
  const toggleFollow = () => { if (following) fit(); else { setFollowing(true); follow(); } };
  $("follow").onclick = toggleFollow;
  key("v", "the picture follows the steps, large enough to be read", toggleFollow);
  const pan = (dx, dy) => { const { seen } = now; cancelAnimationFrame(moving); look([seen[0] + dx * seen[2], seen[1] + dy * seen[3], seen[2], seen[3]]); };
  $("in").onclick = () => zoom(1.25); $("out").onclick = () => zoom(0.8); $("fit").onclick = fit;
  key("+ - 0", "zoom in, zoom out, fit", () => {});
  keys.set("+", () => zoom(1.25)); keys.set("=", () => zoom(1.25)); keys.set("-", () => zoom(0.8)); keys.set("0", fit);
  key("w a s d", "move the picture up, left, down, right", () => {});
  keys.set("w", () => pan(0, -0.1)); keys.set("s", () => pan(0, 0.1)); keys.set("a", () => pan(-0.1, 0)); keys.set("d", () => pan(0.1, 0));
  stage.addEventListener("wheel", (e) => {
    e.preventDefault();
    const { r, scale, left, top } = frame();
    zoom(Math.exp(-e.deltaY / 400), left + (e.clientX - r.left) * scale, top + (e.clientY - r.top) * scale);
  }, { passive: false });
  let drag = null;
  stage.addEventListener("pointerdown", (e) => { if (e.button === 0) drag = { x: e.clientX, y: e.clientY, box: [...now.seen], moved: false }; });
  stage.addEventListener("pointermove", (e) => {
    if (!drag || !(e.buttons & 1)) return;
    if (Math.hypot(e.clientX - drag.x, e.clientY - drag.y) > 4 && !drag.moved) {
      drag.moved = true; cancelAnimationFrame(moving); stage.setPointerCapture(e.pointerId);
    }
    if (!drag.moved) return;
    const { scale } = frame();
    look([drag.box[0] - (e.clientX - drag.x) * scale, drag.box[1] - (e.clientY - drag.y) * scale, now.seen[2], now.seen[3]]);
  });
  stage.addEventListener("pointerup", () => { setTimeout(() => { drag = null; }); });

  // --- what is looked at: hover and focus light a box and its kin everywhere
  function wire({ order, groups, boxes, inside }) {
    for (const id of order) {
      const g = groups.get(id);
      if (!g) continue;
      const leads = inside.get(id) ?? inside.get(id.slice(1));
      const lit = () => emit("highlight", { keys: boxes[id].keys, from: "picture" }), dark = () => emit("highlight", { keys: [], from: "picture" });
      g.setAttribute("tabindex", "-1"); g.setAttribute("role", leads === undefined ? "img" : "button");
      g.setAttribute("aria-label", boxes[id].text + (leads === undefined ? "" : "; Enter opens it"));
      g.addEventListener("pointerenter", lit); g.addEventListener("pointerleave", dark);
      g.addEventListener("focus", lit); g.addEventListener("blur", dark);
      if (leads === undefined) continue;
      g.classList.add("gp-opens");
      mark(g);
      g.addEventListener("click", () => { if (!drag?.moved) open(leads); });
      g.addEventListener("keydown", (e) => { if (e.key === "Enter") { open(leads); e.preventDefault(); e.stopPropagation(); } });
    }
  }
  /** A small sign in the corner of a box that can be opened. */
  function mark(g) {
    const edge = g.querySelector("rect");
    if (!edge) return;
    const [x, y, w] = ["x", "y", "width"].map((a) => Number(edge.getAttribute(a))), sign = document.createElementNS(NS, "path");
    const [cx, cy] = [x + w - 1, y + 1];
    const disc = `M${cx - 8},${cy}a8,8 0 1,0 16,0a8,8 0 1,0 -16,0z`;
    sign.setAttribute("d", `${disc}M${cx - 4},${cy}h8M${cx},${cy - 4}v8`);
    sign.setAttribute("class", "gp-sign");
    g.append(sign);
  }
  on("highlight", ({ keys: lit, from }) => {
    const wanted = new Set(lit), { groups, boxes } = now;
    const exact = [...wanted].some((k) => k.startsWith("node:"));
    for (const [id, g] of groups)
      if (boxes[id]) g.classList.toggle("gp-kin", boxes[id].keys.some((k) => wanted.has(k) && (!exact || k.startsWith("node:"))));
    if (from !== "picture" && following) seek([...groups.values()].filter((g) => g.classList.contains("gp-kin")));
  });
  function walk(by) {
    const { order, when, groups } = now;
    now.walked = (now.walked + by + order.length) % order.length;
    const id = order[now.walked];
    if (when.get(id) > now.at) show(when.get(id));
    reveal(groups.get(id));
    groups.get(id).focus({ preventScroll: true });
  }
  key("n p", "the next box, the box before: its text is read out", () => {});
  keys.set("n", () => walk(1)); keys.set("p", () => walk(-1));
  /** What a pane speaks of comes into view where none of it is. */
  function seek(kin) {
    const { scale, left, top, r } = frame(), [w, h] = [r.width * scale, r.height * scale], places = kin.map((g) => g.getBBox());
    if (!places.length || places.some((b) => b.x >= left && b.y >= top && b.x + b.width <= left + w && b.y + b.height <= top + h)) return;
    const [b] = places;
    glide([b.x + b.width / 2 - w / 2, b.y + b.height / 2 - h / 2, w, h]);
  }
  /** Move the picture so that a group is in view. */
  function reveal(g) {
    const { r, scale, left, top } = frame(), b = g.getBBox();
    const inside = b.x >= left && b.y >= top && b.x + b.width <= left + r.width * scale && b.y + b.height <= top + r.height * scale;
    const grown = following ? Math.min(1, now.readable / scale) : 1, seen = [0, 0, r.width * scale * grown, r.height * scale * grown];
    cancelAnimationFrame(moving);
    if (!inside || grown < 1) look([b.x + b.width / 2 - seen[2] / 2, b.y + b.height / 2 - seen[3] / 2, seen[2], seen[3]]);
  }

  // --- search
  let hits = [], hit = 0;
  function search(words) {
    const wanted = words.trim().toLowerCase(), { order, boxes, groups } = now;
    hits = wanted ? order.filter((id) => (boxes[id].title + "\n" + boxes[id].text).toLowerCase().includes(wanted)) : [];
    for (const id of order) groups.get(id)?.classList.toggle("gp-hit", hits.includes(id));
    hit = 0;
    $("hits").textContent = wanted ? `${hits.length ? 1 : 0} / ${hits.length}` : "";
    if (hits.length) point();
  }
  function point() {
    const { order, groups, when, boxes } = now;
    for (const id of order) groups.get(id)?.classList.toggle("gp-here", id === hits[hit]);
    $("hits").textContent = `${hit + 1} / ${hits.length}`;
    if (when.get(hits[hit]) > now.at) show(when.get(hits[hit]));
    reveal(groups.get(hits[hit]));
    announce(boxes[hits[hit]].text);
  }
  function clearSearch() {
    $("search").value = ""; search("");
    for (const id of now.order) now.groups.get(id)?.classList.remove("gp-here");
  }
  $("search").oninput = () => search($("search").value);
  $("search").addEventListener("keydown", (e) => {
    if (e.key === "Enter" && hits.length) { hit = (hit + (e.shiftKey ? hits.length - 1 : 1)) % hits.length; point(); e.preventDefault(); }
    if (e.key === "Escape") { clearSearch(); stage.focus(); e.preventDefault(); }
    e.stopPropagation();
  });
  key("/", "find: Enter goes on to the next, Esc leaves", () => $("search").focus());

  // --- frames of scopes: a lid folds what is inside
  function frames({ svg, groups, order }) {
    for (const [, g] of groups) {
    if (!g.classList.contains("cluster")) continue;
    const edge = g.querySelector("rect"), name = g.querySelector("text");
    const [x, y, w, h] = ["x", "y", "width", "height"].map((a) => Number(edge.getAttribute(a)));
    const inside = order.filter((b) => {
      const r = groups.get(b)?.getBBox();
      return r && r.x >= x - 1 && r.y >= y - 1 && r.x + r.width <= x + w + 1 && r.y + r.height <= y + h + 1;
    });
    const lid = document.createElementNS(NS, "g");
    const cover = edge.cloneNode(), words = document.createElementNS(NS, "text"), count = document.createElementNS(NS, "text");
    const size = Math.min(26, h / 3, w / Math.max(6, name.textContent.length * 0.62));
    for (const [t, text, dy, k] of [[words, name.textContent, -0.1, 1], [count, `${inside.length} boxes`, 1.1, 0.7]]) {
      t.setAttribute("x", x + w / 2); t.setAttribute("y", y + h / 2 + size * dy); t.setAttribute("font-size", size * k);
      t.setAttribute("text-anchor", "middle"); t.textContent = text;
    }
    lid.append(cover, words, count);
    lid.setAttribute("class", "gp-lid");
    svg.append(lid);
    const fold = () => {
      const folded = lid.classList.toggle("gp-folded");
      g.setAttribute("aria-expanded", String(!folded));
      announce(`${name.textContent} is ${folded ? "folded" : "open"}`);
    };
    name.classList.add("gp-name");
    g.setAttribute("tabindex", "0"); g.setAttribute("role", "button"); g.setAttribute("aria-expanded", "true");
    g.setAttribute("aria-label", `${name.textContent}: frame of ${inside.length} boxes, fold or open`);
    g.addEventListener("focus", () => { if (g.matches(":focus-visible")) reveal(g); });
    name.addEventListener("click", () => { if (!drag?.moved) fold(); });
    lid.addEventListener("click", () => { if (!drag?.moved) fold(); });
    g.addEventListener("keydown", (e) => { if (e.key === "Enter") { fold(); e.preventDefault(); e.stopPropagation(); } });
   }
  }
  key("f", "fold all frames, or open all", () => {
    const { svg } = now, lids = [...svg.querySelectorAll(".gp-lid")], folded = lids.some((l) => !l.classList.contains("gp-folded"));
    lids.forEach((l) => l.classList.toggle("gp-folded", folded));
    svg.querySelectorAll(".cluster").forEach((g) => g.setAttribute("aria-expanded", String(!folded)));
  });

  // --- into a collapsed box and out again
  const made = new Map([[-1, first]]);
  function open(number) {
    if (!made.has(number)) {
      const d = details[number], svg = document.importNode(new DOMParser().parseFromString(d.svg, "image/svg+xml").documentElement, true);
      svg.querySelectorAll("[id]").forEach((e) => { e.id = `${prefix}d${number}` + e.id; });
      svg.setAttribute("aria-labelledby", svg.getAttribute("aria-labelledby").split(" ").map((i) => `${prefix}d${number}` + i).join(" "));
      made.set(number, sheet(svg, d.steps, d.boxes, number));
    }
    const before = now, fresh = made.get(number);
    clearSearch(); stop();
    emit("highlight", { keys: [], from: "picture" });
    const came = new Set();  // boxes through which one has come
    for (let k = before.number; k >= 0; k = details[k].parent) came.add(`${details[k].parent}/${details[k].box}`);
    now = fresh;
    $("pic").replaceChildren(now.svg);
    if (!now.wired) { now.wired = true; wire(now); frames(now); now.at = now.steps.length - 1; }
    if (!following) look([...now.whole]);
    trail(); show(now.at);
    const back = [...now.inside].find(([box]) => came.has(`${number}/${box}`));
    (back ? now.groups.get(back[0]) : stage).focus({ preventScroll: true });
    root.classList.toggle("gp-inside", now !== first);
    emit("sheet", { detail: number });
    announce(number < 0 ? "The whole graph" : `Inside of ${details[number].title}`);
  }
  /** Where one is: the whole, and the boxes on the way in; each leads back out. */
  function trail() {
    const path = [];
    for (let k = now.number; k >= 0; k = details[k].parent) path.unshift(k);
    const nav = $("trail");
    nav.hidden = !path.length;
    nav.replaceChildren(...[-1, ...path].map((k) => {
      const b = document.createElement("button");
      b.textContent = k < 0 ? root.querySelector("h1").textContent : details[k].title;
      if (k === now.number) b.setAttribute("aria-current", "location"); else b.onclick = () => open(k);
      return b;
    }));
  }
  const leave = () => { if (now !== first) open(details[now.number].parent); };
  if (details.length) {
    key("o", "open the box that is looked at, or the step's own", () => {
      const at = [...now.groups].find(([, g]) => g === document.activeElement)?.[0];
      const id = [at, ...now.steps[now.at].lit].find((i) => i && (now.inside.has(i) || now.inside.has(i.slice(1))));
      if (id) open(now.inside.get(id) ?? now.inside.get(id.slice(1)));
    });
    key("u", "out of it again (Esc too)", leave);
  }

  // --- theme and help
  function setTheme(name) { root.dataset.theme = name; $("theme").value = name; emit("theme", { name }); }
  $("theme").onchange = () => setTheme($("theme").value);
  key("t", "the next theme", () => {
    const all = [...$("theme").options].map((o) => o.value);
    setTheme(all[(all.indexOf(root.dataset.theme) + 1) % all.length]);
  });
  function toggleHelp() {
    const box = root.querySelector(".gp-help");
    box.hidden = !box.hidden;
    $("ask").setAttribute("aria-expanded", String(!box.hidden));
    (box.hidden ? $("ask") : $("close")).focus();
  }
  $("ask").onclick = toggleHelp; $("close").onclick = toggleHelp;
  key("?", "this help", toggleHelp);
  keys.set("Escape", () => { if (!root.querySelector(".gp-help").hidden) toggleHelp(); else leave(); });

  // --- panes
  const page = {
    root, prefix, steps, boxes, reduced, on, emit, announce, key, tell: (text) => tell($("say"), text), setStep: (k) => { if (now !== first) open(-1); show(k); },
    step: () => first.at, svg: () => first.svg, box: (id) => first.groups.get(id), sheet: (k) => (k === undefined ? now : made.get(k)),
    again: () => show(now.at),
  };
  const scripts = {/*PANES*/};
  const side = $("side");
  if (side) {
    const tabs = [...side.querySelectorAll("[role=tab]")], bodies = [...side.querySelectorAll("[role=tabpanel]")];
    const open = (name) => {
      tabs.forEach((t) => { const mine = t.dataset.pane === name; t.setAttribute("aria-selected", String(mine)); t.tabIndex = mine ? 0 : -1; });
      bodies.forEach((b) => { b.hidden = b.dataset.pane !== name; });
      side.classList.remove("gp-closed"); main.classList.remove("gp-alone");
      emit("show", { pane: name });
    };
    const close = () => { const shut = main.classList.toggle("gp-alone"); if (!shut) open(tabs.find((t) => t.tabIndex === 0).dataset.pane); };
    page.open = open;
    tabs.forEach((t, k) => {
      t.onclick = () => open(t.dataset.pane);
      t.onkeydown = (e) => {
        const by = { ArrowRight: 1, ArrowLeft: -1 }[e.key];
        if (!by) return;
        const next = tabs[(k + by + tabs.length) % tabs.length];
        next.focus(); open(next.dataset.pane); e.preventDefault(); e.stopPropagation();
      };
    });
    $("fold").onclick = close;
    key("b", "hide or show what is beside the picture", close);
    const split = $("split"), SHARE = "graphc page: width of the panes";
    const kept = (write) => { try { return write ? write(localStorage) : localStorage.getItem(SHARE); } catch { return null; } };  // storage may be barred
    let chosen = Number(kept()) || 0;  // a share that the reader has set; else it follows the pane and the picture
    const width = (w) => {
      const share = Math.max(20, Math.min(75, w));
      main.style.setProperty("--gp-side", share + "%"); split.setAttribute("aria-valuenow", share.toFixed(0));
      split.setAttribute("aria-valuetext", `the panes take ${share.toFixed(0)} percent of the width`);
    };
    const choose = (w) => { chosen = Math.max(20, Math.min(75, w)); width(chosen); kept((store) => store.setItem(SHARE, chosen.toFixed(1))); };
    /** A pane gets what the picture leaves over, and at least what it needs: fields little, code and tables more. */
    const usual = (name) => {
      const r = main.getBoundingClientRect(), font = parseFloat(getComputedStyle(root).fontSize) / 16;
      const least = name === "live" ? Math.max(340 * font, r.width * 0.26) : Math.max(400 * font, r.width * 0.38);
      const spare = r.width - first.whole[2] / first.whole[3] * r.height;
      return Math.max(least, Math.min(spare, r.width * 0.5)) / r.width * 100;
    };
    const settle = () => width(chosen || usual(tabs.find((t) => t.tabIndex === 0).dataset.pane));
    on("show", settle);
    new ResizeObserver(settle).observe(main);
    split.addEventListener("pointerdown", (e) => { split.setPointerCapture(e.pointerId); e.preventDefault(); split.focus(); });
    split.addEventListener("pointermove", (e) => {
      const r = main.getBoundingClientRect();
      if (e.buttons & 1) choose((r.right - e.clientX) / r.width * 100);
    });
    split.addEventListener("dblclick", () => { chosen = 0; kept((store) => store.removeItem(SHARE)); settle(); });
    split.addEventListener("keydown", (e) => {
      const at = Number(split.getAttribute("aria-valuenow"));
      const to = { ArrowLeft: at + 3, ArrowRight: at - 3, Home: 20, End: 75 }[e.key];
      if (to !== undefined) choose(to); else if (e.key === "Enter") close(); else return;
      e.preventDefault(); e.stopPropagation();
    });
    for (const body of bodies) scripts[body.dataset.pane]?.(body, paneData[body.dataset.pane], page);
    open(tabs[0].dataset.pane);
  }

  // keys go to the page that has the focus, or to the first one where none has it
  document.addEventListener("keydown", (e) => {
    const mine = root.contains(e.target) || (!e.target.closest?.(".gp") && root === document.querySelector(".gp"));
    const act = keys.get(e.key);
    if (!mine || !act || e.ctrlKey || e.metaKey || e.altKey) return;
    const tag = e.target.tagName, typing = tag === "SELECT" || tag === "TEXTAREA" || (tag === "INPUT" && e.target.type !== "range");
    const pressed = (tag === "BUTTON" || tag === "A" || tag === "SUMMARY" || e.target.closest?.("[role=tabpanel] [tabindex]")) && (e.key === " " || e.key === "Enter");
    if ((typing && e.key !== "Escape") || pressed) return;
    e.preventDefault(); act();
  });
  first.wired = true;
  wire(first); frames(first);
  show(0);
  follow(true);
  new ResizeObserver(() => { if (following) follow(true); }).observe(stage);
})();
