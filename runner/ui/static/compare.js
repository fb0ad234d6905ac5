// Several jobs side by side.
import { ask, byId, cell, fill, jobAddress, make, repeat, setText, tell } from "./page.js";

const curves = new Curves(byId("charts")), AT_WORK = ["running", "stopping", "queued"];
let redraw = () => {};

function key(colour) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg"), box = document.createElementNS(svg.namespaceURI, "rect");
  svg.setAttribute("viewBox", "0 0 10 10"); svg.setAttribute("aria-hidden", "true"); svg.setAttribute("class", "key");
  box.setAttribute("width", 10); box.setAttribute("height", 10); box.setAttribute("class", `c${Number(colour)}`);
  svg.append(box);
  return svg;
}

repeat(async () => {
  const facts = await ask(`compare${location.search}`);
  tell(null);
  setText(byId("sentence"), facts.sentence);
  fill(byId("keys"), [["", ...facts.keys, "jobs", "top-1 last", facts.tested ? "validation best" : "top-1 best", "test", "time", "cost"]], names =>
    names.map(name => make("th", { scope: "col" }, name || make("span", { class: "hidden" }, "colour"))));
  fill(byId("rows"), facts.rows, row => [make("tr", {}, make("td", {}, row.colour == null ? null : key(row.colour)), ...row.values.map(value => cell(value)),
    cell(`${row.finished}${row.jobs > row.finished ? ` of ${row.jobs}` : ""}${row.seeds < row.finished ? ` (${row.seeds} seed${row.seeds === 1 ? "" : "s"})` : ""}`),
    ...[row.last, row.best, row.test, row.time, row.cost].map(value => cell(value, true)))]);
  fill(byId("without"), Object.entries(facts.without), ([name, why]) => [make("li", {}, `Without ${name}: ${why}`)]);
  fill(byId("jobs"), facts.jobs, job => [make("tr", {}, make("td", {}, make("a", { href: jobAddress(job.id) }, job.id)), cell(job.state),
    ...[job.seed, job.epochs, job.last, job.best, job.test, job.time, job.cost].map(value => cell(value, true)))]);
  redraw = curves.show(facts.charts, facts.marks);
  return facts.jobs.some(job => AT_WORK.includes(job.state)) ? 5 : 60;
});

for (const query of ["(prefers-color-scheme: dark)", "print"]) matchMedia(query).addEventListener("change", () => redraw());
