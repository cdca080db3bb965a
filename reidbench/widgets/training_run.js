// A training as it stands: where it is, its curves with the values at one epoch, its last pictures, and what it printed.
const DASH = [[], [6, 4], [2, 3], [9, 3, 2, 3]], INK = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9"];
function render(context) {
  const ui = frame(context), { get } = ui;
  const run = h("select", { ariaLabel: "run", onchange: () => ui.set("run", run.value) });
  const act = (name) => h("button", { onclick: () => ui.ask({ act: name }) }, name);
  const [start, stop, resume] = ["start", "stop", "resume"].map(act);
  const stages = h("span.stages", { role: "tablist", ariaLabel: "stage" }), bar = h("progress", { max: 1, ariaLabel: "progress" });
  const said = h("span.number", { ariaLive: "polite" }), charts = h("div.charts"), shown = h("img.preview", { alt: "the last pictures of this training" }), log = h("pre.log", { tabIndex: 0, ariaLabel: "log" });
  if (ui.live) ui.body.append(h("div.bar", {}, labelled("run", run), start, stop, resume));
  ui.body.append(h("div.bar", {}, stages, bar), charts, said, shown, h("details", { open: true }, h("summary", {}, "log"), log));
  const stage = () => get("stages")[get("stage")] ?? { curves: {}, epochs: 0, epoch: 0 };
  const shares = (name) => /rank-|map|inp|accuracy/i.test(name);
  const length = () => Math.max(0, ...Object.values(stage().curves).map((c) => c.length));
  let at = -1;  // the epoch whose values are told; -1: the last

  function chart(title, names) {
    const canvas = h("canvas.curves", { width: 1040, height: 380, tabIndex: 0, role: "img", ariaLabel: `${title}: ${names.join(", ")}; arrow keys tell the values of an epoch` }), c = canvas.getContext("2d");
    const { curves } = stage(), all = names.flatMap((n) => curves[n]).filter(Number.isFinite), css = getComputedStyle(ui.root);
    const low = shares(names[0]) ? 0 : Math.min(0, ...all), high = shares(names[0]) ? 1 : Math.max(...all, low + 1e-9), wide = Math.max(length(), stage().epochs, 2);
    const x = (i) => 80 + (i / (wide - 1)) * 930, y = (v) => 330 - ((v - low) / (high - low)) * 300;
    c.font = "22px system-ui"; c.fillStyle = css.getPropertyValue("color"); c.strokeStyle = "#8884"; c.lineWidth = 1;
    for (let i = 0; i <= 4; i++) {
      const v = low + ((high - low) * i) / 4;
      c.beginPath(); c.moveTo(80, y(v)); c.lineTo(1010, y(v)); c.stroke();
      c.textAlign = "right"; c.fillText(v.toPrecision(3).replace(/\.?0+$/, ""), 72, y(v) + 7);
    }
    c.textAlign = "center";
    for (const i of new Set([0, (wide - 1) >> 1, wide - 1])) c.fillText(i + 1, x(i), 365);
    names.forEach((n, k) => {
      c.strokeStyle = c.fillStyle = INK[k % 6]; c.lineWidth = 3.5; c.setLineDash(DASH[(k / 6) | 0] ?? []); c.beginPath();
      let pen = false, count = 0, last;
      curves[n].forEach((v, i) => { if (!Number.isFinite(v)) return; pen ? c.lineTo(x(i), y(v)) : c.moveTo(x(i), y(v)); pen = true; count++; last = [x(i), y(v)]; });
      c.stroke();
      if (last && count < 40) { c.beginPath(); c.arc(...last, 6, 0, 7); c.fill(); }
    });
    if (at >= 0) { c.setLineDash([4, 4]); c.strokeStyle = "#888"; c.lineWidth = 2; c.beginPath(); c.moveTo(x(at), 25); c.lineTo(x(at), 330); c.stroke(); }
    const tell = (i) => { at = Math.max(0, Math.min(length() - 1, i)); values(); redraw(canvas); };
    canvas.onmousemove = (e) => tell(Math.round(((e.offsetX * 1040) / canvas.clientWidth - 80) / 930 * (wide - 1)));
    canvas.onmouseleave = () => { at = -1; values(); redraw(canvas); };
    canvas.onkeydown = (e) => { if (e.key === "Escape") canvas.onmouseleave(); else stepped(e, at < 0 ? length() - 1 : at, length() - 1, tell); };
    const legend = names.map((n, k) => h("span.key", { style: `--c:${INK[k % 6]}` }, n));
    return h("figure.figure", {}, h("span.caption", {}, title + " ", legend), canvas);
  }
  function redraw(focused) {
    const names = Object.keys(stage().curves), i = [...charts.querySelectorAll("canvas")].indexOf(document.activeElement);
    const groups = [["training, mean of each epoch", names.filter((n) => !shares(n))], ["searched while it trains", names.filter(shares)]].filter(([, n]) => n.length);
    charts.replaceChildren(...groups.map((g) => chart(...g)));
    if (i >= 0) charts.querySelectorAll("canvas")[i]?.focus();
  }
  function values() {
    const { curves, values: now, state } = stage(), told = at < 0 && state === "running" && Object.keys(now ?? {}).length ? ["now", now]
      : [`epoch ${(at < 0 ? length() - 1 : at) + 1}`, Object.fromEntries(Object.entries(curves).map(([n, c]) => [n, c[at < 0 ? length() - 1 : at]]))];
    said.textContent = length() || told[0] === "now" ? told[0] + ": " + Object.entries(told[1]).map(([n, v]) => `${n} ${number(v)}`).join(", ") : "";
  }
  function draw() {
    const s = stage(), all = get("stages");
    start.disabled = !get("startable"); stop.disabled = !get("alive"); resume.disabled = !get("resumable");
    run.replaceChildren(...(get("runs").length ? options(get("runs"), get("run")) : options(["no run yet"], "")));
    stages.hidden = all.length < 2;
    stages.replaceChildren(...all.map((v, i) => h("button", { role: "tab", ariaSelected: String(i === get("stage")), onclick: () => ui.set("stage", i) }, `${i + 1} ${v.title}`)));
    bar.hidden = !s.epochs;
    bar.value = s.state === "finished" ? 1 : (s.epoch + (s.steps ? s.step / s.steps : 0)) / Math.max(s.epochs, 1);
    values(); redraw();
  }
  ui.watch(["runs", "run", "stages", "stage", "alive", "startable", "resumable"], draw);
  ui.watch(["preview"], () => { shown.hidden = !get("preview"); if (get("preview")) shown.src = get("preview"); });
  ui.watch(["log"], () => { log.textContent = get("log").join("\n"); log.parentElement.hidden = !get("log").length; });
  const theme = new MutationObserver(() => redraw()); // the charts are drawn in the page's ink
  theme.observe(document.body, { attributes: true });
  return () => { theme.disconnect(); ui.close(); };
}
export default { render };
