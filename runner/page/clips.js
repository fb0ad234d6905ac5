// Files to clips as the model takes them: what last_e.prepare does to them in Python, with the same numbers.
// A clip is {name, label, frames, people}: for each person the whole numbers of a prepared file, frame by frame, joint by joint, x y z.

const FARTHEST = 32767;
const FEWEST_FRAMES = 11, WIDE = 0.8, MOST_WIDE_FRAMES = 0.69754, MOST_OF_KINECT = 2;
const BEST_SCORE = 1.25;
const MOST_BYTES = 512 * 2 ** 20, MOST_HEADER_BYTES = 100 * 2 ** 20;

class Unreadable extends Error {}

// --- one function for each kind of file: how many clips there are, and each when it is asked for --------------------------------

async function readClips(file, model) {
  const ending = (/\.[a-z]+$/i.exec(file.name) || [""])[0].toLowerCase();
  const stem = file.name.replace(/\.[^.]*$/, "");
  if (ending === ".safetensors") return prepared(file, model);
  if (![".skeleton", ".npy", ".json", ".jsonl", ".ndjson"].includes(ending)) {
    throw new Unreadable(`${file.name}: its name does not say what it is; allowed: .skeleton, .npy, .json, .jsonl and .safetensors`);
  }
  if (file.size > MOST_BYTES) throw new Unreadable(`${file.name}: larger than ${MOST_BYTES / 2 ** 20} MiB`);
  const bytes = new Uint8Array(await file.arrayBuffer());
  if (ending === ".skeleton") {
    const clip = ofKinect(parseSkeleton(bytes), stem, model);
    return {count: 1, names: [stem], get: async () => clip};
  }
  const found = ending === ".npy" ? arraysOf(bytes, stem) : recordsOf(bytes, ending !== ".json", stem);
  if (!found.length) throw new Unreadable("holds no clips");
  return {count: found.length, names: found.map(one => one.name), get: async number => ofKeypoints(found[number], model)};
}

function seeThatItFits(what, joints, isFlat, model) {
  const same = joints.length === model.skeleton.joints.length && joints.every((name, n) => name === model.skeleton.joints[n]);
  if (!same || isFlat !== model.isFlat) {
    const told = (names, flat) => `${names.length} joints in ${flat ? "two" : "three"} dimensions (${names.slice(0, 3).join(", ")}, ...)`;
    throw new Unreadable(`${what} has ${told(joints, isFlat)}; the model wants ${told(model.skeleton.joints, model.isFlat)}`);
  }
}

// --- .skeleton ------------------------------------------------------------------------------------------------------------------

function textOf(bytes) {
  const utf16 = bytes[0] === 255 && bytes[1] === 254 ? "utf-16le" : bytes[0] === 254 && bytes[1] === 255 ? "utf-16be" : null;
  let text = new TextDecoder(utf16 || "utf-8").decode(bytes).replace(/[\0\x1a]+$/, "");
  if (!text.includes("\n")) text = text.replaceAll("\r", "\n");
  return text.includes(",") && !/(?<!\d),|,(?!\d)|[.,]\d+[.,]/.test(text) ? text.replaceAll(",", ".") : text;
}

