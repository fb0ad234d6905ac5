// What all pages have in common: elements that hold text and nothing else, and what is asked of the server.
export const root = document.documentElement.dataset.root;
export const byId = name => document.getElementById(name);

// An element; attributes by name, `on` a map of listeners; children are elements or text.
export function make(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key === "on") Object.entries(value).forEach(([event, listener]) => made.addEventListener(event, listener));
    else if (value === true) made.setAttribute(key, "");
    else if (value !== false && value != null) made.setAttribute(key, value);
  }
  made.append(...children.filter(child => child != null));
  return made;
}

export const cell = (text, figure = false) => make("td", figure ? { class: "figure" } : {}, String(text ?? "-"));
export const stateOf = state => make("span", { class: `state ${/^[a-z]+$/.test(state) ? state : ""}` }, state);
export const jobAddress = name => `${root}/job/${encodeURIComponent(name)}`;

export const percent = value => value == null ? "-" : `${(100 * value).toFixed(2)}%`;
export const dollars = value => value == null ? "-" : `$${value.toFixed(2)}`;
export function time(seconds) {
  if (seconds == null || !Number.isFinite(seconds)) return "-";
  const whole = Math.round(seconds), two = number => String(number).padStart(2, "0");
  if (whole >= 3600) return `${Math.floor(whole / 3600)}h${two(Math.floor(whole % 3600 / 60))}m`;
  return whole >= 60 ? `${Math.floor(whole / 60)}m${two(whole % 60)}s` : `${whole}s`;
}

// Sets what is other than it was: nothing else is touched, so that what somebody has marked stays marked.
export function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

// The rows of a table, or the like, made anew where the facts are other ones.
export function fill(element, facts, row) {
  const text = JSON.stringify(facts);
  if (element.dataset.shown === String(hash(text))) return;
  element.dataset.shown = hash(text);
  element.replaceChildren(...facts.flatMap(row));
}

function hash(text) {
  let found = text.length;
  for (let at = 0; at < text.length; at++) found = (Math.imul(found, 31) + text.charCodeAt(at)) | 0;
  return found;
}

export class Refused extends Error {}

export async function ask(path, order) {
  const how = order === undefined ? {} : { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(order) };
  let answer;
  try {
    answer = await fetch(`${root}/api/${path}`, how);
  } catch {
    throw new Error("lastrun ui does not answer: it has ended, or this machine sleeps");
  }
  if (answer.status === 401 || answer.status === 403) throw new Refused("this browser is not let in any more: open the address that lastrun ui shows");
  const told = await answer.json().catch(() => ({ error: `an answer that cannot be read (${answer.status})` }));
  if (!answer.ok) throw new Error(told.error);
  return told;
}

export function tell(problem) {
  const shown = byId("problem");
  shown.hidden = !problem;
  setText(shown, problem ?? "");
}

// Asks again and again while the page is looked at; `look` says after how many seconds.
export function repeat(look) {
  let timer, busy = false;
  async function turn() {
    clearTimeout(timer);
    if (busy || document.hidden) return;
    busy = true;
    let seconds = 5;
    try {
      seconds = await look();
    } catch (error) {
      tell(error.message);
      if (error instanceof Refused) return;
    } finally {
      busy = false;
    }
    timer = setTimeout(turn, 1000 * seconds);
  }
  document.addEventListener("visibilitychange", turn);
  turn();
  return turn;
}
