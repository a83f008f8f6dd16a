"use strict";
(() => {
  const root = document.currentScript.previousElementSibling;
  const $ = (name) => root.querySelector(".gp-" + name);
  const steps = JSON.parse($("data").textContent);
  const when = new Map();
  steps.forEach((step, k) => step.lit.forEach((id) => when.set(id, k)));
  const groups = [...root.querySelectorAll(".gp-pic svg g[id]")]
    .map((g) => [g, when.get(g.id.slice(g.id.indexOf("-") + 1))])
    .filter(([, k]) => k !== undefined);
  let at = 0, timer = 0, quiz = false, asked = false;

  function show(k) {
    const next = Math.max(0, Math.min(steps.length - 1, k));
    if (next !== at) asked = false;
    at = next;
    const hidden = quiz && !asked && steps[at].side === "backward";
    for (const [g, step] of groups) {
      g.classList.toggle("gp-future", step > at);
      g.classList.toggle("gp-now", step === at);
      g.classList.toggle("gp-hide", quiz && steps[step].side === "backward" && (step > at || (step === at && hidden)));
    }
    $("say").textContent = hidden ? "What flows back here? Press Enter for the answer." : steps[at].say;
    $("scrub").value = at;
    $("scrub").setAttribute("aria-valuetext", `step ${at + 1} of ${steps.length}`);
    $("at").textContent = `${at + 1} / ${steps.length}`;
    if (at === steps.length - 1) stop();
  }
  function stop() {
    clearInterval(timer); timer = 0;
    $("play").textContent = "Play"; $("play").setAttribute("aria-pressed", "false");
  }
  function play() {
    if (timer) return stop();
    if (at === steps.length - 1) show(0);
    timer = setInterval(() => show(at + 1), 1500);
    $("play").textContent = "Pause"; $("play").setAttribute("aria-pressed", "true");
  }
  function toggleQuiz() { quiz = !quiz; asked = false; $("quiz").setAttribute("aria-pressed", String(quiz)); show(at); }
  $("prev").onclick = () => show(at - 1);
  $("next").onclick = () => show(at + 1);
  $("play").onclick = play;
  $("quiz").onclick = toggleQuiz;
  $("scrub").oninput = () => show(Number($("scrub").value));
  $("theme").onchange = () => { root.dataset.theme = $("theme").value; };
  $("say").onclick = () => { asked = true; show(at); };
  const keys = {
    ArrowRight: () => show(at + 1), ArrowLeft: () => show(at - 1), Home: () => show(0), End: () => show(steps.length - 1),
    " ": play, q: toggleQuiz, Enter: () => { asked = true; show(at); }, "?": () => { $("help").hidden = !$("help").hidden; },
  };
  // keys go to the page that has the focus, or to the first one where none has it
  document.addEventListener("keydown", (e) => {
    const mine = root.contains(e.target) || (!e.target.closest?.(".gp") && root === document.querySelector(".gp"));
    if (!mine) return;
    const act = keys[e.key];
    const own = e.target.tagName === "SELECT" || (e.target.tagName === "BUTTON" && (e.key === " " || e.key === "Enter"));
    if (!act || own || e.ctrlKey || e.metaKey || e.altKey) return;
    e.preventDefault(); act();
  });
  show(0);
})();