function numberOf(word) {
  if (/^[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?$/i.test(word)) return Number(word);
  if (/^[+-]?nan$/i.test(word)) return NaN;
  if (/^[+-]?inf(inity)?$/i.test(word)) return word[0] === "-" ? -Infinity : Infinity;
  return null;
}

function parseSkeleton(bytes) {
  const lines = textOf(bytes).split("\n");
  let line = 0;
  const wrong = what => new Unreadable(`line ${line}: ${what}`);
  const words = (what, count) => {
    const found = line < lines.length ? lines[line++].trim().split(/\s+/).filter(Boolean) : null;
    if (found === null || (!found.length && lines.slice(line).every(rest => !rest.trim()))) {
      throw wrong(`the file ends where ${what} should stand`);
    }
    if (found.length !== count) throw wrong(`${found.length} values where ${what} has ${count}`);
    return found;
  };
  const count = what => {
    const [word] = words(`the ${what}`, 1);
    if (!/^\d{1,9}$/.test(word)) throw wrong(`'${word}' is no ${what}`);
    return Number(word);
  };
  const seen = new Map();  // of each body its sightings: the frame, and joints in metres
  const frames = count("number of frames");
  let sighting = 0;
  for (let frame = 0; frame < frames; frame++) {
    const there = new Set();
    for (let bodies = count("number of bodies"); bodies > 0; bodies--) {
      const [ident] = words("a body", 10);
      if (!/^-?\d{1,20}$/.test(ident)) throw wrong(`'${ident}' is no body id (a whole number)`);
      const body = String(BigInt(ident));
      if (there.has(body)) throw wrong(`body ${body} is there twice`);
      there.add(body);
      const joints = count("number of joints");
      if (joints !== 25) throw wrong(`${joints} joints instead of 25`);
      const points = new Float64Array(75);
      for (let joint = 0; joint < 25; joint++) {
        const point = words("a joint", 12).slice(0, 3).map(numberOf);
        if (point.includes(null)) throw wrong("no three coordinates");
        points.set(point, 3 * joint);
      }
      if (!seen.has(body)) seen.set(body, []);
      seen.get(body).push({frame, points, sighting: sighting++});
    }
  }
  if (lines.slice(line).some(rest => rest.trim())) throw wrong("the file goes on after its last frame");
  return [...seen.values()];
}

function ofKinect(bodies, name, model) {
  seeThatItFits("a .skeleton file", model.kinect, false, model);
  // Comparing takes NaN for false.
  const usable = points => points.every(value => Math.abs(value) < (FARTHEST + 0.499) / 1000);
  let people = bodies.map(body => body.filter(one => usable(one.points))).filter(person => person.length);
  if (!people.length) throw new Unreadable(bodies.length ? "no sighting has usable coordinates" : "nobody is seen in any frame");
  if (people.length > 1) {
    people.sort((a, b) => a[0].sighting - b[0].sighting);
    people = people.filter(person => person.length > FEWEST_FRAMES);
    if (!people.length) throw new Unreadable(`nobody is seen in more than ${FEWEST_FRAMES} frames`);
    const kept = people.filter(person => person.filter(isWide).length / person.length < MOST_WIDE_FRAMES);
    people = kept.length ? kept : people.slice(-1);
  }
  if (people.length > 1) {
    const motion = new Map(people.map(person => [person, motionOf(person)]));
    people = people.sort((a, b) => motion.get(b) - motion.get(a)).slice(0, MOST_OF_KINECT);
  }
  const frames = [...new Set(people.flatMap(person => person.map(one => one.frame)))].sort((a, b) => a - b);
  const rows = people.slice(0, model.people).map(person => {
    const out = new Float64Array(frames.length * 75), at = person.map(one => one.frame);
    frames.forEach((frame, row) => {
      const position = interpolated(frame, at, at.map((_, n) => n)), low = Math.floor(position), part = position - low;
      const before = person[low].points, after = person[Math.min(low + 1, at.length - 1)].points;
      for (let n = 0; n < 75; n++) out[row * 75 + n] = rounded((before[n] * (1 - part) + after[n] * part) * 1000);
    });
    return out;
  });
  return {name, label: null, frames: frames.length, people: rows};
}

function isWide({points}) {
  const side = axis => {
    const values = points.filter((_, n) => n % 3 === axis);
    return Math.max(...values) - Math.min(...values);
  };
  return side(0) > WIDE * side(1);
}

function motionOf(person) {
  let total = 0;
  for (let axis = 0; axis < 3; axis++) {
    const values = person.flatMap(one => [...one.points].filter((_, n) => n % 3 === axis));
    const mean = values.reduce((a, b) => a + b, 0) / values.length;
    total += values.reduce((sum, value) => sum + (value - mean) ** 2, 0) / values.length;
  }
  return total;
}

// --- keypoints ------------------------------------------------------------------------------------------------------------------

function arraysOf(bytes, stem) {
  const view = new DataView(bytes.buffer);
  if (bytes.length < 12 || String.fromCharCode(...bytes.slice(1, 6)) !== "NUMPY") throw new Unreadable("no .npy file");
  const wide = bytes[6] > 1, begin = wide ? 12 : 10;
  const end = begin + (wide ? view.getUint32(8, true) : view.getUint16(8, true));
  const header = new TextDecoder().decode(bytes.slice(begin, end));
  const type = /'descr':\s*'([^']*)'/.exec(header), order = /'fortran_order':\s*(True|False)/.exec(header);
  const sides = /'shape':\s*\(([\d,\s]*)\)/.exec(header);
  if (!type || !order || !sides) throw new Unreadable("its header is none, or its values are no numbers");
  const shape = sides[1].split(",").map(side => side.trim()).filter(Boolean).map(Number);
  const readers = {f4: "getFloat32", f8: "getFloat64", i1: "getInt8", u1: "getUint8", i2: "getInt16", u2: "getUint16",
                   i4: "getInt32", u4: "getUint32", i8: "getBigInt64", u8: "getBigUint64"};
  const reader = readers[type[1].slice(1)], size = Number(type[1].slice(2));
  if (!reader || order[1] === "True" || ![3, 4, 5].includes(shape.length)) {
    throw new Unreadable(`is ${type[1]} (${shape.join(", ")})${order[1] === "True" ? " in Fortran's order" : ""}; allowed: numbers ` +
      "(frames, joints, D), (people, frames, joints, D), or (clips, people, frames, joints, D)");
  }
  const total = shape.reduce((a, b) => a * b, 1);
  if (end + total * size > bytes.length) throw new Unreadable("cut short");
  const values = Float64Array.from({length: total}, (_, n) => Number(view[reader](end + n * size, type[1][0] !== ">")));
  const [people, frames, joints, D] = shape.length === 3 ? [1, ...shape] : shape.slice(-4);
  const clips = shape.length === 5 ? shape[0] : 1, each = people * frames * joints * D;
  return Array.from({length: clips}, (_, n) => ({
    name: clips > 1 ? `${stem}-${String(n).padStart(6, "0")}` : stem, label: null,
    people, frames, joints, D, values: values.subarray(n * each, (n + 1) * each),
  }));
}

