// One job: what its report shows as it grows, its log as it comes.
import { ask, byId, cell, dollars, fill, make, repeat, root, setText, tell } from "./page.js";
import { offer } from "./orders.js";

const name = byId("job").dataset.job, MOST = 400_000;
const curves = new Curves(byId("charts"));
let redraw = () => {}, job = null;

const look = repeat(async () => {
  job = await ask(`job/${name}`);
  tell(null);
  setText(byId("title"), job.title);
  setText(byId("state"), job.state);
  byId("state").className = `state ${job.state}`;
  setText(byId("sentence"), job.sentence);
  byId("stop").disabled = job.state === "succeeded" || job.state === "stopping";
  byId("resume").disabled = job.at_work || job.state === "succeeded";
  byId("to-group").hidden = !job.group;
  if (job.group) byId("to-group").href = `${root}/#${new URLSearchParams({ group: job.group })}`;
  fill(byId("rows"), job.rows, ([key, text]) => [make("dt", {}, key), make("dd", {}, text)]);
  byId("bar").hidden = !job.total;
  if (job.total) { byId("bar").max = job.total; byId("bar").value = job.step; }
  byId("no-curves").hidden = job.charts.length > 0;
  redraw = curves.show(job.charts, job.marks);
  byId("left-out").hidden = !job.attempts_left_out;
  setText(byId("left-out"), `The last ${job.attempts.length}; ${job.attempts_left_out} earlier ones are left out.`);
  fill(byId("attempts"), job.attempts, one => [
    make("tr", {}, cell(one.number, true), cell(one.where), cell(`${one.env || "-"}, ${one.launcher}`), cell(one.gpu), cell(one.started, true),
      cell(one.time, true), cell(one.epochs, true), cell(one.clips_per_second, true), cell(dollars(one.cost), true),
      make("td", {}, make("strong", {}, one.ended), one.message ? `: ${one.message}` : null, ...one.changes.map(change => make("div", {}, `changed ${change}`))))]);
  fill(byId("spec"), job.spec.filter(row => row.chosen), row => [
    make("tr", {}, cell(row.key), make("td", { class: "value" }, row.value), cell(row.origin))]);
  if (job.at_work) follow();
  return job.at_work ? 2 : 10;
});

// --- its log ---------------------------------------------------------------------------------------------------------

let source = null, ended = false;
const log = byId("log");

function follow() {
  if (source || document.hidden) return;
  let isFirst = true;
  setText(byId("log-state"), "");
  source = new EventSource(`${root}/api/job/${name}/log`);
  source.onopen = () => { isFirst = true; };
  source.onmessage = event => {
    if (isFirst) log.replaceChildren();
    isFirst = false;
    log.append(JSON.parse(event.data));
    log.normalize();
    if (log.textContent.length > MOST) log.textContent = log.textContent.slice(-MOST / 2);
    if (byId("follow").checked) log.scrollTop = log.scrollHeight;
  };
  source.addEventListener("end", () => { close(); ended = true; look(); });
  source.addEventListener("full", () => { close(); setText(byId("log-state"), "too many logs are followed at once: close some pages, and load this one again"); });
}

function close() {
  source?.close();
  source = null;
}

// A browser keeps few connections to one server: pages that nobody looks at hold none.
document.addEventListener("visibilitychange", () => document.hidden ? close() : (!ended || job?.at_work) && follow());
follow();

for (const query of ["(prefers-color-scheme: dark)", "print"]) matchMedia(query).addEventListener("change", () => redraw());
for (const command of ["stop", "resume"]) byId(command).addEventListener("click", () => offer(command, name, look));
