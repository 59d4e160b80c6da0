// The cards of a page of pairs; `props.value` is {cards: [...]}. Every text is inserted as a text node, never as markup.
const make = (tag, attributes, ...children) => {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
};
const fixed = (x) => (x === null ? "-" : x.toFixed(3));

function makeCard(card) {
  const [before, marked, after] = card.caption;
  const caption = marked ? [before, make("mark", {}, marked), after] : ["Annotated mask without a caption"];
  const box = make("input", { type: "checkbox" });
  box.checked = card.wrong;
  const item = make("li", { class: card.wrong ? "wrong" : "" },
    make("img", { src: "data:image/jpeg;base64," + card.jpeg, alt: `Image ${card.image}, the mask of “${card.noun}” outlined` }),
    make("p", { class: "noun" }, card.noun), make("p", {}, ...caption),
    make("p", {}, `similarity\u00a0${fixed(card.similarity)}, margin\u00a0${fixed(card.margin)}, area\u00a0${(100 * card.area).toFixed(1)}\u00a0%`),
    make("label", {}, box, "wrong pair"));
  box.addEventListener("change", () => {
    item.className = box.checked ? "wrong" : "";
    trigger("mark", { pair: card.pair, wrong: box.checked });
  });
  return item;
}

function draw() {
  const cards = (props.value && props.value.cards) || [];
  element.querySelector(".cards").replaceChildren(make("ul", {}, ...cards.map(makeCard)));
}
watch("value", draw);
draw();
