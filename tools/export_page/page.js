'use strict';

// The page: dreams steps at the chosen pace and shows them.

const element = (id) => document.getElementById(id);
const gumbel = () => -Math.log(-Math.log(1 - Math.random()));
const draws = (draw, count) => Array.from({ length: count }, draw);

/** Counts events of the last second. */
class Rate {
  constructor() {
    this.times = [];
  }

  count(now) {
    this.times.push(now);
  }

  value(now) {
    this.times = this.times.filter((time) => time > now - 1000);
    return this.times.length;
  }
}

/** The dream in progress. */
class Page {
  constructor(network) {
    this.network = network;
    this.canvas = element('frame').getContext('2d');
    if (!this.canvas) throw new Error('it cannot draw on a canvas');
    this.image = this.canvas.createImageData(FRAME_SIZE, FRAME_SIZE);
    this.controls = new Controls(() => this.takeWheel());
    this.stepRate = new Rate();
    this.frameRate = new Rate();
    this.cDrives = false;
    this.index = -1;
    this.listen();
    this.restart();
    this.last = performance.now();
    this.ratesShown = this.last;
    requestAnimationFrame((now) => this.animate(now));
  }

  listen() {
    element('drive').addEventListener('click', () => this.switchDriver());
    element('pause').addEventListener('click', () => this.switchPause());
    element('restart').addEventListener('click', () => this.restart());
    addEventListener('keydown', (event) => {
      if (event.ctrlKey || event.metaKey || event.altKey) return;
      if (event.repeat) return;
      const isButton = ['BUTTON', 'SUMMARY'].includes(event.target.tagName);
      const key = event.key.toLowerCase();
      if (key === 'c') this.switchDriver();
      else if (key === 'r') this.restart();
      else if (key === ' ' && !isButton) {
        event.preventDefault(); // It would scroll the page.
        this.switchPause();
      }
    });
    for (const id of ['temperature', 'pace']) {
      element(id).addEventListener('input', () => this.readSettings());
      // After the mouse has set it, the arrow keys drive again.
      element(id).addEventListener('pointerup', () => element(id).blur());
    }
    for (const id of ['drive', 'pause', 'restart']) {
      element(id).disabled = false;
    }
    this.readSettings();
  }

  readSettings() {
    this.temperature = +element('temperature').value;
    this.pace = +element('pace').value;
    element('temperature_value').textContent = this.temperature.toFixed(2);
    element('pace_value').textContent = `${this.pace} steps/s`;
  }

  /** Goes to another start state and waits there for a key or C. */
  restart() {
    const { network } = this;
    const others = network.numStarts - 1;
    // Any but the last one.
    const jump = 1 + Math.floor(Math.random() * Math.max(1, others));
    this.index = (this.index + jump) % network.numStarts;
    this.state = network.start(this.index);
    this.steps = 0;
    this.return = network.rewardBins.length ? 0 : null;
    this.due = 0;
    this.controls.reset();
    const driven = this.cDrives || this.controls.held.size > 0;
    this.enter(driven ? 'driving' : 'ready');
    this.show([0, 0, 0]);
  }

  enter(name) {
    this.mode = name;
    document.documentElement.dataset.state = name;
    element('pause').setAttribute('aria-pressed', name === 'paused');
    element('notice').textContent = {
      ready: 'Hold an arrow, here or on the keyboard, or let C drive.',
      driving: '',
      paused: 'Paused',
      ended: 'M expects the episode to end here. Take another start.',
    }[name];
  }

  takeWheel() {
    this.setDriver(false);
    if (this.mode === 'ready' || this.mode === 'paused') this.enter('driving');
  }

  switchDriver() {
    this.setDriver(!this.cDrives);
    if (!this.cDrives) return;
    if (this.mode === 'ended') this.restart();
    else this.enter('driving');
  }

  setDriver(cDrives) {
    this.cDrives = cDrives;
    element('drive').setAttribute('aria-pressed', cDrives);
    element('drive').textContent = cDrives ? 'C drives' : 'Let C drive';
  }

  switchPause() {
    if (this.mode === 'driving') this.enter('paused');
    else if (this.mode === 'paused') this.enter('driving');
  }

  animate(now) {
    requestAnimationFrame((next) => this.animate(next));
    // A hidden page gets no frames; it shall not catch up.
    const elapsed = Math.min(now - this.last, 100);
    this.last = now;
    if (this.mode === 'driving') {
      this.due += elapsed / 1000 * this.pace;
      let action = null;
      for (; this.due >= 1 && this.mode === 'driving'; this.due--) {
        action = this.step();
        this.stepRate.count(now);
      }
      if (action) {
        this.show(action);
        this.frameRate.count(now);
      }
    }
    if (now > this.ratesShown + 500) {
      this.ratesShown = now;
      element('rates').textContent = this.mode === 'driving'
        ? `Here: ${this.stepRate.value(now)} steps/s,` +
          ` ${this.frameRate.value(now)} frames/s.`
        : '';
    }
  }

  /** Dreams one step and returns the action. */
  step() {
    const { network } = this;
    const action =
      this.cDrives ? network.act(this.state) : this.controls.next();
    this.state = network.step(
      this.state, action, this.temperature,
      draws(gumbel, network.numMixtures * network.choices));
    this.steps++;
    if (this.return !== null) this.return += this.state.reward;
    // Likelier than this the episode counts as ended.
    if (this.state.termination > MODEL.likely_termination) this.enter('ended');
    return action;
  }

  show([steering, gas, brake]) {
    this.image.data.set(this.network.decode(this.state.z));
    this.canvas.putImageData(this.image, 0, 0);
    element('return').textContent =
      this.return === null ? 'not predicted' : this.return.toFixed(1);
    element('steps').textContent = this.steps;
    for (const [id, value] of Object.entries({ steering, gas, brake })) {
      element(id).style.transform = `scaleX(${value.toFixed(3)})`;
    }
  }
}

const network = new Network(MODEL);
element('digests').textContent = Object.entries(MODEL.digests)
  .map(([part, sha256]) => `${part} ${sha256}`).join(', ');
// For the console, and for the tests, which compare a step with Python's.
window.dream = {
  network,
  page: new Page(network),
  step: (z, cell, hidden, action, gumbel, temperature = 1) =>
    network.step({ z, cell, hidden }, action, temperature, gumbel),
};
