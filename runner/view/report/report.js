// Draws what the page's data hold: curves, the confusion matrix, clips. Names are only ever text.
(() => {
  "use strict";
  const data = JSON.parse(document.getElementById("data").textContent);
  const colour = name => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const redraws = [];  // once more when the page turns dark, light or to paper

  // --- curves --------------------------------------------------------------------------------------------------------

  const percent = value => value == null ? "-" : `${(100 * value).toFixed(2)}%`;
  const figure = value => value == null ? "-" : Math.abs(value) >= 0.001 || value === 0 ? value.toFixed(4) : value.toExponential(2);
  const faint = name => `${colour(name)}33`;
  const sync = uPlot.sync("epochs");

  function marksOf(plot) {
    const { ctx, bbox } = plot;
    ctx.save();
    ctx.strokeStyle = ctx.fillStyle = colour("--mark");
    ctx.font = `${11 * devicePixelRatio}px system-ui, sans-serif`;
    ctx.textBaseline = "top";
    ctx.lineWidth = devicePixelRatio;
    ctx.setLineDash([4 * devicePixelRatio, 4 * devicePixelRatio]);
    for (const mark of data.marks) {
      const x = Math.round(plot.valToPos(mark.x, "x", true)) + 0.5;
      if (x < bbox.left || x > bbox.left + bbox.width) continue;
      ctx.beginPath(); ctx.moveTo(x, bbox.top); ctx.lineTo(x, bbox.top + bbox.height); ctx.stroke();
      const late = x > bbox.left + bbox.width / 2, gap = 4 * devicePixelRatio;
      ctx.textAlign = late ? "right" : "left";
      if (data.marks.length <= 6) ctx.fillText(`attempt ${mark.attempt}`, late ? x - gap : x + gap, bbox.top + gap);
    }
    ctx.restore();
  }

  function drawChart(root, chart) {
    const box = document.createElement("figure"), caption = document.createElement("figcaption");
    box.className = "chart";
    caption.textContent = chart.title;
    box.append(caption);
    root.append(box);
    const value = chart.of === "share" ? percent : figure;
    const series = [{ label: "epoch", value: (_, x) => x == null ? "-" : String(x) }], columns = [chart.x], bands = [];
    const points = { show: chart.x.length < 2, size: 6 };
    chart.series.forEach((line, number) => {
      const own = `--c${line.colour ?? number}`;
      series.push({
        label: line.label, stroke: () => colour(own), width: 2, points, value: (_, y) => value(y), spanGaps: true,
        dash: line.label === "training" ? [6, 3] : undefined,
      });
      columns.push(line.values);
      if (!line.low) return;
      const edge = { class: "band", stroke: "transparent", width: 0, points: { show: false } };
      series.push({ label: `${line.label}, above`, ...edge }, { label: `${line.label}, below`, ...edge });
      columns.push(line.high, line.low);
      bands.push({ series: [columns.length - 2, columns.length - 1], fill: () => faint(own) });
    });
    const axis = { stroke: () => colour("--soft"), grid: { stroke: () => colour("--grid"), width: 1 }, ticks: { stroke: () => colour("--grid"), width: 1 } };
    const ticks = (_, values) => values.map(y => chart.of === "share" ? `${+(100 * y).toFixed(2)}%` : +y.toPrecision(6));
    const plot = new uPlot({
      width: Math.max(240, box.clientWidth), height: 260, series, bands,
      scales: { x: { time: false } },
      axes: [{ ...axis, incrs: [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000] }, { ...axis, size: 64, values: ticks }],
      cursor: { sync: { key: sync.key }, drag: { x: true, y: false } },
      // Until somebody points at the curves the legend has the last epoch.
      hooks: { draw: [marksOf], ready: [plot => plot.setLegend({ idx: chart.x.length - 1 })] },
    }, columns, box);
    const canvas = plot.ctx.canvas;
    canvas.setAttribute("role", "img");
    canvas.setAttribute("aria-label", [`${chart.title} by epoch`, ...data.marks.map(mark => mark.text)].join("; "));
    new ResizeObserver(() => {
      const width = Math.max(240, box.clientWidth);
      if (width !== plot.width) plot.setSize({ width, height: 260 });
    }).observe(box);
    redraws.push(() => plot.redraw(false, true));
  }

  const charts = document.getElementById("charts");
  if (charts) data.charts.forEach(chart => drawChart(charts, chart));

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
