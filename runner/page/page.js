// What the page does: opens what is dropped, asks the model, shows what it says, and plays the clip.

const part = id => document.getElementById(id);
const model = JSON.parse(part("about").textContent);
const colours = [["#2b7bd6", "#123f73"], ["#e8852b", "#8a4510"], ["#2f9e5a", "#17502d"], ["#9a4fc4", "#4f2866"]];
const player = new SkeletonPlayer(part("player"), null, true, colours);
const drawn = {
  bones: model.skeleton.bones,
  right: model.skeleton.pairs.map(pair => pair[1]),
  head: model.skeleton.joints.findIndex(name => name === "head" || name === "nose"),
  turn: model.isFlat ? 0 : 0.4,
  fps: model.fps,
};
let session, opened = null, asked = 0;

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
  player.visible = false;
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

// A clip as it is played: of each person [x, y, z] by frame and joint, in place of one number after the other.
function play(one) {
  const joints = model.skeleton.joints.length, list = (length, make) => Array.from({length}, (_, n) => make(n));
  const points = person => list(one.frames, frame => list(joints, joint => {
    const at = (frame * joints + joint) * 3;
    return [person[at], person[at + 1], person[at + 2]];
  }));
  part("player").hidden = false;
  player.visible = true;
  player.show({...drawn, joints: one.people.map(points)});
}

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
const ready = new Promise(resolve => addEventListener("load", resolve)).then(begin);
ready.then(() => { if (!asked) tell("Ready: drop a clip."); }, error => tell(`The model does not start in this browser: ${error.message}`, true));
