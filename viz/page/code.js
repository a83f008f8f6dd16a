(root, data, page) => {
  const $ = (name) => root.querySelector(".gp-code-" + name);
  const levels = ["source", "loops", "llvm", "asm", "cuda"];
  const panels = Object.fromEntries(levels.map((l) => [l, root.querySelector(`.gp-code-panel[data-level=${l}]`)]));
  const isBox = data.keys.map((k) => k.startsWith("node:"));
  let kernel = null, rows = {}, filled = new Set(), visible = false, pointer = "";
  root.addEventListener("pointermove", (e) => { pointer = `${e.clientX} ${e.clientY}`; });
  const moved = (e) => pointer !== `${e.clientX} ${e.clientY}`;  // else the pane scrolled below a pointer at rest
  const hint = "Point at a line, or reach it with Tab and the arrows: its kin are lit in every panel and in the picture.";

  // --- lines: of each panel {text, number, loop (the line of loops it was made for), keys}
  function linesOf(level) {
    const k = kernel;
    if (level === "source")
      return data.source.flatMap(({ file, lines }) => [{ text: file, head: true }, ...lines.flatMap(([n, text, key], i) => [
        ...(i && lines[i - 1][0] !== n - 1 ? [{ text: "⋯", head: true }] : []), { text, number: n, keys: key < 0 ? [] : [key] }])]);
    if (level === "loops") return k.loops.split("\n").map((text, i) => ({ text, number: i + 1, loop: i + 1, keys: k.keys[i] }));
    if (level === "cuda")
      return k.cuda.flatMap((c) => [...data.cuda[c].text.split("\n").map((text, i) => ({ text, number: i + 1, keys: data.cuda[c].keys[i] })),
        { text: "", head: true }]);
    if (!k[level]) return [{ text: `left out for its size: program.source("${level}") has it, or program.links(limit=…)`, head: true }];
    const made = k[level + "Lines"];
    return k[level].replace(/\n$/, "").split("\n").map((text, i) => ({ text, number: i + 1, loop: made[i], keys: made[i] ? k.keys[made[i] - 1] : [] }));
  }
  function fill(level) {
    if (filled.has(level) || panels[level].hidden) return;
    filled.add(level);
    const list = panels[level].querySelector(".gp-code-lines");
    rows[level] = linesOf(level).map((line) => {
      const row = document.createElement("div"), number = document.createElement("i"), code = document.createElement("code");
      number.textContent = line.number ?? "";
      code.textContent = line.text;
      row.append(number, code);
      row.className = line.head ? "gp-code-line gp-code-head" : "gp-code-line";
      const band = level === "loops" || level === "llvm" || level === "asm" ? line.loop : 0;
      if (band && (kernel.keys[band - 1].length || level !== "loops")) row.style.setProperty("--gp-code-hue", String((band * 67) % 360));
      if (band) row.classList.add("gp-code-banded");
      row.tabIndex = -1;
      row.setAttribute("role", "option");
      const made = { row, level, ...line, keys: line.keys ?? [] };
      if (!line.head) {
        row.onpointerenter = (e) => { if (moved(e)) light(made); };
        row.onpointerleave = (e) => { if (moved(e)) dark(); };
        row.onfocus = () => light(made);
        row.onblur = dark;
        row.onkeydown = (e) => walk(e, made);
      }
      return made;
    });
    list.replaceChildren(...rows[level].map((r) => r.row));
    const first = rows[level].find((r) => !r.head);
    if (first) first.row.tabIndex = 0;
  }
  function choose(k) {
    if (kernel === data.kernels[k]) return;
    kernel = data.kernels[k];
    $("kernel").value = k;
    filled = new Set(); rows = {};
    levels.forEach(fill);
    tell();
  }
  function tell() {
    const left = data.left.includes(kernel.name) ? " Its machine code is left out of this page." : "";
    $("say").textContent = hint + left;
  }

  // --- kin
  const some = (list, wanted) => list.some((k) => wanted.has(k));
  /** Lines of loops and keys that belong to a line: machine code leads to loops by its number, the rest by nodes. */
  function kinOf(line) {
    const loops = new Set();
    if (line.loop) {
      loops.add(line.loop);
      for (const [product, sum] of kernel.fused) if (loops.has(product) || loops.has(sum)) { loops.add(product); loops.add(sum); }
      return { loops, keys: new Set(kernel.keys[line.loop - 1]) };
    }
    const keys = new Set(line.keys);
    return { loops: loopsWith(keys), keys };
  }
  function loopsWith(keys) {
    const boxes = new Set([...keys].filter((k) => isBox[k])), wanted = boxes.size ? boxes : keys;
    return new Set(kernel.keys.flatMap((own, i) => (some(own, wanted) ? [i + 1] : [])));
  }
  function mark({ loops, keys }, from) {
    const boxes = new Set([...keys].filter((k) => isBox[k])), wanted = boxes.size ? boxes : keys;
    for (const level of levels) {
      if (!rows[level] || panels[level].hidden) continue;
      let first = null;
      for (const r of rows[level]) {
        const kin = level === "source" ? some(r.keys, keys) : level === "cuda" ? some(r.keys, wanted) : loops.has(r.loop);
        r.row.classList.toggle("gp-code-kin", kin);
        if (kin && !first) first = r.row;
      }
      if (first && level !== from) {
        const list = first.parentElement;
        if (first.offsetTop < list.scrollTop || first.offsetTop + first.offsetHeight > list.scrollTop + list.clientHeight)
          list.scrollTop = first.offsetTop - list.clientHeight / 3;
      }
    }
  }
  function light(line) {
    const kin = kinOf(line);
    mark(kin, line.level);
    line.row.classList.add("gp-code-own");
    const count = (level) => (kernel[level] ? kernel[level + "Lines"].filter((l) => kin.loops.has(l)).length : 0);
    const many = (n, one) => `${n || "no"} ${one}${n === 1 ? "" : "s"}`;
    $("say").textContent = !kin.loops.size ? "Nothing in this kernel was made for this line." : !kernel.asm ? `Its kin: ${many(kin.loops.size, "line")} of loops.`
      : `Its kin: ${many(kin.loops.size, "line")} of loops, ${many(count("llvm"), "line")} of LLVM IR, ${many(count("asm"), "line")} of assembly.`;
    page.emit("highlight", { keys: [`kernel:${kernel.name}`, ...[...kin.keys].map((k) => data.keys[k])], from: "code" });
  }
  function dark() {
    root.querySelectorAll(".gp-code-kin, .gp-code-own").forEach((r) => r.classList.remove("gp-code-kin", "gp-code-own"));
    tell();
    page.emit("highlight", { keys: [], from: "code" });
  }
  function walk(e, line) {
    const all = rows[line.level].filter((r) => !r.head), at = all.indexOf(line);
    const to = { ArrowDown: at + 1, ArrowUp: at - 1, PageDown: at + 15, PageUp: at - 15, Home: 0, End: all.length - 1 }[e.key];
    let goal = null;
    if (to !== undefined) goal = all[Math.max(0, Math.min(all.length - 1, to))];
    else if (e.key === "ArrowRight" || e.key === "ArrowLeft") {
      const shown = levels.filter((l) => !panels[l].hidden), next = shown[shown.indexOf(line.level) + (e.key === "ArrowRight" ? 1 : -1)];
      if (next) goal = rows[next].find((r) => r.row.classList.contains("gp-code-kin")) ?? rows[next].find((r) => !r.head);
    } else return;
    e.preventDefault(); e.stopPropagation();
    if (!goal) return;
    rows[goal.level].forEach((r) => { r.row.tabIndex = r === goal ? 0 : -1; });
    goal.row.focus({ preventScroll: true });
    goal.row.scrollIntoView({ block: "nearest" });
  }

  // --- what is looked at elsewhere
  page.on("highlight", ({ keys, from }) => {
    if (from === "code" || !visible) return;
    root.querySelectorAll(".gp-code-kin").forEach((r) => r.classList.remove("gp-code-kin"));
    if (!keys.length) return;
    const named = data.kernels.findIndex((k) => keys.includes(`kernel:${k.name}`));
    const numbers = new Set(keys.map((k) => data.keys.indexOf(k)).filter((k) => k >= 0));
    const boxes = new Set([...numbers].filter((k) => isBox[k])), wanted = boxes.size ? boxes : numbers;
    const holds = (k) => some(k.all, wanted) || k.keys.some((own) => some(own, wanted));
    if (named >= 0) choose(named);
    else if (!some(kernel.all, wanted)) {
      const other = data.kernels.findIndex((k) => some(k.all, wanted));
      if (other >= 0) choose(other);
      else if (!holds(kernel)) return;
    }
    mark({ loops: loopsWith(numbers), keys: numbers }, "");
  });

  // --- controls
  $("kernel").onchange = () => choose(Number($("kernel").value));
  root.querySelectorAll("[data-level][aria-pressed]").forEach((b) => {
    b.onclick = () => {
      const shown = b.getAttribute("aria-pressed") !== "true";
      b.setAttribute("aria-pressed", String(shown));
      panels[b.dataset.level].hidden = !shown;
      fill(b.dataset.level);
    };
  });
  page.on("show", ({ pane }) => {
    visible = pane === "code";
    if (visible && !kernel) choose(0);
  });
}
