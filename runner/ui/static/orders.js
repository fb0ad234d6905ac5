// The dialog that shows a command before it runs it, and what it says.
import { ask, byId, make, setText } from "./page.js";

const WORDS = {
  now: "at once, without saving",
  here: "train here, though the profile is for another kind of machine",
  takeover: "take the job from an attempt that still seems to run",
  trust: "take what the job brings along: places, images, servers; remembered for its store",
  yes: "rent a machine where the profile asks for one; it is paid for",
};
const FLAGS = { stop: ["now"], resume: ["here", "takeover", "trust", "yes"] };
const dialog = byId("order");
let order, ended, asked = 0;

async function show() {
  order.flags = FLAGS[order.command].filter(flag => byId(`flag-${flag}`).checked);
  order.env = order.command === "resume" ? byId("env").value : "";
  const number = ++asked;
  try {
    const { command } = await ask("run", { ...order, only_show: true });
    if (number === asked) setText(byId("order-command"), command);
    byId("order-run").disabled = false;
  } catch (error) {
    setText(byId("order-state"), error.message);
  }
}

function reset() {
  setText(byId("order-state"), "");
  setText(byId("order-output"), "");
  byId("order-output").hidden = true;
}

// `done` is called when the command has ended.
export function offer(command, name, done) {
  order = { command, name };
  ended = done;
  reset();
  setText(byId("order-title"), command === "stop" ? "Stop" : "Resume");
  setText(byId("order-what"), command === "stop" ? `${name} is asked to save and stop, wherever it runs.` : `${name} goes on from its newest whole checkpoint.`);
  byId("order-env").hidden = command === "stop";
  byId("env").value = "";
  byId("order-flags").replaceChildren(byId("order-flags").firstElementChild, ...FLAGS[command].map(flag =>
    make("label", {}, make("input", { type: "checkbox", id: `flag-${flag}`, on: { change: show } }), ` ${WORDS[flag]} (`, make("code", {}, `--${flag}`), ")")));
  setText(byId("order-command"), "...");
  byId("order-run").disabled = true;
  dialog.showModal();
  show();
}

async function run() {
  const mine = { ...order, only_show: false };
  reset();
  byId("order-run").disabled = true;
  setText(byId("order-state"), "It runs ...");
  try {
    let told = await ask("run", mine);
    for (;;) {
      const output = byId("order-output");
      setText(output, told.output);
      output.hidden = !told.output;
      output.scrollTop = output.scrollHeight;
      if (told.code !== null) break;
      await new Promise(wait => setTimeout(wait, 300));
      told = await ask(`run/${told.number}`);
    }
    const wants = told.asks.map(flag => `--${flag}`).join(" or ");
    const refused = wants ? ` To go on all the same, mark ${wants} above, and run it again.` : "";
    setText(byId("order-state"), told.code === 0 ? "Done (exit code 0)." : `It ended with exit code ${told.code}.${refused}`);
    for (const flag of told.asks) byId(`flag-${flag}`)?.parentElement.classList.add("asked");
  } catch (error) {
    setText(byId("order-state"), error.message);
  }
  byId("order-run").disabled = false;
  ended?.();
}

byId("order-run").addEventListener("click", run);
byId("order-close").addEventListener("click", () => dialog.close());
byId("env").addEventListener("change", show);
