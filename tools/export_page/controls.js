'use strict';

// What is held down, keys or pedals on the screen → a smooth action.

const KEYS = ['ArrowLeft', 'ArrowRight', 'ArrowUp', 'ArrowDown'];
const LETTERS = {
  a: 'ArrowLeft',
  d: 'ArrowRight',
  w: 'ArrowUp',
  s: 'ArrowDown',
};
// Change per step: a tap nudges the wheel, a held key turns it fully.
const TURN = 0.2;
const RETURN = 0.4;
const PRESS = 0.2;
const RELEASE = 0.5;

/** The held keys and pedals, and the action that follows from them. */
class Controls {
  constructor(onPress) {
    this.held = new Map(); // Arrow → what holds it: keys or pointer ids.
    this.onPress = onPress;
    this.pedals = new Map();
    for (const pedal of document.querySelectorAll('.pedal')) {
      this.pedals.set(pedal.dataset.key, pedal);
      this.listenToPedal(pedal);
    }
    addEventListener('keydown', (event) => {
      const key = arrowOf(event);
      if (!KEYS.includes(key) || isTaken(event)) return;
      event.preventDefault(); // The arrows would scroll the page.
      if (!event.repeat) this.press(key, event.key.toLowerCase());
    });
    addEventListener('keyup', (event) =>
      this.release(arrowOf(event), event.key.toLowerCase()));
    // Keys that are released in another window send no event here.
    addEventListener('blur', () => this.releaseAll());
    this.reset();
  }

  listenToPedal(pedal) {
    const { key } = pedal.dataset;
    pedal.addEventListener('pointerdown', (event) => {
      if (event.button !== 0) return;
      event.preventDefault(); // The stage keeps the focus.
      pedal.setPointerCapture(event.pointerId);
      this.press(key, event.pointerId);
    });
    for (const type of ['pointerup', 'pointercancel', 'lostpointercapture']) {
      pedal.addEventListener(type, (event) =>
        this.release(key, event.pointerId));
    }
    pedal.addEventListener('contextmenu', (event) => event.preventDefault());
    // A focused pedal is held with the keys that press any button.
    pedal.addEventListener('keydown', (event) => {
      if (event.key !== ' ' && event.key !== 'Enter') return;
      event.preventDefault();
      event.stopPropagation();
      if (!event.repeat) this.press(key, event.key);
    });
    pedal.addEventListener('keyup', (event) => this.release(key, event.key));
    pedal.addEventListener('blur', () => {
      this.release(key, ' ');
      this.release(key, 'Enter');
    });
  }

  press(key, holder) {
    if (!this.held.has(key)) this.held.set(key, new Set());
    this.held.get(key).add(holder);
    this.show(key);
    this.onPress();
  }

  release(key, holder) {
    const holders = this.held.get(key);
    if (!holders) return;
    holders.delete(holder);
    if (!holders.size) this.held.delete(key);
    this.show(key);
  }

  releaseAll() {
    this.held.clear();
    KEYS.forEach((key) => this.show(key));
  }

  show(key) {
    this.pedals.get(key).classList.toggle('held', this.held.has(key));
  }

  reset() {
    this.action = [0, 0, 0];
  }

  /** Moves the wheel and the pedals for one step and returns the action. */
  next() {
    const [left, right, up, down] = KEYS.map((key) => +this.held.has(key));
    const [steering, gas, brake] = this.action;
    const target = right - left;
    const turns = target !== 0 && target * steering >= 0;
    this.action = [
      approach(steering, target, turns ? TURN : RETURN),
      approach(gas, up, up ? PRESS : RELEASE),
      approach(brake, down, down ? PRESS : RELEASE),
    ];
    return this.action;
  }
}

/** Returns the arrow that a key stands for, or the key. */
function arrowOf(event) {
  return LETTERS[event.key.toLowerCase()] ?? event.key;
}

/** Tells whether an arrow sets a slider or is a shortcut of the browser. */
function isTaken(event) {
  return event.target instanceof HTMLInputElement ||
    event.altKey || event.ctrlKey || event.metaKey;
}

function approach(value, target, change) {
  return value + Math.max(-change, Math.min(change, target - value));
}
