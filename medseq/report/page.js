"use strict";

// Half a second each: slow enough for everybody's eyes, fast enough to see what moves between two pictures.
const FLICKER_MS = 500;

class Player {
  constructor(figure) {
    this.figure = figure;
    this.times = JSON.parse(figure.dataset.times);
    this.loop = Number(figure.dataset.loop);
    this.frame = Number(figure.dataset.still);
    this.clock = this.times[this.frame];
    this.playing = false;
    this.swapped = false;
    this.panels = [...figure.querySelectorAll(".panel")].map((panel) => this.prepared(panel));
    this.play = figure.querySelector(".play");
    this.scrub = figure.querySelector(".scrub");
    this.output = figure.querySelector(".clock");
    this.speed = figure.querySelector(".speed");
    this.flicker = figure.querySelector(".flicker");
    this.sides = [...figure.querySelectorAll(".side")];
    this.profiles = [...figure.closest("section").querySelectorAll(".cursor")];
    figure.querySelector(".controls").hidden = false;
    this.listen();
    this.show();
  }

  // The still makes room for a canvas of its size; that a sheet is not decoded yet costs no more than a moment.
  prepared(panel) {
    const still = panel.querySelector(".still");
    const sheet = panel.querySelector(".sheet");
    const canvas = document.createElement("canvas");
    canvas.width = Number(still.getAttribute("width"));
    canvas.height = Number(still.getAttribute("height"));
    canvas.setAttribute("role", "img");
    const name = panel.querySelector(".name");
    const title = name.textContent;
    canvas.setAttribute("aria-label", title);
    still.before(canvas);
    still.hidden = true;
    for (const image of [still, sheet, panel.querySelector(".bar img")]) image?.decode().then(() => this.show());
    return { canvas, still, sheet, columns: Number(panel.dataset.columns), bar: panel.querySelector(".bar img"), name, title };
  }

  listen() {
    this.play?.addEventListener("click", () => this.toggle());
    this.scrub?.addEventListener("input", () => this.seek(Number(this.scrub.value)));
    this.flicker?.addEventListener("click", () => this.compare());
    for (const side of this.sides) side.addEventListener("change", () => this.show());
    this.figure.addEventListener("keydown", (event) => this.press(event));
  }

  press(event) {
    const tag = event.target.tagName;
    if (event.ctrlKey || event.metaKey || event.altKey || tag === "SELECT" || tag === "BUTTON" && event.key === " ") return;
    const last = this.times.length - 1;
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (event.key === " " && this.play) this.toggle();
    else if (step && last) this.seek((this.frame + step + last + 1) % (last + 1));
    else if (event.key === "Home") this.seek(0);
    else if (event.key === "End") this.seek(last);
    else if (event.key.toLowerCase() === "f" && this.flicker) this.compare();
    else return;
    event.preventDefault();
  }

  toggle(on = !this.playing) {
    this.playing = on;
    this.play.textContent = on ? "Pause" : "Play";
    this.play.setAttribute("aria-label", on ? "Pause" : "Play");
    if (!on) return;
    let before = null;
    const tick = (now) => {
      if (!this.playing) return;
      this.clock = (this.clock + (now - (before ?? now)) / 1000 * Number(this.speed.value)) % this.loop;
      before = now;
      const frame = this.times.findLastIndex((time) => time <= this.clock);
      if (frame !== this.frame) this.show(frame);
      requestAnimationFrame(tick);
    };
    requestAnimationFrame(tick);
  }

  seek(frame) {
    if (this.playing) this.toggle(false);
    this.clock = this.times[frame];
    this.show(frame);
  }

  compare() {
    const on = this.flicker.getAttribute("aria-pressed") !== "true";
    this.flicker.setAttribute("aria-pressed", String(on));
    clearInterval(this.alternating);
    this.swapped = false;
    if (on) this.alternating = setInterval(() => { this.swapped = !this.swapped; this.show(); }, FLICKER_MS);
    this.show();
  }

  // While two panels flicker, the place of the first shows both by turns, and its title says which.
  source(place) {
    const [one, other] = this.sides.map((side) => Number(side.value));
    if (!this.swapped || place !== one) return this.panels[place];
    return this.panels[other];
  }

  show(frame = this.frame) {
    this.frame = frame;
    this.panels.forEach((panel, place) => {
      const source = this.source(place);
      this.draw(panel.canvas, source);
      panel.name.textContent = source.title;
    });
    if (!this.scrub) return;
    this.scrub.value = String(frame);
    const said = `${this.times[frame].toFixed(2)} s · ${frame + 1} of ${this.times.length}`;
    this.scrub.setAttribute("aria-valuetext", said);
    this.output.textContent = said;
    for (const cursor of this.profiles) {
      cursor.hidden = false;
      cursor.style.left = `${100 * this.times[frame] / this.loop}%`;
    }
  }

  draw(canvas, { still, sheet, columns, bar }) {
    const { width, height } = canvas;
    const source = sheet ?? still;
    if (!source.complete || !bar.complete) return;
    const place = sheet ? this.frame : 0;
    const [x, y] = [place % columns * width, Math.floor(place / columns) * height];
    const context = canvas.getContext("2d", { willReadFrequently: true });
    context.drawImage(source, x, y, width, height, 0, 0, width, height);
    if (sheet && bar.dataset.colours !== "grey") colour(context, bar, width, height);
  }
}

// Sheets hold levels of grey; the colour bar has one pixel for each of them.
function colour(context, bar, width, height) {
  const table = colourTable(bar);
  const image = context.getImageData(0, 0, width, height);
  const pixels = new Uint32Array(image.data.buffer);
  for (let i = 0; i < pixels.length; i++) pixels[i] = table[pixels[i] & 255];
  context.putImageData(image, 0, 0);
}

const tables = new Map();
function colourTable(bar) {
  const name = bar.dataset.colours;
  if (!tables.has(name)) {
    const canvas = document.createElement("canvas");
    canvas.width = bar.naturalWidth;
    canvas.height = 1;
    const context = canvas.getContext("2d");
    context.drawImage(bar, 0, 0);
    tables.set(name, new Uint32Array(context.getImageData(0, 0, canvas.width, 1).data.buffer));
  }
  return tables.get(name);
}

const players = [...document.querySelectorAll(".players")].map((figure) => new Player(figure));
const first = players.find((player) => player.play);
if (first && !matchMedia("(prefers-reduced-motion: reduce)").matches) first.toggle(true);
