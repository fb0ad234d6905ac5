// The list of a store's jobs: what is other than before is asked for, and only its rows are touched.
import { ask, byId, cell, jobAddress, make, percent, repeat, root, setText, stateOf, tell, time } from "./page.js";
import { offer } from "./orders.js";

const jobs = new Map(), rows = new Map(), marked = new Set(), body = document.querySelector("#jobs tbody");
const SEEN = 60;
let version = 0, ids = [], more = false, unread = 0;
const date = new Intl.DateTimeFormat(undefined, { dateStyle: "short", timeStyle: "short" });
const wanted = new URLSearchParams(location.hash.slice(1));
const filters = { search: byId("search"), state: byId("state"), group: byId("group") };

const group = job => job?.group?.id ?? "";
const state = job => !job ? "" : job.error ? "unreadable" : job.state;

function rowOf(name) {
  const job = jobs.get(name);
  const mark = make("input", { type: "checkbox", value: name, "aria-label": `mark ${name}` });
  mark.checked = marked.has(name);
  const link = make("td", {}, make("a", { href: jobAddress(name) }, name));
  if (!job) return make("tr", {}, make("td", {}, mark), link, make("td", { colspan: 7, class: "missing" }, "..."));
  if (job.error) return make("tr", {}, make("td", {}), link, make("td", {}, stateOf("unreadable")), make("td", { colspan: 6 }, job.error));
  const why = job.reason && job.state !== "succeeded" ? ` ${job.reason}` : null;
  if (job.group) {
    const sets = Object.entries(job.group.values).map(([key, value]) => `${key}=${JSON.stringify(value)}`).join(", ");
    link.append(make("div", { class: "missing" }, `point ${job.group.index} of ${job.group.count}: ${sets}`));
  }
  return make("tr", {}, make("td", {}, mark), link, make("td", {}, stateOf(job.state), why),
    cell(`${job.epoch}/${job.epochs}`, true), cell(percent(job.best_top1), true), cell(time(job.seconds_left), true),
    cell(`${job.model}, ${job.dataset}`), cell(job.env), cell(date.format(1000 * job.created_at), true));
}

function fits(name, words) {
  const job = jobs.get(name);
  if (filters.state.value && state(job) !== filters.state.value) return false;
  if (filters.group.value && group(job) !== filters.group.value) return false;
  if (!words.length) return true;
  const text = [name, job?.name, job?.model, job?.dataset, job?.split_type, job?.env, job?.by, job?.reason].join(" ").toLowerCase();
  return words.every(word => text.includes(word));
}

function choices(select, counts) {
  const chosen = select.value || wanted.get(select.id) || "";
  const options = [...counts].filter(([name]) => name).map(([name, count]) => [name, `${name} (${count})`]);
  if (chosen && !counts.has(chosen)) options.push([chosen, `${chosen} (0)`]);
  const text = JSON.stringify(options);
  if (select.dataset.shown === text) return;
  select.dataset.shown = text;
  select.replaceChildren(make("option", { value: "" }, "all"), ...options.map(([value, label]) => make("option", { value }, label)));
  select.value = chosen;
}

const counted = values => values.reduce((found, value) => found.set(value, (found.get(value) ?? 0) + 1), new Map());

function filter() {
  const words = filters.search.value.toLowerCase().split(/\s+/).filter(Boolean);
  let shown = 0;
  for (const name of ids) {
    const fitting = fits(name, words);
    if (rows.has(name)) rows.get(name).hidden = !fitting;
    shown += fitting;
  }
  const chosen = filters.group.value;
  for (const id of ["compare-group", "stop-group", "resume-group"]) byId(id).hidden = !chosen;
  const inGroup = chosen ? [...counted(ids.filter(name => group(jobs.get(name)) === chosen).map(name => state(jobs.get(name))))] : [];
  const sums = inGroup.map(([name, count]) => `${count} ${name}`).join(", ");
  setText(byId("count"), `${shown.toLocaleString("en")} of ${ids.length.toLocaleString("en")} jobs${more ? ", the newest" : ""}${unread ? `; ${unread.toLocaleString("en")} are being read` : ""}${sums ? `; of the group ${sums}` : ""}`);
  byId("empty").hidden = ids.length > 0;
  wanted.delete("search"); wanted.delete("state"); wanted.delete("group");
  for (const [key, field] of Object.entries(filters)) if (field.value) wanted.set(key, field.value);
  history.replaceState(null, "", wanted.size ? `#${wanted}` : location.pathname);
}

const look = repeat(async () => {
  const told = await ask(`jobs?since=${version}`);
  tell(told.problem);
  const changed = new Set(told.jobs.map(job => job.id));
  for (const job of told.jobs) jobs.set(job.id, job);
  if (told.ids) {
    const there = new Set(told.ids);
    for (const name of ids) if (!there.has(name)) { rows.get(name)?.remove(); rows.delete(name); jobs.delete(name); marked.delete(name); }
    ids = told.ids;
  }
  ({ version, more, unread } = told);
  let before = null;
  for (const [number, name] of ids.entries()) {
    if (number === SEEN && !rows.has(name)) await new Promise(requestAnimationFrame);  // what is on the screen is drawn first
    let row = rows.get(name);
    if (!row || changed.has(name)) {
      const made = rowOf(name), holds = row?.contains(document.activeElement) ? document.activeElement : null;
      row ? row.replaceWith(made) : before ? before.after(made) : body.prepend(made);
      if (holds) made.querySelector(holds.tagName.toLowerCase())?.focus();
      rows.set(name, row = made);
    } else if (told.ids && row.previousElementSibling !== before) {
      before ? before.after(row) : body.prepend(row);
    }
    before = row;
  }
  choices(filters.state, counted(ids.map(name => state(jobs.get(name)))));
  choices(filters.group, counted(ids.map(name => group(jobs.get(name)))));
  filter();
  return told.unread ? 0.3 : 2;
});

filters.search.value = wanted.get("search") ?? "";
for (const field of Object.values(filters)) field.addEventListener("input", filter);
body.addEventListener("change", event => {
  event.target.checked ? marked.add(event.target.value) : marked.delete(event.target.value);
  byId("compare").disabled = marked.size < 2;
});
byId("filters").addEventListener("submit", event => event.preventDefault());
byId("compare").addEventListener("click", () => { location.href = `${root}/compare?${new URLSearchParams([...marked].map(name => ["job", name]))}`; });
byId("compare-group").addEventListener("click", () => { location.href = `${root}/compare?${new URLSearchParams({ group: filters.group.value })}`; });
for (const command of ["stop", "resume"]) byId(`${command}-group`).addEventListener("click", () => offer(command, filters.group.value, look));
