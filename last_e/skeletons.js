// A clip of moving skeletons on a canvas: played, stopped, looked through with a slider, turned by dragging.
class SkeletonPlayer {
  // root: holds a canvas, a button, a slider (input) and an output.
  // clip: joints[person][frame][joint] = [x, y, z]; bones as [child, parent]; right, head: joints; turn: radians; fps. null: none yet.
  constructor(root, clip, playing = true, colours = [["#2b7bd6", "#123f73"], ["#e8852b", "#8a4510"]]) {
    this.canvas = root.querySelector("canvas");
    this.pen = this.canvas.getContext("2d");
    this.button = root.querySelector("button");
    this.slider = root.querySelector("input");
    this.shown = root.querySelector("output");
    this.colours = colours;
    this.visible = true;

    this.button.onclick = () => this.play(!this.playing);
    this.slider.oninput = () => { this.play(false); this.draw(+this.slider.value); };
    this.canvas.onpointermove = event => {
      if (!event.buttons) return;
      this.turn += event.movementX / 150;
      this.tilt += event.movementY / 150;
      if (!this.playing) this.draw(+this.slider.value);
    };
    if (clip) this.show(clip, playing);
    requestAnimationFrame(now => this.tick(now));
  }

  // Another clip, from its beginning.
  show(clip, playing = true) {
    this.clip = clip;
    this.frames = clip.joints[0].length;
    this.slider.max = this.frames - 1;
    this.slider.value = 0;

    // The middle and the extent of everything that is ever shown, so that the picture does not jump.
    const all = clip.joints.flat(2);
    this.middle = [0, 1, 2].map(axis => {
      const values = all.map(point => point[axis]);
      return (values.reduce((a, b) => Math.min(a, b)) + values.reduce((a, b) => Math.max(a, b))) / 2;
    });
    const far = (most, p) => Math.max(most, Math.hypot(...p.map((value, axis) => value - this.middle[axis])));
    this.scale = 0.47 * Math.min(this.canvas.width, this.canvas.height) / all.reduce(far, 1);
    this.right = new Set(clip.right);
    this.turn = clip.turn;
    this.tilt = 0;
    this.play(playing);
    if (!playing) this.draw(Math.floor(this.frames / 2));
  }

  play(playing) {
    this.playing = playing;
    this.began = performance.now() - this.slider.value / this.clip.fps * 1000;
    this.button.textContent = playing ? "Pause" : "Play";
  }

  place(point) {
    const [x, y, z] = [0, 1, 2].map(axis => point[axis] - this.middle[axis]);
    const u = x * Math.cos(this.turn) + z * Math.sin(this.turn), depth = z * Math.cos(this.turn) - x * Math.sin(this.turn);
    const v = y * Math.cos(this.tilt) - depth * Math.sin(this.tilt);
    return [this.canvas.width / 2 + u * this.scale, this.canvas.height / 2 - v * this.scale];
  }

  draw(frame) {
    const { pen, canvas, clip } = this, thick = canvas.height / 135;
    pen.clearRect(0, 0, canvas.width, canvas.height);
    pen.lineCap = "round";
    clip.joints.forEach((person, number) => {
      const points = person[frame].map(point => this.place(point));
      for (const [child, parent] of clip.bones) {
        pen.strokeStyle = pen.fillStyle = this.colours[number % this.colours.length][this.right.has(child) ? 1 : 0];
        pen.lineWidth = thick;
        pen.beginPath(); pen.moveTo(...points[parent]); pen.lineTo(...points[child]); pen.stroke();
        pen.beginPath(); pen.arc(...points[child], child === clip.head ? 2.75 * thick : thick, 0, 7); pen.fill();
      }
    });
    this.slider.value = frame;
    this.shown.textContent = `${frame + 1} / ${this.frames}`;
  }

  tick(now) {
    if (this.clip && this.playing && this.visible) {
      // A browser gives the time at which its frame began: the first may have begun before this script did.
      this.draw(Math.floor(Math.max(0, now - this.began) / 1000 * this.clip.fps) % this.frames);
    }
    requestAnimationFrame(time => this.tick(time));
  }
}