function recordsOf(bytes, aLineEach, stem) {
  const text = new TextDecoder().decode(bytes);
  const parsed = (part, where) => {
    try {
      return JSON.parse(part.replaceAll(/-?\b(NaN|Infinity)\b/g, "null"));
    } catch (error) {
      throw new Unreadable(`${where}no JSON: ${error.message}`);
    }
  };
  let records;
  if (aLineEach) {
    records = text.split("\n").map((line, n) => [line, n]).filter(([line]) => line.trim()).map(([line, n]) => parsed(line, `line ${n + 1}: `));
  } else {
    const whole = parsed(text, "");
    records = Array.isArray(whole) ? whole : whole && Array.isArray(whole.clips) ? whole.clips : [whole];
  }
  return records.map((record, n) => {
    const own = n === 0 ? stem : `${stem}-${String(n).padStart(6, "0")}`;
    const joints = record && (record.joints ?? record.keypoints ?? record.frames);
    if (!Array.isArray(joints)) throw new Unreadable(`record ${n}: no joints in it`);
    return {...nested(joints, `record ${n}`), name: String(record.name ?? record.clip ?? own), label: record.label ?? null};
  });
}

// Nested lists, (T, V, D) or (M, T, V, D), in which null is a number, a joint, a frame or a person that is not there.
function nested(joints, where) {
  if (typeof joints[0] === "object" && JSON.stringify(joints[0])?.includes('"x"')) {
    throw new Unreadable(`${where}: landmarks of MediaPipe: lastrun data import mediapipe reads them`);
  }
  const sidesOf = value => {
    if (!Array.isArray(value)) return [];
    if (value.some(one => typeof one === "number")) return [value.length];
    const inner = value.map(sidesOf).find(sides => sides.length);
    return inner ? [value.length, ...inner] : [];
  };
  const sides = sidesOf(joints);
  if (sides.length !== 3 && sides.length !== 4) {
    throw new Unreadable(sides.length ? `${where}: its joints are (${sides.join(", ")}); allowed: (frames, joints, D) or ` +
      "(people, frames, joints, D)" : `${where}: nobody is seen in any frame`);
  }
  const values = [];
  const add = (value, deep) => {
    if (deep === sides.length) {
      if (value !== null && typeof value !== "number") throw new Unreadable(`${where}: its joints are no numbers`);
      values.push(value ?? NaN);
      return;
    }
    if (value !== null && (!Array.isArray(value) || value.length !== sides[deep])) {
      throw new Unreadable(`${where}: its lists are not of the same length`);
    }
    for (let n = 0; n < sides[deep]; n++) add(value === null ? null : value[n], deep + 1);
  };
  add(joints, 0);
  const [people, frames, count, D] = sides.length === 3 ? [1, ...sides] : sides;
  return {people, frames, joints: count, D, values: Float64Array.from(values)};
}

