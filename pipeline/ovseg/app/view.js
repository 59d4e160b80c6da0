// Draws an image with the labels of each model, and one legend for all. `props.value` is what view.py describes.
// Every text is inserted as a text node, never as markup, because a word may contain anything.
const make = (tag, attributes, ...children) => {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
};
const percent = (x) => (x === undefined ? "–" : x < 0.01 ? "<1\u00a0%" : Math.round(100 * x) + "\u00a0%");
const load = (url) => new Promise((resolve, reject) => {
  const image = new Image();
  image.onload = () => resolve(image);
  image.onerror = reject;
  image.src = url;
});

let pinned = null; // the class that stays highlighted after a click on the legend
let drawn = 0; // the last drawing that was begun: an older one that ends later is not shown

function labelsOf(image) {
  const canvas = make("canvas", { width: image.width, height: image.height });
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.drawImage(image, 0, 0);
  const { data } = context.getImageData(0, 0, image.width, image.height);
  return Uint16Array.from({ length: data.length / 4 }, (_, i) => data[4 * i] + 256 * data[4 * i + 1]);
}

// Colors the classes, with a line between them; only the class `only` if it is given.
function paint(canvas, labels, classes, only) {
  const context = canvas.getContext("2d");
  const pixels = context.createImageData(canvas.width, canvas.height);
  const { width } = canvas;
  for (let i = 0; i < labels.length; i++) {
    const label = labels[i];
    const border = (i % width && labels[i - 1] !== label) || (i >= width && labels[i - width] !== label);
    const [red, green, blue] = border ? [255, 255, 255] : classes[label].color;
    pixels.data.set([red, green, blue, only === null || only === label ? 255 : 0], 4 * i);
  }
  context.putImageData(pixels, 0, 0);
}

async function draw() {
  const value = props.value, turn = ++drawn;
  const root = element.querySelector(".view");
  if (!value || !value.models) {
    root.replaceChildren(make("p", { class: "empty" }, "Drop an image and type words: the answer appears here."));
    return;
  }
  const images = await Promise.all(value.models.map((model) => load(model.labels)));
  if (turn !== drawn) return;
  const layers = images.map((image) => ({
    canvas: make("canvas", { width: image.width, height: image.height, "aria-hidden": "true" }),
    labels: labelsOf(image),
  }));
  const highlight = (only) => layers.forEach(({ canvas, labels }) => paint(canvas, labels, value.classes, only));
  const found = new Map(); // label -> its record of each model
  value.models.forEach((model, m) => model.found.forEach((one) => {
    if (!found.has(one.label)) found.set(one.label, []);
    found.get(one.label)[m] = one;
  }));
  if (!found.has(pinned)) pinned = null;

  const figures = value.models.map((model, m) => {
    const words = model.found.map((one) => `${value.classes[one.label].name} ${percent(one.fraction)}`).join(", ");
    const picture = make("img", { src: value.image, alt: `The image, segmented by ${model.name}: ${words}` });
    const { canvas } = layers[m];
    canvas.addEventListener("click", (event) => {
      const box = canvas.getBoundingClientRect();
      const x = Math.floor((event.clientX - box.left) / box.width * value.width);
      const y = Math.floor((event.clientY - box.top) / box.height * value.height);
      trigger("pick", { x, y });
    });
    canvas.addEventListener("mousemove", (event) => {
      const box = canvas.getBoundingClientRect();
      const column = Math.min(canvas.width - 1, Math.floor((event.clientX - box.left) / box.width * canvas.width));
      const row = Math.min(canvas.height - 1, Math.floor((event.clientY - box.top) / box.height * canvas.height));
      canvas.title = value.classes[layers[m].labels[row * canvas.width + column]]?.name ?? "";
    });
    const stack = make("div", { class: "stack" }, picture, canvas);
    return make("figure", {}, make("figcaption", {}, model.name), stack);
  });

  const entries = [...found].map(([label, records]) => {
    const { name, color } = value.classes[label];
    const fractions = value.models.map((_, m) => percent(records[m]?.fraction));
    const button = make("button", { type: "button", class: "entry", "aria-pressed": String(label === pinned) },
      make("i", { style: `background: rgb(${color})`, "aria-hidden": "true" }), make("b", {}, name),
      make("span", { title: value.models.map((model) => model.name).join(" | ") }, fractions.join(" | ")));
    button.addEventListener("mouseenter", () => highlight(label));
    button.addEventListener("mouseleave", () => highlight(pinned));
    button.addEventListener("focus", () => highlight(label));
    button.addEventListener("blur", () => highlight(pinned));
    button.addEventListener("click", () => {
      pinned = pinned === label ? null : label;
      for (const other of legend.querySelectorAll("button")) {
        other.setAttribute("aria-pressed", String(other === button && pinned === label));
      }
      highlight(pinned === null ? null : label);
      const record = records.find((one) => one);
      trigger("pick", { x: record.x, y: record.y });
    });
    return make("li", {}, button);
  });
  const legend = make("ul", { class: "legend", "aria-label": "Classes, and their fraction of the image" }, ...entries);
  highlight(pinned);
  root.replaceChildren(make("div", { class: "figures" }, ...figures), legend);
}

watch("value", draw);
draw();
