// What the page does: opens what is dropped, asks the model, shows what it says, and plays the clip.

const part = id => document.getElementById(id);
const model = JSON.parse(part("about").textContent);
const canvas = part("picture"), pen = canvas.getContext("2d");
const colours = [["#2b7bd6", "#123f73"], ["#e8852b", "#8a4510"], ["#2f9e5a", "#17502d"], ["#9a4fc4", "#4f2866"]];
const right = new Set(model.skeleton.pairs.map(pair => pair[1]));
const head = model.skeleton.joints.findIndex(name => name === "head" || name === "nose");
let session, opened = null, clip = null, view = null, turn = 0.4, tilt = 0, playing = true, began = 0, asked = 0;

async function unpacked(id) {
  const packed = Uint8Array.from(atob(part(id).textContent.trim()), letter => letter.charCodeAt(0));
  part(id).remove();  // it is not needed twice
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Response(stream).arrayBuffer();
}

async function begin() {
  ort.env.wasm.numThreads = 1;
  ort.env.wasm.wasmBinary = await unpacked("wasm");
  session = await ort.InferenceSession.create(new Uint8Array(await unpacked("model")), {executionProviders: ["wasm"]});
}

function tell(text, isError = false) {
  part("told").textContent = text;
  part("told").classList.toggle("error", isError);
}

async function recognised(one) {
  await ready;
  const {values, shape} = keypointsOf(one, model);
  const started = performance.now();
  const whole = number => new ort.Tensor("int64", BigInt64Array.of(BigInt(number)), [1]);
  const {logits} = await session.run({
    keypoints: new ort.Tensor("float32", values, shape), frames: whole(one.frames), people: whole(one.people.length),
  });
  const most = logits.data.reduce((a, b) => Math.max(a, b)), powers = Array.from(logits.data, value => Math.exp(value - most));
  const total = powers.reduce((a, b) => a + b, 0);
  return {logits: Array.from(logits.data), probabilities: powers.map(power => power / total), milliseconds: performance.now() - started};
}

async function open(file) {
  const mine = ++asked;
  tell(`${file.name}: reading`);
  try {
    const found = await readClips(file, model);
    if (mine !== asked) return;
    opened = {file: file.name, ...found};
    part("choice").hidden = found.count < 2;
    part("number").max = found.count - 1;
    part("number").value = 0;
    await choose(0);
  } catch (error) {
    if (mine === asked) fail(file.name, error);
  }
}

async function choose(number) {
  const mine = ++asked;
  try {
    if (!(number >= 0 && number < opened.count)) throw new Unreadable(`no clip ${number}: there are 0 to ${opened.count - 1}`);
    const one = await opened.get(number);
    if (mine !== asked) return;
    play(one);
    tell(`${opened.file}: recognising`);
    const found = await recognised(one);
    if (mine === asked) show(one, found);
  } catch (error) {
    if (mine === asked) fail(opened.file, error);
  }
}

function fail(name, error) {
  clip = null;
  part("said").replaceChildren();
  part("player").hidden = true;
  tell(`${name}: ${error instanceof Unreadable ? error.message : `the browser could not (${error.message})`}`, true);
}

function show(one, found) {
  const people = one.people.length === 1 ? "1 person" : `${one.people.length} people`;
  const known = one.label === null ? "" : `; it is ${one.label}`;
  tell(`${one.name}: ${one.frames} frames, ${people}, ${found.milliseconds.toFixed(0)} ms${known}`);
  const order = found.probabilities.map((_, n) => n).sort((a, b) => found.probabilities[b] - found.probabilities[a]).slice(0, 5);
  part("said").replaceChildren(...order.map(number => {
    const row = document.createElement("li"), bar = document.createElement("meter"), percent = document.createElement("output");
    const name = document.createElement("span");
    name.textContent = model.classes[number];
    bar.value = found.probabilities[number];
    percent.textContent = `${(100 * found.probabilities[number]).toFixed(1)}%`;
    row.append(name, bar, percent);
    return row;
  }));
}

// --- the player -------------------------------------------------------------------------------------------------------------------

function play(one) {
  clip = one;
  let low = [Infinity, Infinity, Infinity], high = [-Infinity, -Infinity, -Infinity];
  for (const person of one.people) person.forEach((value, n) => {
    low[n % 3] = Math.min(low[n % 3], value);
    high[n % 3] = Math.max(high[n % 3], value);
  });
  const middle = low.map((value, axis) => (value + high[axis]) / 2);
  const reach = Math.max(1, Math.hypot(...low.map((value, axis) => high[axis] - value)) / 2);
  view = {middle, scale: 0.47 * canvas.height / reach};  // of everything that is ever shown, so that the picture does not jump
  [turn, tilt, playing, began] = [model.isFlat ? 0 : 0.4, 0, true, performance.now()];
  part("player").hidden = false;
  part("pause").textContent = "Pause";
  part("frame").max = one.frames - 1;
  draw(0);
}

function place(person, n) {
  const [x, y, z] = [0, 1, 2].map(axis => person[n + axis] - view.middle[axis]);
  const u = x * Math.cos(turn) + z * Math.sin(turn), depth = z * Math.cos(turn) - x * Math.sin(turn);
  const v = y * Math.cos(tilt) - depth * Math.sin(tilt);
  return [canvas.width / 2 + u * view.scale, canvas.height / 2 - v * view.scale];
}

function draw(frame) {
  pen.clearRect(0, 0, canvas.width, canvas.height);
  pen.lineCap = "round";
  clip.people.forEach((person, number) => {
    const joints = model.skeleton.joints.map((_, joint) => place(person, (frame * model.skeleton.joints.length + joint) * 3));
    for (const [child, parent] of model.skeleton.bones) {
      pen.strokeStyle = pen.fillStyle = colours[number % colours.length][right.has(child) ? 1 : 0];
      pen.lineWidth = 8;
      pen.beginPath(); pen.moveTo(...joints[parent]); pen.lineTo(...joints[child]); pen.stroke();
      pen.beginPath(); pen.arc(...joints[child], child === head ? 22 : 8, 0, 7); pen.fill();
    }
  });
  part("frame").value = frame;
  part("shown").textContent = `${frame + 1} / ${clip.frames}`;
}

function tick(now) {
  if (clip && playing) draw(Math.floor(Math.max(0, now - began) / 1000 * model.fps) % clip.frames);
  requestAnimationFrame(tick);
}

part("pause").onclick = () => {
  playing = !playing;
  began = performance.now() - part("frame").value / model.fps * 1000;
  part("pause").textContent = playing ? "Pause" : "Play";
};
part("frame").oninput = () => { if (playing) part("pause").click(); draw(+part("frame").value); };
canvas.onpointermove = event => {
  if (event.buttons && clip) { turn += event.movementX / 150; tilt += event.movementY / 150; if (!playing) draw(+part("frame").value); }
};

// --- what is dropped --------------------------------------------------------------------------------------------------------------

document.ondragover = event => { event.preventDefault(); document.body.classList.add("over"); };
document.ondragleave = () => document.body.classList.remove("over");
document.ondrop = event => {
  event.preventDefault();
  document.body.classList.remove("over");
  if (event.dataTransfer.files.length) open(event.dataTransfer.files[0]);
};
part("file").onchange = () => { if (part("file").files.length) open(part("file").files[0]); };
part("number").onchange = () => choose(Number(part("number").value));
requestAnimationFrame(tick);
const ready = new Promise(resolve => addEventListener("load", resolve)).then(begin);
ready.then(() => { if (!asked) tell("Ready: drop a clip."); }, error => tell(`The model does not start in this browser: ${error.message}`, true));
