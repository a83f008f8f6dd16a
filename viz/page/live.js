(root, data, page, program) => {
  const $ = (name) => root.querySelector(".gp-live-" + name);
  const types = { float32: Float32Array, float64: Float64Array, int32: Int32Array, uint32: Uint32Array, int64: BigInt64Array, bool: Uint8Array };
  const memory = {};
  for (const [name, b] of Object.entries(program.buffers))
    if (b.role === "input" || b.role === "parameter" || b.role === "output")
      memory[name] = new (types[b.dtype])(b.shape.reduce((a, n) => a * n, 1));
  const put = (array, k, v) => { array[k] = array instanceof BigInt64Array ? BigInt(Math.round(v)) : v; };

  // --- how numbers are written: as in the picture
  function number(value, digits = 3) {
    const v = Number(value);
    if (Number.isNaN(v)) return "NaN";
    if (!Number.isFinite(v)) return v > 0 ? "∞" : "−∞";
    if (v === 0) return Object.is(v, -0) ? "−0" : "0";
    const size = Math.abs(v);
    let text = size < 1e-3 ? size.toExponential(digits - 1) : size.toPrecision(digits);
    let [mantissa, exponent] = text.split("e");
    if (mantissa.includes(".")) mantissa = mantissa.replace(/0+$/, "").replace(/\.$/, "");
    if (exponent === undefined && Number(mantissa) >= 10 ** digits) { [mantissa, exponent] = size.toExponential(digits - 1).split("e"); }
    text = exponent === undefined ? mantissa : `${mantissa}e${Number(exponent)}`;
    return (v < 0 ? "−" : "") + text;
  }
  function summary(a) {
    const all = Array.from(a, Number), finite = all.filter(Number.isFinite), bad = all.length - finite.length;
    if (!all.length) return "no elements";
    if (a instanceof Uint8Array) return `${all.reduce((s, v) => s + v, 0)} of ${all.length} true`;
    if (!finite.length) return "nothing finite";
    const mean = finite.reduce((s, v) => s + v, 0) / finite.length;
    const spread = Math.sqrt(finite.reduce((s, v) => s + (v - mean) ** 2, 0) / finite.length);
    return (bad ? `${bad} not finite!  ` : "") + `mean ${number(mean)} ± ${number(spread)}   ${number(Math.min(...finite))} … ${number(Math.max(...finite))}`;
  }
  /** Other words in a text that stays in the middle of where it was. */
  function write(element, text) {
    if (element.textContent === text) return;
    if (element.getAttribute("text-anchor") !== "middle") {
      const b = element.getBBox();
      element.setAttribute("x", b.x + b.width / 2); element.setAttribute("text-anchor", "middle");
    }
    element.textContent = text;
  }
  const norm = (outs) => Math.hypot(...outs.flatMap((out) => Array.from(memory[out], Number)));
  const short = (outs) => (outs.length > 1 || program.buffers[outs[0]].shape.length ? `‖·‖ ${number(norm(outs), 2)}` : number(memory[outs[0]][0]));

  // --- heat maps: as in the picture, blocks of a large tensor averaged, 0 in the middle of the colours
  /** Where `n` rows are cut into `parts`: the first ones take one more each. */
  function cuts(n, parts) {
    const at = [0];
    for (let k = 0; k < parts; k++) at.push(at[k] + Math.floor(n / parts) + (k < n % parts ? 1 : 0));
    return at;
  }
  function heat(a, shape) {
    let columns = shape[shape.length - 1], rows = shape.length > 1 ? a.length / columns : 1;
    if (columns === 1) [rows, columns] = [1, rows];
    const value = (i, k) => { const v = Number(a[i * columns + k]); return Number.isFinite(v) ? v : 0; };
    const down = cuts(rows, Math.min(data.cells, rows)), along = cuts(columns, Math.min(2 * data.cells, columns));
    const cells = down.slice(1).map((end, i) => along.slice(1).map((stop, k) => {
      let sum = 0;
      for (let r = down[i]; r < end; r++) for (let c = along[k]; c < stop; c++) sum += value(r, c);
      return sum / ((end - down[i]) * (stop - along[k]));
    }));
    const top = Math.max(...cells.flat().map(Math.abs));
    return cells.map((row) => row.map((v) => Math.round((top > 0 ? v / top : v) * 1000) / 1000));
  }
  const even = (v) => { const r = Math.round(v); return Math.abs(v % 1) === 0.5 && r % 2 ? r - 1 : r; };  // halves to the even one
  function shade(v) {
    const share = Math.min(Math.abs(even(v * data.shades) / data.shades), 1) * 100;
    return `color-mix(in srgb, var(--gp-${v > 0 ? "positive" : "negative"}) ${+share.toPrecision(4)}%, var(--gp-background))`;
  }
  function fill(g, cells) {
    const edge = g.querySelector("rect"), [x, y, width] = ["x", "y", "width"].map((n) => Number(edge.getAttribute(n)));
    const side = width / cells[0].length, n = (v) => String(+v.toFixed(2)), paths = new Map();
    cells.forEach((row, i) => row.forEach((v, k) => {
      const colour = shade(v), d = `M${n(x + k * side)} ${n(y + i * side)}h${n(side)}v${n(side)}h-${n(side)}z`;
      paths.set(colour, (paths.get(colour) ?? "") + d);
    }));
    g.replaceChildren(...[...paths].map(([colour, d]) => {
      const path = document.createElementNS("http://www.w3.org/2000/svg", "path");
      path.setAttribute("d", d); path.setAttribute("fill", colour);
      return path;
    }), edge);
  }

  // --- edges: as wide as what flows back is large, and where the picture shows the flow as warm
  /** Widths of a sheet's edges by the norms of what they carry. */
  function widen(sheet) {
    const norms = Object.entries(sheet.edges).map(([id, outs]) => [id, norm(outs)]), [thinnest, widest, stroke] = data.widths;
    if (data.flow) return norms.forEach(([id, n]) => flow(sheet, id, n / norm([data.flow.start]), stroke));
    const logs = new Map(norms.filter(([, n]) => n > 0 && Number.isFinite(n)).map(([id, n]) => [id, Math.log(n)]));
    const high = logs.size ? Math.max(...logs.values()) : 0, low = logs.size ? Math.min(...logs.values()) : 0, span = Math.max(high - low, Math.log(4));
    for (const [id] of norms) {
      const share = logs.has(id) ? Math.max((logs.get(id) - high) / span + 1, 0) : 0;
      draw(sheet, id, Math.max(stroke * (thinnest + (widest - thinnest) * share), 0.5));
    }
  }
  /** Colour and width for a norm beside that at the loss, on the scale of the legend, which stays. */
  function flow(sheet, id, ratio, stroke) {
    const g = sheet.groups.get(id), [thin, middle, wide] = data.flow.widths;
    if (!g) return;
    const log = Math.log10(ratio) / data.flow.decades, x = ratio === 0 ? -1 : Number.isFinite(log) ? Math.max(-1, Math.min(1, log)) : 1;
    draw(sheet, id, Math.max(stroke * (middle + x * (x > 0 ? wide - middle : middle - thin)), 0.5));
    const share = Math.min(Math.abs(even(x * data.shades) / data.shades), 1) * 100;
    const colour = `color-mix(in srgb, var(--gp-${x > 0 ? "positive" : "negative"}) ${+share.toPrecision(4)}%, var(--gp-correspondence))`;
    g.querySelector(":scope > path").setAttribute("stroke", colour); g.querySelector(":scope > polygon").setAttribute("fill", colour);
    const title = g.querySelector(":scope > title");
    if (title) title.textContent = title.textContent.replace(/^gradient's norm: \S+/m, () => `gradient's norm: ${number(ratio, 2)}`);
  }
  /** What an edge's tooltip says of its number. */
  function retellEdge(g, outs) {
    const title = g.querySelector(":scope > title"), one = outs.length === 1 && !program.buffers[outs[0]].shape.length;
    const text = one ? number(memory[outs[0]][0], 6) : summary(outs.length === 1 ? memory[outs[0]] : Float64Array.from(outs.flatMap((o) => Array.from(memory[o], Number))));
    if (title) title.textContent = title.textContent.replace(/^contribution: .*$/m, () => `contribution: ${text}`);
  }
  /** The line, its dashes and its head for a width; the head's tip stays where it is. */
  function draw({ groups, drawn }, id, w) {
    const g = groups.get(id);
    if (!g) return;
    if (!drawn.has(id)) {
      const line = g.querySelector(":scope > path"), head = g.querySelector(":scope > polygon");
      const points = head.getAttribute("points").split(" ").map((p) => p.split(",").map(Number));
      drawn.set(id, { line, head, points, width: Number(line.getAttribute("stroke-width")) / 1.1, route: line.getAttribute("d").match(/-?[\d.]+/g).map(Number) });
    }
    const { line, head, points, width, route } = drawn.get(id), n = (v) => String(+v.toFixed(2));
    const grown = (5.5 + 2 * w) / (5.5 + 2 * width), [tip] = points, along = [points[1][0] + points[2][0], points[1][1] + points[2][1]];
    const shift = [0, 1].map((k) => (along[k] / 2 - tip[k]) * 0.85 * (grown - 1)), last = route.length - 4;
    const moved = route.map((v, k) => (k >= last ? v + shift[k % 2] : v));
    const pairs = moved.reduce((all, v, k) => (k % 2 ? all : [...all, `${n(v)},${n(moved[k + 1])}`]), []);
    line.setAttribute("d", `M${pairs[0]} C${pairs.slice(1).join(" ")}`);
    line.setAttribute("stroke-width", n(w * 1.1)); line.setAttribute("stroke-dasharray", `${n(7 + w)} ${n(3 + w)}`);
    head.setAttribute("points", points.map((p) => p.map((v, k) => n(tip[k] + (v - tip[k]) * grown)).join(",")).join(" "));
  }
  /** What a box's tooltip says of its number. */
  function retell({ groups, told }, id, out) {
    const a = memory[out], kind = id.startsWith("g") ? "gradient" : "value", text = `${kind}: ${program.buffers[out].shape.length ? summary(a) : number(a[0], 6)}`;
    const title = groups.get(id).querySelector(":scope > title"), now = (old) => old.replace(new RegExp(`^${kind}: .*$`, "m"), () => text);
    if (title) title.textContent = now(title.textContent);
    told[id].text = now(told[id].text);
    groups.get(id).setAttribute("aria-label", now(groups.get(id).getAttribute("aria-label") ?? told[id].text));
  }

  // --- onto the pictures: the whole, and what is inside of a box once it is open
  // a formula is drawn as outlines: a text of the same place and colour takes its turn
  const standOf = new Map(), known = new Map();
  /** A picture that has been shown, with the elements that show numbers. */
  function sheetOf(k) {
    if (known.has(k)) return known.get(k);
    const shown = page.sheet(k), has = data.sheets[k + 1];
    if (!shown || !has) return undefined;
    const lineOf = (id, place) => { const g = shown.groups.get(id); return g && g.children[g.children.length - has.count[id] + place - (g.querySelector(":scope > .gp-sign") ? 1 : 0)]; };
    const rows = Object.entries(has.boxes).flatMap(([id, lines]) => lines.filter((l) => l.line >= 0).map((l) => [lineOf(id, l.line), l.style, l.out]));
    known.set(k, { ...has, groups: shown.groups, told: shown.boxes, steps: shown.steps, drawn: new Map(), rows });
    return known.get(k);
  }
  let changed = false;
  function work(element, a) {
    let stand = standOf.get(element);
    if (!stand) {
      const m = /translate\(([-\d.]+) ([-\d.]+)\)/.exec(element.getAttribute("transform"));
      stand = document.createElementNS("http://www.w3.org/2000/svg", "text");
      const b = element.getBBox(), middle = Number(m[1]) + b.x + b.width / 2;
      for (const [k, v] of [["class", "gp-live-number"], ["x", middle], ["y", m[2]], ["text-anchor", "middle"], ["font-size", "14"], ["fill", element.getAttribute("fill")]])
        stand.setAttribute(k, v);
      element.parentNode.append(stand);
      standOf.set(element, stand);
    }
    stand.textContent = "= " + number(a[0]);
    stand.style.display = changed ? "" : "none";
    element.style.visibility = changed ? "hidden" : "";
  }
  /** The numbers of now onto one picture; it has to be in the document, for texts are measured. */
  function paint(k) {
    const sheet = sheetOf(k);
    if (!sheet || !page.sheet(k).svg.isConnected) return;
    for (const [element, style, out] of sheet.rows) {
      const a = memory[out];
      if (!element || !a) continue;
      if (style === "value") write(element, "= " + number(a[0], 4));
      else if (style === "stats") write(element, a.length <= 4 && a.length > 0 && program.buffers[out].shape.length === 1 ? `(${Array.from(a, (v) => number(v)).join(", ")})` : summary(a));
      else if (style === "formula") work(element, a);
      else if (style === "cells") fill(element, heat(a, program.buffers[out].shape));
    }
    for (const [id, lines] of Object.entries(sheet.boxes)) {
      const shown = lines.find((l) => l.style !== "formula");
      if (shown && sheet.groups.has(id)) retell(sheet, id, shown.out);
    }
    widen(sheet);
    for (const [id, outs] of Object.entries(sheet.edges)) {
      const g = sheet.groups.get(id), label = g?.querySelector("text");
      if (g) retellEdge(g, outs);
      if (label) write(label, short(outs));
    }
    sentence(k);
  }
  function sentence(k) {
    const sheet = changed && sheetOf(k);
    if (!sheet || page.root.classList.contains("gp-asking")) return;
    const at = page.sheet(k).at, lit = sheet.steps[at].lit.filter((id) => sheet.boxes[id]);
    const now = lit.flatMap((id) => sheet.boxes[id].filter((r) => r.style === "value").map((r) => `${sheet.told[id].title} = ${number(memory[r.out][0], 4)}`));
    page.tell(sheet.say[at] + (now.length ? `  Now: ${now.join(", ")}.` : ""));
  }
  let edited = false;  // at any time: pictures that were not shown then are painted when they are
  page.on("sheet", ({ detail }) => {
    $("inner").hidden = !(changed && !data.sheets[detail + 1]);
    if (edited) paint(detail);
  });
  page.on("told", ({ sheet }) => sentence(sheet));

  // --- computing
  function compute() {
    const status = program.run(memory);
    if (status) { $("result").textContent = "An index is out of range."; return; }
    changed = data.fields.some((f) => f.values.some((v, k) => Number(memory[f.buffer][k]) !== Number(start[f.buffer][k])));
    if (data.loss) $("result").textContent = `loss = ${number(memory[data.loss][0], 6)}`;
    edited ||= changed;
    paint(page.sheet().number);
  }
  const start = {}, fieldInputs = [];
  for (const f of data.fields) {
    f.values.forEach((v, k) => put(memory[f.buffer], k, Number(v)));
    start[f.buffer] = memory[f.buffer].slice();
    const group = document.createElement("fieldset"), legend = document.createElement("legend");
    legend.textContent = f.label + (f.shape.length ? ` [${f.shape.join(", ")}]` : "");
    const grid = document.createElement("div");
    grid.className = "gp-live-grid";
    const columns = f.shape.length ? f.shape[f.shape.length - 1] : 1;
    grid.style.gridTemplateColumns = `repeat(${Math.min(columns, 8)}, minmax(3.4em, 1fr))`;
    f.values.forEach((v, k) => {
      const input = document.createElement("input");
      input.type = "number"; input.step = f.kind === "float" ? "0.1" : "1";
      input.value = String(+Number(v).toPrecision(6));
      input.setAttribute("aria-label", f.label + (f.values.length > 1 ? `, element ${k + 1}` : ""));
      input.oninput = () => { if (input.value !== "") { put(memory[f.buffer], k, Number(input.value)); compute(); } };
      input.onfocus = () => page.emit("highlight", { keys: f.keys, from: "live" });
      input.onblur = () => page.emit("highlight", { keys: [], from: "live" });
      fieldInputs.push([input, f, k]);
      grid.append(input);
      if (!f.shape.length && f.kind === "float") {
        const slide = document.createElement("input"), reach = Math.max(5, 2 * Math.abs(Number(v)));
        slide.type = "range"; slide.min = -reach; slide.max = reach; slide.step = 10 ** Math.floor(Math.log10(reach)) / 20; slide.value = v;
        slide.setAttribute("aria-label", `${f.label}, slider`);
        slide.oninput = () => { input.value = slide.value; input.oninput(); };
        input.addEventListener("input", () => { slide.value = input.value; });
        fieldInputs.push([slide, f, k]);
        grid.style.gridTemplateColumns = "7em 1fr";
        grid.append(slide);
      }
    });
    group.append(legend, grid);
    $("fields").append(group);
  }
  const refill = () => fieldInputs.forEach(([input, f, k]) => { input.value = String(+Number(memory[f.buffer][k]).toPrecision(6)); });
  $("reset").onclick = () => {
    for (const f of data.fields) memory[f.buffer].set(start[f.buffer]);
    curve = []; drawCurve(); refill(); compute(); page.again();
  };

  // --- gradient descent
  let curve = [];
  const moved = data.fields.filter((f) => f.gradient && f.parameter && f.kind === "float");
  $("descent").hidden = !moved.length;
  function drawCurve() {
    const svg = $("curve"), NS = "http://www.w3.org/2000/svg";
    svg.replaceChildren();
    if (curve.length < 2) return;
    const low = Math.min(...curve), high = Math.max(...curve), span = high - low || 1;
    svg.setAttribute("viewBox", "0 0 200 60");
    const line = document.createElementNS(NS, "polyline");
    line.setAttribute("points", curve.map((v, k) => `${(4 + 192 * k / (curve.length - 1)).toFixed(1)},${(54 - 48 * (v - low) / span).toFixed(1)}`).join(" "));
    svg.append(line);
    svg.setAttribute("aria-label", `The loss after ${curve.length - 1} steps: ${number(curve[curve.length - 1], 4)}, at first ${number(curve[0], 4)}`);
  }
  $("step").onclick = () => {
    const rate = Number($("rate").value);
    if (!curve.length) curve.push(Number(memory[data.loss][0]));
    const steps = moved.map((f) => Array.from(memory[f.gradient], Number));
    moved.forEach((f, m) => steps[m].forEach((g, k) => { memory[f.buffer][k] -= rate * g; }));
    refill(); compute();
    curve.push(Number(memory[data.loss][0]));
    drawCurve();
  };
  program.run(memory);
  if (data.loss) $("result").textContent = `loss = ${number(memory[data.loss][0], 6)}`;
}