function ofKeypoints(given, model) {
  const {joints, D, values} = given, count = model.skeleton.joints.length, allowed = model.isFlat ? [2, 3] : [3];
  if (joints !== count || !allowed.includes(D)) {
    throw new Unreadable(`its joints are (${given.people}, ${given.frames}, ${joints}, ${D}); the model wants (people, frames, ` +
      `${count}, ${allowed.join(" or ")}), in ${model.units}`);
  }
  const at = (person, frame, joint) => {
    const n = ((person * given.frames + frame) * joints + joint) * D;
    const [x, y, third] = [values[n], values[n + 1], D === 3 ? values[n + 2] : model.isFlat ? 1 : NaN];
    if (!model.isFlat) return [x, y, third];
    if (third < 0 || (third > BEST_SCORE && third !== 2)) {
      throw new Unreadable(`its third number is ${third}, and is how well a joint is seen, 0 to 1; is it a z?`);
    }
    return third === 0 ? [NaN, NaN, NaN] : [x, -y, 0];  // y goes down in an image
  };
  const range = n => Array.from({length: n}, (_, number) => number);
  const points = range(given.people).map(person => range(given.frames).map(frame => range(joints).map(joint => at(person, frame, joint))));
  const isSeen = point => point.every(Number.isFinite);
  const bodies = points.filter(person => person.some(frame => frame.some(isSeen)));
  const frames = range(given.frames).filter(frame => points.some(person => person[frame].some(isSeen)));
  if (!bodies.length) throw new Unreadable("nobody is seen in any frame");
  const people = bodies.slice(0, model.people).map(person => {
    const filled = fill(frames.map(frame => person[frame]), model, isSeen);
    return Float64Array.from(filled.flat(2), value => rounded(value * model.numbers));
  });
  const most = people.reduce((most, person) => person.reduce((a, b) => Math.max(a, Math.abs(b)), most), 0);
  if (most > FARTHEST) {
    throw new Unreadable(`a coordinate of ${Math.round(most / model.numbers)} ${model.units}; allowed: at most ` +
      `${Math.floor(FARTHEST / model.numbers)}`);
  }
  return {name: given.name, label: given.label, frames: frames.length, people};
}

// One person's joints, with a place for those that are not seen.
function fill(person, model, isSeen) {
  const parents = model.parents, depth = joint => parents[joint] === joint ? 0 : 1 + depth(parents[joint]);
  const order = parents.map((_, joint) => joint).sort((a, b) => depth(a) - depth(b));
  const seen = order.map((_, joint) => person.flatMap((frame, n) => isSeen(frame[joint]) ? [n] : []));
  const out = person.map(frame => frame.map(point => isSeen(point) ? [...point] : [0, 0, 0]));
  const nowhere = order.filter(joint => !seen[joint].length);
  for (const joint of order) {
    const times = seen[joint];
    if (!times.length || times.length === person.length) continue;
    for (let axis = 0; axis < 3; axis++) {
      const values = times.map(time => person[time][joint][axis]);
      out.forEach((frame, time) => { frame[joint][axis] = interpolated(time, times, values); });
    }
  }
  for (const joint of nowhere) {
    const there = order.filter(other => !nowhere.includes(other));
    for (const frame of out) {
      frame[joint] = parents[joint] !== joint ? [...frame[parents[joint]]]
        : [0, 1, 2].map(axis => there.reduce((sum, other) => sum + frame[other][axis], 0) / there.length);
    }
  }
  return out;
}

