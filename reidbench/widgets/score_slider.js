// One person at another picture quality: original, re-rendered, difference, and how far it moves.
function render(context) {
  const ui = frame(context), { get } = ui, key = (score) => get("kind") + "|" + score;
  const picture = (name) => h("img", { alt: name, height: 224 });
  const [original, made, apart] = ["original", "re-rendered", "difference"].map(picture);
  const caption = h("span.caption"), score = h("b.number"), chart = h("canvas", { width: 520, height: 448, style: "width:260px;height:224px" });
  const figure = (img, text) => h("figure.figure", {}, img, h("figcaption.caption", {}, text));
  const bar = h("span.scale", {}, "0", h("span.viridis"), String(get("top")));
  let fine = false;
  const slider = h("input.wide", { type: "range", min: 0, max: 100, step: 1, ariaLabel: "quality score", onkeydown: keyed, oninput: dragged });
  for (const event of ["pointerdown", "pointermove"]) slider.addEventListener(event, (e) => { fine = e.shiftKey; });
  const kinds = h("select", { ariaLabel: "degradation", onchange: () => ui.set("kind", kinds.value) }), kind = labelled("degradation", kinds);
  const reset = h("button", { onclick: () => go(get("estimated")) }, "reset to estimated");
  ui.body.append(h("div.row", {}, figure(original, "original"), figure(made, caption), figure(apart, ["difference ", bar]), h("figure.figure", {}, chart, h("figcaption.caption", {}, get("measure")))),
    h("div.bar", {}, kind, h("label.field.grow", {}, "score", slider), score, reset));

  const there = () => Object.keys(get("frames")).filter((k) => k.startsWith(get("kind") + "|")).map((k) => +k.split("|")[1]).sort((a, b) => a - b);
  const nearest = (value) => there().reduce((best, s) => (Math.abs(s - value) < Math.abs(best - value) ? s : best), Infinity);
  const go = (value) => ui.set("score", ui.live ? Math.max(0, Math.min(100, Math.round(value))) : nearest(value));
  function keyed(event) {
    const step = { ArrowLeft: -1, ArrowDown: -1, ArrowRight: 1, ArrowUp: 1, PageDown: -2, PageUp: 2, Home: -20, End: 20 }[event.key];
    if (event.key === "Escape") return go(get("estimated"));
    if (!step || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    event.stopPropagation();
    const near = get("score") / 5;
    go(Math.max(0, Math.min(100, event.shiftKey ? get("score") + step : 5 * (step > 0 ? Math.floor(near) + step : Math.ceil(near) + step))));
  }
  function dragged() { go(fine ? +slider.value : 5 * Math.round(slider.value / 5)); }

  function draw() {
    const now = get("score"), shown = nearest(now), f = get("frames")[key(shown)];
    original.src = get("original"); slider.value = now;
    score.textContent = now;
    slider.setAttribute("aria-valuetext", f ? `${now}, distance ${number(f.distance)}` : now);
    reset.hidden = get("estimated") < 0;
    if (!f) return;
    if (made.src !== f.image) { made.src = f.image; apart.src = f.apart; }
    made.style.opacity = shown === now ? 1 : 0.6;
    caption.textContent = shown === now ? `score ${now}, ${number(f.distance)} away` : `score ${shown}; ${now} is being rendered`;
    plot(now);
  }
  function plot(now) {
    const c = chart.getContext("2d"), points = there().map((v) => [v, get("frames")[key(v)].distance]);
    const top = Math.max(1e-6, ...points.map((p) => p[1])), x = (v) => 70 + v * 4.2, y = (v) => 394 - (v / top) * 350;
    c.clearRect(0, 0, 520, 448); c.font = "22px system-ui"; c.lineWidth = 2;
    c.fillStyle = c.strokeStyle = getComputedStyle(caption).color;
    c.beginPath(); c.moveTo(70, 394); c.lineTo(490, 394); c.stroke();
    for (const v of [0, 50, 100]) c.fillText(v, x(v) - 12, 426);
    c.fillText(number(top, 2), 8, 48); c.fillText("0", 50, 400);
    c.fillStyle = c.strokeStyle = getComputedStyle(slider).accentColor;
    c.lineWidth = 4; c.beginPath(); for (const [v, d] of points) c.lineTo(x(v), y(d)); c.stroke();
    const at = points.find((p) => p[0] === nearest(now)); c.beginPath(); c.arc(x(at[0]), y(at[1]), 10, 0, 7); c.fill();
  }
  ui.watch(["kinds", "kind"], () => { const can = ui.live ? get("kinds") : get("kinds").filter((k) => get("frames")[k + "|0"]); kinds.replaceChildren(...options(can, get("kind"))); kind.hidden = can.length < 2; });
  ui.watch(["score", "kind", "frames", "original", "estimated"], draw);
  const theme = new MutationObserver(draw); // the chart is drawn in the page's ink
  theme.observe(document.body, { attributes: true });
  return () => { theme.disconnect(); ui.close(); };
}
export default { render };
