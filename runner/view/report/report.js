// Draws what the page's data hold: curves (by curves.js), the confusion matrix, clips. Names are only ever text.
(() => {
  "use strict";
  const data = JSON.parse(document.getElementById("data").textContent);
  const { colour } = Curves;
  const redraws = [];  // once more when the page turns dark, light or to paper

  const charts = document.getElementById("charts");
  if (charts) redraws.push(new Curves(charts).show(data.charts, data.marks));

  // --- the confusion matrix --------------------------------------------------------------------------------------------

  function drawMatrix(root, { names, clips, cells }) {
    const canvas = root.querySelector("canvas"), told = root.querySelector("figcaption"), pen = canvas.getContext("2d");
    const named = names.length <= 40, count = names.length;
    const cell = Math.max(5, Math.min(36, Math.floor(640 / count))), label = named ? 170 : 0, sharp = Math.max(1, devicePixelRatio);
    const width = label + cell * count + 1, height = (named ? 24 : 0) + cell * count + 1, top = height - cell * count - 1;
    canvas.width = width * sharp;
    canvas.height = height * sharp;
    canvas.style.width = `${width}px`;
    const clipped = (text, room) => {
      if (pen.measureText(text).width <= room) return text;
      while (text && pen.measureText(`${text}…`).width > room) text = text.slice(0, -1);
      return `${text}…`;
    };
    function draw() {
      pen.setTransform(sharp, 0, 0, sharp, 0, 0);
      pen.clearRect(0, 0, width, height);
      pen.strokeStyle = colour("--grid");
      pen.textBaseline = "middle";
      pen.font = `${Math.min(12, cell - 2)}px system-ui, sans-serif`;
      pen.strokeRect(label + 0.5, top + 0.5, cell * count, cell * count);
      for (const [row, column, hits] of cells) {
        const share = hits / Math.max(1, clips[row]);
        pen.fillStyle = row === column ? `rgba(${colour("--heat")}, ${0.08 + 0.5 * share})` : `rgba(218, 60, 40, ${0.12 + 0.88 * share})`;
        pen.fillRect(label + column * cell + 1, top + row * cell + 1, cell - 1, cell - 1);
        if (cell < 24) continue;
        pen.fillStyle = colour("--ink");
        pen.textAlign = "center";
        pen.fillText(hits, label + (column + 0.5) * cell, top + (row + 0.5) * cell);
      }
      if (!named) return;
      pen.fillStyle = colour("--ink");
      names.forEach((name, number) => {
        pen.textAlign = "right";
        pen.fillText(clipped(`${name}  ${number + 1}`, label - 10), label - 6, top + (number + 0.5) * cell);
        pen.textAlign = "center";
        if (cell >= 14) pen.fillText(number + 1, label + (number + 0.5) * cell, top / 2);
      });
    }
    const found = new Map(cells.map(([row, column, hits]) => [row * count + column, hits]));
    canvas.onpointermove = event => {
      const box = canvas.getBoundingClientRect(), scale = width / box.width;
      const column = Math.floor(((event.clientX - box.left) * scale - label) / cell);
      const row = Math.floor(((event.clientY - box.top) * scale - top) / cell);
      if (row < 0 || column < 0 || row >= count || column >= count) return;
      const hits = found.get(row * count + column) ?? 0;
      told.textContent = row === column
        ? `${names[row]}: ${hits} of ${clips[row]} found`
        : `${names[row]} taken for ${names[column]}: ${hits} of ${clips[row]}`;
    };
    draw();
    redraws.push(draw);
  }

  if (data.matrix) drawMatrix(document.getElementById("matrix"), data.matrix);

  // --- clips -------------------------------------------------------------------------------------------------------------

  function jointsOf(clip, count) {
    const bytes = Uint8Array.from(atob(clip.joints), letter => letter.charCodeAt(0)), view = new DataView(bytes.buffer);
    let at = -2;
    const list = (length, make) => Array.from({ length }, make);
    return list(clip.people, () => list(clip.frames, () => list(count, () => list(3, () => view.getInt16(at += 2, true)))));
  }

  const still = matchMedia("(prefers-reduced-motion: reduce)").matches;
  const boxes = [...document.querySelectorAll(".clip")];
  const colours = () => [[colour("--body"), colour("--right")], [colour("--other"), colour("--other-right")]];
  const players = boxes.map((box, number) => {
    const clip = { ...data.clips[number], ...data.drawn, joints: jointsOf(data.clips[number], data.drawn.joints) };
    const player = new SkeletonPlayer(box, clip, !still, colours());
    player.draw(Math.floor(clip.frames / 2));
    redraws.push(() => { player.colours = colours(); player.draw(+player.slider.value); });
    return player;
  });
  const watcher = new IntersectionObserver(entries => {
    for (const entry of entries) players[boxes.indexOf(entry.target)].visible = entry.isIntersecting;
  });
  boxes.forEach((box, number) => { players[number].visible = false; watcher.observe(box); });

  // --- light, dark, paper ------------------------------------------------------------------------------------------------

  const redraw = () => redraws.forEach(one => one());
  for (const query of ["(prefers-color-scheme: dark)", "print"]) matchMedia(query).addEventListener("change", redraw);
  addEventListener("beforeprint", redraw);
  addEventListener("afterprint", redraw);
})();
