// The number beside a slider takes only the slider's own positions. What is typed on the way to one ("", "0" for "0.3"), and what
// lies between two, is not asked of the models; when the box is left, the number before comes back.
() => {
  const boxes = 'input[type="number"][aria-label^="number input for"]';
  let before = "";
  const on = (type, act) => document.addEventListener(type, (event) => {
    if (event.target.matches?.(boxes)) act(event.target, event);
  }, true);
  const taken = (box) => box.value !== "" && box.validity.valid; // `valid` knows the slider's ends and its step
  on("focusin", (box) => { before = box.value; });
  on("input", (box, event) => {
    if (taken(box)) before = box.value;
    else event.stopPropagation();
  });
  on("focusout", (box) => {
    if (!taken(box)) box.value = before;
  });
}
