"use strict";
// Keys and drawing. Without this file the page works by its buttons and by numbers.
(() => {
  const svg = document.getElementById("boxes"), more = document.getElementById("more");
  const hint = document.getElementById("hint");
  const press = (id) => { const one = document.getElementById(id); if (one) one.click(); };
  const say = (text) => { if (hint) hint.textContent = text; };

  function ticks() { return [...document.querySelectorAll("#vote input[name=keep]")]; }

  function keep() {
    const all = ticks();
    if (!all.length) { say("There is no text to keep here."); return; }
    if (all.some((one) => one.checked)) { press("keep"); return; }
    for (const one of all) one.checked = true;
    say("All boxes are ticked. Press k again to keep their text, or untick some.");
  }

  function accept() {
    if (!more.value.trim()) { press("accept"); return; }
    say("There is a rectangle. Press r to redact it, or Escape to remove it.");
  }

  function redact() {
    if (more.value.trim()) { press("redact"); return; }
    say("Drag a rectangle on the left picture, then press r again.");
  }

  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.repeat) return;
    if (event.target.matches("textarea, input[type=text]")) {
      if (event.key === "Escape") event.target.blur();
      return;
    }
    const action = {
      n: () => press("next"), p: () => press("previous"), a: accept, q: () => press("quarantine"),
      u: () => press("take-back"), k: keep, r: redact, Escape: () => forget(),
    }[event.key];
    const local = event.key === "n" || event.key === "p" || document.getElementById("vote");
    if (action && local) { event.preventDefault(); action(); }
  });

  if (!svg || !more) return;
  const [width, height] = svg.getAttribute("viewBox").split(" ").slice(2).map(Number);

  function rectangle(box) {
    const one = document.createElementNS("http://www.w3.org/2000/svg", "rect");
    one.setAttribute("class", "drawn");
    svg.append(one);
    place(one, box);
    return one;
  }

  function place(one, box) {
    one.setAttribute("x", box[0]);
    one.setAttribute("y", box[1]);
    one.setAttribute("width", Math.max(box[2] - box[0], 0));
    one.setAttribute("height", Math.max(box[3] - box[1], 0));
  }

  function written() {
    return more.value.split(";").map((part) => part.trim().split(/\s+/).map(Number))
      .filter((box) => box.length === 4 && box.every(Number.isInteger));
  }

  function draw() {
    svg.querySelectorAll(".drawn").forEach((one) => one.remove());
    written().forEach(rectangle);
  }

  function forget() {
    more.value = more.value.split(";").slice(0, -1).join(";");
    draw();
  }

  function point(event) {
    const frame = svg.getBoundingClientRect();
    const x = (event.clientX - frame.left) * width / frame.width;
    const y = (event.clientY - frame.top) * height / frame.height;
    return [Math.min(Math.max(Math.round(x), 0), width), Math.min(Math.max(Math.round(y), 0), height)];
  }

  let from = null, ghost = null;
  const between = (a, b) => [
    Math.min(a[0], b[0]), Math.min(a[1], b[1]), Math.max(a[0], b[0]), Math.max(a[1], b[1]),
  ];
  svg.addEventListener("pointerdown", (event) => {
    if (event.button !== 0) return;
    event.preventDefault();
    svg.setPointerCapture(event.pointerId);
    from = point(event);
    ghost = rectangle(between(from, from));
  });
  svg.addEventListener("pointermove", (event) => { if (from) place(ghost, between(from, point(event))); });
  svg.addEventListener("pointerup", (event) => {
    if (!from) return;
    const box = between(from, point(event));
    from = null;
    ghost.remove();
    if (box[2] - box[0] > 2 && box[3] - box[1] > 2) {
      more.value = (more.value.trim() ? more.value.trim().replace(/;$/, "") + "; " : "") + box.join(" ");
      draw();
      say("Press r to redact this, too. Escape removes the last rectangle.");
    }
  });
  svg.addEventListener("pointercancel", () => { from = null; if (ghost) ghost.remove(); });
  more.addEventListener("input", draw);
  draw();
})();
