// What is paid for now.
import { ask, byId, cell, dollars, fill, make, repeat, setText, tell, time } from "./page.js";

repeat(async () => {
  const facts = await ask("clouds");
  tell(null);
  const all = facts.machines.reduce((sum, one) => sum + (one.cost ?? 0), 0);
  const count = facts.machines.length;
  setText(byId("told"), count ? `${count} machine${count === 1 ? "" : "s"}, ${dollars(all)} so far.` : "No machine that is paid for by the hour is known to run for lastrun.");
  fill(byId("machines"), facts.machines, one => [make("tr", {}, ...[one.launcher, one.job, one.machine, one.state].map(text => cell(text)),
    cell(one.since == null ? "-" : time(facts.now - one.since), true), cell(dollars(one.dollars), true), cell(dollars(one.cost), true),
    make("td", {}, make("code", {}, one.ended_by)))]);
  fill(byId("missing"), Object.entries(facts.missing), ([name, why]) => [make("li", {}, `Not asked: ${name}: ${why}`)]);
  return 30;
});
