// Curves by uPlot: of a report, and of a page that grows while it is looked at. Names are only ever text.
"use strict";
class Curves {
  static colour = name => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  static #percent = value => value == null ? "-" : `${(100 * value).toFixed(2)}%`;
  static #figure = value => value == null ? "-" : Math.abs(value) >= 0.001 || value === 0 ? value.toFixed(4) : value.toExponential(2);

  #root; #charts = []; #marks = []; #sync = uPlot.sync("epochs");

  constructor(root) { this.#root = root; }

  // Shows these charts, in place of those before; where only their values have changed, nothing but the lines is drawn anew.
  // Returns what draws them once more.
  show(charts, marks) {
    this.#marks = marks;
    const forms = charts.map(chart => JSON.stringify([chart.title, chart.of, chart.series.map(line => [line.label, line.colour, !!line.low])]));
    if (forms.join() !== this.#charts.map(one => one.form).join()) {
      this.#charts.forEach(one => one.remove());
      this.#charts = charts.map((chart, number) => ({ form: forms[number], ...this.#draw(chart) }));
    } else {
      this.#charts.forEach((one, number) => one.update(charts[number]));
    }
    return () => this.#charts.forEach(one => one.redraw());
  }

  #drawMarks(plot) {
    const { ctx, bbox } = plot;
    ctx.save();
    ctx.strokeStyle = ctx.fillStyle = Curves.colour("--mark");
    ctx.font = `${11 * devicePixelRatio}px system-ui, sans-serif`;
    ctx.textBaseline = "top";
    ctx.lineWidth = devicePixelRatio;
    for (const mark of this.#marks) {
      const x = Math.round(plot.valToPos(mark.x, "x", true)) + 0.5;
      if (x < bbox.left || x > bbox.left + bbox.width) continue;
      ctx.beginPath(); ctx.moveTo(x, bbox.top); ctx.lineTo(x, bbox.top + bbox.height); ctx.stroke();
      const late = x > bbox.left + bbox.width / 2, gap = 4 * devicePixelRatio;
      ctx.textAlign = late ? "right" : "left";
      if (this.#marks.length <= 6) ctx.fillText(`attempt ${mark.attempt}`, late ? x - gap : x + gap, bbox.top + gap);
    }
    ctx.restore();
  }

  static #columns(chart) {
    return [chart.x, ...chart.series.flatMap(line => line.low ? [line.values, line.high, line.low] : [line.values])];
  }

  #draw(chart) {
    const box = document.createElement("figure"), caption = document.createElement("figcaption");
    box.className = "chart";
    caption.textContent = chart.title;
    box.append(caption);
    this.#root.append(box);
    const value = chart.of === "share" ? Curves.#percent : Curves.#figure, { colour } = Curves;
    const series = [{ label: "epoch", value: (_, x) => x == null ? "-" : String(x) }], bands = [];
    const points = { show: plot => plot.data[0].length < 2, size: 6 };
    chart.series.forEach((line, number) => {
      const own = `--c${line.colour ?? number}`;
      series.push({
        label: line.label, stroke: () => colour(own), width: 2, points, value: (_, y) => value(y), spanGaps: true,
        dash: line.label === "training" ? [6, 3] : undefined,
      });
      if (!line.low) return;
      const edge = { class: "band", stroke: "transparent", width: 0, points: { show: false } };
      series.push({ label: `${line.label}, above`, ...edge }, { label: `${line.label}, below`, ...edge });
      bands.push({ series: [series.length - 2, series.length - 1], fill: () => `${colour(own)}33` });
    });
    const axis = { stroke: () => colour("--soft"), grid: { stroke: () => colour("--grid"), width: 1 }, ticks: { stroke: () => colour("--grid"), width: 1 } };
    const ticks = (_, values) => values.map(y => chart.of === "share" ? `${+(100 * y).toFixed(2)}%` : +y.toPrecision(6));
    // Until somebody points at the curves the legend has the last epoch.
    const tellLast = plot => { if (plot.cursor.left == null || plot.cursor.left < 0) plot.setLegend({ idx: plot.data[0].length - 1 }); };
    const plot = new uPlot({
      width: Math.max(240, box.clientWidth), height: 260, series, bands,
      scales: { x: { time: false } },
      axes: [{ ...axis, incrs: [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000] }, { ...axis, size: 64, values: ticks }],
      cursor: { sync: { key: this.#sync.key }, drag: { x: true, y: false } },
      hooks: { draw: [one => this.#drawMarks(one)], ready: [tellLast] },
    }, Curves.#columns(chart), box);
    const canvas = plot.ctx.canvas;
    canvas.setAttribute("role", "img");
    const describe = () => canvas.setAttribute("aria-label", [`${chart.title} by epoch`, ...this.#marks.map(mark => mark.text)].join("; "));
    describe();
    const watcher = new ResizeObserver(() => {
      const width = Math.max(240, box.clientWidth);
      if (width !== plot.width) plot.setSize({ width, height: 260 });
    });
    watcher.observe(box);
    let shown = JSON.stringify([chart, this.#marks]);
    return {
      redraw: () => plot.redraw(false, true),
      remove: () => { watcher.disconnect(); plot.destroy(); box.remove(); },
      update: newer => {
        const text = JSON.stringify([newer, this.#marks]);
        if (text === shown) return;
        shown = text;
        plot.setData(Curves.#columns(newer));
        tellLast(plot);
        describe();
      },
    };
  }
}