function interpolated(x, at, values) {
  if (x <= at[0]) return values[0];
  if (x >= at.at(-1)) return values.at(-1);
  let low = 0, high = at.length - 1;
  while (high - low > 1) {
    const middle = (low + high) >> 1;
    if (at[middle] <= x) low = middle; else high = middle;
  }
  return (values[high] - values[low]) / (at[high] - at[low]) * (x - at[low]) + values[low];
}

function rounded(value) {  // half to even
  const low = Math.floor(value), part = value - low;
  return part < 0.5 || (part === 0.5 && low % 2 === 0) ? low : low + 1;
}

// --- prepared files -------------------------------------------------------------------------------------------------------------

async function prepared(file, model) {
  const part = async (begin, end) => {
    if (end > file.size) throw new Unreadable("cut short");
    return (await file.slice(begin, end).arrayBuffer());
  };
  const size = Number(new DataView(await part(0, 8)).getBigUint64(0, true));
  if (size > Math.min(MOST_HEADER_BYTES, file.size - 8)) throw new Unreadable("no .safetensors file, or cut short");
  let tensors;
  try {
    tensors = JSON.parse(new TextDecoder().decode(await part(8, 8 + size)));
  } catch {
    throw new Unreadable("no .safetensors file, or a damaged one");
  }
  const about = tensors.__metadata__ || {};
  if (about.format !== "lastrun-clips-1") throw new Unreadable(`no prepared data file: its format is ${about.format}, not lastrun-clips-1`);
  const bytesOf = async (name, first = 0, last = null) => {
    const [begin, end] = tensors[name].data_offsets;
    return part(8 + size + begin + first, 8 + size + (last === null ? end : begin + last));
  };
  const column = async name => Array.from(new BigInt64Array(await bytesOf(name)), Number);
  try {
    const own = about.description ? JSON.parse(about.description) : null;
    const isFlat = own !== null && ["pixels", "image"].includes(own.units);
    seeThatItFits("the file", own ? own.skeleton.joints : model.kinect, isFlat, model);
    if (isFlat && own.units !== model.units) throw new Unreadable(`the file is in ${own.units}; the model wants ${model.units}`);
    const [length, bodies, label] = await Promise.all(["length", "bodies", "label"].map(column));
    const begins = [];
    length.reduce((row, frames, n) => { begins.push(row); return row + frames * bodies[n]; }, 0);
    const joints = model.skeleton.joints.length, row = joints * 6;
    const names = tensors.name ? namesOf(new Uint8Array(await bytesOf("name")), tensors.name.shape[1]) : length.map((_, n) => String(n));
    return {count: length.length, names, get: async number => {
      const frames = length[number], first = begins[number] * row;
      const values = new Int16Array(await bytesOf("joints", first, first + frames * bodies[number] * row));
      const people = Array.from({length: Math.min(bodies[number], model.people)}, (_, person) =>
        Float64Array.from(values.subarray(person * frames * joints * 3, (person + 1) * frames * joints * 3)));
      return {name: names[number], label: own ? own.classes[label[number]] : model.classes[label[number]] ?? null, frames, people};
    }};
  } catch (error) {
    throw error instanceof Unreadable ? error : new Unreadable(`damaged: ${error.message}`);
  }
}

function namesOf(bytes, width) {
  return Array.from({length: bytes.length / width}, (_, n) =>
    new TextDecoder().decode(bytes.subarray(n * width, (n + 1) * width)).replace(/\0+$/, ""));
}

// --- for the model ---------------------------------------------------------------------------------------------------------------

// (1, C, L, V, M) in the units that the model takes.
function keypointsOf(clip, model) {
  const joints = model.skeleton.joints.length, sides = model.isFlat ? 2 : 3, {frames, people} = clip;
  const out = new Float32Array(sides * frames * joints * people.length);
  let n = 0;
  for (let side = 0; side < sides; side++) {
    const scale = (model.isFlat && side === 1 ? -1 : 1) / model.numbers;
    for (let row = 0; row < frames * joints; row++) for (const person of people) out[n++] = person[row * 3 + side] * scale;
  }
  return {values: out, shape: [1, sides, frames, joints, people.length]};
}
